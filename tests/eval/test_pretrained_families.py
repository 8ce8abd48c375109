"""Every family of transformers on tiny random models: scores equal the naive way, the video counts, runs end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from numpy.typing import NDArray

from eval import egobench
from eval.answerers.loading import AnswererOptions, EndpointOptions, load_answerer
from eval.answerers.pretrained import PretrainedAnswerer, clip_metadata
from eval.answerers.protocol import ScoreRequest
from eval.predictions import read_predictions
from exo2ego.storage import read_json
from tests.eval.evaluation_setup import write_setup
from tests.eval.test_egobench import ALL_MODES, CONFIG
from tests.eval.tiny_families import BUILDERS, change_json, qwen2_vl
from tests.eval.tiny_model import NARRATIONS

NUM_FRAMES = 12  # of Qwen's pictures of 3 x 4 tokens: more frames than rows, where positions are not those of a cache
TIMES_S = [0.25 * number for number in range(NUM_FRAMES)]
TOLERANCE = 1e-5  # float32 log-probabilities of about -6, summed in another order
LETTERS = ("A", "B", "C", "D", "E")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: builder(root / name) for name, (_, builder) in BUILDERS.items()}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_setup(tmp_path_factory.mktemp("evaluation"), num_questions=4)


def load(model: str, num_frames: int | None = NUM_FRAMES) -> PretrainedAnswerer:
    options = AnswererOptions(
        form="chat", view=None, max_new_tokens=5, num_frames=num_frames, endpoint=EndpointOptions()
    )
    answerer = load_answerer(model, options)
    assert isinstance(answerer, PretrainedAnswerer)
    return answerer


def clip(seed: int) -> NDArray[numpy.uint8]:
    return numpy.random.default_rng(seed).integers(0, 256, (NUM_FRAMES, 48, 64, 3), dtype=numpy.uint8)


def model_inputs(answerer: PretrainedAnswerer, frames: NDArray[numpy.uint8], prompt: str) -> dict[str, Any]:
    """What the processor makes of the prompt, called as its own documentation does."""
    inputs = answerer.processor(
        text=[prompt],
        videos=[frames],
        video_metadata=[clip_metadata(frames, TIMES_S)],
        do_sample_frames=False,
        return_tensors="pt",
    )
    return {name: torch.as_tensor(value) for name, value in inputs.items() if name != "video_metadata"}


@torch.inference_mode()
def naive_score(answerer: PretrainedAnswerer, frames: NDArray[numpy.uint8], prompt: str, text: str) -> float:
    """Mean log-probability of the text and the end token, by one pass over everything."""
    inputs = model_inputs(answerer, frames, prompt)
    tokenizer = answerer.processor.tokenizer
    answer = torch.tensor([[*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]])
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in inputs:
            more = {"input_ids": answer, "attention_mask": torch.ones_like(answer)}.get(name, torch.zeros_like(answer))
            inputs[name] = torch.cat([inputs[name], more.to(inputs[name].dtype)], 1)
    rows = answerer.model(**inputs).logits[0].log_softmax(1)[-answer.shape[1] - 1 : -1]
    return float(rows.gather(1, answer[0].unsqueeze(1)).mean())


@pytest.mark.parametrize("name", BUILDERS)
def test_scores_and_answers_equal_the_naive_way(folders: dict[str, Path], name: str) -> None:
    answerer = load(f"{BUILDERS[name][0]}:{folders[name]}")
    first, second = answerer.render("Which description?"), answerer.render("What does C hold in the left hand?")
    requests = [ScoreRequest(prompt, tuple(NARRATIONS), "options") for prompt in (first, second)]
    seen, other = clip(0), clip(1)
    videos = [answerer.encode_timed(frames, TIMES_S) for frames in (seen, other)]
    scores = [answerer.score(video, requests) for video in videos]
    for frames, of_clip in zip((seen, other), scores, strict=True):
        for prompt, row in zip((first, second), of_clip, strict=True):
            expected = [naive_score(answerer, frames, prompt, text) for text in NARRATIONS]
            assert row == pytest.approx(expected, abs=TOLERANCE)
    assert answerer.score(videos[0], requests)[0] == pytest.approx(scores[0][0], abs=TOLERANCE), "asked again later"
    assert scores[0][0] != pytest.approx(scores[1][0], abs=100 * TOLERANCE), "another video, other scores"

    (letters,) = answerer.score(videos[0], [ScoreRequest(first, LETTERS, "letters")])
    with torch.inference_mode():
        logits = answerer.model(**model_inputs(answerer, seen, first)).logits[0, -1].log_softmax(0)
    ids = [answerer.processor.tokenizer(letter, add_special_tokens=False).input_ids[0] for letter in LETTERS]
    assert letters == pytest.approx(logits[ids].tolist(), abs=TOLERANCE)

    inputs = model_inputs(answerer, seen, first)
    plain = answerer.model.generate(**inputs, max_new_tokens=5, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answerer.generate(videos[0], first) == answerer.processor.tokenizer.decode(plain, skip_special_tokens=True)


@pytest.mark.parametrize("name", BUILDERS)
def test_a_run_of_the_evaluator(folders: dict[str, Path], setup: Path, tmp_path: Path, name: str) -> None:
    paths = [f"data.questions={setup / 'questions.jsonl'}", f"data.root={setup / 'videos'}"]
    model = [f"model={BUILDERS[name][0]}:{folders[name]}", "num_frames=4", "max_new_tokens=4"]
    common = ["--config", str(CONFIG), *paths, *model]
    assert egobench.main([*common, f"output={tmp_path / 'seeing'}", ALL_MODES]) == 0
    rows = read_predictions(tmp_path / "seeing")
    assert len(rows) == 3 * 4
    assert {row["mode"] for row in read_json(tmp_path / "seeing" / "results.json")["results"]} == {
        "likelihood",
        "letter",
        "generate",
    }
    assert read_json(tmp_path / "seeing" / "run.json")["key"]["num_frames"] == 4
    assert egobench.main([*common, f"output={tmp_path / 'blind'}", "modes=[likelihood]", "blind=true"]) == 0
    seeing = {row.question_id: row.option_scores for row in rows if row.mode == "likelihood"}
    assert all(row.option_scores != seeing[row.question_id] for row in read_predictions(tmp_path / "blind"))


def test_the_family_can_be_left_to_the_folder(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        answerer = load(f"transformers:{folder}", num_frames=None)
        assert answerer.family == BUILDERS[name][0]
        assert answerer.num_frames == (8 if name == "video_llava" else 16)


def test_models_that_read_times_are_told_them(folders: dict[str, Path]) -> None:
    for name, reads_times in {"qwen2_vl": False, "qwen2_5_vl": True, "qwen3_vl": True, "videollama3": True}.items():
        answerer = load(f"{BUILDERS[name][0]}:{folders[name]}")
        request = ScoreRequest(answerer.render("Which description?"), tuple(NARRATIONS), "options")
        scores = [
            answerer.score(answerer.encode_timed(clip(0), [scale * time_s for time_s in TIMES_S]), [request])[0]
            for scale in (1, 20)
        ]
        assert (scores[0] != pytest.approx(scores[1], abs=TOLERANCE)) == reads_times, name
    prompts = answerer.processor(
        text=[answerer.render("Q")],
        videos=[clip(0)],
        video_metadata=[clip_metadata(clip(0), TIMES_S)],
        do_sample_frames=False,
    )["input_ids"][0]
    assert "Time 0.2s:" in answerer.processor.tokenizer.decode(prompts), "VideoLLaMA3 rounds to a tenth of a second"


@pytest.mark.parametrize("name", BUILDERS)
def test_half_precision_as_releases_have_it(folders: dict[str, Path], tmp_path: Path, name: str) -> None:
    family, builder = BUILDERS[name]
    full = load(f"{family}:{folders[name]}")
    full.model.to(torch.bfloat16).save_pretrained(builder(tmp_path))
    answerer = load(f"{family}:{tmp_path}")
    assert answerer.model.dtype == torch.bfloat16
    request = ScoreRequest(answerer.render("Which description?"), tuple(NARRATIONS), "options")
    scores, exact = (
        model.score(model.encode_timed(clip(0), TIMES_S), [request])[0]
        for model in (answerer, load(f"{family}:{folders[name]}"))
    )
    assert scores == pytest.approx(exact, abs=0.2), "8 bits of mantissa through two small towers"
    assert isinstance(answerer.generate(answerer.encode(clip(0)), request.prompt), str)


def test_times_become_the_mean_frame_rate() -> None:
    assert clip_metadata(clip(0), TIMES_S).sampled_fps == pytest.approx(4)
    assert clip_metadata(clip(0)[:1], [3.0]).sampled_fps == pytest.approx(1)
    assert clip_metadata(clip(0), [2.0] * NUM_FRAMES).sampled_fps == pytest.approx(1), "a still picture"
    assert clip_metadata(clip(0), TIMES_S).timestamps == pytest.approx(TIMES_S)


def test_a_sliding_window_forgets_nothing_between_options(tmp_path: Path) -> None:
    changes = {"use_sliding_window": True, "sliding_window": 16, "layer_types": ["sliding_attention"] * 2}
    answerer = load(f"qwen_vl:{qwen2_vl(tmp_path, **changes)}")
    prompt = answerer.render("Which description?")
    video = answerer.encode_timed(clip(0), TIMES_S)
    (scores,) = answerer.score(video, [ScoreRequest(prompt, tuple(NARRATIONS), "options")])
    assert True in video.cache.is_sliding  # type: ignore[union-attr]
    expected = [naive_score(answerer, clip(0), prompt, text) for text in NARRATIONS]
    assert scores == pytest.approx(expected, abs=TOLERANCE)


def test_placeholders_in_a_question_are_words(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        answerer = load(f"{BUILDERS[name][0]}:{folder}")
        own = answerer.processor.video_token, answerer.processor.image_token
        prompt = answerer.render(f"Is {own[0]} or {own[1]} shown?")
        assert prompt.count(own[0]) == 1
        assert "Is video or video shown?" in prompt
        video = answerer.encode(clip(0))
        assert answerer.score(video, [ScoreRequest(prompt, (f"C opens {own[0]}", "C pours"), "options")])


def test_identity_follows_weights_and_preprocessing(folders: dict[str, Path], tmp_path: Path) -> None:
    def built(name: str, seed_of: str = "qwen2_vl") -> Path:
        return BUILDERS[seed_of][1](tmp_path / name)

    same, other_pictures, other_template = built("same"), built("pictures"), built("template")
    settings = read_json(other_pictures / "processor_config.json")
    settings["video_processor"]["image_mean"] = [0.0, 0.0, 0.0]
    change_json(other_pictures / "processor_config.json", **settings)
    template = other_template / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "helper"))
    first = load(f"qwen_vl:{folders['qwen2_vl']}")
    identities = [load(f"qwen_vl:{folder}").identity for folder in (same, other_pictures, other_template)]
    assert first.identity == identities[0]
    with torch.no_grad():
        first.model.lm_head.weight[0, 0] += 1
    assert len({*identities, first.identity}) == 4


def test_the_size_of_qwens_pictures_is_that_of_its_own_code(folders: dict[str, Path], tmp_path: Path) -> None:
    answerer = load(f"qwen_vl:{folders['qwen2_vl']}")
    assert answerer.processor.video_processor.cap_pixels_per_frame is True
    says_otherwise = qwen2_vl(tmp_path)
    settings = read_json(says_otherwise / "processor_config.json")
    settings["video_processor"]["cap_pixels_per_frame"] = False
    change_json(says_otherwise / "processor_config.json", **settings)
    assert load(f"qwen_vl:{says_otherwise}").processor.video_processor.cap_pixels_per_frame is False
