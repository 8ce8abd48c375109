"""The counted cost of a forward pass against what really happens on the CPU: operations, kept bytes, peak bytes."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from exo2ego.model.cost import Trace, trace_cost
from exo2ego.model.recomputation import Recomputing
from scripts.bench.live_bytes import LiveBytes


class Chain(Recomputing):
    """Blocks that can be recomputed one by one."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, value: Tensor) -> Tensor:
        """Runs the blocks."""
        return self.run(self.blocks.children(), value)


class Attention(nn.Module):
    """Self-attention with two heads on [B, S, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, value: Tensor) -> Tensor:
        """Attends."""
        query, key, given = self.project(value).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, given)
        return self.out(attended.transpose(1, 2).flatten(2))


def residual_block() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(16, 32), (4, 8, 16)),
    "attention": (Attention, (4, 8, 16)),
    "convolution": (lambda: nn.Conv2d(8, 12, 3, stride=2, padding=1), (4, 8, 10, 10)),
    "volume": (lambda: nn.Conv3d(8, 12, 2, stride=2, padding=1), (2, 8, 4, 6, 6)),
    "up-convolution": (lambda: nn.ConvTranspose2d(8, 6, 3, 2, padding=1, output_padding=1), (4, 8, 6, 6)),
    "blocks": (lambda: Chain(residual_block(), Attention(), residual_block()), (4, 8, 16)),
}


def counted(build: Callable[[], nn.Module], shape: tuple[int, ...], frozen: bool, needs: bool, again: bool) -> Trace:
    with torch.device("meta"):
        module = prepared(build(), frozen, again)
        value = torch.empty(shape, requires_grad=needs)
    return trace_cost(module, lambda: module(value).sum(), part_of={"": "all"}, inputs=[value])


def prepared(module: nn.Module, frozen: bool, again: bool) -> nn.Module:
    module.requires_grad_(not frozen)
    if isinstance(module, Recomputing):
        module.gradient_checkpointing = again
    return module


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize(("frozen", "needs"), [(True, True), (False, False), (False, True)])
@pytest.mark.parametrize("name", MODULES)
def test_operations_are_those_of_the_flop_counter(name: str, frozen: bool, needs: bool, again: bool) -> None:
    """Exact: both count products alone; none of these is a depthwise convolution, which torch counts too high."""
    build, shape = MODULES[name]
    trace = counted(build, shape, frozen, needs, again)
    module = prepared(build(), frozen, again)
    value = torch.randn(shape, requires_grad=needs)
    with sdpa_kernel(SDPBackend.MATH):  # a fused backward pass computes the scores again, which is no model FLOP
        with FlopCounterMode(display=False) as forward:
            total = module(value).sum()
        with FlopCounterMode(display=False) as backward:
            total.backward()
    assert trace.flops("forward_flops") == forward.get_total_flops()
    both = forward.get_total_flops() + backward.get_total_flops()
    assert trace.flops("model_flops") + trace.flops("recomputed_flops") == both
    assert (trace.flops("recomputed_flops") > 0) == (again and name == "blocks")


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_kept_bytes_are_those_that_autograd_saves(name: str, frozen: bool) -> None:
    build, shape = MODULES[name]
    trace = counted(build, shape, frozen, needs=True, again=False)
    module, value, saved = prepared(build(), frozen, False), torch.randn(shape, requires_grad=True), {}
    given = {tensor.untyped_storage()._cdata for tensor in (value, *module.parameters())}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in given:
            saved[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        total = module(value).sum()
    assert trace.kept_bytes == sum(storage.nbytes() for storage in saved.values())
    del total


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_the_peak_is_near_the_measured_one(again: bool) -> None:
    """Within 10 %: autograd frees a little earlier or later than the model of it."""
    blocks, shape = 12, (8, 64, 16)

    def build() -> nn.Module:
        return Chain(*(residual_block() for _ in range(blocks)))

    trace = counted(build, shape, frozen=False, needs=True, again=again)
    module, value = prepared(build(), False, again), torch.randn(shape, requires_grad=True)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    value.grad = torch.zeros_like(value)
    gc.collect()
    with LiveBytes() as live:
        module(value).sum().backward()
    assert trace.peak_bytes - trace.input_bytes == pytest.approx(live.peak, rel=0.1)
    kept = trace.kept_bytes / (blocks * value.nbytes)
    assert kept == pytest.approx(1, rel=0.1) if again else kept > 5


def test_recomputation_stops_at_the_last_tensor_that_is_saved() -> None:
    """A frozen last product needs no input for its gradient: torch does not run it again, and neither is it counted."""
    shape = (4, 8, 16)
    for frozen in (True, False):
        trace = counted(lambda: Chain(residual_block()), shape, frozen, needs=True, again=True)
        first = 2 * 4 * 8 * 16 * 64
        assert trace.flops("recomputed_flops") == first


def test_nothing_without_a_gradient_is_counted_twice_or_kept() -> None:
    build, shape = MODULES["blocks"]
    trace = counted(build, shape, frozen=True, needs=False, again=True)
    assert trace.flops("model_flops") == trace.flops("forward_flops") > 0
    assert (trace.flops("recomputed_flops"), trace.kept_bytes) == (0, 0)


def test_parts_are_told_apart_and_adapters_are_their_own_part() -> None:
    with torch.device("meta"):
        model = nn.ModuleDict({"first": nn.Linear(8, 8), "second": nn.Linear(8, 4)})
        model["first"].lora_A = nn.Linear(8, 2, bias=False)
        value = torch.empty(3, 8)

    def run() -> Tensor:
        return model["second"](model["first"](value)) + model["first"].lora_A(value).sum()

    parts = trace_cost(model, run, part_of={"first": "a", "second": "b"}).parts
    assert {name: part.forward_flops for name, part in parts.items()} == {"a": 384, "b": 192, "lora": 96}


def test_bf16_casts_are_those_of_autocast_on_cuda() -> None:
    """Copies of trained weights, half-size products, float32 norms: counted by hand."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.LayerNorm(16), nn.Linear(16, 16, bias=False))
        model[2].requires_grad_(False).to(torch.bfloat16)
        value = torch.empty(4, 16)
    trace = trace_cost(model, lambda: model(value).sum(), part_of={"": "all"}, precision="bf16")
    elements = 4 * 16
    assert trace.weight_copies_bytes == 16 * 16 * 2  # of the trained one alone
    # bf16 input of the product; float32 copy of its result for the norm, whose mean and deviation are float32 too
    assert trace.kept_bytes == elements * 2 + elements * 4 + 2 * 4 * 4


def autocast_operations(device: str) -> dict[str, Callable[[], Tensor]]:
    """Operations of towers, connectors, mappers, language models and losses, on tensors of both kinds."""
    low = torch.empty(4, 16, 16, device=device, dtype=torch.bfloat16)
    high, weight, scale = torch.empty(4, 16, 16, device=device), torch.empty(16, 16, device=device), low[0, 0].float()
    kernel, target = torch.empty(8, 16, 3, device=device), torch.empty(16, dtype=torch.long, device=device)
    return {
        "linear": lambda: functional.linear(high, weight),
        "product": lambda: high @ weight,
        "batched product": lambda: torch.bmm(high, high),
        "convolution": lambda: functional.conv1d(high, kernel),
        "attention": lambda: functional.scaled_dot_product_attention(high[None], high[None], high[None]),
        "layer norm": lambda: functional.layer_norm(low, (16,), scale, scale),
        "root mean square norm": lambda: functional.rms_norm(low, (16,), scale),
        "group norm": lambda: functional.group_norm(low, 4),
        "instance norm": lambda: functional.instance_norm(low),
        "power": lambda: low.pow(2),
        "root": lambda: low.rsqrt(),
        "softmax": lambda: functional.softmax(low, -1),
        "log softmax": lambda: functional.log_softmax(low, -1),
        "cross-entropy": lambda: functional.cross_entropy(low[0], target),
        "absolute": lambda: functional.l1_loss(low, low),
        "exponential": lambda: low.exp(),
        "logarithm": lambda: low.log(),
        "sum": lambda: low.sum(),
        "mean": lambda: low.mean(),
        "variance": lambda: low.var(),
        "sigmoid": lambda: torch.sigmoid(low),
        "gelu": lambda: functional.gelu(low),
        "silu": lambda: functional.silu(low),
        "interpolation": lambda: functional.interpolate(low[None], size=(8, 8), mode="bilinear"),
        "joined": lambda: torch.cat((low, high)),
    }


def test_every_operation_has_the_precision_that_autocast_gives_it_on_cuda() -> None:
    """Against autocast itself, on tensors that only pretend to be on a GPU."""
    was = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)  # the context manager would look for a GPU
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        with FakeTensorMode():
            expected = {name: run().dtype for name, run in autocast_operations("cuda").items()}
    finally:
        torch.set_autocast_enabled("cuda", was[0])
        torch.set_autocast_dtype("cuda", was[1])
    found: dict[str, torch.dtype] = {}
    operations = autocast_operations("meta")

    def run_all() -> None:
        found.update({name: run().dtype for name, run in operations.items()})

    trace_cost(nn.Identity(), run_all, part_of={}, precision="bf16")
    assert found == expected


def test_a_model_that_computes_with_values_is_refused() -> None:
    with torch.device("meta"):
        model, value = nn.Linear(4, 4), torch.empty(2, 4)

    def run() -> Any:
        return model(value) if float(value.sum()) > 0 else value

    with pytest.raises(RuntimeError, match="meta"):
        trace_cost(model, run, part_of={})


def test_the_model_is_as_before_afterwards() -> None:
    with torch.device("meta"):
        chain, value = prepared(Chain(nn.Linear(4, 4)), False, True), torch.empty(2, 4)
    trace_cost(chain, lambda: chain(value).sum(), part_of={"blocks": "a"})
    assert "_gradient_checkpointing_func" not in vars(chain)
    assert not chain.blocks._forward_hooks
