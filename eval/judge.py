"""Let a language model judge the answers to open questions, as the Video-ChatGPT protocol does (QAEgo4D open).

Any OpenAI-compatible endpoint will do; name a model that does not change under its name. Verdicts are cached and the
command continues where it was stopped. The paper does not name its judge, and judges differ by more than models do:
compare only numbers of one judge. Run it on the output folder of `python -m eval.egobench`.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from eval.predictions import read_asked
from eval.reporting.open_measures import HIGHEST_SCORE, JUDGEMENTS_FILE, LOWEST_SCORE
from eval.reporting.run_folder import answered_openly
from exo2ego.command_line import add_flags, given_flags, run_safely
from exo2ego.config import validate_config
from exo2ego.console import console, track
from exo2ego.errors import EvaluationError
from exo2ego.language_prompt import Prompt
from exo2ego.language_service import (
    LanguageService,
    NoTextError,
    RefusedError,
    ServiceOptions,
    estimate_tokens,
    token_cost,
)
from exo2ego.storage import hash_text, write_json

SYSTEM_MESSAGE = (
    "You are an intelligent chatbot designed for evaluating the correctness of generative outputs for question-answer "
    "pairs. Your task is to compare the predicted answer with the correct answer and determine if they match "
    "meaningfully. Here's how you can accomplish the task:"
    "------"
    "##INSTRUCTIONS: "
    "- Focus on the meaningful match between the predicted answer and the correct answer.\n"
    "- Consider synonyms or paraphrases as valid matches.\n"
    "- Evaluate the correctness of the prediction compared to the answer."
)
"""Video-ChatGPT's evaluation of open questions: the protocol is its text, so that it stands here word for word."""
USER_MESSAGE = (
    "Please evaluate the following video-based question-answer pair:\n\n"
    "Question: {question}\n"
    "Correct Answer: {truth}\n"
    "Predicted Answer: {answer}\n\n"
    "Provide your evaluation only as a yes/no and score where the score is an integer value between 0 and 5, with 5 "
    "indicating the highest meaningful match. "
    "Please generate the response in the form of a Python dictionary string with keys 'pred' and 'score', where value "
    "of 'pred' is  a string of 'yes' or 'no' and value of 'score' is in INTEGER, not STRING."
    "DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the Python dictionary string. "
    "For example, your response should look like this: {{'pred': 'yes', 'score': 4.8}}."
)
LONGEST_ANSWER_CHARACTERS = 2000
"""A longer answer is cut before it is judged: a page of text must not hide instructions to the judge."""
LONGEST_VERDICT_CHARACTERS = 4000
"""A longer one is no verdict, and not read."""
LONGEST_ROW_OF_REFUSALS = 5
"""Answers in succession that the judge's endpoint refuses before its settings are taken to be wrong."""
VERDICT_TOKENS = 20
"""About how long a verdict is, for the estimate of a dry run."""
_JOINERS = "\u200c\u200d"


class JudgeOptions(ServiceOptions):
    """Options of `python -m eval.judge`."""

    folder: Path
    """Output folder of `python -m eval.egobench` with answers to open questions."""
    cache: Path | None = None
    """Folder that keeps the verdicts, so that none is paid for twice; default: `judge_cache` in the folder."""
    max_samples: int = Field(default=3, ge=1)
    """Verdicts asked for at most, where one cannot be read; then the answer counts as not judged."""
    max_answer_tokens: int = Field(default=100, ge=1)
    """Longest verdict, in tokens."""
    temperature: float | None = Field(default=0, ge=0)
    """Sampling temperature of the judge."""


@dataclass(frozen=True)
class Judgement:
    """What the judge said about one answer; both None where no verdict could be read."""

    question_id: str
    is_correct: bool | None
    score: int | None
    """0 to 5; a fraction is cut to the integer below, as the protocol's own code does."""
    verdict: str
    """The judge's last words."""


def parse_verdict(text: str) -> tuple[bool, int] | None:
    """Reads `{'pred': 'yes', 'score': 4}`, also with `'Yes.'` and `'4'`; None for anything else and outside 0 to 5."""
    start, end = text.find("{"), text.rfind("}")
    if start < 0 or end < start or len(text) > LONGEST_VERDICT_CHARACTERS:
        return None
    try:
        parsed = ast.literal_eval(text[start : end + 1])
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(parsed, dict):
        return None
    word, score = parsed.get("pred"), parsed.get("score")
    said = word.strip().rstrip(".").lower() if isinstance(word, str) else ""
    if said not in ("yes", "no"):
        return None
    if isinstance(score, str) and score.strip().isdecimal():
        score = int(score)
    if isinstance(score, bool) or not isinstance(score, int | float) or not LOWEST_SCORE <= score <= HIGHEST_SCORE:
        return None
    return said == "yes", int(score)


def as_data(text: str) -> str:
    """Returns a text as one line without what cannot be seen: it cannot pass for another line of the protocol's prompt.

    Line breaks and control characters become spaces; marks of direction, tags and other invisible characters go.
    """
    shown = []
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp"):
            shown.append(" ")
        elif category == "Cs":
            shown.append("\ufffd")
        elif category != "Cf" or character in _JOINERS:
            shown.append(character)
    return " ".join("".join(shown).split())[:LONGEST_ANSWER_CHARACTERS]


def prompt_for(question: str, truth: str, answer: str) -> Prompt:
    """Returns what the judge is asked about one answer."""
    user = USER_MESSAGE.format(question=as_data(question), truth=as_data(truth), answer=as_data(answer))
    return Prompt(SYSTEM_MESSAGE, user)


def judge_answer(name: str, prompt: Prompt, answer: str, service: LanguageService, max_samples: int) -> Judgement:
    """Asks until a verdict can be read, at most `max_samples` times; an empty answer is wrong without asking."""
    if not as_data(answer):
        return Judgement(name, False, LOWEST_SCORE, "not asked: the answer is empty")
    text = ""
    for sample in range(max_samples):
        try:
            text = service.ask(prompt, sample).text
        except NoTextError as error:
            text = str(error)
            continue
        verdict = parse_verdict(text)
        if verdict is not None:
            return Judgement(name, *verdict, verdict=text)
    return Judgement(name, None, None, text[:LONGEST_VERDICT_CHARACTERS])


def answers_to_judge(folder: Path) -> list[tuple[str, str, str]]:
    """Returns (question id, true answer, given answer); raises `EvaluationError` where there is none."""
    pairs = answered_openly(folder)
    if not pairs:
        raise EvaluationError(f"{folder}: holds no answers to open questions; run eval.egobench on qaego4d_open first")
    return pairs


def judge_folder(options: JudgeOptions, service: LanguageService, questions: dict[str, str]) -> list[Judgement]:
    """Judges every answer to an open question with a known answer; `questions` are the texts by id."""
    pairs = answers_to_judge(options.folder)
    judged: list[Judgement] = []
    refused_in_a_row = 0
    for name, truth, answer in track(pairs, "answers"):
        prompt = prompt_for(questions[name], truth, answer)
        try:
            judged.append(judge_answer(name, prompt, answer, service, options.max_samples))
            refused_in_a_row = 0
        except RefusedError as error:  # a filter's: the other answers can be judged
            refused_in_a_row += 1
            if refused_in_a_row == LONGEST_ROW_OF_REFUSALS:
                raise
            judged.append(Judgement(name, None, None, f"refused: {error}"))
    return judged


def summarise(judged: Sequence[Judgement]) -> dict[str, Any]:
    """Returns accuracy (share of yes among verdicts), mean score (0 to 5) and how many have no verdict."""
    known = [row for row in judged if row.is_correct is not None and row.score is not None]
    return {
        "accuracy": sum(bool(row.is_correct) for row in known) / len(known) if known else None,
        "mean_score": sum(row.score or 0 for row in known) / len(known) if known else None,
        "num_judged": len(known),
        "num_without_verdict": len(judged) - len(known),
    }


def run(options: JudgeOptions, service: LanguageService | None = None) -> int:
    """Judges, writes `judgements.json` into the folder, and prints the numbers."""
    cached = options.cache or options.folder / "judge_cache"
    options = options.model_copy(update={"cache": cached})
    service = service or LanguageService(options)
    texts = {name: question.question for name, question in read_asked(options.folder).items()}
    judged = judge_folder(options, service, texts)
    summary = summarise(judged)
    judge = {
        "model": options.model,
        "base_url": options.base_url,
        "temperature": options.temperature,
        "prompt": hash_text(SYSTEM_MESSAGE + USER_MESSAGE),
    }
    write_json(
        options.folder / JUDGEMENTS_FILE,
        {"judge": judge, "summary": summary, "judgements": [asdict(row) for row in judged]},
    )
    if not summary["num_judged"]:
        raise EvaluationError(
            f"{options.folder}: none of {len(judged)} verdicts could be read; the last: "
            f"{json.dumps(judged[-1].verdict[:200])}; choose a model that follows the protocol"
        )
    console.print(
        f"accuracy {100 * summary['accuracy']:.1f} %  mean score {summary['mean_score']:.2f} of 5  "
        f"({summary['num_judged']} judged by {options.model}, {summary['num_without_verdict']} without a verdict; "
        f"{service.usage.calls} calls, {service.usage.cached_answers} from the cache)",
        markup=False,
    )
    return 0


def show_plan(options: JudgeOptions) -> int:
    """Says how many answers would be judged and about what that costs; nothing is sent."""
    questions = read_asked(options.folder)
    pairs = answers_to_judge(options.folder)
    asked = [
        prompt_for(questions[name].question, truth, answer)
        for name, truth, answer in pairs
        if as_data(answer)  # an empty one is wrong without asking
    ]
    tokens = sum(estimate_tokens(prompt.system + prompt.user) for prompt in asked)
    cost = token_cost(tokens, VERDICT_TOKENS * len(asked), options)
    price = "" if cost is None else f", about {cost:.2f}"
    console.print(f"{len(pairs)} answers, about {tokens:,} tokens to {options.model}{price}", markup=False)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m eval.judge`."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_flags(parser, JudgeOptions)
    parser.add_argument("--dry-run", action="store_true", help="count answers and tokens, send nothing")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    arguments = parser.parse_args(argv)

    def act() -> int:
        options = validate_config(JudgeOptions, given_flags(arguments, JudgeOptions), "command line")
        return show_plan(options) if arguments.dry_run else run(options)

    return run_safely(act, arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
