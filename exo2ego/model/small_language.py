"""A small language model and tokenizer made from a corpus: stands in for Mistral where no weights can be had."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from exo2ego.model.options import SmallLanguageOptions
from exo2ego.model.tokens import VIDEO_TOKEN

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", VIDEO_TOKEN)


def train_tokenizer(lines: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer of the corpus with Mistral's special tokens and `<video>`."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",  # as in Mistral, which has no padding token of its own
        extra_special_tokens=[VIDEO_TOKEN],
    )


def small_mistral(options: SmallLanguageOptions, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Returns a Mistral with random weights of the given sizes, without sliding window as Instruct-v0.2."""
    config = AutoConfig.for_model(
        "mistral",
        vocab_size=len(tokenizer),
        hidden_size=options.hidden_size,
        intermediate_size=options.hidden_size * 3,
        num_hidden_layers=options.num_layers,
        num_attention_heads=options.num_heads,
        num_key_value_heads=options.num_heads,
        head_dim=options.hidden_size // options.num_heads,
        max_position_embeddings=4096,
        sliding_window=None,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model
