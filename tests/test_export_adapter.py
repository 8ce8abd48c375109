"""LoRA exported apart: the same answers as merged, through peft or our own loader, and on no other base model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from exo2ego.adapter import BASE, FOLDER, WEIGHTS, load_adapter
from exo2ego.errors import CheckpointError
from exo2ego.inference import export_for_inference, load
from scripts.export import main
from tests.conftest import RunPython
from tests.test_export import MERGED_TOLERANCE, STAGE3, logits_of, write_run
from tests.tiny_models import LANGUAGE, STAGE2, tiny_model

NUM_ADAPTED = 7 * LANGUAGE["num_hidden_layers"]

LOAD_WITH_PEFT = """
import sys, torch
import exo2ego.inference
from peft import PeftModel
from transformers import AutoModelForImageTextToText
folder, inputs, out = sys.argv[1:]
inputs = torch.load(inputs, weights_only=True)
model = AutoModelForImageTextToText.from_pretrained(folder).eval()
with torch.no_grad():
    plain = model(**inputs).logits
    adapted = PeftModel.from_pretrained(model, folder + "/adapter")
    torch.save({"plain": plain, "adapted": adapted(**inputs).logits}, out)
    answer = adapted.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 2, answer.shape
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", STAGE3)


@pytest.fixture
def exported(run_dir: Path, tmp_path: Path) -> Path:
    return export_for_inference(run_dir, tmp_path / "export", keep_adapter=True)


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=MERGED_TOLERANCE, atol=MERGED_TOLERANCE)


def test_our_loader_gives_the_runs_answers_bit_for_bit(run_dir: Path, exported: Path) -> None:
    trained, _ = load(run_dir)
    adapted, processor = load(exported)
    assert torch.equal(logits_of(adapted), logits_of(trained)), "the same operations on the same numbers"
    assert processor.default_view == "ego"
    names = load_file(exported / "model.safetensors").keys()
    assert not [name for name in names if "lora_" in name or "base_layer" in name or "teacher" in name]
    tensors = load_file(exported / FOLDER / WEIGHTS)
    assert len(tensors) == 2 * NUM_ADAPTED
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in tensors)


def test_merged_and_apart_answer_alike(run_dir: Path, exported: Path, tmp_path: Path) -> None:
    merged, _ = load(export_for_inference(run_dir, tmp_path / "merged"))
    assert close(logits_of(load(exported)[0]), logits_of(merged))


def test_peft_loads_it_in_a_fresh_process(run_dir: Path, exported: Path, tmp_path: Path, run_python: RunPython) -> None:
    model, processor = load(run_dir)
    frames = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8).numpy()
    inputs = dict(processor("What does C do?", frames))
    torch.save(inputs, tmp_path / "inputs.pt")
    done = run_python("-c", LOAD_WITH_PEFT, exported, tmp_path / "inputs.pt", tmp_path / "out.pt")
    assert done.returncode == 0, done.stderr
    result = torch.load(tmp_path / "out.pt", weights_only=True)
    with torch.no_grad():
        assert close(result["adapted"], model(**inputs).logits)
    assert not close(result["plain"], result["adapted"]), "the adapter did nothing"


def test_an_adapter_on_another_base_model_is_refused(exported: Path) -> None:
    other = tiny_model(seed=99)
    with pytest.raises(CheckpointError, match=r"belongs to another base model: .* load the model of the folder above"):
        load_adapter(other, exported / FOLDER)
    assert not [name for name, _ in other.named_parameters() if "lora_" in name]


def test_one_changed_number_in_the_base_is_enough(exported: Path) -> None:
    weights = exported / "model.safetensors"
    tensors = load_file(weights)
    tensors["lm_head.weight"][0, 0] += 1e-3
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="another base model"):
        load(exported)


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    tensors.popitem()
    save_file(tensors, folder / WEIGHTS)


def change_rank(folder: Path) -> None:
    record = json.loads((folder / BASE).read_text())
    record["lora"]["rank"] = 3
    (folder / BASE).write_text(json.dumps(record))


def cut_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10])


def forget_base(folder: Path) -> None:
    (folder / BASE).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_tensor, f"{2 * NUM_ADAPTED - 1} of {2 * NUM_ADAPTED} found"),
        (change_rank, "do not fit its own configuration"),
        (cut_weights, "is damaged"),
        (forget_base, "is no adapter that scripts.export wrote"),
    ],
)
def test_a_damaged_adapter_is_an_error(exported: Path, damage: object, message: str) -> None:
    damage(exported / FOLDER)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        load(exported)


def test_the_command_and_a_stage_without_adapter(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["export", "--run", str(run_dir), "--out", str(out), "--adapter"])
    assert main() == 0
    assert (out / FOLDER / "adapter_config.json").is_file()
    plain = write_run(tmp_path / "stage2", STAGE2, stage="stage2")
    monkeypatch.setattr(sys, "argv", ["export", "--run", str(plain), "--out", str(tmp_path / "none"), "--adapter"])
    assert main() == CheckpointError.exit_code
    assert "stage2 trained no adapter" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "none").exists()
