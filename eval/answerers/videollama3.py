"""VideoLLaMA3."""

from __future__ import annotations

from typing import ClassVar

from eval.answerers.pretrained import PretrainedAnswerer


class VideoLlama3Answerer(PretrainedAnswerer):
    """Its prompts name the times of the frames, and what hardly changes between frames gets no tokens."""

    family = "videollama3"
    model_classes: ClassVar[dict[str, str]] = {"video_llama_3": "VideoLlama3ForConditionalGeneration"}
