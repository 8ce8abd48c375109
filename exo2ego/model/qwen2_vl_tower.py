"""Qwen2-VL's vision tower, the better teacher that Exo2Ego's limitations (Supp. E) suggest."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.vision_utils import get_vision_position_ids

from exo2ego.errors import ConfigError
from exo2ego.model.geometry import TowerGeometry
from exo2ego.model.vision_tower import VisionTower


class Qwen2VLTower(VisionTower):
    """Two frames make a time step; features of the last block, before the merger, in the order of the picture.

    Before the merger, as a CLIP tower's: patches of 14 px with the tower's own width. Behind it there are a quarter of
    them, in the space of Qwen2-VL's language model.
    """

    library_class = Qwen2VisionTransformerPretrainedModel
    depth_field = "depth"
    beside = ("model.", "lm_head.")
    load_options = {"key_mapping": {r"^(model\.)?visual\.": ""}}  # a checkpoint of the whole Qwen2-VL

    @classmethod
    def geometry_of(cls, config: PretrainedConfig) -> TowerGeometry:
        """Returns the sizes; the side of the pictures is a choice, a multiple of two patches."""
        size, unit = getattr(config, "image_size", None), config.patch_size * config.spatial_merge_size
        if size is None or size % unit:
            raise ConfigError(
                f"model: Qwen2-VL's vision tower takes any size that is a multiple of {unit} pixels, got {size}: "
                f"set image_size beside its from_pretrained or architecture, for example {24 * config.patch_size}"
            )
        return TowerGeometry(config.embed_dim, size, config.patch_size, config.temporal_patch_size)

    @classmethod
    def sized(cls, config: PretrainedConfig, image_size: int) -> PretrainedConfig:
        """Returns the configuration with the size, which transformers' own does not have."""
        sized = copy.deepcopy(config)
        sized.image_size = image_size
        return sized

    @classmethod
    def from_config(cls, config: PretrainedConfig, attention: str | None = None) -> PreTrainedModel:
        """Returns the library's model with random weights; no Auto class knows it."""
        options = {} if attention is None else {"attn_implementation": attention}
        model: PreTrainedModel = Qwen2VisionTransformerPretrainedModel._from_config(config, **options)
        return model

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes pixels [B, T, 3, S, S] to features [B, T / 2, L, C], attention within each time step."""
        batch, config = pixels.shape[0], self.tower.config
        steps, side, merge = self.num_time_steps(pixels.shape[1]), self.grid_size, config.spatial_merge_size
        on_cpu = torch.device("cpu")  # the values steer Python loops, except in flash attention's kernel
        grid = torch.tensor([[steps, side, side]], device=on_cpu).expand(batch, 3)
        flash = config._attn_implementation.startswith("flash")
        bounds = torch.arange(batch * steps + 1, dtype=torch.int32, device=pixels.device if flash else on_cpu)
        hidden: Tensor = self.tower(
            self._patches(pixels, steps),
            grid_thw=grid,
            position_ids=get_vision_position_ids(grid[:1], merge).to(pixels.device).repeat(batch, 1),
            cu_seqlens=bounds * side**2,
        ).last_hidden_state
        # blocks of merge x merge patches, as the merger wants them, back to rows and columns
        blocks = hidden.unflatten(0, (batch, steps, side // merge, side // merge, merge, merge))
        return blocks.transpose(3, 4).reshape(batch, steps, side * side, -1)

    def _patches(self, pixels: Tensor, steps: int) -> Tensor:
        """Returns flat patches [B * T' * L, 3 * frames * side * side], merge x merge neighbours together."""
        config, patch = self.tower.config, self.patch_size
        merge, blocks = config.spatial_merge_size, self.grid_size // config.spatial_merge_size
        frames = self.geometry.frames_per_step
        cut = pixels.reshape(-1, steps, frames, 3, blocks, merge, patch, blocks, merge, patch)
        # B, T', block row, block column, row, column, channel, frame, patch row, patch column
        return cut.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(-1, 3 * frames * patch * patch)
