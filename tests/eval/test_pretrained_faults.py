"""Other people's models that are damaged, incomplete, of another kind, or silent: one clear message each."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from eval import egobench
from eval.answerers.loading import AnswererOptions, EndpointOptions, load_answerer
from eval.answerers.pretrained import PretrainedAnswerer
from eval.answerers.protocol import ScoreRequest
from eval.answerers.trial import PROBE_SIDE, PROBE_TURN, try_out
from eval.answerers.video_llava import VideoLlavaAnswerer
from eval.predictions import read_predictions
from exo2ego.errors import CheckpointError, ConfigError, EvaluationError, Exo2EgoError
from exo2ego.storage import read_json
from tests.eval.evaluation_setup import write_setup
from tests.eval.test_egobench import ALL_MODES, CONFIG
from tests.eval.tiny_families import BUILDERS, change_json, qwen2_vl, qwen3_vl, video_llava

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qwen2_vl(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_setup(tmp_path_factory.mktemp("evaluation"), num_questions=3)


def load(model: str, num_frames: int | None = 4, **changes: object) -> PretrainedAnswerer:
    options = {"form": "chat", "view": None, "max_new_tokens": 4, "num_frames": num_frames, **changes}
    answerer = load_answerer(model, AnswererOptions(**options, endpoint=EndpointOptions()))  # type: ignore[arg-type]
    assert isinstance(answerer, PretrainedAnswerer)
    return answerer


def change_weight(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def drop_a_tensor(folder: Path) -> None:
    change_weight(folder, lambda tensors: tensors.pop("lm_head.weight"))


def misshape(folder: Path) -> None:
    change_weight(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(3, 3)}))


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return remove


def of_type(model_type: str) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / "config.json", model_type=model_type)


def without_an_end(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", eos_token=None)


def deaf_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for turn in messages %}{{ turn.content[-1].text }}{% endfor %}")


FAULTS: dict[str, tuple[Callable[[Path], object], type[Exo2EgoError], str]] = {
    "cut weights": (cut, CheckpointError, "cannot be loaded"),
    "a missing tensor": (drop_a_tensor, CheckpointError, "1 tensors are missing ['lm_head.weight']"),
    "a misshapen tensor": (misshape, CheckpointError, "1 misshapen"),
    "no weights": (without(WEIGHTS), CheckpointError, "holds no *.safetensors"),
    "pickled weights": (pickle_weights, CheckpointError, "weights in pickles are not read"),
    "no config.json": (without("config.json"), ConfigError, "has no config.json"),
    "a cut config.json": (lambda folder: (folder / "config.json").write_text("{"), CheckpointError, "config.json"),
    "no processor": (without("processor_config.json"), CheckpointError, "the processor cannot be loaded"),
    "no tokenizer": (
        without("tokenizer.json", "tokenizer_config.json"),
        EvaluationError,
        "not know <|video_pad|>; is tokenizer.json missing",
    ),
    "no chat template": (
        without("chat_template.jinja"),
        EvaluationError,
        "has no chat template, which makes the prompts; expected chat_template.jinja",
    ),
    "no end token": (without_an_end, EvaluationError, "has no end token, which ends the options' texts; expected eos"),
    "a template of text": (deaf_template, EvaluationError, "has no place for a video and a question"),
    "a text model": (of_type("qwen2"), EvaluationError, "model_type `qwen2`; qwen_vl takes qwen2_vl"),
    "a model of single pictures": (of_type("llava"), EvaluationError, "model_type `llava`; qwen_vl takes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_or_unfit_folder_is_named(folder: Path, fault: str) -> None:
    damage, error, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(error) as raised:
        load(f"qwen_vl:{folder}")
    assert message in str(raised.value)
    assert str(folder) in str(raised.value) or "qwen_vl" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "setting", "value"), [("llava_onevision", "num_image_tokens", 25), ("internvl", "image_seq_length", 9)]
)
def test_a_processor_of_another_model_is_found_before_the_first_question(
    tmp_path: Path, name: str, setting: str, value: int
) -> None:
    family, builder = BUILDERS[name]
    folder = builder(tmp_path)
    change_json(folder / "processor_config.json", **{setting: value})
    with pytest.raises(CheckpointError, match=r"the model cannot read what its processor prepares: .*") as raised:
        load(f"{family}:{folder}")
    assert str(folder) in str(raised.value)
    assert "processor_config.json" in str(raised.value)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_trial_shows_two_frames_and_draws_no_random_number(tmp_path: Path, name: str) -> None:
    family, builder = BUILDERS[name]
    answerer = load(f"{family}:{builder(tmp_path)}", num_frames=8)
    lengths: list[int] = []
    hook = answerer.model.get_input_embeddings().register_forward_pre_hook(
        lambda _, given: lengths.append(given[0].shape[1])
    )
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[union-attr]
    try_out(answerer)
    after = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()  # type: ignore[union-attr]
    hook.remove()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    grey = numpy.full((8, PROBE_SIDE, PROBE_SIDE, 3), 128, dtype=numpy.uint8)
    whole, shown = (
        answerer.inputs(answerer.encode(grey[:count]), answerer.render(PROBE_TURN))["input_ids"].shape[1]
        for count in (8, 2)
    )
    assert lengths == [shown]
    assert shown < whole


def test_a_model_with_code_of_its_own_is_not_run(folder: Path, tmp_path: Path) -> None:
    proof = tmp_path / "it ran"
    (folder / "own.py").write_text(f"open({str(proof)!r}, 'w')\nclass Config: pass\n")
    change_json(folder / "config.json", model_type="internvl_chat", auto_map={"AutoConfig": "own.Config"})
    with pytest.raises(EvaluationError, match=r"`internvl_chat`, which is none of the video models .* code of its own"):
        load(f"transformers:{folder}")
    assert not proof.exists()


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SOURCE: folder .*absent does not exist; give a folder or a hub name"):
        load(f"transformers:{tmp_path / 'absent'}")


def test_a_class_that_this_transformers_lacks(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VideoLlavaAnswerer, "model_classes", {"qwen2_vl": "OfTomorrowForConditionalGeneration"})
    with pytest.raises(EvaluationError, match=r"transformers 5\.\S+ has no OfTomorrowForConditionalGeneration; inst"):
        load(f"video_llava:{whole}")


@pytest.mark.parametrize("change", [{"form": "plain"}, {"view": "exo"}])
def test_views_and_forms_are_ours(whole: Path, change: dict[str, str]) -> None:
    with pytest.raises(EvaluationError, match="form and view are for Exo2Ego models; a model of transformers has"):
        load(f"qwen_vl:{whole}", **change)


def test_a_number_of_frames_that_a_model_cannot_take(tmp_path: Path) -> None:
    qwen, llava = qwen3_vl(tmp_path / "qwen"), video_llava(tmp_path / "llava")
    with pytest.raises(EvaluationError, match=r"1 frames of 64 x 64 pixels cannot be prepared: .*; set another num"):
        load(f"qwen_vl:{qwen}", num_frames=1)
    with pytest.raises(
        EvaluationError, match=r"= 22\d\d tokens, .* takes 2048; .* the video: set a smaller num_frames"
    ):
        load(f"video_llava:{llava}", num_frames=128)
    answerer = load(f"video_llava:{llava}", num_frames=110)
    video = answerer.encode(numpy.zeros((110, 48, 64, 3), numpy.uint8))
    request = ScoreRequest(answerer.render("Which?"), ("C opens the box " * 40, "C pours"), "options")
    with pytest.raises(
        EvaluationError, match="the model takes 2048; the most go to the video: set a smaller num_frames"
    ):
        answerer.score(video, [request])


def test_what_takes_the_room_is_named(whole: Path) -> None:
    with pytest.raises(EvaluationError, match=r"2048; the most go to the answer: set a smaller max_new_tokens"):
        load(f"qwen_vl:{whole}", max_new_tokens=5000)
    answerer = load(f"qwen_vl:{whole}")
    video = answerer.encode(numpy.zeros((4, 48, 64, 3), numpy.uint8))
    with pytest.raises(EvaluationError, match="the most go to the question and the template: shorten the question"):
        answerer.generate(video, answerer.render("word " * 3000))
    request = ScoreRequest(answerer.render("Which?"), ("C opens the box " * 1000, "C pours"), "options")
    with pytest.raises(EvaluationError, match="the most go to the longest option: shorten it"):
        answerer.score(video, [request])


def run(setup: Path, model: Path, output: Path, *overrides: str) -> int:
    paths = [f"data.questions={setup / 'questions.jsonl'}", f"data.root={setup / 'videos'}", f"output={output}"]
    settings = [f"model=qwen_vl:{model}", "num_frames=4", "max_new_tokens=4", *overrides]
    return egobench.main(["--config", str(CONFIG), *paths, *settings])


def test_a_model_that_says_nothing_is_wrong_and_counted(setup: Path, folder: Path, tmp_path: Path) -> None:
    change_weight(folder, lambda tensors: tensors["lm_head.weight"].zero_())  # every token alike: <unk>, not shown
    assert run(setup, folder, tmp_path / "out", ALL_MODES) == 0
    rows = read_predictions(tmp_path / "out")
    assert {row.raw_output for row in rows if row.mode == "generate"} == {""}
    assert {row.predicted_index for row in rows} == {None}
    scored = read_json(tmp_path / "out" / "results.json")["results"]
    assert {(row["accuracy"], row["num_unparsed"]) for row in scored} == {(0.0, 3)}


def test_scores_that_are_no_numbers_name_the_question(
    setup: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_weight(folder, lambda tensors: tensors["lm_head.weight"].fill_(float("nan")))
    assert run(setup, folder, tmp_path / "out") == EvaluationError.exit_code
    said = " ".join(capsys.readouterr().err.split())
    assert "question inter/take0/0 (likelihood): option scores are not finite" in said
    assert json.loads((tmp_path / "out" / "run.json").read_text())["key"]["num_frames"] == 4
    assert not read_predictions(tmp_path / "out")
