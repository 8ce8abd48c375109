"""LLaVA-NeXT-Video and LLaVA-OneVision."""

from __future__ import annotations

from typing import ClassVar

from eval.answerers.pretrained import PretrainedAnswerer


class LlavaVideoAnswerer(PretrainedAnswerer):
    """Both differ from the common way in nothing but their classes."""

    family = "llava_video"
    model_classes: ClassVar[dict[str, str]] = {
        "llava_next_video": "LlavaNextVideoForConditionalGeneration",
        "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    }
