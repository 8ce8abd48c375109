"""Free answers scored by their words and by sentence similarity."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval import open_answers
from eval.open_answers import WordScorer, f1_of_common_subsequence
from eval.reporting.results import read_results
from eval.reporting.tables import result_table
from exo2ego.storage import read_json
from tests.eval.open_folder import write_open_folder


def test_an_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_open_folder(tmp_path / "run")
    assert open_answers.main([str(folder)]) == 0
    written = read_json(folder / "open_scores.json")
    first, second, third = written["scores"]
    assert first["question_id"] == "a"
    assert first["exact_match"] == 1.0  # case and the final dot do not count
    assert first["rouge_l"] == 1.0
    assert first["similarity"] == pytest.approx(1, abs=0.1)
    assert second["exact_match"] == 0.0
    assert second["rouge_l"] == pytest.approx(2 * 2 / 5)  # "in", "drawer" of 3 and 2 words
    assert 0.5 < second["similarity"] < 1
    assert [third[name] for name in ("exact_match", "rouge_l", "meteor")] == [0, 0, 0]
    assert "exact_match  33.33 %" in capsys.readouterr().out
    before = (folder / "open_scores.json").read_bytes()
    assert open_answers.main([str(folder)]) == 0
    assert (folder / "open_scores.json").read_bytes() == before
    assert open_answers.main([str(folder), "--no-similarity"]) == 0
    assert read_json(folder / "open_scores.json")["scores"][0]["similarity"] is None


def test_meteor_by_hand() -> None:
    """All three words match in one chunk: precision = recall = 1, penalty .5 (1/3)^3."""
    scorer = WordScorer()
    assert scorer.meteor("on the table", "on the tables") == pytest.approx(1 - 0.5 * (1 / 3) ** 3)
    assert scorer.meteor("a knife", "") == 0.0
    assert scorer.meteor("big", "large") == 0.0  # no synonyms


def test_words_of_three_letters_are_not_stemmed() -> None:
    """As in Google's rouge-score; Porter's stemmer makes "wa" of "was"."""
    scorer = WordScorer()
    assert scorer.words("Was his TABLES' use: 2 tied") == ["was", "his", "tabl", "use", "2", "tie"]


@pytest.mark.parametrize(
    ("truth", "answer", "equal"),
    [
        ("on the table", "On  the table.", 1.0),
        ("table", "on the table", 0.0),
        ("on the table", "table", 0.0),
        ("on the table", "on the table, I think", 0.0),
    ],
)
def test_exact_match(truth: str, answer: str, equal: float) -> None:
    (found,) = open_answers.score_open_answers([("q", truth, answer)], None)
    assert found.exact_match == equal
    assert found.similarity is None


def brute_force(first: list[int], second: list[int]) -> int:
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + brute_force(first[1:], second[1:])
    return max(brute_force(first[1:], second), brute_force(first, second[1:]))


WORDS = st.lists(st.integers(0, 2), max_size=6)


@given(WORDS, WORDS)
def test_common_subsequence(truth: list[int], answer: list[int]) -> None:
    found = f1_of_common_subsequence([str(word) for word in truth], [str(word) for word in answer])
    longest = brute_force(truth, answer)
    assert found == pytest.approx(2 * longest / (len(truth) + len(answer)) if longest else 0)


def test_a_folder_without_open_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_open_folder(tmp_path / "run", {})
    assert open_answers.main([str(folder)]) == 5
    assert "holds no answers to open questions" in " ".join(capsys.readouterr().err.split())


def test_answers_that_nothing_has_scored_are_counted_with_what_to_run(tmp_path: Path) -> None:
    folder = write_open_folder(tmp_path / "run")

    def waiting() -> list[str]:
        return [note for note in result_table(read_results([folder])).notes if "wait" in note]

    (note,) = waiting()
    assert "QAEgo4D (open): 3 answers are not scored" in note
    assert "python -m eval.open_answers" in note
    assert "python -m eval.judge" in note
    assert open_answers.main([str(folder), "--no-similarity"]) == 0
    assert not waiting()
