"""Cuts the spans that questions are about into video files, for frameworks whose models take nothing but a file.

`python -m eval.clip_files data.root=VIDEOS` cuts what the tables of EgoBench need, once (docs/lmms_eval.md). A clip has
every frame of its span at its own time and no other, and behind them the observed instant where there is one. A
question about a whole video file is shown that file.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

from pydantic import Field

from eval.questions import QuestionSource, question_files, read_questions
from exo2ego.command_line import RunOptions, run_configured
from exo2ego.config import Config
from exo2ego.console import console, track
from exo2ego.data.decoders import FrameArray, FramePlace, SequentialReader
from exo2ego.data.sampling import nearest_frame
from exo2ego.data.spans import Span
from exo2ego.data.video import locate, open_reader, span_parts
from exo2ego.errors import DataError, VideoError
from exo2ego.parallel import in_threads
from exo2ego.provenance import provenance
from exo2ego.storage import atomic_path, hash_file, read_jsonl, write_json, write_jsonl

DESCRIPTION = """\
Cuts the spans that questions are about into mp4 files, for lmms-eval and other frameworks. What is there already is
kept: the same command continues where it was stopped."""

CLIPS_FOLDER = "egobench/clips"
"""Where clips lie in the folder of the videos, unless said otherwise."""
FAILURES_FILE = "failures.jsonl"
CRF = 18
"""Quality of the H.264 picture: visually lossless, but not the same bits."""
TICKS_PER_SECOND = 90_000
FEWEST_FRAMES = 2
"""Of a clip: the one frame of an instant is written twice, because some models refuse a video of one."""


class ClipFilesConfig(Config):
    """Which spans to cut."""

    data: QuestionSource
    """Where videos and questions lie."""
    tasks: list[str] | None = Field(default=None, min_length=1)
    """Tables of questions, or all of a dataset: egoschema, qaego4d, …; null: all that `data` has."""
    clips: Path | None = None
    """Folder for the clips; null: `egobench/clips` in `data.root`."""
    num_workers: int = Field(default=2, ge=1)
    """Threads that cut."""
    max_failure_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of clips whose video may be unreadable, before the command counts as failed."""


class UncutSpan(NamedTuple):
    """A span of a video that cannot be read."""

    span: Span
    error: VideoError


def clip_file(span: Span, root: Path, folder: Path) -> Path:
    """Returns a video file that shows the span and nothing else; cuts it into `folder` where it is not there yet.

    Raises `VideoError` where the video cannot be read.
    """
    source = locate(root / span.video, root)
    if _is_shown_whole(span, root):
        return source
    path = clip_path(span, folder)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            _cut(span, root, temporary)
    return path


def clip_path(span: Span, folder: Path) -> Path:
    """Returns where the clip of a span lies."""
    return folder / f"{span.key}.mp4"


def unreadable_videos(folder: Path) -> dict[str, str]:
    """Returns why spans cannot be cut, by `Span.key`, as the last `python -m eval.clip_files` found; none before it."""
    path = folder / FAILURES_FILE
    return {row["key"]: row["detail"] for row in read_jsonl(path, "list of failures")} if path.exists() else {}


def _cut(span: Span, root: Path, target: Path) -> None:
    """Writes every frame of the span, and the observed one behind them, as an mp4 that begins at 0 s."""
    path = root / span.video
    reader = cast("SequentialReader", open_reader(path, frame_rate=span.frame_rate, within=root))
    try:
        frames, interval_s = _frames_of(span, path, reader)
        _write(target, _pictures(reader, frames, interval_s), interval_s, path)
    finally:
        reader.close()


def _frames_of(span: Span, path: Path, reader: SequentialReader) -> tuple[list[tuple[FramePlace, float]], float]:
    """Returns (place, seconds from the start of the clip) of every frame to show, and their mean distance in s."""
    frames: list[tuple[FramePlace, float]] = []
    interval_s = 1.0
    for start_s, end_s, _ in span_parts(path, span.start_s, span.end_s, FEWEST_FRAMES, span.observation_s):
        listed_s = reader.list_frames(start_s, end_s)
        first = 0 if start_s is None else nearest_frame(listed_s, start_s)
        last = len(listed_s) - 1 if end_s is None else nearest_frame(listed_s, end_s)
        places = reader.places(range(first, last + 1))
        if not frames:
            if len(listed_s) > 1:
                interval_s = float(listed_s[-1] - listed_s[0]) / (len(listed_s) - 1)
            frames += zip(places, map(float, listed_s[first : last + 1] - listed_s[first]), strict=True)
        elif frames[-1][0].tick != places[-1].tick:  # mostly the span ends with what is observed
            frames.append((places[-1], frames[-1][1] + interval_s))
    return frames, interval_s


def _write(target: Path, pictures: Iterator[tuple[float, FrameArray]], interval_s: float, source: Path) -> None:
    """Writes (time in s, picture [H, W, 3]) as an mp4 in which every picture stands at its time."""
    import av

    begin_s, first = next(pictures)
    height, width = (edge - edge % 2 for edge in first.shape[:2])  # H.264 halves the colours: an odd edge is cut off
    with av.open(str(target), "w", format="mp4") as container:
        rate = Fraction(round(1000 / interval_s), 1000)  # how long the last picture stands
        stream = container.add_stream("libx264", rate, options={"crf": str(CRF), "preset": "veryfast", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS_PER_SECOND)
        for time_s, picture in itertools.chain([(begin_s, first)], pictures):
            if picture.shape != first.shape:
                raise VideoError(source, "damaged", "its pictures change their size within the span")
            frame = av.VideoFrame.from_ndarray(picture[:height, :width].copy(), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, TICKS_PER_SECOND), round(time_s * TICKS_PER_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures(
    reader: SequentialReader, frames: Sequence[tuple[FramePlace, float]], interval_s: float
) -> Iterator[tuple[float, FrameArray]]:
    """Yields (seconds, picture [H, W, 3]) of the frames, decoded from one key frame after the other."""
    for group, members in itertools.groupby(frames, key=lambda frame: frame[0].group):
        times_s = {place.tick: time_s for place, time_s in members}
        for tick, picture in reader.read_group(group, times_s):
            yield times_s[tick], picture
    for number in range(len(frames), FEWEST_FRAMES):
        yield frames[-1][1] + (number - len(frames) + 1) * interval_s, picture


def cut_all(spans: Sequence[Span], root: Path, folder: Path, num_workers: int) -> list[UncutSpan]:
    """Cuts the spans that are not there yet; returns those that cannot be, and writes them to `failures.jsonl`."""

    def cut(span: Span) -> UncutSpan | None:
        try:
            clip_file(span, root, folder)
        except VideoError as error:
            return UncutSpan(span, error)
        return None

    folder.mkdir(parents=True, exist_ok=True)
    done = track(in_threads(cut, spans, num_workers), "clips", total=len(spans))
    failed = sorted((uncut for uncut in done if uncut is not None), key=lambda uncut: uncut.span.key)
    write_jsonl(
        folder / FAILURES_FILE,
        (
            {"key": span.key, "video": span.video, "reason": error.reason, "detail": error.detail}
            for span, error in failed
        ),
    )
    return failed


def show_plan(spans: Sequence[Span], root: Path, folder: Path) -> int:
    """Says what would be cut, and cuts the first of it into a temporary folder; nothing else is written."""
    in_parts = [span for span in spans if not _is_shown_whole(span, root)]
    missing = [span for span in in_parts if not clip_path(span, folder).exists()]
    console.print(
        f"{folder}: would cut {len(missing)} clips; {len(in_parts) - len(missing)} are there; "
        f"{len(spans) - len(in_parts)} videos are shown whole, as they are",
        markup=False,
    )
    with tempfile.TemporaryDirectory() as temporary:
        for failed in cut_all(missing[:1], root, Path(temporary), 1):
            console.print(f"the first cannot be cut: {failed.error}", markup=False)
    return 0


def _is_shown_whole(span: Span, root: Path) -> bool:
    return span[1:] == Span(span.video, None, None)[1:] and (root / span.video).is_file()


def run(config: ClipFilesConfig, options: RunOptions) -> int:
    """Cuts the spans of all questions, and says how many there are; raises `DataError` where too many fail."""
    files = question_files(config.data, config.tasks)
    spans = list(dict.fromkeys(Span.of(question) for question in read_questions(files, config.tasks)))
    folder = config.clips or config.data.root / CLIPS_FOLDER
    if options.dry_run:
        return show_plan(spans, config.data.root, folder)
    failed = cut_all(spans, config.data.root, folder, config.num_workers)
    inputs = {str(path): hash_file(path) for path in files}
    write_json(folder / "clips.json", {"provenance": provenance(config.model_dump(mode="json"), None, inputs)})
    num_cut = sum(clip_path(span, folder).exists() for span in spans)
    console.print(
        f"{folder}: {num_cut} clips; {len(spans) - num_cut - len(failed)} videos are shown whole, as they are; "
        f"{len(failed)} cannot be read" + (f" (listed in {FAILURES_FILE})" if failed else ""),
        markup=False,
    )
    if len(failed) > config.max_failure_rate * len(spans):
        raise DataError(
            f"{len(failed)} of {len(spans)} clips cannot be cut, the first: {failed[0].error}; repair the videos and "
            "run again, or raise max_failure_rate"
        )
    return 0


CONFIG = ClipFilesConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.clip_files`."""
    return run_configured("eval.clip_files", DESCRIPTION, ClipFilesConfig, run, argv, has_checkpoints=False)


if __name__ == "__main__":
    sys.exit(main())
