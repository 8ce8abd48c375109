"""Pixels: within a level or two of PIL and of CLIP's image processor; the mask marks padding and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessor, CLIPImageProcessorPil

from exo2ego.data.pixels import normalise, padding_colour, patch_mask, preprocess, resize

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SHAPES = {
    "landscape": (448, 796),
    "portrait": (640, 360),
    "square": (448, 448),
    "small": (100, 160),
    "720p": (720, 1280),
}


def frames_of(height: int, width: int, num_frames: int = 2) -> np.ndarray:
    """Returns frames with smooth shapes, hard edges and noise."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    smooth = 127 + 90 * np.sin(rows / 17)[..., None] * np.cos(columns[..., None] / (11, 23, 31))
    frames = np.stack([smooth + rng.normal(0, 12, smooth.shape) for _ in range(num_frames)])
    frames[:, height // 4 : height // 2, width // 3 : width // 2] = (250, 5, 120)
    return frames.clip(0, 255).astype(np.uint8)


def pil_pad(frame: np.ndarray, size: int) -> np.ndarray:
    """VideoLLaMA2's `expand2square`, then PIL's bicubic resize."""
    side = max(frame.shape[:2])
    square = Image.new("RGB", (side, side), (122, 116, 104))
    square.paste(Image.fromarray(frame), ((side - frame.shape[1]) // 2, (side - frame.shape[0]) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pad_equals_pil_within_two_levels(shape: tuple[int, int]) -> None:
    frames = frames_of(*shape)
    ours = resize(frames, 336, "pad", mean=MEAN).permute(0, 2, 3, 1).numpy().astype(int)
    difference = np.abs(ours - np.stack([pil_pad(frame, 336) for frame in frames]))
    assert difference.max() <= 2  # both round after each of the two directions
    assert difference.mean() <= 0.01


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_squash_equals_pil_within_two_levels(shape: tuple[int, int]) -> None:
    frame = frames_of(*shape, num_frames=1)
    ours = resize(frame, 224, "squash", mean=MEAN)[0].permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(frame[0]).resize((224, 224), Image.Resampling.BICUBIC))
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("processor_class", [CLIPImageProcessor, CLIPImageProcessorPil])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_crop_equals_clips_image_processors_within_two_levels(shape: tuple[int, int], processor_class: type) -> None:
    frames = frames_of(*shape)
    processor = processor_class(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    theirs = processor([Image.fromarray(frame) for frame in frames], return_tensors="pt")["pixel_values"]
    ours, mask = preprocess(frames, 336, "crop", mean=MEAN, std=STD, patch_size=14)
    assert mask.all()
    levels = (ours - theirs).abs() * 255 * torch.tensor(STD).view(3, 1, 1)
    assert levels.max() <= 2.01
    assert levels.mean() <= 0.01


def test_normalise_is_clips_formula() -> None:
    pictures = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    pixels = normalise(pictures, mean=MEAN, std=STD)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, ((pictures / 255 - mean) / std).float(), atol=1e-5, rtol=0)


def test_padding_has_the_colour_of_expand2square() -> None:
    assert padding_colour(MEAN) == (122, 116, 104)
    square = resize(np.zeros((1, 90, 160, 3), dtype=np.uint8), 336, "pad", mean=MEAN)
    assert square[0, :, 0, 0].tolist() == [122, 116, 104]
    assert square[0, :, -1, -1].tolist() == [122, 116, 104]


def test_pixels_are_contiguous_float32_of_the_asked_size() -> None:
    pixels, mask = preprocess(frames_of(48, 64, 3), 56, "pad", mean=MEAN, std=STD, patch_size=14)
    assert pixels.shape == (3, 3, 56, 56)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous()
    assert mask.shape == (4, 4)
    assert mask.dtype == torch.bool


def test_ten_of_24_rows_of_a_16_9_frame_are_padding() -> None:
    """42 % of the tokens, as the design note says of padded exo frames (A17)."""
    mask = patch_mask(448, 796, 336, "pad", patch_size=14)
    assert mask.any(dim=1).tolist() == [False] * 5 + [True] * 14 + [False] * 5
    assert (~mask).sum() == 240


def test_square_and_cropped_and_squashed_frames_have_no_padding() -> None:
    assert patch_mask(448, 448, 336, "pad", patch_size=14).all()
    assert patch_mask(448, 796, 336, "crop", patch_size=14).all()
    assert patch_mask(448, 796, 336, "squash", patch_size=14).all()


@given(st.integers(1, 300), st.integers(1, 300))
def test_the_mask_marks_what_brute_force_finds(height: int, width: int) -> None:
    """Every source pixel of the padded square is painted into a fine grid; a patch counts if any real one is in it."""
    side, grid = max(height, width), 4
    real = np.zeros((side, side), dtype=bool)
    top, left = (side - height) // 2, (side - width) // 2
    real[top : top + height, left : left + width] = True
    fine = real.repeat(grid, axis=0).repeat(grid, axis=1)  # one patch is `side` fine pixels wide
    expected = fine.reshape(grid, side, grid, side).any(axis=(1, 3))
    mask = patch_mask(height, width, 56, "pad", patch_size=14)
    assert mask.any()
    assert mask.numpy().tolist() == expected.tolist()
