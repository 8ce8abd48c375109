"""Connectors: tower features [B, T, H*W, C] to language model tokens [B, N, D], with VideoLLaMA2's tensor names."""

from __future__ import annotations

from timm.layers import LayerNorm2d
from timm.models.regnet import RegStage
from torch import Tensor, nn

from exo2ego.errors import ConfigError
from exo2ego.model.geometry import Grid
from exo2ego.model.recomputation import Recomputing
from exo2ego.model.registry import CONNECTORS, named


class Connector(Recomputing):
    """Base of all connectors: `out_grid` says how many tokens come out, `forward` makes them."""

    def out_grid(self, grid: Grid) -> Grid:
        """Returns the token grid for a feature grid."""
        raise NotImplementedError

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] to tokens [B, N, D], time slowest."""
        raise NotImplementedError


def _reg_stage(depth: int, in_channels: int, out_channels: int) -> RegStage:
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
    """RegStage per frame, 2x2x2 downsampling, RegStage per step, two linear layers (VideoLLaMA2 STC, its variants)."""

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

    def out_grid(self, grid: Grid) -> Grid:
        """Returns (n + 2 padding - 2) // 2 + 1 per axis: 16x24x24 becomes 9x13x13 with padding 1.

        Raises `ConfigError` when an axis vanishes.
        """
        time, height, width = ((size + 2 * self.padding - 2) // 2 + 1 for size in grid)
        if not min(time, height, width):
            raise ConfigError(
                f"model: the connector halves a feature grid of {grid} (frames, rows, columns) to nothing; "
                "use more frames, more patches, or model.connector.kind=stc, which pads"
            )
        return time, height, width

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] to tokens [B, t*h*w, D]."""
        batch, time, _, channels = features.shape
        frames = features.reshape(batch * time, height, width, channels).permute(0, 3, 1, 2)
        frames = self.run(self.s1.children(), frames)
        volume = frames.unflatten(0, (batch, time)).transpose(1, 2)
        volume = self.run([self.sampler], volume)
        steps = volume.transpose(1, 2).flatten(0, 1)
        steps = self.run(self.s2.children(), steps)
        tokens = steps.flatten(2).transpose(1, 2).reshape(batch, -1, steps.shape[1])
        return self.run([self.readout], tokens)


class FrameAverageConnector(Connector):
    """Mean over time, then a linear layer or a two-layer GELU network (VideoLLaMA2 `linear` and `mlp2x_gelu`)."""

    def __init__(self, in_channels: int, out_channels: int, *, hidden: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(in_channels, out_channels)]
        if hidden:
            layers += [nn.GELU(), nn.Linear(out_channels, out_channels)]
        self.readout = nn.Sequential(*layers)

    def out_grid(self, grid: Grid) -> Grid:
        """Returns one time step with the feature grid's rows and columns."""
        return 1, grid[1], grid[2]

    def forward(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] to tokens [B, H*W, D]."""
        return self.run([self.readout], features.mean(dim=1))


def stc(in_channels: int, out_channels: int, depth: int) -> Connector:
    """Returns the connector of VideoLLaMA2-7B-16F."""
    return SpatialTemporalConnector(in_channels, out_channels, depth=depth, padding=1, pooling=False)


def stc_v35(in_channels: int, out_channels: int, depth: int) -> Connector:
    """Returns the connector of VideoLLaMA2.1, which pads nothing."""
    return SpatialTemporalConnector(in_channels, out_channels, depth=depth, padding=0, pooling=False)


def stp(in_channels: int, out_channels: int, depth: int) -> Connector:
    """Returns the connector that averages 2x2x2 neighbours."""
    return SpatialTemporalConnector(in_channels, out_channels, depth=depth, padding=0, pooling=True)


def mlp(in_channels: int, out_channels: int, depth: int) -> Connector:
    """Returns VideoLLaMA2's `mlp2x_gelu`."""
    return FrameAverageConnector(in_channels, out_channels, hidden=True)


def linear(in_channels: int, out_channels: int, depth: int) -> Connector:
    """Returns VideoLLaMA2's `linear`."""
    return FrameAverageConnector(in_channels, out_channels, hidden=False)


def build_connector(kind: str, in_channels: int, out_channels: int, depth: int) -> Connector:
    """Returns the connector named `kind` (see `ConnectorOptions.kind`)."""
    connector: Connector = named(CONNECTORS, kind)(in_channels, out_channels, depth)
    return connector
