"""The families of transformers that can be evaluated."""

from __future__ import annotations

from eval.answerers.internvl import InternVLAnswerer
from eval.answerers.llava_video import LlavaVideoAnswerer
from eval.answerers.pretrained import PretrainedAnswerer, read_model_type
from eval.answerers.qwen_vl import QwenVLAnswerer
from eval.answerers.video_llava import VideoLlavaAnswerer
from eval.answerers.videollama3 import VideoLlama3Answerer
from exo2ego.errors import EvaluationError

CLASSES: tuple[type[PretrainedAnswerer], ...] = (
    QwenVLAnswerer,
    VideoLlavaAnswerer,
    LlavaVideoAnswerer,
    InternVLAnswerer,
    VideoLlama3Answerer,
)


def by_name(family: str) -> type[PretrainedAnswerer]:
    """Returns the class of a family."""
    return next(answerer_class for answerer_class in CLASSES if answerer_class.family == family)


def of(source: str) -> type[PretrainedAnswerer]:
    """Returns the class that takes a folder's or hub name's model; raises `EvaluationError` where there is none."""
    model_type = read_model_type(source)
    for answerer_class in CLASSES:
        if model_type in answerer_class.model_classes:
            return answerer_class
    known = ", ".join(model_type for answerer_class in CLASSES for model_type in answerer_class.model_classes)
    raise EvaluationError(
        f"{source}: its config.json has model_type `{model_type}`, which is none of the video models that can be "
        f"evaluated: {known}; a model that needs code of its own is taken in the form of transformers only"
    )
