"""`python -m scripts.check_weights`: what would be loaded, without training; any fault is one message and a code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from exo2ego.errors import CheckpointError, ConfigError
from scripts.check_weights import main
from tests.conftest import RunPython
from tests.model.published_checkpoints import write_clip, write_mistral, write_videollama2_base
from tests.test_export import STAGE3, write_run


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration that names tiny published weights."""
    write_clip(tmp_path / "clip")
    write_mistral(tmp_path / "mistral")
    write_videollama2_base(tmp_path / "base")
    model = {
        "vision_tower": {"from_pretrained": str(tmp_path / "clip")},
        "language_model": {"from_pretrained": str(tmp_path / "mistral")},
        "videollama2": str(tmp_path / "base"),
        "connector": {"depth": 1},
        "mapper": {"width": 8, "num_blocks": 1},
        "num_frames": 4,
    }
    path = tmp_path / "stage1.yaml"
    path.write_text(yaml.safe_dump({"model": model, "epochs": 2, "data": {"table": "clips.parquet"}}))
    return path


def test_the_command_tells_every_part(config: Path, run_python: RunPython) -> None:
    done = run_python("-m", "scripts.check_weights", "--config", config)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    parts = ("language model", "vision tower", "teacher tower", "connector")
    for line, part, count in zip(lines[1:5], parts, (30, 37, 37, 35), strict=True):
        assert line.startswith(f"loaded {count} / expected {count} tensors: {part} from ")
    fingerprints = dict(line.removeprefix("weights of the ").split(": ") for line in lines[5:9])
    assert sorted(fingerprints) == sorted(parts)
    assert fingerprints["vision tower"] == fingerprints["teacher tower"]
    assert lines[-1].startswith("complete: ")


def test_the_attention_kernel_of_the_training_machine_is_not_needed(config: Path) -> None:
    assert main(["--config", str(config), "model.attention=flash_attention_2"]) == 0


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        ("model.videollama2=nowhere", ConfigError.exit_code, "model.videollama2: folder nowhere does not exist"),
        ("model.connector.depth=2", CheckpointError.exit_code, "loaded 0 / expected 61 tensors; 26 missing"),
        ("model.language_model.from_pretrained=./nowhere", ConfigError.exit_code, "folder ./nowhere does not exist"),
        ("model.vision_tower.from_pretrain=x", ConfigError.exit_code, "model.vision_tower.from_pretrain"),
        ("model=null", ConfigError.exit_code, "model"),
    ],
)
def test_a_fault_is_one_message(
    config: Path, capsys: pytest.CaptureFixture[str], damage: str, code: int, message: str
) -> None:
    assert main(["--config", str(config), damage]) == code
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith("error ")
    assert message in told


def test_a_file_without_a_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text("epochs: 2\n")
    assert main(["--config", str(tmp_path / "a.yaml")]) == ConfigError.exit_code
    assert "model" in capsys.readouterr().err


def test_a_run_is_checked_with_all_it_builds_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = write_run(tmp_path / "run", STAGE3)
    assert main(["--run", str(run_dir)]) == 0
    said = capsys.readouterr().out
    assert ": stage3 from " in said
    assert main(["--run", str(run_dir), "seed=1"]) == ConfigError.exit_code
    (run_dir / "checkpoints/step_00000001/trained.safetensors").write_bytes(b"")
    assert main(["--run", str(run_dir)]) == CheckpointError.exit_code
