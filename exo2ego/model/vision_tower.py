"""Vision towers: frames [B, T, 3, S, S] to patch features [B, T, L, C], truncated at the layer that is used."""

from __future__ import annotations

import copy

from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from exo2ego.errors import ConfigError


def truncated_config(config: PretrainedConfig, feature_layer: int) -> PretrainedConfig:
    """Returns `config` with only the layers up to hidden state `feature_layer` (VideoLLaMA2: -2 drops the last one).

    Raises `ConfigError` when the tower has no such hidden state.
    """
    truncated = copy.deepcopy(config)
    last = config.num_hidden_layers
    truncated.num_hidden_layers = last + 1 + feature_layer if feature_layer < 0 else feature_layer
    if not 0 <= truncated.num_hidden_layers <= last:
        raise ConfigError(
            f"model.vision_feature_layer {feature_layer}: the tower has hidden states 0 to {last}, or -{last + 1} to -1"
        )
    return truncated


class VisionTower(nn.Module):
    """A CLIP or SigLIP vision transformer without the layers after the used one: same features, no unused weights."""

    def __init__(self, config: PretrainedConfig, feature_layer: int, pretrained: PreTrainedModel | None = None) -> None:
        super().__init__()
        tower = pretrained or AutoModel.from_config(truncated_config(config, feature_layer))
        self.tower = without_head(tower)
        self.width: int = config.hidden_size
        self.image_size: int = config.image_size
        self.patch_size: int = config.patch_size
        self.grid_size: int = config.image_size // config.patch_size

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes pixels [B, T, 3, S, S] frame by frame to patch features [B, T, L, C] without class token."""
        batch, time = pixels.shape[:2]
        weight = next(self.tower.parameters())
        hidden: Tensor = self.tower(pixel_values=pixels.flatten(0, 1).to(weight.dtype)).last_hidden_state
        patches = hidden[:, -(self.grid_size**2) :]  # a class token, where there is one, stands first
        return patches.unflatten(0, (batch, time))


def without_head(tower: PreTrainedModel) -> PreTrainedModel:
    """Replaces what stands after the used layer (pooling, final norm) by identities: it would never get a gradient."""
    for holder in (tower, getattr(tower, "vision_model", None)):
        if holder is None:
            continue
        if getattr(holder, "post_layernorm", None) is not None:
            holder.post_layernorm = nn.Identity()
        if getattr(holder, "head", None) is not None:
            holder.head = None
            holder.use_head = False
    return tower
