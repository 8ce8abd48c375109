"""The mapping functions F (ego to exo) and G (exo to ego) on feature maps [B, T, H*W, C] (Exo2Ego §4.3, §5.1).

C is the width of the tower where the features come from, D the width of the one that they are mapped to.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from exo2ego.errors import ConfigError
from exo2ego.model.options import MapperOptions
from exo2ego.model.recomputation import Recomputing
from exo2ego.model.registry import MAPPERS, named

INIT_STD = 0.02  # CycleGAN: weights from N(0, 0.02), biases 0
SMALLEST_GRID = 5  # padded to 8, whose quarter is 2x2: the last size that a reflect padding of one can mirror


class Mapper(Recomputing):
    """Base of all mappers: what is added to the features, or stands for them, is a subclass's `change`."""

    layers: nn.Sequential
    """The network; its last layer makes the output."""

    def __init__(self, in_channels: int, out_channels: int, options: MapperOptions) -> None:
        super().__init__()
        self.residual = options.residual
        project = options.residual and in_channels != out_channels
        self.shortcut = nn.Linear(in_channels, out_channels) if project else nn.Identity()

    def require_grid(self, height: int, width: int) -> None:
        """Raises `ConfigError` for a feature grid that is too small."""

    def draw(self) -> None:
        """Draws first weights: torch's own."""
        for module in self.layers.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.GroupNorm):
                module.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws first weights; a residual mapper starts as its shortcut: the identity, or a projection if C != D."""
        self.draw()
        if isinstance(self.shortcut, nn.Linear):
            self.shortcut.reset_parameters()
        if self.residual:
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def change(self, features: Tensor, height: int, width: int) -> Tensor:
        """Computes F(x), or F(x) - x of a residual mapper."""
        raise NotImplementedError

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] to [B, T, H*W, D]."""
        change = self.change(features, height, width)
        if not self.residual:
            return change
        mapped: Tensor = self.shortcut(features) + change
        return mapped


class LayerNorm2d(nn.Module):
    """Layer normalisation over the channels of [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, value: Tensor) -> Tensor:
        """Normalises every position of [B, C, H, W] over C."""
        normalised: Tensor = self.norm(value.permute(0, 2, 3, 1))
        return normalised.permute(0, 3, 1, 2)


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "instance":
        return nn.InstanceNorm2d(channels)  # no affine parameters, as in CycleGAN
    if kind == "layer":
        return LayerNorm2d(channels)
    if kind == "group":
        # several channels per group: a group of one is instance norm
        return nn.GroupNorm(math.gcd(32, channels) if channels > 32 else 1, channels)
    return nn.Identity()


class ResnetBlock(nn.Module):
    """x + two reflect-padded 3x3 convolutions on [B, C, H, W] (CycleGAN's residual block)."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            _norm(norm, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            _norm(norm, channels),
        )

    def forward(self, value: Tensor) -> Tensor:
        """Keeps the shape [B, C, H, W]."""
        change: Tensor = self.layers(value)
        return value + change


class ResnetMapper(Mapper):
    """CycleGAN's generator on feature maps: two stride-2 stages, ResNet blocks, two up-convolutions, no Tanh (A6).

    Grids whose sides are not multiples of 4 are reflect-padded at the bottom right and cropped after.
    """

    def __init__(self, in_channels: int, out_channels: int, options: MapperOptions) -> None:
        super().__init__(in_channels, out_channels, options)
        width, norm = options.width, options.norm
        layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 7, padding=3, padding_mode="reflect")]
        layers += [_norm(norm, width), nn.ReLU()]
        for factor in (1, 2):
            layers += [nn.Conv2d(width * factor, width * factor * 2, 3, stride=2, padding=1)]
            layers += [_norm(norm, width * factor * 2), nn.ReLU()]
        layers += [ResnetBlock(width * 4, norm) for _ in range(options.num_blocks)]
        for factor in (4, 2):
            layers += [nn.ConvTranspose2d(width * factor, width * factor // 2, 3, 2, padding=1, output_padding=1)]
            layers += [_norm(norm, width * factor // 2), nn.ReLU()]
        layers += [nn.Conv2d(width, out_channels, 7, padding=3, padding_mode="reflect")]
        self.layers = nn.Sequential(*layers)

    def require_grid(self, height: int, width: int) -> None:
        """Raises `ConfigError` where two halvings leave one patch: nothing to mirror, no variance to normalise by."""
        if min(height, width) < SMALLEST_GRID:
            raise ConfigError(
                f"model.mapper.kind=resnet halves the feature grid of {height}x{width} patches twice, which needs "
                f"{SMALLEST_GRID}x{SMALLEST_GRID} at least: use smaller patches, larger pictures, or kind=transformer "
                "or kind=fc"
            )

    def draw(self) -> None:
        """Draws CycleGAN's first weights."""
        for module in self.layers.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.reset_parameters()

    def change(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] frame by frame to [B, T, H*W, D]."""
        batch, time, _, channels = features.shape
        frames = features.reshape(batch * time, height, width, channels).permute(0, 3, 1, 2)
        padded = functional.pad(frames, (0, -width % 4, 0, -height % 4), mode="reflect")
        mapped = self.run([self.layers], padded)[..., :height, :width]
        return mapped.permute(0, 2, 3, 1).reshape(batch, time, height * width, -1)


class FullyConnectedMapper(Mapper):
    """Two linear layers per position, the replacement of Exo2Ego Table 7, row 5."""

    def __init__(self, in_channels: int, out_channels: int, options: MapperOptions) -> None:
        super().__init__(in_channels, out_channels, options)
        self.layers = nn.Sequential(
            nn.Linear(in_channels, out_channels), nn.ReLU(), nn.Linear(out_channels, out_channels)
        )

    def change(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] position by position to [B, T, H*W, D]."""
        return self.run([self.layers], features)


def build_mapper(in_channels: int, out_channels: int, options: MapperOptions) -> Mapper:
    """Returns a freshly initialised mapper of the kind named in `options` (`none` is the caller's case)."""
    mapper: Mapper = named(MAPPERS, options.kind)(in_channels, out_channels, options)
    mapper.reset_parameters()
    return mapper
