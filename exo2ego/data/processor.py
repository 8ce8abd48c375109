"""The processor: frames to pixels, text to token ids, one placeholder per visual token (transformers conventions)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from exo2ego.data.control_tokens import without_control_tokens
from exo2ego.data.pixels import CLIP_MEAN, CLIP_STD, AspectMode, PictureSettings, preprocess
from exo2ego.errors import DataError
from exo2ego.model.tokens import VIDEO_TOKEN


class Exo2EgoProcessor(ProcessorMixin):
    """Prepares one clip and its text exactly as in training; saved beside every exported model.

    `exo_pictures` holds the settings in which a teacher of another architecture differs, None where it does not.
    """

    attributes: ClassVar[list[str]] = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        num_video_tokens: dict[str, int] | None = None,
        num_frames: int = 16,
        image_size: int = 336,
        patch_size: int = 14,
        aspect: AspectMode = "pad",
        image_mean: tuple[float, ...] = CLIP_MEAN,
        image_std: tuple[float, ...] = CLIP_STD,
        default_view: str = "ego",
        exo_pictures: dict[str, Any] | None = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.num_video_tokens = num_video_tokens or {}
        self.num_frames = num_frames
        self.image_size = image_size
        self.patch_size = patch_size
        self.aspect = aspect
        self.image_mean = tuple(image_mean)
        self.image_std = tuple(image_std)
        self.default_view = default_view
        self.exo_pictures = exo_pictures
        self.video_token_id = tokenizer.convert_tokens_to_ids(VIDEO_TOKEN)
        super().__init__(tokenizer, chat_template=chat_template)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> list[str]:
        """Writes processor and tokenizer so that the tokenizer loads from its `tokenizer.json` as it is.

        Rebuilt by its own class, Mistral's would lose `legacy` and give other ids for a text after `<video>`.
        """
        written: list[str] = super().save_pretrained(str(save_directory), **kwargs)
        path = Path(save_directory) / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"}, indent=2), "utf-8")
        return written

    def pictures(self, view: str | None = None) -> PictureSettings:
        """Returns how the tower of `view` wants its pictures: the teacher's for `exo`, the ego tower's else."""
        own = PictureSettings(
            self.num_frames, self.image_size, self.patch_size, self.aspect, self.image_mean, self.image_std
        )
        return replace(own, **self.exo_pictures) if view == "exo" and self.exo_pictures else own

    def pixels(
        self, frames: NDArray[numpy.uint8], source_size: tuple[int, int] | None = None, view: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Turns frames [T, H, W, 3] uint8 into pixels [T, 3, S, S] float32 and the patch mask [L] of real picture.

        `source_size` is the height and width of the video where the frames come from a clip store.
        """
        wanted = self.pictures(view)
        pixels, mask = preprocess(
            frames,
            wanted.image_size,
            wanted.aspect,
            mean=wanted.image_mean,
            std=wanted.image_std,
            patch_size=wanted.patch_size,
            source_size=source_size,
        )
        return pixels, mask.flatten()

    def drop_exo_view(self) -> None:
        """Forgets the teacher's view, which an exported model does not have."""
        self.num_video_tokens.pop("exo", None)
        self.exo_pictures = None

    def plain_prompt(self) -> str:
        """Returns the prompt of narrations: the video alone, the text follows directly (A14)."""
        return VIDEO_TOKEN

    def chat_prompt(self, text: str) -> str:
        """Returns a user turn with the video first (VideoLLaMA2), in the tokenizer's own template or Mistral's.

        A model that can think before it answers (Qwen3) is told not to: answers are trained and scored as they stand.
        """
        content = f"{VIDEO_TOKEN}\n{self._plain(text)}"
        if getattr(self.tokenizer, "chat_template", None):
            turn = [{"role": "user", "content": content}]
            prompt: str = self.tokenizer.apply_chat_template(
                turn, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            return prompt.removeprefix(self.tokenizer.bos_token or "")
        return f"[INST] {content} [/INST]"

    def encode_prompt(self, prompt: str, view: str | None = None) -> list[int]:
        """Returns BOS and the prompt's ids with the placeholder repeated once per visual token of `view`.

        Raises `DataError` when the prompt does not hold exactly one `<video>`.
        """
        ids = list(self.tokenizer(prompt, add_special_tokens=False).input_ids)
        if ids.count(self.video_token_id) != 1:
            raise DataError(
                f"a prompt needs exactly one {VIDEO_TOKEN}, got {ids.count(self.video_token_id)}: {prompt!r}"
            )
        at = ids.index(self.video_token_id)
        count = self.num_video_tokens[view or self.default_view]
        begin = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        return begin + ids[:at] + [self.video_token_id] * count + ids[at + 1 :]

    def encode_continuation(self, text: str) -> list[int]:
        """Returns the ids of an answer after a prompt, EOS at the end."""
        ids = self.tokenizer(self._plain(text), add_special_tokens=False).input_ids
        return [*ids, self.tokenizer.eos_token_id]

    def prepare(self, prompt: str, frames: NDArray[numpy.uint8], view: str | None = None) -> dict[str, Tensor]:
        """Returns input_ids [1, S], attention_mask [1, S] and pixel_values_videos [1, T, 3, S, S] of one prompt."""
        ids = torch.tensor([self.encode_prompt(prompt, view)])
        pixels, _ = self.pixels(frames, view=view)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values_videos": pixels.unsqueeze(0)}

    def __call__(
        self, text: str, videos: NDArray[numpy.uint8], view: str | None = None, return_tensors: str = "pt"
    ) -> BatchFeature:
        """Prepares one prompt with one video [T, H, W, 3]; a prompt without `<video>` becomes a chat turn."""
        prompt = text if VIDEO_TOKEN in text else self.chat_prompt(text)
        return BatchFeature(self.prepare(prompt, videos, view), tensor_type=return_tensors)

    def _plain(self, text: str) -> str:
        """Returns a text of the data: only the processor places the placeholder, only the template control tokens."""
        return without_control_tokens(text, self.tokenizer, [VIDEO_TOKEN])
