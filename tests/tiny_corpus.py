"""A corpus of seconds of video, in the real formats, on which every stage runs in seconds on a CPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import av
import numpy
import pyarrow
import pyarrow.parquet

from exo2ego.data.clips import CLIP_SCHEMA
from exo2ego.model.options import SmallLanguageOptions
from exo2ego.model.small_language import small_mistral, train_tokenizer
from exo2ego.records import Clip, Conversation

NUM_EXO_VIEWS = (2, 3)
"""Per take: the takes differ, so that padded views occur."""
CLIPS_PER_TAKE = 6
SECONDS = 2.4
TEXTS = ("C lifts the red cup.", "C pours.", "C puts the green bowl down on the left of the table with both hands.")


@dataclass(frozen=True)
class TinyCorpus:
    """Where everything lies."""

    root: Path
    clips: Path
    conversations: Path
    language_model: Path


def make_corpus(folder: Path) -> TinyCorpus:
    """Writes the videos of two takes, their clip table, conversations about them and a language model."""
    root = folder / "videos"
    root.mkdir(parents=True)
    colours = numpy.random.default_rng(0)
    clips = []
    for take, num_views in enumerate(NUM_EXO_VIEWS):
        exo = [f"take{take}_cam{number:02d}.mp4" for number in range(1, num_views + 1)]
        write_video(root / f"take{take}_aria.mp4", width=64, height=64, colours=colours)
        for name in exo:
            write_video(root / name, width=112, height=64, colours=colours)
        clips += [_clip(take, number, exo) for number in range(CLIPS_PER_TAKE)]
    corpus = TinyCorpus(root, folder / "clips.parquet", folder / "conversations.jsonl", folder / "language")
    write_clips(corpus.clips, clips)
    rows = [_conversation(clip).to_row() for clip in clips]
    corpus.conversations.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = train_tokenizer([clip.text for clip in clips], 320)
    sizes = SmallLanguageOptions(hidden_size=16, num_layers=2, num_heads=2)
    small_mistral(sizes, tokenizer).save_pretrained(str(corpus.language_model))
    tokenizer.save_pretrained(str(corpus.language_model))
    return corpus


def write_clips(path: Path, clips: list[Clip]) -> None:
    """Writes a clip table."""
    rows = [clip.to_row() for clip in clips]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=CLIP_SCHEMA), path)


def write_video(path: Path, *, width: int, height: int, colours: numpy.random.Generator) -> None:
    """Encodes SECONDS of H.264 at 30 frames per second whose colours drift."""
    start, end = colours.integers(0, 255, (2, 3))
    num_frames = int(SECONDS * 30)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "15", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(num_frames):
            colour = start + (end - start) * number / num_frames
            pixels = numpy.broadcast_to(colour, (height, width, 3)).astype(numpy.uint8)
            pixels[: height // 2, number % width :] //= 2
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode())


def _clip(take: int, number: int, exo: list[str]) -> Clip:
    start_s = number * SECONDS / CLIPS_PER_TAKE
    return Clip(
        clip_id=f"take{take}/0/{number}",
        take_uid=f"uid{take}",
        take_name=f"take{take}",
        start_s=start_s,
        end_s=start_s + 0.35,
        timestamp_s=start_s + 0.1,
        text=TEXTS[number % len(TEXTS)],
        annotator="1",
        ego_video=f"take{take}_aria.mp4",
        exo_videos=exo,
    )


def _conversation(clip: Clip) -> Conversation:
    return Conversation(
        conversation_id=clip.clip_id,
        source="tiny",
        video=clip.ego_video,
        start_s=clip.start_s,
        end_s=clip.end_s,
        question="What does C do?",
        answer=clip.text,
    )
