"""Answers questions with an Exo2Ego model: a clip is read once, all its questions and options continue from its cache.

Letters in shapes: N visual tokens, D language model width, S tokens of questions and options, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import cast

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from eval.answerers.description import describe_parts
from eval.answerers.float32_head import float32_logits
from eval.answerers.greedy import greedy_text, stop_ids
from eval.answerers.identity import answerer_identity
from eval.answerers.prefix_cache import PrefixCache
from eval.answerers.protocol import ModelDescription, PromptForm, ScoreRequest
from eval.answerers.token_tree import Segment, TreeInputs, tree_inputs
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.errors import EvaluationError
from exo2ego.inference import load
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import View
from exo2ego.records import AnswerMode

LARGEST_TREE_TOKENS = 1024
"""Tokens of questions and options that are read together: bounds mask and logits. All of them are compared with all
others, which see each other or not: a larger tree wastes more, a much smaller one leaves a GPU idle."""


@dataclass
class ReadVideo:
    """An encoded clip, and the language model's memory of it once the first prompt has come."""

    tokens: Tensor
    """[1, N, D]"""
    prefix: list[int] = field(default_factory=list)
    """Ids of the prompt up to the end of the video, which the cache holds."""
    cache: PrefixCache | None = None

    def forget_questions(self) -> None:
        """Cuts the cache back to the prefix."""
        assert self.cache is not None
        too_much = self.cache.get_seq_length() - len(self.prefix)
        if too_much:
            self.cache.crop(-too_much)


@dataclass(frozen=True)
class Plan:
    """What is read for one request: the prompt up to the end of the video, the rest of it, and each continuation."""

    prefix: list[int]
    question: list[int]
    continuations: list[list[int]]

    @property
    def num_tokens(self) -> int:
        """Tokens that are read."""
        return len(self.question) + sum(len(ids) - 1 for ids in self.continuations)


class Exo2EgoAnswerer:
    """An `Answerer` over a model and its processor."""

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
        """Returns a hash of weights, configuration, adapters, tokenizer and processor (`identity.py`)."""
        return answerer_identity(self.model, self.processor, stop_ids(self.model, self.processor.tokenizer))

    @property
    def modes(self) -> tuple[AnswerMode, ...]:
        """Returns all modes; in the plain form only that which puts an option right behind the video."""
        return ("likelihood",) if self.form == "plain" else ("likelihood", "letter", "generate")

    @property
    def description(self) -> ModelDescription:
        """Returns the tower that it looks with and the language model."""
        config = self.model.config
        tower = (config.teacher_config if self.view == "exo" else None) or config.vision_config
        return describe_parts(tower, config.text_config.get_text_config())

    @property
    def num_frames(self) -> int:
        """Returns the number of frames per clip."""
        return self.processor.num_frames

    def render(self, turn: str) -> str:
        """Returns the prompt with its `<video>`; in plain form the video alone, whatever the turn."""
        return self.processor.plain_prompt() if self.form == "plain" else self.processor.chat_prompt(turn)

    @torch.inference_mode()
    def encode(self, frames: NDArray[numpy.uint8]) -> ReadVideo:
        """Encodes the frames [T, H, W, 3] of a clip to visual tokens; they are read when the first prompt comes."""
        return self.encode_prepared(self.prepare(frames))

    def prepare(self, frames: NDArray[numpy.uint8]) -> Tensor:
        """Returns the pixels [T, 3, S, S] of the frames [T, H, W, 3]; threads may call it."""
        return self.processor.pixels(frames, view=self.view)[0]

    @torch.inference_mode()
    def encode_prepared(self, prepared: Tensor) -> ReadVideo:
        """Encodes pixels [T, 3, S, S] to visual tokens."""
        pixels = prepared.unsqueeze(0).to(self.model.device, self.model.dtype)
        return ReadVideo(self.model.visual_tokens(pixels, self.view))

    @torch.inference_mode()
    def score(self, video: ReadVideo, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Returns the scores of every request's texts after one pass over the video and few over the texts.

        Raises `EvaluationError` when two letters begin with the same token, texts are longer than a sliding window, or
        the prompts differ before the end of the video, which is read once for all of them.
        """
        plans = [self._plan(video, request) for request in requests]
        if any(plan.prefix != video.prefix for plan in plans):
            raise EvaluationError("prompts that differ before the end of the video cannot be scored in one call")
        scores: list[list[float]] = []
        for chunk in _chunks(plans):
            scores += self._score_chunk(video, chunk)
        return scores

    @torch.inference_mode()
    def generate(self, video: ReadVideo, prompt: str) -> str:
        """Returns the greedy answer to the prompt."""
        ids, _ = self._split(video, prompt)
        assert video.cache is not None
        inputs = {
            "input_ids": torch.tensor([ids], device=self.model.device),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long, device=self.model.device),
            "past_key_values": video.cache,
        }
        text = greedy_text(
            self.model,
            self.processor.tokenizer,
            inputs,
            max_new_tokens=self.max_new_tokens,
            suppressed=[self.processor.video_token_id],
        )
        video.forget_questions()
        return text

    def _split(self, video: ReadVideo, prompt: str) -> tuple[list[int], list[int]]:
        """Returns the ids of a prompt, and those after the prefix that ends with the video; reads the prefix once."""
        ids = self.processor.encode_prompt(prompt, self.view)
        end = len(ids) - ids[::-1].index(self.processor.video_token_id)
        if end == len(ids):
            end -= 1  # a prompt that is nothing but the video: generation needs a last token to continue from
        if video.prefix != ids[:end]:
            self._read(video, ids[:end])
        return ids, ids[end:]

    def _read(self, video: ReadVideo, prefix: list[int]) -> None:
        """Reads what stands before the questions and the video itself, and keeps its keys and values."""
        ids = torch.tensor([prefix], device=self.model.device)
        shown = int((ids == self.processor.video_token_id).sum())
        cache = PrefixCache(self.model.config.text_config.get_text_config().num_hidden_layers)
        with cache.filling():
            self.model(input_ids=ids, visual_tokens=video.tokens[:, :shown], past_key_values=cache, logits_to_keep=1)
        video.prefix, video.cache = prefix, cache

    def _plan(self, video: ReadVideo, request: ScoreRequest) -> Plan:
        ids, question = self._split(video, request.prompt)
        continuations = [self.processor.encode_continuation(text) for text in request.texts]
        if request.kind == "letters":
            continuations = [ids[:1] for ids in continuations]
            if len({tuple(ids) for ids in continuations}) < len(continuations):
                raise EvaluationError(
                    f"the tokenizer gives two of the letters {', '.join(request.texts)} the same first token"
                )
        return Plan(ids[: len(ids) - len(question)], question, continuations)

    def _score_chunk(self, video: ReadVideo, plans: Sequence[Plan]) -> list[list[float]]:
        columns = zip(*(plan.question[:-1] for plan in plans), strict=False)
        shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
        segments = [Segment(shared)]  # the sentence before every question, read once
        for plan in plans:
            parent = len(segments)
            segments.append(Segment(plan.question[len(shared) :], parent=0))
            segments += [Segment(ids[:-1], parent) for ids in plan.continuations]
        inputs = tree_inputs(segments, len(video.prefix), self.model.dtype)
        self._require_in_sight(int(inputs.position_ids.max()) + 1)
        places: list[int] = []  # every one predicts the token that stands beside it in `tokens`
        tokens: list[int] = []
        number = 1
        for plan in plans:
            last_of_question = inputs.starts[number] + len(segments[number].ids) - 1
            for own, ids in enumerate(plan.continuations, number + 1):
                places += [last_of_question, *range(inputs.starts[own], inputs.starts[own] + len(ids) - 1)]
                tokens += ids
            number += 1 + len(plan.continuations)
        lengths = [len(ids) for plan in plans for ids in plan.continuations]
        means = iter([float(part.mean()) for part in self._read_tree(video, inputs, places, tokens).split(lengths)])
        return [[next(means) for _ in plan.continuations] for plan in plans]

    def _require_in_sight(self, num_tokens: int) -> None:
        window = getattr(self.model.config.text_config.get_text_config(), "sliding_window", None)
        if window is not None and num_tokens > window:
            raise EvaluationError(
                f"clip, question and option take {num_tokens} tokens, but the language model looks back {window} "
                "(sliding_window); options are scored only where it sees the whole clip, ask with modes=[generate]"
            )

    def _read_tree(self, video: ReadVideo, inputs: TreeInputs, places: list[int], tokens: list[int]) -> Tensor:
        """Returns the log-probabilities [M] of M tokens, each predicted at its place in the tree."""
        device = self.model.device
        ids = inputs.input_ids.to(device)
        embeddings = self.model.get_input_embeddings()(ids)
        is_video = ids == self.processor.video_token_id
        if is_video.any():  # a prompt that is nothing but the video: its last visual token opens every question
            last = video.tokens[:, -1:].expand_as(embeddings).to(embeddings.dtype)
            embeddings = torch.where(is_video.unsqueeze(-1), last, embeddings)
        kept, rows = torch.tensor(places, device=device).unique(return_inverse=True)
        with float32_logits(self.model):
            output = self.model(
                inputs_embeds=embeddings,
                position_ids=inputs.position_ids.to(device),
                attention_mask=inputs.attention_mask.to(device),
                past_key_values=video.cache,
                logits_to_keep=kept,
            )
        video.forget_questions()
        assert output.logits is not None
        logits = output.logits[0].float()
        return (logits[rows, torch.tensor(tokens, device=device)] - logits.logsumexp(1)[rows]).cpu()


def _chunks(plans: Sequence[Plan]) -> Iterator[list[Plan]]:
    """Cuts the plans into runs of at most `LARGEST_TREE_TOKENS`, a longer plan alone."""
    chunk: list[Plan] = []
    for plan in plans:
        if chunk and sum(other.num_tokens for other in chunk) + plan.num_tokens > LARGEST_TREE_TOKENS:
            yield chunk
            chunk = []
        chunk.append(plan)
    if chunk:
        yield chunk
