"""Connectors: parity with VideoLLaMA2's module, token counts and sizes of the published model, recomputation."""

from __future__ import annotations

import copy

import numpy
import pytest
import torch
from torch import Tensor

from exo2ego.errors import ConfigError
from exo2ego.model.connector import SpatialTemporalConnector, build_connector
from exo2ego.model.weights import load_exactly
from tests.shared_data import shared_path
from tests.tiny_models import num_parameters_in_millions, on_meta_device

GOLDEN_TOLERANCE = 1e-5  # float32 convolutions in another order of sums; on the machine of the golden file it is 0
RECOMPUTED_TOLERANCE = 1e-6  # the same operations on the same numbers, float32

KINDS = ["stc", "stc_v35", "stp", "mlp", "linear"]


def test_stc_equals_videollama2() -> None:
    golden = numpy.load(shared_path("data/golden/model/stc_connector.npz"))
    prefix = "weight/"
    weights = {name.removeprefix(prefix): torch.from_numpy(golden[name]) for name in golden if name.startswith(prefix)}
    connector = SpatialTemporalConnector(8, 16, depth=4, padding=1, pooling=False)
    load_exactly(connector, weights, where="golden")
    with torch.no_grad():
        tokens = connector(torch.from_numpy(golden["input"]), 6, 6)
    assert (tokens - torch.from_numpy(golden["output"])).abs().max() < GOLDEN_TOLERANCE


@pytest.mark.parametrize(
    ("kind", "num_frames", "out_grid"),
    [
        ("stc", 16, (9, 13, 13)),
        ("stc", 8, (5, 13, 13)),
        ("stc_v35", 16, (8, 12, 12)),
        ("stp", 16, (8, 12, 12)),
        ("mlp", 16, (1, 24, 24)),
        ("linear", 16, (1, 24, 24)),
    ],
)
def test_token_counts_of_the_published_model(kind: str, num_frames: int, out_grid: tuple[int, int, int]) -> None:
    connector = on_meta_device(lambda: build_connector(kind, 1024, 4096, depth=4))
    assert connector.out_grid((num_frames, 24, 24)) == out_grid


def test_siglip_grid_of_27_patches_gives_1352_tokens() -> None:
    grid = build_connector("stc_v35", 8, 16, depth=1).out_grid((16, 27, 27))
    assert numpy.prod(grid) == 1352


@pytest.mark.parametrize(
    ("kind", "millions"), [("stc", 489.19), ("stc_v35", 489.19), ("stp", 354.97), ("mlp", 20.98), ("linear", 4.2)]
)
def test_parameter_counts_of_the_published_model(kind: str, millions: float) -> None:
    connector = on_meta_device(lambda: build_connector(kind, 1024, 4096, depth=4))
    assert num_parameters_in_millions(connector) == millions


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_tokens_as_the_grid_says(kind: str) -> None:
    connector = build_connector(kind, 8, 16, depth=1)
    for grid in [(2, 6, 6), (5, 4, 7), (3, 8, 3)]:
        time, height, width = grid
        tokens = connector(torch.randn(2, time, height * width, 8), height, width)
        assert tokens.shape == (2, numpy.prod(connector.out_grid(grid)), 16)


def test_tokens_run_through_space_before_time() -> None:
    torch.manual_seed(0)
    connector = build_connector("stp", 8, 16, depth=1).eval()  # without padding a step sees its own frames only
    features = torch.randn(1, 4, 36, 8)
    changed = features.clone()
    changed[:, 2:] += 1
    difference = (connector(features, 6, 6) - connector(changed, 6, 6)).abs().amax(dim=-1)[0]
    assert difference[:9].max() == 0
    assert difference[9:].min() > 0


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_frame_average_connectors_see_the_mean_over_time(kind: str) -> None:
    connector = build_connector(kind, 8, 16, depth=1)
    features = torch.randn(2, 4, 36, 8)
    mean_only = features.mean(dim=1, keepdim=True)
    torch.testing.assert_close(connector(features, 6, 6), connector(mean_only, 6, 6))


def test_a_grid_that_vanishes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(1, 24, 24\).*more frames"):
        build_connector("stc_v35", 8, 16, depth=1).out_grid((1, 24, 24))


@pytest.mark.parametrize("trains_tower", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_recomputation_changes_nothing(kind: str, trains_tower: bool) -> None:
    torch.manual_seed(0)
    plain = build_connector(kind, 8, 16, depth=2)
    recomputing = copy.deepcopy(plain)
    recomputing.gradient_checkpointing = True
    features = torch.randn(2, 4, 36, 8, requires_grad=trains_tower)
    results: list[list[Tensor]] = []
    for connector in (plain, recomputing):
        features.grad = None
        tokens = connector(features, 6, 6)
        tokens.square().sum().backward()
        gradients = [parameter.grad for parameter in connector.parameters()] + [features.grad] * trains_tower
        results.append([tokens, *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=RECOMPUTED_TOLERANCE, atol=RECOMPUTED_TOLERANCE)


@pytest.mark.parametrize("trains_tower", [True, False])
def test_recomputation_keeps_less(trains_tower: bool) -> None:
    """Also where the tower is frozen, so that the features themselves need no gradient (Exo2Ego Table 8, row 3)."""
    connector = build_connector("stc", 8, 16, depth=2)
    kept = {}
    for recomputes in (False, True):
        connector.gradient_checkpointing = recomputes
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            connector(torch.randn(1, 4, 36, 8, requires_grad=trains_tower), 6, 6)
        kept[recomputes] = sum(sizes)
    assert kept[True] < kept[False] / 3
