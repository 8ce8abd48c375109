"""Exports: what inference needs and nothing else, one folder for the Auto classes, the same answers as the run."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import exo2ego
from exo2ego.adapter import merge_adapters
from exo2ego.errors import CheckpointError, DataError
from exo2ego.inference import export_for_inference, is_exported, load
from exo2ego.model.building import build_model
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ConnectorOptions, PartOptions
from exo2ego.model.parts import LoraOptions, ModelParts
from exo2ego.storage import read_json
from exo2ego.train.assembly import recorded_options
from exo2ego.train.checkpoint import find_checkpoint, save_checkpoint
from scripts.export import main
from tests.conftest import RunPython
from tests.model.published_checkpoints import write_mistral
from tests.tiny_models import STAGE2, TOWER, random_ids, random_pixels, tiny_options, tiny_tokenizer

MERGED_TOLERANCE = 1e-5  # float32: W x + B A x against (W + B A) x
LORA = LoraOptions(rank=2, alpha=4, dropout=0.0)
STAGE3 = ModelParts(mapper=True, lora=LORA)
SEED = 5
CONFIG = {"optim": {"learning_rate": 1e-4}}

LOAD_IN_FRESH_PROCESS = """
import sys, numpy, torch
import exo2ego.inference
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
folder, out = sys.argv[1:]
assert AutoConfig.from_pretrained(folder).model_type == "exo2ego"
model = AutoModelForImageTextToText.from_pretrained(folder).eval()
processor = AutoProcessor.from_pretrained(folder)
frames = numpy.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=numpy.uint8)
inputs = processor("What does C do?", frames)
with torch.no_grad():
    logits = model(**inputs).logits
answer = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
torch.save({"inputs": dict(inputs), "logits": logits, "answer": answer}, out)
"""


def write_run(
    folder: Path, parts: ModelParts, stage: str = "stage3", attention: str | None = None, **changes: object
) -> Path:
    """A run folder as training leaves it: the trained tensors, the rest from base weights of the same seed."""
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    options = tiny_options(tokenizer=str(folder / "tokenizer"), **changes)
    model = build_model(options, parts, tiny_tokenizer(), SEED)
    generator = torch.Generator().manual_seed(1)
    trained = {
        name: parameter.detach() + 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in model.named_parameters()
        if "lora_" in name or not name.startswith(("model.language_model.", "lm_head."))
    }
    record = {
        "stage": stage,
        "step": 1,
        "view": "ego",
        "model": recorded_options(options.model_copy(update={"attention": attention})),
        "parts": parts.model_dump(mode="json"),
        "freeze_table": [],
        "parent": None,
        "provenance": {"seed": SEED, "config": CONFIG},
    }
    save_checkpoint(folder, record=record, trained=trained, optimizer_state={})
    return folder


def logits_of(model: Exo2EgoForConditionalGeneration) -> Tensor:
    with torch.no_grad():
        return model(input_ids=random_ids(model), pixel_values_videos=random_pixels(2)).logits


@pytest.mark.parametrize("parts", [STAGE2, STAGE3], ids=["stage2", "stage3"])
@pytest.mark.parametrize(
    "changes", [{}, {"fusion": "channel_concat"}, {"view_embedding": True}, {"connector": "per_branch"}]
)
def test_an_export_answers_as_the_run(tmp_path: Path, parts: ModelParts, changes: dict[str, object]) -> None:
    if "connector" in changes:
        changes = {"connector": ConnectorOptions(depth=1, sharing="per_branch")}
    run = write_run(tmp_path / "run", parts, **changes)
    trained, _ = load(run)
    folder = export_for_inference(run, tmp_path / "export")
    exported, processor = load(folder)
    torch.testing.assert_close(logits_of(exported), logits_of(trained), rtol=MERGED_TOLERANCE, atol=MERGED_TOLERANCE)
    names = " ".join(load_file(folder / "model.safetensors"))
    assert not [part for part in ("teacher_tower", "mapper_g", "lora_", "base_layer") if part in names]
    assert "mapper_f" in names
    assert not exported.config.has_teacher
    assert not exported.config.has_inverse
    assert sorted(processor.num_video_tokens) == ["ego", "ego_only"]
    assert processor.default_view == exported.config.default_view == "ego"


def test_the_kernel_of_the_training_machine_does_not_bind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: False)
    run = write_run(tmp_path / "run", STAGE3, attention="flash_attention_2")
    plain = write_run(tmp_path / "plain", STAGE3)
    trained, _ = load(run)
    assert torch.equal(logits_of(trained), logits_of(load(plain)[0]))
    folder = export_for_inference(run, tmp_path / "export")
    assert "flash" not in (folder / "config.json").read_text()
    logits_of(load(folder)[0])


def test_an_export_forgets_the_pictures_of_a_teacher_of_another_family(tmp_path: Path) -> None:
    siglip = PartOptions(architecture={**TOWER, "model_type": "siglip_vision_model"})
    run = write_run(tmp_path / "run", STAGE2, teacher_tower=siglip)
    _, processor = load(run)
    assert processor.exo_pictures["image_mean"] == (0.5, 0.5, 0.5)
    folder = export_for_inference(run, tmp_path / "export")
    saved = read_json(folder / "processor_config.json")
    assert saved["exo_pictures"] is None
    assert sorted(saved["num_video_tokens"]) == ["ego", "ego_only"]


def test_base_weights_that_are_gone_are_named_with_what_to_do(tmp_path: Path) -> None:
    write_mistral(tmp_path / "mistral")
    part = PartOptions(from_pretrained=str(tmp_path / "mistral"))
    run = write_run(tmp_path / "run", ModelParts(mapper=True), language_model=part)
    (tmp_path / "mistral").rename(tmp_path / "moved")
    message = r"(?s)step_00000001: .*language_model.from_pretrained: folder .*mistral does not exist.*a symbolic link"
    with pytest.raises(CheckpointError, match=message):
        load(run)
    (tmp_path / "mistral").symlink_to("moved")
    load(run)


def test_the_command_and_the_auto_classes_in_a_fresh_process(tmp_path: Path, run_python: RunPython) -> None:
    run = write_run(tmp_path / "run", STAGE3)
    exported = run_python("-m", "scripts.export", "--run", run, "--out", tmp_path / "export")
    assert exported.returncode == 0, exported.stderr
    fresh = run_python("-c", LOAD_IN_FRESH_PROCESS, tmp_path / "export", tmp_path / "result.pt")
    assert fresh.returncode == 0, fresh.stderr
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    model, processor = load(run)
    frames = numpy.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=numpy.uint8)
    inputs = processor("What does C do?", frames)
    for name, value in inputs.items():
        assert torch.equal(result["inputs"][name], value)
    with torch.no_grad():
        logits = model(**inputs).logits
    torch.testing.assert_close(result["logits"], logits, rtol=MERGED_TOLERANCE, atol=MERGED_TOLERANCE)
    answer = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert torch.equal(result["answer"], answer)


def test_merging_removes_every_adapter_and_keeps_the_logits(tmp_path: Path) -> None:
    model, _ = load(write_run(tmp_path, STAGE3))
    before = logits_of(model)
    names_before = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert merge_adapters(model) * 2 == len(names_before)
    assert not [name for name, _ in model.named_parameters() if "lora_" in name or "base_layer" in name]
    torch.testing.assert_close(logits_of(model), before, rtol=MERGED_TOLERANCE, atol=MERGED_TOLERANCE)
    fresh = build_model(tiny_options(), ModelParts(mapper=True), tiny_tokenizer(), SEED)
    projection = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(model.get_parameter(projection), fresh.get_parameter(projection)), "the adapters did nothing"
    assert merge_adapters(model) == 0


def test_an_export_says_what_it_was_made_from(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", STAGE3)
    made = read_json(export_for_inference(run, tmp_path / "export") / "provenance.json")
    assert made["inputs"] == {"checkpoint": find_checkpoint(run).identity}
    assert (made["seed"], made["config"]) == (SEED, CONFIG)
    assert made["code"]["version"] == exo2ego.__version__


def test_a_teacher_alone_is_not_exported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", ModelParts(teacher=True), stage="stage1")
    with pytest.raises(CheckpointError, match="stage1 trains the teacher"):
        export_for_inference(run, tmp_path / "export")
    assert not (tmp_path / "export").exists()


def test_a_full_disk_leaves_the_former_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", STAGE3)
    folder = export_for_inference(run, tmp_path / "export")
    before = sorted(path.name for path in tmp_path.rglob("*"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("exo2ego.data.processor.Exo2EgoProcessor.save_pretrained", fail)
    with pytest.raises(DataError, match="disk is full"):
        export_for_inference(run, folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    load(folder)


def remove_tensor(weights: Path) -> None:
    tensors = load_file(weights)
    del tensors["model.connector.readout.0.bias"]
    save_file(tensors, weights, metadata={"format": "pt"})


def add_tensor(weights: Path) -> None:
    save_file(load_file(weights) | {"model.extra": torch.zeros(1)}, weights, metadata={"format": "pt"})


def misshape_tensor(weights: Path) -> None:
    changed = {"model.connector.readout.0.bias": torch.zeros(7)}
    save_file(load_file(weights) | changed, weights, metadata={"format": "pt"})


def cut_file(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_tensor, "1 tensors are missing .*model.connector.readout.0.bias"),
        (add_tensor, "1 unexpected .*model.extra"),
        (misshape_tensor, "1 misshapen .*model.connector.readout.0.bias"),
        (cut_file, "cannot be loaded"),
        (Path.unlink, "cannot be loaded"),
    ],
)
def test_a_damaged_export_is_an_error(tmp_path: Path, damage: object, message: str) -> None:
    folder = export_for_inference(write_run(tmp_path / "run", ModelParts(mapper=True)), tmp_path / "export")
    damage(folder / "model.safetensors")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_what_is_no_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert not is_exported(tmp_path)
    monkeypatch.setattr(sys, "argv", ["export", "--run", str(tmp_path), "--out", str(tmp_path / "out")])
    assert main() == CheckpointError.exit_code
    assert "give a run folder" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
