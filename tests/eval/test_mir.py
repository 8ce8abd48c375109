"""The official retrieval metrics: golden numbers on the real files, properties, and faults of the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eval import mir
from eval.metrics.graded_retrieval import score_retrieval
from eval.score_matrices import read_matrix, show_json
from exo2ego.action_relevancy import ActionClass, relevancy, relevancy_matrix
from exo2ego.errors import DataError, EvaluationError
from tests.shared_data import shared_path

TOLERANCE = 1e-9  # of the golden numbers: the same sums in another order


def real_files() -> tuple[Path, Path]:
    folder = shared_path("data/real/ek100")
    return folder / "EPIC_100_retrieval_test.csv", folder / "EPIC_100_retrieval_test_sentence.csv"


def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(shared_path("data/golden/ek100.json").read_text(encoding="utf-8"))
    return content


def test_the_real_files_give_the_official_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos, sentences = real_files()
    numpy.save(tmp_path / "sim.npy", numpy.random.default_rng(0).random((9668, 3842)))
    arguments = ["--videos", str(videos), "--sentences", str(sentences), "--similarity", str(tmp_path / "sim.npy")]
    assert mir.main([*arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    expected = golden()
    for name, value in expected["results"]["uniform_random"].items():
        assert numbers[name] == pytest.approx(value, abs=TOLERANCE), name
    for direction, value in expected["not_official_strict_binary_mAP_uniform_random"].items():
        assert numbers[f"binary_mAP_{direction}"] == pytest.approx(value, abs=TOLERANCE)
    assert numbers["num_videos"] == 9668
    assert numbers["num_captions"] == 3842
    assert numbers["num_videos_without_target"] == numbers["num_captions_without_target"] == 0
    assert mir.main(arguments) == 0
    assert "5.69" in capsys.readouterr().out  # percent, for people


def test_relevancy_is_the_official_matrix_bit_for_bit() -> None:
    matrix = relevancy_matrix(*mir.read_actions(*real_files()))
    expected = golden()["relevancy_stats"]
    assert matrix.shape == tuple(expected["shape"])
    assert hashlib.sha256(matrix.tobytes()).hexdigest() == expected["sha256_float64_C_order"]


def test_a_block_of_the_real_files() -> None:
    expected = golden()["small_block"]
    clips, captions = mir.read_actions(*real_files())
    graded = relevancy_matrix(clips[:200], captions)
    graded = graded[:, (graded == 1).any(axis=0)]
    similarity = numpy.random.default_rng(0).random(graded.shape)
    assert graded.shape[1] == expected["n_cols"]
    rows, columns = score_retrieval(similarity, graded), score_retrieval(similarity.T, graded.T)
    found = {
        "mAP_V2T": rows.mean_average_precision,
        "mAP_T2V": columns.mean_average_precision,
        "nDCG_V2T": rows.ndcg,
        "nDCG_T2V": columns.ndcg,
        "strict_binary_mAP_V2T_not_official": rows.binary_mean_average_precision,
    }
    assert found == pytest.approx({name: expected[name] for name in found}, abs=TOLERANCE)


def test_tiny_examples() -> None:
    gains, graded = golden()["tiny"]
    scores = score_retrieval(numpy.array(gains["sim"]), numpy.array(gains["rel"]))
    assert scores.ndcg == pytest.approx(gains["nDCG_rows"], abs=1e-12)
    assert scores.mean_average_precision == gains["mAP_rows"]
    scores = score_retrieval(numpy.array(graded["sim"]), numpy.array(graded["rel"]))
    assert scores.mean_average_precision == graded["mAP_official_soft"]
    assert scores.binary_mean_average_precision == graded["mAP_if_binary"]


def official(similarity: NDArray[Any], graded: NDArray[Any]) -> tuple[float, float]:
    """The definitions, one query after another."""
    precisions, gains = [], []
    for similarities, relevances in zip(similarity, graded, strict=True):
        order = sorted(range(len(similarities)), key=lambda item: (-similarities[item], item))
        so_far, precision = 0.0, []
        for rank, item in enumerate(order, 1):
            so_far += relevances[item]
            if relevances[item] == 1:
                precision.append(so_far / rank)
        precisions.append(sum(precision) / len(precision))
        order = sorted(range(len(similarities)), key=lambda item: (-similarities[item], -item))
        depth = sum(value > 0 for value in relevances)
        gain = sum(relevances[item] / numpy.log2(rank + 2) for rank, item in enumerate(order[:depth]))
        best = sum(value / numpy.log2(rank + 2) for rank, value in enumerate(sorted(relevances, reverse=True)))
        gains.append(gain / best)
    return sum(precisions) / len(precisions), sum(gains) / len(gains)


SIGNED = numpy.array([-numpy.inf, -1.5, -0.0, 0.0, 1e-30, 0.5, numpy.inf])
"""Ties also where the bits differ: 0 and -0 are equal."""


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 12), st.booleans(), st.sampled_from(["f2", "f4", "f8"]))
def test_blocks_and_ties_change_nothing(seed: int, rows: int, columns: int, with_ties: bool, dtype: str) -> None:
    generator = numpy.random.default_rng(seed)
    similarity = generator.choice(SIGNED, (rows, columns)) if with_ties else generator.normal(size=(rows, columns))
    similarity = similarity.astype(dtype)
    graded = generator.choice([0, 0.25, 0.5, 1], (rows, columns))
    graded[numpy.arange(rows), generator.integers(0, columns, rows)] = 1
    scores = score_retrieval(similarity, graded)
    precision, gain = official(similarity, graded)
    assert scores.mean_average_precision == pytest.approx(precision, abs=1e-12)
    assert scores.ndcg == pytest.approx(gain, abs=1e-12)


def test_many_blocks_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = numpy.random.default_rng(3)
    similarity, graded = generator.random((50, 7)), generator.choice([0, 0.5, 1], (50, 7))
    whole = score_retrieval(similarity, graded)
    monkeypatch.setattr("eval.metrics.graded_retrieval.BLOCK_VALUES", 20)
    assert score_retrieval(similarity, graded) == whole


def test_queries_without_anything_to_find_are_counted_and_left_out() -> None:
    graded = numpy.array([[1.0, 0.0], [0.5, 0.0], [0.0, 0.0]])
    scores = score_retrieval(numpy.array([[1.0, 0.0]] * 3), graded)
    assert (scores.mean_average_precision, scores.ndcg) == (1.0, 1.0)
    assert (scores.num_queries, scores.num_without_target, scores.num_without_relevant) == (3, 2, 1)
    nothing = score_retrieval(numpy.ones((1, 2)), numpy.zeros((1, 2)))
    assert numpy.isnan(nothing.mean_average_precision)
    assert numpy.isnan(nothing.ndcg)


ACTIONS = st.builds(ActionClass, st.integers(0, 3), st.frozensets(st.integers(0, 5), min_size=1))


@given(st.lists(ACTIONS, min_size=1, max_size=8), st.lists(ACTIONS, min_size=1, max_size=8))
def test_the_matrix_holds_the_relevancy_of_every_pair(rows: list[ActionClass], columns: list[ActionClass]) -> None:
    matrix = relevancy_matrix(rows, columns)
    assert matrix.tolist() == [[relevancy(row, column) for column in columns] for row in rows]


def test_nan_is_refused_with_its_place() -> None:
    similarity = numpy.zeros((3, 2))
    similarity[2, 1] = numpy.nan
    with pytest.raises(EvaluationError, match=r"row 2, column 1 is NaN"):
        score_retrieval(similarity, numpy.ones((3, 2)))
    with pytest.raises(EvaluationError, match=r"similarity is \(3, 2\), relevancy \(2, 2\)"):
        score_retrieval(numpy.zeros((3, 2)), numpy.ones((2, 2)))


VIDEOS = 'narration_id,verb_class,all_noun_classes\nP01_0,0,[2]\nP01_1,3,"[2, 4]"\nP01_2,3,[4]\n'
SENTENCES = "narration_id,narration\nP01_0,take plate\nP01_2,wash cup\n"


def small_files(folder: Path, videos: str = VIDEOS, sentences: str = SENTENCES) -> list[str]:
    (folder / "videos.csv").write_text(videos, encoding="utf-8")
    (folder / "sentences.csv").write_text(sentences, encoding="utf-8")
    numpy.save(folder / "sim.npy", numpy.array([[0.9, 0.1], [0.2, 0.7], [0.3, 0.8]], dtype=numpy.float32))
    names = (("videos", "videos.csv"), ("sentences", "sentences.csv"), ("similarity", "sim.npy"))
    return [part for flag, name in names for part in (f"--{flag}", str(folder / name))]


def test_small_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mir.main([*small_files(tmp_path), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["mAP_V2T"] == numbers["mAP_T2V"] == numbers["mAP_avg"] == 1.0
    assert numbers["num_videos_without_target"] == 1  # P01_1 has no caption of its class
    assert numbers["num_captions_without_target"] == 0


def test_the_directions_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """P01_0 finds its caption second and P01_2 first; each caption finds its clip first."""
    arguments = small_files(tmp_path)
    numpy.save(tmp_path / "sim.npy", numpy.array([[0.9, 0.95], [0.0, 0.0], [0.1, 0.97]]))
    assert mir.main([*arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["binary_mAP_V2T"] == pytest.approx((1 / 2 + 1) / 2)
    assert numbers["binary_mAP_T2V"] == pytest.approx(1)
    assert numbers["binary_mAP_avg"] == pytest.approx(7 / 8)


def test_queries_with_ties_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = small_files(tmp_path)
    assert mir.main(arguments) == 0
    assert "equal similarities" not in capsys.readouterr().out
    for dtype in (numpy.float32, numpy.float64):
        numpy.save(tmp_path / "sim.npy", numpy.array([[0.9, 0.6], [0.9, 0.2], [0.5, 0.5]], dtype=dtype))
        assert mir.main([*arguments, "--json"]) == 0
        numbers = json.loads(capsys.readouterr().out)
        assert (numbers["num_videos_with_ties"], numbers["num_captions_with_ties"]) == (1, 1)
    assert mir.main(arguments) == 0
    assert "1 videos and 1 captions have equal similarities" in " ".join(capsys.readouterr().out.split())


def test_what_is_no_number_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"mAP": float("nan"), "num_videos": 2, "wAP": None, "nDCG": 0.5})
    printed = capsys.readouterr().out
    assert "NaN" not in printed
    assert json.loads(printed) == {"mAP": None, "num_videos": 2, "wAP": None, "nDCG": 0.5}


@pytest.mark.parametrize(
    ("videos", "sentences", "message"),
    [
        (VIDEOS, SENTENCES + "P09_9,cut\n", "P09_9 is not in"),
        (VIDEOS + "P01_0,0,[2]\n", SENTENCES, "narration_id P01_0 is given twice"),
        (VIDEOS, SENTENCES + "P01_0,take plate\n", "sentences.csv: line 4: narration_id P01_0 is given twice"),
        (VIDEOS, "narration_id,narration\n", "sentences.csv: no rows"),
        (VIDEOS.replace("[4]", "import os"), SENTENCES, "line 4: all_noun_classes"),
        (VIDEOS.replace("verb_class", "verb"), SENTENCES, "lacks the column verb_class"),
        ("narration_id,verb_class,all_noun_classes\n", SENTENCES, "videos.csv: no rows"),
        (VIDEOS, SENTENCES + "P01_1,wash\n", "has shape (3, 2), expected (3, 3)"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], videos: str, sentences: str, message: str
) -> None:
    assert mir.main(small_files(tmp_path, videos, sentences)) != 0
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_matrix_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = small_files(tmp_path)
    path = tmp_path / "sim.npy"
    numpy.save(path, numpy.zeros((2, 3)))
    assert mir.main(arguments) == 3
    assert "transpose it" in " ".join(capsys.readouterr().err.split())
    numpy.save(path, numpy.zeros((3, 3)))
    assert mir.main(arguments) == 3
    assert "transpose it" not in " ".join(capsys.readouterr().err.split())
    numpy.save(path, numpy.full((3, 2), numpy.nan))
    assert mir.main(arguments) == 5
    assert f"{path}: similarity of row 0, column 0 is NaN" in " ".join(capsys.readouterr().err.split())


class RunsCode:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_code_in_a_matrix_is_never_run(tmp_path: Path) -> None:
    arguments = small_files(tmp_path)
    bomb = numpy.empty((3, 2), dtype=object)
    bomb[:] = RunsCode(tmp_path / "made")
    numpy.save(tmp_path / "sim.npy", bomb, allow_pickle=True)
    assert mir.main(arguments) == 3
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("dtype", ["bool", "complex64", "U3", "datetime64[s]"])
def test_a_matrix_of_other_values_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str) -> None:
    arguments = small_files(tmp_path)
    numpy.save(tmp_path / "sim.npy", numpy.zeros((3, 2), dtype=dtype))
    assert mir.main(arguments) == 3
    assert "expected floats or integers" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "u1", "i8"])
def test_a_matrix_of_any_numbers_is_read(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "sim.npy"
    numbers = numpy.array([[1, 0], [2, 3], [5, 4]], dtype=dtype)
    for stored in (numbers, numpy.asfortranarray(numbers)):
        numpy.save(path, stored)
        found = read_matrix(path, (3, 2), "")
        assert found.tolist() == numbers.tolist()
        assert found.dtype.kind == "f"


DAMAGED = {
    "empty": b"",
    "a zip file": b"PK\003\004abc",
    "a table": b"narration_id,0.1,0.2\n",
    "a header alone": b"\x93NUMPY\x01\x00",
    "no shape": b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8'}\n",
    "an open bracket": b"\x93NUMPY\x01\x00\x10\x00{'descr': ((((  \n",
    "a size that nothing has": b"\x93NUMPY\x01\x00\x46\x00"
    + b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000000, 100)}".ljust(69)
    + b"\n",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_matrix_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    arguments = small_files(tmp_path)
    (tmp_path / "sim.npy").write_bytes(content)
    assert mir.main(arguments) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert f"{tmp_path / 'sim.npy'}: " in said
    assert "Traceback" not in said
    assert "pickle" not in said
    (tmp_path / "sim.npy").unlink()
    assert mir.main(arguments) == 3
    assert "no such file" in " ".join(capsys.readouterr().err.split())


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
def test_a_changed_byte_of_a_header_is_a_data_error_or_changes_nothing_but_values(tmp_path: Path) -> None:
    path = tmp_path / "sim.npy"
    numpy.save(path, numpy.zeros((3, 2), dtype=numpy.float32))
    whole = path.read_bytes()
    for place in range(len(whole) - 24):
        for value in (0, 0x28, 0x5C, 0x7B, whole[place] ^ 1, whole[place] ^ 0x80):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            try:
                assert read_matrix(path, (3, 2), "").shape == (3, 2)
            except DataError:
                continue


def test_a_file_that_is_cut_off_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "sim.npy"
    numpy.save(path, numpy.ones((3, 2)))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"sim\.npy: "):
            read_matrix(path, (3, 2), "")
