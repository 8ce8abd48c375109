"""The parser of generated answers: what it reads, and everything that it must refuse to guess."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.parsing import LONGEST_TEXT_CHARACTERS, parse_choice

LETTERS = "ABCDEFGHIJ"
NARRATIONS = [
    "C picks up the red cup with the left hand",
    "C picks up the blue cup with the left hand",
    "C pours water into the red bowl",
    "C opens the box",
    "C opens the box with a knife",
]
SHORT = ["C picks up the red cup", "C opens the box", "C pours water", "C washes hands", "C walks"]
MICROWAVE = ["open microwave", "close microwave", "point to microwave", "turn off microwave", "turn on microwave"]
YES_NO = ["yes", "no", "left", "right", "not sure"]
TEN = [f"option text {number}" for number in range(10)]


def chosen(output: str, options: list[str]) -> str | None:
    index = parse_choice(output, options).index
    return None if index is None else LETTERS[index]


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("B", "B"),
        (" (d) ", "D"),
        ("e.", "E"),
        ("**B**", "B"),
        ('"C"', "C"),
        ("(A) C picks up the red cup", "A"),
        ("B. C picks up the blue cup", "B"),
        ("B) C picks up the blue cup", "B"),
        ("b) c picks up the blue", "B"),
        ("D: because the lid moves", "D"),
        ("C\nThe camera wearer pours water.", "C"),
        ("(A) because (B) shows another colour", "A"),
        ("A. B is wrong", "A"),
        ("Based on the video, C opens something: (D).", "D"),
        ("Best option:(E)", "E"),
        ("It is not (A) but rather (B)", "B"),
        ("The correct answer is B.", "B"),
        ("Answer: B", "B"),
        ("The best option is D because the lid moves", "D"),
        ("I would say option E is correct", "E"),
        ("(A) and (B) look alike, but the answer is (B).", "B"),
        ("C pours water into the red bowl.", "C"),
        ("  c   POURS water into the red bowl", "C"),
        ("In the video, C opens the box, I think", "D"),
        ("C opens the box with a knife", "E"),
        ("The answer is C opens the box", "D"),
        ("D.C opens the box", "D"),
        ("C opens the box (D)", "D"),
        ("The camera wearer (C) opens it. The answer is E.", "E"),
        ("Option B", "B"),
        ("I pick B", "B"),
        ("A, not B", "A"),
        ("I don't think it is A, it is B.", "B"),
        ("Neither (A) nor (B). It is (C).", "C"),
        ("Everything except (A) is wrong. The answer is (B)", "B"),
        ("(C) 2024 Google\nAnswer: B", "B"),
        ("Answer: B, but (A) shows another cup", "B"),
        ("D. The camera wearer (C) does it", "D"),
        ("A. Neither (B) nor (C)", "A"),
        ("A. Everything except (B)", "A"),
    ],
)
def test_names_one_option(output: str, letter: str) -> None:
    assert chosen(output, NARRATIONS) == letter


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        # an explanation behind the answer
        ("Answer: B\nExplanation: C pours water only later", "B"),
        ("The answer is B\nC picks up the red cup is wrong", "B"),
        ("Answer: B\r\nReason: (A) shows another cup", "B"),
        ("Answer: B\nExplanation: the lid moves", "B"),
        # a rejected letter beside the chosen one
        ("(A) is wrong, (B) is right", "B"),
        ('{"answer":"B","reason":"(A) is wrong"}', "B"),
        ("I choose B. (A) shows another cup.", "B"),
        ("B is right and (A) is wrong", "B"),
        ("The answer is A (not B).", "A"),
        ("The answer is not A but B.", "B"),
        # wrappings
        ('{"answer": "B"}', "B"),
        ("[B]", "B"),
        ("A,", "A"),
        ("B is correct.", "B"),
        ("I choose B.", "B"),
        ("'B'", "B"),
        ("B, because the lid moves", "B"),
        ("answer: b", "B"),
        (r"\boxed{B}", "B"),
        ("The correct letter is B", "B"),
        ("B</s>", "B"),
        ("\ufeffB", "B"),
        ("B\u200b", "B"),
        ("（B）", "B"),
        ("Ｂ", "B"),
        ("B。", "B"),
        ("答案是B", "B"),
        ("```json\n{'answer': 'B'}\n```<|im_end|>", "B"),
    ],
)
def test_reads_clear_answers(output: str, letter: str) -> None:
    assert chosen(output, SHORT) == letter


@pytest.mark.parametrize(
    "output",
    [
        "",  # MVBench's check counts this as right: "(" is a substring of every gold option
        "(",
        "   \n",
        "C picks up",  # VideoLLaMA2's regex reads C
        "C puts down the plate",
        "A cup is on the table",
        "A man opens something",
        "I think so",
        "Based on the video, something happens",  # VideoLLaMA2's regex reads B
        "The camera wearer (C) walks",
        "The answer should be C, the camera wearer",
        "I am not sure",
        "None of the options",
        "F",  # five options only
        "(J) something",
        "The answer is F",
        "(A) or (B)",
        "A or B",
        "A, B",
        "A/B",
        "A; B",
        "A) and B)",
        "The answer is A or B.",
        "The answer is A, B",
        "Both A and B",
        "not (A)",
        "not (A), (B)",
        "Neither A nor B",
        "Neither (A) nor (B)",
        "None except (B)",
        "The answer is not A.",
        "The answer isn't B",
        "I do not think that the answer is B",
        "The wrong answer is B",
        "It is B. B is wrong.",
        "(A) C picks (B) C picks (C) C pours (D) C opens (E) C opens",
        "A. one\nB. two\nC. three\nD. four\nE. five",
        "It is C opens the box or C pours water into the red bowl",
        "(A) C opens the box",  # the text is D's
        "not C opens the box",
        "C opens the box? I do not know",
        "I do not think that, in the video, C opens the box",
        "If I am right, C opens the box",
        "answer: a cup of tea",
        "picks up the red cup with the left hand and more",
        "It could be (B)",
        "It is (B), but it might be (C)",
        "Is it (B)?",
        "Is the answer B?",
        "B. (A) shows another cup",
        "C is walking",
        "hepatitis B",
        "B.C. and A.D.",
        "It is right of A",
        "The answer is A but C opens the box with a knife is the answer",
    ],
)
def test_refuses_to_guess(output: str) -> None:
    assert chosen(output, NARRATIONS) is None


@pytest.mark.parametrize(
    "output",
    [
        # contradictions
        "Answer: A\nAnswer: B",
        "The answer is A or the answer is B",
        "option A and option B",
        # several letters
        "(A) (B)",
        "(A)(B)",
        "A. B.",
        "A\nB\nC",
        "(A)\n(B)",
        "(A) as well as (B)",
        "(A) or possibly (B)",
        "(A) no (B) yes (C) no (D) no",
        "A: 10%\nB: 80%",
        "(A) C picks up the red cup (B) C opens the box (C) C pours water (D) C washes hands",
        "A. C picks up the red cup\nB. C opens the box\nC. C pours water\nD. C washes hands",
        # denied
        "(B) is wrong",
        "(B) is not correct",
        "(B) seems to fit",
        "(B) shows another cup",
        "Answer: B - (A) the red one",
        "B. is wrong",
        "The answer cannot be (B)",
        "It can't be (B)",
        "Rule out (B)",
        # not letters of options
        "vitamin (C)",
        "The man (A)",
        "(c) 2024 Google",
        "E. g. the box",
    ],
)
def test_chooses_nothing_where_nothing_is_chosen(output: str) -> None:
    assert chosen(output, SHORT) is None


@pytest.mark.parametrize(
    ("output", "options", "letter"),
    [
        ('open "box"', ['open "box"', "open"], "A"),
        ("open", ['open "box"', "open"], "B"),
        ("turn_on", ["turn_on", "turn"], "A"),
        ("turn", ["turn_on", "turn"], "B"),
        ("turn_on", ["turn", "go"], None),
        ("*turn_on*", ["turn_on", "turn"], "A"),
        ("1.5", ["1", "2", "3", "4"], None),
        ("2", ["1", "2", "3", "4"], "B"),
        ("It is 2.", ["1", "2", "3", "4"], "B"),
        ("12", ["1", "2", "3", "4"], None),
        ("0.2", ["1", "2", "3", "4"], None),
        ("left-hand", ["left", "hand"], None),
        ("turn on microwave", ["turn on", *MICROWAVE], "F"),
        ("it is a microwave", MICROWAVE, None),
        ("reopen microwaves", MICROWAVE, None),
        ("stop", ["stop", "Stop.", "go"], None),
        ("B", ["stop", "Stop.", "go"], "B"),
        ("...", ["...", "go"], None),
        ("(C)", ["yes", "no"], None),
        ("J", TEN, "J"),
        ("I: option text 8", TEN, "I"),
        ("I, the wearer", TEN, None),
        ("Answer: I think it is B.", TEN, "B"),
        ("option text 9.", TEN, "J"),
        ("vitamin (C)", ["vitamin (C)", "water"], "A"),
    ],
)
def test_reads_the_text_of_exactly_one_option(output: str, options: list[str], letter: str | None) -> None:
    assert chosen(output, options) == letter


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("no", "B"),
        ("No.", "B"),
        ("(B) no", "B"),
        ("(A) no", None),
        ("The answer is no.", "B"),
        ("not sure", "E"),
        ("yes, no", None),
        ("no, it is not", None),
        ("There is no cup on the left", None),
        ("It is on the left", "C"),
        ("The right answer is A", "A"),
        ("B is right", "B"),
    ],
)
def test_options_that_are_words_of_answers(output: str, letter: str | None) -> None:
    assert chosen(output, YES_NO) == letter


def test_what_stands_behind_the_limit_is_not_read() -> None:
    filler = "la " * (LONGEST_TEXT_CHARACTERS // 3)
    assert chosen(f"Answer: B\n{filler}\nAnswer: A", SHORT) == "B"
    assert chosen(f"Answer: B\n{filler[:-200]}\nAnswer: A", SHORT) is None


@pytest.mark.parametrize(
    "piece",
    ["answer is A. ", "(A) ", "A ", "not ", "A or ", "(", "\n", "C opens the box ", "answer: a", "__'", "é\u0301"],
)
def test_takes_time_in_proportion_to_the_text(piece: str) -> None:
    """Counts the lines of Python that run: each looks at a bounded piece of the text, whose whole length is bounded."""

    def lines_run(text: str) -> int:
        count = 0

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal count
            count += event == "line"
            return trace

        former = sys.gettrace()
        sys.settrace(trace)
        try:
            parse_choice(text, SHORT)
        finally:
            sys.settrace(former)
        return count

    number = LONGEST_TEXT_CHARACTERS // len(piece) // 4
    quarter, half, whole = (lines_run(piece * number * times) for times in (1, 2, 4))
    assert half <= 2 * quarter + 50
    assert whole <= 2 * half + 50
    assert lines_run(piece * number * 40) <= whole + 500


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=10))
def test_never_fails_and_never_leaves_the_options(output: str, options: list[str]) -> None:
    index = parse_choice(output, options).index
    assert index is None or 0 <= index < len(options)


PIECES = [
    *("A", "B", "C", "D", "(A)", "(b)", "b", "J", "I", "answer", "option", "is", "not", "or", "and", "wrong", "right"),
    *(".", ":", ",", "\n", "C opens the box", "C walks", "because", "maybe", "the", "?", '"', "{", "}"),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join))
def test_never_chooses_what_the_text_does_not_mention(output: str) -> None:
    letter = chosen(output, SHORT[:3])
    mentions = {"A": ("A", "(A)"), "B": ("B", "(b)", "b", "C opens the box"), "C": ("C",)}
    assert letter is None or any(mention in output for mention in mentions[letter])


ONE_CHOICE = [
    "{}",
    "({})",
    "{}. text",
    "({}) text",
    "Answer: {}",
    "The answer is ({}).",
    "I choose {}",
    "{} is correct",
]


@given(st.integers(0, 9), st.sampled_from(ONE_CHOICE))
def test_reads_every_letter_in_every_form(index: int, form: str) -> None:
    assert parse_choice(form.format(LETTERS[index]), TEN).index == index


WRAPPINGS = [
    "**{}**",
    '"{}"',
    "`{}`",
    "{}</s>",
    "\ufeff{}",
    "\u200b{}\n",
    "  {}  ",
    "<answer>{}</answer>",
    "```\n{}\n```",
]


@given(
    st.sampled_from([*ONE_CHOICE, "{} or B", "not {}", "maybe {}", "A {}", "text"]),
    st.integers(0, 9),
    st.sampled_from(WRAPPINGS),
)
def test_a_wrapping_does_not_change_what_is_chosen(form: str, index: int, wrapping: str) -> None:
    text = form.format(LETTERS[index])
    assert parse_choice(wrapping.format(text), TEN) == parse_choice(text, TEN)


DENIALS = [
    *("not {}", "{} is wrong", "{} is not correct", "The answer is not {}", "The answer cannot be {}", "It isn't {}"),
    *("anything but {}", "Rule out {}", "I do not think it is {}", "{} isn't right", "all except {}", "{}: wrong"),
    *("{} is definitely not the answer", "neither {}", "{} can be ruled out", "the incorrect option is {}"),
]


@given(st.sampled_from(DENIALS), st.sampled_from(["({})", "{}", "[{}]", "**{}**"]), st.integers(0, 9))
def test_a_letter_that_is_only_denied_is_never_chosen(denial: str, form: str, index: int) -> None:
    denied = denial.format(form.format(LETTERS[index]))
    assert parse_choice(denied, TEN).index is None
    for other in set(range(10)) - {index}:
        assert parse_choice(f"{denied}. The answer is {LETTERS[other]}.", TEN).index == other


WORDS = ("open", "the", "box", "cup", "with", "a", "left", "right", "no", "yes", "C", "walks", "red", "2")
OPTION = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join).filter(lambda text: len(text) > 1)


@given(
    st.lists(OPTION, min_size=2, max_size=10, unique=True),
    st.sampled_from(["({}) {}", "{}. {}", "{}) {}", "{}: {}"]),
    st.sampled_from(["\n", " "]),
    st.sampled_from(["", "Options:\n", "Let me see.\n"]),
)
def test_the_list_of_options_chooses_nothing(options: list[str], form: str, separator: str, before: str) -> None:
    repeated = separator.join(form.format(*pair) for pair in zip(LETTERS, options, strict=False))
    assert parse_choice(before + repeated, options).index is None
    assert parse_choice(f"{before}{repeated}\nThe answer is B.", options).index == 1
