"""The fingerprint of weights: the same for the same numbers wherever they lie, another for any changed bit."""

from __future__ import annotations

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from exo2ego.model.identity import BLOCK_WORDS, weights_identity

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8)


def drawn(size: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-100, 100, (size,), generator=generator).to(dtype)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 300), dtype=st.sampled_from(DTYPES), data=st.data())
def test_any_changed_bit_is_seen(size: int, dtype: torch.dtype, data: st.DataObject) -> None:
    tensor = drawn(size, dtype)
    changed = tensor.clone()
    raw = changed.view(torch.uint8)
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    assert weights_identity({"a": changed}) != weights_identity({"a": tensor})
    assert weights_identity({"a": tensor.clone()}) == weights_identity({"a": tensor})


def test_name_type_shape_and_place_count() -> None:
    tensor = drawn(12, torch.float32)
    identity = weights_identity({"a": tensor})
    assert weights_identity({"b": tensor}) != identity
    assert weights_identity({"a": tensor.view(3, 4)}) != identity
    assert weights_identity({"a": tensor.bfloat16()}) != identity
    assert weights_identity({"a": tensor, "b": tensor}) != identity
    blocks = drawn(4 * BLOCK_WORDS, torch.int64)
    swapped = torch.cat((blocks[2 * BLOCK_WORDS :], blocks[: 2 * BLOCK_WORDS]))
    assert weights_identity({"a": swapped}) != weights_identity({"a": blocks})


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 12), width=st.integers(1, 40), dtype=st.sampled_from(DTYPES), data=st.data())
def test_the_order_of_rows_counts(rows: int, width: int, dtype: torch.dtype, data: st.DataObject) -> None:
    tensor = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).mul(1000).to(dtype)
    changed = tensor[data.draw(st.permutations(range(rows)))]
    same = torch.equal(changed, tensor)
    assert (weights_identity({"a": changed}) == weights_identity({"a": tensor})) == same


def test_rows_of_a_whole_block_and_columns_count_too() -> None:
    tensor = drawn(BLOCK_WORDS + 8, torch.int64).view(-1, 8)
    identity = weights_identity({"a": tensor})
    assert weights_identity({"a": tensor.flip(0)}) != identity
    assert weights_identity({"a": torch.cat((tensor[[1, 0]], tensor[2:]))}) != identity
    assert weights_identity({"a": tensor.roll(1, dims=1)}) != identity


def test_it_does_not_depend_on_memory_or_file_layout(tmp_path: Path) -> None:
    tensor = drawn(24, torch.bfloat16).view(4, 6)
    identity = weights_identity({"a": tensor})
    assert weights_identity({"a": tensor.t().contiguous().t()}) == identity
    # an odd number of bytes before it in the file
    save_file({"a": tensor, "0": torch.zeros(3, dtype=torch.uint8)}, tmp_path / "weights.safetensors")
    with safe_open(str(tmp_path / "weights.safetensors"), framework="pt") as stream:
        assert weights_identity({"a": stream.get_tensor("a")}) == identity
    assert weights_identity({"a": torch.zeros(0)}) == weights_identity({"a": torch.zeros(0)})
    assert weights_identity({"a": torch.tensor(1.0)}) != weights_identity({"a": torch.tensor(2.0)})
