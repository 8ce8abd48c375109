"""The model card of an export (README.md), made of what the run recorded about itself and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from exo2ego.adapter import FOLDER
from exo2ego.errors import DataError
from exo2ego.storage import read_json
from exo2ego.train.checkpoint import Checkpoint, checkpoint_chain
from exo2ego.train.parameters import human_count

NOT_RECORDED = "not recorded"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
PARTS = ("vision_tower", "teacher_tower", "language_model")
LOADING = """\
```python
import exo2ego.inference  # registers the model with transformers
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(FOLDER).eval()
processor = AutoProcessor.from_pretrained(FOLDER)
{adapter}inputs = processor("What does C do?", frames)  # frames: numpy uint8 [T, H, W, 3], T = processor.num_frames
answer = model.generate(**inputs, max_new_tokens=64)
```
"""
ADAPTER_LINES = f"""\
from peft import PeftModel
model = PeftModel.from_pretrained(model, FOLDER + "/{FOLDER}")  # or exo2ego.inference.load(FOLDER), which checks it
"""


def model_card(checkpoint: Checkpoint, *, has_adapter: bool, dtype: str) -> str:
    """Returns the text of the card; the checkpoint's run folder is searched for evaluation results of this run."""
    chain = checkpoint_chain(checkpoint)
    merged = f"LoRA apart in `{FOLDER}/`" if has_adapter else "LoRA, where there was any, merged"
    sections = (
        f"---\n{_front_matter(checkpoint)}---",
        f"# Exo2Ego: {checkpoint.stage}, step {checkpoint.step:,}",
        f"A model of first-person video and language, exported from {checkpoint.path.name} of a {checkpoint.stage} run "
        f"without teacher and G, {merged}. Weights are in {dtype}, the base language model's type: towers, connector "
        "and F were rounded to it where they were trained in another. Everything below is copied from the run's own "
        "records.",
        "## Loading",
        LOADING.format(adapter=ADAPTER_LINES if has_adapter else ""),
        "## Training",
        _table(
            ("stage", "steps", "global batch", "learning rate", "seed", "code", "trained weights (SHA-256)"),
            [_stage_row(each) for each in chain],
        ),
        *(_trained(each) for each in chain),
        "## Data",
        _table(("stage", "input", "path", "SHA-256"), [row for each in chain for row in _data_rows(each)]),
        "## Base weights",
        _table(("part", "source", "content", "licence stated by the source"), _base_rows(checkpoint)),
        "## Licences",
        "The licences of the base weights and of the data above bind this model too; this card does not settle what "
        "they allow together. Where no licence is given, ask the source before passing the model on.",
        "## Evaluation",
        _evaluation(checkpoint.path),
    )
    return "\n\n".join(sections).rstrip() + "\n"


def _front_matter(checkpoint: Checkpoint) -> str:
    sources = [source for _, source in _sources(checkpoint) if HUB_NAME.fullmatch(source)]
    values: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "video-text-to-text",
        "license": "other",
        "tags": ["exo2ego", "egocentric-video"],
    }
    if sources:
        values["base_model"] = list(dict.fromkeys(sources))
    return yaml.safe_dump(values, sort_keys=False)


def _stage_row(checkpoint: Checkpoint) -> tuple[str, ...]:
    record, made = checkpoint.record, checkpoint.record["provenance"]
    plan, code = record.get("plan", {}), made.get("code", {})
    planned = plan.get("total_steps")
    steps = f"{checkpoint.step:,} of {planned:,}" if planned is not None else f"{checkpoint.step:,}"
    changed = " with local changes" if code.get("modified") else ""
    commit = f" ({code['commit'][:12]}{changed})" if code.get("commit") else ""
    return (
        record["stage"],
        steps,
        str(plan.get("global_size", NOT_RECORDED)),
        str(made["config"].get("optim", {}).get("learning_rate", NOT_RECORDED)),
        str(made.get("seed", NOT_RECORDED)),
        f"{code.get('version', NOT_RECORDED)}{commit}",
        checkpoint.identity[:16],
    )


def _trained(checkpoint: Checkpoint) -> str:
    rows = [
        (
            f"`{row['pattern']}`" + (f", group `{row['group']}`" if row.get("group") else ""),
            "frozen" if row["learning_rate"] is None else f"{row['learning_rate']:g}",
            human_count(row["num_parameters"]),
        )
        for row in checkpoint.record["freeze_table"]
    ]
    return f"What {checkpoint.stage} trained:\n\n{_table(('parameters', 'learning rate', 'count'), rows)}"


def _data_rows(checkpoint: Checkpoint) -> Iterator[tuple[str, ...]]:
    made = checkpoint.record["provenance"]
    paths = made["config"].get("data", {})
    for name, digest in made.get("inputs", {}).items():
        yield checkpoint.stage, name, f"`{paths.get(name, NOT_RECORDED)}`", digest


def _sources(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """Yields (part, where its published weights came from)."""
    model = checkpoint.record["model"]
    for part in PARTS:
        options: Mapping[str, Any] = model.get(part) or {}
        for key in ("from_pretrained", "videollama2", "checkpoint"):
            if options.get(key):
                yield part, str(options[key])
        if options.get("architecture"):
            yield part, "random weights of the seed"
    if model.get("videollama2"):
        yield "connector", str(model["videollama2"])


def _base_rows(checkpoint: Checkpoint) -> Iterator[tuple[str, ...]]:
    identities = checkpoint.record.get("base_weights", {})
    for part, source in _sources(checkpoint):
        if part != "teacher_tower":  # not in the export
            yield part.replace("_", " "), f"`{source}`", identities.get(part, NOT_RECORDED)[:16], _licence_of(source)


def _licence_of(source: str) -> str:
    """Returns what the model card of a local folder says in its head."""
    path = Path(source)
    card = (path.parent if path.is_file() else path) / "README.md"
    try:
        head = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), flags=re.DOTALL)
        stated = yaml.safe_load(head[1]).get("license") if head else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError):
        stated = None
    return str(stated or NOT_RECORDED)


def _evaluation(checkpoint: Path) -> str:
    """Returns the results in a checkpoint's run folder whose record names this run; others are only counted."""
    run = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
    rows: list[tuple[str, ...]] = []
    dates: list[str] = []
    num_foreign = 0
    for path in sorted(run.rglob("results.json")):
        folder = path.parent
        try:
            results = read_json(path, "evaluation results")["results"]
            made = read_json(folder / "run.json", "record of an evaluation")["provenance"]
            of = _evaluated_checkpoint(Path(made["config"]["model"]), run)
            found = [_result_row(folder.relative_to(run), of or "", row) for row in results]
        except (DataError, KeyError, TypeError, AttributeError):  # some other program's results
            continue
        if of is None:
            num_foreign += 1
            continue
        rows += found
        dates.append(f"- `{folder.relative_to(run)}`: {made.get('written_utc', NOT_RECORDED)}")
    left_out = f"Left out: the results of other models in {num_foreign} folders." if num_foreign else ""
    if not rows:
        return f"No results were found in the run's folder. {left_out}"
    header = ("folder", "checkpoint", "task", "mode", "questions", "accuracy %", "95 % interval", "chance %")
    return "\n\n".join((_table(header, rows), "\n".join(dates), left_out))


def _evaluated_checkpoint(model: Path, run: Path) -> str | None:
    """Returns the name of the run's checkpoint that an evaluation's `model` is; None for a model of elsewhere."""
    model, run = model.resolve(), run.resolve()
    if model == run:
        return "the newest of the time"
    return model.name if model.parent == run / "checkpoints" else None


def _result_row(folder: Path, checkpoint: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    interval = row.get("interval")
    ends = "–" if interval is None else f"{100 * interval['low']:.1f}–{100 * interval['high']:.1f}"
    accuracy, chance = (None if row[key] is None else f"{100 * row[key]:.1f}" for key in ("accuracy", "chance"))
    scored = str(row["num_scored"])
    return str(folder), checkpoint, row["task"], row["mode"], scored, accuracy or "–", ends, chance or "–"


def _table(header: Sequence[str], rows: Iterator[tuple[str, ...]] | Sequence[tuple[str, ...]]) -> str:
    lines = [tuple(header), ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
