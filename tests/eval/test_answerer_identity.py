"""The identity of a model: another one wherever an answer could be another, the same for a copied folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from peft import inject_adapter_in_model

from eval.answerers.endpoint import EndpointAnswerer
from eval.answerers.exo2ego import Exo2EgoAnswerer
from eval.answerers.loading import AnswererOptions, EndpointOptions, load_answerer
from eval.answerers.pretrained import PretrainedAnswerer
from eval.answerers.protocol import ScoreRequest
from exo2ego.language_service import LanguageService
from exo2ego.model.building import lora_config
from exo2ego.model.parts import LoraOptions
from exo2ego.storage import read_json
from tests.eval.tiny_families import BUILDERS
from tests.eval.tiny_model import tiny_model

Change = Callable[[Path], object]


def put(file: str, keys: str, value: object) -> Change:
    """Sets one value of a JSON file; `keys` leads to it."""

    def change(folder: Path) -> None:
        whole: dict[str, Any] = read_json(folder / file)
        *sections, last = keys.split(".")
        section = whole
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
        (folder / file).write_text(json.dumps(whole))

    return change


def fewer_merges(folder: Path) -> None:
    merges = read_json(folder / "tokenizer.json")["model"]["merges"]
    put("tokenizer.json", "model.merges", merges[:10])(folder)


def another_word(folder: Path) -> None:
    vocabulary = read_json(folder / "tokenizer.json")["model"]["vocab"]
    put("tokenizer.json", "model.vocab", {**vocabulary, "unheard": len(vocabulary)})(folder)


def another_template(folder: Path) -> None:
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "helper"))


PRETRAINED: dict[str, tuple[str, Change]] = {
    "theta of the positions": ("qwen2_vl", put("config.json", "text_config.rope_parameters.rope_theta", 100.0)),
    "epsilon of the norms": ("qwen2_vl", put("config.json", "text_config.rms_norm_eps", 0.5)),
    "activation": ("qwen2_vl", put("config.json", "text_config.hidden_act", "gelu")),
    "activation of the tower": ("qwen2_vl", put("config.json", "vision_config.hidden_act", "relu")),
    "layer of the tower": ("video_llava", put("config.json", "vision_feature_layer", -1)),
    "merges": ("qwen2_vl", fewer_merges),
    "vocabulary": ("qwen2_vl", another_word),
    "normalizer": ("qwen2_vl", put("tokenizer.json", "normalizer", {"type": "Lowercase"})),
    "end token": ("qwen2_vl", put("tokenizer_config.json", "eos_token", "<|im_end|>")),
    "tokens that end an answer": ("qwen2_vl", put("generation_config.json", "eos_token_id", [2, 6])),
    "pictures": ("qwen2_vl", put("processor_config.json", "video_processor.image_mean", [0.0, 0.0, 0.0])),
    "template": ("qwen2_vl", another_template),
}
EXO2EGO: dict[str, Change] = {
    "order of fusion": put("config.json", "fusion_order", "exo_first"),
    "epsilon of the norms": put("config.json", "text_config.rms_norm_eps", 0.5),
    "activation of the tower": put("config.json", "vision_config.hidden_act", "relu"),
    "normalizer": put("tokenizer.json", "normalizer", {"type": "Lowercase"}),
    "aspect": put("processor_config.json", "aspect", "crop"),
    "mean": put("processor_config.json", "image_mean", [0.0, 0.0, 0.0]),
    "deviation": put("processor_config.json", "image_std", [1.0, 1.0, 1.0]),
    "pictures of the teacher": put("processor_config.json", "exo_pictures", {"image_mean": [0.0, 0.0, 0.0]}),
    "tokens that end an answer": put("generation_config.json", "eos_token_id", [2, 5]),
}
UNIMPORTANT: dict[str, Change] = {
    "another folder": lambda folder: None,
    "where it was made": put("config.json", "_name_or_path", "/somewhere/else"),
    "who wrote it": put("config.json", "transformers_version", "5.17.0"),
    "what is laid aside": put("generation_config.json", "repetition_penalty", 5.0),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    built = {name: BUILDERS[name][1](root / name) for name in ("qwen2_vl", "video_llava")}
    model, processor = tiny_model()
    model.save_pretrained(root / "exo2ego")
    processor.save_pretrained(root / "exo2ego")
    return {**built, "exo2ego": root / "exo2ego"}


@pytest.fixture(scope="module")
def originals(folders: dict[str, Path]) -> dict[str, str]:
    return {name: identity_of(name, folder) for name, folder in folders.items()}


def load(name: str, folder: Path) -> PretrainedAnswerer | Exo2EgoAnswerer:
    if name == "exo2ego":
        return Exo2EgoAnswerer.load(folder, form="chat", view=None, max_new_tokens=4)
    options = AnswererOptions(form="chat", view=None, max_new_tokens=4, num_frames=2, endpoint=EndpointOptions())
    answerer = load_answerer(f"{BUILDERS[name][0]}:{folder}", options)
    assert isinstance(answerer, PretrainedAnswerer)
    return answerer


def identity_of(name: str, folder: Path) -> str:
    return load(name, folder).identity


def changed(folder: Path, target: Path, change: Change) -> Path:
    shutil.copytree(folder, target)
    change(target)
    return target


@pytest.mark.parametrize("what", PRETRAINED)
def test_what_decides_the_answers_of_another_model(
    folders: dict[str, Path], originals: dict[str, str], tmp_path: Path, what: str
) -> None:
    name, change = PRETRAINED[what]
    assert identity_of(name, changed(folders[name], tmp_path / "copy", change)) != originals[name]


@pytest.mark.parametrize("what", EXO2EGO)
def test_what_decides_the_answers_of_ours(
    folders: dict[str, Path], originals: dict[str, str], tmp_path: Path, what: str
) -> None:
    copy = changed(folders["exo2ego"], tmp_path / "copy", EXO2EGO[what])
    assert identity_of("exo2ego", copy) != originals["exo2ego"]


@pytest.mark.parametrize("what", UNIMPORTANT)
@pytest.mark.parametrize("name", ["qwen2_vl", "exo2ego"])
def test_a_copied_folder_is_the_same_model(
    folders: dict[str, Path], originals: dict[str, str], tmp_path: Path, what: str, name: str
) -> None:
    assert identity_of(name, changed(folders[name], tmp_path / "elsewhere", UNIMPORTANT[what])) == originals[name]


@pytest.mark.parametrize("name", ["qwen2_vl", "exo2ego"])
def test_answering_changes_nothing_but_weights_precision_and_kernel_do(
    folders: dict[str, Path], originals: dict[str, str], name: str
) -> None:
    answerer = load(name, folders[name])
    video = answerer.encode(numpy.zeros((2, 48, 48, 3), numpy.uint8))
    prompt = answerer.render("Which?")
    answerer.score(video, [ScoreRequest(prompt, ("C pours", "C"), "options")])
    answerer.generate(video, prompt)
    assert answerer.identity == originals[name]
    answerer.model.set_attn_implementation("eager")
    with_eager = answerer.identity
    assert with_eager != originals[name]
    in_half = answerer.model.to(torch.bfloat16)
    assert in_half is answerer.model
    assert answerer.identity not in (with_eager, originals[name])


def test_the_scale_of_an_adapter_counts() -> None:
    found = set()
    for alpha in (16, 512):
        model, processor = tiny_model()
        inject_adapter_in_model(lora_config(LoraOptions(rank=4, alpha=alpha)), model)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                torch.nn.init.constant_(parameter, 0.01)
        found.add(Exo2EgoAnswerer(model, processor).identity)
    assert len(found) == 2


def test_how_an_endpoint_is_asked_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"model": "other"},
        {"base_url": "http://localhost:8001/v1"},
        {"temperature": 0.5},
        {"max_answer_tokens": 1},
    ]
    common = {"model": "made-up", "base_url": "http://localhost:8000/v1"}
    services = [LanguageService(EndpointOptions(**{**common, **changes})) for changes in settings]
    identities = [EndpointAnswerer(service, 4).identity for service in services]
    assert len(set(identities)) == len(settings)
    patient = LanguageService(EndpointOptions(**common, max_attempts=1))  # type: ignore[arg-type]
    assert EndpointAnswerer(patient, 4).identity == identities[0]
    for name in ("LONGEST_SIDE", "JPEG_QUALITY"):
        monkeypatch.setattr(f"eval.answerers.endpoint.{name}", 50)
        assert EndpointAnswerer(services[0], 4).identity not in identities
        monkeypatch.undo()
