"""Training samples from clip tables and conversations; an unreadable video is reported, never replaced by another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from exo2ego.data.batch import TrainingSample
from exo2ego.data.failures import Unreadable
from exo2ego.data.pairing import ALL_VIEWS, Sample
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.data.prompting import CAPTION_REQUEST, user_turn
from exo2ego.data.spans import Span
from exo2ego.data.video import DecoderName, read_span
from exo2ego.errors import DataError, VideoError
from exo2ego.model.options import View
from exo2ego.records import Clip, Conversation

if TYPE_CHECKING:
    from exo2ego.data.clip_store import ClipStore

TextFormat = Literal["plain", "chat"]


@dataclass(frozen=True)
class ClipReader:
    """Reads the frames of a span, from its video or from a clip store, and turns them into pixels."""

    root: Path
    processor: Exo2EgoProcessor
    decoder: DecoderName = "pyav"
    store: ClipStore | None = None

    def pixels(self, span: Span, view: View) -> tuple[Tensor, Tensor]:
        """Returns pixels [T, 3, S, S] and patch mask [L] as the tower of `view` wants them.

        Raises `VideoError`, and `DataError` for a span that the store was not made for.
        """
        if self.store is not None:
            clip = self.store.read(span)
            return self.processor.pixels(clip.frames, clip.source_size, view)
        frames = read_span(self.root, span, self.processor.num_frames, decoder=self.decoder).frames
        return self.processor.pixels(frames, view=view)


@dataclass(frozen=True)
class TextEncoder:
    """Turns prompt and answer into ids; refuses texts that are too long rather than cutting them."""

    processor: Exo2EgoProcessor
    view: View
    max_text_tokens: int

    def __call__(self, sample_id: str, prompt: str, answer: str) -> tuple[list[int], list[int]]:
        """Returns prompt ids (with placeholders) and target ids (with EOS); raises `DataError` naming the sample."""
        prompt_ids = self.processor.encode_prompt(prompt, self.view)
        target_ids = self.processor.encode_continuation(answer)
        num_text = len(prompt_ids) - self.processor.num_video_tokens[self.view] + len(target_ids)
        if num_text > self.max_text_tokens:
            raise DataError(
                f"sample {sample_id}: {num_text} text tokens, data.max_text_tokens is {self.max_text_tokens}; "
                "raise it or remove the sample"
            )
        return prompt_ids, target_ids


class ClipSamples(Dataset[TrainingSample | Unreadable]):
    """Narrated clips (Ego-ExoClip): the language model's view, and in stage 2 the exo views beside it."""

    def __init__(
        self,
        clips: Sequence[Clip],
        reader: ClipReader,
        encode: TextEncoder,
        view: View,
        text_format: TextFormat,
        *,
        with_exo: bool,
    ) -> None:
        self.clips = clips
        self.reader = reader
        self.encode = encode
        self.view = view
        self.with_exo = with_exo
        processor = reader.processor
        plain = text_format == "plain"
        self.prompt = processor.plain_prompt() if plain else processor.chat_prompt(CAPTION_REQUEST)

    def __len__(self) -> int:
        """Returns the number of clips."""
        return len(self.clips)

    def __getitem__(self, sample: Sample) -> TrainingSample | Unreadable:
        """Returns the sample, or why it cannot be read."""
        clip = self.clips[sample.index]
        sample_id = f"{clip.clip_id}@{sample.view}" if sample.view >= 0 else clip.clip_id
        video = clip.exo_videos[sample.view] if self.view == "exo" else clip.ego_video
        try:
            pixels, mask = self.reader.pixels(Span(video, clip.start_s, clip.end_s), self.view)
            exo_pixels, exo_mask = self._exo(clip, sample.view) if self.with_exo else (None, None)
        except VideoError as error:
            return Unreadable.from_error(sample_id, error)
        prompt_ids, target_ids = self.encode(sample_id, self.prompt, clip.text)
        return TrainingSample(sample_id, prompt_ids, target_ids, pixels, mask, exo_pixels, exo_mask)

    def _exo(self, clip: Clip, view: int) -> tuple[Tensor, Tensor]:
        chosen = clip.exo_videos if view == ALL_VIEWS else [clip.exo_videos[view]]
        read = [self.reader.pixels(Span(video, clip.start_s, clip.end_s), "exo") for video in chosen]
        return torch.stack([pixels for pixels, _ in read]), torch.stack([mask for _, mask in read])


class ConversationSamples(Dataset[TrainingSample | Unreadable]):
    """Instructions and answers about first-person clips (EgoIT), in the language model's chat form."""

    def __init__(self, conversations: Sequence[Conversation], reader: ClipReader, encode: TextEncoder) -> None:
        self.conversations = conversations
        self.reader = reader
        self.encode = encode

    def __len__(self) -> int:
        """Returns the number of conversations."""
        return len(self.conversations)

    def __getitem__(self, sample: Sample) -> TrainingSample | Unreadable:
        """Returns the sample, or why it cannot be read."""
        row = self.conversations[sample.index]
        try:
            pixels, mask = self.reader.pixels(Span.of(row), self.encode.view)
        except VideoError as error:
            return Unreadable.from_error(row.conversation_id, error)
        prompt = self.reader.processor.chat_prompt(user_turn(row.instruction, row.question, row.options))
        prompt_ids, target_ids = self.encode(row.conversation_id, prompt, row.answer)
        return TrainingSample(row.conversation_id, prompt_ids, target_ids, pixels, mask)


def blank_sample(processor: Exo2EgoProcessor, view: View, *, with_exo: bool) -> TrainingSample:
    """Returns a black clip that keeps a process in step when none of its samples was readable; it carries no loss."""

    def black(of_view: View) -> tuple[Tensor, Tensor]:
        pictures = processor.pictures(of_view)
        size, patches = pictures.image_size, (pictures.image_size // pictures.patch_size) ** 2
        return torch.zeros(pictures.num_frames, 3, size, size), torch.ones(patches, dtype=torch.bool)

    pixels, mask = black(view)
    exo_pixels, exo_mask = black("exo")
    return TrainingSample(
        sample_id="blank",
        prompt_ids=processor.encode_prompt(processor.plain_prompt(), view),
        target_ids=processor.encode_continuation(""),
        pixels=pixels,
        patch_mask=mask,
        exo_pixels=exo_pixels.unsqueeze(0) if with_exo else None,
        exo_patch_mask=exo_mask.unsqueeze(0) if with_exo else None,
    )
