"""Connectors: tower features [B, T, H*W, C] to language model tokens [B, N, D], with VideoLLaMA2's tensor names."""

from __future__ import annotations

import torch
from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Grid = tuple[int, int, int]
"""Time steps, rows, columns of a token grid."""


class Connector(nn.Module):
    """Base of all connectors: `out_grid` says how many tokens come out, `forward` makes them."""

    gradient_checkpointing = False

    def out_grid(self, grid: Grid) -> Grid:
        """Returns the token grid for a feature grid."""
        raise NotImplementedError

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] to tokens [B, N, D], time slowest."""
        raise NotImplementedError

    def input_layers(self) -> list[nn.Module]:
        """Returns the layers that read the input channels."""
        raise NotImplementedError

    @torch.no_grad()
    def silence_second_half(self) -> None:
        """Zeroes the weights on the second half of the input channels: channel_concat then starts as x alone."""
        for layer in self.input_layers():
            weight = layer.weight
            assert isinstance(weight, Tensor)
            weight[:, weight.shape[1] // 2 :] = 0

    def _run(self, module: nn.Module, value: Tensor) -> Tensor:
        if self.gradient_checkpointing and self.training and value.requires_grad:
            result: Tensor = checkpoint(module, value, use_reentrant=False)
            return result
        output: Tensor = module(value)
        return output


def _reg_stage(depth: int, in_channels: int, out_channels: int) -> nn.Module:
    if depth == 0:
        return nn.Conv2d(in_channels, out_channels, kernel_size=1) if in_channels != out_channels else nn.Identity()
    return RegStage(
        depth=depth,
        in_chs=in_channels,
        out_chs=out_channels,
        stride=1,
        dilation=1,
        act_layer=nn.SiLU,
        norm_layer=LayerNorm2d,
    )


class SpatialTemporalConnector(Connector):
    """RegStage per frame, 2x2x2 downsampling, RegStage per step, two linear layers (VideoLLaMA2 STC and its variants)."""

    def __init__(self, in_channels: int, out_channels: int, *, depth: int, padding: int, pooling: bool) -> None:
        super().__init__()
        self.padding = padding
        self.s1 = _reg_stage(depth, in_channels, out_channels)
        downsample: nn.Module = (
            nn.AvgPool3d(kernel_size=2, stride=2)
            if pooling
            else nn.Conv3d(out_channels, out_channels, kernel_size=2, stride=2, padding=padding)
        )
        self.sampler = nn.Sequential(downsample, nn.SiLU())
        self.s2 = _reg_stage(depth, out_channels, out_channels)
        self.readout = nn.Sequential(
            nn.Linear(out_channels, out_channels), nn.GELU(), nn.Linear(out_channels, out_channels)
        )

    def input_layers(self) -> list[nn.Module]:
        """Returns the first convolution and the shortcut of the first block."""
        if not isinstance(self.s1, RegStage):
            return [self.s1]
        return [self.s1.b1.conv1.conv, self.s1.b1.downsample.conv]

    def out_grid(self, grid: Grid) -> Grid:
        """Returns ((n + 2 padding - 2) // 2 + 1) per axis: 16x24x24 becomes 9x13x13 with padding 1."""
        time, height, width = ((size + 2 * self.padding - 2) // 2 + 1 for size in grid)
        return time, height, width

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] to tokens [B, t*h*w, D]."""
        batch, time, _, channels = features.shape
        frames = features.reshape(batch * time, height, width, channels).permute(0, 3, 1, 2)
        frames = self._run(self.s1, frames)
        volume = frames.unflatten(0, (batch, time)).transpose(1, 2)
        volume = self._run(self.sampler, volume)
        steps = volume.transpose(1, 2).flatten(0, 1)
        steps = self._run(self.s2, steps)
        tokens = steps.flatten(2).transpose(1, 2).reshape(batch, -1, steps.shape[1])
        return self._run(self.readout, tokens)


class FrameAverageConnector(Connector):
    """Mean over time, then a linear layer or a two-layer GELU network (VideoLLaMA2 `linear` and `mlp2x_gelu`)."""

    def __init__(self, in_channels: int, out_channels: int, *, hidden: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(in_channels, out_channels)]
        if hidden:
            layers += [nn.GELU(), nn.Linear(out_channels, out_channels)]
        self.readout = nn.Sequential(*layers)

    def input_layers(self) -> list[nn.Module]:
        """Returns the first linear layer."""
        return [self.readout[0]]

    def out_grid(self, grid: Grid) -> Grid:
        """Returns one time step with the feature grid's rows and columns."""
        return 1, grid[1], grid[2]

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] to tokens [B, H*W, D]."""
        return self._run(self.readout, features.mean(dim=1))


def build_connector(kind: str, in_channels: int, out_channels: int, depth: int) -> Connector:
    """Returns the connector named `kind` (see `ConnectorOptions.kind`)."""
    if kind in ("mlp", "linear"):
        return FrameAverageConnector(in_channels, out_channels, hidden=kind == "mlp")
    padding = 1 if kind == "stc" else 0
    return SpatialTemporalConnector(in_channels, out_channels, depth=depth, padding=padding, pooling=kind == "stp")
