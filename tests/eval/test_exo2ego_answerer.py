"""Scores of the Exo2Ego answerer: equal to one full forward pass per option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.answerers import exo2ego
from eval.answerers.exo2ego import Exo2EgoAnswerer, ReadVideo
from eval.answerers.protocol import ScoreRequest
from eval.answerers.token_tree import Segment
from exo2ego.errors import EvaluationError
from exo2ego.model.options import View
from tests.eval.tiny_model import NARRATIONS, tiny_model

TOLERANCE = 1e-4  # float32, another order of the same sums; measured worst case 2e-6
MODEL, PROCESSOR = tiny_model()
FRAMES = numpy.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), dtype=numpy.uint8)
OTHER_FRAMES = numpy.random.default_rng(1).integers(0, 256, (2, 48, 48, 3), dtype=numpy.uint8)


def answerer(view: View | None = None, form: str = "chat") -> Exo2EgoAnswerer:
    return Exo2EgoAnswerer(MODEL, PROCESSOR, form=form, view=view, max_new_tokens=4)  # type: ignore[arg-type]


def options_of(model: Exo2EgoAnswerer, video: ReadVideo, prompt: str, options: Sequence[str]) -> list[float]:
    (scores,) = model.score(video, [ScoreRequest(prompt, tuple(options), "options")])
    return scores


@torch.inference_mode()
def mean_log_probability(prompt: str, option: str, view: View) -> float:
    """The same number by one pass over prompt and option together, video included."""
    inputs = PROCESSOR.prepare(prompt, FRAMES, view)
    target = PROCESSOR.encode_continuation(option)
    ids = torch.cat((inputs["input_ids"], torch.tensor([target])), dim=1)
    logits = MODEL(input_ids=ids, pixel_values_videos=inputs["pixel_values_videos"], view=view).logits[0]
    log_probabilities = logits.log_softmax(-1)[-len(target) - 1 : -1]
    return float(log_probabilities[torch.arange(len(target)), target].mean())


@pytest.mark.parametrize("view", ["ego", "ego_only", "exo"])
@pytest.mark.parametrize("form", ["chat", "plain"])
def test_cached_scores_equal_one_pass_per_option(view: View, form: str) -> None:
    model = answerer(view, form)
    prompt = model.render("Which description?")
    found = options_of(model, model.encode(FRAMES), prompt, NARRATIONS)
    expected = [mean_log_probability(prompt, option, view) for option in NARRATIONS]
    assert found == pytest.approx(expected, abs=TOLERANCE)
    assert len({round(score, 4) for score in found}) == len(found), "the options must differ for the test to mean much"


@settings(max_examples=25)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=10))
def test_any_options_score_as_alone(options: Sequence[str]) -> None:
    model = answerer()
    prompt = model.render("Which description?")
    video = model.encode(FRAMES)
    together = options_of(model, video, prompt, options)
    alone = [options_of(model, video, prompt, [option])[0] for option in options]
    assert together == pytest.approx(alone, abs=TOLERANCE)


def test_letters_are_scored_as_first_tokens() -> None:
    model = answerer()
    prompt = model.render("Which description?")
    inputs = PROCESSOR.prepare(prompt, FRAMES, "ego")
    with torch.inference_mode():
        log_probabilities = MODEL(**inputs, view="ego").logits[0, -1].log_softmax(-1)
    ids = [PROCESSOR.tokenizer.convert_tokens_to_ids(letter) for letter in "ABC"]
    expected = log_probabilities[ids].tolist()
    (found,) = model.score(model.encode(FRAMES), [ScoreRequest(prompt, ("A", "B", "C"), "letters")])
    assert found == pytest.approx(expected, abs=TOLERANCE)


def test_generation_continues_the_prompt() -> None:
    model = answerer()
    prompt = model.render("Which description?")
    inputs = PROCESSOR.prepare(prompt, FRAMES, "ego")
    ids = inputs["input_ids"]
    expected = MODEL.generate(**inputs, view="ego", max_new_tokens=4, do_sample=False)[0, ids.shape[1] :]
    assert model.generate(model.encode(FRAMES), prompt) == PROCESSOR.tokenizer.decode(
        expected, skip_special_tokens=True
    )


@pytest.mark.parametrize("largest", [1, 60, 10_000])
def test_all_questions_about_a_clip_score_as_alone(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The video is read once for all of them, whatever they are asked in between."""
    monkeypatch.setattr(exo2ego, "LARGEST_TREE_TOKENS", largest)
    model = answerer()
    turns = ["Which description?", "What happens?", "Which of these? Look at the hands.", "Which description?"]
    requests = [
        ScoreRequest(model.render(turn), tuple(NARRATIONS[: 2 + number]), "options")
        for number, turn in enumerate(turns)
    ]
    requests.insert(2, ScoreRequest(model.render("A letter?"), ("A", "B", "C"), "letters"))
    alone = [model.score(model.encode(FRAMES), [request])[0] for request in requests]
    passes: list[int] = []
    read = Exo2EgoAnswerer._read
    monkeypatch.setattr(Exo2EgoAnswerer, "_read", lambda *given: passes.append(1) or read(*given))
    video = model.encode(FRAMES)
    first = model.generate(video, requests[0].prompt)
    together = model.score(video, requests)
    assert len(passes) == 1
    for found, expected in zip(together, alone, strict=True):
        assert found == pytest.approx(expected, abs=TOLERANCE)
    assert model.generate(video, requests[0].prompt) == first
    assert model.score(video, requests[:1])[0] == pytest.approx(alone[0], abs=TOLERANCE)


def test_nothing_is_computed_of_the_last_layer_that_nobody_needs() -> None:
    """Of the prefix it computes keys and values alone; the head sees only places that predict a scored token."""
    layers, seen = MODEL.model.language_model.layers, {"first": 0, "last": 0, "head": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(_: Any, given: tuple[torch.Tensor, ...]) -> None:
            seen[name] += given[0].shape[1]

        return hook

    watched = {"first": layers[0].mlp, "last": layers[-1].mlp, "head": MODEL.lm_head}
    hooks = [module.register_forward_pre_hook(count(name)) for name, module in watched.items()]
    try:
        model = answerer()
        video = model.encode(FRAMES)
        options_of(model, video, model.render("Which description?"), NARRATIONS)
    finally:
        for hook in hooks:
            hook.remove()
    lengths = [len(PROCESSOR.encode_continuation(text)) for text in NARRATIONS]
    assert seen["first"] == seen["last"] + len(video.prefix)
    assert seen["head"] == 1 + sum(length - 1 for length in lengths)


@pytest.mark.parametrize("mode", ["options", "letters"])
def test_the_sentence_before_all_questions_is_read_once(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = answerer()
    sentence = "Pay attention to the left hand and to the right hand of the person. "
    prompts = [model.render(sentence + question) for question in ("Which?", "Which one?", "What?", "What?")]
    requests = [
        ScoreRequest(prompt, ("A", "B") if mode == "letters" else tuple(NARRATIONS), mode)  # type: ignore[arg-type]
        for prompt in prompts
    ]
    alone = [model.score(model.encode(FRAMES), [request])[0] for request in requests]
    lengths: list[int] = []
    read = exo2ego.tree_inputs
    monkeypatch.setattr(exo2ego, "tree_inputs", lambda *given: lengths.append(num_tokens(given[0])) or read(*given))
    together = model.score(model.encode(FRAMES), requests)
    assert together == [pytest.approx(scores, abs=TOLERANCE) for scores in alone]
    continued = sum(len(PROCESSOR.encode_continuation(text)) - 1 for text in NARRATIONS) if mode == "options" else 0
    questions = [len(PROCESSOR.encode_prompt(prompt)) - PROCESSOR.num_video_tokens["ego"] for prompt in prompts]
    shared = len(PROCESSOR.tokenizer(sentence, add_special_tokens=False).input_ids)
    assert lengths[0] <= sum(questions) + 4 * continued - 3 * (shared - 1)


def num_tokens(segments: Sequence[Segment]) -> int:
    return sum(len(segment.ids) for segment in segments)


def test_a_clip_with_many_questions_is_read_in_trees_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exo2ego, "LARGEST_TREE_TOKENS", 200)
    lengths: list[int] = []
    read = exo2ego.tree_inputs
    monkeypatch.setattr(exo2ego, "tree_inputs", lambda *given: lengths.append(num_tokens(given[0])) or read(*given))
    model = answerer()
    requests = [ScoreRequest(model.render(f"Which of {n}?"), tuple(NARRATIONS * 2), "options") for n in range(60)]
    assert len(model.score(model.encode(FRAMES), requests)) == 60
    one = model._plan(model.encode(FRAMES), requests[-1]).num_tokens
    assert max(lengths) <= max(200, one)


def test_texts_beyond_a_sliding_window_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = answerer()
    video, prompt = model.encode(FRAMES), model.render("Which description?")
    expected = options_of(model, video, prompt, NARRATIONS)
    longest = max(len(PROCESSOR.encode_continuation(text)) for text in NARRATIONS)
    needed = len(PROCESSOR.encode_prompt(prompt)) + longest - 1
    monkeypatch.setattr(MODEL.model.language_model.config, "sliding_window", needed)
    assert options_of(model, model.encode(FRAMES), prompt, NARRATIONS) == pytest.approx(expected, abs=TOLERANCE)
    monkeypatch.setattr(MODEL.model.language_model.config, "sliding_window", needed - 1)
    with pytest.raises(EvaluationError, match=f"take {needed} tokens, but .* looks back {needed - 1}"):
        options_of(model, model.encode(FRAMES), prompt, NARRATIONS)


def test_the_video_matters() -> None:
    model = answerer()
    prompt = model.render("Which description?")
    first, second = (options_of(model, model.encode(frames), prompt, NARRATIONS) for frames in (FRAMES, OTHER_FRAMES))
    assert first != second


def test_plain_form_has_the_video_alone() -> None:
    assert answerer(form="plain").render("Which description?") == "<video>"
    assert answerer().render("Which description?") == "[INST] <video>\nWhich description? [/INST]"


def test_identity_changes_with_any_weight() -> None:
    before = answerer().identity
    assert answerer().identity == before
    weight = MODEL.lm_head.weight.data
    weight[0, 0] += 1
    after = answerer().identity
    weight[0, 0] -= 1
    assert after != before
