"""The cache of embeddings: what was embedded stays, is told apart by model, and damage is found."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_builders.distractors import embeddings
from data_builders.distractors.embeddings import embed
from exo2ego.errors import DataError
from tests.shared_data import REPOSITORY
from tests.text_encoders import WordEncoder

TEXTS = [f"open door {number}" for number in range(40)]


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "TEXTS_PER_FILE", 16)


def files(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.npz"))


@given(st.lists(st.text(), unique=True, min_size=1, max_size=20), st.lists(st.text(), unique=True))
def test_a_hit_gives_the_very_same_vectors(first: list[str], second: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = embed(first, WordEncoder(), Path(folder))
        encoder = WordEncoder()
        read = embed([*first[::-1], *(set(second) - set(first))], encoder, Path(folder))
    assert encoder.num_embedded == len(set(second) - set(first))
    numpy.testing.assert_array_equal(read[: len(first)][::-1], written)


def test_models_do_not_mix(tmp_path: Path) -> None:
    ours = embed(TEXTS, WordEncoder(name="one"), tmp_path)
    other = WordEncoder(name="other")
    assert not (embed(TEXTS, other, tmp_path) == ours).all(axis=1).any()
    assert other.num_embedded == len(TEXTS)
    assert {path.parent.name for path in files(tmp_path)} == {"one", "other"}


def test_what_was_embedded_before_an_interruption_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed(TEXTS, WordEncoder(fail_after=32), tmp_path)
    encoder = WordEncoder()
    resumed = embed(TEXTS, encoder, tmp_path)
    assert encoder.num_embedded == len(TEXTS) - 32
    numpy.testing.assert_array_equal(resumed, embed(TEXTS, WordEncoder()))


def test_a_kill_leaves_whole_files(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from data_builders.distractors import embeddings
from tests.text_encoders import WordEncoder
class Slow(WordEncoder):
    def encode(self, texts):
        time.sleep(0.05)
        return super().encode(texts)
embeddings.TEXTS_PER_FILE = 2
embeddings.embed([f"text {{number}}" for number in range(2000)], Slow(), Path({str(tmp_path)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": "."})
    deadline = time.monotonic() + 60
    while len(files(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    num_kept = 2 * len(files(tmp_path))
    encoder = WordEncoder()
    embed([f"text {number}" for number in range(2000)], encoder, tmp_path)
    assert num_kept >= 6
    assert encoder.num_embedded == 2000 - num_kept


def test_two_processes_that_embed_the_same_texts_write_the_same_files(tmp_path: Path) -> None:
    embed(TEXTS, WordEncoder(), tmp_path / "one")
    embed(TEXTS[::-1], WordEncoder(), tmp_path / "other")
    one, other = files(tmp_path / "one"), files(tmp_path / "other")
    assert [path.name for path in one] == [path.name for path in other]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


@given(st.data())
def test_a_damaged_file_is_found(data: st.DataObject) -> None:
    """Any flipped byte either shows, or lies where it changes nothing that is read."""
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        expected = embed(TEXTS[:10], WordEncoder(), cache).copy()
        (path,) = files(cache)
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            numpy.testing.assert_array_equal(embed(TEXTS[:10], WordEncoder(), cache), expected)


@given(st.integers(0, 3000))
def test_a_cut_file_is_found(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        embed(TEXTS[:10], WordEncoder(), cache)
        (path,) = files(cache)
        content = path.read_bytes()
        path.write_bytes(content[: min(length, len(content) - 1)])
        with pytest.raises(DataError, match=rf"{path.name}.*damaged; delete it"):
            embed(TEXTS[:10], WordEncoder(), cache)


def test_a_file_of_another_encoder_is_refused(tmp_path: Path) -> None:
    embed(TEXTS, WordEncoder(name="one"), tmp_path)
    (tmp_path / "one").rename(tmp_path / "other")
    with pytest.raises(DataError, match=r"of the encoder one, not of other; delete it"):
        embed(TEXTS, WordEncoder(name="other"), tmp_path)


def test_vectors_that_are_not_of_length_one_are_refused(tmp_path: Path) -> None:
    class Long(WordEncoder):
        def encode(self, texts: list[str]) -> numpy.ndarray:  # type: ignore[override]
            return super().encode(texts) * 2

    with pytest.raises(DataError, match="encoder words: expected rows of length 1, got 2 to 2"):
        embed(TEXTS, Long(), tmp_path)
    assert not files(tmp_path)


def test_a_full_disk_is_an_error_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match="disk for embeddings is full"):
        embed(TEXTS, WordEncoder())


def test_texts_to_embed_are_distinct() -> None:
    with pytest.raises(ValueError, match="not distinct"):
        embed(["a", "a"], WordEncoder())
