"""InternVL in the form of transformers (the releases whose names end in `-hf`)."""

from __future__ import annotations

from typing import ClassVar

from eval.answerers.pretrained import PretrainedAnswerer


class InternVLAnswerer(PretrainedAnswerer):
    """Takes a video as numbered pictures."""

    family = "internvl"
    model_classes: ClassVar[dict[str, str]] = {"internvl": "InternVLForConditionalGeneration"}

    @property
    def video_token_id(self) -> int:
        """Returns the id that stands for a part of a picture."""
        token_id: int = self.processor.image_token_id
        return token_id
