"""In which form a clip is best stored: pictures as JPEG, or one short H.264 video, at several qualities.

    python -m scripts.bench.clip_store_forms [--clips 8] [--rounds 5]

Clips of 16 frames of a camera moving over a photograph, compressed once as source videos are (H.264, crf 23), then fit
to the model's 336 pixels. Prints per clip the CPU milliseconds to encode and to decode, the bytes in a tar, and the
difference to the uncompressed pixels, for frames 1/30 s apart and for frames far apart.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from rich.table import Table

from data_builders.clip_store.encoding import ENCODER_OPTIONS, TAR_BLOCK
from exo2ego.console import console
from exo2ego.data.clip_store import decode_clip, stored_box
from exo2ego.data.decoders import FrameArray
from exo2ego.data.pixels import CLIP_MEAN, resize
from scripts.bench.clip_store import HEIGHT, NUM_FRAMES, SIZE, WIDTH, camera_picture, scene

Form = tuple[Callable[[FrameArray], list[bytes]], Callable[[list[bytes]], FrameArray]]
STEPS = {"1/30 s apart": 2 * np.pi / 750, "far apart": 2 * np.pi / 19}


def jpeg(quality: int, subsampling: int) -> Form:
    """Returns how to store a clip as JPEG files; subsampling 2 is 4:2:0, 0 is 4:4:4."""

    def encode(pictures: FrameArray) -> list[bytes]:
        files = []
        for picture in pictures:
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
            files.append(buffer.getvalue())
        return files

    return encode, lambda files: np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def h264(crf: int, pixel_format: str = "yuv420p", **changes: str) -> Form:
    """Returns how to store a clip as one H.264 video."""
    options = {**ENCODER_OPTIONS, "crf": str(crf), **changes}

    def encode(pictures: FrameArray) -> list[bytes]:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=30, options={k: v for k, v in options.items() if v})
            stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], pixel_format
            stream.codec_context.thread_count = 1
            for picture in pictures:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
            container.mux(stream.encode(None))
        return [buffer.getvalue()]

    return encode, lambda files: decode_clip(files[0], Path("clip"), clip_shape(pictures_per_clip=NUM_FRAMES))


def clip_shape(pictures_per_clip: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[int, int, int]:
    """Returns (T, h, w) of a stored clip of a video of this size."""
    top, bottom, left, right = stored_box(height, width, SIZE, "pad")
    return pictures_per_clip, bottom - top, right - left


FORMS: dict[str, Form] = {
    "16 JPEG, quality 90, 4:2:0": jpeg(90, 2),
    "16 JPEG, quality 95, 4:4:4": jpeg(95, 0),
    "H.264 crf 16 (the store's)": h264(16),
    "H.264 crf 18": h264(18),
    "H.264 crf 14": h264(14),
    "H.264 crf 16, without fastdecode": h264(16, tune=""),
    "H.264 crf 16, with macroblock tree": h264(16, **{"x264-params": ""}),
    "H.264 crf 16, 4:4:4": h264(16, "yuv444p"),
}


def clips(count: int, step: float) -> list[FrameArray]:
    """Returns the stored part of the model's pictures [T, h, w, 3] of clips at places along the camera's path."""
    noise, photograph, made = np.random.default_rng(0), scene(), []
    source = h264(23, tune="")[0]
    top, bottom, left, right = stored_box(HEIGHT, WIDTH, SIZE, "pad")
    for number in range(count):
        start = 2 * np.pi * number / count
        seen = np.stack([camera_picture(photograph, start + n * step, noise) for n in range(NUM_FRAMES)])
        video = decode_clip(source(seen)[0], Path("source"), seen.shape[:3])
        squares = resize(video, SIZE, "pad", mean=CLIP_MEAN).permute(0, 2, 3, 1).numpy()
        made.append(squares[:, top:bottom, left:right])
    return made


def measure(form: Form, pictures: Sequence[FrameArray], rounds: int) -> list[str]:
    """Returns the columns of one form: milliseconds to encode and to decode, kB, levels."""
    encode, decode = form
    began = time.process_time()
    stored = [encode(clip) for clip in pictures]
    encoding_s = time.process_time() - began
    decoding_s = []
    for _ in range(rounds):
        began = time.process_time()
        decoded = [decode(files) for files in stored]
        decoding_s.append(time.process_time() - began)
    size = np.mean([sum(TAR_BLOCK - (-len(file) // TAR_BLOCK) * TAR_BLOCK for file in files) for files in stored])
    levels = np.abs(np.stack(decoded).astype(np.int16) - np.stack(pictures))
    return [
        f"{encoding_s / len(pictures) * 1000:.1f}",
        f"{np.median(decoding_s) / len(pictures) * 1000:.1f}",
        f"{size / 1000:.0f}",
        f"mean {levels.mean():.1f}, 99 % {np.percentile(levels, 99):.0f}",
    ]


def main() -> None:
    """Measures every form, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8, help="clips per distance of frames")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of decoding")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("frames", "form", "encode (ms)", "decode (ms)", "kB per clip", "levels")
    for name, step in STEPS.items():
        pictures = clips(arguments.clips, step)
        for form, functions in FORMS.items():
            table.add_row(name, form, *measure(functions, pictures, arguments.rounds))
    console.print(table)


if __name__ == "__main__":
    main()
