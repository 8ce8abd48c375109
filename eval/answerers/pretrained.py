"""Answers questions with a video language model of transformers: what all families have in common.

A clip is read once: its keys and values are kept, and every question and option about it continues from there.
Letters in shapes: S tokens, V vocabulary.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoProcessor, GenerationConfig, PretrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.cache_utils import Cache
from transformers.video_utils import VideoMetadata

from eval.answerers.description import describe_parts
from eval.answerers.protocol import ModelDescription, ScoreRequest
from exo2ego.errors import CheckpointError, EvaluationError
from exo2ego.model.identity import module_identity
from exo2ego.model.options import View
from exo2ego.model.sources import located, require_whole
from exo2ego.model.weights import load_pretrained
from exo2ego.storage import hash_text

TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
"""What a processor returns per token; everything else is of the video."""
TICKS_PER_SECOND = 1000
"""A processor takes the times of frames as numbers of frames: milliseconds."""
SOURCE_KEY = "SOURCE"
"""What messages call the part of `model=FAMILY:SOURCE` that says where the model is."""
PROBE_TURN = "What happens?"
PROBE_SIDE = 64
"""Pixels of the grey pictures on which a processor is tried before any question is asked."""


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
        self._try_out()

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
            raise CheckpointError(f"{source}: the model cannot be built from its config.json: {error}") from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device), processor, num_frames=num_frames, max_new_tokens=max_new_tokens)

    @property
    def identity(self) -> str:
        """Returns a hash of all weights (`exo2ego/model/identity.py`) and of what the processor does."""
        processor = self.processor
        settings = [processor.video_processor.to_dict(), processor.chat_template, processor.tokenizer.get_vocab()]
        decides = [*settings, module_identity(self.model)]
        return hash_text(json.dumps(decides, sort_keys=True, default=str))

    @property
    def description(self) -> ModelDescription:
        """Returns the tower and the language model of its configuration."""
        config = self.model.config
        return describe_parts(getattr(config, "vision_config", None), config.get_text_config())

    def render(self, turn: str) -> str:
        """Returns the prompt with the family's own chat template and one placeholder for the video, which is first."""
        for placeholder in self._placeholders():
            turn = turn.replace(placeholder, "video")
        content = [{"type": "video"}, {"type": "text", "text": turn}]
        prompt: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
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
        """Returns the greedy answer to the prompt, without the repetition penalties that a release may bring."""
        inputs = self._inputs(video, prompt)
        settings = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=self.model.generation_config.eos_token_id or self._end,
            pad_token_id=self.processor.tokenizer.pad_token_id or self._end,
        )
        output = self.model.generate(**inputs, generation_config=settings)
        own = output[0, inputs["input_ids"].shape[1] :]
        text: str = self.processor.tokenizer.decode(own, skip_special_tokens=True)
        return text

    @property
    def video_token_id(self) -> int:
        """Returns the id that stands for a part of the video."""
        token_id: int = self.processor.video_token_id
        return token_id

    @property
    def _end(self) -> int:
        end: int = self.processor.tokenizer.eos_token_id
        return end

    def _placeholders(self) -> list[str]:
        return [self.processor.video_token, self.processor.image_token]

    def _inputs(self, video: ReadVideo, prompt: str) -> dict[str, Tensor]:
        """Returns what the model takes, on its device; raises `EvaluationError` for frames that it cannot take."""
        begin = self.processor.tokenizer.bos_token
        try:
            # a copy: processors add to the list of times
            features = self.processor(
                text=[prompt],
                videos=[video.frames],
                video_metadata=[copy.deepcopy(video.metadata)],
                do_sample_frames=False,
                add_special_tokens=not (begin and prompt.startswith(begin)),
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
        self._require_room(inputs["input_ids"].shape[1] + self.max_new_tokens, video)
        return inputs

    def _require_room(self, num_tokens: int, video: ReadVideo) -> None:
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and num_tokens > room:
            raise EvaluationError(
                f"{self.family}: {len(video.frames)} frames with a question and its answer are {num_tokens} tokens; "
                f"the model takes {room}: set a smaller num_frames"
            )

    def _score(self, video: ReadVideo, request: ScoreRequest) -> list[float]:
        continuations = [self._continuation(text) for text in request.texts]
        if request.kind == "letters":
            continuations = [ids[:1] for ids in continuations]
            if len({tuple(ids) for ids in continuations}) < len(continuations):
                raise EvaluationError(
                    f"the tokenizer gives two of the letters {', '.join(request.texts)} the same first token"
                )
        inputs = self._inputs(video, request.prompt)
        ids = inputs["input_ids"][0].tolist()
        self._require_room(len(ids) + max(map(len, continuations)), video)
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
        for placeholder in self._placeholders():
            text = text.replace(placeholder, "video")
        return [*self.processor.tokenizer(text, add_special_tokens=False).input_ids, self._end]

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
        output = self.model(input_ids=new, past_key_values=cache, use_cache=True, **positions)
        log_probabilities: Tensor = output.logits[0].float().log_softmax(1).cpu()
        return log_probabilities

    def _positions(self, video: ReadVideo, at: int, count: int) -> dict[str, Tensor]:
        """Returns the `position_ids` of `count` tokens of text that begin at place `at`; nothing: they are places."""
        return {}

    def _try_out(self) -> None:
        """Raises `EvaluationError` at once for what would go wrong at every question."""
        tokenizer = self.processor.tokenizer
        if tokenizer.convert_tokens_to_ids(self.processor.video_token) in (None, tokenizer.unk_token_id):
            raise EvaluationError(
                f"{self.family}: the tokenizer does not know {self.processor.video_token}; is tokenizer.json missing?"
            )
        if self._end is None:
            raise EvaluationError(f"{self.family}: the tokenizer has no end token, which ends the options' texts")
        if not self.processor.chat_template:
            raise EvaluationError(f"{self.family}: the processor has no chat template, which makes the prompts")
        prompt = self.render(PROBE_TURN)
        if prompt.count(self.processor.video_token) != 1 or PROBE_TURN not in prompt:
            raise EvaluationError(
                f"{self.family}: the chat template has no place for a video and a question; it makes {prompt!r}"
            )
        grey = numpy.full((self.num_frames, PROBE_SIDE, PROBE_SIDE, 3), 128, dtype=numpy.uint8)
        if self.video_token_id not in self._inputs(self.encode(grey), prompt)["input_ids"]:
            raise EvaluationError(f"{self.family}: the processor gives the video no tokens; is it of this model?")


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
