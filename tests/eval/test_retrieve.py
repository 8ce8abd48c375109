"""`python -m eval.retrieve`: the whole gallery, in the files' order, once per clip, also after a kill."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest

from eval import mir, retrieve
from eval.retrieval import gallery
from eval.retrieval.open_clip_encoder import OpenClipEncoder
from exo2ego.data.video import read_frames
from exo2ego.errors import DataError, EvaluationError
from exo2ego.storage import read_jsonl
from tests.eval.evaluation_setup import write_video
from tests.eval.tiny_open_clip import ARCHITECTURE, registered, write_checkpoint

COLUMNS = ["narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "narration"]
COLUMNS += ["verb_class", "all_noun_classes"]
CAPTIONS = ["open box", "take red cup", "stir soup", "open box", "wash plate", "count"]
NUM_CLIPS = len(CAPTIONS)
SENTENCES = [(0, "open box"), (3, "open box"), (1, CAPTIONS[1]), (4, CAPTIONS[4]), (5, CAPTIONS[5]), (2, CAPTIONS[5])]
"""The second repeats the first; the last has the text of another clip, as the seven last ones of the real file do."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("epic")
    write_video(folder / "media" / "P01" / "videos" / "P01_11.MP4", seed=1)
    write_video(folder / "media" / "P02" / "P02_03.mp4", seed=2)
    with (folder / "test.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for number, caption in enumerate(CAPTIONS):
            video = "P01_11" if number % 2 else "P02_03"
            times = f"00:00:00.{10 + 10 * number:02d}", f"00:00:01.{10 * number:02d}"
            row = [f"{video}_{number}", video[:3], video, *times, caption, number % 3, f"[{number}]"]
            writer.writerow(dict(zip(COLUMNS, row, strict=True)))
    with (folder / "sentences.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["narration_id", "narration"]])
        for number, text in SENTENCES:
            csv.writer(stream).writerow([f"{'P01_11' if number % 2 else 'P02_03'}_{number}", text])
    with registered(folder / "configs"):
        write_checkpoint(folder / "tiny.safetensors")
        yield folder


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "CLIPS_PER_PART", 2)


def arguments(root: Path, place: Path, **changes: str) -> list[str]:
    named = {
        "model": f"open_clip:{ARCHITECTURE}@{root / 'tiny.safetensors'}",
        "videos": str(root / "test.csv"),
        "sentences": str(root / "sentences.csv"),
        "media-root": str(root / "media"),
        "out": str(place),
        "num-frames": "2",
        **changes,
    }
    return [part for name, value in named.items() for part in (f"--{name}", value)]


def test_every_similarity_stands_in_its_place_and_can_be_scored(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sim.npy"
    assert retrieve.main(arguments(root, out)) == 0
    assert "python -m eval.mir" in capsys.readouterr().out
    found = numpy.load(out)
    assert (found.shape, found.dtype) == ((NUM_CLIPS, len(SENTENCES)), numpy.float32)
    encoder = OpenClipEncoder.load(f"{ARCHITECTURE}@{root / 'tiny.safetensors'}", 2)
    texts = encoder.encode_text([CAPTIONS[number] for number, _ in SENTENCES])
    for number in range(NUM_CLIPS):
        video = "P01/videos/P01_11.MP4" if number % 2 else "P02/P02_03.mp4"
        frames = read_frames(root / "media" / video, 0.1 + 0.1 * number, 1 + 0.1 * number, 2)
        assert found[number] == pytest.approx(texts @ encoder.encode_video(frames), abs=1e-5)
    wrong = encoder.encode_text([SENTENCES[-1][1]])[0] @ encoder.encode_video(frames)
    assert found[-1, -1] != pytest.approx(wrong, abs=1e-4), "the text of the row counts for nothing"
    made = json.loads((tmp_path / "sim.npy.json").read_text())
    assert made["key"]["num_frames"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sim.npy", "sim.npy.json"]
    scored = ["--videos", str(root / "test.csv"), "--sentences", str(root / "sentences.csv"), "--json"]
    assert mir.main([*scored, "--similarity", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["num_videos"] == NUM_CLIPS


def test_finished_parts_are_not_made_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole.npy", tmp_path / "sim.npy"
    assert retrieve.main(arguments(root, whole)) == 0
    own = OpenClipEncoder.encode_video
    calls = 0

    def dies_at_the_fourth(self: OpenClipEncoder, frames: numpy.ndarray) -> numpy.ndarray:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return own(self, frames)

    monkeypatch.setattr(OpenClipEncoder, "encode_video", dies_at_the_fourth)
    assert retrieve.main(arguments(root, out)) == 130
    parts = tmp_path / "sim.npy.parts"
    assert [path.name for path in sorted(parts.glob("*.npy"))] == ["clips-000000.npy"]
    calls = 10
    assert retrieve.main(arguments(root, out)) == 0
    assert calls == 10 + NUM_CLIPS - 2
    assert out.read_bytes() == whole.read_bytes()
    assert not parts.exists()
    assert retrieve.main(arguments(root, out)) == 0, "it is there already"
    assert calls == 10 + NUM_CLIPS - 2


def test_a_killed_run_continues(root: Path, tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from eval import retrieve\nfrom eval.retrieval import gallery\n"
        "from eval.retrieval.open_clip_encoder import OpenClipEncoder\n"
        "from tests.eval.tiny_open_clip import registered\n"
        "gallery.CLIPS_PER_PART = 2\n"
        "own = OpenClipEncoder.encode_video\n"
        "OpenClipEncoder.encode_video = lambda self, frames: (time.sleep(0.5), own(self, frames))[1]\n"
        f"with registered(Path({str(tmp_path / 'configs')!r})):\n"
        "    sys.exit(retrieve.main(sys.argv[1:]))\n"
    )
    out = tmp_path / "sim.npy"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", program, *arguments(root, out)], env=environment)
    part = tmp_path / "sim.npy.parts" / "clips-000000.npy"
    deadline = time.monotonic() + 300
    while not part.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert part.exists()
    assert not out.exists()
    assert retrieve.main(arguments(root, out)) == 0
    assert retrieve.main(arguments(root, tmp_path / "whole.npy")) == 0
    assert out.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_runs_do_not_mix(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sim.npy"
    assert retrieve.main(arguments(root, out)) == 0
    assert retrieve.main(arguments(root, out, **{"num-frames": "3"})) == EvaluationError.exit_code
    assert "is there already and of another run" in " ".join(capsys.readouterr().err.split())
    parts = tmp_path / "other.npy.parts"
    parts.mkdir()
    (parts / "run.json").write_text(json.dumps({"model": "another"}))
    assert retrieve.main(arguments(root, tmp_path / "other.npy")) == EvaluationError.exit_code
    assert "holds clips of another run" in " ".join(capsys.readouterr().err.split())


def test_parts_of_other_clips_are_not_taken(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts go by number: with another file of clips they would be rows of other clips."""
    own = OpenClipEncoder.encode_video
    calls = 0

    def dies_at_the_third(self: OpenClipEncoder, frames: numpy.ndarray) -> numpy.ndarray:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return own(self, frames)

    monkeypatch.setattr(OpenClipEncoder, "encode_video", dies_at_the_third)
    assert retrieve.main(arguments(root, tmp_path / "sim.npy")) == 130
    header, *rows = (root / "test.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    turned = tmp_path / "turned.csv"
    turned.write_text("".join([header, *reversed(rows)]), encoding="utf-8")
    assert retrieve.main(arguments(root, tmp_path / "sim.npy", videos=str(turned))) == EvaluationError.exit_code
    assert "holds clips of another run (videos differ)" in " ".join(capsys.readouterr().err.split())


def test_clips_that_cannot_be_read_are_listed_and_no_matrix_is_written(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media = tmp_path / "media"
    write_video(media / "P01_11.MP4", seed=1)
    out = tmp_path / "sim.npy"
    assert retrieve.main(arguments(root, out, **{"media-root": str(media)})) == DataError.exit_code
    said = " ".join(capsys.readouterr().err.split())
    assert f"3 of {NUM_CLIPS} clips cannot be read" in said
    rows = list(read_jsonl(tmp_path / "sim.npy.parts" / "failures.jsonl"))
    assert [row["reason"] for row in rows] == ["missing"] * 3
    assert not out.exists()
    write_video(media / "P02_03.MP4", seed=2)
    assert retrieve.main(arguments(root, out, **{"media-root": str(media)})) == 0


def test_embeddings_that_are_no_numbers_name_the_clip(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = numpy.full(16, numpy.nan, numpy.float32)
    monkeypatch.setattr(OpenClipEncoder, "encode_video", lambda self, frames: nan)
    assert retrieve.main(arguments(root, tmp_path / "sim.npy")) == EvaluationError.exit_code
    assert "clip P02_03_0: its embedding is not finite" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(OpenClipEncoder, "encode_text", lambda self, texts: numpy.stack([nan] * len(texts)))
    assert retrieve.main(arguments(root, tmp_path / "sim.npy")) == EvaluationError.exit_code
    assert "embedding of 'open box' is not finite" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"media-root": "absent"}, "is not a folder"),
        ({"out": "sim.txt"}, "ends in .npy"),
        ({"videos": "absent.csv"}, "cannot be read"),
        ({"model": "endpoint:gpt"}, "expected FAMILY:SOURCE of a dual encoder"),
    ],
)
def test_bad_arguments_are_named(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], message: str
) -> None:
    assert retrieve.main(arguments(root, tmp_path / "sim.npy", **change)) != 0
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_damaged_part_is_named(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    media = tmp_path / "media"
    write_video(media / "P02_03.MP4", seed=2)
    write_video(media / "P01_11.MP4", seed=1)
    clips = gallery.read_gallery(root / "test.csv", root / "sentences.csv").clips
    encoder = OpenClipEncoder.load(f"{ARCHITECTURE}@{root / 'tiny.safetensors'}", 2)
    parts = tmp_path / "parts"
    rows = gallery.embed_clips(clips, encoder, media, parts, {"model": "one"}, 0)
    assert rows.shape == (NUM_CLIPS, 16)
    part = parts / "clips-000002.npy"
    part.write_bytes(part.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"clips-000002.npy: cannot be read .*remove it and run again"):
        gallery.embed_clips(clips, encoder, media, parts, {"model": "one"}, 0)
    numpy.save(part, numpy.zeros((1, 16), numpy.float32))
    with pytest.raises(DataError, match=r"has shape \(1, 16\), expected 2 rows"):
        gallery.embed_clips(clips, encoder, media, parts, {"model": "one"}, 0)
