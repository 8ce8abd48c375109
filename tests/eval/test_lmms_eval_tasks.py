"""The tasks of lmms-eval without lmms-eval: what is asked, what answers become, faults of data and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, Split

from eval.answering import LETTERS
from eval.lmms_eval_plugin import answers, questions
from eval.lmms_eval_plugin.answers import score_generated, score_letter, score_likelihood
from eval.lmms_eval_plugin.questions import document, question_of, read_table
from eval.prompts import PROMPTS, choice_turn, open_turn
from eval.tasks import AVERAGED, TASKS
from exo2ego.data.spans import Span
from exo2ego.errors import DataError, EvaluationError
from exo2ego.records import AnswerMode, Question
from exo2ego.storage import write_jsonl
from tests.eval.evaluation_setup import question_row
from tests.shared_data import REPOSITORY

FOLDER = REPOSITORY / "eval" / "lmms_eval_plugin" / "tasks"
PREFIXES: dict[AnswerMode, str] = {
    "generate": "egobench",
    "letter": "egobench_letter",
    "likelihood": "egobench_likelihood",
}


class _Loader(yaml.SafeLoader):
    """Reads `!function package.module.name` as that text."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def load(path: Path) -> Any:
    """Returns a task file with what it includes."""
    own = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    included = own.pop("include", None)
    return {**load(path.parent / included), **own} if included else own


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty video and a table of questions about it, which the environment names."""
    (tmp_path / "ego.mp4").write_bytes(b"")
    rows = [question_row(number, task="vlnqa", video="ego.mp4") for number in range(3)]
    write_jsonl(tmp_path / "egobench" / "vlnqa.jsonl", rows)
    monkeypatch.setenv(questions.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.delenv(questions.QUESTIONS_VARIABLE, raising=False)
    monkeypatch.delenv(questions.CLIPS_VARIABLE, raising=False)
    return tmp_path


def stub(table: str) -> Dataset:
    """Returns what lmms-eval loads before `process_docs`."""
    return Dataset.from_list([{"note": ""}], split=Split(table))


@pytest.mark.parametrize("mode", PREFIXES)
def test_every_table_has_a_task_in_every_mode(mode: AnswerMode) -> None:
    prefix = PREFIXES[mode]
    tables = [name for name in TASKS if mode == "generate" or name != "qaego4d_open"]
    group = load(FOLDER / mode / f"_{prefix}.yaml")
    assert group["group"] == prefix
    assert group["task"] == [f"{prefix}_{name}" for name in tables]
    assert {path.stem for path in (FOLDER / mode).glob("*.yaml")} == {*group["task"], f"_{prefix}"}
    for table in tables:
        task = load(FOLDER / mode / f"{prefix}_{table}.yaml")
        assert (task["task"], task["test_split"]) == (f"{prefix}_{table}", table)
        (file,) = task["dataset_kwargs"]["data_files"].values()
        assert list(task["dataset_kwargs"]["data_files"]) == [table]
        assert (FOLDER / mode / file).is_file()
        functions = [task[key] for key in ("process_docs", "doc_to_visual", "doc_to_text", "process_results")]
        functions += [metric["aggregation"] for metric in task["metric_list"]]
        for name in functions:
            module, _, function = name.rpartition(".")
            assert callable(getattr({"questions": questions, "answers": answers}[module.rpartition(".")[2]], function))
        wanted = answers.WORD_MEASURES if table == "qaego4d_open" else answers.measures_of(table, mode)
        assert [metric["metric"] for metric in task["metric_list"]] == list(wanted)


def test_a_question_is_asked_in_the_evaluators_words() -> None:
    question = Question.model_validate(question_row(3))
    doc = document(question)
    assert question_of(doc) == question
    assert doc["answer"] == "D"
    assert questions.choice_text(doc) == choice_turn(PROMPTS["first_person@1"], question.question, question.options)
    assert questions.bare_text(doc) == open_turn(PROMPTS["question_only@1"], question.question)
    assert questions.option_texts(doc) == question.options
    assert questions.option_letters(doc) == list("ABCDE")


def test_a_table_is_read_whole_with_what_its_source_says(videos: Path) -> None:
    rows = [question_row(n, task="vlnqa", video="ego.mp4", meta={"relevance": [0.5]} if n else {}) for n in range(3)]
    write_jsonl(videos / "egobench" / "vlnqa.jsonl", rows)
    found = read_table(stub("vlnqa"))
    assert found.split == "vlnqa"
    assert [question_of(row).to_row() for row in found] == [Question.model_validate(row).to_row() for row in rows]


def test_folders_can_be_named_apart(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (videos / "egobench").rename(tmp_path / "tables")
    monkeypatch.setenv(questions.QUESTIONS_VARIABLE, str(tmp_path / "tables"))
    monkeypatch.setenv(questions.CLIPS_VARIABLE, str(tmp_path / "clips"))
    assert len(read_table(stub("vlnqa"))) == 3
    assert questions.Places.of_environment().clips == tmp_path / "clips"


@pytest.mark.parametrize("root", [None, "", "/nowhere"])
def test_a_folder_that_is_not_named_is_asked_for(
    videos: Path, monkeypatch: pytest.MonkeyPatch, root: str | None
) -> None:
    if root is None:
        monkeypatch.delenv(questions.ROOT_VARIABLE)
    else:
        monkeypatch.setenv(questions.ROOT_VARIABLE, root)
    with pytest.raises(DataError, match="export EGOBENCH_ROOT=DIR"):
        read_table(stub("vlnqa"))


def test_a_missing_table_and_a_missing_video_stop_before_anything_is_asked(videos: Path) -> None:
    with pytest.raises(EvaluationError, match="holds no table of egoplan"):
        read_table(stub("egoplan"))
    write_jsonl(videos / "egobench" / "vlnqa.jsonl", [question_row(1, task="vlnqa", video="gone.mp4")])
    with pytest.raises(DataError, match=r"1 of 1 videos are not in .*the first: gone.mp4"):
        read_table(stub("vlnqa"))


def test_clips_that_cannot_be_read_are_left_out_up_to_a_share(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [question_row(n, task="vlnqa", video="ego.mp4", start=n / 100, end=None) for n in range(100)]
    write_jsonl(videos / "egobench" / "vlnqa.jsonl", rows)
    keys = [Span.of(Question.model_validate(row)).key for row in rows]
    failures = videos / "egobench" / "clips" / "failures.jsonl"
    write_jsonl(failures, [{"key": keys[7], "video": "ego.mp4", "reason": "damaged", "detail": "…"}])
    assert [row["id"] for row in read_table(stub("vlnqa"))] == [row["id"] for row in rows if row is not rows[7]]
    assert "1 questions are left out" in capsys.readouterr().out
    write_jsonl(failures, [{"key": key, "video": "ego.mp4", "reason": "damaged", "detail": "…"} for key in keys[:2]])
    with pytest.raises(DataError, match="2 of 100 questions cannot be read"):
        read_table(stub("vlnqa"))


def doc(number: int = 1, **changes: Any) -> dict[str, Any]:
    return document(Question.model_validate(question_row(number, task="vlnqa", **changes)))


@pytest.mark.parametrize(
    ("output", "index"),
    [("B", 1), ("(C) pours", 2), ("the answer is E.", 4), ("A or B", None), ("", None), ("G", None)],
)
def test_generated_text_is_read_strictly(output: str, index: int | None) -> None:
    rows = score_generated(doc(), [output])
    assert rows["printed"]["prediction"]["predicted_index"] == index
    assert rows["printed"]["score"] == float(index == 1)
    assert answers.unparsed([rows["unparsed"]]) == (index is None)
    assert answers.accuracy([rows["accuracy"]]) == float(index == 1)


def test_a_request_that_failed_is_counted_and_not_scored() -> None:
    failed = score_generated(doc(), ["[LMMS_EVAL_REQUEST_FAILED after 5 retries] timed out"])
    given = score_generated(doc(), ["B"])
    for name, wanted in (("failed", 1), ("unparsed", 0), ("accuracy", 1.0), ("printed", 1.0)):
        assert getattr(answers, name)([failed[name], given[name]]) == wanted
    assert answers.printed([failed["printed"]]) is None
    question = Question.model_validate(question_row(9, task="qaego4d_open", options=[], answer_index=None))
    lost, right = (answers.score_open(document(question), [text]) for text in ("[LMMS_EVAL_…]", "C opens the box."))
    assert answers.exact_match([lost["exact_match"], right["exact_match"]]) in (0.0, 1.0)
    assert answers.failed([lost["failed"], right["failed"]]) == 1
    assert answers.rouge_l([lost["rouge_l"]]) is None


@pytest.mark.parametrize("mode", [score_letter, score_likelihood])
def test_the_lowest_loss_is_chosen_also_as_lmms_eval_hands_it_over(mode: Any) -> None:
    losses = [1.5, 0.25, 3.0, 2.0, 1.0]
    for results in ([(loss, False) for loss in losses], [str((loss, False)) for loss in losses]):
        prediction = mode(doc(), results)["printed"]["prediction"]
        assert prediction["predicted_index"] == 1
        assert prediction["option_scores"] == [-loss for loss in losses]


def test_equal_losses_choose_nothing_and_count_as_wrong() -> None:
    rows = score_letter(doc(), [(1.0, False)] * 5)
    assert rows["printed"]["prediction"]["predicted_index"] is None
    assert answers.accuracy([rows["accuracy"]]) == 0
    assert answers.unparsed([rows["unparsed"]]) == 1


@pytest.mark.parametrize(
    "bad", [(float("nan"), False), "(nan, False)", (-0.5, True), "no pair", (float("inf"), False), 3]
)
def test_what_is_no_loss_is_refused(bad: Any) -> None:
    with pytest.raises(EvaluationError, match="expected"):
        score_likelihood(doc(), [(1.0, False), bad, (1.0, False), (1.0, False), (1.0, False)])


def test_a_question_without_a_public_answer_is_counted_and_not_scored() -> None:
    hidden = score_generated(doc(answer_index=None, answer_text=None), ["B"])
    known = score_generated(doc(), ["B"])
    assert "score" not in hidden["printed"]
    for name, wanted in (("printed", 1.0), ("accuracy", 1.0), ("unlabelled", 1), ("chance", 0.2)):
        assert getattr(answers, name)([hidden[name], known[name]]) == wanted
    assert answers.printed([hidden["printed"]]) is None


def test_an_average_needs_all_ten_tables() -> None:
    values = [0.1 * place for place in range(len(AVERAGED))]
    assert answers.average_of_tables(values, [1] * 10, False) == pytest.approx(0.45)
    assert answers.average_of_tables(values[1:], [1] * 9, False) is None
    assert answers.average_of_tables([*values[1:], None], [1] * 10, False) is None


def test_letters_of_ten_options() -> None:
    options = [f"option {letter}" for letter in LETTERS]
    assert questions.option_letters(doc(options=options)) == list(LETTERS)
    assert score_generated(doc(9, options=options, answer_index=9), ["J"])["printed"]["score"] == 1
