"""Running a stage: everything is put together, then the loop takes over."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import get_cosine_schedule_with_warmup

from exo2ego.command_line import RunOptions
from exo2ego.config import to_yaml
from exo2ego.console import console
from exo2ego.data.failures import FailureBudget
from exo2ego.errors import TrainingError
from exo2ego.storage import atomic_path, remove_leftovers, write_json, write_text
from exo2ego.train.agreement import chosen_by_main, done_by_main, require_agreement
from exo2ego.train.assembly import load_weights
from exo2ego.train.checkpoint import Checkpoint, load_optimizer_state
from exo2ego.train.dry_run import report_dry_run, show_prediction
from exo2ego.train.journal import Journal, rewind
from exo2ego.train.loader import open_loader
from exo2ego.train.loop import TrainingRun, train
from exo2ego.train.options import StageConfig
from exo2ego.train.parameters import parameter_groups
from exo2ego.train.preparation import Prepared, describe, find_parent, prepare
from exo2ego.train.processes import start_accelerator
from exo2ego.train.resuming import checkpoint_to_continue, last_good_checkpoint, require_same_run, set_later_aside
from exo2ego.train.saving import require_space, saver_of
from exo2ego.train.stage import Stage
from exo2ego.train.stage_cost import speed_meter
from exo2ego.train.stopping import EXIT_CODE_OF_SIGNAL, StopRequest
from exo2ego.train.updating import Updater

FAILURES = "failures.jsonl"


def run_stage(stage: Stage[Any], options: RunOptions) -> int:
    """Runs a stage to its end, continues it, or shows its plan (`--dry-run`); returns the exit code."""
    if options.dry_run and not show_prediction(stage):
        return 0
    # from the start: under Slurm whatever does not listen ignores the signals (scripts/slurm/node.sh)
    with nullcontext(StopRequest()) if options.dry_run else StopRequest() as request:
        request.trains = False
        accelerator = start_accelerator(stage.config)
        exit_code = _run(stage, options, accelerator, request)
        accelerator.end_training()
    return exit_code


def _run(stage: Stage[Any], options: RunOptions, accelerator: Accelerator, request: StopRequest) -> int:
    config: StageConfig = stage.config
    run_dir = Path(config.output_dir)
    only_looking = options.dry_run and options.resume is None
    resumed = chosen_by_main(
        accelerator, lambda: None if only_looking else checkpoint_to_continue(run_dir, options.resume)
    )
    parent = chosen_by_main(accelerator, lambda: find_parent(stage))
    prepared = prepare(stage, parent, accelerator.num_processes)
    require_agreement(accelerator, _course(prepared, resumed))
    console.print(describe(prepared))
    if resumed is not None:
        require_same_run(prepared, resumed)
        load_weights(prepared.model, resumed)
        console.print(f"resume after step {resumed.step:,} of {prepared.plan.total_steps:,}", markup=False)
        if resumed.step >= prepared.plan.total_steps:
            console.print(f"{run_dir} is complete: nothing to do", markup=False)
            return 0
    if options.dry_run:
        run = build_run(prepared, accelerator, resumed, run_dir=None)
        report_dry_run(run, prepared.model, prepared.rows, config)
        run.updater.close()
        return 0
    if stopped_by := _told_during_set_up(accelerator, request):
        console.print("stopped before the first step: nothing was trained or written", markup=False)
        return EXIT_CODE_OF_SIGNAL + stopped_by
    if resumed is not None:
        done_by_main(accelerator, partial(set_later_aside, run_dir, resumed, options.resume))
    require_space(prepared, accelerator)
    if accelerator.is_main_process:
        _describe_folder(prepared, run_dir)
    run = build_run(prepared, accelerator, resumed, run_dir=run_dir)
    try:
        stopped_by = train(run, request)
    except TrainingError as error:
        # not exchanged: a process that failed alone would wait for the others
        good = last_good_checkpoint(run_dir) if accelerator.is_main_process else "Process 0 names the last checkpoint"
        raise TrainingError(f"{error}. {good}") from error
    finally:
        run.journal.close()
    run.updater.close()
    console.print(run.journal.summary(), markup=False)
    if not stopped_by:
        return 0
    console.print(f"stopped with a checkpoint in {run_dir}; continue with --resume auto", markup=False)
    return EXIT_CODE_OF_SIGNAL + stopped_by


def _course(prepared: Prepared, resumed: Checkpoint | None) -> dict[str, Any]:
    """Returns what decides which steps a process takes, and from where."""
    return {
        "start step": 0 if resumed is None else resumed.step,
        "steps": prepared.plan.total_steps,
        "samples": len(prepared.order),
        "weights of the parent": None if prepared.parent is None else prepared.parent.identity,
    }


def _told_during_set_up(accelerator: Accelerator, request: StopRequest) -> int:
    """Returns the signal that any process was told to stop by, or 0, to all alike; from now on a step comes first."""
    request.trains = True
    told = torch.tensor(float(request.number), device=accelerator.device)
    numbers: torch.Tensor = accelerator.gather(told)
    return int(numbers.max())


def build_run(
    prepared: Prepared, accelerator: Accelerator, resumed: Checkpoint | None, *, run_dir: Path | None
) -> TrainingRun:
    """Returns what the loop runs, at the step where `resumed` stopped; without `run_dir` it writes nothing."""
    config, plan = prepared.stage.config, prepared.plan
    optimizer = torch.optim.AdamW(
        parameter_groups(
            prepared.model,
            prepared.table,
            learning_rate=config.optim.learning_rate,
            weight_decay=config.optim.weight_decay,
            groups=config.optim.groups,
        ),
        betas=config.optim.betas,
        eps=config.optim.epsilon,
        fused=True,
    )
    # not prepared by accelerate, which would step it once per process
    scheduler = get_cosine_schedule_with_warmup(optimizer, plan.warmup_steps, plan.total_steps)
    updater = _updater(prepared, accelerator, optimizer)
    start_step = 0
    if resumed is not None:
        start_step = resumed.step
        state = load_optimizer_state(resumed)
        updater.load_state(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
    writes = accelerator.is_main_process and run_dir is not None
    failures = _failure_budget(prepared, resumed, run_dir if writes else None)
    return TrainingRun(
        updater=updater,
        losses=prepared.stage.losses,
        scheduler=scheduler,
        batches=open_loader(prepared, accelerator, start_step),
        plan=plan,
        precision=config.precision,
        journal=Journal(
            run_dir or Path(),
            start_step=start_step,
            total_steps=plan.total_steps,
            log_every=config.log_every,
            enabled=writes,
            speed=speed_meter(prepared) if writes else None,
        ),
        failures=failures,
        save=saver_of(prepared, updater, scheduler, failures),
        save_every=config.checkpoint.every_steps,
        seed=config.seed,
        start_step=start_step,
    )


def _updater(prepared: Prepared, accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> Updater:
    config = prepared.stage.config
    largest = config.optim.max_gradient_norm
    if config.deepspeed is None:
        return Updater(accelerator, accelerator.prepare(prepared.model), optimizer, max_gradient_norm=largest)
    from exo2ego.train.zero import zero_updater

    return zero_updater(
        accelerator,
        prepared.model,
        optimizer,
        max_gradient_norm=largest,
        plan=prepared.plan,
        precision=config.precision,
    )


def _failure_budget(prepared: Prepared, resumed: Checkpoint | None, log_dir: Path | None) -> FailureBudget:
    """Returns the budget as it was at the checkpoint, its log cut back to there."""
    seen = resumed.step * prepared.plan.global_size if resumed is not None else 0
    failed = int(resumed.record["unreadable"]) if resumed is not None else 0
    log_path = log_dir / FAILURES if log_dir is not None else None
    if log_path is not None:
        rewind(log_path, lambda number, row: number < failed)
    rate = prepared.stage.config.data.max_failure_rate
    return FailureBudget(rate, log_path, num_seen=seen, num_failures=failed)


def _describe_folder(prepared: Prepared, run_dir: Path) -> None:
    remove_leftovers(run_dir)
    remove_leftovers(run_dir / "checkpoints")
    write_text(run_dir / "config.yaml", to_yaml(prepared.stage.config))
    write_json(run_dir / "run.json", prepared.record())
    with atomic_path(run_dir / "processor") as folder:
        prepared.processor.save_pretrained(str(folder))
