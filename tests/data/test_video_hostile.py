"""Files and paths that mean harm: nothing outside the root is opened, nothing is fetched, nothing dies."""

from __future__ import annotations

import os
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from exo2ego.data.decoders import container
from exo2ego.data.video import locate, probe, read_frames
from exo2ego.errors import VideoError
from tests.data.generated_videos import HEIGHT, WIDTH, numbers, write_video

DECODERS = ("pyav", "decord")
NUM_MUTATIONS = 40  # per container; 2,000 of each are run by hand with EXO2EGO_MUTATIONS=2000


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set's folder with a good video in it, and another one beside it."""
    outer = tmp_path_factory.mktemp("outer")
    (outer / "root").mkdir()
    write_video(outer / "secret.mp4", 12)
    write_video(outer / "root" / "good.mp4", 12)
    return outer / "root"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A listening socket that nobody may connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def assert_nobody_called(server: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        server.accept()


def refuse(path: Path, decoder: str = "pyav", within: Path | None = None) -> str:
    with pytest.raises(VideoError) as caught:
        read_frames(path, None, None, 2, decoder=decoder, within=within)
    return caught.value.reason


@pytest.mark.parametrize("decoder", DECODERS)
def test_playlists_disguised_as_videos_are_not_followed(
    root: Path, server: socket.socket, tmp_path: Path, decoder: str
) -> None:
    address = f"http://127.0.0.1:{server.getsockname()[1]}/video.mp4"
    secret = root.parent / "secret.mp4"
    texts = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n#EXT-X-ENDLIST\n" for target in (secret, address)
    ]
    texts += [f"ffconcat version 1.0\nfile '{target}'\n" for target in (secret, address)]
    texts += [f'<?xml version="1.0"?><MPD><Period><BaseURL>{address}</BaseURL></Period></MPD>', f"v=0\nc=IN {address}"]
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.mp4"
        path.write_text(text)
        assert refuse(path, decoder) == "unreadable"
    assert_nobody_called(server)


@pytest.mark.parametrize("decoder", DECODERS)
def test_strings_in_annotations_cannot_leave_the_root(root: Path, server: socket.socket, decoder: str) -> None:
    address = f"127.0.0.1:{server.getsockname()[1]}/good.mp4"
    secret = root.parent / "secret.mp4"
    (root / "link.mp4").unlink(missing_ok=True)
    (root / "link.mp4").symlink_to(secret)
    outside = ["../secret.mp4", str(secret), "link.mp4", "./x/../../secret.mp4", "..", "/dev/zero", "/etc/passwd"]
    protocols = [f"{name}://{address}" for name in ("http", "https", "rtsp", "rtmp", "tcp", "udp", "ftp")]
    wrappers = [
        f"{name}:{secret}" for name in ("file", "concat", "subfile,,start,0,end,0,,", "crypto", "cache", "data")
    ]
    odd = ["good.mp4\0.txt", "C:\\good.mp4", "\\\\host\\good.mp4", "a" * 5000, "%d.mp4", "-", "pipe:0", "good.mp4/x"]
    for text in (*outside, *protocols, *wrappers, *odd):
        assert refuse(root / text, decoder, within=root) in {"missing", "forbidden_path"}
        with pytest.raises(VideoError):
            probe(root / text, within=root)
    assert_nobody_called(server)


def test_what_lies_inside_the_root_is_read(root: Path) -> None:
    (root / "folder").mkdir(exist_ok=True)
    assert numbers(read_frames(root / "folder" / ".." / "good.mp4", 0.0, 0.0, 1, within=root)) == [0]
    assert locate(root / "good.mp4", root) == (root / "good.mp4").resolve()


def test_pictures_of_a_folder_cannot_be_links_out_of_the_root(root: Path, tmp_path: Path) -> None:
    frames = root / "frames"
    frames.mkdir(exist_ok=True)
    (tmp_path / "private.png").write_bytes(b"not even a picture")
    (frames / "0.png").symlink_to(tmp_path / "private.png")
    assert refuse(frames, within=root) == "forbidden_path"


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert refuse(tmp_path / "pipe.mp4") == "forbidden_path"


def test_pictures_that_claim_268_million_pixels_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "bomb.webm", 12, codec="libvpx")
    data = path.read_bytes()
    start_code = b"\x9d\x01\x2a"  # of a VP8 key frame; 14 bits of width and of height follow
    at = data.index(start_code) + len(start_code)
    assert data[at : at + 4] == struct.pack("<HH", WIDTH, HEIGHT)
    path.write_bytes(data[:at] + struct.pack("<HH", 16383, 16383) + data[at + 4 :])
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refuse(path) in {"damaged", "too_large"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 100_000  # KB


def test_pictures_above_the_cap_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    assert refuse(root / "good.mp4") == "too_large"


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi"])
def test_mutated_files_give_frames_or_a_typed_error(tmp_path: Path, suffix: str) -> None:
    codec = "libvpx-vp9" if suffix == "webm" else "libx264"
    good = write_video(tmp_path / f"good.{suffix}", 24, codec=codec).read_bytes()
    path = tmp_path / f"mutated.{suffix}"
    rng = np.random.default_rng(0)
    num_errors = 0
    for _ in range(int(os.environ.get("EXO2EGO_MUTATIONS", NUM_MUTATIONS))):
        path.write_bytes(mutate(good, rng))
        began = time.monotonic()
        try:
            frames = read_frames(path, 0.1, 0.6, 8)
            assert frames.shape[0] == 8
            probe(path)
        except VideoError as error:
            num_errors += 1
            assert error.reason.isidentifier()  # noqa: PT017 - both outcomes are right
        assert time.monotonic() - began < 10
    assert num_errors > 0


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Damages a file in one of six ways; half of the damage hits the first or last kilobyte, where the headers are."""
    mutated = bytearray(data)
    near_header = rng.random() < 0.5
    at = (
        int(rng.choice([0, max(0, len(data) - 1024)]) + rng.integers(1024))
        if near_header
        else int(rng.integers(len(data)))
    )
    at = min(at, len(data) - 9)
    kind = rng.integers(6)
    if kind == 0:
        for position in rng.integers(at, min(len(data), at + 400), 8):
            mutated[position] ^= int(rng.integers(1, 256))
    elif kind == 1:
        del mutated[at:]
    elif kind == 2:
        del mutated[at : at + int(rng.integers(1, 64))]
    elif kind == 3:
        mutated[at:at] = rng.bytes(int(rng.integers(1, 64)))
    elif kind == 4:
        mutated[at : at + 8] = b"\xff" * 8  # lengths, counts and durations
    else:
        source = int(rng.integers(len(data) - 300))
        mutated[at : at + 256] = data[source : source + 256]
    return bytes(mutated)
