"""From options to a model: vocabulary, tokenizer, adapters, seeds, and options that name nothing real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from exo2ego.errors import CheckpointError, ConfigError
from exo2ego.model.building import LORA_TARGETS, build_model, build_tokenizer
from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import MapperOptions, PartOptions
from exo2ego.model.parts import LoraOptions, ModelParts
from exo2ego.model.small_language import train_tokenizer
from tests.tiny_models import (
    LANGUAGE,
    STAGE2,
    TOWER,
    num_parameters_in_millions,
    on_meta_device,
    random_ids,
    random_pixels,
    tiny_model,
    tiny_options,
    tiny_tokenizer,
)

TOLERANCE = 1e-6  # float32; the same weights at other addresses may go through other vector instructions
LORA = LoraOptions(rank=2, alpha=4, dropout=0.0)
NUM_LAYERS = LANGUAGE["num_hidden_layers"]


def language_model(**changes: object) -> PreTrainedModel:
    torch.manual_seed(3)
    values = LANGUAGE | changes
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))


def with_language_model(folder: Path) -> Exo2EgoForConditionalGeneration:
    options = tiny_options(language_model=PartOptions(from_pretrained=str(folder)))
    return build_model(options, ModelParts(mapper=True), tiny_tokenizer(), seed=0)


def test_published_language_model_keeps_its_rows_and_new_ones_are_zero(tmp_path: Path) -> None:
    old_size = len(tiny_tokenizer()) - 1
    published = language_model(vocab_size=old_size)
    published.save_pretrained(tmp_path)
    model = with_language_model(tmp_path)
    for ours, theirs in (
        (model.get_input_embeddings().weight, published.get_input_embeddings().weight),
        (model.lm_head.weight, published.lm_head.weight),
    ):
        assert ours.shape[0] % 64 == 0
        assert torch.equal(ours[:old_size], theirs)
        assert not ours[old_size:].any()
    for ours, theirs in zip(
        model.model.language_model.layers.parameters(), published.model.layers.parameters(), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert model.config.text_config.vocab_size == model.lm_head.out_features


def test_a_language_model_in_bfloat16_beside_a_tower_in_float32(tmp_path: Path) -> None:
    language_model().bfloat16().save_pretrained(tmp_path)
    model = with_language_model(tmp_path)
    assert next(model.model.language_model.parameters()).dtype == torch.bfloat16
    assert next(model.model.vision_tower.parameters()).dtype == torch.float32
    with torch.no_grad():
        output = model(input_ids=random_ids(model), pixel_values_videos=random_pixels(2))
        assert output.logits.dtype == torch.bfloat16
        model.bfloat16()(input_ids=random_ids(model), pixel_values_videos=random_pixels(2))


def test_a_language_model_with_a_tied_head_gets_one_name_per_tensor(tmp_path: Path) -> None:
    published = language_model(model_type="qwen2", tie_word_embeddings=True)
    published.save_pretrained(tmp_path / "qwen")
    model = with_language_model(tmp_path / "qwen")
    assert torch.equal(model.lm_head.weight, published.get_input_embeddings().weight)
    assert "lm_head.weight" in dict(model.named_parameters())
    model.save_pretrained(tmp_path / "saved")
    again = Exo2EgoForConditionalGeneration.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_a_language_model_with_a_missing_tensor_is_an_error(tmp_path: Path) -> None:
    smaller = language_model(num_hidden_layers=NUM_LAYERS - 1)
    smaller.config.num_hidden_layers = NUM_LAYERS
    smaller.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="9 tensors are missing"):
        with_language_model(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("attention", [None, "sdpa", "eager"])
def test_no_token_sees_a_later_one(attention: str | None) -> None:
    """transformers makes no causal mask for a model without a named attention kernel."""
    model = tiny_model(attention=attention)
    assert model.model.language_model.config._attn_implementation == (attention or "sdpa")
    ids = random_ids(model)
    changed = ids.clone()
    changed[:, -1] = 5
    first, second = (model(input_ids=each, pixel_values_videos=random_pixels(2)).logits for each in (ids, changed))
    assert torch.equal(first[:, :-1], second[:, :-1])
    assert not torch.equal(first[:, -1], second[:, -1])


def test_save_and_load_keep_every_tensor_and_logit(tmp_path: Path) -> None:
    model = tiny_model(STAGE2)
    model.save_pretrained(tmp_path)
    again = Exo2EgoForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    inputs = {"input_ids": random_ids(model), "pixel_values_videos": random_pixels(2)}
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model(**inputs).logits, rtol=TOLERANCE, atol=TOLERANCE)
    assert again.generation_config.suppress_tokens == [model.config.video_token_id]


def test_configuration_round_trips() -> None:
    teacher = PartOptions(architecture={**TOWER, "intermediate_size": 16})
    config = tiny_model(STAGE2, teacher_tower=teacher, mapper=MapperOptions(kind="fc")).config
    again = Exo2EgoConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert again.teacher_config.intermediate_size == 16
    assert again.vision_config.intermediate_size == TOWER["intermediate_size"]


def test_weights_follow_the_seed() -> None:
    first, same, other = (tiny_model(STAGE2, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    drawn = [name for name in first if name.endswith(("conv.weight", "proj.weight", "layers.0.weight"))]
    assert drawn
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_adapters_are_seven_per_layer_of_the_language_model() -> None:
    model = tiny_model(ModelParts(teacher=True, mapper=True, lora=LORA))
    adapted = [name.removesuffix(".lora_A.default.weight") for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(adapted) == 7 * NUM_LAYERS
    assert all(name.startswith("model.language_model.layers.") for name in adapted)
    towers = [name for name, _ in tiny_model(STAGE2).model.vision_tower.named_modules() if name.endswith("q_proj")]
    assert towers, "CLIP has layers of the same names"
    assert not any(re.fullmatch(LORA_TARGETS, f"model.vision_tower.{name}") for name in towers)


@torch.no_grad()
def test_adapters_start_as_nothing() -> None:
    plain, adapted = tiny_model(), tiny_model(ModelParts(mapper=True, lora=LORA))
    inputs = {"input_ids": random_ids(plain), "pixel_values_videos": random_pixels(2)}
    assert torch.equal(adapted(**inputs).logits, plain(**inputs).logits)


def test_only_the_parts_of_a_stage_exist() -> None:
    parts = ("teacher_tower", "mapper_f", "mapper_g")
    for wanted in (ModelParts(), ModelParts(teacher=True), ModelParts(mapper=True), STAGE2):
        inner = tiny_model(wanted).model
        present = [getattr(inner, part) is not None for part in parts]
        assert present == [wanted.teacher, wanted.mapper, wanted.inverse]
    inner = tiny_model(STAGE2, mapper=MapperOptions(kind="none")).model
    assert [getattr(inner, part) is not None for part in parts] == [True, False, False]


def test_training_parts_can_be_dropped() -> None:
    model = tiny_model(STAGE2)
    inputs = {"input_ids": random_ids(model), "pixel_values_videos": random_pixels(2)}
    with torch.no_grad():
        before = model(**inputs).logits
        model.model.drop_training_parts()
        assert torch.equal(model(**inputs).logits, before)
    names = {name.split(".")[1] for name in model.state_dict()} - {"weight"}
    assert names == {"vision_tower", "connector", "mapper_f", "language_model"}
    assert not model.config.has_teacher
    assert not model.config.has_inverse


def test_tokenizer_gets_placeholder_and_padding(tmp_path: Path) -> None:
    plain = train_tokenizer(["C picks up the cup."], 270)
    vocabulary = plain.backend_tokenizer.to_str().replace("<video>", "<other>")
    (tmp_path / "tokenizer.json").write_text(vocabulary)
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}'
    )
    tokenizer = build_tokenizer(tiny_options(tokenizer=str(tmp_path)))
    assert tokenizer.convert_tokens_to_ids("<video>") == len(plain)
    assert tokenizer("a<video>b").input_ids.count(len(plain)) == 1
    assert tokenizer.pad_token == "<unk>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vision_tower": PartOptions(architecture={"hidden_size": 8})}, "model_type `` is unknown"),
        (
            {"vision_tower": PartOptions(architecture={"model_type": "clip_vison_model"})},
            "did you mean clip_vision_model",
        ),
        ({"vision_tower": PartOptions(architecture={**TOWER, "hiden_size": 8})}, "clip_vision_model has no hiden_size"),
        ({"vision_tower": PartOptions(from_pretrained="./nowhere")}, "folder ./nowhere does not exist"),
        ({"language_model": PartOptions(from_pretrained="/a/b/c")}, "folder /a/b/c does not exist"),
    ],
)
def test_parts_that_do_not_exist_are_refused(changes: dict[str, PartOptions], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_model(**changes)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("./nowhere", "model.videollama2: folder ./nowhere does not exist"),
        ("DAMO-NLP-SG/VideoLLaMA2-7B-16F-Base", r"HF_HUB_OFFLINE is set; .*and set model.videollama2=weights/"),
        ("{folder}", r"expected mm_projector.bin of a VideoLLaMA2 release"),
    ],
)
def test_a_missing_connector_is_said_before_the_language_model_is_built(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("exo2ego.model.building._language_model", lambda *_: pytest.fail("built too early"))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        tiny_model(videollama2=source.format(folder=tmp_path))


def test_a_tokenizer_must_be_given_and_be_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the folder of a tokenizer"):
        build_tokenizer(tiny_options())
    with pytest.raises(ConfigError, match="cannot be read"):
        build_tokenizer(tiny_options(tokenizer=str(tmp_path)))


@pytest.mark.parametrize(
    ("width", "parts", "billions"),
    [
        (64, ModelParts(mapper=True), 8.04),
        (256, ModelParts(mapper=True), 8.23),
        (64, STAGE2, 8.35),
        (256, STAGE2, 8.73),
    ],
)
def test_size_of_the_papers_model(width: int, parts: ModelParts, billions: float) -> None:
    """CLIP-L/14-336 without its last layer, VideoLLaMA2's STC, Mistral-7B, F (and teacher and G)."""
    clip = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    config = Exo2EgoConfig(
        vision_config={**clip, "image_size": 336, "patch_size": 14},
        text_config={"vocab_size": 32064},
        mapper={"width": width},
        has_teacher=parts.teacher,
        has_inverse=parts.inverse,
    )
    model = on_meta_device(lambda: Exo2EgoForConditionalGeneration(config))
    assert isinstance(model, Exo2EgoForConditionalGeneration)
    assert round(num_parameters_in_millions(model) / 1000, 2) == billions
    assert (model.model.num_video_tokens("ego_only"), model.model.num_video_tokens("ego")) == (1521, 3042)
