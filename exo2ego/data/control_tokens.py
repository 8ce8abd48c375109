"""Control tokens in other people's texts: a question that holds one is to be read as words, not obeyed."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

PLACEHOLDER_WORD = "video"


def without_control_tokens(text: str, tokenizer: PreTrainedTokenizerBase, placeholders: Sequence[str]) -> str:
    """Returns a text whose ids hold no control token: placeholders become the word `video`, `</s>` becomes `< /s>`.

    Repeated until none is left, since `<<video>>` holds another once the inner one is a word. Other texts stay as they
    are.
    """
    tokens = control_tokens(tokenizer)
    while found := [token for token in (*placeholders, *tokens) if token in text]:
        text = text.replace(found[0], PLACEHOLDER_WORD if found[0] in placeholders else _broken(found[0]))
    return text


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Returns what a tokenizer takes as one token wherever it stands: special tokens, and added ones in brackets.

    An added token that is neither (a word, a run of spaces) is ordinary text.
    """
    added = tokenizer.added_tokens_decoder.values()
    named = [token.content for token in added if token.special or token.content[:1] + token.content[-1:] == "<>"]
    return [token for token in named if token.strip() and token not in _broken(token)]


def _broken(token: str) -> str:
    return f"{token[0]} {token[1:]}"
