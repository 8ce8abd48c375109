"""The mapping functions F (ego to exo) and G (exo to ego) on feature maps [B, T, H*W, C] (Exo2Ego §4.3, §5.1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from exo2ego.model.options import MapperOptions
from exo2ego.model.recomputation import Recomputing

INIT_STD = 0.02  # CycleGAN: weights from N(0, 0.02), biases 0


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


class ResnetMapper(Recomputing):
    """CycleGAN's generator on feature maps: two stride-2 stages, ResNet blocks, two up-convolutions, no Tanh (A6).

    Grids whose sides are not multiples of 4 are reflect-padded at the bottom right and cropped after.
    """

    def __init__(self, channels: int, options: MapperOptions) -> None:
        super().__init__()
        width, norm = options.width, options.norm
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 7, padding=3, padding_mode="reflect")]
        layers += [_norm(norm, width), nn.ReLU()]
        for factor in (1, 2):
            layers += [nn.Conv2d(width * factor, width * factor * 2, 3, stride=2, padding=1)]
            layers += [_norm(norm, width * factor * 2), nn.ReLU()]
        layers += [ResnetBlock(width * 4, norm) for _ in range(options.num_blocks)]
        for factor in (4, 2):
            layers += [nn.ConvTranspose2d(width * factor, width * factor // 2, 3, 2, padding=1, output_padding=1)]
            layers += [_norm(norm, width * factor // 2), nn.ReLU()]
        layers += [nn.Conv2d(width, channels, 7, padding=3, padding_mode="reflect")]
        self.layers = nn.Sequential(*layers)
        self.residual = options.residual

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws CycleGAN's initial weights; a residual mapper's last layer starts at zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.GroupNorm):
                module.reset_parameters()
        if self.residual:
            last = self.layers[-1]
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] frame by frame to the same shape."""
        batch, time, _, channels = features.shape
        frames = features.reshape(batch * time, height, width, channels).permute(0, 3, 1, 2)
        padded = functional.pad(frames, (0, -width % 4, 0, -height % 4), mode="reflect")
        mapped = self.run([self.layers], padded)[..., :height, :width]
        if self.residual:
            mapped = frames + mapped
        return mapped.permute(0, 2, 3, 1).reshape(features.shape)


class FullyConnectedMapper(Recomputing):
    """Two linear layers per position, the replacement of Exo2Ego Table 7, row 5."""

    def __init__(self, channels: int, options: MapperOptions) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
        self.residual = options.residual

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws torch's default weights; a residual mapper's last layer starts at zero."""
        for module in self.layers:
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        if self.residual:
            nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] position by position."""
        mapped = self.run([self.layers], features)
        return features + mapped if self.residual else mapped


Mapper = ResnetMapper | FullyConnectedMapper


def build_mapper(channels: int, options: MapperOptions) -> Mapper:
    """Returns a freshly initialised mapper of the kind named in `options` (`none` is the caller's case)."""
    mapper: Mapper
    mapper = ResnetMapper(channels, options) if options.kind == "resnet" else FullyConnectedMapper(channels, options)
    mapper.reset_parameters()
    return mapper
