"""Activation checkpointing reaches every part by itself: fewer bytes, blocks that run twice, the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from exo2ego.losses.cycle import cycle_loss
from exo2ego.model.building import add_lora
from exo2ego.model.compilation import layers_of
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.parts import LoraOptions
from exo2ego.model.recomputation import Recomputing
from exo2ego.model.tokens import IGNORED
from tests.tiny_models import STAGE2, random_ids, random_pixels, tiny_model

PARTS = ("towers", "connector", "mappers", "language_model")


def built(*recomputed: str, lora: bool = False) -> Exo2EgoForConditionalGeneration:
    model = tiny_model(STAGE2)
    if lora:
        torch.manual_seed(1)
        add_lora(model, LoraOptions(rank=4, alpha=8, dropout=0.1))
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("model.teacher_tower", "model.language_model", "lm_head")) and "lora_" not in name
        parameter.requires_grad_(not frozen)
    model.train()
    model.set_gradient_checkpointing(recomputed)
    return model


def loss_of(model: Exo2EgoForConditionalGeneration) -> Tensor:
    torch.manual_seed(2)  # dropout of the adapters
    ids = random_ids(model)
    labels = ids.clone()
    labels[:, :-4] = IGNORED
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=labels,
        pixel_values_videos=random_pixels(2),
        exo_pixel_values_videos=random_pixels(2, 2, seed=1),
        cycle="both",
    )
    total: Tensor = output.loss + cycle_loss(output.ego_features, output.ego_cycle).sum()
    return total + output.exo_cycle.square().mean()


def measured(model: Exo2EgoForConditionalGeneration) -> tuple[dict[str, Tensor], int, dict[str, int]]:
    """Returns the gradients, the bytes that the forward pass keeps, and how often each part's blocks run."""
    kept: dict[int, int] = {}
    runs = dict.fromkeys(PARTS, 0)

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def counting(part: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **named: Any) -> Any:
            runs[part] += 1
            return forward(*arguments, **named)

        return count

    for part in PARTS:
        for module in model._modules_of([part]):
            if module is model.model.teacher_tower.tower:
                continue  # without gradients
            blocks = [module] if isinstance(module, Recomputing) else layers_of(module)
            for leaf in (leaf for block in blocks for leaf in block.modules() if is_leaf(leaf)):
                leaf.forward = counting(part, leaf.forward)  # type: ignore[method-assign]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = loss_of(model)
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return gradients, sum(kept.values()), runs


def is_leaf(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)


@pytest.mark.parametrize("lora", [False, True], ids=["frozen", "lora"])
@pytest.mark.parametrize("part", PARTS)
def test_every_part_recomputes_by_itself(part: str, lora: bool) -> None:
    gradients, kept, runs = measured(built(lora=lora))
    again, kept_again, runs_again = measured(built(part, lora=lora))
    assert {name: runs_again[name] / runs[name] for name in PARTS} == {
        name: 2 if name == part else 1 for name in PARTS
    }, "the blocks of this part, and of no other, run a second time in the backward pass"
    assert kept_again < kept
    assert again.keys() == gradients.keys()
    for name, expected in gradients.items():  # the same operations on the same numbers, dropout included
        assert torch.equal(again[name], expected), name


def test_all_parts_together_keep_least() -> None:
    plain, all_of_them = measured(built()), measured(built(*PARTS))
    each = [measured(built(part))[1] for part in PARTS]
    assert all_of_them[1] < min(each) < max(each) < plain[1]
    for name, expected in plain[0].items():
        assert torch.equal(all_of_them[0][name], expected), name
