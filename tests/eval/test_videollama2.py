"""A released VideoLLaMA2 as a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from eval import egobench
from eval.answerers.loading import AnswererOptions, EndpointOptions, load_answerer
from eval.predictions import read_predictions
from exo2ego.errors import CheckpointError, EvaluationError
from exo2ego.model.options import PartOptions
from exo2ego.released_videollama2 import release_options
from tests.eval.evaluation_setup import write_setup
from tests.eval.test_egobench import ALL_MODES, CONFIG

if "videollama2" not in PartOptions.model_fields:
    pytest.skip("this version cannot import VideoLLaMA2's tower and language model", allow_module_level=True)

from tests.model.published_checkpoints import write_videollama2

OPTIONS = AnswererOptions(form="chat", view=None, max_new_tokens=4, num_frames=None, endpoint=EndpointOptions())


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_videollama2(folder / "VideoLLaMA2-7B-16F", folder / "clip")
    return folder / "VideoLLaMA2-7B-16F"


def test_a_release_answers_in_every_mode(release: Path, tmp_path: Path) -> None:
    setup = write_setup(tmp_path / "setup", num_questions=3)
    paths = [
        f"data.questions={setup / 'questions.jsonl'}",
        f"data.root={setup / 'videos'}",
        f"output={tmp_path / 'out'}",
    ]
    model = [f"model=videollama2:{release}", "max_new_tokens=4", ALL_MODES]
    assert egobench.main(["--config", str(CONFIG), *paths, *model]) == 0
    assert len(read_predictions(tmp_path / "out")) == 9


def test_it_is_the_release_without_a_mapper(release: Path) -> None:
    answerer = load_answerer(f"videollama2:{release}", OPTIONS)
    assert (answerer.view, answerer.num_frames) == ("ego_only", 16)
    assert answerer.model.model.mapper_f is None  # type: ignore[attr-defined]
    assert answerer.processor.aspect == "crop"  # type: ignore[attr-defined]
    assert answerer.identity == load_answerer(f"videollama2:{release}", OPTIONS).identity


def test_the_options_follow_the_release(release: Path) -> None:
    options = release_options(release, num_frames=8)
    assert options["num_frames"] == 8
    assert options["connector"] == {"kind": "stc", "depth": 1}


def test_the_layer_of_the_tower_is_that_of_the_release(release: Path, tmp_path: Path) -> None:
    values = json.loads((release / "config.json").read_text())
    copy = Path(shutil.copytree(release, tmp_path / "copy"))
    (copy / "config.json").write_text(json.dumps({**values, "mm_vision_select_layer": -1}))
    assert [release_options(folder, None)["vision_feature_layer"] for folder in (release, copy)] == [-2, -1]
    answerers = [load_answerer(f"videollama2:{folder}", OPTIONS) for folder in (release, copy)]
    assert answerers[0].identity != answerers[1].identity


def test_what_is_no_full_release_is_named(release: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected a full VideoLLaMA2 release"):
        load_answerer(f"videollama2:{tmp_path}", OPTIONS)
    for name in ("config.json", "model.safetensors.index.json"):
        (tmp_path / name).write_text((release / name).read_text())
    values = json.loads((release / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "mm_projector_type": "mlp2x_gelu"}))
    with pytest.raises(CheckpointError, match="mm_projector_type `mlp2x_gelu` is none of stc_connector"):
        load_answerer(f"videollama2:{tmp_path}", OPTIONS)
    with pytest.raises(EvaluationError, match="form and view are for Exo2Ego models"):
        load_answerer(f"videollama2:{release}", AnswererOptions("chat", "ego", 4, None, EndpointOptions()))
