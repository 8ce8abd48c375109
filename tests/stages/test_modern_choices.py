"""Modern choices end to end: language model, towers, teacher and mapper through every stage, an export, and answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
import torch

from eval.answerers.exo2ego import Exo2EgoAnswerer
from eval.answerers.protocol import ScoreRequest
from exo2ego.inference import export_for_inference, load
from tests.qwen_like import QwenType, save_qwen
from tests.tiny_corpus import TEXTS, TinyCorpus
from tests.tiny_runs import metrics, run

FRAMES = numpy.random.default_rng(0).integers(0, 256, (4, 36, 64, 3), dtype=numpy.uint8)
EXPORT_TOLERANCE = 1e-5  # the adapters are merged into the weights: the same products, summed in another order
QWEN2_VL = "{model_type: qwen2_vl_vision, depth: 2, embed_dim: 24, hidden_size: 32, num_heads: 2, patch_size: 4}"


@dataclass(frozen=True)
class Choice:
    """One combination: the preset's fields on tiny sizes."""

    model: tuple[str, ...]
    num_tokens: dict[str, int]
    language: QwenType | None = None
    stage2: tuple[str, ...] = ()


# the tiny tower's 32 px in patches of 4 px: 8x8, two frames: the connector makes 2x5x5 tokens of a branch
CHOICES = {
    "qwen2.5, SigLIP2 of an odd grid, residual transformer mapper, softmax KL": Choice(
        (
            "model.vision_tower.architecture.model_type=siglip_vision_model",
            "model.vision_tower.architecture.image_size=30",  # 7x7 patches and 2 px that are not seen, as 384 / 14
            "model.mapper.kind=transformer",
            "model.mapper.residual=true",
        ),
        language="qwen2",
        stage2=("loss.kl.kind=softmax_pooled",),
        num_tokens={"ego_only": 2 * 4 * 4, "ego": 2 * 2 * 4 * 4},
    ),
    "qwen3, SigLIP2 of an even grid, residual ResNet mapper, softmax over places": Choice(
        (
            "model.vision_tower.architecture.model_type=siglip_vision_model",
            "model.mapper.norm=layer",
            "model.mapper.residual=true",
        ),
        language="qwen3",
        stage2=("loss.kl.kind=softmax_space", "loss.kl.temperature=2"),
        num_tokens={"ego_only": 2 * 5 * 5, "ego": 2 * 2 * 5 * 5},
    ),
    "Qwen2-VL's tower as the teacher of CLIP": Choice(
        (
            "model.num_frames=4",
            f"model.teacher_tower={{architecture: {QWEN2_VL}, image_size: 40}}",
            "model.teacher_feature_layer=-1",
            "model.teacher_init=base",
            "model.connector.sharing=per_branch",
            "model.mapper.residual=true",
        ),
        num_tokens={"ego_only": 3 * 5 * 5, "ego": 3 * 5 * 5 + 2 * 6 * 6},
    ),
    "Qwen2-VL's tower as the teacher of SigLIP2, with transformer mapper and softmax KL": Choice(
        (
            "model.vision_tower.architecture.model_type=siglip_vision_model",
            f"model.teacher_tower={{architecture: {QWEN2_VL}, image_size: 32}}",
            "model.teacher_init=base",
            "model.connector.sharing=per_branch",
            "model.mapper.kind=transformer",
        ),
        language="qwen2",
        stage2=("loss.kl.kind=softmax",),
        num_tokens={"ego_only": 2 * 5 * 5, "ego": 2 * 5 * 5 + 1 * 5 * 5},
    ),
}


@pytest.fixture(scope="module")
def languages(tmp_path_factory: pytest.TempPathFactory) -> dict[QwenType, Path]:
    """A tiny Qwen2.5 with a head of its own, as the 7B has, and a Qwen3 that shares it with the embeddings."""
    root = tmp_path_factory.mktemp("languages")
    return {
        "qwen2": save_qwen(root / "qwen2", "qwen2", TEXTS, tied=False),
        "qwen3": save_qwen(root / "qwen3", "qwen3", TEXTS, tied=True),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_every_stage_trains_and_the_result_answers(
    name: str, corpus: TinyCorpus, languages: dict[QwenType, Path], tmp_path: Path
) -> None:
    choice = CHOICES[name]
    model = [*choice.model, "max_steps=2", "model.mapper.num_blocks=1"]
    if choice.language is not None:
        model.append(f"model.language_model.from_pretrained={languages[choice.language]}")
    parent: list[str] = []
    for stage in ("init_ego", "stage1", "stage2", "stage3"):
        of_stage = choice.stage2 if stage == "stage2" else ()
        assert run(stage, corpus, tmp_path / stage, *model, *of_stage, *parent) == 0
        parent = [f"parent={tmp_path / stage}"]
    rows = metrics(tmp_path / "stage2")
    assert {"loss/text", "loss/kl", "loss/cycle"} <= set(rows[-1])
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    check_answers(tmp_path, choice)


def check_answers(runs: Path, choice: Choice) -> None:
    """The run and its export give the same scores, and text; the teacher is not in the export."""
    exported = export_for_inference(runs / "stage3", runs / "exported")
    answerers = [
        Exo2EgoAnswerer.load(path, form="chat", view=None, max_new_tokens=4) for path in (runs / "stage3", exported)
    ]
    scores = []
    for answerer in answerers:
        assert answerer.processor.num_video_tokens == choice.num_tokens
        prompt, video = answerer.render("What does C do?"), answerer.encode(FRAMES[: answerer.num_frames])
        assert video.tokens.shape[1] == choice.num_tokens["ego"]
        scores.append(answerer.score(video, [ScoreRequest(prompt, tuple(TEXTS), "options")])[0])
        assert "<video>" not in answerer.generate(video, prompt)
    assert answerers[0].render("Why?") == answerers[1].render("Why?")
    assert scores[1] == pytest.approx(scores[0], rel=EXPORT_TOLERANCE, abs=EXPORT_TOLERANCE)
    model, processor = load(exported)
    assert model.model.teacher_tower is None
    assert processor.exo_pictures is None
    assert not torch.equal(*model.model.visual_tokens(torch.randn(2, *model_pixels(exported)), "ego"))


def model_pixels(exported: Path) -> tuple[int, int, int, int]:
    """Returns T, 3, S, S of an exported model."""
    pictures = load(exported)[1].pictures()
    return pictures.num_frames, 3, pictures.image_size, pictures.image_size
