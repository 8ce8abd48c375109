"""The official mAP of Charades: golden numbers, the definition, and faults of the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eval import charades
from eval.metrics.class_average_precision import score_classes
from exo2ego.errors import EvaluationError
from tests.shared_data import shared_path

TOLERANCE = 1e-9  # of the golden numbers


def golden(name: str) -> dict[str, Any]:
    cases = json.loads(shared_path("data/golden/charades.json").read_text(encoding="utf-8"))["cases"]
    return next(case for case in cases if case["name"] == name)


def test_the_real_file_gives_the_official_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = golden("charades_v1_test")
    folder = shared_path("data/real/charades")
    numpy.save(tmp_path / "scores.npy", numpy.random.default_rng(0).random((1863, 157)))
    arguments = ["--annotations", str(folder / "Charades_v1_test.csv"), "--scores", str(tmp_path / "scores.npy")]
    arguments += ["--classes", str(folder / "Charades_v1_classes.txt")]
    assert charades.main([*arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["mAP"] == pytest.approx(expected["mAP_official_np_mean"], abs=TOLERANCE)
    assert numbers["wAP"] == pytest.approx(expected["wAP_sum"], abs=TOLERANCE)
    assert numbers["num_videos"] == expected["n_videos"]
    assert numbers["num_videos_without_class"] == expected["n_videos_without_action"]
    assert numbers["num_classes_without_video"] == 0
    assert charades.main(arguments) == 0
    assert "mAP 6.03 % over 157 classes and 1863 videos" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("informative", [False, True])
def test_generated_scores(informative: bool) -> None:
    expected = golden("synthetic_846_informative" if informative else "synthetic_846")
    generator = numpy.random.default_rng(0)
    truth = (generator.random((846, 157)) < 8.5 / 157).astype(int)
    scores = truth + generator.standard_normal((846, 157)) if informative else generator.random((846, 157))
    result = score_classes(truth, scores)
    assert result.mean == pytest.approx(expected["mAP_official_np_mean"], abs=TOLERANCE)
    assert result.weighted_mean == pytest.approx(expected["wAP_sum"], abs=TOLERANCE)
    assert result.per_class[:10] == pytest.approx(expected["AP_first_10"], abs=TOLERANCE)
    assert result.per_class[-5:] == pytest.approx(expected["AP_last_5"], abs=TOLERANCE)


def average_precision(truth: NDArray[Any], scores: NDArray[Any]) -> float:
    """The definition, for one class."""
    order = sorted(range(len(scores)), key=lambda video: (-scores[video], video))
    found, precisions = 0, []
    for rank, video in enumerate(order, 1):
        if truth[video]:
            found += 1
            precisions.append(found / rank)
    return sum(precisions) / len(precisions)


@given(st.integers(0, 10**6), st.booleans())
def test_the_definition(seed: int, with_ties: bool) -> None:
    generator = numpy.random.default_rng(seed)
    truth = generator.integers(0, 2, (9, 4))
    truth[0] = 1
    scores = generator.integers(0, 3, (9, 4)).astype(float) if with_ties else generator.random((9, 4))
    lowered = numpy.where(truth.any(axis=1, keepdims=True), scores, -numpy.inf)
    result = score_classes(truth, scores)
    for number in range(4):
        expected = average_precision(truth[:, number], lowered[:, number])
        assert result.per_class[number] == pytest.approx(expected, abs=1e-12)


def test_a_class_without_video_is_left_out_and_a_video_without_class_ranks_last() -> None:
    truth = numpy.array([[1, 0], [0, 0], [1, 0]])
    result = score_classes(truth, numpy.array([[0.1, 0.5], [0.9, 0.5], [0.2, 0.5]]))
    assert result.mean == 1.0
    assert numpy.isnan(result.per_class[1])
    assert result.num_unlabelled_videos == 1


def test_scores_that_are_none() -> None:
    with pytest.raises(EvaluationError, match="row 1, class 0 is NaN"):
        score_classes(numpy.ones((2, 1)), numpy.array([[0.0], [numpy.nan]]))
    with pytest.raises(EvaluationError, match=r"scores are \(2, 2\), expected \(2, 1\)"):
        score_classes(numpy.ones((2, 1)), numpy.ones((2, 2)))
    with pytest.raises(EvaluationError, match="no video has any class"):
        score_classes(numpy.zeros((2, 1)), numpy.ones((2, 1)))


CLASSES = "c000 Holding some clothes\nc001 Lying on a bed \nc002 Taking a bag"
VIDEOS = "id,actions,length\nAEGO,c000 1.0 9.0;c001 2 30;c000 10 11,12.5\nBEGO,,8\nCEGO,c002 0 3,9\n"


def small_files(folder: Path, videos: str = VIDEOS, classes: str = CLASSES) -> list[str]:
    (folder / "videos.csv").write_text(videos, encoding="utf-8")
    (folder / "classes.txt").write_text(classes, encoding="utf-8")
    numpy.save(folder / "scores.npy", numpy.arange(9.0).reshape(3, 3))
    names = (("annotations", "videos.csv"), ("classes", "classes.txt"), ("scores", "scores.npy"))
    return [part for flag, name in names for part in (f"--{flag}", str(folder / name))]


def test_small_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert charades.main([*small_files(tmp_path), "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["mAP"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert numbers["num_videos_without_class"] == 1
    assert (numbers["num_classes"], numbers["num_classes_without_video"]) == (3, 0)


def test_a_class_that_no_video_has_is_counted_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = small_files(tmp_path, classes=f"{CLASSES}\nc003 Sneezing\nc004 Smiling")
    numpy.save(tmp_path / "scores.npy", numpy.arange(15.0).reshape(3, 5))
    assert charades.main([*arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["mAP"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert (numbers["num_classes"], numbers["num_classes_without_video"]) == (5, 2)
    assert charades.main(arguments) == 0
    assert "over 3 classes and 3 videos; 2 classes have no video" in " ".join(capsys.readouterr().out.split())


def test_a_score_that_is_not_a_number_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = small_files(tmp_path)
    numpy.save(tmp_path / "scores.npy", numpy.full((3, 3), numpy.nan))
    assert charades.main(arguments) == 5
    assert f"{tmp_path / 'scores.npy'}: score of row 0, class 0 is NaN" in " ".join(capsys.readouterr().err.split())


def test_scores_are_compared_with_all_their_digits() -> None:
    truth, scores = numpy.array([[0, 1], [1, 0]]), numpy.array([[1.0, 0.0], [1.0 + 1e-12, 0.0]])
    assert score_classes(truth, scores).per_class[0] == 1.0
    rounded = score_classes(truth, scores.astype(numpy.float32))
    assert rounded.per_class[0] == 0.5, "equal there: the earlier row comes first"


def test_a_labelled_video_of_score_minus_infinity_ties_with_the_unlabelled() -> None:
    """As in the official code, whose lowest score is -inf: the earlier row comes first."""
    scores = numpy.array([[0.5], [-numpy.inf]])
    assert score_classes(numpy.array([[0], [1]]), scores).mean == 0.5
    assert score_classes(numpy.array([[1], [0]]), scores[::-1]).mean == 1.0


@pytest.mark.parametrize(
    ("videos", "classes", "message"),
    [
        (VIDEOS.replace("c002", "c150"), CLASSES, "line 4: class 'c150' is not in the list of classes"),
        (VIDEOS.replace("CEGO", "AEGO"), CLASSES, "video AEGO is given twice"),
        (VIDEOS, CLASSES.replace("c001", "c000"), "line 2: expected a new class id"),
        (VIDEOS, "", "no classes"),
        ("id,actions,length\n", CLASSES, "no videos"),
        (VIDEOS + "DEGO,,3\n", CLASSES, "has shape (3, 3), expected (4, 3)"),
    ],
)
def test_files_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], videos: str, classes: str, message: str
) -> None:
    assert charades.main(small_files(tmp_path, videos, classes)) == 3
    assert message in " ".join(capsys.readouterr().err.split())
