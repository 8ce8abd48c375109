"""What identifies the runs of a report: what all of them have, and what tells them apart."""

from __future__ import annotations

from eval.reporting.cells import ABSENT, Row, Table
from eval.reporting.results import Results, RunResults
from eval.reporting.run_folder import PREFERRED
from exo2ego.storage import hash_text

HASH_DIGITS = 12
FEW_FILES = 2
"""So many question files are named; of more the number stands there, with one hash."""


def facts_of(run: RunResults) -> dict[str, str]:
    """Returns what identifies a run, for the first look, empty what is not known; results.json has all of it."""
    settings, config, code = run.identity["settings"], run.identity["config"], run.identity["code"] or {}
    model = run.identity["model"] or {}
    judge = run.identity["judge"] or {}
    known = {
        "model": config.get("model"),
        "control": ", ".join(run.controls),
        "weights and preprocessing": str(settings.get("model", ""))[:HASH_DIGITS],
        "encoder": model.get("encoder"),
        "language model": model.get("language_model"),
        "frames": run.frames,
        "view": settings.get("view"),
        "form": settings.get("form"),
        "modes": ", ".join(mode for mode in PREFERRED if any(score.mode == mode for score in run.scores)),
        "prompts": ", ".join(str(settings[key]) for key in settings if key == "prompt" or key.endswith("_prompt")),
        "hash of the prompts": str(settings.get("prompt_texts", ""))[:HASH_DIGITS],
        "question files": _files(run.identity["inputs"]),
        "judge": judge.get("model"),
        "code": _code(code),
    }
    return {name: str(value or "") for name, value in known.items()}


def _files(inputs: dict[str, str]) -> str:
    if len(inputs) <= FEW_FILES:
        return ", ".join(f"{name} {digest[:HASH_DIGITS]}" for name, digest in inputs.items())
    whole = hash_text("\n".join(f"{name} {digest}" for name, digest in sorted(inputs.items())))
    return f"{len(inputs)} files, {whole[:HASH_DIGITS]}"


def _code(code: dict[str, object]) -> str:
    commit = str(code.get("commit") or "")[:HASH_DIGITS]
    return " ".join(filter(None, (str(code.get("version") or ""), commit, "(modified)" * bool(code.get("modified")))))


def shared_facts(results: Results) -> dict[str, str]:
    """Returns what is the same of all runs; of one run everything."""
    first, *others = [facts_of(run) for run in results.runs]
    return {name: value for name, value in first.items() if value and all(other[name] == value for other in others)}


def run_table(results: Results) -> Table:
    """Returns a line per run with what is not the same of all; no line where there is one run."""
    facts = [facts_of(run) for run in results.runs]
    shared = shared_facts(results)
    names = [name for name in facts[0] if name not in shared and any(known[name] for known in facts)]
    rows = [
        Row((run.title, *(known[name] or ABSENT for name in names)), "control" if run.controls else "")
        for run, known in zip(results.runs, facts, strict=True)
        if len(results.runs) > 1
    ]
    return Table("Runs", ("run", *names), rows, text_columns=1 + len(names))
