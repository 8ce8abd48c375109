"""Frames to model input: fit to a square by padding, cropping or squashing, resize, normalise; uint8 until the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

AspectMode = Literal["pad", "crop", "squash"]
# CLIP's pixel statistics, the ones of openai/clip-vit-large-patch14-336
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# SigLIP and SigLIP2: pixels from -1 to 1
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
PIXEL_STATISTICS = {"clip": (CLIP_MEAN, CLIP_STD), "siglip": (SIGLIP_MEAN, SIGLIP_STD)}
"""Mean and standard deviation by the names that towers use."""


@dataclass
class PictureSettings:
    """What a tower wants to see of a clip."""

    num_frames: int
    image_size: int
    """Side of the square, pixels."""
    patch_size: int
    """Side of a patch, pixels."""
    aspect: AspectMode
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]


def preprocess(
    frames: npt.NDArray[np.uint8],
    size: int,
    aspect: AspectMode,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    patch_size: int,
    source_size: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (pixels [T, 3, size, size] float32, patch_mask [grid, grid] bool) of frames [T, H, W, 3].

    VideoLLaMA2's pixels: `pad` is its `expand2square` with colour int(255 * mean), `crop` is CLIP's shortest edge and
    centre crop, `squash` ignores the aspect ratio (Exo2Ego does not say which: A17). The mask is False for patches
    that hold nothing but padding. Frames that were fit to the square before (a clip store's) pass unchanged;
    `source_size` is then the height and width of the pictures that they were made of.
    """
    pixels = normalise(resize(frames, size, aspect, mean=mean), mean=mean, std=std)
    height, width = source_size or frames.shape[1:3]
    return pixels, patch_mask(height, width, size, aspect, patch_size=patch_size)


def resize(frames: npt.NDArray[np.uint8], size: int, aspect: AspectMode, *, mean: Sequence[float]) -> torch.Tensor:
    """Returns frames [T, H, W, 3] as uint8 [T, 3, size, size], bicubic with antialiasing, within two levels of PIL."""
    pictures = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # channels last: the fast kernel
    height, width = pictures.shape[-2:]
    if aspect == "crop":  # CLIPImageProcessor: the shortest edge becomes `size`, the other one is rounded down
        scaled = [size * edge // min(height, width) for edge in (height, width)]
        top, left = ((edge - size) // 2 for edge in scaled)
        return _bicubic(pictures, *scaled)[..., top : top + size, left : left + size]
    if aspect == "pad" and width > height:  # each row alone first, as PIL does: less padding to resize after it
        pictures = _pad(_bicubic(pictures, height, size), width, size, mean)
    elif aspect == "pad" and height > width:
        pictures = _pad(pictures, height, height, mean)
    return _bicubic(pictures, size, size)


def normalise(pictures: torch.Tensor, *, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Returns uint8 [..., 3, H, W] as float32 (x / 255 - mean) / std."""
    scale = 1 / (255 * torch.tensor(std)).view(3, 1, 1)
    shift = -(torch.tensor(mean) / torch.tensor(std)).view(3, 1, 1)
    return pictures.to(torch.float32, memory_format=torch.contiguous_format).mul_(scale).add_(shift)


def padding_colour(mean: Sequence[float]) -> tuple[int, int, int]:
    """Returns the grey of VideoLLaMA2's `expand2square`: (122, 116, 104) for CLIP's mean."""
    red, green, blue = (int(255 * value) for value in mean)
    return red, green, blue


def patch_mask(height: int, width: int, size: int, aspect: AspectMode, *, patch_size: int) -> torch.Tensor:
    """Returns bool [grid, grid]: True where a patch holds any part of the frame, False where it is all padding.

    Of a 16:9 frame's 576 patches at 336 px the 240 grey ones are False. Never all False.
    """
    grid = size // patch_size
    if aspect != "pad":
        return torch.ones(grid, grid, dtype=torch.bool)
    side = max(height, width)
    rows = _overlaps(height, side, size, patch_size)
    columns = _overlaps(width, side, size, patch_size)
    return rows[:, None] & columns[None, :]


def _overlaps(length: int, side: int, size: int, patch_size: int) -> torch.Tensor:
    """Says for each patch along one axis whether it overlaps the frame, which covers `length` of `side` pixels."""
    before = (side - length) // 2
    starts = torch.arange(size // patch_size) * patch_size * side  # in units of 1 / (side * size): exact integers
    return (starts < (before + length) * size) & (starts + patch_size * side > before * size)


def _pad(pictures: torch.Tensor, height: int, width: int, mean: Sequence[float]) -> torch.Tensor:
    """Returns the pictures in the middle of [T, 3, height, width] of the padding colour, channels last."""
    canvas = torch.tensor(padding_colour(mean), dtype=torch.uint8).expand(height, width, 3).contiguous()
    padded = canvas.repeat(len(pictures), 1, 1, 1).permute(0, 3, 1, 2)
    top, left = (height - pictures.shape[2]) // 2, (width - pictures.shape[3]) // 2
    padded[..., top : top + pictures.shape[2], left : left + pictures.shape[3]] = pictures
    return padded


def _bicubic(pictures: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if pictures.shape[-2:] == (height, width):
        return pictures
    return functional.interpolate(pictures, (height, width), mode="bicubic", antialias=True)
