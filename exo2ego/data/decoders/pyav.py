"""The default decoder: PyAV, which refuses hostile files and decodes little more than the wanted frames."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from exo2ego.data.decoders import (
    END_SLACK_S,
    FloatArray,
    FrameArray,
    FramePlace,
    VideoInfo,
    require_start_inside,
)
from exo2ego.data.decoders.container import declared_end_s, open_video, typed_errors
from exo2ego.errors import VideoError

SEEK_BACK_S = 10.0  # how far before the wanted instant to try again where an index points behind its key frame


@dataclass
class _Listing:
    """Presentation times, in ticks and ascending, of the packets on and around a span."""

    pts: list[int] = field(default_factory=list)
    key_pts: list[int] = field(default_factory=list)
    end_pts: int = 0
    """When the last listed frame leaves the screen."""
    last_dts: int = 0
    """When the last listed packet is decoded: every frame shown before is listed, some shown later may not be."""
    reached_end: bool = False
    cut_off: bool = False
    """The file ends in the middle of a packet."""

    def key_before(self, pts: int) -> int:
        return self.key_pts[bisect.bisect_right(self.key_pts, pts) - 1]


class PyAVReader:
    """Reads a video file in two passes: packet times of the span first, then only the groups of pictures it needs.

    Times are presentation times, so variable frame rates need no special care. Raises `VideoError`: as `open_video`,
    and truncated, damaged, empty_span.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._container, self._stream = open_video(path)
        self._codec = self._stream.codec_context
        self._tick_s = float(self._stream.time_base or 0)
        # AVI stores no presentation times: its frames are counted from the start, in the order they are shown in.
        self._counts_frames = self._container.format.name == "avi"
        self._origin = 0 if self._counts_frames else self._stream.start_time or 0
        self._reformatter = VideoReformatter()
        self._rotation = 0
        self._listing = _Listing()

    def list_frames(self, start_s: float | None, end_s: float | None) -> FloatArray:
        """Returns the times [n] in seconds of the frames on and around the span, without decoding."""
        start_pts = self._origin if start_s is None else self._to_pts(start_s)
        with typed_errors(self._path, "damaged", "its packets cannot be read"):
            self._listing = self._list_packets(start_pts, None if end_s is None else self._to_pts(end_s))
        if not self._listing.pts:
            raise VideoError(self._path, "truncated", "has no readable frame: download or copy it again")
        if self._listing.reached_end:
            self._check_end(start_s, end_s)
        return (np.asarray(self._listing.pts, dtype=np.float64) - self._origin) * self._tick_s

    def read(self, indices: Sequence[int]) -> FrameArray:
        """Returns the frames [len(indices), H, W, 3], uint8 RGB, upright, at these places of the last list."""
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(self._listing.pts[index], []).append(place)
        frames = np.empty(0, dtype=np.uint8)
        with typed_errors(self._path, "damaged", "a picture cannot be decoded"):
            for key_pts, group in itertools.groupby(sorted(places), self._listing.key_before):
                for pts, picture in self._decode(key_pts, set(group)):
                    if not frames.size:
                        frames = np.empty((len(indices), *picture.shape), dtype=np.uint8)
                    frames[places[pts]] = picture  # a ValueError, hence "damaged", if the picture size changes
        return frames

    def places(self, indices: Sequence[int]) -> list[FramePlace]:
        """Returns where the frames at these places of the last list lie."""
        ticks = [self._listing.pts[index] for index in indices]
        return [FramePlace(self._listing.key_before(tick), tick) for tick in ticks]

    def read_group(self, group: int, ticks: Collection[int]) -> Iterator[tuple[int, FrameArray]]:
        """Yields (tick, picture [H, W, 3], RGB, upright) of frames that are decoded from one key frame on."""
        with typed_errors(self._path, "damaged", "a picture cannot be decoded"):
            yield from self._decode(group, set(ticks))

    def info(self) -> VideoInfo:
        """Decodes the first frame, checks that the last one is there, and returns what was found."""
        self.list_frames(0.0, 0.0)
        height, width = self.read([0]).shape[1:3]
        self.list_frames(declared_end_s(self._container, self._stream), None)
        return VideoInfo(
            width=width,
            height=height,
            duration_s=self._seconds(self._listing.end_pts),
            frame_rate=float(self._stream.average_rate or self._stream.guessed_rate or 0),
            num_frames=self._stream.frames or None,
            codec=self._codec.codec.canonical_name,
            rotation=self._rotation % 360,
        )

    def close(self) -> None:
        """Releases the file."""
        self._container.close()

    def _to_pts(self, instant_s: float) -> int:
        return self._origin + round(instant_s / self._tick_s)

    def _list_packets(self, start_pts: int, end_pts: int | None) -> _Listing:
        """Reads packets from the key frame before `start_pts` until no later packet can lie in the span."""
        listing = _Listing(reached_end=True)
        past_span_pts: int | None = None
        for number, packet in enumerate(self._packets_from(start_pts)):
            pts = number if self._counts_frames else _presentation_time(packet)
            if packet.is_corrupt or packet.size == 0 or pts is None:
                listing.cut_off = packet.is_corrupt
                break
            if not listing.key_pts or (packet.is_keyframe and not self._counts_frames):
                bisect.insort(listing.key_pts, pts)
            if not packet.is_discard and pts >= listing.key_pts[0]:
                bisect.insort(listing.pts, pts)
                listing.end_pts = max(listing.end_pts, pts + (packet.duration or 0))
            listing.last_dts = pts if packet.dts is None else packet.dts
            if end_pts is not None and pts > end_pts:
                past_span_pts = pts if past_span_pts is None else min(pts, past_span_pts)
            # Nothing is shown before it is decoded: no packet after this one is shown before `past_span_pts`.
            if past_span_pts is not None and packet.dts is not None and packet.dts > past_span_pts:
                listing.reached_end = False
                break
        return listing

    def _packets_from(self, pts: int) -> Iterator[Packet[VideoStream]]:
        """Yields the packets from a key frame at or before `pts` to the end of the file."""
        back = round(SEEK_BACK_S / self._tick_s)
        earliest = self._origin if self._counts_frames else self._origin - back
        targets = (earliest,) if self._counts_frames else (pts, pts - back, earliest)
        for target in targets:
            self._container.seek(target, stream=self._stream)
            packets = self._container.demux(self._stream)
            first = next(packets)  # past the end there is still the empty packet that flushes the decoder
            first_pts = _presentation_time(first)
            if target == earliest or (first_pts is not None and first_pts <= pts):
                yield first
                yield from packets
                return

    def _check_end(self, start_s: float | None, end_s: float | None) -> None:
        """Raises where the span reaches past the last readable frame although the file promised more, or lies past."""
        declared_s = declared_end_s(self._container, self._stream) or 0.0
        present_s = self._seconds(self._listing.end_pts)
        promised_more = self._listing.cut_off or declared_s > present_s + END_SLACK_S
        if promised_more and (end_s is None or end_s > self._seconds(self._listing.last_dts)):
            raise VideoError(
                self._path,
                "truncated",
                f"ends after {present_s:.3f} s of the {declared_s:.3f} s it declares: download or copy it again",
            )
        require_start_inside(self._path, start_s, present_s)

    def _decode(self, key_pts: int, wanted: set[int]) -> Iterator[tuple[int, FrameArray]]:
        """Yields (time, picture [H, W, 3]) of the wanted frames, which belong to the group of pictures at `key_pts`."""
        missing = set(wanted)
        number = itertools.count()
        for packet in self._packets_from(key_pts):
            if self._codec.name == "h264" and not self._counts_frames:
                # Pictures to which no other refers need no decoding when they are not wanted. (Other codecs may
                # still refer to pictures that they mark so.)
                self._codec.skip_frame = "DEFAULT" if _presentation_time(packet) in missing else "NONREF"
            for frame in self._codec.decode(None) if packet.is_corrupt else packet.decode():
                pts = next(number) if self._counts_frames else frame.pts
                if pts is None or pts < key_pts:  # pictures of an open group, which refer to the group before
                    continue
                if frame.is_corrupt:
                    raise VideoError(self._path, "damaged", f"the picture at {self._seconds(pts):.3f} s is damaged")
                if pts in missing:
                    missing.remove(pts)
                    yield pts, self._upright(frame)
            if packet.is_corrupt or not missing:
                break
        if missing:
            raise VideoError(self._path, "damaged", f"has no decodable picture at {self._seconds(min(missing)):.3f} s")

    def _seconds(self, pts: int) -> float:
        return (pts - self._origin) * self._tick_s

    def _upright(self, frame: VideoFrame) -> FrameArray:
        self._rotation = frame.rotation
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        plane = np.frombuffer(memoryview(rgb.planes[0]), dtype=np.uint8).reshape(rgb.height, rgb.planes[0].line_size)
        picture = plane[:, : rgb.width * 3].reshape(rgb.height, rgb.width, 3)
        return np.rot90(picture, round(self._rotation / 90))


def _presentation_time(packet: Packet[VideoStream]) -> int | None:
    return packet.dts if packet.pts is None else packet.pts
