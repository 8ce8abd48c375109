"""Training samples from real video files: the right view, span and text; what cannot be read is reported."""

from __future__ import annotations

import pickle
from pathlib import Path

import av
import numpy
import pytest
import torch
from torch.utils.data import DataLoader

from exo2ego.data.batch import Collator, TrainingSample
from exo2ego.data.datasets import ClipReader, ClipSamples, ConversationSamples, TextEncoder, blank_sample
from exo2ego.data.failures import Unreadable
from exo2ego.data.pairing import ALL_VIEWS, NO_VIEW, MicroBatches, Sample, SampleOrder
from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.errors import DataError
from exo2ego.model.options import View
from exo2ego.records import Clip, Conversation
from tests.tiny_models import tiny_tokenizer

FRAME_RATE = 30
BRIGHTNESS = {"ego.mp4": 200, "cam01.mp4": 20, "cam02.mp4": 60, "cam03.mp4": 100}
LATER = 30  # brighter by this from the second second on
CODEC_TOLERANCE = 6  # levels of 255, H.264 of a plain picture
NUM_VIDEO_TOKENS = {"ego": 5, "ego_only": 2, "exo": 3}


def write_video(path: Path, brightness: int, width: int, height: int) -> None:
    """Two seconds of a plain grey picture, brighter in the second one."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(2 * FRAME_RATE):
            level = brightness + LATER * (number >= FRAME_RATE)
            frame = av.VideoFrame.from_ndarray(numpy.full((height, width, 3), level, numpy.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, brightness in BRIGHTNESS.items():
        write_video(folder / name, brightness, *((32, 32) if name == "ego.mp4" else (64, 32)))
    (folder / "cut.mp4").write_bytes((folder / "ego.mp4").read_bytes()[:200])
    return folder


@pytest.fixture(scope="module")
def processor() -> Exo2EgoProcessor:
    return Exo2EgoProcessor(tiny_tokenizer(), NUM_VIDEO_TOKENS, num_frames=2, image_size=16, patch_size=4)


def clip(number: int = 0, **changes: object) -> Clip:
    values = {
        "clip_id": f"take/0/{number}",
        "take_uid": "uid",
        "take_name": "take",
        "start_s": 0.1,
        "end_s": 0.8,
        "timestamp_s": 0.4,
        "text": "C picks up the red cup.",
        "annotator": "1",
        "ego_video": "ego.mp4",
        "exo_videos": ["cam01.mp4", "cam02.mp4", "cam03.mp4"],
    }
    return Clip.model_validate(values | changes)


def clip_samples(
    root: Path,
    processor: Exo2EgoProcessor,
    clips: list[Clip],
    view: View = "ego",
    *,
    with_exo: bool = False,
    **options: object,
) -> ClipSamples:
    text_format = options.pop("text_format", "plain")
    encode = TextEncoder(processor, view, max_text_tokens=int(options.pop("max_text_tokens", 64)))  # type: ignore[call-overload]
    return ClipSamples(clips, ClipReader(root, processor), encode, view, text_format, with_exo=with_exo)  # type: ignore[arg-type]


def brightness(processor: Exo2EgoProcessor, pixels: torch.Tensor) -> float:
    """The grey level in the middle of the first frame."""
    red = pixels.reshape(-1, 3, 16, 16)[0, 0, 8, 8]
    return float((red * processor.image_std[0] + processor.image_mean[0]) * 255)


def readable(item: TrainingSample | Unreadable) -> TrainingSample:
    assert isinstance(item, TrainingSample)
    return item


@pytest.mark.parametrize(
    ("view", "sample", "video", "sample_id"),
    [
        ("ego", Sample(0, NO_VIEW), "ego.mp4", "take/0/0"),
        ("ego_only", Sample(0, NO_VIEW), "ego.mp4", "take/0/0"),
        ("exo", Sample(0, 0), "cam01.mp4", "take/0/0@0"),
        ("exo", Sample(0, 2), "cam03.mp4", "take/0/0@2"),
    ],
)
def test_the_view_that_the_language_model_sees(
    root: Path, processor: Exo2EgoProcessor, view: View, sample: Sample, video: str, sample_id: str
) -> None:
    item = readable(clip_samples(root, processor, [clip()], view)[sample])
    assert brightness(processor, item.pixels) == pytest.approx(BRIGHTNESS[video], abs=CODEC_TOLERANCE)
    assert item.sample_id == sample_id
    assert item.prompt_ids == [1, *[processor.video_token_id] * NUM_VIDEO_TOKENS[view]]
    assert item.target_ids == processor.encode_continuation("C picks up the red cup.")
    assert item.exo_pixels is None


def test_the_span_is_the_clips(root: Path, processor: Exo2EgoProcessor) -> None:
    later = clip(start_s=1.2, end_s=1.6)
    item = readable(clip_samples(root, processor, [later])[Sample(0, NO_VIEW)])
    assert brightness(processor, item.pixels) == pytest.approx(BRIGHTNESS["ego.mp4"] + LATER, abs=CODEC_TOLERANCE)


@pytest.mark.parametrize(
    ("view", "cameras"), [(1, ["cam02.mp4"]), (ALL_VIEWS, ["cam01.mp4", "cam02.mp4", "cam03.mp4"])]
)
def test_stage2_reads_the_exo_views_beside(
    root: Path, processor: Exo2EgoProcessor, view: int, cameras: list[str]
) -> None:
    item = readable(clip_samples(root, processor, [clip()], with_exo=True)[Sample(0, view)])
    assert brightness(processor, item.pixels) == pytest.approx(BRIGHTNESS["ego.mp4"], abs=CODEC_TOLERANCE)
    assert item.exo_pixels is not None
    assert item.exo_patch_mask is not None
    found = [brightness(processor, pixels) for pixels in item.exo_pixels]
    assert found == pytest.approx([BRIGHTNESS[camera] for camera in cameras], abs=CODEC_TOLERANCE)
    assert item.patch_mask.all(), "an ego frame is square"
    assert item.exo_patch_mask.float().mean(dim=1).tolist() == [0.5] * len(cameras), "a 2:1 frame is half padding"


def test_chat_form_of_a_narration(root: Path, processor: Exo2EgoProcessor) -> None:
    item = readable(clip_samples(root, processor, [clip()], text_format="chat")[Sample(0, NO_VIEW)])
    text = processor.tokenizer.decode(item.prompt_ids).replace("<video>" * NUM_VIDEO_TOKENS["ego"], "<video>")
    assert text == "<s>[INST] <video>\nDescribe what the camera wearer does. [/INST]"
    assert item.target_ids == processor.encode_continuation("C picks up the red cup.")


@pytest.mark.parametrize(
    ("changes", "with_exo", "reason"),
    [
        ({"ego_video": "nowhere.mp4"}, False, "missing"),
        ({"ego_video": "cut.mp4"}, False, "truncated"),
        ({"ego_video": "../outside.mp4"}, False, "missing"),
        ({"exo_videos": ["cam01.mp4", "nowhere.mp4"]}, True, "missing"),
    ],
)
def test_an_unreadable_video_is_reported_and_not_replaced(
    root: Path, processor: Exo2EgoProcessor, changes: dict[str, object], with_exo: bool, reason: str
) -> None:
    item = clip_samples(root, processor, [clip(**changes)], with_exo=with_exo)[
        Sample(0, ALL_VIEWS if with_exo else NO_VIEW)
    ]
    assert isinstance(item, Unreadable)
    assert item.sample_id == "take/0/0"
    assert item.reason == reason


def test_a_video_outside_the_root_is_not_read(root: Path, processor: Exo2EgoProcessor) -> None:
    outside = root.parent / "outside.mp4"
    outside.write_bytes((root / "ego.mp4").read_bytes())
    item = clip_samples(root, processor, [clip(ego_video="../outside.mp4")])[Sample(0, NO_VIEW)]
    assert isinstance(item, Unreadable)
    assert item.reason == "forbidden_path"
    outside.unlink()


def test_a_text_that_is_too_long_is_refused_with_its_sample(root: Path, processor: Exo2EgoProcessor) -> None:
    num_text = 1 + len(processor.encode_continuation(clip().text))  # BOS, text, EOS; visual tokens do not count
    assert readable(clip_samples(root, processor, [clip()], max_text_tokens=num_text)[Sample(0, NO_VIEW)])
    with pytest.raises(
        DataError, match=f"sample take/0/0: {num_text} text tokens, data.max_text_tokens is {num_text - 1}"
    ):
        clip_samples(root, processor, [clip()], max_text_tokens=num_text - 1)[Sample(0, NO_VIEW)]


def test_conversations_become_turns(root: Path, processor: Exo2EgoProcessor) -> None:
    row = Conversation(
        conversation_id="c1",
        source="made up",
        video="ego.mp4",
        start_s=1.2,
        end_s=1.6,
        instruction="Look at the hands.",
        question="Which cup?",
        answer="The red one.",
        options=["red", "blue"],
    )
    gone = row.model_copy(update={"video": "nowhere.mp4", "conversation_id": "c2"})
    encode = TextEncoder(processor, "ego", max_text_tokens=200)
    samples = ConversationSamples([row, gone], ClipReader(root, processor), encode)
    assert len(samples) == 2
    item = readable(samples[Sample(0, NO_VIEW)])
    text = processor.tokenizer.decode(item.prompt_ids).replace("<video>" * NUM_VIDEO_TOKENS["ego"], "<video>")
    assert text == "<s>[INST] <video>\nLook at the hands.\nWhich cup?\nOptions:\n(A) red\n(B) blue [/INST]"
    assert processor.tokenizer.decode(item.target_ids) == "The red one.</s>"
    assert brightness(processor, item.pixels) == pytest.approx(BRIGHTNESS["ego.mp4"] + LATER, abs=CODEC_TOLERANCE)
    missing = samples[Sample(1, NO_VIEW)]
    assert isinstance(missing, Unreadable)
    assert missing.sample_id == "c2"


def test_the_blank_has_the_shape_of_a_sample(root: Path, processor: Exo2EgoProcessor) -> None:
    blank = blank_sample(processor, "ego", with_exo=True)
    real = readable(clip_samples(root, processor, [clip()], with_exo=True)[Sample(0, 0)])
    assert blank.prompt_ids == real.prompt_ids
    for name in ("pixels", "patch_mask", "exo_pixels", "exo_patch_mask"):
        ours, theirs = getattr(blank, name), getattr(real, name)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype), name


def test_samples_travel_to_loader_workers(root: Path, processor: Exo2EgoProcessor) -> None:
    """Order, data set and collator together, in two worker processes, give what one process gives."""
    clips = [clip(number, start_s=0.1 * number, end_s=0.1 * number + 0.3) for number in range(3)]
    clips.append(clip(3, ego_video="nowhere.mp4"))
    samples = clip_samples(root, processor, clips, with_exo=True)
    order = SampleOrder(numpy.array([3, 3, 3, 3]), "grouped", seed=0)
    batches = MicroBatches(
        order, local_size=2, accumulation=1, process_index=0, num_processes=1, start_step=0, end_step=2
    )
    collate = Collator(0, blank_sample(processor, "ego", with_exo=True))
    here = [collate([samples[sample] for sample in batch]) for batch in batches]
    loader = DataLoader(
        samples,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=2,
        multiprocessing_context="forkserver",  # type: ignore[arg-type]
    )
    for loaded, expected in zip(loader, here, strict=True):
        assert loaded.sample_ids == expected.sample_ids
        assert loaded.failures == expected.failures
        assert torch.equal(loaded.pixels, expected.pixels)
        assert torch.equal(loaded.exo_pixels, expected.exo_pixels)
    assert sum(len(batch.failures) for batch in here) == 1
    assert len(pickle.dumps(samples)) > 0
