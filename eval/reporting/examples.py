"""Questions to look at: the most confident mistakes of each task, and some right answers, with frames."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.metrics.calibration import confidence_of, option_probabilities
from eval.prompts import PROMPTS, choice_turn, open_turn
from eval.reporting.cells import in_order
from eval.reporting.open_measures import HIGHEST_SCORE, WORD_SCORES, verdicts
from eval.reporting.results import RunResults
from eval.reporting.run_folder import PREFERRED, RunFolder
from exo2ego.data.prompting import LETTERS
from exo2ego.data.spans import Span
from exo2ego.errors import VideoError
from exo2ego.records import AnswerMode, Prediction, Question

SHARE_OF_MISSES = 2 / 3
LONGEST_SIDE = 240
JPEG_QUALITY = 60
LONGEST_OUTPUT_CHARACTERS = 1500


@dataclass(frozen=True)
class Frame:
    """A small picture inside the page."""

    address: str
    width: int
    height: int
    time: str


@dataclass(frozen=True)
class Answer:
    """What one run said in one mode."""

    run: str
    mode: AnswerMode
    outcome: str
    """right, wrong, unparsed or unlabelled."""
    chosen: str
    confidence: float | None
    probabilities: list[float]
    """Of the options; empty for generated text."""
    scores: list[float]
    raw_output: str | None
    verdict: str
    """Of judge and rule on an open answer; empty where there is none."""
    prompt: str
    """The user's turn; the model's own template stands around it."""
    prompt_hash: str


@dataclass(frozen=True)
class Example:
    """One question with every run's answers; the first answer decides where it stands."""

    question: Question
    answers: list[Answer]
    frames: list[Frame]
    fault: str
    """Why there are no frames."""

    @property
    def by_run(self) -> dict[str, list[Answer]]:
        """Returns the answers of every run."""
        found: dict[str, list[Answer]] = {}
        for answer in self.answers:
            found.setdefault(answer.run, []).append(answer)
        return found

    @property
    def outcome(self) -> str:
        """Returns the outcome of the first answer."""
        return self.answers[0].outcome


@dataclass(frozen=True)
class FrameReader:
    """Reads frames below `data_root`; none without it."""

    data_root: Path | None
    num_frames: int = 4

    def read(self, question: Question) -> tuple[list[Frame], str]:
        """Returns small pictures of a question's clip, or the reason why there are none."""
        if self.data_root is None:
            return [], ""
        from exo2ego.data.video import read_span

        span = Span.of(question)
        try:
            frames, _, labels = read_span(self.data_root, span, self.num_frames)
        except VideoError as error:
            return [], f"{span.video} cannot be read: {error.reason}"
        return [_picture(frame, label) for frame, label in zip(frames, labels, strict=True)], ""


def _picture(frame: Any, time: str) -> Frame:
    from PIL import Image

    picture = Image.fromarray(frame)
    picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=JPEG_QUALITY)
    address = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return Frame(address, picture.width, picture.height, time)


Verdicts = Mapping[str, Mapping[str, Any]]
"""What is known of open answers, by question (`eval/reporting/open_measures.py`)."""


def choose_examples(
    folders: Sequence[RunFolder], runs: Sequence[RunResults], per_task: int, reader: FrameReader
) -> list[Example]:
    """Returns at most `per_task` questions of each task of the first run: the worst mistakes first, then right answers.

    Worst is wrong with the highest confidence (an open answer: with the judge's lowest score); of the right answers the
    least confident come first. Nothing is drawn by chance: the same files give the same page.
    """
    first = folders[0]
    given = [_by_question(folder) for folder in folders]
    judged = [verdicts(folder.path) for folder in folders]
    found = []
    for task in in_order({row.task for row in first.predictions}):
        rows = [row for row in first.predictions if row.task == task and row.question_id in first.questions]
        mode = next((mode for mode in PREFERRED if any(row.mode == mode for row in rows)), None)
        for row in _choose([row for row in rows if row.mode == mode], per_task, judged[0]):
            question = first.questions[row.question_id]
            answers = [
                _answer(prediction, question, folder, run, known.get(question.question_id, {}))
                for folder, run, predictions, known in zip(folders, runs, given, judged, strict=True)
                if folder.questions.get(question.question_id) == question
                for prediction in _in_order(predictions.get(question.question_id, []), row.mode)
            ]
            found.append(Example(question, answers, *reader.read(question)))
    return found


def _choose(rows: Sequence[Prediction], count: int, judged: Verdicts) -> list[Prediction]:
    outcomes = {row.question_id: outcome_of(row, judged.get(row.question_id, {})) for row in rows}

    def sureness(row: Prediction) -> float:
        verdict = judged.get(row.question_id, {})
        if "score" in verdict:
            return abs(verdict["score"] / HIGHEST_SCORE - (not verdict["is_correct"]))
        return confidence_of(row) or 0.0

    misses = [row for row in rows if outcomes[row.question_id] in ("wrong", "unparsed")]
    others = [row for row in rows if outcomes[row.question_id] not in ("wrong", "unparsed")]
    misses.sort(key=lambda row: (-sureness(row), row.question_id))
    others.sort(key=lambda row: (outcomes[row.question_id] != "right", sureness(row), row.question_id))
    num_misses = min(len(misses), max(math.ceil(SHARE_OF_MISSES * count), count - len(others)))
    return misses[:num_misses] + others[: count - num_misses]


def outcome_of(row: Prediction, verdict: Mapping[str, Any]) -> str:
    """Returns right, wrong, unparsed (no option named), unlabelled (truth not public) or open (nobody has judged)."""
    if not row.num_options:
        return ("right" if verdict["is_correct"] else "wrong") if "is_correct" in verdict else "open"
    if row.answer_index is None:
        return "unlabelled"
    if row.predicted_index is None:
        return "unparsed"
    return "right" if row.predicted_index == row.answer_index else "wrong"


def _by_question(folder: RunFolder) -> dict[str, list[Prediction]]:
    found: dict[str, list[Prediction]] = {}
    for row in folder.predictions:
        found.setdefault(row.question_id, []).append(row)
    return found


def _in_order(rows: Sequence[Prediction], first_mode: AnswerMode) -> list[Prediction]:
    return sorted(rows, key=lambda row: (row.mode != first_mode, PREFERRED.index(row.mode)))


def _answer(
    row: Prediction, question: Question, folder: RunFolder, run: RunResults, verdict: Mapping[str, Any]
) -> Answer:
    scores = row.option_scores or []
    output = row.raw_output
    if output is not None and len(output) > LONGEST_OUTPUT_CHARACTERS:
        output = f"{output[:LONGEST_OUTPUT_CHARACTERS]} … ({len(output):,} characters)"
    return Answer(
        run=run.title,
        mode=row.mode,
        outcome=outcome_of(row, verdict),
        chosen="–" if row.predicted_index is None else LETTERS[row.predicted_index],
        confidence=None if run.no_calibration else confidence_of(row),
        probabilities=option_probabilities(scores) if scores and not run.no_calibration else [],
        scores=scores,
        raw_output=output,
        verdict=_verdict_text(verdict),
        prompt=_prompt(row.mode, question, folder),
        prompt_hash=row.prompt_hash,
    )


def _verdict_text(verdict: Mapping[str, Any]) -> str:
    """Returns what judge and rule say of an open answer, so that they can be held against each other."""
    parts = []
    if "is_correct" in verdict:
        parts.append(f"judge: {'yes' if verdict['is_correct'] else 'no'}, {verdict['score']} of {HIGHEST_SCORE}")
    parts += [f"{name} {verdict[name]:.2f}" for name in WORD_SCORES if name in verdict]
    return " · ".join(parts)


def _prompt(mode: AnswerMode, question: Question, folder: RunFolder) -> str:
    """Returns the user's turn by the prompt's name in the run's settings; empty where it is not known."""
    if folder.setting("form") == "plain":
        return "(none: the option follows the video directly)"
    key = "open_prompt" if not question.options else "likelihood_prompt" if mode == "likelihood" else "prompt"
    template = PROMPTS.get(str(folder.setting(key)))
    if template is None:
        return ""
    if not question.options or mode == "likelihood":
        return open_turn(template, question.question)
    return choice_turn(template, question.question, question.options)
