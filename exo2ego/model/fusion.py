"""How the student's own features x and the mapped features F(x) become one token sequence (Exo2Ego §4.4 ⊕; A5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from exo2ego.errors import ConfigError
from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.connector import Connector
from exo2ego.model.geometry import Grid
from exo2ego.model.options import JOINED_BEFORE_CONNECTOR


class Fusion(nn.Module):
    """Joins x and F(x) before or after the connector, as `ModelOptions.fusion` names it."""

    def __init__(self, config: Exo2EgoConfig, feature_dim: int, token_dim: int) -> None:
        super().__init__()
        self.kind = config.fusion
        self.exo_first = config.fusion_order == "exo_first"
        self.before_connector = config.fusion in JOINED_BEFORE_CONNECTOR
        embeds = config.has_mapper and config.view_embedding
        self.view_embedding = nn.Parameter(torch.zeros(2, token_dim)) if embeds else None
        dim = feature_dim if self.before_connector else token_dim
        joins_channels = config.has_mapper and config.fusion in ("channel_concat", "channel_concat_tokens")
        self.joint = nn.Linear(2 * dim, dim) if joins_channels else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Starts the joint layer as [I, 0], so that the connector first sees x alone, as in VideoLLaMA2."""
        if self.joint is not None:
            nn.init.eye_(self.joint.weight)
            nn.init.zeros_(self.joint.bias)
        if self.view_embedding is not None:
            nn.init.zeros_(self.view_embedding)

    def require_grids(self, own: Grid, mapped: Grid) -> None:
        """Raises `ConfigError` where features or tokens of different grids would have to be joined one by one."""
        if self.kind == "token_concat" or own == mapped:
            return
        raise ConfigError(
            f"model.fusion={self.kind} joins x and F(x) place by place, but x stands on a grid of {own} and F(x) on "
            f"one of {mapped} (steps, rows, columns): set fusion=token_concat, or give both towers the same grid"
        )

    def num_tokens(self, connector: Connector, feature_grid: Grid, both: bool, mapped_tokens: int | None = None) -> int:
        """Returns the number of tokens per clip for one branch or `both`; F(x) has as many as x unless it is said."""
        time, height, width = feature_grid
        if both and self.kind == "time_concat":
            time *= 2
        tokens = math.prod(connector.out_grid((time, height, width)))
        if not both or self.kind != "token_concat":
            return tokens
        return tokens + (tokens if mapped_tokens is None else mapped_tokens)

    def forward(self, own: Tensor, mapped: Tensor) -> Tensor:
        """Joins x and F(x): feature maps [B, T, L, C] along T or C, tokens [B, N, D] along N or D, or their sum."""
        if self.view_embedding is not None:
            own, mapped = own + self.view_embedding[0], mapped + self.view_embedding[1]
        if self.kind == "sum":
            return own + mapped
        if self.joint is not None:
            joined: Tensor = self.joint(torch.cat((own, mapped), dim=-1))
            return joined
        return torch.cat((mapped, own) if self.exo_first else (own, mapped), dim=1)
