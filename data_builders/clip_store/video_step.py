"""The step that every engine runs: all clips of one source video, from the video to its part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy

from data_builders.clip_store.encoding import encode_clip, tar_members
from data_builders.clip_store.options import ClipStoreOptions
from data_builders.clip_store.parts import Part, failed_row, fingerprint, write_part, write_rows
from data_builders.clip_store.source_video import Beat, Fit, SpanFrames, read_spans
from exo2ego.data.clip_store import Aspect, stored_box
from exo2ego.data.decoders import FrameArray
from exo2ego.data.spans import Span
from exo2ego.errors import VideoError


class VideoJob(NamedTuple):
    """The spans of one video, sorted."""

    video: str
    spans: list[Span]


@dataclass(frozen=True)
class VideoStep:
    """Reads one video and stores its clips, or only measures their size."""

    root: Path
    out: Path
    num_frames: int
    image_size: int
    aspect: Aspect
    pixel_statistics: Literal["clip", "siglip"]
    crf: int
    only_measure: bool = False

    @classmethod
    def of(cls, options: ClipStoreOptions, *, only_measure: bool = False) -> VideoStep:
        """Returns the step for the options, with absolute paths."""
        return cls(
            root=options.media_root.resolve(),
            out=options.out.resolve(),
            num_frames=options.num_frames,
            image_size=options.image_size,
            aspect=options.aspect,
            pixel_statistics=options.pixel_statistics,
            crf=options.crf,
            only_measure=only_measure,
        )

    def run(self, job: VideoJob, beat: Beat) -> int:
        """Writes the part of a video and returns how many of its spans failed; or returns the bytes per clip."""
        results = self._results(job, beat)
        if not self.only_measure:
            return write_part(Part.of(self.out, job.video), self.root / job.video, results)
        sizes = [
            len(tar_members(span, result.timestamps_s, result.source_size, clip)[0])
            for span, result, clip in results
            if isinstance(result, SpanFrames)
        ]
        return sum(sizes) // len(sizes) if sizes else 0

    def give_up(self, job: VideoJob, error: VideoError) -> int:
        """Writes down that no span of a video could be read; returns their number."""
        if self.only_measure:
            return 0
        part = Part.of(self.out, job.video)
        part.remove()
        part.members_path.parent.mkdir(parents=True, exist_ok=True)
        rows = [failed_row(span, error) for span in job.spans]
        write_rows(part, rows, fingerprint(self.root / job.video))
        return len(rows)

    def fit(self) -> Fit:
        """Returns training's own resize to the square picture."""
        from exo2ego.data.pixels import CLIP_MEAN, SIGLIP_MEAN, resize  # imports torch

        mean = CLIP_MEAN if self.pixel_statistics == "clip" else SIGLIP_MEAN

        def to_square(frames: FrameArray) -> FrameArray:
            squares = resize(frames, self.image_size, self.aspect, mean=mean)
            return numpy.asarray(squares.permute(0, 2, 3, 1).numpy())

        return to_square

    def _results(self, job: VideoJob, beat: Beat) -> Iterator[tuple[Span, SpanFrames | VideoError, bytes]]:
        for span, result in read_spans(self.root, job.video, job.spans, self.num_frames, self.fit(), beat):
            if isinstance(result, VideoError):
                yield span, result, b""
                continue
            top, bottom, left, right = stored_box(*result.source_size, self.image_size, self.aspect)
            pictures: Sequence[FrameArray] = [picture[top:bottom, left:right] for picture in result.pictures]
            yield span, result, encode_clip(pictures, self.crf)
            beat()
