"""The parser of generated answers: what it reads, and everything that it must refuse to guess."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.parsing import ParsedAnswer, parse_choice

NARRATIONS = [
    "C picks up the red cup with the left hand",
    "C picks up the blue cup with the left hand",
    "C pours water into the red bowl",
    "C opens the box",
    "C opens the box with a knife",
]
MICROWAVE = ["open microwave", "close microwave", "point to microwave", "turn off microwave", "turn on microwave"]


@pytest.mark.parametrize(
    ("output", "letter", "rule"),
    [
        ("B", "B", "lone letter"),
        (" (d) ", "D", "lone letter"),
        ("e.", "E", "lone letter"),
        ("**B**", "B", "lone letter"),
        ('"C"', "C", "lone letter"),
        ("(A) C picks up the red cup", "A", "leading letter"),
        ("B. C picks up the blue cup", "B", "leading letter"),
        ("B) C picks up the blue cup", "B", "leading letter"),
        ("D: because the lid moves", "D", "leading letter"),
        ("C\nThe camera wearer pours water.", "C", "leading letter"),
        ("(A) because (B) shows another colour", "A", "leading letter"),
        ("A. B is wrong", "A", "leading letter"),
        ("Based on the video, C opens something: (D).", "D", "letter in parentheses"),
        ("Best option:(E)", "E", "letter in parentheses"),
        ("It is not (A) but rather (B)", "B", "letter in parentheses"),
        ("The correct answer is B.", "B", "stated letter"),
        ("Answer: B", "B", "stated letter"),
        ("The best option is D because the lid moves", "D", "stated letter"),
        ("I would say option E is correct", "E", "stated letter"),
        ("(A) and (B) look alike, but the answer is (B).", "B", "stated letter"),
        ("C pours water into the red bowl.", "C", "option text"),
        ("  c   POURS water into the red bowl", "C", "option text"),
        ("In the video, C opens the box, I think", "D", "option text"),
        ("C opens the box with a knife", "E", "option text"),
        ("The answer is C opens the box", "D", "option text"),
    ],
)
def test_names_one_option(output: str, letter: str, rule: str) -> None:
    assert parse_choice(output, NARRATIONS) == ParsedAnswer("ABCDE".index(letter), rule)


@pytest.mark.parametrize(
    "output",
    [
        "",  # MVBench's check counts this as right: "(" is a substring of every gold option
        "(",
        "   \n",
        "C picks up",  # VideoLLaMA2's regex reads C
        "C puts down the plate",
        "A cup is on the table",
        "Based on the video, something happens",  # VideoLLaMA2's regex reads B
        "The camera wearer (C) walks",
        "I am not sure",
        "None of the options",
        "F",  # five options only
        "(J) something",
        "(A) or (B)",
        "A or B",
        "A, B",
        "A/B",
        "A) and B)",
        "The answer is A or B.",
        "The answer is A, B",
        "not (A)",
        "The answer is not A.",
        "(A) C picks (B) C picks (C) C pours (D) C opens (E) C opens",
        "A. one\nB. two\nC. three\nD. four\nE. five",
        "It is C opens the box or C pours water into the red bowl",
        "answer: a cup of tea",
        "picks up the red cup with the left hand and more",
    ],
)
def test_refuses_to_guess(output: str) -> None:
    assert parse_choice(output, NARRATIONS) == ParsedAnswer()


def test_text_of_an_option_inside_another_counts_once() -> None:
    assert parse_choice("turn on microwave", ["turn on", *MICROWAVE]).index == 5
    assert parse_choice("it is a microwave", MICROWAVE).index is None
    assert parse_choice("reopen microwaves", MICROWAVE).index is None, "whole words only"


def test_equal_option_texts_are_ambiguous() -> None:
    assert parse_choice("stop", ["stop", "Stop.", "go"]).index is None


def test_letters_end_with_the_options() -> None:
    assert parse_choice("(C)", ["yes", "no"]).index is None
    assert parse_choice("J", [str(number) for number in range(10)]).index == 9


@given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=10))
def test_never_fails_and_never_leaves_the_options(output: str, options: list[str]) -> None:
    answer = parse_choice(output, options)
    assert (answer.index is None) == (answer.rule is None)
    assert answer.index is None or 0 <= answer.index < len(options)


@given(st.integers(0, 9), st.sampled_from(["{}", "({})", "({}) text", "{}. text", "Answer: {}", "The answer is ({})."]))
def test_reads_every_letter_in_every_form(index: int, form: str) -> None:
    options = [f"option number {number}" for number in range(10)]
    assert parse_choice(form.format("ABCDEFGHIJ"[index]), options).index == index
