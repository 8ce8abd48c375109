"""Running stages on the tiny corpus: in this process, or in a child that may be killed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from exo2ego.command_line import RunOptions
from exo2ego.config import load_config
from exo2ego.data.batch import Batch
from exo2ego.storage import read_jsonl
from exo2ego.train.checkpoint import find_checkpoint
from exo2ego.train.preparation import Prepared, prepare
from exo2ego.train.run import run_stage
from exo2ego.train.stage import Stage
from stages.init_ego import InitEgo, InitEgoConfig
from stages.stage1 import Stage1, Stage1Config
from stages.stage2 import Stage2, Stage2Config
from stages.stage3 import Stage3, Stage3Config
from tests.shared_data import REPOSITORY
from tests.tiny_corpus import TinyCorpus

STAGES: dict[str, tuple[type[Stage[Any]], type[Any]]] = {
    "init_ego": (InitEgo, InitEgoConfig),
    "stage1": (Stage1, Stage1Config),
    "stage2": (Stage2, Stage2Config),
    "stage3": (Stage3, Stage3Config),
}
SMALLER = (
    "model.num_frames=2",
    "model.mapper.num_blocks=1",
    "model.vision_tower.architecture.hidden_size=16",
    "model.vision_tower.architecture.intermediate_size=32",
    "model.vision_tower.architecture.image_size=32",
    "model.vision_tower.architecture.patch_size=4",
    "batch.global_size=4",
    "batch.local_size=2",
)


def overrides_for(name: str, corpus: TinyCorpus, *overrides: str) -> list[str]:
    """Returns the command line of stages/configs/tiny on the corpus, made smaller."""
    table = corpus.conversations if name == "stage3" else corpus.clips
    where = [
        f"data.table={table}",
        f"data.root={corpus.root}",
        f"model.language_model.from_pretrained={corpus.language_model}",
    ]
    return [*SMALLER, *where, *overrides]


def make_stage(name: str, corpus: TinyCorpus, *overrides: str) -> Stage[Any]:
    """Returns a stage of stages/configs/tiny on the corpus."""
    stage_class, config_class = STAGES[name]
    path = REPOSITORY / "stages" / "configs" / "tiny" / f"{name}.yaml"
    return stage_class(load_config(config_class, path, overrides_for(name, corpus, *overrides)))


def run(
    name: str, corpus: TinyCorpus, output_dir: Path, *overrides: str, resume: str | None = None, dry_run: bool = False
) -> int:
    """Runs a stage in this process."""
    stage = make_stage(name, corpus, f"output_dir={output_dir}", *overrides)
    return run_stage(stage, RunOptions(dry_run=dry_run, resume=resume))


def in_child(target: Callable[..., None], *arguments: Any, timeout_s: float = 600) -> int:
    """Runs a module-level function in a fresh process, which a signal may end; returns its exit code, -9 if killed.

    The server process that the child is forked from has imported torch already.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiny_runs"])
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"the child did not end within {timeout_s} s")
    return process.exitcode


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Returns what a run logged of every step, without what depends on the clock and the machine."""
    measured = {"samples_per_s", "tokens_per_s", "data_wait_share", "peak_memory_gb", "seconds"}
    measured |= {"model_tflops_per_s", "mfu"}
    rows = read_jsonl(run_dir / "metrics.jsonl")
    return [{key: value for key, value in row.items() if key not in measured} for row in rows]


def trained(run_dir: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a run's newest checkpoint."""
    return load_file(str(find_checkpoint(run_dir).path / "trained.safetensors"))


def files_below(folder: Path) -> list[str]:
    """Returns every file and folder, to see that nothing half-written remains."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def prepare_orphan(name: str, corpus: TinyCorpus, *overrides: str) -> Prepared:
    """Prepares a stage on random weights, as if it needed no parent."""
    stage = make_stage(name, corpus, "parent=null", *overrides)
    orphan = type("Orphan", (type(stage),), {"parents": (None,)})
    return prepare(orphan(stage.config), None, num_processes=1)


def batch_of(prepared: Prepared, positions: Iterable[int]) -> Batch:
    """Returns the samples at some positions of the order as one micro-batch."""
    samples: Any = prepared.samples
    return prepared.collate([samples[prepared.order.at(position)] for position in positions])
