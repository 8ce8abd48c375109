"""A mapper of self-attention: every patch sees the whole frame at once, not through a bottleneck of a quarter of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from exo2ego.errors import ConfigError
from exo2ego.model.mapper import Mapper
from exo2ego.model.options import MapperOptions

HEAD_WIDTH = 64  # as in CLIP
LONGEST_WAVE = 10_000  # patches; of the sine and cosine positions (Vaswani 2017)


class AttentionBlock(nn.Module):
    """Pre-norm self-attention and a GELU network of four times the width, on [B, L, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = max(1, width // HEAD_WIDTH)
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.network = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, value: Tensor) -> Tensor:
        """Keeps the shape [B, L, W]."""
        heads = self.query_key_value(self.attention_norm(value)).unflatten(-1, (3, self.num_heads, -1))
        query, key, values = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, values)
        value = value + self.projection(attended.transpose(1, 2).flatten(2))
        value = value + self.network(value)
        return value


class TransformerMapper(Mapper):
    """Linear to `width`, positions, `num_blocks` attention blocks over a frame's patches, norm, linear out.

    Not in the paper, which leaves "more effective mapping techniques" open (Supp. E).
    """

    def __init__(self, in_channels: int, out_channels: int, options: MapperOptions) -> None:
        super().__init__(in_channels, out_channels, options)
        width = options.width
        if width % (HEAD_WIDTH if width > HEAD_WIDTH else 4):
            raise ConfigError(
                f"model.mapper.width {width}: a transformer mapper has heads of {HEAD_WIDTH} channels; give a multiple "
                f"of {HEAD_WIDTH}, or a multiple of 4 below it"
            )
        blocks = [AttentionBlock(width) for _ in range(options.num_blocks)]
        self.layers = nn.Sequential(
            nn.Linear(in_channels, width), *blocks, nn.LayerNorm(width), nn.Linear(width, out_channels)
        )

    def change(self, features: Tensor, height: int, width: int) -> Tensor:
        """Maps features [B, T, H*W, C] frame by frame to [B, T, H*W, D]."""
        enter, *others = self.layers
        value = enter(features.flatten(0, 1))
        value = value + positions(height, width, value.shape[-1], value.device).to(value.dtype)
        return self.run(others, value).unflatten(0, features.shape[:2])


def positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Returns [H*W, channels]: sines and cosines of the row in the first half, of the column in the second."""
    frequencies = LONGEST_WAVE ** -(torch.arange(channels // 4, device=device) / (channels // 4))
    rows, columns = (torch.arange(size, device=device)[:, None] * frequencies for size in (height, width))
    row, column = (torch.cat((angle.sin(), angle.cos()), dim=-1) for angle in (rows, columns))
    return torch.cat((row[:, None].expand(-1, width, -1), column.expand(height, -1, -1)), dim=-1).flatten(0, 1)
