"""Video-LLaVA."""

from __future__ import annotations

from typing import ClassVar

from eval.answerers.pretrained import PretrainedAnswerer


class VideoLlavaAnswerer(PretrainedAnswerer):
    """The release of 7 B was trained with 8 frames, and 16 of 257 tokens each are more than the 4,096 that it takes."""

    family = "video_llava"
    default_num_frames = 8
    model_classes: ClassVar[dict[str, str]] = {"video_llava": "VideoLlavaForConditionalGeneration"}
