"""The processor with tokenizers as Qwen's: their own template, no BOS, no thoughts, exact borders."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from exo2ego.data.pixels import CLIP_MEAN, CLIP_STD
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.model.building import build_model, build_tokenizer
from exo2ego.model.options import PartOptions
from exo2ego.model.parts import LoraOptions, ModelParts
from exo2ego.model.tokens import IGNORED
from tests.qwen_like import QwenType, qwen_tokenizer, save_qwen
from tests.tiny_models import random_pixels, tiny_options

TYPES: list[QwenType] = ["qwen2", "qwen3"]
LINES = ["What does C do? C picks up the red cup.", "user assistant system", "Options: (A) the blue box (B) both"]
QUESTION = "What does C do?\nOptions:\n(A) C pours.\n(B) C waits."
EXPECTED: dict[QwenType, str] = {
    "qwen2": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    f"<|im_start|>user\n<video>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": f"<|im_start|>user\n<video>\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[QwenType, Path]:
    root = tmp_path_factory.mktemp("qwen")
    return {model_type: save_qwen(root / model_type, model_type, LINES, tied=True) for model_type in TYPES}


def options_of(folder: Path) -> object:
    return tiny_options(language_model=PartOptions(from_pretrained=str(folder)))


@pytest.fixture(params=TYPES)
def which(request: pytest.FixtureRequest) -> QwenType:
    name: QwenType = request.param
    return name


@pytest.fixture
def processor(which: QwenType, folders: dict[QwenType, Path]) -> Exo2EgoProcessor:
    tokenizer = build_tokenizer(options_of(folders[which]))  # type: ignore[arg-type]
    return Exo2EgoProcessor(tokenizer, {"ego": 3, "ego_only": 2, "exo": 2}, num_frames=2, image_size=16, patch_size=8)


def test_a_turn_is_the_tokenizers_own_and_nothing_is_thought(which: QwenType, processor: Exo2EgoProcessor) -> None:
    """Qwen3 begins with an empty thinking block: as published, thinking switched off."""
    assert processor.chat_prompt(QUESTION) == EXPECTED[which]


def test_special_tokens_are_single_ids_and_no_bos_stands_first(processor: Exo2EgoProcessor) -> None:
    tokenizer = processor.tokenizer
    ids = processor.encode_prompt(processor.chat_prompt(QUESTION), "ego")
    assert tokenizer.bos_token_id is None
    assert ids[0] == tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert ids.count(processor.video_token_id) == 3
    assert processor.encode_prompt(processor.plain_prompt(), "exo") == [processor.video_token_id] * 2
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert processor.encode_continuation("C pours.")[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("model_type", TYPES)
@given(st.text(alphabet="Cab .,?\n(){}日é", max_size=12).map(lambda text: f"C{text}"))
def test_prompt_and_answer_apart_are_the_ids_of_the_whole(model_type: QwenType, answer: str) -> None:
    tokenizer = qwen_tokenizer(model_type, LINES)
    tokenizer.add_tokens(["<video>"], special_tokens=True)
    processor = Exo2EgoProcessor(tokenizer, {"ego": 1})
    prompt = processor.chat_prompt(QUESTION)
    whole = tokenizer(f"{prompt}{answer}<|im_end|>", add_special_tokens=False).input_ids
    assert processor.encode_prompt(prompt, "ego") + processor.encode_continuation(answer) == whole


def test_saved_and_loaded_it_renders_and_encodes_the_same(processor: Exo2EgoProcessor, tmp_path: Path) -> None:
    processor.exo_pictures = {"image_size": 32, "patch_size": 4, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor.save_pretrained(tmp_path)
    again = Exo2EgoProcessor.from_pretrained(str(tmp_path))
    prompt = processor.chat_prompt(QUESTION)
    assert again.chat_prompt(QUESTION) == prompt
    assert again.encode_prompt(prompt) == processor.encode_prompt(prompt)
    assert again.encode_continuation("C pours.") == processor.encode_continuation("C pours.")
    assert again.exo_pictures == processor.exo_pictures
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == processor.tokenizer.chat_template


def test_each_tower_gets_the_pictures_that_it_wants(processor: Exo2EgoProcessor) -> None:
    frames = numpy.random.default_rng(0).integers(0, 256, (2, 18, 32, 3), dtype=numpy.uint8)
    own = processor.pixels(frames)
    assert all(torch.equal(*pair) for pair in zip(own, processor.pixels(frames, view="exo"), strict=True))
    half = (0.5, 0.5, 0.5)
    processor.exo_pictures = {"image_size": 32, "patch_size": 4, "image_mean": half, "image_std": half}
    assert all(torch.equal(*pair) for pair in zip(own, processor.pixels(frames, view="ego"), strict=True))
    other = Exo2EgoProcessor(processor.tokenizer, image_size=32, patch_size=4, image_mean=half, image_std=half)
    pixels, mask = processor.pixels(frames, view="exo")
    assert (pixels.shape, mask.shape) == ((2, 3, 32, 32), (64,))
    assert all(torch.equal(*pair) for pair in zip((pixels, mask), other.pixels(frames), strict=True))
    settings = processor.pictures("ego")
    assert (settings.image_size, settings.image_mean, settings.image_std) == (16, CLIP_MEAN, CLIP_STD)
    processor.drop_exo_view()
    assert processor.pictures("exo") == settings
    assert list(processor.num_video_tokens) == ["ego", "ego_only"]


def test_a_model_on_it_has_untied_weights_adapters_and_stops_at_its_end_of_turn(
    which: QwenType, folders: dict[QwenType, Path]
) -> None:
    options = options_of(folders[which])
    tokenizer = build_tokenizer(options)  # type: ignore[arg-type]
    parts = ModelParts(mapper=True, lora=LoraOptions(rank=2, alpha=4, dropout=0.0))
    model = build_model(options, parts, tokenizer, seed=0).eval()  # type: ignore[arg-type]
    embedding, head = model.get_input_embeddings().weight, model.lm_head.weight
    assert embedding is not head
    assert torch.equal(embedding, head)
    assert len(embedding) == len(tokenizer) - 1 + 60, "the unused rows have room for <video>"
    assert model.config.video_token_id == len(tokenizer) - 1
    assert (model.config.eos_token_id, model.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    adapted = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name, _ in model.named_parameters() if ".lora_" in name}
    assert adapted == {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert {"CLIPEncoderLayer", f"{which.capitalize()}DecoderLayer"} <= set(model._no_split_modules)
    ids = torch.full((1, model.model.num_video_tokens("ego") + 3), model.config.video_token_id)
    ids[0, -3:] = torch.tensor([5, 6, tokenizer.eos_token_id])
    labels = ids.where(ids != model.config.video_token_id, IGNORED)
    assert model(input_ids=ids, labels=labels, pixel_values_videos=random_pixels(1)).loss.isfinite()
