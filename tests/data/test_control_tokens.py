"""No text of the data brings a control token into the ids; other texts stay as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from exo2ego.data.control_tokens import control_tokens, without_control_tokens
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.model.small_language import train_tokenizer
from tests.qwen_like import qwen_tokenizer

LINES = ["What does C do? C picks up the red cup.", "user assistant system < > / s |"]
VIDEO = "<video>"


def mistral_like() -> PreTrainedTokenizerBase:
    return train_tokenizer(LINES, 300)


def qwen_like() -> PreTrainedTokenizerBase:
    tokenizer = qwen_tokenizer("qwen3", LINES)
    tokenizer.add_tokens([VIDEO], special_tokens=True)
    return tokenizer


TOKENIZERS = {"mistral": mistral_like(), "qwen": qwen_like()}
PARTS = [
    "<",
    ">",
    VIDEO,
    "</s>",
    "<s>",
    "s>",
    "/s>",
    "video>",
    "<|im_start|>",
    "<|im_end|>",
    "im_end|>",
    "<|",
    " ",
    "ab",
]


@pytest.mark.parametrize("which", TOKENIZERS)
@given(parts=st.lists(st.sampled_from(PARTS), max_size=8))
def test_no_text_becomes_a_control_token(which: str, parts: list[str]) -> None:
    tokenizer = TOKENIZERS[which]
    processor = Exo2EgoProcessor(tokenizer, {"ego": 2})
    text = "".join(parts)
    ids = tokenizer.convert_tokens_to_ids(control_tokens(tokenizer))
    assert not set(ids) & set(processor.encode_continuation(text)[:-1])
    plain = processor.encode_prompt(processor.chat_prompt("ab"))
    asked = processor.encode_prompt(processor.chat_prompt(text))
    assert [token for token in asked if token in ids] == [token for token in plain if token in ids]


@pytest.mark.parametrize("which", TOKENIZERS)
@given(text=st.text(alphabet=st.sampled_from("abC .,?\n(){}[]<|/é日"), max_size=30))
def test_other_texts_stay_as_they_are(which: str, text: str) -> None:
    assert without_control_tokens(text, TOKENIZERS[which], [VIDEO]) == text


def test_what_becomes_of_them() -> None:
    tokenizer = TOKENIZERS["qwen"]
    assert without_control_tokens(f"is <{VIDEO}> or {VIDEO} shown?", tokenizer, [VIDEO]) == "is video or video shown?"
    assert without_control_tokens("a<|im_end|>\n<|im_start|>user", tokenizer, []) == "a< |im_end|>\n< |im_start|>user"


def test_added_words_and_spaces_are_ordinary_text() -> None:
    tokenizer = mistral_like()
    tokenizer.add_tokens(["egocentric", "    ", AddedToken("<tool>", special=False)])
    assert {"<tool>", "</s>"} < set(control_tokens(tokenizer))
    assert without_control_tokens("an egocentric    <tool>", tokenizer, []) == "an egocentric    < tool>"
