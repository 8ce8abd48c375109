"""The quality report of a table as Markdown, and the picture of its similarities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from exo2ego.data.prompting import LETTERS

BASELINES = {
    "longest_option": "the longest option",
    "most_frequent_answer": "the option that most often is the answer in other videos",
    "nearest_to_question": "the option nearest to the question",
}
AGAINST_CHANCE = {"above": "guessable", "below": "below chance", "not told from": "not told from chance"}
UNEVEN = 0.01
"""A probability below this says that the truth's place is not even."""
ALL_COLOUR, NEAREST_COLOUR = "#3b6ea5", "#c1543c"


def summary_sentence(quality: Mapping[str, Any]) -> str:
    """Returns the report in one line."""
    if quality["baselines"] is None:
        return "no question with options and a public answer to judge"
    told = quality["also_correct"]
    share = "cannot tell" if told is None else f"{told['share_of_questions']:.1%} of the questions"
    measured = {name: one for name, one in quality["baselines"].items() if one is not None}
    best = max(measured, key=lambda name: measured[name]["accuracy"])
    accuracy, chance = measured[best]["accuracy"], measured[best]["chance"]
    return (
        f"another option is true: {share}; best blind baseline: {BASELINES[best]}, {accuracy:.1%} (chance {chance:.1%})"
    )


def write_report(quality: Mapping[str, Any], picture: str | None) -> str:
    """Returns the report as Markdown; `picture` is the path of the histogram, relative to the report."""
    parts = [
        f"# {quality['table']}: how guessable it is",
        _counts(quality),
        *(_judged(quality, picture) if quality["questions_judged"] else ["No question can be judged."]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counts(quality: Mapping[str, Any]) -> str:
    options = ", ".join(f"{count:,} with {size}" for size, count in quality["options"].items())
    lines = [
        f"{quality['questions']:,} questions; judged are the {quality['questions_judged']:,} with options and a public "
        f"answer, about {quality['videos']:,} videos" + (f" (options: {options})." if options else ".")
    ]
    if quality["open_questions"]:
        lines.append(f"{quality['open_questions']:,} are open questions.")
    if quality["questions_without_public_answer"]:
        lines.append(f"{quality['questions_without_public_answer']:,} have no public answer.")
    return " ".join(lines)


def _judged(quality: Mapping[str, Any], picture: str | None) -> list[str]:
    return [
        "## Distractors that are true as well",
        _also_correct(quality),
        "## Similarity of the distractors to the truth",
        *_similarities(quality["similarities"], picture),
        "## Where the truth stands",
        *_positions(quality["positions"]),
        "## Answers without looking",
        *_baselines(quality),
    ]


def _also_correct(quality: Mapping[str, Any]) -> str:
    told = quality["also_correct"]
    if told is None:
        return "Cannot tell: the data does not say which other options are true."
    numbers = _table(
        ("other true options", "questions", "share"),
        [
            (number, f"{count:,}", f"{count / told['questions_that_tell']:.1%}")
            for number, count in told["questions_by_number"].items()
        ],
    )
    untold = quality["questions_judged"] - told["questions_that_tell"]
    sentences = [
        f"{told['questions_with_another_correct_option']:,} of {told['questions_that_tell']:,} questions "
        f"({told['share_of_questions']:.1%}) have at least one; {told['share_of_distractors']:.1%} of the distractors "
        "are true.",
        f"Who knows all true options and takes one of them at random is right in {told['oracle_accuracy']:.1%}.",
        f"For {untold:,} questions the data cannot tell." if untold else "",
    ]
    return " ".join(sentence for sentence in sentences if sentence) + f"\n\n{numbers}"


def _similarities(told: Mapping[str, Any] | None, picture: str | None) -> list[str]:
    if told is None:
        return ["Not recorded: the options come with the source."]
    series = {"all distractors": told["all_distractors"], "nearest of each question": told["nearest_distractor"]}
    quantiles = list(told["all_distractors"]["quantiles"])
    summary = _table(
        ("", "number", "mean", *(f"{float(share):.0%} below" for share in quantiles)),
        [
            (
                name,
                f"{one['count']:,}",
                f"{one['mean']:.3f}",
                *(f"{one['quantiles'][share]:.3f}" for share in quantiles),
            )
            for name, one in series.items()
        ],
    )
    counts = [{row["from"]: row["count"] for row in one["histogram"]} for one in series.values()]
    bins = _table(
        ("cosine", *series),
        [
            (f"{start:.2f} to {start + told['bin']:.2f}", *(f"{count.get(start, 0):,}" for count in counts))
            for start in sorted({start for count in counts for start in count})
        ],
    )
    return [summary, f"![Similarity of the distractors to the truth]({picture})" if picture else "", bins]


def _positions(told: Mapping[str, Any]) -> list[str]:
    rows = [
        (LETTERS[place] if place < len(LETTERS) else str(place + 1), f"{count:,}", f"{expected:,.1f}")
        for place, (count, expected) in enumerate(zip(told["counts"], told["expected"], strict=True))
    ]
    verdict = "uneven: the place tells something" if told["p"] < UNEVEN else "as even as chance makes it"
    return [
        _table(("place", "questions", "expected"), rows),
        f"χ² = {told['chi_square']:.2f} with {told['degrees_of_freedom']} degrees of freedom, p = {told['p']:.3g} "
        f"(simulated): {verdict}.",
    ]


def _baselines(quality: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, told in quality["baselines"].items():
        if told is None:
            rows.append((BASELINES[name], "not measured", "", "", ""))
            continue
        low, high = told["interval"]["low"], told["interval"]["high"]
        verdict = AGAINST_CHANCE[told["against_chance"]]
        rows.append(
            (BASELINES[name], f"{told['accuracy']:.1%}", f"{low:.1%} to {high:.1%}", f"{told['chance']:.1%}", verdict)
        )
    unmeasured = quality["baselines"]["nearest_to_question"] is None
    notes = [
        "Intervals: 95 %, Wilson's at the effective number of answers, clustered by video. Options that a baseline "
        "cannot tell apart share the credit.",
        f"Encoder: {quality['encoder']}." if quality["encoder"] else "",
        "`python -m data_builders.distractors.quality` measures the nearest option as well." if unmeasured else "",
    ]
    header = ("answer", "accuracy", "interval", "chance", "")
    return [_table(header, rows), " ".join(note for note in notes if note)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_histogram(told: Mapping[str, Any], path: Path) -> None:
    """Writes the distribution of similarities as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, colour, key in (
        ("all distractors", ALL_COLOUR, "all_distractors"),
        ("nearest of each question", NEAREST_COLOUR, "nearest_distractor"),
    ):
        one = told[key]
        starts = [row["from"] for row in one["histogram"]]
        shares = [row["count"] / one["count"] for row in one["histogram"]]
        axes.stairs(shares, [*starts, starts[-1] + told["bin"]], fill=True, alpha=0.35, color=colour, label=name)
        axes.stairs(shares, [*starts, starts[-1] + told["bin"]], color=colour)
        axes.axvline(one["mean"], color=colour, linestyle=":", linewidth=1)
    axes.set_xlabel("cosine similarity to the truth (dotted: mean)")
    axes.set_ylabel("share")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, format="png")
