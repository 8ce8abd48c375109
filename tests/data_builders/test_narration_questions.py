"""Questions from held-out narrations, built as a user builds them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_builders.narration_pool import NarrationPool
from data_builders.narration_questions import TASKS, build_questions, text_only_accuracies
from exo2ego.records import Question
from exo2ego.storage import read_jsonl
from tests.conftest import RunPython
from tests.data_builders.narrated_clips import narrated_clips, write_clips

MODULE = "data_builders.narration_questions"


@pytest.fixture(scope="module")
def pool() -> NarrationPool:
    return NarrationPool(narrated_clips(num_takes=40))


@pytest.mark.parametrize("task", TASKS)
def test_a_question_holds_its_clip(pool: NarrationPool, task: str) -> None:
    questions, _ = build_questions(pool, task, split="val", max_questions=50, seed=0)
    clips = {clip.clip_id: clip for clip in pool.clips}
    assert len(questions) == 50
    for question in questions:
        clip = clips[question.question_id.removeprefix(f"{task}/")]
        assert question.answer_index is not None
        assert question.options[question.answer_index] == clip.text == question.answer_text
        assert len(set(question.options)) == 5
        assert (question.video, question.start_s, question.end_s) == (clip.ego_video, clip.start_s, clip.end_s)
        assert question.meta["exo_videos"] == clip.exo_videos
        assert [clips[clip_id].text for clip_id in question.meta["option_clips"]] == question.options


@pytest.mark.parametrize("task", TASKS)
def test_texts_and_positions_do_not_give_the_answer_away(pool: NarrationPool, task: str) -> None:
    questions, _ = build_questions(pool, task, split="val", max_questions=None, seed=0)
    positions = [sum(question.answer_index == place for question in questions) / len(questions) for place in range(5)]
    assert len(questions) > 700
    # four standard errors of a share of .2
    assert positions == pytest.approx([0.2] * 5, abs=0.06)
    assert text_only_accuracies(questions, pool) == {
        "longest option": pytest.approx(0.2, abs=0.06),
        "shortest option": pytest.approx(0.2, abs=0.06),
        "most frequent narration": pytest.approx(0.2, abs=0.08),
        "most like the others": pytest.approx(0.2, abs=0.06),
    }


def test_tasks_ask_about_the_same_clips(pool: NarrationPool) -> None:
    asked = [
        {
            question.question_id.removeprefix(task)
            for question in build_questions(pool, task, split="", max_questions=30, seed=0)[0]
        }
        for task in TASKS
    ]
    assert asked[0] == asked[1] == asked[2]


def test_the_command_writes_the_same_bytes_again(tmp_path: Path, run_python: RunPython) -> None:
    table = write_clips(tmp_path / "clips.parquet", narrated_clips())
    outputs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / f"{name}.jsonl"
        done = run_python("-m", MODULE, "--clips", table, "--out", out, "--max-questions", 20, "--seed", seed)
        assert done.returncode == 0, done.stderr
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1] != outputs[2]
    questions = [Question.model_validate(row) for row in read_jsonl(tmp_path / "a.jsonl")]
    assert len(questions) == 60
    assert {question.split for question in questions} == {"val"}
    summary = json.loads((tmp_path / "a.summary.json").read_text())
    assert summary["narration_hard"]["questions"] == 20
    assert sum(summary["narration_hard"]["truth_positions"]) == 20
    assert summary["provenance"]["inputs"][str(table)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clips", "absent.parquet", "--out", "q.jsonl"], "clip table not found"),
        (["--clips", "pyproject.toml", "--out", "q.jsonl"], "cannot be read as a clip table"),
    ],
)
def test_wrong_tables_are_one_message(run_python: RunPython, arguments: list[str], message: str) -> None:
    done = run_python("-m", MODULE, *arguments)
    assert done.returncode == 3
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("q.jsonl").exists()


def test_too_few_narrations_write_nothing(tmp_path: Path, run_python: RunPython) -> None:
    table = write_clips(tmp_path / "clips.parquet", narrated_clips(num_takes=1, num_events=2))
    done = run_python("-m", MODULE, "--clips", table, "--out", tmp_path / "q.jsonl")
    assert done.returncode == 3
    assert "no question can be made" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.parquet"]
