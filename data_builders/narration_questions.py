"""Held-out narrations as multiple-choice questions in the EgoBench record format (the form of EgoMCQ)."""

from __future__ import annotations

import argparse
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from data_builders.narration_command import command_parser, drawn_order, read_pool, run_command
from data_builders.narration_pool import NarrationPool
from exo2ego.errors import DataError
from exo2ego.records import Question
from exo2ego.storage import write_jsonl

QUESTION = "Which description accurately reflects the human behavior in the video?"  # Exo2Ego Table 12, EgoMCQ
NUM_OPTIONS = 5
SOURCE = "ego_exoclip"

PickWrongOptions = Callable[[NarrationPool, int, int, random.Random], "list[int] | None"]
TASKS: dict[str, PickWrongOptions] = {
    "narration_inter": NarrationPool.from_other_takes,
    "narration_intra": NarrationPool.from_same_take,
    "narration_hard": NarrationPool.most_similar,
}


def build_questions(
    pool: NarrationPool, task: str, *, split: str, max_questions: int | None, seed: int
) -> tuple[list[Question], int]:
    """Returns the questions of one task, and how many clips had too few wrong options.

    All tasks ask about clips in one order that depends on seed and clip alone, so that they share clips.
    """
    questions: list[Question] = []
    num_without = 0
    for index in drawn_order(pool, seed):
        if len(questions) == max_questions:
            break
        rng = random.Random(f"{seed}/{task}/{pool.clips[index].clip_id}")
        wrong = TASKS[task](pool, index, NUM_OPTIONS - 1, rng)
        if wrong is None:
            num_without += 1
            continue
        questions.append(_question(pool, task, index, wrong, split, rng))
    return questions, num_without


def _question(
    pool: NarrationPool, task: str, truth: int, wrong: Sequence[int], split: str, rng: random.Random
) -> Question:
    clip = pool.clips[truth]
    shown = [truth, *wrong]
    rng.shuffle(shown)
    return Question(
        id=f"{task}/{clip.clip_id}",
        task=task,
        source=SOURCE,
        split=split,
        video=clip.ego_video,
        start=clip.start_s,
        end=clip.end_s,
        question=QUESTION,
        options=[pool.clips[index].text for index in shown],
        answer_index=shown.index(truth),
        answer_text=clip.text,
        meta={
            "take_name": clip.take_name,
            "timestamp_s": clip.timestamp_s,
            "annotator": clip.annotator,
            "exo_videos": clip.exo_videos,
            "option_clips": [pool.clips[index].clip_id for index in shown],
        },
    )


def text_only_accuracies(questions: Sequence[Question], pool: NarrationPool) -> dict[str, float]:
    """Returns the accuracy of answers that never look at the video; ties count as their share.

    What lies far from one over the number of options is a hint that the options give away.
    """
    frequency = Counter(pool.words)
    words_of = {clip.clip_id: words for clip, words in zip(pool.clips, pool.words, strict=True)}
    credit: dict[str, float] = defaultdict(float)
    for question in questions:
        words = [words_of[clip_id] for clip_id in question.meta["option_clips"]]
        rules: dict[str, list[float]] = {
            "longest option": [len(option) for option in question.options],
            "shortest option": [-len(option) for option in question.options],
            "most frequent narration": [frequency[own] for own in words],
            "most like the others": [sum(len(own & other) / len(own | other) for other in words) for own in words],
        }
        for rule, values in rules.items():
            best = [position for position, value in enumerate(values) if value >= max(values) - 1e-9]
            credit[rule] += (question.answer_index in best) / len(best)
    return {rule: right / len(questions) for rule, right in credit.items()}


def build(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the question file; returns what was made of how many clips."""
    pool = read_pool(arguments)
    rows: list[dict[str, Any]] = []
    tasks: dict[str, Any] = {}
    for task in arguments.tasks:
        questions, num_without = build_questions(
            pool, task, split=arguments.split, max_questions=arguments.max_questions, seed=arguments.seed
        )
        rows += [question.to_row() for question in questions]
        positions = Counter(question.answer_index for question in questions)
        tasks[task] = {
            "questions": len(questions),
            "takes": len({question.video for question in questions}),
            "clips_with_too_few_wrong_options": num_without,
            "truth_positions": [positions[position] for position in range(NUM_OPTIONS)],
            "text_only_accuracy": text_only_accuracies(questions, pool),
        }
    if not rows:
        raise DataError(
            f"{arguments.clips}: no question can be made of {pool.counts()}; a question needs "
            f"{NUM_OPTIONS - 1} different narrations that are wrong for it"
        )
    write_jsonl(arguments.out, rows)
    return {**pool.counts(), **tasks}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.narration_questions`."""
    parser = command_parser("data_builders.narration_questions", __doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="default: all")
    parser.add_argument("--max-questions", type=int, help="questions per task at most (default: one per clip)")
    parser.add_argument("--split", default="val", help="name of the split, for the records (default val)")
    return run_command(parser.parse_args(argv), build)


if __name__ == "__main__":
    sys.exit(main())
