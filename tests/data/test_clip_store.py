"""Training and evaluation read a clip store in place of the videos: the same frames, masks and failures."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data_builders.clip_store import build
from eval.questions import by_clip
from exo2ego.data.batch import TrainingSample
from exo2ego.data.clip_store import ClipStore, stored_box
from exo2ego.data.datasets import ClipReader, ConversationSamples, TextEncoder
from exo2ego.data.failures import Unreadable
from exo2ego.data.pairing import NO_VIEW, Sample
from exo2ego.data.pixels import CLIP_MEAN, AspectMode, padding_colour, resize
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.data.spans import Span
from exo2ego.data.video import read_frames, read_timed_frames
from exo2ego.errors import ConfigError, DataError, VideoError
from exo2ego.records import Conversation, Question
from exo2ego.storage import write_jsonl
from tests.data.generated_videos import numbers, write_video
from tests.data_builders.clip_store_corpus import options_for, row, run_in_place
from tests.tiny_models import tiny_tokenizer

SIZE, NUM_FRAMES = 96, 4
ROWS = [
    row("whole", "wide.mp4", None, None),
    row("part", "wide.mp4", 0.3, 1.2),
    row("high", "high.mp4", 0.3, 1.2),
    row("broken", "broken.mp4", 0.0, 1.0),
    row("late", "wide.mp4", 60.0, 61.0),
]
CONVERSATIONS = [Conversation.model_validate(values) for values in ROWS]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "wide.mp4")
    write_video(folder / "high.mp4", rotation=90)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("made")
    write_jsonl(made / "conversations.jsonl", ROWS)
    with pytest.MonkeyPatch.context() as patch:
        run_in_place(patch)
        build.build(options_for(root, made / "conversations.jsonl", made / "store"))
    return made / "store"


@pytest.fixture(scope="module")
def processor() -> Exo2EgoProcessor:
    return Exo2EgoProcessor(
        tiny_tokenizer(), {"ego": 5, "ego_only": 2, "exo": 3}, num_frames=NUM_FRAMES, image_size=SIZE, patch_size=8
    )


def samples(root: Path, processor: Exo2EgoProcessor, store: ClipStore | None) -> ConversationSamples:
    encode = TextEncoder(processor, "ego", 64)
    return ConversationSamples(CONVERSATIONS, ClipReader(root, processor, store=store), encode)


def test_training_samples_are_those_of_the_videos(root: Path, folder: Path, processor: Exo2EgoProcessor) -> None:
    store = ClipStore(folder)
    store.require_fits(processor)
    stored, read = samples(Path("gone"), processor, store), samples(root, processor, None)
    for number in range(3):
        ours, theirs = stored[Sample(number, NO_VIEW)], read[Sample(number, NO_VIEW)]
        assert isinstance(ours, TrainingSample)
        assert isinstance(theirs, TrainingSample)
        assert (ours.sample_id, ours.prompt_ids) == (theirs.sample_id, theirs.prompt_ids)
        assert torch.equal(ours.patch_mask, theirs.patch_mask)
        assert 0 < int(theirs.patch_mask.sum()) < len(theirs.patch_mask)
        assert float((ours.pixels - theirs.pixels).abs().mean()) < 0.1
    for number, reason in ((3, "unreadable"), (4, "empty_span")):
        ours, theirs = stored[Sample(number, NO_VIEW)], read[Sample(number, NO_VIEW)]
        assert isinstance(ours, Unreadable)
        assert isinstance(theirs, Unreadable)
        assert ours.reason == theirs.reason == reason


def test_worker_processes_read_it_too(folder: Path, processor: Exo2EgoProcessor) -> None:
    data = samples(Path("gone"), processor, pickle.loads(pickle.dumps(ClipStore(folder))))
    loader = DataLoader(data, sampler=[Sample(n, NO_VIEW) for n in range(4)], num_workers=2, batch_size=None)  # type: ignore[arg-type]
    assert [type(item).__name__ for item in loader] == ["TrainingSample"] * 3 + ["Unreadable"]


@pytest.mark.parametrize(
    "span",
    [
        Span("other.mp4", None, None),
        Span("wide.mp4", 0.3, 1.21),
        Span("wide.mp4", 0.3, 1.2, 10.0),
        Span("wide.mp4", 0.3, 1.2, None, 1.5),
        Span("wide.mp4", None, 1.2),
    ],
)
def test_a_span_that_it_was_not_made_for_is_an_error_and_no_other_clip(folder: Path, span: Span) -> None:
    with pytest.raises(DataError, match="has no entry for") as caught:
        ClipStore(folder).read(span)
    assert not isinstance(caught.value, VideoError)


def test_another_models_store_is_refused_naming_every_difference(folder: Path, processor: Exo2EgoProcessor) -> None:
    other = Exo2EgoProcessor(
        tiny_tokenizer(), {}, num_frames=8, image_size=64, patch_size=8, image_mean=(0.5, 0.5, 0.5)
    )
    with pytest.raises(ConfigError) as caught:
        ClipStore(folder).require_fits(other)
    for told in ("frames per clip: 4 there, 8 wanted", "image size: 96 there, 64 wanted", "(127, 127, 127) wanted"):
        assert told in str(caught.value)


@pytest.mark.parametrize("damage", ["flip", "short"])
def test_damaged_bytes_are_a_failure_and_no_picture(folder: Path, tmp_path: Path, damage: str) -> None:
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    store = ClipStore(copy)
    shard = copy / store.description.shards[0].name
    data = bytearray(shard.read_bytes())
    offset = store.index["offset"].drop_null()[0].as_py() + 50
    data[offset] ^= 255
    shard.write_bytes(data if damage == "flip" else data[: offset // 2])
    outcomes = []
    for conversation in CONVERSATIONS[:3]:
        try:
            outcomes.append(store.read(Span.of(conversation)).timestamps_s)
        except VideoError as error:
            outcomes.append(error.reason)
    assert "damaged_store" in outcomes
    if damage == "short":
        with pytest.raises(DataError, match=r"bytes instead of"):
            ClipStore(copy)


def test_a_folder_without_a_complete_store_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"store\.json is missing"):
        ClipStore(tmp_path)
    (tmp_path / "store.json").write_text('{"version": 2}')
    with pytest.raises(DataError, match="not a clip store of version 1"):
        ClipStore(tmp_path)
    text = (folder / "store.json").read_text().replace("clips-000000.tar", "../clips-000000.tar")
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(DataError, match=r"shards\.0\.name"):
        ClipStore(tmp_path)


@given(
    height=st.integers(16, 300), width=st.integers(16, 300), half=st.integers(8, 60),
    aspect=st.sampled_from(["pad", "crop", "squash"]),
)  # fmt: skip
def test_nothing_of_the_video_lies_outside_the_stored_part(
    height: int, width: int, half: int, aspect: AspectMode
) -> None:
    size = 2 * half
    frame = numpy.full((1, height, width, 3), (255, 0, 255), dtype=numpy.uint8)
    square = resize(frame, size, aspect, mean=CLIP_MEAN)[0].permute(1, 2, 0).numpy()
    top, bottom, left, right = stored_box(height, width, size, aspect)
    assert not any(edge % 2 for edge in (top, bottom, left, right))
    assert bottom - top >= 2
    assert right - left >= 2
    outside = numpy.ones((size, size), dtype=bool)
    outside[top:bottom, left:right] = False
    assert (square[outside] == padding_colour(CLIP_MEAN)).all()


def test_squares_pass_through_the_resize_unchanged() -> None:
    square = numpy.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=numpy.uint8)
    for aspect in ("pad", "crop", "squash"):
        assert numpy.array_equal(resize(square, 32, aspect, mean=CLIP_MEAN).permute(0, 2, 3, 1).numpy(), square)


def test_the_last_frame_shows_the_observed_instant(root: Path) -> None:
    span = (root / "wide.mp4", 0.0, 1.0)
    frames, times_s = read_timed_frames(*span, 4, observation_s=1.5)
    assert numbers(frames)[:3] == numbers(read_frames(*span, 3))
    assert numbers(frames)[3] == 45
    assert times_s[3] == pytest.approx(1.5)
    assert numbers(read_frames(*span, 1, observation_s=1.5)) == [45]
    with pytest.raises(VideoError) as caught:
        read_frames(*span, 4, observation_s=60.0)
    assert caught.value.reason == "empty_span"


def test_questions_that_need_other_frames_are_not_one_clip() -> None:
    values = {
        "task": "t",
        "source": "s",
        "video": "v",
        "start": 0.0,
        "end": 1.0,
        "question": "?",
        "options": ["a", "b"],
    }
    changes: list[dict[str, float]] = [{}, {"observation": 1.5}, {"frame_rate": 2.0}, {"end": 2.0}, {}]
    questions = [Question.model_validate({"id": str(n), **values, **more}) for n, more in enumerate(changes)]
    assert [[question.question_id for question in group] for group in by_clip(questions)] == [
        *(["0", "4"], ["1"], ["2"], ["3"])
    ]


def test_equal_spans_have_one_key() -> None:
    assert Span("v", 0, 1).key == Span("v", 0.0, 1.0).key
    keys = {Span("v", 0.0, 1.0), Span("v", 0.0, None), Span("v", None, 1.0), Span("v", 0.0, 1.0, 1.0)}
    keys |= {Span("v", 0.0, 1.0, None, 1.0), Span("w", 0.0, 1.0)}
    assert len({span.key for span in keys}) == 6
