"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from eval.answerers.pretrained import PretrainedAnswerer, ReadVideo


class QwenVLAnswerer(PretrainedAnswerer):
    """Qwen3-VL's prompts name the times of the frames, Qwen2.5-VL's positions follow them."""

    family = "qwen_vl"
    model_classes: ClassVar[dict[str, str]] = {
        "qwen2_vl": "Qwen2VLForConditionalGeneration",
        "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
        "qwen3_vl": "Qwen3VLForConditionalGeneration",
        "qwen3_vl_moe": "Qwen3VLMoeForConditionalGeneration",
    }

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin, **settings: Any) -> None:
        pictures: Any = processor.video_processor
        if getattr(pictures, "cap_pixels_per_frame", True) is None:
            # unsaid in the releases: transformers is about to change what it does then to what Qwen's own code does
            pictures.cap_pixels_per_frame = True
        super().__init__(model, processor, **settings)

    def _positions(self, video: ReadVideo, at: int, count: int) -> dict[str, Tensor]:
        """Returns time, height and width positions [3, 1, S], as a pass over the whole sequence would give them.

        A model that continues from a cache would take them from the largest position so far, which is a frame's where
        a clip has more frames than a frame has rows: text would stand elsewhere than in training.
        """
        filler = self.processor.tokenizer.eos_token_id
        text = [filler] * (at + count - len(video.prefix))
        ids = torch.tensor([[*video.prefix, *text]], device=self.model.device)
        kinds = 2 * (ids == self.video_token_id).int()  # 0: text, 2: video
        settings: dict[str, Any] = {
            name: video.inputs[name] for name in ("video_grid_thw", "second_per_grid_ts") if name in video.inputs
        }
        positions, _ = self.model.model.get_rope_index(input_ids=ids, mm_token_type_ids=kinds, **settings)
        return {"position_ids": positions[:, :, at:]}
