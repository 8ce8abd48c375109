"""The mappers F and G: shapes, sizes, what InstanceNorm makes them blind to, and the identity start."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from exo2ego.model.mapper import Mapper, build_mapper
from exo2ego.model.options import MapperOptions
from tests.tiny_models import num_parameters_in_millions, on_meta_device

CHANNELS = 16
BLIND_TOLERANCE = 1e-4  # float32 rounding of features of size 10 through 2 blocks; what is not blind changes by > 0.1
SEEN = 0.1
RECOMPUTED_TOLERANCE = 1e-6  # the same operations on the same numbers, float32


def small_mapper(**changes: object) -> Mapper:
    torch.manual_seed(0)
    return build_mapper(CHANNELS, MapperOptions.model_validate({"width": 8, "num_blocks": 2} | changes))


def awake(mapper: Mapper) -> Mapper:
    """Larger weights than CycleGAN's first ones, so that the output has the size of its input."""
    for parameter in mapper.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    return mapper


def features(height: int = 8, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, height * width, CHANNELS, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [24, 27, 13, 8])
@pytest.mark.parametrize("kind", ["resnet", "fc"])
def test_shape_stays(kind: str, size: int) -> None:
    value = features(size, size)
    assert small_mapper(kind=kind)(value, size, size).shape == value.shape


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
    ],
)
def test_parameter_counts_at_1024_channels(options: dict[str, object], millions: float) -> None:
    mapper = on_meta_device(lambda: build_mapper(1024, MapperOptions.model_validate(options)))
    assert num_parameters_in_millions(mapper) == millions


def test_frames_are_mapped_apart() -> None:
    mapper = awake(small_mapper())
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


@pytest.mark.parametrize("kind", ["resnet", "fc"])
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
@pytest.mark.parametrize("kind", ["resnet", "fc"])
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
