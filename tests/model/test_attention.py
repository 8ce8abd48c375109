"""The attention kernel: flash-attention 2 where it can run, SDPA otherwise, one clear error where it was asked for."""

from __future__ import annotations

import pytest
import torch

from exo2ego.errors import ConfigError
from exo2ego.model import attention as attention_module
from exo2ego.model.attention import choose_attention
from tests.tiny_models import STAGE2, random_ids, random_pixels, tiny_model, tiny_options


def machine(monkeypatch: pytest.MonkeyPatch, *, package: bool, gpu: bool, capability: tuple[int, int] = (9, 0)) -> None:
    monkeypatch.setattr(attention_module.importlib.util, "find_spec", lambda name: object() if package else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)


def test_flash_attention_where_it_can_run(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, package=True, gpu=True)
    options, words = choose_attention(tiny_options(), "bf16")
    assert (options.attention, words) == ("flash_attention_2", "flash_attention_2")
    assert choose_attention(tiny_options(attention="sdpa"), "bf16")[0].attention == "sdpa"


@pytest.mark.parametrize(
    ("package", "gpu", "capability", "precision", "obstacle"),
    [
        (False, True, (9, 0), "bf16", "flash-attn is not installed"),
        (True, False, (9, 0), "bf16", "there is no GPU"),
        (True, True, (7, 5), "bf16", "older than Ampere"),
        (True, True, (9, 0), "fp32", "precision is fp32"),
    ],
)
def test_sdpa_otherwise(
    monkeypatch: pytest.MonkeyPatch,
    package: bool,
    gpu: bool,
    capability: tuple[int, int],
    precision: str,
    obstacle: str,
) -> None:
    machine(monkeypatch, package=package, gpu=gpu, capability=capability)
    options, words = choose_attention(tiny_options(), precision)
    assert options.attention == "sdpa"
    assert obstacle in words
    with pytest.raises(ConfigError, match=f"flash_attention_2 cannot be used: .*{obstacle}.*exo2ego"):
        choose_attention(tiny_options(attention="flash_attention_2"), precision)


@torch.no_grad()
def test_kernels_agree() -> None:
    """SDPA against the plain formula, as flash-attention cannot run on a CPU."""
    logits = []
    for kernel in ("sdpa", "eager", None):
        model = tiny_model(STAGE2, attention=kernel)
        ids = random_ids(model)
        logits.append(model(input_ids=ids, pixel_values_videos=random_pixels(2), view="ego").logits)
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-4)
    assert torch.equal(logits[0], logits[2])  # none named is SDPA
