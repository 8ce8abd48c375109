"""Published CLIP and Mistral: loaded tensor by tensor from their own layouts, and computing what transformers does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, CLIPModel

from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.model.building import build_model, build_tokenizer
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import PartOptions
from exo2ego.model.parts import ModelParts
from exo2ego.train.assembly import build_processor
from tests.model.published_checkpoints import clip_vision_names, mistral_names, write_clip, write_mistral
from tests.tiny_models import GRID_SIZE, LANGUAGE, TOWER, random_pixels, tiny_options, tiny_tokenizer

# the same modules with the same weights on the same numbers; frames and clips are one batch for both
EXACT = 0.0
# bfloat16 weights: one row of the same product may be rounded the other way when the head has more rows
HEAD_TOLERANCE = 2**-7


def with_tower(folder: Path) -> Exo2EgoForConditionalGeneration:
    options = tiny_options(vision_tower=PartOptions(from_pretrained=str(folder)))
    return build_model(options, ModelParts(mapper=True), tiny_tokenizer(), seed=0).eval()


def with_language_model(folder: Path) -> Exo2EgoForConditionalGeneration:
    options = tiny_options(language_model=PartOptions(from_pretrained=str(folder)))
    return build_model(options, ModelParts(mapper=True), build_tokenizer(options), seed=0).eval()


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
def test_every_tensor_of_a_published_clip_has_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pickled: bool
) -> None:
    """openai/clip-vit-large-patch14-336: both towers, the old `vision_model.` level, and one file of pickles."""
    published = write_clip(tmp_path, pickled=pickled)
    ours = with_tower(tmp_path).model.vision_tower.tower.state_dict()
    kept = [
        name
        for name in clip_vision_names(TOWER["num_hidden_layers"])
        if not name.startswith(("post_layernorm", f"encoder.layers.{TOWER['num_hidden_layers'] - 1}."))
    ]
    assert sorted(ours) == sorted(kept)
    for name in kept:
        assert torch.equal(ours[name], published[f"vision_model.{name}"]), name
    num_text = sum(name.startswith("text_model.") for name in published)
    said = " ".join(capsys.readouterr().out.split())
    assert f"loaded {len(kept)} / expected {len(kept)} tensors: vision tower from {tmp_path}; left out: " in said
    for count in ("16 layers.2", "2 post_layernorm", f"{num_text} text_model", "1 visual_projection", "1 logit_scale"):
        assert count in said


@torch.no_grad()
def test_the_tower_gives_clips_last_but_one_hidden_states(tmp_path: Path) -> None:
    write_clip(tmp_path)
    pixels = random_pixels(2)
    whole = CLIPModel.from_pretrained(tmp_path).eval().vision_model
    hidden = whole(pixel_values=pixels.flatten(0, 1), output_hidden_states=True).hidden_states[-2][:, 1:]
    ours = with_tower(tmp_path).model.vision_tower(pixels)
    torch.testing.assert_close(ours.flatten(0, 1), hidden, rtol=EXACT, atol=EXACT)
    assert ours.shape[2] == GRID_SIZE**2


def test_every_tensor_of_a_published_mistral_has_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mistralai/Mistral-7B-Instruct-v0.2: three shards and an index, bfloat16; the rows of new tokens are zero."""
    published = write_mistral(tmp_path)
    assert len(list(tmp_path.glob("model-0000?-of-00003.safetensors"))) == 3
    model = with_language_model(tmp_path)
    ours = {f"model.{name}": tensor for name, tensor in model.model.language_model.state_dict().items()}
    ours["lm_head.weight"] = model.lm_head.weight
    assert sorted(ours) == sorted(published)
    for name, tensor in published.items():
        assert torch.equal(ours[name][: len(tensor)], tensor), name
        assert not ours[name][len(tensor) :].any()
    count = len(mistral_names(LANGUAGE["num_hidden_layers"]))
    assert f"loaded {count} / expected {count} tensors: language model from {tmp_path}\n" in capsys.readouterr().out


@torch.no_grad()
@pytest.mark.parametrize("by_embeddings", [False, True])
def test_logits_are_mistrals_own(tmp_path: Path, by_embeddings: bool) -> None:
    write_mistral(tmp_path)
    ours = with_language_model(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
    ids = torch.randint(4, 250, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if by_embeddings:
        inputs = {"inputs_embeds": theirs.get_input_embeddings()(ids) * 1.5}
    expected = theirs(**inputs, attention_mask=mask).logits
    found = ours(**inputs, attention_mask=mask).logits[..., : expected.shape[-1]]
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=HEAD_TOLERANCE, atol=HEAD_TOLERANCE)


@torch.no_grad()
def test_logits_are_mistrals_own_in_float32(tmp_path: Path) -> None:
    write_mistral(tmp_path)
    ours = with_language_model(tmp_path).float()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.randint(4, 250, (2, 12), generator=torch.Generator().manual_seed(0))
    expected = theirs(input_ids=ids).logits
    torch.testing.assert_close(ours(input_ids=ids).logits[..., : expected.shape[-1]], expected, rtol=1e-5, atol=1e-5)


def test_the_towers_own_pixel_statistics_are_used(tmp_path: Path) -> None:
    write_clip(tmp_path)
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    processor = build_processor(with_tower(tmp_path), tiny_tokenizer(), "pad")
    assert (list(processor.image_mean), list(processor.image_std)) == (values["image_mean"], values["image_std"])


class RunsOnLoad:
    """Unpickling this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


def test_code_in_a_pickled_language_model_is_refused_and_not_run(tmp_path: Path) -> None:
    folder, proof = tmp_path / "model", tmp_path / "the code was run"
    tensors = write_mistral(folder)
    for path in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
        path.unlink()
    torch.save({**tensors, "model.norm.bias": RunsOnLoad(proof)}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=str(folder)):
        with_language_model(folder)
    assert not proof.exists()
    torch.save(tensors, folder / "pytorch_model.bin")
    with_language_model(folder)


def remove_shard(folder: Path) -> None:
    (folder / "model-00002-of-00003.safetensors").unlink()


def leave_pointer(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4943162336\n"
    (folder / "model-00002-of-00003.safetensors").write_bytes(pointer)


def cut_shard(folder: Path) -> None:
    path = folder / "model-00002-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def rename_tensor(folder: Path) -> None:
    path = folder / "model-00003-of-00003.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors["model.layers.0.odd.weight"] = tensors.pop(name)
    save_file(tensors, path, metadata={"format": "pt"})


def remove_weights(folder: Path) -> None:
    for path in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
        path.unlink()


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (remove_shard, CheckpointError, r"1 of 3 weight files are missing \['model-00002-of-00003.safetensors'\]"),
        (leave_pointer, CheckpointError, "a git-lfs pointer, not the weights: run `git lfs pull`"),
        (cut_shard, CheckpointError, "cannot be loaded"),
        (rename_tensor, CheckpointError, r"loaded 29 / expected 30 tensors .* 1 tensors are missing .* 1 unexpected"),
        (remove_weights, CheckpointError, "no weights; expected model.safetensors"),
        (remove_config, ConfigError, r"language_model.from_pretrained: .* has no config.json; expected a model folder"),
    ],
)
def test_a_damaged_language_model_is_named(
    tmp_path: Path, damage: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    write_mistral(tmp_path)
    damage(tmp_path)
    with pytest.raises(error, match=message):
        with_language_model(tmp_path)
