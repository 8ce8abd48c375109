"""Two processes: the main one chooses what is continued and hashes it; who sees something else stops with all."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from exo2ego.errors import CheckpointError
from exo2ego.train import agreement, checkpoint
from exo2ego.train.checkpoint import save_checkpoint
from exo2ego.train.updating import Updater
from scripts.reliability.lives import free_port

# what process 1 does on its own before the processes meet
OWN_WAYS = ("same", "no such checkpoint", "another checkpoint", "nothing sound", "another plan")


def save(run_dir: Path, step: int) -> None:
    save_checkpoint(
        run_dir,
        record={"step": step, "stage": "stage2", "parent": None},
        trained={"weight": torch.full((10,), float(step))},
        optimizer_state={},
    )


def one_process(rank: int, port: int, folder: Path, way: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    hashed: list[str] = []
    hash_file = checkpoint.hash_file
    checkpoint.hash_file = lambda path: (hashed.append(path.name), hash_file(path))[1]  # type: ignore[attr-defined]
    if rank == 1 and way in ("no such checkpoint", "another checkpoint"):
        read_json = agreement.read_json
        missing = way == "no such checkpoint"
        agreement.read_json = lambda path, what: (  # type: ignore[attr-defined]
            read_json(path.with_name("absent"), what) if missing else {**read_json(path, what), "checksum": "other"}
        )
    said: dict[str, Any] = {}
    try:
        found = agreement.chosen_by_main(accelerator, lambda: checkpoint.find_checkpoint(folder / "run"))
        assert found is not None
        said["path"], said["hashed"] = str(found.path), hashed
        steps = 7 if rank == 1 and way == "another plan" else 6
        agreement.require_agreement(accelerator, {"start step": found.step, "steps": steps})
    except CheckpointError as error:
        said["error"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(said), encoding="utf-8")
    accelerator.end_training()


def both(folder: Path, way: str) -> list[dict[str, Any]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiny_runs"])
    port = free_port()
    processes = [context.Process(target=one_process, args=(rank, port, folder, way)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        if process.exitcode is None:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]


@pytest.mark.parametrize("way", OWN_WAYS)
def test_all_continue_from_the_same_checkpoint_or_none_does(tmp_path: Path, way: str) -> None:
    save(tmp_path / "run", 2)
    save(tmp_path / "run", 4)
    if way == "nothing sound":
        for weights in tmp_path.glob("run/checkpoints/*/trained.safetensors"):
            weights.write_bytes(b"")
    said = both(tmp_path, way)
    newest = tmp_path / "run" / "checkpoints" / "step_00000004"
    if way == "same":
        assert [one["path"] for one in said] == [str(newest)] * 2
        assert [len(one["hashed"]) for one in said] == [2, 0]
        assert "error" not in said[0] | said[1]
        return
    assert said[0]["error"] == said[1]["error"]
    expected = {
        "no such checkpoint": "process 1 cannot read the checkpoint that the main process chose",
        "another checkpoint": f"{newest / 'checkpoint.json'}: process 1 sees another checkpoint there",
        "nothing sound": "no sound checkpoint",
        "another plan": "steps: 6 in process 0, 7 in process 1",
    }
    assert expected[way] in said[0]["error"]


def test_one_process_agrees_with_itself(tmp_path: Path) -> None:
    from accelerate import Accelerator

    save(tmp_path, 2)
    accelerator = Accelerator(cpu=True)
    found = agreement.chosen_by_main(accelerator, lambda: checkpoint.find_checkpoint(tmp_path))
    assert found is not None
    assert found.step == 2
    agreement.require_agreement(accelerator, {"steps": 1})
    with pytest.raises(CheckpointError, match="does not exist"):
        agreement.chosen_by_main(accelerator, lambda: checkpoint.find_checkpoint(tmp_path / "none"))


@pytest.mark.parametrize("is_main", [True, False])
def test_only_the_main_process_copies_weights_to_the_host(is_main: bool) -> None:
    model = torch.nn.Linear(2, 1)
    accelerator: Any = SimpleNamespace(num_processes=2, is_main_process=is_main)
    updater = Updater(accelerator, model, torch.optim.SGD(model.parameters()), max_gradient_norm=1.0)
    assert set(updater.trained_tensors()) == ({"weight", "bias"} if is_main else set())
