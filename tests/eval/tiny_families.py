"""Tiny video language models of transformers with random weights: a folder per class, as `from_pretrained` wants it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast

from tests.eval.tiny_model import NARRATIONS

SPECIAL = ["<unk>", "<s>", "</s>", "<image>", "<video>", "<|im_start|>", "<|im_end|>", "<|vision_start|>"]
SPECIAL += ["<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<img>", "</img>", "<IMG_CONTEXT>"]
TEXT_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,  # so that scores differ visibly
}
CLIP_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}


def tiny_tokenizer(**tokens: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*NARRATIONS, "USER: Which description? ASSISTANT: (A) (B)"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        extra_special_tokens=tokens,
    )


def text_config(tokenizer: PreTrainedTokenizerFast, model_type: str = "qwen2", **changes: Any) -> dict[str, Any]:
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return {"model_type": model_type, "vocab_size": len(tokenizer), **TEXT_SIZES, **ids, **changes}


def template(video: str, image: str = "<image>") -> str:
    """Returns a chat template in the manner of the releases, which turns contents into placeholders and text."""
    return (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{% for part in message.content %}"
        "{% if part.type == 'video' %}" + video + "{% elif part.type == 'image' %}" + image + "{% else %}"
        "{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def _save(folder: Path, name: str, config: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.ndim > 1:  # of the towers too, whose own start is too small to tell two videos apart
                weight.normal_(0, 0.5 / weight.shape[-1] ** 0.5 if weight.shape[-1] > 1 else 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def qwen2_vl(folder: Path, model_type: str = "qwen2_vl", **changes: Any) -> Path:
    """Qwen2-VL, or Qwen2.5-VL by `model_type`."""
    tokenizer = tiny_tokenizer()
    is_old = model_type == "qwen2_vl"
    vision: dict[str, Any] = {"depth": 2, "num_heads": 4, "patch_size": 8, "spatial_merge_size": 2}
    vision |= {"embed_dim": 32, "hidden_size": 32} if is_old else {"hidden_size": 32, "out_hidden_size": 32}
    vision |= {"mlp_ratio": 2} if is_old else {"intermediate_size": 48, "fullatt_block_indexes": [1], "window_size": 32}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0}
    config = AutoConfig.for_model(
        model_type,
        text_config=text_config(tokenizer, f"{model_type}_text", rope_parameters=rope, **changes),
        vision_config=vision,
        **_ids(tokenizer),
    )
    image = transformers.Qwen2VLImageProcessor(patch_size=8, merge_size=2, size=_sizes(16))
    video = transformers.Qwen2VLVideoProcessor(patch_size=8, merge_size=2, size=_sizes(16))
    name = "Qwen2VL" if is_old else "Qwen2_5_VL"
    processor = getattr(transformers, f"{name}Processor")(
        image, tokenizer, video, chat_template=template("<|vision_start|><|video_pad|><|vision_end|>")
    )
    return _save(folder, f"{name}ForConditionalGeneration", config, processor)


def qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL."""
    return qwen2_vl(folder, "qwen2_5_vl")


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL."""
    tokenizer = tiny_tokenizer()
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 8}
    vision |= {"out_hidden_size": 32, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10000.0, "mrope_interleaved": True}
    config = AutoConfig.for_model(
        "qwen3_vl",
        text_config=text_config(tokenizer, "qwen3_vl_text", rope_parameters=rope),
        vision_config=vision,
        **_ids(tokenizer),
    )
    image = transformers.Qwen2VLImageProcessor(patch_size=8, merge_size=2, size=_sizes(16))
    video = transformers.Qwen3VLVideoProcessor(patch_size=8, merge_size=2, size=_sizes(32))
    processor = transformers.Qwen3VLProcessor(image, tokenizer, video, chat_template=template("<|video_pad|>"))
    return _save(folder, "Qwen3VLForConditionalGeneration", config, processor)


def video_llava(folder: Path) -> Path:
    """Video-LLaVA."""
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        "video_llava",
        text_config=text_config(tokenizer, "llama"),
        vision_config={"model_type": "clip_vision_model", **CLIP_SIZES},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_seq_length=16,
        video_seq_length=2 * 17,
    )
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = transformers.VideoLlavaProcessor(
        image_processor=transformers.VideoLlavaImageProcessor(**square),
        video_processor=transformers.VideoLlavaVideoProcessor(**square),
        tokenizer=tokenizer,
        patch_size=8,
        chat_template=template("<video>"),
    )
    return _save(folder, "VideoLlavaForConditionalGeneration", config, processor)


def llava_next_video(folder: Path) -> Path:
    """LLaVA-NeXT-Video."""
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        "llava_next_video",
        text_config=text_config(tokenizer, "llama"),
        vision_config={"model_type": "clip_vision_model", **CLIP_SIZES},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[32, 32]],
    )
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    processor = transformers.LlavaNextVideoProcessor(
        video_processor=transformers.LlavaNextVideoVideoProcessor(**square),
        image_processor=transformers.LlavaNextImageProcessor(**square, image_grid_pinpoints=[[32, 32]]),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template("<video>"),
    )
    return _save(folder, "LlavaNextVideoForConditionalGeneration", config, processor)


def llava_onevision(folder: Path) -> Path:
    """LLaVA-OneVision."""
    tokenizer = tiny_tokenizer()
    config = AutoConfig.for_model(
        "llava_onevision",
        text_config=text_config(tokenizer, "qwen2"),
        vision_config={"model_type": "siglip_vision_model", **CLIP_SIZES},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[32, 32]],
        vision_feature_layer=-1,
    )
    square = {"size": {"height": 32, "width": 32}}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(**square, image_grid_pinpoints=[[32, 32]]),
        video_processor=transformers.LlavaOnevisionVideoProcessor(**square),
        tokenizer=tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<video>"),
    )
    return _save(folder, "LlavaOnevisionForConditionalGeneration", config, processor)


def internvl(folder: Path) -> Path:
    """InternVL."""
    tokenizer = tiny_tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    config = AutoConfig.for_model(
        "internvl",
        text_config=text_config(tokenizer, "qwen2"),
        vision_config={"model_type": "internvl_vision", **CLIP_SIZES, "image_size": [32, 32], "patch_size": [8, 8]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    square = {"size": {"height": 32, "width": 32}}
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(**square),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(**square),
        image_seq_length=4,
        chat_template=template("<video>", "<IMG_CONTEXT>"),
    )
    return _save(folder, "InternVLForConditionalGeneration", config, processor)


def videollama3(folder: Path) -> Path:
    """VideoLLaMA3."""
    tokenizer = tiny_tokenizer()
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        "video_llama_3",
        text_config=text_config(tokenizer, "qwen2"),
        vision_config={"model_type": "video_llama_3_vision", **vision, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )
    image = transformers.VideoLlama3ImageProcessor(patch_size=8, merge_size=2, size=_sizes(16))
    video = transformers.VideoLlama3VideoProcessor(patch_size=8, merge_size=2, size=_sizes(16))
    processor = transformers.VideoLlama3Processor(image, tokenizer, video, chat_template=template("<|video_pad|>"))
    return _save(folder, "VideoLlama3ForConditionalGeneration", config, processor)


def _sizes(side: int) -> dict[str, int]:
    """Returns the pixels of a picture, at least and at most."""
    return {"shortest_edge": side * side, "longest_edge": 64 * 64 * 16}


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    names |= {"vision_start": "<|vision_start|>", "vision_end": "<|vision_end|>"}
    return {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


BUILDERS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "qwen2_vl": ("qwen_vl", qwen2_vl),
    "qwen2_5_vl": ("qwen_vl", qwen2_5_vl),
    "qwen3_vl": ("qwen_vl", qwen3_vl),
    "video_llava": ("video_llava", video_llava),
    "llava_next_video": ("llava_video", llava_next_video),
    "llava_onevision": ("llava_video", llava_onevision),
    "internvl": ("internvl", internvl),
    "videollama3": ("videollama3", videollama3),
}
"""Family and builder by the name of the class."""


def change_json(path: Path, **changes: Any) -> None:
    """Rewrites some values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")
