"""Fusion of x and F(x): every kind, order and connector sharing gives the tokens it says, in the order it says."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from exo2ego.data.processor import Exo2EgoProcessor
from exo2ego.model.options import ConnectorOptions, MapperOptions
from exo2ego.model.parts import ModelParts
from exo2ego.train.assembly import build_processor
from tests.tiny_models import (
    GRID_SIZE,
    LANGUAGE,
    NUM_FRAMES,
    STAGE2,
    TOWER_WIDTH,
    random_ids,
    random_pixels,
    tiny_model,
    tiny_tokenizer,
)

KINDS = ["token_concat", "time_concat", "channel_concat", "channel_concat_tokens", "sum"]
ORDERS = ["ego_first", "exo_first"]
STEPS, ROWS = NUM_FRAMES // 2 + 1, GRID_SIZE // 2 + 1  # STC with padding 1
ONE_BRANCH = STEPS * ROWS * ROWS
NUM_TOKENS = {
    "token_concat": 2 * ONE_BRANCH,
    "time_concat": (NUM_FRAMES + 1) * ROWS * ROWS,  # 2T frames
    "channel_concat": ONE_BRANCH,
    "channel_concat_tokens": ONE_BRANCH,
    "sum": ONE_BRANCH,
}
TOLERANCE = 1e-5  # float32; a batched and a single call of the connector sum in another order


def features(seed: int = 0) -> Tensor:
    shape = (2, NUM_FRAMES, GRID_SIZE**2, TOWER_WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_token_counts(kind: str, order: str) -> None:
    """The processor's placeholders, the model's own count, and what comes out are one number."""
    model = tiny_model(fusion=kind, fusion_order=order)
    processor: Exo2EgoProcessor = build_processor(model, tiny_tokenizer(), "pad")
    assert processor.num_video_tokens == {"ego_only": ONE_BRANCH, "ego": NUM_TOKENS[kind]}
    for view, count in processor.num_video_tokens.items():
        assert model.visual_tokens(random_pixels(1), view).shape == (1, count, LANGUAGE["hidden_size"])  # type: ignore[arg-type]


def test_token_counts_of_the_published_size() -> None:
    """1521 per branch; 3042, 2873 and 1521 together (16 frames of 24 x 24)."""
    fusion = tiny_model().model.fusion
    connector = tiny_model().model.connector
    grid = (16, 24, 24)
    assert fusion.num_tokens(connector, grid, both=False) == 1521
    found = {}
    for kind in KINDS:
        fusion.kind = kind
        found[kind] = fusion.num_tokens(connector, grid, both=True)
    assert found == {
        "token_concat": 3042,
        "time_concat": 2873,
        "channel_concat": 1521,
        "channel_concat_tokens": 1521,
        "sum": 1521,
    }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["channel_concat", "channel_concat_tokens"])
@torch.no_grad()
def test_channel_concatenation_starts_as_x_alone(kind: str, order: str) -> None:
    model = tiny_model(fusion=kind, fusion_order=order).model
    own, mapped = features(), features(seed=1)
    torch.testing.assert_close(model.fuse(own, mapped), model.tokens(own), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["channel_concat", "channel_concat_tokens"])
def test_channel_concatenation_can_learn_to_hear_the_other_branch(kind: str) -> None:
    model = tiny_model(fusion=kind).model
    model.fuse(features(), features(seed=1)).square().sum().backward()
    joint = model.fusion.joint
    assert isinstance(joint, nn.Linear)
    gradient = joint.weight.grad
    assert gradient is not None
    assert gradient[:, joint.out_features :].abs().min() > 0


@torch.no_grad()
def test_token_concatenation_follows_the_order() -> None:
    for order, own_first in (("ego_first", True), ("exo_first", False)):
        model = tiny_model(fusion_order=order).model
        own, mapped = features(), features(seed=1)
        expected = [model.tokens(own), model.tokens(mapped)]
        joined = torch.cat(expected if own_first else expected[::-1], dim=1)
        torch.testing.assert_close(model.fuse(own, mapped), joined, rtol=TOLERANCE, atol=TOLERANCE)


@torch.no_grad()
def test_time_concatenation_is_one_longer_clip() -> None:
    model = tiny_model(fusion="time_concat").model
    own, mapped = features(), features(seed=1)
    longer = model.connector(torch.cat((own, mapped), dim=1), GRID_SIZE, GRID_SIZE)
    assert torch.equal(model.fuse(own, mapped), longer)


@torch.no_grad()
def test_sum_adds_tokens() -> None:
    model = tiny_model(fusion="sum").model
    own, mapped = features(), features(seed=1)
    expected = model.tokens(own) + model.tokens(mapped)
    torch.testing.assert_close(model.fuse(own, mapped), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["token_concat", "channel_concat_tokens", "sum"])
@torch.no_grad()
def test_view_embedding_starts_silent_and_marks_the_branches(kind: str) -> None:
    model = tiny_model(fusion=kind, view_embedding=True).model
    own, mapped = features(), features(seed=1)
    silent = model.fuse(own, mapped)
    without = tiny_model(fusion=kind).model
    without.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(silent, without.fuse(own, mapped))
    model.fusion.view_embedding[0] = 1
    changed = (model.fuse(own, mapped) - silent).abs().amax(dim=-1)[0]
    assert changed[:ONE_BRANCH].min() > 0
    if kind == "token_concat":
        assert changed[ONE_BRANCH:].max() == 0


@pytest.mark.parametrize("kind", ["token_concat", "channel_concat_tokens", "sum"])
@torch.no_grad()
def test_per_branch_connectors(kind: str) -> None:
    """x passes the ego connector, F(x) and y the exo connector."""
    sharing = ConnectorOptions(depth=1, sharing="per_branch")
    model = tiny_model(ModelParts(teacher=True, mapper=True), fusion=kind, connector=sharing).model
    shared = copy.deepcopy(model)
    shared.connector_exo = None
    own, mapped = features(), features(seed=1)
    model.connector_exo.readout[-1].bias += 1
    ego, exo = model.tokens(own), model.tokens(mapped, exo=True)
    torch.testing.assert_close(model.fuse(own, mapped), model.fusion(ego, exo), rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(ego, shared.tokens(own), rtol=TOLERANCE, atol=TOLERANCE)
    pixels = random_pixels(1)
    expected = model.connector_exo(model.teacher_tower(pixels), GRID_SIZE, GRID_SIZE)
    torch.testing.assert_close(model.visual_tokens(pixels, "exo"), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["token_concat", "channel_concat_tokens", "sum"])
@torch.no_grad()
def test_mapping_behind_the_connector(kind: str) -> None:
    """A3: F maps the connector's tokens on their grid."""
    mapper = MapperOptions(position="connector", width=8, num_blocks=1)
    model = tiny_model(STAGE2, fusion=kind, mapper=mapper)
    pixels = random_pixels(2)
    ids = random_ids(model)
    output = model(input_ids=ids, pixel_values_videos=pixels, exo_pixel_values_videos=random_pixels(2, 2), cycle="both")
    assert output.mapped_features.shape == (2, STEPS, ROWS * ROWS, LANGUAGE["hidden_size"])
    assert output.exo_cycle.shape == (2, 2, STEPS, ROWS * ROWS, LANGUAGE["hidden_size"])
    tokens = model.model.connector(model.model.vision_tower(pixels), GRID_SIZE, GRID_SIZE)
    mapped = model.model.mapper_f(tokens.unflatten(1, (STEPS, -1)), ROWS, ROWS).flatten(1, 2)
    expected = model.model.fusion(tokens, mapped)
    torch.testing.assert_close(model.visual_tokens(pixels, "ego"), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fusion": "channel_concat", "mapper": MapperOptions(position="connector")}, "mapper.position=encoder"),
        ({"fusion": "time_concat", "mapper": MapperOptions(position="connector")}, "mapper.position=encoder"),
        ({"fusion": "time_concat", "view_embedding": True}, "view_embedding=false"),
        ({"fusion": "channel_concat", "connector": ConnectorOptions(sharing="per_branch")}, "sharing=shared"),
        (
            {"connector": ConnectorOptions(kind="mlp"), "mapper": MapperOptions(position="connector")},
            "mlp averages over time",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        tiny_model(**changes)


def test_every_misfit_is_named_at_once() -> None:
    mapper = MapperOptions(position="connector")
    with pytest.raises(ValidationError, match=r"(?s)mapper.position=encoder.*view_embedding=false"):
        tiny_model(fusion="time_concat", view_embedding=True, mapper=mapper)


@pytest.mark.parametrize("kind", KINDS)
def test_fusion_has_no_weights_where_there_is_no_mapper(kind: str) -> None:
    """They would train without ever getting a gradient."""
    assert not list(tiny_model(ModelParts(), fusion=kind).model.fusion.parameters())
