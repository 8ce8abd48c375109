"""A folder of numbered pictures read as a video (OpenEQA, EPIC-KITCHENS frames)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from exo2ego.data.decoders import MAX_PIXELS, FloatArray, FrameArray, FramePlace, require_start_inside
from exo2ego.errors import VideoError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
DEPTH_NAME = re.compile(r"(^|[-_. ])depth$", re.IGNORECASE)  # OpenEQA: 000123-rgb.png beside 000123-depth.png


class FrameFolderReader:
    """Reads the pictures of a folder in natural order of their names, depth maps and other files left out.

    Raises `VideoError` (unreadable, no_frames, no_frame_rate, forbidden_path, too_large, damaged, empty_span).
    """

    def __init__(self, path: Path, frame_rate: float | None, within: Path | None) -> None:
        self._path = path
        self._frame_rate = frame_rate
        self._within = within
        try:
            self._pictures = sorted(filter(_is_frame, path.iterdir()), key=lambda picture: natural_key(picture.name))
        except OSError as error:
            raise VideoError(path, "unreadable", f"the folder cannot be listed ({error.strerror})") from error
        if not self._pictures:
            raise VideoError(path, "no_frames", f"the folder holds no picture ({', '.join(sorted(PICTURE_SUFFIXES))})")

    def list_frames(self, start_s: float | None, end_s: float | None) -> FloatArray:
        """Returns the times [n] in seconds of all pictures; without a frame rate only the whole folder can be read."""
        if self._frame_rate is None:
            if start_s is not None or end_s is not None:
                raise VideoError(self._path, "no_frame_rate", "a span of a frame folder needs its frame rate")
            return np.arange(len(self._pictures), dtype=np.float64)
        require_start_inside(self._path, start_s, len(self._pictures) / self._frame_rate)
        return np.arange(len(self._pictures), dtype=np.float64) / self._frame_rate

    def read(self, indices: Sequence[int]) -> FrameArray:
        """Returns the pictures [len(indices), H, W, 3], uint8 RGB, upright; all must have one size."""
        frames = {index: self._read_picture(self._pictures[index]) for index in sorted(set(indices))}
        sizes = {frame.shape for frame in frames.values()}
        if len(sizes) > 1:
            raise VideoError(self._path, "damaged", f"expected pictures of one size, got {sorted(sizes)}")
        return np.stack([frames[index] for index in indices])

    def places(self, indices: Sequence[int]) -> list[FramePlace]:
        """Returns where the frames at these places of the last list lie: every picture stands alone."""
        return [FramePlace(index, index) for index in indices]

    def read_group(self, group: int, ticks: Collection[int]) -> Iterator[tuple[int, FrameArray]]:
        """Yields (number, picture [H, W, 3], RGB, upright) of one picture."""
        del ticks
        yield group, self._read_picture(self._pictures[group])

    def close(self) -> None:
        """Does nothing: pictures are opened one by one."""

    def _read_picture(self, picture: Path) -> FrameArray:
        if self._within is not None and not picture.resolve().is_relative_to(self._within):
            raise VideoError(picture, "forbidden_path", f"leads out of {self._within}")
        try:
            with Image.open(picture) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"got {image.width}x{image.height}")
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        except Image.DecompressionBombError as error:
            raise VideoError(picture, "too_large", f"expected at most {MAX_PIXELS:,} pixels: {error}") from error
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            raise VideoError(picture, "damaged", f"the picture cannot be decoded ({error})") from error


def natural_key(name: str) -> list[str | int]:
    """Returns a sort key by which `frame10` follows `frame9`."""
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)]


def _is_frame(path: Path) -> bool:
    return (
        path.suffix.lower() in PICTURE_SUFFIXES
        and not path.name.startswith(".")
        and not DEPTH_NAME.search(path.stem)
        and path.is_file()
    )
