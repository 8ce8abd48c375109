"""Language models as Qwen publishes them, tiny and with random weights: no BOS, `<|im_end|>`, a template of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

QwenType = Literal["qwen2", "qwen3"]

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# how Qwen splits a text before it merges bytes: line breaks by themselves, so that an answer after one stays whole
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TURNS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
)
DEFAULT_SYSTEM = (  # Qwen2.5: a system turn where the caller gives none
    "{% if messages[0].role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
)
NO_THOUGHTS = (
    "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"  # Qwen3: unless it may think
)
TEMPLATES: dict[QwenType, str] = {
    "qwen2": DEFAULT_SYSTEM + TURNS + "{% endif %}",
    "qwen3": TURNS + NO_THOUGHTS + "{% endif %}",
}


def qwen_tokenizer(model_type: QwenType, lines: Iterable[str]) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer with Qwen's special tokens, splitting and chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATES[model_type],
    )


def save_qwen(folder: Path, model_type: QwenType, lines: Iterable[str], *, tied: bool) -> Path:
    """Writes a transformers folder of a tiny Qwen2.5 or Qwen3, its embeddings padded beyond the tokenizer as theirs."""
    tokenizer = qwen_tokenizer(model_type, lines)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=len(tokenizer) + 60,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.pad_token_id,  # Qwen's configuration names one, its tokenizer does not
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder
