"""torch.compile block by block: the same losses and gradients, the same names, every part by itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from exo2ego.model.compilation import blocks_of
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.recomputation import Recomputing
from tests.model.test_recomputation import PARTS, built, loss_of
from tests.tiny_models import STAGE2, tiny_model


def gradients_of(model: Exo2EgoForConditionalGeneration) -> tuple[float, dict[str, torch.Tensor]]:
    loss = loss_of(model)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None


def test_the_blocks_of_every_part() -> None:
    model = tiny_model(STAGE2)
    for part in PARTS:
        for module in model._modules_of([part]):
            blocks = list(blocks_of(module))
            assert blocks
            inside = {id(p) for block in blocks for p in block.parameters()}
            if isinstance(module, Recomputing):  # ours consist of blocks
                assert inside == {id(p) for p in module.parameters()}


@pytest.mark.parametrize("part", PARTS)
def test_only_the_named_part_is_compiled(part: str) -> None:
    model = tiny_model(STAGE2)
    names = list(model.state_dict())
    model.compile_parts([part], backend="eager")
    for other in PARTS:
        blocks = [block for module in model._modules_of([other]) for block in blocks_of(module)]
        assert all(is_compiled(block) == (other == part) for block in blocks)
    assert list(model.state_dict()) == names


@pytest.mark.slow
def test_compiled_blocks_compute_the_same() -> None:
    """With the graphs of forward and backward, but not inductor's kernels, whose roundings depend on the machine."""
    torch._dynamo.reset()
    loss, gradients = gradients_of(built())
    model = built("towers", "connector")
    model.compile_parts(PARTS, backend="aot_eager")
    compiled_loss, compiled = gradients_of(model)
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    assert compiled.keys() == gradients.keys()
    mine, other = (torch.cat([side[name].flatten() for name in gradients]) for side in (compiled, gradients))
    assert float((mine - other).norm()) < 1e-4 * float(other.norm())  # instance norms enlarge rounding
    torch._dynamo.reset()
