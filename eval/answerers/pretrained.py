"""Answers questions with a video language model of transformers: what all families have in common.

A clip is read once: its keys and values are kept, and every question and option about it continues from there.
Letters in shapes: S tokens, V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoProcessor, PretrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.cache_utils import Cache
from transformers.video_utils import VideoMetadata

from eval.answerers.description import describe_parts
from eval.answerers.float32_head import float32_logits
from eval.answerers.greedy import greedy_text, stop_ids
from eval.answerers.identity import answerer_identity
from eval.answerers.protocol import ModelDescription, ScoreRequest
from eval.answerers.trial import try_out
from exo2ego.data.control_tokens import without_control_tokens
from exo2ego.errors import CheckpointError, EvaluationError
from exo2ego.model.options import View
from exo2ego.model.sources import located, require_whole
from exo2ego.model.weights import load_pretrained

TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""What a processor returns per token; everything else is of the video."""
TICKS_PER_SECOND = 1000
"""A processor takes the times of frames as numbers of frames: milliseconds."""
SOURCE_KEY = "SOURCE"
"""What messages call the part of `model=FAMILY:SOURCE` that says where the model is."""


@dataclass
class ReadVideo:
    """A clip, and the language model's memory of it once the first prompt has come."""

    frames: NDArray[numpy.uint8]
    metadata: VideoMetadata
    prefix: list[int] = field(default_factory=list)
    """Ids up to the end of the video, which the cache holds."""
    inputs: dict[str, Tensor] = field(default_factory=dict)
    """What the model got beside the ids of the prefix."""
    cache: Cache | None = None


class PretrainedAnswerer:
    """An `Answerer` over a model and processor of transformers; a family says which classes, and what it does apart."""

    family: ClassVar[str]
    """The word before the colon of `model=FAMILY:SOURCE`."""
    model_classes: ClassVar[dict[str, str]]
    """The class in transformers for every `model_type` of the family."""
    default_num_frames: ClassVar[int] = 16
    """As the paper shows every model (Exo2Ego Table 13)."""
    view: View = "ego_only"

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, *, num_frames: int | None, max_new_tokens: int
    ) -> None:
        self.model = model.eval()
        self.processor: Any = processor
        self.num_frames = num_frames or self.default_num_frames
        self.max_new_tokens = max_new_tokens
        try_out(self)

    @classmethod
    def load(cls, source: str, *, num_frames: int | None, max_new_tokens: int) -> PretrainedAnswerer:
        """Loads a folder or hub name, on the GPU where there is one; no code of the source is run, no pickle read.

        Raises `ConfigError` where there is none, `CheckpointError` for damaged or incomplete files, `EvaluationError`
        for a model of another family.
        """
        folder = located(source, SOURCE_KEY)
        model_type = read_model_type(str(folder))
        if model_type not in cls.model_classes:
            raise EvaluationError(
                f"{source}: its config.json has model_type `{model_type}`; {cls.family} takes "
                f"{', '.join(cls.model_classes)}"
            )
        name = cls.model_classes[model_type]
        model_class = getattr(transformers, name, None)
        if model_class is None:
            raise EvaluationError(
                f"{source}: transformers {transformers.__version__} has no {name}; install a newer one"
            )
        if not any(folder.glob("*.safetensors")):
            raise CheckpointError(f"{source}: holds no *.safetensors; weights in pickles are not read: convert them")
        require_whole(folder)
        processor = load_processor(str(folder))
        try:
            model: Any = load_pretrained(
                model_class, str(folder), part="model", dtype="auto", use_safetensors=True, trust_remote_code=False
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{source}: the model cannot be built from its config.json and generation_config.json: {error}"
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), processor, num_frames=num_frames, max_new_tokens=max_new_tokens)

    @property
    def identity(self) -> str:
        """Returns a hash of weights, configuration, tokenizer, processor and end tokens (`identity.py`)."""
        return answerer_identity(self.model, self.processor, stop_ids(self.model, self.processor.tokenizer))

    @property
    def description(self) -> ModelDescription:
        """Returns the tower and the language model of its configuration."""
        config = self.model.config
        return describe_parts(getattr(config, "vision_config", None), config.get_text_config())

    def render(self, turn: str) -> str:
        """Returns the prompt with the family's own chat template and one placeholder for the video, which is first.

        A model that can think before it answers is told not to.
        """
        content = [{"type": "video"}, {"type": "text", "text": self._plain(turn)}]
        # transformers warns of a setting that the template does not know
        settings = {"enable_thinking": False} if "enable_thinking" in str(self.processor.chat_template) else {}
        prompt: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True, **settings
        )
        return prompt

    def encode(self, frames: NDArray[numpy.uint8]) -> ReadVideo:
        """Keeps the frames [T, H, W, 3] of a clip as if they were one second apart."""
        return self.encode_timed(frames, range(len(frames)))

    def encode_timed(self, frames: NDArray[numpy.uint8], times_s: Sequence[float]) -> ReadVideo:
        """Keeps the frames [T, H, W, 3] of a clip, taken `times_s` after its start; they are read with a prompt."""
        return ReadVideo(frames, clip_metadata(frames, times_s))

    @torch.inference_mode()
    def score(self, video: ReadVideo, requests: Sequence[ScoreRequest]) -> list[list[float]]:
        """Returns the scores of every request's texts; raises `EvaluationError` when two letters begin alike."""
        return [self._score(video, request) for request in requests]

    @torch.inference_mode()
    def generate(self, video: ReadVideo, prompt: str) -> str:
        """Returns the greedy answer to the prompt."""
        inputs = self.inputs(video, prompt)
        return greedy_text(self.model, self.processor.tokenizer, inputs, max_new_tokens=self.max_new_tokens)

    @property
    def video_token_id(self) -> int:
        """Returns the id that stands for a part of the video."""
        token_id: int = self.processor.video_token_id
        return token_id

    @property
    def _end(self) -> int:
        end: int = self.processor.tokenizer.eos_token_id
        return end

    def _plain(self, text: str) -> str:
        """Returns a text of the data: only the template places a video and control tokens."""
        placeholders = (self.processor.video_token, self.processor.image_token)
        return without_control_tokens(text, self.processor.tokenizer, placeholders)

    def inputs(self, video: ReadVideo, prompt: str) -> dict[str, Tensor]:
        """Returns what the model takes, on its device; raises `EvaluationError` for frames that it cannot take."""
        tokenizer = self.processor.tokenizer
        own_ids = tokenizer(prompt, add_special_tokens=False).input_ids
        adds = tokenizer.bos_token_id not in own_ids  # else the template has put it
        try:
            # a copy: processors add to the list of times
            features = self.processor(
                text=[prompt],
                videos=[video.frames],
                video_metadata=[copy.deepcopy(video.metadata)],
                do_sample_frames=False,
                add_special_tokens=adds,
                return_tensors="pt",
            )
        except (ValueError, IndexError, RuntimeError) as error:
            raise EvaluationError(
                f"{self.family}: {len(video.frames)} frames of {video.frames.shape[2]} x {video.frames.shape[1]} "
                f"pixels cannot be prepared: {error}; set another num_frames"
            ) from error
        inputs = {
            name: torch.as_tensor(value).to(self.model.device, self.model.dtype if name.startswith("pixel") else None)
            for name, value in features.items()
            if name not in ("video_metadata", "token_type_ids")
        }
        if inputs["input_ids"][0, -1] == self._end != own_ids[-1]:  # closed by the tokenizer: nothing could follow
            inputs |= {name: inputs[name][:, :-1] for name in TEXT_INPUTS if name in inputs}
        self._require_room(inputs["input_ids"], self.max_new_tokens, "max_new_tokens")
        return inputs

    def _require_room(self, prompt: Tensor, num_answer: int, what_answer: str) -> None:
        """Raises `EvaluationError` where a prompt [1, S] and its answer are more than the model takes."""
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        num_prompt = prompt.shape[1]
        if room is None or num_prompt + num_answer <= room:
            return
        num_video = int((prompt == self.video_token_id).sum())
        parts = {
            "the video: set a smaller num_frames": num_video,
            "the question and the template: shorten the question": num_prompt - num_video,
            f"the answer: set a smaller {what_answer}" if what_answer else "the longest option: shorten it": num_answer,
        }
        largest = max(parts, key=lambda part: parts[part])
        raise EvaluationError(
            f"{self.family}: video, question and answer are {num_video} + {num_prompt - num_video} + {num_answer} = "
            f"{num_prompt + num_answer} tokens, the model takes {room}; the most go to {largest}"
        )

    def _score(self, video: ReadVideo, request: ScoreRequest) -> list[float]:
        continuations = [self._continuation(text) for text in request.texts]
        if request.kind == "letters":
            continuations = [ids[:1] for ids in continuations]
            if len({tuple(ids) for ids in continuations}) < len(continuations):
                raise EvaluationError(
                    f"the tokenizer gives two of the letters {', '.join(request.texts)} the same first token"
                )
        inputs = self.inputs(video, request.prompt)
        ids = inputs["input_ids"][0].tolist()
        self._require_room(inputs["input_ids"], max(map(len, continuations)), "")
        end = len(ids) - ids[::-1].index(self.video_token_id)
        if video.prefix != ids[:end]:
            self._read(video, inputs, end)
        asked = branch(video.cache)
        first = self._continue(video, asked, ids[end:], at=end)[-1]
        scores = []
        for continuation in continuations:
            log_probability = first[continuation[0]]
            if len(continuation) > 1:
                rows = self._continue(video, branch(asked), continuation[:-1], at=len(ids))
                log_probability = log_probability + rows[torch.arange(len(rows)), continuation[1:]].sum()
            scores.append(float(log_probability / len(continuation)))
        return scores

    def _continuation(self, text: str) -> list[int]:
        """Returns the ids of an answer with the end token (EgoPlan's rule, as for an Exo2Ego model)."""
        ids = self.processor.tokenizer(self._plain(text), add_special_tokens=False).input_ids
        return [*ids, self._end]

    def _read(self, video: ReadVideo, inputs: dict[str, Tensor], end: int) -> None:
        """Reads the prompt up to the end of the video, and keeps its keys and values."""
        prefix = {name: value[:, :end] if name in TEXT_INPUTS else value for name, value in inputs.items()}
        output = self.model(**prefix, use_cache=True, logits_to_keep=1)
        video.prefix = inputs["input_ids"][0, :end].tolist()
        video.inputs = {name: value for name, value in inputs.items() if name not in TEXT_INPUTS}
        video.cache = output.past_key_values

    def _continue(self, video: ReadVideo, cache: Cache, ids: list[int], at: int) -> Tensor:
        """Reads more text behind what `cache` holds and returns the log-probabilities [S, V] after every token."""
        new = torch.tensor([ids], device=self.model.device)
        positions = self._positions(video, at, len(ids))
        with float32_logits(self.model):
            output = self.model(input_ids=new, past_key_values=cache, use_cache=True, **positions)
        log_probabilities: Tensor = output.logits[0].float().log_softmax(1).cpu()
        return log_probabilities

    def _positions(self, video: ReadVideo, at: int, count: int) -> dict[str, Tensor]:
        """Returns the `position_ids` of `count` tokens of text that begin at place `at`; nothing: they are places."""
        return {}


def branch(cache: Cache | None) -> Cache:
    """Returns a copy, so that what is read behind it leaves the original as it was."""
    assert cache is not None
    # cutting a cache back would be cheaper, but layers with a sliding window have then forgotten what they had
    return copy.deepcopy(cache)


def clip_metadata(frames: NDArray[numpy.uint8], times_s: Sequence[float]) -> VideoMetadata:
    """Returns the times of a clip's frames in the form of transformers; a still counts as one frame per second."""
    spacing_s = (times_s[-1] - times_s[0]) / max(1, len(times_s) - 1) or 1.0
    duration_s = spacing_s * len(times_s)
    return VideoMetadata(
        total_num_frames=max(1, round(duration_s * TICKS_PER_SECOND)),  # gives the mean frame rate with the next two
        fps=TICKS_PER_SECOND,
        duration=duration_s,
        frames_indices=[round(time_s * TICKS_PER_SECOND) for time_s in times_s],
        height=frames.shape[1],
        width=frames.shape[2],
    )


def read_model_type(source: str) -> str:
    """Returns `model_type` of a folder's or hub name's config.json.

    Raises `ConfigError` where there is no model, `CheckpointError` where its config.json is none of transformers.
    """
    try:
        config, _ = PretrainedConfig.get_config_dict(located(source, SOURCE_KEY, "config"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source}: no config.json of a model of transformers: {error}") from error
    if "model_type" not in config:
        raise CheckpointError(f"{source}: no config.json with a model_type; expected a model folder of transformers")
    return str(config["model_type"])


def load_processor(source: str) -> ProcessorMixin:
    """Loads tokenizer, picture settings and chat template; raises `CheckpointError` where one is missing."""
    try:
        processor: Any = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise CheckpointError(f"{source}: the processor cannot be loaded: {error}") from error
    if getattr(processor, "video_processor", None) is None:
        raise CheckpointError(
            f"{source}: holds no processor for videos (processor_config.json or video_preprocessor_config.json); "
            "copy the processor's files of the release beside the weights"
        )
    loaded: ProcessorMixin = processor
    return loaded
