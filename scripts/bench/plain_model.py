"""The same step as one would write it with transformers alone: what our model leaves out is computed here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from exo2ego.model.modeling import Exo2EgoForConditionalGeneration, Exo2EgoOutput
from exo2ego.model.vision_tower import VisionTower


class PlainModel(nn.Module):
    """Our weights, used plainly: whole towers with all hidden states, the teacher in autograd, logits everywhere.

    x and F(x) pass the connector one after the other. Stands in for the model in `Stage.losses`: equal losses.
    """

    def __init__(self, model: Exo2EgoForConditionalGeneration) -> None:
        super().__init__()
        self.whole = model

    def forward(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        pixel_values_videos: Tensor,
        view: str = "ego",
        exo_pixel_values_videos: Tensor | None = None,
        cycle: str = "off",
        **_: Any,
    ) -> Exo2EgoOutput:
        """Returns logits [B * (S - 1), V] and targets of all positions, -100 where there is no loss, and features."""
        model = self.whole.model
        guidance: dict[str, Any] = {}
        if view == "exo":
            visual = model.tokens(features_of_whole(model.teacher_tower, pixel_values_videos), exo=True)
        else:
            ego = features_of_whole(model.vision_tower, pixel_values_videos)
            mapped = model.map(model.mapper_f, ego)
            visual = torch.cat((model.tokens(ego), model.tokens(mapped, exo=True)), dim=1)
            if exo_pixel_values_videos is not None:
                guidance = self._guidance(ego, mapped, exo_pixel_values_videos, cycle)
        hidden = model.language_model(
            inputs_embeds=model.spliced(input_ids, visual), attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        logits = self.whole.lm_head(hidden).float()
        return Exo2EgoOutput(target_logits=logits[:, :-1].flatten(0, 1), target_ids=labels[:, 1:].flatten(), **guidance)

    def _guidance(self, ego: Tensor, mapped: Tensor, exo_pixels: Tensor, cycle: str) -> dict[str, Any]:
        model = self.whole.model
        exo = features_of_whole(model.teacher_tower, exo_pixels.flatten(0, 1))
        shape = exo_pixels.shape[:2]
        guidance = {"ego_features": ego, "mapped_features": mapped, "exo_features": exo.unflatten(0, shape)}
        if cycle != "off":
            guidance["ego_cycle"] = model.map(model.mapper_g, mapped)
        if cycle == "both":
            there_and_back = model.map(model.mapper_f, model.map(model.mapper_g, exo.detach()))
            guidance["exo_cycle"] = there_and_back.unflatten(0, shape)
        return guidance


def features_of_whole(tower: VisionTower | None, pixels: Tensor) -> Tensor:
    """Encodes pixels [B, T, 3, S, S] with all layers and keeps the last but one of all hidden states."""
    assert tower is not None
    library_model = tower.tower
    weight = next(library_model.parameters())
    output = library_model(pixel_values=pixels.flatten(0, 1).to(weight.dtype), output_hidden_states=True)
    patches: Tensor = output.hidden_states[-2][:, 1:]
    return patches.unflatten(0, pixels.shape[:2])


@contextmanager
def used_plainly(model: Exo2EgoForConditionalGeneration) -> Iterator[PlainModel]:
    """Yields the plain use of a model; meanwhile its towers have their last layer, and the teacher is not frozen."""
    inner = model.model
    towers = [tower for tower in (inner.vision_tower, inner.teacher_tower) if tower is not None]
    stacks = [_layers(tower) for tower in towers]
    frozen = [parameter for tower in towers for parameter in tower.parameters() if not parameter.requires_grad]
    for stack in stacks:
        stack.append(deepcopy(stack[-1]))
    if inner.teacher_tower is not None:
        inner.teacher_tower.requires_grad_(True).train()
    try:
        yield PlainModel(model)
    finally:
        for stack in stacks:
            del stack[-1]
        for parameter in frozen:
            parameter.requires_grad_(False).grad = None
        inner.train()  # a frozen teacher is in eval mode again


def _layers(tower: VisionTower) -> nn.ModuleList:
    """Returns the tower's blocks, wherever this version of transformers keeps them."""
    found = [getattr(module, "layers", None) for module in tower.tower.modules()]
    return next(layers for layers in found if isinstance(layers, nn.ModuleList))
