"""The evaluator end to end: as a user runs it, when it is killed, and when its inputs are wrong."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eval import egobench, report
from exo2ego.data.spans import Span
from exo2ego.errors import CheckpointError, ConfigError, DataError, EvaluationError
from exo2ego.records import Prediction
from exo2ego.storage import read_json, read_jsonl, write_jsonl
from tests.conftest import RunPython
from tests.eval.evaluation_setup import NUM_TAKES, question_row, write_setup
from tests.shared_data import REPOSITORY

CONFIG = REPOSITORY / "eval" / "configs" / "egobench.yaml"
ALL_MODES = "modes=[likelihood,letter,generate]"


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_setup(tmp_path_factory.mktemp("evaluation"))


def arguments(setup: Path, output: Path, *overrides: str) -> list[str]:
    paths = [f"model={setup / 'model'}", f"data.questions={setup / 'questions.jsonl'}", f"data.root={setup / 'videos'}"]
    return ["--config", str(CONFIG), *paths, f"output={output}", "max_new_tokens=4", *overrides]


def run(setup: Path, output: Path, *overrides: str) -> int:
    return egobench.main(arguments(setup, output, *overrides))


def answers(output: Path) -> dict[tuple[str, str], Any]:
    """What the predictions say, without the time they took."""
    rows = read_jsonl(output / "predictions.jsonl")
    return {(row["id"], row["mode"]): {**row, "seconds": 0} for row in rows}


def copy_with_questions(setup: Path, folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Returns a setup with other questions and its own copy of the videos; the model is shared."""
    shutil.copytree(setup / "videos", folder / "videos")
    (folder / "model").symlink_to(setup / "model")
    write_jsonl(folder / "questions.jsonl", rows)
    return folder


def test_a_run_answers_everything_and_its_report_can_be_made_again(
    setup: Path, tmp_path: Path, run_python: RunPython
) -> None:
    done = run_python("-m", "eval.egobench", *arguments(setup, tmp_path, ALL_MODES))
    assert done.returncode == 0, done.stderr
    assert "| narration_inter | letter | accuracy |" in done.stdout
    predictions = [Prediction.model_validate(row) for row in read_jsonl(tmp_path / "predictions.jsonl")]
    assert len(predictions) == 3 * 12
    assert all((row.raw_output is None) == (row.mode != "generate") for row in predictions)
    results = read_json(tmp_path / "results.json")["results"]
    assert [row["mode"] for row in results] == ["generate", "letter", "likelihood"]
    assert all(row["num_scored"] == 12 and row["num_videos"] == 3 for row in results)
    assert read_json(tmp_path / "run.json")["provenance"]["config"]["prompt"] == "first_person@1"
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert report.main([str(tmp_path)]) == 0
    assert run(setup, tmp_path, ALL_MODES) == 0, "a finished run has nothing left to do"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_a_killed_run_continues_to_the_same_answers(setup: Path, tmp_path: Path) -> None:
    folder = copy_with_questions(setup, tmp_path / "setup", [question_row(number) for number in range(45)])
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "eval.egobench", *arguments(folder, killed, ALL_MODES)], cwd=REPOSITORY
    )
    predictions = killed / "predictions.jsonl"
    while process.poll() is None and not (predictions.exists() and predictions.read_bytes().count(b"\n") >= 7):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run finished before it could be killed"
    before = answers(killed)
    assert 7 <= len(before) < 135
    assert not (killed / "results.json").exists()
    with predictions.open("a") as stream:
        stream.write('{"id": "inter/take0/7", "ta')  # a kill in the middle of a line
    assert run(folder, killed, ALL_MODES, "--resume", "auto") == 0
    assert run(folder, tmp_path / "whole", ALL_MODES) == 0
    after = answers(killed)
    assert list(after)[: len(before)] == list(before)
    assert after == answers(tmp_path / "whole")
    for name in ("results.json", "results.md"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_run_starts_afresh_and_the_former_is_kept(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "results"
    assert run(setup, folder) == 0
    for change in ("prompt=careful@1", "view=ego_only", "likelihood_prompt=first_person@1", "max_new_tokens=5"):
        written = (folder / "predictions.jsonl").read_bytes()
        key = read_json(folder / "run.json")["key"]
        assert run(setup, folder, change) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "starts afresh" in said
        assert f"{change.partition('=')[0]}: there" in said
        former = [path for path in tmp_path.glob("results.earlier-*") if read_json(path / "run.json")["key"] == key]
        assert [path.joinpath("predictions.jsonl").read_bytes() for path in former] == [written]
        assert len(answers(folder)) == len(answers(former[0]))
    assert len(list(tmp_path.glob("results.earlier-*"))) == 4
    assert run(setup, folder, ALL_MODES, "max_new_tokens=5") == 0, "another mode of the same run may be added"
    assert len(list(tmp_path.glob("results.earlier-*"))) == 4


def test_a_prompt_text_that_changed_under_its_name_is_noticed(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(setup, tmp_path, "modes=likelihood") == 0
    rows = list(read_jsonl(tmp_path / "predictions.jsonl"))
    write_jsonl(tmp_path / "predictions.jsonl", [{**row, "prompt_hash": "of another text"} for row in rows[:-1]])
    assert run(setup, tmp_path, "modes=likelihood") == EvaluationError.exit_code
    assert "was answered to another prompt" in capsys.readouterr().err


def test_each_clip_is_decoded_once(setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eval import shown_clips

    decoded: list[Span] = []
    read_span = shown_clips.read_span

    def counted(root: Path, span: Span, num_frames: int) -> Any:
        decoded.append(span)
        return read_span(root, span, num_frames)

    monkeypatch.setattr(shown_clips, "read_span", counted)
    assert run(setup, tmp_path, ALL_MODES) == 0
    assert len(decoded) == NUM_TAKES


def test_plain_form_puts_the_option_after_the_video(setup: Path, tmp_path: Path) -> None:
    assert run(setup, tmp_path / "plain", "form=plain", "modes=likelihood") == 0
    assert run(setup, tmp_path / "chat", "modes=likelihood") == 0
    plain, chat = answers(tmp_path / "plain"), answers(tmp_path / "chat")
    assert plain.keys() == chat.keys()
    assert all(plain[key]["option_scores"] != chat[key]["option_scores"] for key in plain)


def test_exo_view_is_asked_about_exo_video(setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copy_with_questions(setup, tmp_path / "setup", [question_row(number) for number in range(6)])
    for take in range(NUM_TAKES):
        (folder / "videos" / f"take{take}" / "ego.mp4").unlink()
    assert run(folder, tmp_path / "exo", "view=exo") == 0
    assert {row["video"] for row in answers(tmp_path / "exo").values()} == {
        "take0/ego.mp4",
        "take1/ego.mp4",
        "take2/ego.mp4",
    }
    write_jsonl(folder / "questions.jsonl", [question_row(0, meta={})])
    assert run(folder, tmp_path / "none", "view=exo") == EvaluationError.exit_code
    assert "has no list of videos as meta.exo_videos" in capsys.readouterr().err


def test_a_dry_run_shows_prompts_and_writes_nothing(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(setup, tmp_path / "out", ALL_MODES, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "12 questions of 1 tasks: narration_inter" in shown
    assert "[INST] <video>\nFrom a first-person perspective" in shown
    assert "(E) C pushes the white plate [/INST]" in shown
    assert not (tmp_path / "out").exists()


def test_unreadable_videos_are_counted_and_tried_again(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_with_questions(setup, tmp_path / "setup", [question_row(number) for number in range(12)])
    video = folder / "videos" / "take1" / "ego.mp4"
    whole = video.read_bytes()
    video.unlink()
    out = tmp_path / "out"
    assert run(folder, out, "modes=likelihood") == DataError.exit_code
    message = capsys.readouterr().err
    assert "4 of 12 questions cannot be answered" in message
    assert "take1/ego.mp4" in message
    assert run(folder, out, "modes=likelihood", "max_failure_rate=0.5") == 0
    (row,) = read_json(out / "results.json")["results"]
    assert (row["num_scored"], row["num_failed"], row["num_questions"]) == (8, 4, 12)
    assert {failure["reason"] for failure in read_jsonl(out / "failures.jsonl")} == {"missing"}
    video.write_bytes(whole)
    assert run(folder, out, "modes=likelihood") == 0
    (row,) = read_json(out / "results.json")["results"]
    assert (row["num_scored"], row["num_failed"]) == (12, 0)


@pytest.mark.parametrize(
    ("overrides", "code", "message"),
    [
        (["model=absent"], CheckpointError.exit_code, "absent"),
        (["data.questions=absent.jsonl"], DataError.exit_code, "absent.jsonl"),
        (["data.root=absent"], DataError.exit_code, "data.root absent is not a folder"),
        (["prompt=first_person@9"], ConfigError.exit_code, "known: careful@1"),
        (["form=plain", "modes=letter"], ConfigError.exit_code, "the plain form can only score options"),
        (["mode=letter"], ConfigError.exit_code, "did you mean `modes`"),
        (["modes=[]"], ConfigError.exit_code, "modes"),
        (["max_failure_rate=2"], ConfigError.exit_code, "max_failure_rate"),
    ],
)
def test_wrong_settings_are_one_message(
    setup: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    code: int,
    message: str,
) -> None:
    assert run(setup, tmp_path / "out", *overrides) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_checkpoint_is_no_model(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(setup, tmp_path / "out", f"model={tmp_path}") == CheckpointError.exit_code
    assert str(tmp_path) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        (json.dumps(question_row(0)) + "\n" + json.dumps(question_row(1))[:80], DataError.exit_code, "line 2"),
        (
            json.dumps({**question_row(0), "anser": 1}),
            DataError.exit_code,
            "is not an EgoBench record: anser",
        ),
        (
            json.dumps(question_row(0, answer_index=5)),
            DataError.exit_code,
            "answer_index 5 is not one of its 5",
        ),
        (json.dumps(question_row(0)) + "\n" + json.dumps(question_row(0)), EvaluationError.exit_code, "given twice"),
        (
            json.dumps(question_row(0, options=[], answer_index=None, answer_text=None)),
            EvaluationError.exit_code,
            "has 0 options and no answer_text",
        ),
        (json.dumps(question_row(0, options=["x"] * 11)), EvaluationError.exit_code, "has 11 options"),
        (json.dumps(question_row(0, frames=["a.jpg"])), EvaluationError.exit_code, "lists frames"),
        (json.dumps(question_row(0, options=["a", " ", ""])), EvaluationError.exit_code, "option 2, 3 is empty"),
        (
            json.dumps(question_row(0, answer_index=True)),
            DataError.exit_code,
            "answer_index: Input should be a valid int",
        ),
        (json.dumps(question_row(0, id="")), DataError.exit_code, "id: String should have at least 1 character"),
        ("", EvaluationError.exit_code, "no questions in"),
    ],
)
def test_wrong_questions_are_one_message(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, code: int, message: str
) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(text)
    assert run(setup, tmp_path / "out", f"data.questions={path}") == code
    assert message in capsys.readouterr().err


def test_questions_without_a_public_label_are_answered_and_not_scored(setup: Path, tmp_path: Path) -> None:
    rows = [question_row(number, answer_index=None if number % 2 else 0) for number in range(6)]
    folder = copy_with_questions(setup, tmp_path / "setup", rows)
    assert run(folder, tmp_path / "out", "modes=likelihood") == 0
    (row,) = read_json(tmp_path / "out" / "results.json")["results"]
    assert (row["num_scored"], row["num_unlabelled"]) == (3, 3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text + text.splitlines(keepends=True)[0], "two predictions"),
        (lambda text: text.replace('"mode": "likelihood"', '"mode": "guess"', 1), "row 1 is not a Prediction"),
        (lambda text: "{" + text, "line 1"),
    ],
)
def test_damaged_predictions_are_one_message(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Any, message: str
) -> None:
    assert run(setup, tmp_path, "modes=likelihood") == 0
    path = tmp_path / "predictions.jsonl"
    path.write_text(damage(path.read_text()))
    assert report.main([str(tmp_path)]) == DataError.exit_code
    assert message in capsys.readouterr().err


def test_predictions_without_their_run_are_not_continued(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(setup, tmp_path, "modes=likelihood") == 0
    (tmp_path / "run.json").unlink()
    assert run(setup, tmp_path, "modes=likelihood") == EvaluationError.exit_code
    assert "no run.json" in capsys.readouterr().err


def test_the_plain_form_leaves_open_questions_out(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    open_one = question_row(0, id="open/0", task="qaego4d_open", options=[], answer_index=None, answer_text="a cup")
    write_jsonl(tmp_path / "both.jsonl", [question_row(1), open_one])
    plain = [f"data.questions={tmp_path / 'both.jsonl'}", "form=plain", "modes=likelihood"]
    assert run(setup, tmp_path / "out", *plain) == 0
    assert "1 open questions are left out" in capsys.readouterr().out
    assert set(answers(tmp_path / "out")) == {("inter/take1/1", "likelihood")}


def test_the_current_folder_is_moved_aside_like_any_other(
    setup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert run(setup, Path("."), "modes=likelihood") == 0
    assert run(setup, Path("."), "modes=likelihood", "seed=1") == 0
    (earlier,) = tmp_path.glob("here.earlier-*.1")
    assert [read_json(folder / "run.json")["key"]["seed"] for folder in (earlier, here)] == [0, 1]


def test_videos_of_another_folder_are_another_run(
    setup: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(setup / "videos", other)
    assert run(setup, tmp_path / "out", "modes=likelihood") == 0
    assert run(setup, tmp_path / "out", "modes=likelihood", f"data.root={other}") == 0
    assert "data_root: there" in " ".join(capsys.readouterr().out.split())
    assert str(tmp_path) not in (tmp_path / "out" / "results.json").read_text()


def test_open_questions_are_answered_by_text(setup: Path, tmp_path: Path) -> None:
    open_one = question_row(0, id="open/0", task="qaego4d_open", options=[], answer_index=None, answer_text="a cup")
    write_jsonl(tmp_path / "both.jsonl", [question_row(1), open_one])
    assert run(setup, tmp_path / "out", f"data.questions={tmp_path / 'both.jsonl'}", "modes=likelihood") == 0
    found = answers(tmp_path / "out")
    assert set(found) == {("inter/take1/1", "likelihood"), ("open/0", "generate")}
    assert isinstance(found["open/0", "generate"]["raw_output"], str)
    results = read_json(tmp_path / "out" / "results.json")["results"]
    (of_open,) = [row for row in results if row["task"] == "qaego4d_open"]
    assert (of_open["accuracy"], of_open["num_unparsed"], of_open["num_questions"]) == (None, 0, 1)
