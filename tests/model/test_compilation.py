"""torch.compile block by block: the same losses and gradients, the same names, every part by itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from exo2ego.model.compilation import compile_blocks
from exo2ego.model.connector import build_connector
from exo2ego.model.mapper import build_mapper
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import MapperOptions
from exo2ego.model.registry import CONNECTORS, MAPPERS
from tests.model.test_recomputation import PARTS, built, loss_of
from tests.test_extending import FILE, MODULE, module_of
from tests.tiny_models import STAGE2, tiny_model


def gradients_of(model: Exo2EgoForConditionalGeneration) -> tuple[float, dict[str, torch.Tensor]]:
    loss = loss_of(model)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class Counting:
    """A backend that computes as ever and counts the graphs that it is given."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, _: object) -> Callable[..., Any]:
        self.num_graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def fresh_graphs() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def num_graphs(module: nn.Module, *arguments: Any) -> int:
    """Compiles the module's blocks, runs it, and returns how many graphs were made."""
    counting = Counting()
    compile_blocks(module, counting)  # type: ignore[arg-type]
    with torch.no_grad():
        module(*arguments)
    return counting.num_graphs


@pytest.mark.parametrize("kind", [*MAPPERS, "mixer"])
def test_every_kind_of_mapper_is_compiled(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the one that the guide shows, which iterates over its `Sequential`."""
    if kind == "mixer":
        monkeypatch.setitem(sys.modules, MODULE, module_of(MODULE, FILE))
        monkeypatch.setitem(MAPPERS, kind, f"{MODULE}:MixerMapper")
    mapper = build_mapper(16, 16, MapperOptions(kind=kind, width=8, num_blocks=2))
    expected = {"resnet": 1, "fc": 1, "transformer": 3, "mixer": 3}
    assert num_graphs(mapper, torch.randn(1, 2, 64, 16), 8, 8) == expected[kind], "one for each kind of block"


@pytest.mark.parametrize("kind", CONNECTORS)
def test_every_kind_of_connector_is_compiled(kind: str) -> None:
    connector = build_connector(kind, 16, 16, depth=1)
    assert num_graphs(connector, torch.randn(1, 4, 64, 16), 8, 8) >= 1


@pytest.mark.parametrize("part", PARTS)
def test_only_the_named_part_is_compiled(part: str) -> None:
    model = tiny_model(STAGE2)
    names = list(model.state_dict())
    counting = Counting()
    model.compile_parts([part], backend=counting)  # type: ignore[arg-type]
    with torch.no_grad():
        loss_of(model)
    assert counting.num_graphs >= 1
    for other in PARTS:
        for module in model._modules_of([other]):
            compiled = [each for each in module.modules() if each._compiled_call_impl is not None]
            assert bool(compiled) == (other == part), other
    assert list(model.state_dict()) == names


@pytest.mark.slow
def test_compiled_blocks_compute_the_same() -> None:
    """With the graphs of forward and backward, but not inductor's kernels, whose roundings depend on the machine."""
    loss, gradients = gradients_of(built())
    model = built("towers", "connector")
    model.compile_parts(PARTS, backend="aot_eager")
    compiled_loss, compiled = gradients_of(model)
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    assert compiled.keys() == gradients.keys()
    mine, other = (torch.cat([side[name].flatten() for name in gradients]) for side in (compiled, gradients))
    assert float((mine - other).norm()) < 1e-4 * float(other.norm())  # instance norms enlarge rounding
