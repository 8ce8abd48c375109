"""Dual encoders: what an open_clip tower gives, as an answerer, and what is refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from eval import egobench
from eval.answerers.dual_encoder import DualEncoderAnswerer
from eval.answerers.loading import AnswererOptions, EndpointOptions, load_answerer
from eval.answerers.protocol import ScoreRequest
from eval.predictions import read_predictions
from eval.retrieval.loading import load_dual_encoder
from eval.retrieval.open_clip_encoder import OWN_CONFIG, OpenClipEncoder
from exo2ego.errors import CheckpointError, EvaluationError, Exo2EgoError
from exo2ego.storage import write_jsonl
from tests.eval.evaluation_setup import question_row, write_setup
from tests.eval.test_egobench import CONFIG
from tests.eval.tiny_model import NARRATIONS
from tests.eval.tiny_open_clip import ARCHITECTURE, VALUES, registered, write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("clip")
    with registered(folder / "configs"):
        yield write_checkpoint(folder / "tiny.safetensors")


@pytest.fixture(scope="module")
def encoder(checkpoint: Path) -> OpenClipEncoder:
    return OpenClipEncoder.load(f"{ARCHITECTURE}@{checkpoint}", None)


def clip(seed: int, num_frames: int = 3) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 256, (num_frames, 48, 64, 3), dtype=numpy.uint8)


def test_embeddings_are_those_of_open_clips_own_model(checkpoint: Path, encoder: OpenClipEncoder) -> None:
    model, _, preprocess = open_clip.create_model_and_transforms(ARCHITECTURE, pretrained=str(checkpoint))
    model.eval()
    with torch.inference_mode():
        texts = model.encode_text(open_clip.get_tokenizer(ARCHITECTURE)(NARRATIONS), normalize=True).numpy()
        pictures = torch.stack([preprocess(Image.fromarray(frame)) for frame in clip(0)])
        frames = model.encode_image(pictures, normalize=True).mean(0)
    assert encoder.encode_text(NARRATIONS) == pytest.approx(texts, abs=1e-6)
    assert encoder.encode_video(clip(0)) == pytest.approx((frames / frames.norm()).numpy(), abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=4), num_frames=st.integers(1, 4))
def test_rows_have_length_one_whatever_comes(encoder: OpenClipEncoder, texts: list[str], num_frames: int) -> None:
    rows = encoder.encode_text(texts)
    assert rows.shape == (len(texts), VALUES["embed_dim"])
    assert numpy.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    frames = clip(1, num_frames)
    assert numpy.linalg.norm(encoder.encode_video(frames)) == pytest.approx(1, abs=1e-5)
    backwards = encoder.encode_video(frames[::-1].copy())
    assert backwards == pytest.approx(encoder.encode_video(frames), abs=1e-5), "a mean has no order"


def test_batches_of_texts_change_nothing(encoder: OpenClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    together = encoder.encode_text(NARRATIONS)
    monkeypatch.setattr("eval.retrieval.open_clip_encoder.TEXTS_PER_BATCH", 2)
    assert encoder.encode_text(NARRATIONS) == pytest.approx(together, abs=1e-6)


def test_option_scores_are_cosine_similarities(checkpoint: Path, encoder: OpenClipEncoder) -> None:
    answerer = load(f"open_clip:{ARCHITECTURE}@{checkpoint}")
    video = answerer.encode(clip(0))
    (scores,) = answerer.score(video, [ScoreRequest("any question", tuple(NARRATIONS), "options")])
    assert scores == pytest.approx(list(encoder.encode_text(NARRATIONS) @ encoder.encode_video(clip(0))), abs=1e-6)
    assert scores != pytest.approx(list(encoder.encode_text(NARRATIONS) @ encoder.encode_video(clip(7))), abs=1e-4)


def load(model: str, num_frames: int | None = 3) -> DualEncoderAnswerer:
    answerer = load_answerer(model, AnswererOptions("chat", None, 4, num_frames, EndpointOptions()))
    assert isinstance(answerer, DualEncoderAnswerer)
    return answerer


def run(setup: Path, checkpoint: Path, output: Path, *overrides: str) -> int:
    paths = [f"data.questions={setup / 'questions.jsonl'}", f"data.root={setup / 'videos'}", f"output={output}"]
    return egobench.main(["--config", str(CONFIG), *paths, f"model=open_clip:{ARCHITECTURE}@{checkpoint}", *overrides])


def test_a_run_of_the_evaluator(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setup = write_setup(tmp_path / "setup", num_questions=4)
    assert run(setup, checkpoint, tmp_path / "out", "modes=[likelihood]") == 0
    rows = read_predictions(tmp_path / "out")
    assert len(rows) == 4
    assert "has no calibration: its option scores are cosine" in (tmp_path / "out" / "results.md").read_text("utf-8")
    assert all(-1 <= score <= 1 for row in rows for score in row.option_scores or [])
    assert {row.num_options for row in rows} == {5}
    for mode in ("letter", "generate"):
        assert run(setup, checkpoint, tmp_path / mode, f"modes=[{mode}]") == EvaluationError.exit_code
        assert "set modes=[likelihood]" in " ".join(capsys.readouterr().err.split())


def test_open_questions_are_left_out_and_said(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup = write_setup(tmp_path / "setup", num_questions=2)
    unknown = {"options": [], "answer_index": None, "answer_text": "a cup"}
    spoken = [question_row(number, id=f"open/{number}", task="qaego4d_open", **unknown) for number in (2, 3)]
    write_jsonl(setup / "questions.jsonl", [question_row(0), *spoken])
    assert run(setup, checkpoint, tmp_path / "out", "modes=[likelihood]") == 0
    assert "2 open questions are left out" in capsys.readouterr().out
    assert [row.question_id for row in read_predictions(tmp_path / "out")] == ["inter/take0/0"]
    write_jsonl(setup / "questions.jsonl", spoken)
    assert run(setup, checkpoint, tmp_path / "none", "modes=[likelihood]") == EvaluationError.exit_code
    assert "all 2 questions are open" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_of_open_clips_own_training_is_read_without_running_code(checkpoint: Path, tmp_path: Path) -> None:
    same = write_checkpoint(tmp_path / "epoch_1.pt")
    first = load(f"open_clip:{ARCHITECTURE}@{checkpoint}").identity
    assert load(f"open_clip:{ARCHITECTURE}@{same}").identity == first
    assert load(f"open_clip:{ARCHITECTURE}@{write_checkpoint(tmp_path / 'other.pt', seed=1)}").identity != first
    proof = tmp_path / "it ran"

    class RunsOnLoad:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (proof,))  # type: ignore[return-value]

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(RunsOnLoad(), protocol=2))
    with pytest.raises(CheckpointError, match="code in a file is never run"):
        load(f"open_clip:{ARCHITECTURE}@{tmp_path / 'evil.pt'}")
    assert not proof.exists()


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (ARCHITECTURE, EvaluationError, "without weights it would be random"),
        (f"{ARCHITECTURE}@", EvaluationError, "without weights it would be random"),
        ("ViT-Z-99@x.pt", EvaluationError, "open_clip has no such model"),
        ("hf-hub:somebody/model@x.pt", EvaluationError, "open_clip has no such model"),
        (f"{ARCHITECTURE}@absent.safetensors", CheckpointError, "weight file is missing"),
        (f"{ARCHITECTURE}@absent.pt", CheckpointError, "weight file is missing"),
        ("ViT-L-14-336@x.pt", EvaluationError, "have QuickGELU: name ViT-L-14-336-quickgelu"),
        ("ViT-L-14@x.pt", EvaluationError, f"prepare pictures differently; put the {OWN_CONFIG}"),
    ],
)
def test_what_is_no_trained_model(checkpoint: Path, source: str, error: type[Exo2EgoError], message: str) -> None:
    with pytest.raises(error) as raised:
        load(f"open_clip:{source}")
    assert message in str(raised.value)


def test_a_checkpoint_of_another_model(checkpoint: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(checkpoint.read_bytes())
    said = {"model_cfg": {**VALUES, "vision_cfg": {**VALUES["vision_cfg"], "patch_size": 16}}}  # type: ignore[dict-item]
    (tmp_path / OWN_CONFIG).write_text(json.dumps(said))
    with pytest.raises(EvaluationError, match=r"another model than .*vision_cfg.patch_size: 16 there, 8"):
        load(f"open_clip:{ARCHITECTURE}@{own}")
    (tmp_path / OWN_CONFIG).write_text(json.dumps({"model_cfg": VALUES, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}))
    answerer = load(f"open_clip:{ARCHITECTURE}@{own}")
    assert answerer.encoder.preprocessing["mean"] == [0.5, 0.5, 0.5]  # type: ignore[attr-defined]
    own.write_bytes(checkpoint.read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="damaged"):
        load(f"open_clip:{ARCHITECTURE}@{own}")


def test_only_dual_encoders_retrieve() -> None:
    with pytest.raises(EvaluationError, match="expected FAMILY:SOURCE of a dual encoder: open_clip"):
        load_dual_encoder("qwen_vl:folder", None)
