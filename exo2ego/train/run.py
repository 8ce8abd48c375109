"""Running a stage: parent, model, data and optimiser are put together here, then the loop takes over."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import get_cosine_schedule_with_warmup

from exo2ego.command_line import RunOptions
from exo2ego.console import console
from exo2ego.data.batch import Collator
from exo2ego.data.clips import read_clips
from exo2ego.data.datasets import ClipReader, ClipSamples, ConversationSamples, TextEncoder, blank_sample
from exo2ego.data.failures import FailureBudget
from exo2ego.data.pairing import MicroBatches, SampleOrder
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.errors import CheckpointError, DataError
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.provenance import provenance
from exo2ego.records import Conversation
from exo2ego.storage import hash_file, read_jsonl, remove_leftovers, write_json, write_text
from exo2ego.config import to_yaml
from exo2ego.train.assembly import assemble, build_processor, load_trained, recorded_options
from exo2ego.train.batch_plan import BatchPlan, plan_batches
from exo2ego.train.checkpoint import (
    RANDOM_STATE,
    Checkpoint,
    find_checkpoint,
    load_optimizer_state,
    parent_record,
    random_state,
    restore_random_state,
    rotate_checkpoints,
    save_checkpoint,
)
from exo2ego.train.dry_run import report_dry_run
from exo2ego.train.journal import Journal
from exo2ego.train.loop import TrainingRun, train
from exo2ego.train.options import StageConfig
from exo2ego.train.parameters import (
    FreezeTable,
    TableRow,
    apply_freeze_table,
    parameter_groups,
    render_rows,
    set_precision,
)
from exo2ego.train.stage import Stage

# keys that may differ between a run and its continuation: they change no weight
FREE_ON_RESUME = ("output_dir", "log_every", "checkpoint", "data.num_workers", "data.root", "data.table", "parent")


@dataclass
class Prepared:
    """A stage ready to train."""

    stage: Stage[Any]
    model: Exo2EgoForConditionalGeneration
    processor: Exo2EgoProcessor
    table: FreezeTable
    rows: list[TableRow]
    samples: Dataset[Any]
    order: SampleOrder
    plan: BatchPlan
    inputs: dict[str, str]
    parent: Checkpoint | None


def run_stage(stage: Stage[Any], options: RunOptions) -> int:
    """Runs a stage to its end, continues it, or shows its plan (`--dry-run`); returns the exit code."""
    config: StageConfig = stage.config
    accelerator = _accelerator(config)
    run_dir = Path(config.output_dir)
    resumed = _checkpoint_to_continue(run_dir, options.resume)
    if resumed is None and options.resume is None and not options.dry_run:
        _refuse_to_mix(run_dir)
    prepared = prepare(stage, accelerator.num_processes)
    if accelerator.is_main_process:
        _announce(prepared)
    if resumed is not None:
        _require_same_run(prepared, resumed)
        load_trained(prepared.model, resumed.tensors(), where=str(resumed.path))
    run = _training_run(prepared, accelerator, run_dir, resumed, dry_run=options.dry_run)
    if options.dry_run:
        report_dry_run(run, prepared.model, prepared.rows, config)
        return 0
    if accelerator.is_main_process:
        remove_leftovers(run_dir)
        write_text(run_dir / "config.yaml", to_yaml(config))
        write_json(run_dir / "run.json", _record(prepared, 0))
        prepared.processor.save_pretrained(str(run_dir / "processor"))
    try:
        train(run)
    finally:
        run.journal.close()
    accelerator.end_training()
    return 0


def prepare(stage: Stage[Any], num_processes: int) -> Prepared:
    """Opens the parent, builds the model, applies the freeze table, opens the data and plans the steps."""
    config: StageConfig = stage.config
    parent = find_parent(stage)
    model, tokenizer = assemble(config.model, stage.parts, parent, config.seed)
    table = present_rows(model, stage.freeze_table())
    rows = apply_freeze_table(model, table, config.optim.learning_rate)
    set_precision(model, config.precision)
    model.set_gradient_checkpointing(list(config.gradient_checkpointing))
    processor = build_processor(model, tokenizer, config.model.aspect)
    samples, num_views = _open_data(stage, processor)
    order = SampleOrder(num_views, stage.pairing, config.seed)
    plan = plan_batches(
        global_size=config.batch.global_size,
        local_size=config.batch.local_size,
        world_size=num_processes,
        num_samples=len(order),
        epochs=config.epochs,
        warmup_fraction=config.optim.warmup_fraction,
        max_steps=config.max_steps,
    )
    inputs = {"table": hash_file(Path(config.data.table))}
    return Prepared(stage, model, processor, table, rows, samples, order, plan, inputs, parent)


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
            f"{stage.name} builds on {' or '.join(wanted) or 'base weights only'}, but {parent.path} is of stage "
            f"{parent.stage}; give parent=RUN_FOLDER whose run.json says \"stage\": \"{wanted[0] if wanted else '-'}\""
        )
    return parent


def present_rows(model: nn.Module, table: FreezeTable) -> FreezeTable:
    """Leaves out the rows of optional parts that this model does not have; a misspelt part is an `AttributeError`."""
    present: dict[str, float | None] = {}
    for pattern, multiplier in table.items():
        module: Any = model
        for name in pattern.split(".*", 1)[0].split("."):
            module = getattr(module, name) if module is not None and "*" not in name else module
        if module is not None and next(module.parameters(), None) is not None:
            present[pattern] = multiplier
    return present


def _open_data(stage: Stage[Any], processor: Exo2EgoProcessor) -> tuple[Dataset[Any], NDArray[numpy.int64]]:
    data = stage.config.data
    root, table = Path(data.root), Path(data.table)
    if not root.is_dir():
        raise DataError(f"{root}: data.root is not a folder; give the folder that the table's video paths start from")
    if not table.is_file():
        raise DataError(f"{table}: data.table does not exist; build it first (docs/training.md)")
    reader = ClipReader(root, processor, data.decoder)
    encode = TextEncoder(processor, stage.view, data.max_text_tokens)
    if table.suffix == ".jsonl":
        rows = [Conversation.model_validate(row) for row in read_jsonl(table, "conversation table")]
        return ConversationSamples(rows, reader, encode), numpy.ones(len(rows), dtype=numpy.int64)
    clips = read_clips(table)
    samples = ClipSamples(clips, reader, encode, stage.view, data.text_format, with_exo=stage.parts.inverse)
    return samples, clips.num_exo_videos()


def _accelerator(config: StageConfig) -> Accelerator:
    plugin = None
    if config.deepspeed is not None:
        os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
        # accumulation is ours: micro-batches are already divided by the global counts
        plugin = DeepSpeedPlugin(hf_ds_config=config.deepspeed, gradient_accumulation_steps=1)
    mixed = "bf16" if config.precision == "bf16" else "no"
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    accelerator = Accelerator(
        mixed_precision=mixed, deepspeed_plugin=plugin, cpu=not torch.cuda.is_available(), rng_types=[]
    )
    set_seed(config.seed)
    return accelerator


def _training_run(
    prepared: Prepared, accelerator: Accelerator, run_dir: Path, resumed: Checkpoint | None, *, dry_run: bool
) -> TrainingRun:
    config: StageConfig = prepared.stage.config
    plan = prepared.plan
    optimizer = torch.optim.AdamW(
        parameter_groups(
            prepared.model,
            prepared.table,
            learning_rate=config.optim.learning_rate,
            weight_decay=config.optim.weight_decay,
        ),
        betas=config.optim.betas,
        eps=config.optim.epsilon,
    )
    # not prepared by accelerate, which would step it once per process
    scheduler = get_cosine_schedule_with_warmup(optimizer, plan.warmup_steps, plan.total_steps)
    model, prepared_optimizer = accelerator.prepare(prepared.model, optimizer)
    start_step = 0
    if resumed is not None:
        start_step = resumed.step
        state = load_optimizer_state(resumed)
        prepared_optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        restore_random_state(resumed.path / RANDOM_STATE.format(process=accelerator.process_index))
    journal = Journal(
        run_dir,
        start_step=start_step,
        total_steps=plan.total_steps,
        log_every=config.log_every,
        enabled=accelerator.is_main_process and not dry_run,
    )
    run = TrainingRun(
        accelerator=accelerator,
        model=model,
        losses=prepared.stage.losses,
        optimizer=prepared_optimizer,
        scheduler=scheduler,
        batches=_loader(prepared, accelerator, start_step),
        plan=plan,
        max_gradient_norm=config.optim.max_gradient_norm,
        journal=journal,
        failures=FailureBudget(config.data.max_failure_rate, None if dry_run else run_dir / "failures.jsonl"),
        save=lambda step: None,
        save_every=config.checkpoint.every_steps,
        start_step=start_step,
    )
    return replace(run, save=lambda step: _save(prepared, run, run_dir, step))


def _loader(prepared: Prepared, accelerator: Accelerator, start_step: int) -> DataLoader[Any]:
    stage = prepared.stage
    blank = blank_sample(prepared.processor, stage.view, with_exo=stage.parts.inverse)
    workers = stage.config.data.num_workers
    return DataLoader(
        prepared.samples,
        batch_sampler=MicroBatches(  # type: ignore[arg-type]
            prepared.order,
            local_size=prepared.plan.local_size,
            accumulation=prepared.plan.accumulation,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            start_step=start_step,
            end_step=prepared.plan.total_steps,
        ),
        collate_fn=Collator(prepared.processor.tokenizer.pad_token_id, blank),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context="forkserver" if workers else None,
        # a generator of its own: the loader must not draw from the training's random numbers
        generator=torch.Generator().manual_seed(stage.config.seed),
    )


def _save(prepared: Prepared, run: TrainingRun, run_dir: Path, step: int) -> None:
    accelerator, config = run.accelerator, prepared.stage.config
    states = gather_object([random_state()])
    optimizer_state = {"optimizer": run.optimizer.state_dict(), "scheduler": run.scheduler.state_dict()}
    fault: list[Any] = [None]
    if accelerator.is_main_process:
        names = {id(parameter): name for name, parameter in prepared.model.named_parameters()}
        trained = {
            names[id(parameter)]: parameter.detach().cpu()
            for parameter in prepared.model.parameters()
            if parameter.requires_grad
        }
        try:
            save_checkpoint(
                run_dir,
                record=_record(prepared, step),
                trained=trained,
                optimizer_state=optimizer_state,
                random_states=states,
            )
            keep = config.checkpoint
            rotate_checkpoints(run_dir, keep_last=keep.keep_last, keep_every=keep.keep_every)
        except CheckpointError as error:
            fault = [str(error)]
    if broadcast_object_list(fault)[0] is not None:  # all processes stop together
        raise CheckpointError(fault[0])


def _record(prepared: Prepared, step: int) -> dict[str, Any]:
    stage, config = prepared.stage, prepared.stage.config
    return {
        "stage": stage.name,
        "step": step,
        "samples": step * prepared.plan.global_size,
        "view": stage.view,
        "model": recorded_options(config.model),
        "parts": stage.parts.model_dump(mode="json"),
        "text_format": config.data.text_format,
        "parent": parent_record(prepared.parent, Path(config.output_dir)),
        "plan": vars(prepared.plan),
        "freeze_table": [vars(row) for row in prepared.rows],
        "provenance": provenance(config.model_dump(mode="json"), config.seed, prepared.inputs),
    }


def _checkpoint_to_continue(run_dir: Path, resume: str | None) -> Checkpoint | None:
    if resume is None:
        return None
    if resume == "auto":
        return find_checkpoint(run_dir) if any(run_dir.glob("checkpoints/step_*")) else None
    return find_checkpoint(Path(resume))


def _refuse_to_mix(run_dir: Path) -> None:
    if any(run_dir.glob("checkpoints/step_*")):
        raise CheckpointError(
            f"{run_dir}: holds checkpoints of an earlier run; continue it with --resume auto, or choose another "
            "output_dir"
        )


def _require_same_run(prepared: Prepared, resumed: Checkpoint) -> None:
    now = _record(prepared, resumed.step)
    if resumed.stage != prepared.stage.name:
        raise CheckpointError(f"{resumed.path} is of stage {resumed.stage}, this is {prepared.stage.name}")
    then_values, now_values = (_flat(record["provenance"]["config"]) for record in (resumed.record, now))
    different = [
        f"{key}: {then_values.get(key)!r} then, {now_values.get(key)!r} now"
        for key in sorted(then_values.keys() | now_values.keys())
        if then_values.get(key) != now_values.get(key) and not key.startswith(FREE_ON_RESUME)
    ]
    for name, then, current in (
        ("parent", (resumed.record["parent"] or {}).get("identity"), (now["parent"] or {}).get("identity")),
        ("data.table content", resumed.record["provenance"]["inputs"]["table"], prepared.inputs["table"]),
        ("number of processes", resumed.record["plan"]["world_size"], prepared.plan.world_size),
    ):
        if then != current:
            different.append(f"{name}: {then} then, {current} now")
    if different:
        raise CheckpointError(
            f"{resumed.path} cannot be continued with this configuration:\n  " + "\n  ".join(different) + "\n"
            "  restore these values, or start a new run in another output_dir"
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _announce(prepared: Prepared) -> None:
    stage, plan, parent = prepared.stage, prepared.plan, prepared.parent
    origin = f"on {parent.stage} {parent.path}" if parent is not None else "on base weights"
    console.print(f"[bold]{stage.name}[/] · {stage.title} · {origin}")
    console.print(render_rows(prepared.rows))
    tokens = prepared.processor.num_video_tokens[stage.view]
    console.print(
        f"data   {len(prepared.order):,} samples per epoch ({stage.pairing}) · {tokens} video tokens per clip\n"
        f"batch  {plan.world_size} processes x {plan.local_size} clips x {plan.accumulation} = {plan.global_size}\n"
        f"plan   {plan.total_steps:,} steps, {plan.warmup_steps:,} of warm-up"
    )
    if plan.local_size < stage.config.batch.local_size:
        console.print(f"       local batch lowered from {stage.config.batch.local_size} to keep the global batch (A16)")
