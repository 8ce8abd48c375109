"""Tries a model of transformers before any question is asked: what would go wrong at every one is said at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy
import torch
from numpy.typing import NDArray

from exo2ego.errors import CheckpointError, EvaluationError

if TYPE_CHECKING:
    from eval.answerers.pretrained import PretrainedAnswerer

PROBE_TURN = "What happens?"
PROBE_SIDE = 64
"""Pixels of the grey pictures that are shown."""
PROBE_FRAMES = 2
"""So many are read by the model; all of them are prepared."""
THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>")


def try_out(answerer: PretrainedAnswerer) -> None:
    """Raises `EvaluationError` for files that lack something, `CheckpointError` for files that do not fit together."""
    _require_tokenizer(answerer)
    prompt = _prompt(answerer)
    grey = numpy.full((answerer.num_frames, PROBE_SIDE, PROBE_SIDE, 3), 128, dtype=numpy.uint8)
    if answerer.video_token_id not in answerer.inputs(answerer.encode(grey), prompt)["input_ids"]:
        raise EvaluationError(
            f"{_name(answerer)}: the processor (processor_config.json) gives the video no tokens; is it of this model?"
        )
    _require_fit(answerer, grey[:PROBE_FRAMES], prompt)


def _name(answerer: PretrainedAnswerer) -> str:
    return f"{answerer.family}:{answerer.model.name_or_path}"


def _require_tokenizer(answerer: PretrainedAnswerer) -> None:
    tokenizer, video_token = answerer.processor.tokenizer, answerer.processor.video_token
    if tokenizer.convert_tokens_to_ids(video_token) in (None, tokenizer.unk_token_id):
        raise EvaluationError(
            f"{_name(answerer)}: the tokenizer does not know {video_token}; is tokenizer.json missing or of another "
            "model?"
        )
    if tokenizer.eos_token_id is None:
        raise EvaluationError(
            f"{_name(answerer)}: the tokenizer has no end token, which ends the options' texts; expected eos_token in "
            "tokenizer_config.json"
        )


def _prompt(answerer: PretrainedAnswerer) -> str:
    """Returns the prompt of a question."""
    if not answerer.processor.chat_template:
        raise EvaluationError(
            f"{_name(answerer)}: the processor has no chat template, which makes the prompts; expected "
            "chat_template.jinja (or chat_template.json) of the release beside the weights"
        )
    prompt = answerer.render(PROBE_TURN)
    if prompt.count(answerer.processor.video_token) != 1 or PROBE_TURN not in prompt:
        raise EvaluationError(
            f"{_name(answerer)}: the chat template has no place for a video and a question; it makes {prompt!r}"
        )
    marks = THOUGHT.findall(prompt.rpartition(PROBE_TURN)[2])
    if marks and not marks[-1]:  # the last one opens
        raise EvaluationError(
            f"{_name(answerer)}: the chat template lets every answer begin within a thought, also with "
            f"enable_thinking=False; it makes {prompt!r}: letters and options would be scored as parts of it. Use a "
            "release, or a chat_template.jinja, that answers directly"
        )
    return prompt


@torch.inference_mode()
def _require_fit(answerer: PretrainedAnswerer, frames: NDArray[numpy.uint8], prompt: str) -> None:
    try:
        answerer.model(**answerer.inputs(answerer.encode(frames), prompt), use_cache=False, logits_to_keep=1)
    except torch.OutOfMemoryError:
        raise
    except (ValueError, IndexError, RuntimeError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{_name(answerer)}: the model cannot read what its processor prepares: {error}; the files of model "
            "(config.json), processor (processor_config.json, video_preprocessor_config.json) and tokenizer "
            "(tokenizer.json) must be of one release"
        ) from error
