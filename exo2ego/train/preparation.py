"""What a stage trains with: its parent, data, plan and model, built and checked before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from rich.console import Group
from rich.text import Text
from torch import nn
from torch.utils.data import Dataset

from exo2ego.data.batch import Collator
from exo2ego.data.clip_store import ClipStore
from exo2ego.data.clips import ClipTable, read_clips
from exo2ego.data.conversations import read_conversations
from exo2ego.data.datasets import ClipReader, ClipSamples, ConversationSamples, TextEncoder, blank_sample
from exo2ego.data.pairing import SampleOrder
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.errors import CheckpointError, DataError
from exo2ego.model.attention import choose_attention
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.provenance import provenance
from exo2ego.records import Conversation
from exo2ego.storage import hash_file
from exo2ego.train.assembly import assemble, build_processor, recorded_options
from exo2ego.train.batch_plan import BatchPlan, plan_batches
from exo2ego.train.checkpoint import Checkpoint, find_checkpoint, parent_record
from exo2ego.train.options import StageConfig
from exo2ego.train.parameters import FreezeTable, TableRow, apply_freeze_table, render_rows, set_precision
from exo2ego.train.stage import Stage


@dataclass(frozen=True)
class Prepared:
    """A stage ready to train."""

    stage: Stage[Any]
    parent: Checkpoint | None
    inputs: dict[str, str]
    """SHA-256 of what it learns from."""
    order: SampleOrder
    plan: BatchPlan
    model: Exo2EgoForConditionalGeneration
    processor: Exo2EgoProcessor
    table: FreezeTable
    rows: list[TableRow]
    attention: str
    """Which attention kernel, and why."""
    samples: Dataset[Any]
    collate: Collator

    def record(self) -> dict[str, Any]:
        """Returns what run.json and every checkpoint say about this run."""
        stage, config = self.stage, self.stage.config
        return {
            "stage": stage.name,
            "view": stage.view,
            "model": recorded_options(config.model),
            "parts": stage.parts.model_dump(mode="json"),
            "base_weights": self.model.config.base_weights,
            "text_format": config.data.text_format,
            "parent": parent_record(self.parent, Path(config.output_dir)),
            "plan": vars(self.plan),
            "freeze_table": [vars(row) for row in self.rows],
            "provenance": provenance(config.model_dump(mode="json"), config.seed, self.inputs),
        }


def prepare(stage: Stage[Any], parent: Checkpoint | None, num_processes: int) -> Prepared:
    """Opens the data, plans the steps, builds the model and decides what trains.

    What can be refused without a model is refused first: building a large one takes minutes.
    """
    config: StageConfig = stage.config
    records = _read_table(stage)
    store = ClipStore(Path(config.data.clip_store)) if config.data.clip_store else None
    order = sample_order(stage, records)
    plan = plan_batches(
        global_size=config.batch.global_size,
        local_size=config.batch.local_size,
        world_size=num_processes,
        num_samples=len(order),
        epochs=config.epochs,
        warmup_fraction=config.optim.warmup_fraction,
        max_steps=config.max_steps,
    )
    options, attention = choose_attention(config.model, config.precision)
    model, tokenizer = assemble(options, stage.parts, parent, config.seed)
    table = present_rows(model, stage.freeze_table())
    rows = apply_freeze_table(model, table, config.optim.learning_rate, config.optim.groups)
    set_precision(model, config.precision)
    model.train()  # a frozen teacher stays in eval mode (A21)
    model.set_gradient_checkpointing(list(config.gradient_checkpointing))
    model.compile_parts(list(config.compile))
    processor = build_processor(model, tokenizer, config.model.aspect)
    if store is not None:
        for view in {stage.view, "exo"} if needs_exo_beside(stage) else {stage.view}:
            store.require_fits(processor.pictures(view))
    return Prepared(
        stage=stage,
        parent=parent,
        inputs={"table": hash_file(Path(config.data.table))} | ({"clip_store": store.identity} if store else {}),
        order=order,
        plan=plan,
        model=model,
        processor=processor,
        table=table,
        rows=rows,
        attention=attention,
        samples=_samples(stage, records, processor, store),
        collate=Collator(
            processor.tokenizer.pad_token_id, blank_sample(processor, stage.view, with_exo=needs_exo_beside(stage))
        ),
    )


def find_parent(stage: Stage[Any]) -> Checkpoint | None:
    """Opens the parent checkpoint; raises `CheckpointError` when it is of a stage that this one cannot build on."""
    wanted = [name for name in stage.parents if name is not None]
    if stage.config.parent is None:
        if None in stage.parents:
            return None
        raise CheckpointError(f"{stage.name} builds on {' or '.join(wanted)}: give parent=RUN_FOLDER of that stage")
    parent = find_checkpoint(Path(stage.config.parent))
    if parent.stage not in wanted:
        raise CheckpointError(
            f"{stage.name} builds on {' or '.join(wanted)}, but {parent.path} is of stage {parent.stage}; "
            f'give parent=RUN_FOLDER whose run.json says "stage": "{wanted[0]}"'
        )
    return parent


def present_rows(model: nn.Module, table: FreezeTable) -> FreezeTable:
    """Leaves out the rows of optional parts that this model does not have; a misspelt part is an `AttributeError`."""
    present: dict[str, float | None] = {}
    for pattern, multiplier in table.items():
        module: Any = model
        for name in pattern.split(".*", 1)[0].split("."):
            module = getattr(module, name) if module is not None else None
        if module is not None and next(module.parameters(), None) is not None:
            present[pattern] = multiplier
    return present


def needs_exo_beside(stage: Stage[Any]) -> bool:
    """Returns whether a sample holds exo video beside the language model's own view, as the teacher's input."""
    return bool(stage.parts.teacher and stage.view == "ego")


def _read_table(stage: Stage[Any]) -> ClipTable | Sequence[Conversation]:
    root, path = Path(stage.config.data.root), Path(stage.config.data.table)
    if stage.config.data.clip_store is None and not root.is_dir():
        raise DataError(f"{root}: data.root is not a folder; give the folder that the table's video paths start from")
    if not path.is_file():
        raise DataError(f"{path}: data.table does not exist; build it first (docs/training.md)")
    table = open_table(path)
    if not len(table):
        raise DataError(f"{path}: data.table is empty")
    return table


def open_table(path: Path) -> ClipTable | Sequence[Conversation]:
    """Opens a table of conversations (JSONL) or clips; raises `DataError` when it is damaged."""
    return read_conversations(path) if path.suffix == ".jsonl" else read_clips(path)


def sample_order(stage: Stage[Any], records: ClipTable | Sequence[Conversation]) -> SampleOrder:
    """Returns which sample comes when; raises `DataError` where a clip lacks the exocentric video that it needs."""
    path = stage.config.data.table
    if stage.pairing == "ego":
        return SampleOrder(numpy.ones(len(records), dtype=numpy.int64), "ego", stage.config.seed)
    if not isinstance(records, ClipTable):
        raise DataError(f"{path}: {stage.name} needs exocentric videos; give a clip table, not conversations")
    num_views = records.num_exo_videos()
    if not num_views.all():
        raise DataError(f"{path}: {int((num_views == 0).sum())} clips have no exocentric video; build the table again")
    return SampleOrder(num_views, stage.pairing, stage.config.seed)


def _samples(
    stage: Stage[Any], records: ClipTable | Sequence[Conversation], processor: Exo2EgoProcessor, store: ClipStore | None
) -> Dataset[Any]:
    data = stage.config.data
    reader = ClipReader(Path(data.root), processor, data.decoder, store)
    encode = TextEncoder(processor, stage.view, data.max_text_tokens)
    if isinstance(records, ClipTable):
        with_exo = needs_exo_beside(stage)
        return ClipSamples(records, reader, encode, stage.view, data.text_format, with_exo=with_exo)
    return ConversationSamples(records, reader, encode)


def _parts_of(config: StageConfig) -> str:
    named = {"recomputed": config.gradient_checkpointing, "compiled": config.compile}
    return "".join(f" · {word}: {', '.join(parts)}" for word, parts in named.items() if parts)


def _warnings(config: StageConfig, num_processes: int) -> list[str]:
    """A video that hangs holds the others up for twice data.timeout_s; they must not end the job meanwhile."""
    hang_s = config.data.timeout_s
    waits = config.data.num_workers > 0 and num_processes > 1
    if not waits or (hang_s is not None and 2 * hang_s < config.timeout_s):
        return []
    limit = "null" if hang_s is None else f"{hang_s:g}"
    return [
        f"NOTE   data.timeout_s={limit}: one video that hangs may end the job after timeout_s={config.timeout_s}; "
        f"give data.timeout_s below {config.timeout_s / 2:g}"
    ]


def describe(prepared: Prepared) -> Group:
    """Returns the plan for the console: what it builds on, what trains, how many samples, tokens and steps."""
    stage, plan, parent = prepared.stage, prepared.plan, prepared.parent
    origin = "on base weights"
    if parent is not None:
        done, planned = parent.step, parent.record["plan"]["total_steps"]
        unfinished = f", UNFINISHED: step {done:,} of {planned:,}" if done < planned else ""
        origin = f"on {parent.stage} {parent.path}{unfinished}"
    tokens = prepared.processor.num_video_tokens[stage.view]
    lines = [
        f"data   {len(prepared.order):,} samples per epoch ({stage.pairing}) · {tokens:,} video tokens per clip",
        f"batch  {plan.world_size} processes x {plan.local_size} clips x {plan.accumulation} = {plan.global_size}",
        f"plan   {plan.total_steps:,} steps, {plan.warmup_steps:,} of warm-up",
        f"runs   attention {prepared.attention}" + _parts_of(stage.config),
    ]
    if plan.local_size < stage.config.batch.local_size:
        lines.insert(
            2, f"       local batch lowered from {stage.config.batch.local_size} to keep the global batch (A16)"
        )
    lines += _warnings(stage.config, plan.world_size)
    title = Text.assemble((stage.name, "bold"), f" · {stage.title} · {origin}")
    return Group(title, render_rows(prepared.rows), Text("\n".join(lines)))
