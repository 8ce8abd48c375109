"""Reading generated videos of every kind: the very frames that the rule asks for, upright, at any place of the file."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from exo2ego.data.sampling import frame_indices, span_indices
from exo2ego.data.spans import Span
from exo2ego.data.video import VideoInfo, probe, read_frames, read_span
from exo2ego.errors import VideoError
from tests.data.generated_videos import FRAME_RATE, HEIGHT, WIDTH, cut, numbers, picture, write_audio, write_video
from tests.shared_data import REPOSITORY

UNEVEN_MS = np.cumsum(np.random.default_rng(1).integers(10, 120, 60)).tolist()
KINDS = {
    "h264.mp4": {},
    "h264_one_gop.mp4": {"encoder_options": {"g": "250"}},
    "h264_all_key.mp4": {"encoder_options": {"g": "1"}},
    "h264_open_gop.mp4": {"encoder_options": {"x264-params": "open-gop=1:bframes=5:b-adapt=0:b-pyramid=normal"}},
    "h264_audio_first.mp4": {"audio": True},
    "h264_index_first.mp4": {"muxer_options": {"movflags": "faststart"}},
    "h264_fragments.mp4": {"muxer_options": {"movflags": "frag_keyframe+empty_moov"}},
    "hevc.mp4": {"codec": "libx265"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "av1.mp4": {"codec": "libsvtav1"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "h264.mkv": {},
    "h264.avi": {},
    "mpeg4.avi": {"codec": "mpeg4"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("videos")
    for name, options in KINDS.items():
        write_video(made / name, **options)
    write_video(made / "uneven.mp4", times_ms=UNEVEN_MS)
    write_video(made / "uneven.mkv", times_ms=UNEVEN_MS)
    return made


def reason_of(path: Path, start_s: float | None = None, end_s: float | None = None, **options: object) -> str:
    with pytest.raises(VideoError) as caught:
        read_frames(path, start_s, end_s, 4, **options)
    return caught.value.reason


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_every_frame(folder: Path, name: str) -> None:
    frames = read_frames(folder / name, None, None, 60)
    assert frames.dtype == np.uint8
    assert frames.shape == (60, HEIGHT, WIDTH, 3)
    assert numbers(frames) == list(range(60))
    assert np.abs(frames[7].astype(int) - picture(7)).mean() < 12  # the picture itself, not only its number


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_gives_the_frames_of_a_span(folder: Path, name: str) -> None:
    times_s = np.arange(60) / FRAME_RATE
    for start_s, end_s in ((0.41, 1.09), (0.0, 0.04), (1.21, 1.21), (1.6, 2.0), (0.34, 1.9)):
        expected = span_indices(times_s, start_s, end_s, 16)
        assert numbers(read_frames(folder / name, start_s, end_s, 16)) == expected


@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv"])
@settings(max_examples=25)
@given(start_s=st.floats(0, 3.8), length_s=st.floats(0, 3), num_frames=st.integers(1, 20))
def test_variable_frame_rates_follow_the_times(
    folder: Path, name: str, start_s: float, length_s: float, num_frames: int
) -> None:
    times_s = (np.array(UNEVEN_MS) - UNEVEN_MS[0]) / 1000
    expected = span_indices(times_s, start_s, start_s + length_s, num_frames)
    assert numbers(read_frames(folder / name, start_s, start_s + length_s, num_frames)) == expected


def test_the_older_rule_can_be_asked_for(folder: Path) -> None:
    frames = read_frames(folder / "h264.mp4", None, None, 7, sampling="videollama2_2024_07")
    assert numbers(frames) == frame_indices(60, 7, "videollama2_2024_07") != frame_indices(60, 7)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_rotated_videos_stand_upright(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "rotated.mp4", 12, rotation=rotation)
    frames = read_frames(path, None, None, 12)
    stored = np.rot90(frames, -rotation // 90, axes=(1, 2))
    assert numbers(stored) == list(range(12))
    upright_size = (WIDTH, HEIGHT) if rotation % 180 == 0 else (HEIGHT, WIDTH)
    assert frames.shape[1:3] == upright_size[::-1]
    info = probe(path)
    assert (info.width, info.height, info.rotation) == (*upright_size, rotation)


def test_pictures_hidden_by_an_edit_list_are_not_shown(tmp_path: Path) -> None:
    path = write_video(tmp_path / "trimmed.mp4", 30, first_pts=-5)
    assert numbers(read_frames(path, None, None, 25)) == list(range(5, 30))
    assert numbers(read_frames(path, 0.0, 0.1, 4)) == [5, 6, 7, 8]


@pytest.mark.parametrize("num_frames", [1, 3])
def test_videos_shorter_than_asked_repeat_their_frames(tmp_path: Path, num_frames: int) -> None:
    path = write_video(tmp_path / "short.mp4", num_frames)
    assert numbers(read_frames(path, None, None, 16)) == frame_indices(num_frames, 16)
    assert numbers(read_frames(path, 0.0, 0.0, 2)) == [0, 0]


def test_zero_length_and_last_clips_give_the_nearest_frame(folder: Path) -> None:
    for name in ("h264.mp4", "vp9.webm", "h264.avi"):
        assert numbers(read_frames(folder / name, 1.0, 1.0, 3)) == [30, 30, 30]
        assert numbers(read_frames(folder / name, 2.0, 2.0, 2)) == [59, 59]
        assert numbers(read_frames(folder / name, 1.9, 2.4, 3)) == [57, 58, 59]
        assert numbers(read_frames(folder / name, -0.3, 0.02, 2)) == [0, 1]


@pytest.mark.parametrize("span", [(9.0, 9.5), (1.5, 1.0), (float("nan"), 1.0), (0.0, float("inf")), (-9.0, -8.0)])
def test_a_span_without_any_frame_is_an_error(folder: Path, span: tuple[float, float]) -> None:
    assert reason_of(folder / "h264.mp4", *span) == "empty_span"


def test_probe_says_what_a_file_holds(folder: Path) -> None:
    assert probe(folder / "h264.mp4") == VideoInfo(WIDTH, HEIGHT, 2.0, 30.0, 60, "h264", 0)
    webm = probe(folder / "vp9.webm")
    assert (webm.codec, webm.num_frames, webm.frame_rate) == ("vp9", None, 30.0)
    assert webm.duration_s == pytest.approx(2.0, abs=0.002)
    assert probe(folder / "h264.avi").duration_s == pytest.approx(2.0)


def test_reading_video_does_not_import_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from exo2ego.data.video import probe, read_frames;"
        f"path = Path({str(folder / 'h264.mp4')!r}); probe(path); read_frames(path, None, None, 2);"
        "assert 'torch' not in sys.modules and 'decord' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


class TestCutOffFiles:
    """A file that cannot give the asked frames is an error; the part that is there can still be read."""

    @pytest.mark.parametrize("name", ["h264_index_first.mp4", "h264_fragments.mp4", "vp9.webm", "h264.mkv", "h264.avi"])
    def test_missing_end(self, folder: Path, tmp_path: Path, name: str) -> None:
        path = cut(folder / name, tmp_path / name, 0.6)
        assert reason_of(path) == "truncated"
        with pytest.raises(VideoError, match="declares"):
            probe(path)

    @pytest.mark.parametrize("name", ["h264_index_first.mp4", "vp9.webm", "h264.mkv"])
    def test_a_span_is_complete_or_an_error(self, folder: Path, tmp_path: Path, name: str) -> None:
        path = cut(folder / name, tmp_path / name, 0.6)
        times_s = np.arange(60) / FRAME_RATE
        assert numbers(read_frames(path, 0.1, 0.5, 8)) == span_indices(times_s, 0.1, 0.5, 8)
        for end_s in np.arange(0.55, 2, 0.05):
            try:
                frames = read_frames(path, 0.3, end_s, 8)
            except VideoError as error:
                assert error.reason == "truncated"  # noqa: PT017 - either outcome is right, depending on the end
            else:
                assert numbers(frames) == span_indices(times_s, 0.3, end_s, 8)

    def test_missing_index(self, folder: Path, tmp_path: Path) -> None:
        assert reason_of(cut(folder / "h264.mp4", tmp_path / "cut.mp4", 0.6)) == "truncated"

    def test_empty_and_foreign_files(self, tmp_path: Path) -> None:
        (tmp_path / "empty.mp4").touch()
        (tmp_path / "text.mp4").write_text("hello\n" * 500)
        assert reason_of(tmp_path / "empty.mp4") == "unreadable"
        assert reason_of(tmp_path / "text.mp4") == "unreadable"
        assert reason_of(tmp_path / "absent.mp4") == "missing"
        assert reason_of(write_audio(tmp_path / "audio.mp4")) == "no_video_stream"

    def test_a_file_that_may_not_be_read(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path, *_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
        monkeypatch.setattr(Path, "iterdir", refuse)
        assert reason_of(folder / "h264.mp4") == "unreadable"
        assert reason_of(folder) == "unreadable"

    def test_damage_inside_a_picture_is_found(self, folder: Path, tmp_path: Path) -> None:
        data = bytearray((folder / "h264_index_first.mp4").read_bytes())
        for position in np.random.default_rng(0).integers(len(data) // 2, len(data), 40):
            data[position] ^= 0xFF
        path = tmp_path / "damaged.mp4"
        path.write_bytes(data)
        assert reason_of(path, 1.2, 2.0) == "damaged"
        assert numbers(read_frames(path, 0.0, 0.3, 4)) == span_indices(np.arange(60) / FRAME_RATE, 0.0, 0.3, 4)


class TestFrameFolders:
    """A folder of pictures is a video."""

    @pytest.fixture
    def frames(self, tmp_path: Path) -> Path:
        for number in range(12):
            Image.fromarray(picture(number)).save(tmp_path / f"{number}-rgb.png")
            Image.fromarray(picture(200)).save(tmp_path / f"{number}-depth.png")
            (tmp_path / f"{number}.txt").write_text("pose")
        return tmp_path

    def test_natural_order_without_depth_maps(self, frames: Path) -> None:
        assert numbers(read_frames(frames, None, None, 12)) == list(range(12))
        assert numbers(read_frames(frames, None, None, 5)) == frame_indices(12, 5)

    def test_of_numbered_pictures_nobody_knows_the_seconds(self, frames: Path) -> None:
        numbered = read_span(frames.parent, Span(frames.name, None, None), 3)
        assert numbered.times_s is None
        assert numbered.labels == [f"picture {number}" for number in numbers(numbered.frames)]
        timed = read_span(frames.parent, Span(frames.name, 0.5, 0.6, 10.0), 2)
        assert timed.times_s == pytest.approx([0.5, 0.6])
        assert timed.labels == ["0.50 s", "0.60 s"]

    def test_spans_need_a_frame_rate(self, frames: Path) -> None:
        assert reason_of(frames, 0.5, 1.0) == "no_frame_rate"
        assert numbers(read_frames(frames, 0.5, 1.0, 6, frame_rate=10)) == [5, 6, 7, 8, 9, 10]
        assert numbers(read_frames(frames, 1.2, 1.2, 2, frame_rate=10)) == [11, 11]
        assert reason_of(frames, 5.0, 6.0, frame_rate=10) == "empty_span"

    def test_bad_pictures(self, frames: Path, tmp_path: Path) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        assert reason_of(empty) == "no_frames"
        cut(frames / "4-rgb.png", frames / "4-rgb.png", 0.5)
        assert reason_of(frames) == "damaged"
        Image.fromarray(picture(4)[::2]).save(frames / "4-rgb.png")
        assert reason_of(frames) == "damaged"

    def test_jpeg_orientation_is_applied(self, tmp_path: Path) -> None:
        orientation = Image.Exif()
        orientation[0x0112] = 6  # to be turned clockwise by 90 degrees
        Image.fromarray(picture(5)).save(tmp_path / "frame.jpg", exif=orientation, quality=95)
        assert numbers(np.rot90(read_frames(tmp_path, None, None, 1), 1, axes=(1, 2))) == [5]

    @pytest.mark.parametrize("side", [9_000, 60_000])
    def test_a_dimension_bomb_is_refused_before_decoding(self, tmp_path: Path, side: int) -> None:
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT")
        assert reason_of(tmp_path) == "too_large"
