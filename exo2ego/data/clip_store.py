"""Reading a clip store (docs/clip_store.md): the frames that training wants of a span, from one read of a tar shard."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy
import pyarrow
from numpy.typing import NDArray
from pydantic import Field

from exo2ego.config import Config, validate_config
from exo2ego.data.decoders import FrameArray
from exo2ego.data.sampling import SamplingRule
from exo2ego.data.spans import Span
from exo2ego.errors import ConfigError, DataError, VideoError
from exo2ego.storage import hash_file, read_json

STORE_FILE = "store.json"
"""Written last: a folder that holds it is a complete store."""
INDEX_FILE = "index.arrow"
FORMAT_VERSION = 1
Aspect = Literal["pad", "crop", "squash"]

_TEXT = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
INDEX_SCHEMA = pyarrow.schema(
    {
        "key_high": pyarrow.uint64(),  # `Span.key` in two halves; the rows are sorted by it
        "key_low": pyarrow.uint64(),
        "video": _TEXT,
        "start_s": pyarrow.float64(),
        "end_s": pyarrow.float64(),
        "frame_rate": pyarrow.float64(),
        "observation_s": pyarrow.float64(),
        "shard": pyarrow.int32(),  # null: not stored, `reason` says why
        "offset": pyarrow.int64(),  # of the clip's mp4 in the shard, bytes
        "size": pyarrow.int32(),  # of the mp4, bytes
        "crc32": pyarrow.uint32(),  # of the mp4
        "height": pyarrow.int32(),  # of the source's upright picture
        "width": pyarrow.int32(),
        "timestamps_s": pyarrow.list_(pyarrow.float64()),  # of the frames that training gets, repeated ones too
        "reason": _TEXT,  # as in `VideoError`; null: stored
        "detail": pyarrow.string(),
    }
)
"""One row per distinct span."""


class Shard(Config):
    """One tar file of a store."""

    name: str = Field(pattern=r"^clips-\d{6}\.tar$")
    bytes: int
    sha256: str
    num_clips: int


class StoreDescription(Config):
    """What `store.json` says: for which pictures and frames the store was made, of what, and its files."""

    version: Literal[1] = 1
    num_frames: int
    """Frames per clip that training gets; a frame that stands for two segments is stored once."""
    sampling: SamplingRule
    """The rule by which they were chosen."""
    image_size: int
    """Side of the square picture, pixels."""
    aspect: Aspect
    """How pictures were fit to the square."""
    padding_colour: tuple[int, int, int]
    """Of the part of the square that shows no video, RGB."""
    shards: list[Shard]
    index_bytes: int
    index_sha256: str
    account: dict[str, Any]
    """Where every clip of the input went."""
    made_with: dict[str, Any]
    """Everything that decides the bytes of the shards."""
    provenance: dict[str, Any]


@dataclass(frozen=True)
class StoredClip:
    """The frames of a span as the model's square pictures."""

    frames: FrameArray
    """[T, S, S, 3] uint8 RGB, padding included."""
    timestamps_s: list[float]
    """Of each frame, seconds from the first frame of the video."""
    source_size: tuple[int, int]
    """Height and width of the video's pictures."""


class PictureSettings(Protocol):
    """What a processor says of the pictures that it wants."""

    num_frames: int
    image_size: int
    aspect: Aspect
    image_mean: tuple[float, ...]


class ClipStore:
    """A complete store; opens quickly at any size (the index is mapped), and pickles as its folder.

    Raises `DataError` when the folder holds no complete store or a file has another size than it should.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.description = read_description(folder)
        sizes = {INDEX_FILE: self.description.index_bytes}
        sizes |= {shard.name: shard.bytes for shard in self.description.shards}
        for name, expected in sizes.items():
            path = folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != expected:
                state = "is missing" if found is None else f"has {found:,} bytes instead of {expected:,}"
                raise DataError(f"{path}: {state}; copy or build the clip store again")

    def __reduce__(self) -> tuple[Any, ...]:
        return ClipStore, (self.folder,)

    @property
    def identity(self) -> str:
        """Returns the SHA-256 of the index, which names every stored clip with its checksum."""
        return self.description.index_sha256

    @cached_property
    def index(self) -> pyarrow.Table:
        """The index, one row per distinct span; mapped, not loaded."""
        path = self.folder / INDEX_FILE
        try:
            table = pyarrow.ipc.open_file(pyarrow.memory_map(str(path))).read_all()
        except (OSError, pyarrow.ArrowException) as error:
            raise DataError(f"{path}: cannot be read as the index of a clip store ({error}); build it again") from error
        if not table.schema.equals(INDEX_SCHEMA):
            raise DataError(f"{path}: is not the index of a clip store of version {FORMAT_VERSION}; build it again")
        return table

    def require_fits(self, wanted: PictureSettings) -> None:
        """Raises `ConfigError` naming every setting in which the store differs from what a model wants."""
        from exo2ego.data.pixels import padding_colour  # imports torch

        has = self.description
        pairs: dict[str, tuple[object, object]] = {
            "frames per clip": (has.num_frames, wanted.num_frames),
            "image size": (has.image_size, wanted.image_size),
            "aspect": (has.aspect, wanted.aspect),
        }
        if has.aspect == wanted.aspect == "pad":
            pairs["padding colour"] = (has.padding_colour, padding_colour(wanted.image_mean))
        faults = [f"{name}: {there!r} there, {here!r} wanted" for name, (there, here) in pairs.items() if there != here]
        if faults:
            raise ConfigError(
                f"clip store {self.folder} was made for another model:\n  " + "\n  ".join(faults) + "\n"
                "  build one with these values, or read the videos themselves (clip_store=null)"
            )

    def read(self, span: Span) -> StoredClip:
        """Returns the frames of a span.

        Raises `VideoError` where the span could not be read when the store was made (with the same reason as then) or
        its bytes are damaged, `DataError` where the store was not made for it.
        """
        row = self._row(span)
        if row["shard"] is None:
            raise VideoError(span.video, row["reason"], f"{row['detail']} (when {self.folder} was made)")
        path = self.folder / self.description.shards[row["shard"]].name
        payload = read_payload(path, row["offset"], row["size"], row["crc32"])
        size, height, width = self.description.image_size, row["height"], row["width"]
        box = stored_box(height, width, size, self.description.aspect)
        times_s, places = numpy.unique(row["timestamps_s"], return_inverse=True)
        stored = decode_clip(payload, path, (len(times_s), box[1] - box[0], box[3] - box[2]))
        frames = _padded(stored, places, size, box, self.description.padding_colour)
        return StoredClip(frames, row["timestamps_s"], (height, width))

    def _row(self, span: Span) -> dict[str, Any]:
        high, low = split_key(span.key)
        first = int(numpy.searchsorted(self._key_high, numpy.uint64(high)))
        while first < len(self._key_high) and int(self._key_high[first]) == high:
            if self.index["key_low"][first].as_py() == low:
                return {name: self.index[name][first].as_py() for name in INDEX_SCHEMA.names}
            first += 1
        raise DataError(
            f"{self.folder}: the clip store has no entry for {span.video} from {span.start_s} to {span.end_s} s; it "
            "was made of another table or of other views: build it for this one, or read the videos (clip_store=null)"
        )

    @cached_property
    def _key_high(self) -> NDArray[numpy.uint64]:
        column = self.index["key_high"]
        if not column.num_chunks:
            return numpy.empty(0, dtype=numpy.uint64)
        return numpy.asarray(numpy.from_dlpack(column.chunk(0)), dtype=numpy.uint64)


def read_description(folder: Path) -> StoreDescription:
    """Reads `store.json`; raises `DataError` where there is none or it is not of this version."""
    path = folder / STORE_FILE
    if not path.is_file():
        raise DataError(f"{folder}: no complete clip store ({STORE_FILE} is missing); run data_builders.clip_store")
    values = read_json(path, "description of a clip store")
    try:
        return validate_config(StoreDescription, values, str(path))
    except ConfigError as error:
        raise DataError(f"{error}\n  not a clip store of version {FORMAT_VERSION}: build it again") from error


def split_key(key: str) -> tuple[int, int]:
    """Returns the two halves of a span's key as numbers."""
    return int(key[:16], 16), int(key[16:], 16)


def stored_box(height: int, width: int, size: int, aspect: Aspect) -> tuple[int, int, int, int]:
    """Returns (top, bottom, left, right) of the part of the square picture that is stored.

    It is the part that shows anything of a video of this height and width, grown to even edges (4:2:0 video).
    """
    if aspect != "pad" or height == width:
        return 0, size, 0, size
    side = max(height, width)
    if width > height:
        return (*_covered(height, side, size), 0, size)
    return (0, size, *_covered(width, side, size))


def _padded(
    stored: FrameArray, places: NDArray[numpy.intp], size: int, box: tuple[int, int, int, int], colour: Sequence[int]
) -> FrameArray:
    """Returns the stored pictures [n, h, w, 3] at `places` [T] as square pictures [T, S, S, 3], padding around them."""
    top, bottom, left, right = box
    frames = numpy.empty((len(places), size, size, 3), dtype=numpy.uint8)
    line = numpy.tile(numpy.asarray(colour, dtype=numpy.uint8), (size, 1))  # whole lines: 20 times a colour's speed
    frames[:, :top], frames[:, bottom:] = line, line
    frames[:, top:bottom, :left], frames[:, top:bottom, right:] = line[:left], line[right:]
    for frame, place in zip(frames, places, strict=True):
        frame[top:bottom, left:right] = stored[place]
    return frames


def _covered(length: int, side: int, size: int) -> tuple[int, int]:
    """Returns the even bounds of what bicubic resizing of `side` to `size` lets the middle `length` touch."""
    before = (side - length) // 2
    reach = max(2.0, 2.0 * side / size)  # the bicubic kernel's half width, in source pixels
    first = int((before - reach) * size / side) - 1
    last = int(numpy.ceil((before + length + reach) * size / side)) + 1
    return max(0, first - first % 2), min(size, last + last % 2)


def read_payload(path: Path, offset: int, size: int, crc32: int) -> bytes:
    """Returns the bytes of one clip; raises `VideoError` (damaged_store) when they are not those that were written."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            payload = os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise VideoError(path, "damaged_store", f"cannot be read ({error.strerror})") from error
    if len(payload) != size or zlib.crc32(payload) != crc32:
        raise VideoError(
            path,
            "damaged_store",
            f"the clip at byte {offset} is not what was written: find all damage with `--verify`, copy the shard again",
        )
    return payload


def decode_clip(payload: bytes, path: Path, shape: tuple[int, int, int]) -> FrameArray:
    """Returns all pictures [T, h, w, 3] of a stored mp4; raises `VideoError` where they are not of this shape."""
    import av
    from av.video.reformatter import VideoReformatter

    from exo2ego.data.decoders.container import MP4_OPTIONS, typed_errors

    frames = numpy.empty((*shape, 3), dtype=numpy.uint8)
    options = {"protocol_whitelist": "", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2", **MP4_OPTIONS}
    number = 0
    with typed_errors(path, "damaged_store", "a clip cannot be decoded"):
        with av.open(io.BytesIO(payload), format="mp4", options=options) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            if (codec.height, codec.width) != shape[1:]:
                raise ValueError(f"expected pictures of {shape[2]}x{shape[1]}, got {codec.width}x{codec.height}")
            codec.thread_count, codec.skip_frame = 1, "DEFAULT"
            reformatter = VideoReformatter()
            for frame in container.decode(stream):
                rgb = reformatter.reformat(frame, format="rgb24", threads=1)
                plane = numpy.frombuffer(memoryview(rgb.planes[0]), dtype=numpy.uint8)
                rows = plane.reshape(rgb.height, rgb.planes[0].line_size)[:, : rgb.width * 3]
                if number == len(frames):
                    raise ValueError(f"expected {len(frames)} pictures, got more")
                frames[number] = rows.reshape(rgb.height, rgb.width, 3)
                number += 1
        if number != len(frames):
            raise ValueError(f"expected {len(frames)} pictures, got {number}")
    return frames


def damaged_files(store: ClipStore) -> list[str]:
    """Returns, for every file of a store whose SHA-256 is another than recorded, a line that says so."""
    files: Sequence[tuple[str, str]] = [
        (INDEX_FILE, store.description.index_sha256),
        *((shard.name, shard.sha256) for shard in store.description.shards),
    ]
    return [
        f"{store.folder / name}: its SHA-256 is not {sha}"
        for name, sha in files
        if hash_file(store.folder / name) != sha
    ]
