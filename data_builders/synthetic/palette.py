"""The colours of the world as a video stores them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from data_builders.synthetic.vocabulary import COLOURS

Bytes = NDArray[np.uint8]

SHADES = {"dark": 0.62, "": 0.85, "light": 1.0}
_RGB = {
    "red": (228, 26, 34),
    "yellow": (255, 222, 30),
    "green": (28, 172, 52),
    "blue": (30, 84, 240),
    "purple": (152, 44, 200),
    "white": (250, 250, 250),
    "left sleeve": (0, 205, 215),
    "right sleeve": (255, 132, 10),
    "skin": (242, 190, 150),
    "shirt": (88, 92, 104),
    "hair": (60, 42, 30),
    "floor": (58, 60, 66),
    "table": (124, 116, 108),
    "tray": (44, 48, 58),
    "tray rim": (170, 178, 186),
    "mat": (226, 206, 176),
    "mat stripe": (176, 128, 96),
    "board": (126, 78, 38),
    "board rim": (84, 48, 22),
    "table edge": (70, 62, 56),
    "inside": (34, 30, 32),
    "mark": (22, 22, 24),
    "water": (150, 222, 255),
}
SHADED = (*COLOURS, "left sleeve", "right sleeve", "skin", "shirt")
_ENTRIES = {
    f"{shade} {name}".strip(): tuple(channel * factor for channel in rgb)
    for name, rgb in _RGB.items()
    for shade, factor in (SHADES if name in SHADED else {"": 1.0}).items()
}


@dataclass(frozen=True)
class Palette:
    """The world's colours as one camera records them; every colour has a luma of its own.

    So a frame is drawn in one byte per pixel, its luma plane, and the chroma planes are looked up from that.
    """

    luma: dict[str, int]
    """Of every colour name; the shaded ones also as `dark red` and `light red`."""
    chroma: tuple[bytes, bytes]
    """U and V of every luma that is in use, as tables of 256."""


def make_palette(white_balance: NDArray[np.float64]) -> Palette:
    """Converts all colours to Y, U, V (BT.601, limited range) under RGB gains [3]."""
    rgb = np.clip(np.array(list(_ENTRIES.values())) * white_balance, 0, 255) / 255
    to_yuv = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]])
    yuv = np.rint(rgb @ to_yuv.T + np.array([16, 128, 128])).astype(int)
    luma: dict[str, int] = {}
    chroma = np.zeros((2, 256), np.uint8)
    free = set(range(16, 236))
    for name, (bright, blue, red) in zip(_ENTRIES, yuv.tolist(), strict=True):
        luma[name] = next(
            value for distance in count() for value in (bright - distance, bright + distance) if value in free
        )
        free.remove(luma[name])
        chroma[:, luma[name]] = blue, red
    return Palette(luma, (chroma[0].tobytes(), chroma[1].tobytes()))
