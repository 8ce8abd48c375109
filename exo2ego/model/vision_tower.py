"""Vision towers: frames [B, T, 3, S, S] to patch features [B, T', L, C], truncated at the layer that is used."""

from __future__ import annotations

import copy
import re
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from exo2ego.errors import ConfigError
from exo2ego.model.geometry import TowerGeometry
from exo2ego.model.registry import TOWERS, named

PixelStatistics = Literal["clip", "siglip"]
"""Mean and standard deviation by which a tower's pixels are normalised (exo2ego/data/pixels.py)."""


class VisionTower(nn.Module):
    """Base of all towers: a vision transformer of the library, without the layers after the used one."""

    library_class: ClassVar[Any] = AutoModel
    """What loads the published weights."""
    depth_field: ClassVar[str] = "num_hidden_layers"
    """Name of the number of layers in the configuration."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of a published checkpoint's tensors that are no part of its vision tower."""
    load_options: ClassVar[dict[str, Any]] = {}
    """What `from_pretrained` needs besides, to find the tower in a checkpoint of the whole model."""

    def __init__(self, config: PretrainedConfig, feature_layer: int, pretrained: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.geometry = self.geometry_of(config)
        self.tower = without_head(pretrained or self.from_config(self.truncated(config, feature_layer)))
        self.width, self.grid_size = self.geometry.width, self.geometry.grid_size
        self.image_size, self.patch_size = self.geometry.image_size, self.geometry.patch_size

    @classmethod
    def geometry_of(cls, config: PretrainedConfig) -> TowerGeometry:
        """Returns the sizes of input and output; raises `ConfigError` where they cannot be."""
        raise NotImplementedError

    @classmethod
    def pixel_statistics(cls, config: PretrainedConfig) -> PixelStatistics:
        """Returns how pixels are normalised."""
        return "clip"

    @classmethod
    def sized(cls, config: PretrainedConfig, image_size: int) -> PretrainedConfig:
        """Returns the configuration for pictures of that side; raises `ConfigError` for a tower of one size."""
        raise ConfigError(f"model: image_size {image_size}: a tower of type {config.model_type} has a size of its own")

    @classmethod
    def from_config(cls, config: PretrainedConfig, attention: str | None = None) -> PreTrainedModel:
        """Returns the library's model of a truncated configuration with random weights."""
        model: PreTrainedModel = AutoModel.from_config(config, attn_implementation=attention)
        return model

    @classmethod
    def truncated(cls, config: PretrainedConfig, feature_layer: int) -> PretrainedConfig:
        """Returns `config` with only the layers up to hidden state `feature_layer` (VideoLLaMA2: -2 drops the last).

        Raises `ConfigError` when the tower has no such hidden state.
        """
        last: int = getattr(config, cls.depth_field)
        kept = last + 1 + feature_layer if feature_layer < 0 else feature_layer
        if not 0 <= kept <= last:
            raise ConfigError(
                f"model.vision_feature_layer {feature_layer}: the tower has hidden states 0 to {last}, "
                f"or -{last + 1} to -1"
            )
        truncated = copy.deepcopy(config)
        setattr(truncated, cls.depth_field, kept)
        return truncated

    @classmethod
    def is_unused(cls, name: str, truncated: PretrainedConfig) -> bool:
        """Says whether a tensor of a published checkpoint is beside the tower or of a layer that is not built."""
        layer = re.search(r"\b(?:layers|blocks)\.(\d+)\.", name)
        return name.startswith(cls.beside) or (
            layer is not None and int(layer[1]) >= getattr(truncated, cls.depth_field)
        )

    def num_time_steps(self, num_frames: int) -> int:
        """Returns the time steps T' of `num_frames` frames."""
        return self.geometry.num_time_steps(num_frames)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes pixels [B, T, 3, S, S] to patch features [B, T', L, C], rows before columns, no class token."""
        raise NotImplementedError


class FrameTower(VisionTower):
    """CLIP, SigLIP or SigLIP2 at a fixed size (the last two have no class token): every frame by itself."""

    beside = ("text_model.", "text_projection.", "visual_projection.", "logit_", "head.")

    @classmethod
    def geometry_of(cls, config: PretrainedConfig) -> TowerGeometry:
        """Returns the sizes in the configuration."""
        return TowerGeometry(config.hidden_size, config.image_size, config.patch_size)

    @classmethod
    def pixel_statistics(cls, config: PretrainedConfig) -> PixelStatistics:
        """Returns SigLIP's for SigLIP and SigLIP2, CLIP's else."""
        return "siglip" if "siglip" in config.model_type else "clip"

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes pixels [B, T, 3, S, S] frame by frame to patch features [B, T, L, C] without class token."""
        batch, time = pixels.shape[:2]
        weight = next(self.tower.parameters())
        hidden: Tensor = self.tower(pixel_values=pixels.flatten(0, 1).to(weight.dtype)).last_hidden_state
        patches = hidden[:, -(self.grid_size**2) :]  # a class token, where there is one, stands first
        return patches.unflatten(0, (batch, time))


def tower_class(config: PretrainedConfig) -> type[VisionTower]:
    """Returns the class for a transformers vision configuration; raises `ConfigError` for a type without one."""
    try:
        found: type[VisionTower] = named(TOWERS, config.model_type)
    except ValueError as error:
        raise ConfigError(
            f"model: a vision tower of model_type {error}; docs/extending.md shows how to add one"
        ) from error
    return found


def sized_config(config: PretrainedConfig, image_size: int | None) -> PretrainedConfig:
    """Returns a vision configuration for pictures of the side that the options ask for; None keeps its own."""
    return config if image_size is None else tower_class(config).sized(config, image_size)


def build_tower(config: PretrainedConfig, feature_layer: int, pretrained: PreTrainedModel | None = None) -> VisionTower:
    """Returns the tower of a full configuration: with given weights, or random ones."""
    return tower_class(config)(config, feature_layer, pretrained)


def tower_geometry(config: PretrainedConfig) -> TowerGeometry:
    """Returns the sizes of input and output of a tower that need not exist."""
    return tower_class(config).geometry_of(config)


def without_head(tower: PreTrainedModel) -> PreTrainedModel:
    """Replaces what stands after the used layer (pooling, final norm, merger): it would never get a gradient."""
    for holder in (tower, getattr(tower, "vision_model", None)):
        if holder is None:
            continue
        for name in ("post_layernorm", "merger"):
            if getattr(holder, name, None) is not None:
                setattr(holder, name, nn.Identity())
        if getattr(holder, "head", None) is not None:
            holder.head = None
            holder.use_head = False
    return tower
