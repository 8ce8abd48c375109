"""The grids on which features stand, and how maps and masks come from one grid to another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

Grid = tuple[int, int, int]
"""Time steps, rows, columns of a token grid."""


@dataclass(frozen=True)
class TowerGeometry:
    """What a tower's configuration alone says of its input and output."""

    width: int
    """Channels C of the features."""
    image_size: int
    """Side S of the square pictures, pixels."""
    patch_size: int
    """Side of a patch, pixels."""
    frames_per_step: int = 1
    """Frames that become one time step: 1, or 2 for Qwen2-VL."""

    @property
    def grid_size(self) -> int:
        """Returns the patches per side; what is left of a picture beyond them is not seen (SigLIP2 384 / 14: 6 px)."""
        return self.image_size // self.patch_size

    def num_time_steps(self, num_frames: int) -> int:
        """Returns the time steps of `num_frames` frames."""
        return num_frames // self.frames_per_step

    def grid(self, num_frames: int) -> Grid:
        """Returns the feature grid of `num_frames` frames."""
        return self.num_time_steps(num_frames), self.grid_size, self.grid_size


def resampled(features: Tensor, source: Grid, target: Grid) -> Tensor:
    """Brings feature maps [B, T, L, C] from grid to grid by trilinear interpolation; equal grids change nothing.

    Half as many time steps are the means of pairs of steps.
    """
    if source == target:
        return features
    volume = features.unflatten(2, source[1:]).permute(0, 4, 1, 2, 3)
    moved = functional.interpolate(volume, size=target, mode="trilinear", align_corners=False)
    return moved.permute(0, 2, 3, 4, 1).flatten(2, 3)


def resampled_mask(mask: Tensor, num_patches: int) -> Tensor:
    """Brings the mask [B, L] bool of a square grid to `num_patches`: true where any of what is mixed in was true."""
    if mask.shape[1] == num_patches:
        return mask
    before, after = math.isqrt(mask.shape[1]), math.isqrt(num_patches)
    squares = mask.float().unflatten(1, (1, before, before))
    moved = functional.interpolate(squares, size=(after, after), mode="bilinear", align_corners=False)
    return moved.flatten(1) > 0
