"""The whole model: losses at labels, splicing, generation, stage 2's features, and what gradients reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM

from exo2ego.losses.cycle import cycle_loss
from exo2ego.losses.divergence import divergence_loss
from exo2ego.model.modeling import Exo2EgoForConditionalGeneration
from exo2ego.model.options import ConnectorOptions, PartOptions
from exo2ego.model.parts import ModelParts
from exo2ego.model.tokens import IGNORED
from tests.tiny_models import (
    GRID_SIZE,
    LANGUAGE,
    NUM_FRAMES,
    STAGE2,
    TOWER,
    TOWER_WIDTH,
    random_ids,
    random_pixels,
    tiny_model,
)

TOLERANCE = 1e-5  # float32; the same sums over another number of positions
CLIPS, VIEWS, NUM_TEXT = 2, 3, 6
WIDTH = LANGUAGE["hidden_size"]
VIEWS_OF_MODEL = ["ego", "ego_only", "exo"]


def labels_of(ids: Tensor, num_text: int = NUM_TEXT) -> Tensor:
    labels = torch.full_like(ids, IGNORED)
    labels[:, -num_text:] = ids[:, -num_text:]
    labels[0, -1] = IGNORED  # texts of different lengths
    return labels


def stage2_inputs(model: Exo2EgoForConditionalGeneration) -> dict[str, Tensor]:
    ids = random_ids(model)
    return {
        "input_ids": ids,
        "labels": labels_of(ids),
        "pixel_values_videos": random_pixels(CLIPS),
        "exo_pixel_values_videos": random_pixels(CLIPS, VIEWS, seed=1),
    }


@torch.no_grad()
def test_loss_at_labels_is_the_full_cross_entropy() -> None:
    model = tiny_model()
    ids, pixels = random_ids(model), random_pixels(CLIPS)
    labels = labels_of(ids)
    output = model(input_ids=ids, pixel_values_videos=pixels, labels=labels)
    logits = model(input_ids=ids, pixel_values_videos=pixels).logits
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(output.loss, expected, rtol=TOLERANCE, atol=TOLERANCE)
    of_causal_model = model.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1])
    torch.testing.assert_close(output.loss, of_causal_model, rtol=TOLERANCE, atol=TOLERANCE)
    assert output.target_logits.shape == (2 * NUM_TEXT - 1, logits.shape[-1])
    assert output.target_ids.tolist() == labels[labels != IGNORED].tolist()


@torch.no_grad()
def test_training_fills_no_cache() -> None:
    model = tiny_model()
    used = []
    model.model.language_model.register_forward_hook(
        lambda *call: used.append(call[-1].past_key_values is not None), with_kwargs=True
    )
    inputs = {"input_ids": random_ids(model), "pixel_values_videos": random_pixels(CLIPS)}
    model(**inputs, labels=labels_of(inputs["input_ids"]))
    assert model(**inputs).past_key_values is not None
    assert used == [False, True]


def test_a_batch_without_labels_has_loss_zero_and_gradients() -> None:
    model = tiny_model()
    ids = random_ids(model)
    output = model(input_ids=ids, pixel_values_videos=random_pixels(CLIPS), labels=torch.full_like(ids, IGNORED))
    assert output.loss == 0
    output.loss.backward()
    assert model.model.connector.readout[0].weight.grad is not None


@torch.no_grad()
def test_language_model_is_transformers_mistral() -> None:
    """Logits equal AutoModelForCausalLM's on the same embeddings."""
    model = tiny_model()
    values = dict(LANGUAGE)
    mistral = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values)).eval()
    mistral.get_decoder().load_state_dict(model.model.language_model.state_dict())
    mistral.lm_head.load_state_dict(model.lm_head.state_dict())
    embeddings = torch.randn(2, 9, WIDTH)
    expected = mistral(inputs_embeds=embeddings).logits
    assert torch.equal(model(inputs_embeds=embeddings).logits, expected)
    ids = random_ids(model)[:, -NUM_TEXT:]
    assert torch.equal(model(input_ids=ids).logits, mistral(input_ids=ids).logits)


@pytest.mark.parametrize("view", VIEWS_OF_MODEL)
@torch.no_grad()
def test_video_encoded_before_equals_pixels(view: str) -> None:
    model = tiny_model(STAGE2)
    ids, pixels = random_ids(model, view), random_pixels(CLIPS)
    tokens = model.visual_tokens(pixels, view)
    before = model(input_ids=ids, visual_tokens=tokens).logits
    assert torch.equal(before, model(input_ids=ids, pixel_values_videos=pixels, view=view).logits)


@torch.no_grad()
def test_views_are_x_fx_and_y() -> None:
    model = tiny_model(STAGE2)
    inner, pixels = model.model, random_pixels(CLIPS)
    ego, exo = inner.vision_tower(pixels), inner.teacher_tower(pixels)
    mapped = inner.mapper_f(ego, GRID_SIZE, GRID_SIZE)
    assert torch.equal(model.visual_tokens(pixels, "ego_only"), inner.tokens(ego))
    assert torch.equal(model.visual_tokens(pixels, "exo"), inner.tokens(exo))
    assert torch.equal(model.visual_tokens(pixels, "ego"), inner.fuse(ego, mapped))
    assert torch.equal(model.visual_tokens(pixels), inner.fuse(ego, mapped)), "with a mapper the default is both"
    inner.mapper_f, model.config.has_mapper = None, False
    assert torch.equal(model.visual_tokens(pixels), inner.tokens(ego)), "without one it is x alone"


@torch.no_grad()
def test_visual_tokens_stand_in_order_where_the_placeholders_are() -> None:
    model = tiny_model()
    tokens = torch.randn(CLIPS, model.model.num_video_tokens("ego"), WIDTH)
    ids = random_ids(model)
    ids[1] = ids[1].roll(2)  # text, BOS, video, text
    embeddings = model.model.spliced(ids, tokens)
    is_video = ids == model.config.video_token_id
    for row in range(CLIPS):
        assert torch.equal(embeddings[row][is_video[row]], tokens[row])
        own = model.get_input_embeddings()(ids[row])
        assert torch.equal(embeddings[row][~is_video[row]], own[~is_video[row]])


def test_placeholders_that_do_not_fit_are_refused_with_both_numbers() -> None:
    model = tiny_model()
    ids = random_ids(model)
    num_video = model.model.num_video_tokens("ego")
    with pytest.raises(ValueError, match=rf"needs 75 video placeholders.*rows have \[{num_video}, {num_video}\]"):
        model(input_ids=ids, visual_tokens=torch.randn(CLIPS, 75, WIDTH))
    ids[0, 1] = 5  # the batch has the right number in all, the rows have not
    ids[1, -1] = model.config.video_token_id
    with pytest.raises(ValueError, match=rf"rows have \[{num_video - 1}, {num_video + 1}\]"):
        model(input_ids=ids, visual_tokens=torch.randn(CLIPS, num_video, WIDTH))


def test_placeholders_without_a_video_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match=r"needs 0 video placeholders.*rows have \[150, 150\]"):
        model(input_ids=random_ids(model))


@pytest.mark.parametrize("view", VIEWS_OF_MODEL)
@torch.no_grad()
def test_generation_is_uncached_greedy_decoding(view: str) -> None:
    model = tiny_model(STAGE2)
    ids, pixels = random_ids(model, view), random_pixels(CLIPS)
    mask = torch.ones_like(ids)
    new_tokens = 5
    generated = model.generate(
        input_ids=ids,
        attention_mask=mask,
        pixel_values_videos=pixels,
        view=view,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
    )
    by_hand = ids
    for _ in range(new_tokens):
        logits = model(input_ids=by_hand, pixel_values_videos=pixels, view=view, use_cache=False).logits[:, -1]
        logits[:, [model.config.video_token_id, model.config.eos_token_id]] = -torch.inf
        by_hand = torch.cat((by_hand, logits.argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(generated, by_hand)


@torch.no_grad()
def test_generation_from_encoded_video_and_with_several_beams_per_clip() -> None:
    model = tiny_model()
    ids, pixels = random_ids(model), random_pixels(CLIPS)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 3, "num_beams": 2, "do_sample": False}
    from_pixels = model.generate(input_ids=ids, pixel_values_videos=pixels, **options)
    from_tokens = model.generate(input_ids=ids, visual_tokens=model.visual_tokens(pixels), **options)
    assert torch.equal(from_pixels, from_tokens)


@torch.no_grad()
def test_generation_never_writes_the_placeholder_and_stops_at_the_end_token() -> None:
    model = tiny_model()
    ids, pixels = random_ids(model), random_pixels(CLIPS)
    model.lm_head.weight.zero_()
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(model.lm_head.out_features))
    model.lm_head.bias[model.config.video_token_id] = 2.0
    model.lm_head.bias[model.config.eos_token_id] = 1.0
    generated = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=pixels,
        max_new_tokens=4,
        do_sample=False,
    )
    assert generated[:, ids.shape[1] :].tolist() == [[model.config.eos_token_id]] * CLIPS


@torch.no_grad()
def test_padding_on_the_right_changes_nothing() -> None:
    model = tiny_model()
    ids, pixels = random_ids(model), random_pixels(CLIPS)
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=pixels).logits
    padded = functional.pad(ids, (0, 3), value=0)
    mask = functional.pad(torch.ones_like(ids), (0, 3))
    of_padded = model(input_ids=padded, attention_mask=mask, pixel_values_videos=pixels).logits
    torch.testing.assert_close(of_padded[:, :-3], logits, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_stage2_gives_the_features_that_the_losses_compare() -> None:
    model = tiny_model(STAGE2)
    inputs = stage2_inputs(model)
    output = model(**inputs, cycle="both")
    per_clip = (CLIPS, NUM_FRAMES, GRID_SIZE**2, TOWER_WIDTH)
    per_view = (CLIPS, VIEWS, NUM_FRAMES, GRID_SIZE**2, TOWER_WIDTH)
    inner = model.model

    def mapped_by(mapper: torch.nn.Module, features: Tensor) -> Tensor:
        flat = features.flatten(0, -4)
        return mapper(flat, GRID_SIZE, GRID_SIZE).reshape(features.shape)

    ego = inner.vision_tower(inputs["pixel_values_videos"])
    exo = inner.teacher_tower(inputs["exo_pixel_values_videos"].flatten(0, 1)).reshape(per_view)
    mapped = mapped_by(inner.mapper_f, ego)
    expected = {
        "ego_features": (per_clip, ego),
        "mapped_features": (per_clip, mapped),
        "exo_features": (per_view, exo),
        "ego_cycle": (per_clip, mapped_by(inner.mapper_g, mapped)),
        "exo_cycle": (per_view, mapped_by(inner.mapper_f, mapped_by(inner.mapper_g, exo))),
    }
    for name, (shape, value) in expected.items():
        assert getattr(output, name).shape == shape
        torch.testing.assert_close(getattr(output, name), value, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("cycle", "closed"), [("off", []), ("forward", ["ego_cycle"]), ("both", ["ego_cycle", "exo_cycle"])]
)
def test_only_the_wanted_cycles_are_closed(cycle: str, closed: list[str]) -> None:
    model = tiny_model(STAGE2)
    output = model(**stage2_inputs(model), cycle=cycle)
    assert [name for name in ("ego_cycle", "exo_cycle") if getattr(output, name) is not None] == closed


@torch.no_grad()
def test_exo_video_never_reaches_the_language_model() -> None:
    """A4: y is a target of KL and cycle loss, never an input (Exo2Ego Figure 4)."""
    model = tiny_model(STAGE2)
    inputs = stage2_inputs(model)
    guided = model(**inputs, cycle="both")
    inputs["exo_pixel_values_videos"] = random_pixels(CLIPS, VIEWS, seed=2)
    other = model(**inputs, cycle="both")
    assert not torch.equal(guided.exo_features, other.exo_features)
    assert torch.equal(guided.target_logits, other.target_logits)
    del inputs["exo_pixel_values_videos"]
    assert torch.equal(guided.target_logits, model(**inputs, view="ego").target_logits)


def freeze(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad_(False)


def test_a_frozen_teacher_has_no_graph_and_stays_in_eval_mode() -> None:
    dropout = PartOptions(architecture={**TOWER, "attention_dropout": 0.5})
    model = tiny_model(STAGE2, vision_tower=dropout)
    freeze(model.model.teacher_tower)
    model.train()
    assert model.model.vision_tower.training
    assert not model.model.teacher_tower.training
    inputs = stage2_inputs(model)
    output = model(**inputs, cycle="both")
    assert output.exo_features.grad_fn is None
    assert not output.exo_features.requires_grad
    assert torch.equal(output.exo_features, model(**inputs).exo_features), "dropout would make the targets noise"


def test_a_trained_teacher_has_a_graph_but_not_without_gradients() -> None:
    model = tiny_model(STAGE2).train()
    assert model.model.teacher_tower.training
    assert model(**stage2_inputs(model)).exo_features.grad_fn is not None
    has_graph = []
    model.model.teacher_tower.register_forward_hook(lambda *call: has_graph.append(call[-1].requires_grad))
    with torch.no_grad():
        model(**stage2_inputs(model))
    assert has_graph == [False]


def tower_gradient(model: Exo2EgoForConditionalGeneration, loss: Tensor) -> Tensor | None:
    model.zero_grad()
    loss.sum().backward()
    return next(model.model.vision_tower.parameters()).grad


def test_the_cycle_reaches_x_through_its_input_and_not_through_its_target() -> None:
    model = tiny_model(STAGE2)
    inputs = stage2_inputs(model)
    attached = model(**inputs, cycle="forward")
    assert tower_gradient(model, cycle_loss(attached.ego_features, attached.ego_cycle)) is not None
    detached = model(**inputs, cycle="forward", detach_cycle_input=True)
    assert torch.equal(detached.ego_cycle, attached.ego_cycle)
    assert tower_gradient(model, cycle_loss(detached.ego_features, detached.ego_cycle)) is None
    again = model(**inputs, cycle="forward", detach_cycle_input=True)
    target = cycle_loss(again.ego_features, again.ego_cycle, detach_target=False)
    assert tower_gradient(model, target) is not None


def test_the_cycle_of_y_trains_the_mappers_and_not_the_teacher() -> None:
    model = tiny_model(STAGE2)
    model(**stage2_inputs(model), cycle="both").exo_cycle.sum().backward()
    for mapper in (model.model.mapper_f, model.model.mapper_g):
        assert next(mapper.parameters()).grad is not None
    assert next(model.model.teacher_tower.parameters()).grad is None


def test_the_divergence_trains_the_student_and_not_the_teacher() -> None:
    model = tiny_model(STAGE2)  # the teacher is not frozen here: it is the loss that must stop the gradient
    output = model(**stage2_inputs(model))
    teacher, student = output.exo_features.flatten(0, 1), output.mapped_features.repeat_interleave(VIEWS, dim=0)
    assert tower_gradient(model, divergence_loss(teacher, student)) is not None
    assert next(model.model.mapper_f.parameters()).grad is not None
    assert next(model.model.teacher_tower.parameters()).grad is None


def test_every_part_gets_a_gradient_in_stage2() -> None:
    model = tiny_model(STAGE2)
    freeze(model.model.teacher_tower)
    freeze(model.model.language_model)
    freeze(model.lm_head)
    output = model(**stage2_inputs(model), cycle="both")
    views = output.exo_features.flatten(0, 1)
    divergence = divergence_loss(views, output.mapped_features.repeat_interleave(VIEWS, dim=0)).sum()
    cycle = cycle_loss(output.ego_features, output.ego_cycle).sum()
    cycle = cycle + cycle_loss(views, output.exo_cycle.flatten(0, 1)).sum()
    (output.loss + divergence + cycle).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    frozen_with = [name for name, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
    assert (without, frozen_with) == ([], [])


@pytest.mark.parametrize("sharing", ["shared", "per_branch"])
def test_recomputation_in_all_parts_changes_no_gradient(sharing: str) -> None:
    gradients = []
    for parts in ([], ["towers", "connector", "mappers", "language_model"]):
        model = tiny_model(STAGE2, connector=ConnectorOptions(depth=1, sharing=sharing)).train()
        model.set_gradient_checkpointing(parts)
        output = model(**stage2_inputs(model), cycle="both")
        loss = output.loss + cycle_loss(output.ego_features, output.ego_cycle).sum() + output.exo_cycle.square().mean()
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_parts_that_are_absent_are_refused_by_name() -> None:
    model = tiny_model(ModelParts())
    with pytest.raises(ValueError, match="no teacher tower"):
        model.visual_tokens(random_pixels(1), "exo")
    with pytest.raises(ValueError, match="without that mapper"):
        model.visual_tokens(random_pixels(1), "ego")
    with pytest.raises(ValueError, match="needs pixel_values_videos"):
        model(input_ids=random_ids(model, "ego_only"), exo_pixel_values_videos=random_pixels(2, 1))
