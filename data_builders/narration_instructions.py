"""Narrated training clips as instruction conversations in the EgoIT record format (Exo2Ego §3.2)."""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from data_builders.narration_command import command_parser, drawn_order, read_pool, run_command
from data_builders.narration_pool import NarrationPool
from exo2ego.data.prompting import LETTER_REQUEST, LETTERS
from exo2ego.errors import DataError
from exo2ego.records import Clip, Conversation
from exo2ego.storage import write_jsonl

SOURCE = "ego_exoclip"
NUM_OPTIONS = 5
KINDS = ("caption", "choice_letter", "choice_text", "hand")

# Ours, ten as the paper makes for each of its sources (§3.2); none of them is a prompt of the evaluation.
INSTRUCTIONS = (
    "Watch the egocentric video and focus on what the hands do.",
    "Look at the objects that the camera wearer touches.",
    "Observe how the hands and the objects move from the first frame to the last.",
    "Follow the action of the person who wears the camera.",
    "Note which hand acts, on which object, and how.",
    "Watch closely how the state of the objects changes.",
    "Attend to the order of movements in the video.",
    "Consider the scene from the view of the person who acts.",
    "Identify the object in use and the motion it makes.",
    "Study the interaction between hands and objects.",
)
CAPTION_QUESTIONS = (
    "What is the camera wearer doing?",
    "What am I doing?",
    "Which action does the video show?",
    "Which description accurately reflects the human behavior in the video?",  # Exo2Ego Table 12, EgoMCQ
)
CHOICE_QUESTIONS = (
    "What is the camera wearer doing?",
    "Which description accurately reflects the human behavior in the video?",  # Exo2Ego Table 12, EgoMCQ
)
TEXT_REQUEST = "Answer with the text of the best option."
HAND_QUESTION = "Which hand does the camera wearer use?"
HAND = re.compile(r"\b(left|right|both) hands?\b", re.IGNORECASE)


def conversation(pool: NarrationPool, index: int, kinds: Sequence[str], seed: int) -> Conversation | None:
    """Returns one conversation about a clip, of a kind drawn from those that it allows; None where it allows none."""
    clip = pool.clips[index]
    rng = random.Random(f"{seed}/{clip.clip_id}")
    instruction = rng.choice(INSTRUCTIONS)
    for kind in rng.sample(list(kinds), len(kinds)):
        if kind == "caption":
            return _conversation(clip, kind, instruction, rng.choice(CAPTION_QUESTIONS), clip.text)
        if kind == "hand":
            hand = hand_of(clip.text)
            if hand is not None:
                return _conversation(clip, kind, instruction, HAND_QUESTION, hand)
            continue
        options = _options(pool, index, rng)
        if options is not None:
            request = LETTER_REQUEST if kind == "choice_letter" else TEXT_REQUEST
            answer = LETTERS[options.index(clip.text)] if kind == "choice_letter" else clip.text
            question = rng.choice(CHOICE_QUESTIONS)
            return _conversation(clip, kind, f"{instruction} {request}", question, answer, options)
    return None


def hand_of(narration: str) -> str | None:
    """Returns the hand that a narration names (`left hand`, `right hand`, `both hands`), None for none or several."""
    found = {match[1].lower() for match in HAND.finditer(narration)}
    if len(found) != 1:
        return None
    hand = found.pop()
    return "both hands" if hand == "both" else f"{hand} hand"


def _options(pool: NarrationPool, index: int, rng: random.Random) -> list[str] | None:
    """Returns shuffled options, the wrong ones of one kind drawn at random."""
    picks = [NarrationPool.from_other_takes, NarrationPool.from_same_take, NarrationPool.most_similar]
    for pick in rng.sample(picks, len(picks)):
        wrong = pick(pool, index, NUM_OPTIONS - 1, rng)
        if wrong is not None:
            options = [pool.clips[other].text for other in (index, *wrong)]
            rng.shuffle(options)
            return options
    return None


def _conversation(
    clip: Clip, kind: str, instruction: str, question: str, answer: str, options: Sequence[str] = ()
) -> Conversation:
    return Conversation(
        id=f"{clip.clip_id}/{kind}",
        source=SOURCE,
        video=clip.ego_video,
        start=clip.start_s,
        end=clip.end_s,
        instruction=instruction,
        question=question,
        answer=answer,
        options=list(options),
        type=kind,
    )


def build(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the conversation file; returns what was made of how many clips."""
    pool = read_pool(arguments)
    kinds: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for index in drawn_order(pool, arguments.seed)[: arguments.max_conversations]:
            made = conversation(pool, index, arguments.kinds, arguments.seed)
            if made is not None:
                kinds[made.kind] += 1
                yield made.to_row()
        if not kinds:
            raise DataError(
                f"{arguments.clips}: no conversation of the kinds {', '.join(arguments.kinds)} can be made of "
                f"{pool.counts()}"
            )

    num_conversations = write_jsonl(arguments.out, rows())
    return {**pool.counts(), "conversations": num_conversations, "kinds": dict(sorted(kinds.items()))}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m data_builders.narration_instructions`."""
    parser = command_parser("data_builders.narration_instructions", __doc__)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="default: all")
    parser.add_argument("--max-conversations", type=int, help="conversations at most (default: one per clip)")
    return run_command(parser.parse_args(argv), build)


if __name__ == "__main__":
    sys.exit(main())
