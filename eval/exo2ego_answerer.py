"""Answers questions with an Exo2Ego model: the prompt is read once, every option continues from its cache.

Letters in shapes: B = 1 clip, N visual tokens, D language model width, K options, S tokens of the longest option,
V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache

from eval.answerer import PromptForm
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.errors import EvaluationError
from exo2ego.inference import load
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import View

PREPROCESSING = ("num_frames", "image_size", "aspect", "image_mean", "image_std")
"""The settings that decide what the model sees of a frame."""


class Exo2EgoAnswerer:
    """An `Answerer` over a model and its processor; an encoded video is its visual tokens [1, N, D]."""

    def __init__(
        self,
        model: Exo2EgoForConditionalGeneration,
        processor: Exo2EgoProcessor,
        *,
        form: PromptForm = "chat",
        view: View | None = None,
        max_new_tokens: int = 32,
    ) -> None:
        self.model = model.eval()
        self.processor = processor
        self.form = form
        self.view = view or cast("View", processor.default_view)
        self.max_new_tokens = max_new_tokens

    @classmethod
    def load(cls, path: Path, *, form: PromptForm, view: View | None, max_new_tokens: int) -> Exo2EgoAnswerer:
        """Loads a run folder, checkpoint or exported model; `view` None is the one that its stage trained.

        Raises `CheckpointError` where there is no model, `EvaluationError` where it has no such view.
        """
        model, processor = load(path)
        if view is not None and view not in processor.num_video_tokens:
            raise EvaluationError(
                f"{path}: this model has no view `{view}`; it has {', '.join(processor.num_video_tokens)}"
            )
        return cls(model, processor, form=form, view=view, max_new_tokens=max_new_tokens)

    @property
    def identity(self) -> str:
        """Returns the SHA-256 of all weights and of the processor's settings."""
        preprocessing = [getattr(self.processor.pictures(self.view), name) for name in PREPROCESSING]
        digest = hashlib.sha256(json.dumps(preprocessing).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().flatten().contiguous().cpu().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def num_frames(self) -> int:
        """Returns the number of frames per clip."""
        return self.processor.num_frames

    def render(self, turn: str) -> str:
        """Returns the prompt with its `<video>`; in plain form the video alone, whatever the turn."""
        return self.processor.plain_prompt() if self.form == "plain" else self.processor.chat_prompt(turn)

    @torch.inference_mode()
    def encode(self, frames: NDArray[numpy.uint8]) -> Tensor:
        """Encodes the frames [T, H, W, 3] of a clip to visual tokens [1, N, D]."""
        pixels, _ = self.processor.pixels(frames, view=self.view)
        return self.model.visual_tokens(pixels.unsqueeze(0).to(self.model.device, self.model.dtype), self.view)

    @torch.inference_mode()
    def score_options(self, video: Tensor, prompt: str, options: Sequence[str]) -> list[float]:
        """Returns each option's mean token log-probability after the prompt, its end token included (EgoPlan)."""
        first, cache = self._read(video, prompt)
        targets = [torch.tensor(self.processor.encode_continuation(option)) for option in options]
        lengths = torch.tensor([len(target) for target in targets])
        padded = torch.nn.utils.rnn.pad_sequence(targets, batch_first=True)  # [K, S]; what pads is never counted
        log_probabilities = self._continue(first, cache, padded[:, :-1], lengths - 1)
        of_targets = log_probabilities.gather(2, padded.unsqueeze(2)).squeeze(2)
        is_target = torch.arange(padded.shape[1]) < lengths.unsqueeze(1)
        means: list[float] = (of_targets.where(is_target, 0).sum(1) / lengths).tolist()
        return means

    @torch.inference_mode()
    def score_letters(self, video: Tensor, prompt: str, letters: Sequence[str]) -> list[float]:
        """Returns each letter's log-probability as the first token after the prompt.

        Raises `EvaluationError` when two letters begin with the same token.
        """
        first, _ = self._read(video, prompt)
        ids = [self.processor.encode_continuation(letter)[0] for letter in letters]
        if len(set(ids)) < len(ids):
            raise EvaluationError(f"the tokenizer gives two of the letters {', '.join(letters)} the same first token")
        return [float(score) for score in first[ids]]

    @torch.inference_mode()
    def generate(self, video: Tensor, prompt: str) -> str:
        """Returns the greedy answer to the prompt."""
        ids = self._ids(prompt)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            visual_tokens=video,
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
        )
        text: str = self.processor.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        return text

    def _ids(self, prompt: str) -> Tensor:
        return torch.tensor([self.processor.encode_prompt(prompt, self.view)], device=self.model.device)

    def _read(self, video: Tensor, prompt: str) -> tuple[Tensor, Cache]:
        """Returns the first answer token's log-probabilities [V] on the CPU, and the cache of video and prompt."""
        ids = self._ids(prompt)
        output = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            visual_tokens=video,
            use_cache=True,
            logits_to_keep=1,
        )
        assert output.past_key_values is not None
        return output.logits[0, -1].float().log_softmax(0).cpu(), output.past_key_values

    def _continue(self, first: Tensor, cache: Cache, inputs: Tensor, lengths: Tensor) -> Tensor:
        """Returns log-probabilities [K, S, V] of every next token, after the prompt and after each of `inputs`.

        `inputs` [K, S - 1] are padded at the end; `lengths` [K] tell how many of each are real.
        """
        num_options, num_inputs = inputs.shape
        starts = first.expand(num_options, 1, -1)
        if num_inputs == 0:
            return starts
        prompt_mask = torch.ones(num_options, cache.get_seq_length(), dtype=torch.bool)
        input_mask = torch.arange(num_inputs) < lengths.unsqueeze(1)
        cache.batch_repeat_interleave(num_options)
        output = self.model(
            input_ids=inputs.to(self.model.device),
            attention_mask=torch.cat((prompt_mask, input_mask), dim=1).to(self.model.device),
            past_key_values=cache,
            use_cache=True,
        )
        assert output.logits is not None
        return torch.cat((starts, output.logits.float().log_softmax(2).cpu()), dim=1)
