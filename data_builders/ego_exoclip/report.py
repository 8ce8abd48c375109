"""report.md and plots: every figure of Exo2Ego §3.1 and Supplement A beside the measured one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

# Places of the paper: §3.1, Tables 1 and 10, Supplement A.2-A.4 with Figures 7-11.
PAPER_GROUPING = ("paper", "1.92", "261.3K", "0.68", "0.57", "82.0%", "", "")
PAPER_LONGEST_NARRATION = (
    "C throws out the covid 19 test tube seal, the covid 19 test box, the torn part of the covid 19 test device pack, "
    "and the covid 19 test instruction sheet into the waste bag with his right hand"
)
MAX_FAULTS_SHOWN = 50
BAR_COLOUR = "#3b6ea5"
PAPER_COLOUR = "#c1543c"

Row = tuple[str, str, str, str]


def write_report(statistics: dict[str, Any]) -> str:
    """Returns the report as Markdown; the plots lie beside it in `plots/`."""
    other = statistics["other_grouping"]
    parts = [
        "# Ego-ExoClip: measured beside the paper",
        f"Split `{statistics['split']}`, narrations grouped by {statistics['group_by']}, α {_alpha(statistics)}. "
        "Paper: Exo2Ego §3.1, Tables 1 and 10, Supplement A. A subset or a generated corpus differs from the paper by "
        "nature; the full train split should not.",
        _table(("figure", "paper", "measured", "place"), _figures(statistics)),
        "## Which narrations are neighbours",
        "The paper does not say whether the narrations of two annotators form one sequence per take or two. "
        "Its α tells: the reading whose α is near 1.92 s on the full train split is the paper's.",
        _table(
            ("group by", "α (s)", "clips", "mean (s)", "std (s)", "< 1 s", "β min / median / max (s)", "β undefined"),
            [PAPER_GROUPING, _grouping_row(statistics), _grouping_row(other)],
        ),
        "## What was left out",
        _table(("what", "reason", "number"), _dropped(statistics)),
        _video_section(statistics["video_check"]),
        "## Distributions",
        *(f"![{title}](plots/{name}.png)" for name, title in PLOTS.items()),
        "## Scenarios, institutions, tasks",
        _table(("scenario", "takes", "share"), _shares(statistics["scenarios"], statistics["takes"])),
        _table(("institution", "takes", "share"), _shares(statistics["institutions"], statistics["takes"])),
        _table(("task (top 50)", "takes", "share"), _shares(statistics["tasks"], statistics["takes"])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _alpha(statistics: dict[str, Any]) -> str:
    if statistics["alpha_s"] is None:
        return "undefined (no take has two distinct timestamps)"
    given = "measured" if statistics["alpha"] == "auto" else "given"
    return f"{statistics['alpha_s']:.6g} s ({given})"


def _figures(statistics: dict[str, Any]) -> list[Row]:
    durations, words = statistics["durations"], statistics["words"]
    takes = statistics["takes"]
    return [
        ("video groups (takes)", "2,925", f"{takes:,}", "§3.1"),
        ("videos", "15,478", f"{statistics['videos']:,}", "§3.1"),
        ("exo videos per take", "4-5", f"{statistics['exo_videos_per_take']:.2f}", "§3.1"),
        ("hours of all videos", "623.6", f"{statistics['video_hours']:.4g}", "§3.1"),
        ("hours of ego video", "116", f"{statistics['ego_hours']:.4g}", "Table 10"),
        ("hours of clips (before views)", "49 (0.68 s x 261.3K)", f"{durations['clip_hours']:.4g}", "§3.1, A.2"),
        ("narrations = clips", "261.3K", f"{durations['clips']:,}", "§3.1, A.2"),
        ("ego-exo clip pairs", "1.1M", f"{statistics['pairs']:,}", "Table 1"),
        ("α (s)", "1.92", _number(statistics["alpha_s"]), "§3.1"),
        ("clip duration, mean (s)", "0.68", f"{durations['mean_s']:.2f}", "A.2, Fig. 7"),
        ("clip duration, std (s)", "0.57", f"{durations['std_s']:.2f}", "A.2, Fig. 7"),
        ("clips < 1.0 s", "82.0%", f"{durations['share_below_1s']:.1%}", "A.2, Fig. 7"),
        ("longest clip", "70.43 s, Music, “C starts playing the violin”", _clip(statistics["longest_clip"]), "A.2"),
        ("shortest clip", "Dance, “C steps her left foot forward”", _clip(statistics["shortest_clip"]), "A.2"),
        ("clips without length", "not stated", f"{durations['zero_length']:,}", ""),
        ("words, mean", "10.98", f"{words['mean']:.2f}", "A.3, Fig. 8"),
        ("words, std", "3.16", f"{words['std']:.2f}", "A.3, Fig. 8"),
        ("narrations of 10-20 words", "65.5%", f"{words['share_10_to_20']:.1%}", "A.3, Fig. 8"),
        (
            "longest narration",
            f"Health, “{PAPER_LONGEST_NARRATION}”",
            _narration(statistics["longest_narration"]),
            "A.3",
        ),
        ("scenarios", "8", f"{len(statistics['scenarios'])}", "A.4, Fig. 11"),
        ("largest scenario", "Rock Climbing, 27.8%", _share(statistics["scenarios"], 0, takes), "A.4, Fig. 11"),
        ("smallest scenario", "Music, 5.5%", _share(statistics["scenarios"], -1, takes), "A.4, Fig. 11"),
        ("institutions", "12", f"{len(statistics['institutions'])}", "A.4, Fig. 9"),
        ("countries", "6", f"{statistics['countries']}", "A.4"),
        ("most common task", "basketball drills-reverse layup, 312 (10.7%)", _task(statistics, 0), "A.4, Fig. 10"),
        ("50th task", "playing guitar-scales and arpeggios, 21", _task(statistics, -1), "A.4, Fig. 10"),
    ]


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"


def _clip(row: dict[str, Any]) -> str:
    return f"{row['duration_s']:.2f} s, {row['scenario']}, “{row['text']}” (`{row['clip_id']}`)"


def _narration(row: dict[str, Any]) -> str:
    return f"{row['scenario']}, {row['words']} words, “{row['text']}”"


def _share(counts: dict[str, int], rank: int, total: int) -> str:
    name = list(counts)[rank]
    return f"{name}, {counts[name] / total:.1%}"


def _task(statistics: dict[str, Any], rank: int) -> str:
    tasks = statistics["tasks"]
    name = list(tasks)[rank]
    place = "" if rank == 0 or statistics["num_tasks"] >= 50 else f" (of only {statistics['num_tasks']} tasks)"
    return f"{name}, {tasks[name]} ({tasks[name] / statistics['takes']:.1%}){place}"


def _grouping_row(grouping: dict[str, Any]) -> Sequence[str]:
    durations, beta = grouping["durations"], grouping["beta_s"]
    spread = " / ".join(_number(beta[key]) for key in ("min", "median", "max")) if beta["defined"] else "none defined"
    return (
        grouping["group_by"],
        _number(grouping["alpha_s"]),
        f"{durations['clips']:,}",
        f"{durations['mean_s']:.2f}",
        f"{durations['std_s']:.2f}",
        f"{durations['share_below_1s']:.1%}",
        spread,
        f"{beta['undefined']:,} of {beta['undefined'] + beta['defined']:,}",
    )


def _dropped(statistics: dict[str, Any]) -> list[Sequence[str]]:
    return [
        (kind, reason.replace("_", " "), f"{count:,}")
        for kind, reasons in statistics["dropped"].items()
        for reason, count in reasons.items()
    ]


def _video_section(checked: dict[str, Any]) -> str:
    if not checked["states"]:
        return "Videos were not probed; `--check-videos` decodes the first and last frame of every file."
    listed = ", ".join(f"{count:,} {state}" for state, count in checked["states"].items())
    summary = f"Videos probed: {listed}; `video_check.jsonl` has a line for each."
    faults = [(fault["path"], fault["state"], fault["detail"]) for fault in checked["faults"]]
    if not faults:
        return summary
    shown = _table(("video left out", "state", "detail"), faults[:MAX_FAULTS_SHOWN])
    return f"{summary}\n\n{shown}"


def _shares(counts: dict[str, int], total: int) -> list[Sequence[str]]:
    return [(name or "(not given)", f"{count:,}", f"{count / total:.1%}") for name, count in counts.items()]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


PLOTS = {
    "clip_durations": "Clip durations (Figure 7)",
    "narration_words": "Narration lengths (Figure 8)",
    "institutions": "Takes by institution (Figure 9)",
    "tasks": "Takes by task, the 50 most common (Figure 10)",
    "scenarios": "Takes by scenario (Figure 11)",
}


def write_plots(statistics: dict[str, Any], folder: Path) -> None:
    """Writes the five distributions of Supplement A as PNG files into a new folder."""
    folder.mkdir()
    durations, words = statistics["durations"], statistics["words"]
    histogram = durations["histogram"]
    edges_s = [number * histogram["bin_s"] for number in range(len(histogram["counts"]))]
    _histogram(
        folder / "clip_durations.png",
        edges_s,
        histogram["counts"],
        f"clip duration (s), last bar: {edges_s[-1]:.1f} s and more",
        {"paper: mean 0.68 s": 0.68, f"measured: mean {durations['mean_s']:.2f} s": durations["mean_s"]},
        width=histogram["bin_s"],
        align="edge",
    )
    _histogram(
        folder / "narration_words.png",
        list(range(len(words["counts"]))),
        words["counts"],
        "words per narration",
        {"paper: mean 10.98": 10.98, f"measured: mean {words['mean']:.2f}": words["mean"]},
        width=1,
        align="center",
    )
    for name in ("institutions", "tasks", "scenarios"):
        _bars(folder / f"{name}.png", statistics[name], PLOTS[name])


def _histogram(
    path: Path,
    positions: Sequence[float],
    counts: Sequence[int],
    label: str,
    marks: dict[str, float],
    *,
    width: float,
    align: Literal["center", "edge"],
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.bar(positions, counts, width=width, align=align, color=BAR_COLOUR)
    for (text, position), style in zip(marks.items(), ("--", ":"), strict=True):
        axes.axvline(position, linestyle=style, color=PAPER_COLOUR, label=text)
    axes.set_xlabel(label)
    axes.set_ylabel("clips")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _bars(path: Path, counts: dict[str, int], title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.9 + 0.22 * len(counts)), layout="constrained")
    axes = figure.subplots()
    names = [name or "(not given)" for name in counts]
    bars = axes.barh(names, list(counts.values()), color=BAR_COLOUR)
    axes.bar_label(bars, padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xticks([])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(path, dpi=120)
