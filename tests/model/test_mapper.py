"""The mappers F and G: shapes, sizes, what InstanceNorm makes them blind to, and the identity start."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from exo2ego.errors import ConfigError
from exo2ego.model.mapper import Mapper, build_mapper
from exo2ego.model.options import MapperOptions
from exo2ego.model.registry import MAPPERS
from exo2ego.model.transformer_mapper import positions
from tests.tiny_models import num_parameters_in_millions, on_meta_device

CHANNELS = 16
BLIND_TOLERANCE = 1e-4  # float32 rounding of features of size 10 through 2 blocks; what is not blind changes by > 0.1
SEEN = 0.1
RECOMPUTED_TOLERANCE = 1e-6  # the same operations on the same numbers, float32


def small_mapper(**changes: object) -> Mapper:
    torch.manual_seed(0)
    return build_mapper(CHANNELS, CHANNELS, MapperOptions.model_validate({"width": 8, "num_blocks": 2} | changes))


def awake(mapper: Mapper) -> Mapper:
    """Larger weights than CycleGAN's first ones, so that the output has the size of its input."""
    for parameter in mapper.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return mapper


def features(height: int = 8, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, height * width, CHANNELS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [24, 27, 13, 8, 5])
@pytest.mark.parametrize("kind", MAPPERS)
def test_shape_stays(kind: str, size: int) -> None:
    value = features(size, size)
    assert small_mapper(kind=kind)(value, size, size).shape == value.shape


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("kind", MAPPERS)
def test_other_channels_come_out_and_all_weights_train(kind: str, residual: bool) -> None:
    """Between towers of two widths; the residual form projects x, as ResNet does where widths change."""
    options = MapperOptions.model_validate({"kind": kind, "width": 8, "num_blocks": 1, "residual": residual})
    mapper = build_mapper(CHANNELS, 24, options)
    value = features(7, 6)
    mapped = mapper(value, 7, 6)
    assert mapped.shape == (2, 3, 42, 24)
    if residual:
        assert torch.equal(mapped, mapper.shortcut(value)), "the projection alone at the start"
    torch.nn.init.ones_(mapper.layers[-1].weight)
    mapper(value, 7, 6).square().sum().backward()
    assert not [name for name, p in mapper.named_parameters() if p.grad is None]


@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_a_grid_too_small_for_two_halvings_is_refused_with_what_to_do(norm: str) -> None:
    mapper = small_mapper(norm=norm)
    mapper.require_grid(5, 5)
    assert mapper(features(5, 5), 5, 5).isfinite().all()
    with pytest.raises(ConfigError, match=r"grid of 4x24 patches twice.*kind=transformer or kind=fc"):
        mapper.require_grid(4, 24)
    for kind in ("transformer", "fc"):
        small_mapper(kind=kind).require_grid(1, 1)


@torch.no_grad()
def test_a_transformer_sees_the_whole_frame_and_where_a_patch_is() -> None:
    mapper = awake(small_mapper(kind="transformer"))
    value = features()
    changed = value.clone()
    changed[:, :, 0] += 1
    difference = (mapper(changed, 8, 8) - mapper(value, 8, 8)).abs().amax(dim=(0, 1, 3))
    assert bool((difference > 0).all()), "the far corner too"
    swapped = value.flip(2)
    assert float((mapper(swapped, 8, 8).flip(2) - mapper(value, 8, 8)).abs().max()) > SEEN
    assert float((mapper(value, 4, 16) - mapper(value, 8, 8)).abs().max()) > SEEN


def test_positions_tell_rows_from_columns() -> None:
    table = positions(6, 9, 16, torch.device("cpu"))
    assert table.shape == (54, 16)
    assert len({tuple(row) for row in table.tolist()}) == 54
    grid = table.unflatten(0, (6, 9))
    assert torch.equal(grid[:, 0, :8], grid[:, 5, :8])
    assert torch.equal(grid[0, :, 8:], grid[3, :, 8:])


@pytest.mark.parametrize("width", [6, 100])
def test_a_transformers_width_must_divide_into_heads(width: int) -> None:
    with pytest.raises(ConfigError, match=f"width {width}: .*multiple of 64, or a multiple of 4 below it"):
        small_mapper(kind="transformer", width=width)


def test_a_grid_that_does_not_halve_twice_is_mirrored_at_the_bottom_right_and_cropped() -> None:
    height, width = 9, 14
    value = features(height, width)
    mapper = awake(small_mapper())
    as_pictures = value.reshape(6, height, width, CHANNELS).permute(0, 3, 1, 2)
    padded = functional.pad(as_pictures, (0, 2, 0, 3), mode="reflect").permute(0, 2, 3, 1)
    mapped = mapper(padded.reshape(2, 3, 12 * 16, CHANNELS), 12, 16).reshape(2, 3, 12, 16, CHANNELS)
    expected = mapped[:, :, :height, :width].reshape(value.shape)
    torch.testing.assert_close(mapper(value, height, width), expected)


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({"width": 64}, 17.78),
        ({"width": 128}, 58.27),
        ({"width": 256}, 207.38),
        ({"kind": "fc"}, 2.1),
        ({"kind": "transformer", "width": 512, "num_blocks": 6}, 19.97),
    ],
)
def test_parameter_counts_at_1024_channels(options: dict[str, object], millions: float) -> None:
    mapper = on_meta_device(lambda: build_mapper(1024, 1024, MapperOptions.model_validate(options)))
    assert num_parameters_in_millions(mapper) == millions


@pytest.mark.parametrize("kind", MAPPERS)
def test_frames_are_mapped_apart(kind: str) -> None:
    mapper = awake(small_mapper(kind=kind))
    value = features()
    alone = torch.stack([mapper(value[:, frame : frame + 1], 8, 8)[:, 0] for frame in range(3)], dim=1)
    torch.testing.assert_close(mapper(value, 8, 8), alone)


def change_of_output(norm: str, changed: Tensor) -> float:
    mapper = awake(small_mapper(norm=norm))
    with torch.no_grad():
        return float((mapper(changed, 8, 8) - mapper(features(), 8, 8)).abs().max())


def test_instance_norm_is_blind_to_a_frames_mean_and_scale() -> None:
    """A6: why `recommended` uses layer norm. F cannot carry what is the same at every place of a frame."""
    constant = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(1))
    assert change_of_output("instance", features() + constant) < BLIND_TOLERANCE
    assert change_of_output("instance", features() * 3) < BLIND_TOLERANCE


@pytest.mark.parametrize("norm", ["layer", "group", "none"])
def test_other_norms_see_a_frames_mean(norm: str) -> None:
    constant = torch.randn(CHANNELS, generator=torch.Generator().manual_seed(1))
    assert change_of_output(norm, features() + constant) > SEEN


@pytest.mark.parametrize("kind", MAPPERS)
def test_a_residual_mapper_starts_as_the_identity(kind: str) -> None:
    value = features(9, 9)
    assert torch.equal(small_mapper(kind=kind, residual=True)(value, 9, 9), value)
    assert not torch.equal(small_mapper(kind=kind)(value, 9, 9), value)


def test_group_norm_takes_any_width() -> None:
    assert small_mapper(norm="group", width=6)(features(), 8, 8).shape == features().shape


def test_first_weights_are_cyclegans() -> None:
    mapper = small_mapper(width=64)
    convolution = mapper.layers[3].requires_grad_(False)
    assert float(convolution.weight.std()) == pytest.approx(0.02, rel=0.02)  # 73,728 draws: 3 standard errors are 1 %
    assert not convolution.bias.any()


@pytest.mark.parametrize("input_trains", [True, False])
@pytest.mark.parametrize("kind", MAPPERS)
def test_recomputation_changes_nothing_and_keeps_less(kind: str, input_trains: bool) -> None:
    plain = small_mapper(kind=kind)
    recomputing = copy.deepcopy(plain)
    recomputing.gradient_checkpointing = True
    results, kept = [], []
    for mapper in (plain, recomputing):
        value = features().requires_grad_(input_trains)
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            mapped = mapper(value, 8, 8)
        mapped.square().sum().backward()
        results.append([mapped, *(p.grad for p in mapper.parameters()), *([value.grad] if input_trains else [])])
        kept.append(sum(sizes))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=RECOMPUTED_TOLERANCE, atol=RECOMPUTED_TOLERANCE)
    assert kept[1] < kept[0] / 2
