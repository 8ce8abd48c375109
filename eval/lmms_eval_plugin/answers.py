"""From what a model of lmms-eval answered to the evaluator's own measures: rows per question, numbers per table."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.failures import Failure
from eval.lmms_eval_plugin.questions import Document, bare_text, choice_text, open_text, question_of
from eval.metrics.measures import Measure
from eval.metrics.scoring import TaskScore, best_option, printed_values, score
from eval.open_answers import score_open_answers
from eval.parsing import parse_choice
from eval.tasks import AVERAGED, TASKS, paper_average
from exo2ego.errors import EvaluationError
from exo2ego.records import AnswerMode, Prediction, Question
from exo2ego.storage import hash_text

Row = Mapping[str, Any]
"""What one question adds to a measure: its prediction or failure, and the question where the measure needs it."""
MEASURES = ("printed", "interval_low", "interval_high", "chance", "accuracy", "unparsed", "unlabelled", "failed")
RANK_MEASURES = ("option_mAP", "option_nDCG")
"""Of every answer to a table that is printed as mAP."""
SCORE_MEASURES = {"charades_ego": ("class_mAP",), "ek100_mir": ("graded_mAP", "graded_nDCG")}
"""Of option scores, by table; they need the question."""
WORD_MEASURES = ("exact_match", "rouge_l", "meteor", "failed")
NO_ANSWER = "[LMMS_EVAL_"
"""How lmms-eval's text begins where an endpoint failed at a request, or the budget of tokens was spent."""


def measures_of(task: str, mode: AnswerMode) -> tuple[str, ...]:
    """Returns the names of the measures of a table, as the task's file lists them."""
    if TASKS[task].measure != "option_mAP":
        return MEASURES
    return (*MEASURES, *RANK_MEASURES, *(() if mode == "generate" else SCORE_MEASURES[task]))


def score_generated(doc: Document, results: Sequence[str]) -> dict[str, Row]:
    """Reads the option that generated text names, by the strict rules (lmms-eval's `process_results`)."""
    if results[0].startswith(NO_ANSWER):
        return dict.fromkeys(measures_of(question_of(doc).task, "generate"), _failure(doc, results[0]))
    chosen = parse_choice(results[0], question_of(doc).options).index
    return _rows(doc, "generate", raw_output=results[0], predicted_index=chosen)


def score_likelihood(doc: Document, results: Sequence[Any]) -> dict[str, Row]:
    """Takes the option whose text the model finds likeliest."""
    return _scored(doc, "likelihood", results)


def score_letter(doc: Document, results: Sequence[Any]) -> dict[str, Row]:
    """Takes the option whose letter the model finds likeliest."""
    return _scored(doc, "letter", results)


def score_open(doc: Document, results: Sequence[str]) -> dict[str, Row]:
    """Keeps a free answer beside the true one, for likeness of words; a judge's verdict is `python -m eval.judge`'s."""
    if results[0].startswith(NO_ANSWER):
        return dict.fromkeys(WORD_MEASURES, _failure(doc, results[0]))
    prediction = _prediction(doc, "generate", open_text(doc), raw_output=results[0])
    row = {"video": prediction.video, "prediction": prediction.to_row(), "truth": question_of(doc).answer_text}
    return dict.fromkeys(WORD_MEASURES, row)


def _scored(doc: Document, mode: AnswerMode, results: Sequence[Any]) -> dict[str, Row]:
    scores = [-_loss(result) for result in results]
    return _rows(doc, mode, option_scores=scores, predicted_index=best_option(scores))


def _loss(result: Any) -> float:
    """Returns the mean negative log-probability that a model of lmms-eval gives for one continuation.

    lmms-eval 0.7.3 hands (loss, is greedy) over as text. Raises `EvaluationError` for anything else, and for a
    log-probability: its own multiple choice takes the lowest number.
    """
    try:
        loss = float((ast.literal_eval(result) if isinstance(result, str) else result)[0])
    except (ValueError, SyntaxError, TypeError, IndexError) as error:
        raise EvaluationError(f"expected (loss, is greedy) for an option, got {result!r}") from error
    if not (math.isfinite(loss) and loss >= 0):
        raise EvaluationError(
            f"expected a finite loss of 0 or more for an option (mean negative log-probability), got {loss}; is the "
            "model damaged, or does it return log-probabilities, unlike lmms-eval's own?"
        )
    return loss


def _rows(doc: Document, mode: AnswerMode, **given: Any) -> dict[str, Row]:
    """Returns the row of a question for every measure of its table."""
    question = question_of(doc)
    prediction = _prediction(doc, mode, (bare_text if mode == "likelihood" else choice_text)(doc), **given)
    row = {"video": question.video, "prediction": prediction.to_row()}
    rows: dict[str, Row] = dict.fromkeys(measures_of(question.task, mode), row)
    for name in rows.keys() & set(SCORE_MEASURES.get(question.task, ())):
        rows[name] = {**row, "question": question.to_row()}
    if prediction.answer_index is not None:
        rows["printed"] = {**row, "score": printed_values(question.task, [prediction])[0]}
    return rows


def _failure(doc: Document, what: str) -> Row:
    question = question_of(doc)
    failure = Failure(
        id=question.question_id,
        task=question.task,
        mode="generate",
        video=question.video,
        reason="endpoint",
        detail=what,
    )
    return {"video": question.video, "failure": failure.to_row()}


def _prediction(doc: Document, mode: AnswerMode, turn: str, **given: Any) -> Prediction:
    """Returns the evaluator's record of an answer; the hash is of the turn, since each model renders its own prompt."""
    question = question_of(doc)
    return Prediction(
        id=question.question_id,
        task=question.task,
        mode=mode,
        prompt_hash=hash_text(turn),
        answer_index=question.answer_index,
        num_options=len(question.options),
        video=question.video,
        seconds=0.0,
        **given,
    )


def _score(rows: Sequence[Row]) -> TaskScore:
    asked = [Question.model_validate(row["question"]) for row in rows if "question" in row]
    predictions = [Prediction.model_validate(row["prediction"]) for row in rows if "prediction" in row]
    failures = [Failure.model_validate(row["failure"]) for row in rows if "failure" in row]
    (found,) = score(predictions, failures, {row.question_id: row for row in asked})
    return found


def _measure(rows: Sequence[Row], name: str) -> Measure | None:
    return next((measure for measure in _score(rows).measures if measure.name == name), None)


def _value(rows: Sequence[Row], name: str) -> float | None:
    measure = _measure(rows, name)
    return None if measure is None else measure.value


def _printed(rows: Sequence[Row]) -> Measure | None:
    return _score(rows).printed


def printed(rows: Sequence[Row]) -> float | None:
    """Returns the measure that the paper prints of the table, a fraction; None where no answer is public."""
    measure = _printed(rows)
    return None if measure is None else measure.value


def interval_low(rows: Sequence[Row]) -> float | None:
    """Returns where its 95 % interval begins, clustered by video."""
    measure = _printed(rows)
    return None if measure is None or measure.interval is None else measure.interval.low


def interval_high(rows: Sequence[Row]) -> float | None:
    """Returns where its 95 % interval ends."""
    measure = _printed(rows)
    return None if measure is None or measure.interval is None else measure.interval.high


def chance(rows: Sequence[Row]) -> float | None:
    """Returns what guessing gives."""
    measure = _printed(rows)
    return None if measure is None else measure.chance


def accuracy(rows: Sequence[Row]) -> float | None:
    """Returns the share of right answers among the labelled ones."""
    return _value(rows, "accuracy")


def unparsed(rows: Sequence[Row]) -> int:
    """Returns how many answers name no single option; they count as wrong."""
    return _score(rows).num_unparsed


def unlabelled(rows: Sequence[Row]) -> int:
    """Returns how many answers cannot be scored because the true one is not public."""
    return _score(rows).num_unlabelled


def failed(rows: Sequence[Row]) -> int:
    """Returns how many questions have no answer because an endpoint failed; they are not scored."""
    return sum("failure" in row for row in rows)


def option_map(rows: Sequence[Row]) -> float | None:
    """Returns the mean of 1 / rank of the true option."""
    return _value(rows, "option_mAP")


def option_ndcg(rows: Sequence[Row]) -> float | None:
    """Returns the mean of 1 / log2(1 + rank) of the true option."""
    return _value(rows, "option_nDCG")


def class_map(rows: Sequence[Row]) -> float | None:
    """Returns the official Charades formula over the options' classes."""
    return _value(rows, "class_mAP")


def graded_map(rows: Sequence[Row]) -> float | None:
    """Returns the official EK-100 mAP over the options."""
    return _value(rows, "graded_mAP")


def graded_ndcg(rows: Sequence[Row]) -> float | None:
    """Returns the official EK-100 nDCG over the options."""
    return _value(rows, "graded_nDCG")


def exact_match(rows: Sequence[Row]) -> float | None:
    """Returns the share of answers that equal the true one up to case, spaces and a final dot."""
    return _likeness(rows, "exact_match")


def rouge_l(rows: Sequence[Row]) -> float | None:
    """Returns the mean F1 of the longest common subsequence of words."""
    return _likeness(rows, "rouge_l")


def meteor(rows: Sequence[Row]) -> float | None:
    """Returns the mean METEOR without synonyms."""
    return _likeness(rows, "meteor")


def _likeness(rows: Sequence[Row], name: str) -> float | None:
    given = [row for row in rows if "prediction" in row]
    answers = [(row["prediction"]["id"], row["truth"], row["prediction"]["raw_output"]) for row in given]
    found = score_open_answers(answers, None)
    return sum(getattr(scores, name) for scores in found) / len(found) if found else None


def average_of_tables(values: Sequence[float | None], sizes: Sequence[int], weight_by_size: bool) -> float | None:
    """Returns the paper's average of the ten printed numbers, None where one is missing (a group's aggregation)."""
    del sizes, weight_by_size
    known = [value for value in values if value is not None]
    return paper_average(dict(zip(AVERAGED, known, strict=True))) if len(known) == len(AVERAGED) else None
