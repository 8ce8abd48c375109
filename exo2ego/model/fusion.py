"""How the student's own features x and the mapped features F(x) become one token sequence (Exo2Ego §4.4 ⊕; A5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from exo2ego.model.configuration import Exo2EgoConfig
from exo2ego.model.connector import Connector, Grid


class Fusion(nn.Module):
    """Joins x and F(x) before, in or after the connector, as `ModelOptions.fusion` names it."""

    def __init__(self, config: Exo2EgoConfig, token_dim: int) -> None:
        super().__init__()
        self.kind = config.fusion
        self.exo_first = config.fusion_order == "exo_first"
        self.after_connector = config.mapper["position"] == "connector"
        self.view_embedding = nn.Parameter(torch.zeros(2, token_dim)) if config.view_embedding else None
        self.joint = nn.Linear(2 * token_dim, token_dim) if config.fusion == "channel_concat_tokens" else None

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Starts as x alone: the joint layer is [I, 0], the view embeddings are zero."""
        if self.joint is not None:
            identity = torch.eye(self.joint.out_features)
            own = int(self.exo_first)
            halves = [torch.zeros_like(identity), torch.zeros_like(identity)]
            halves[own] = identity
            self.joint.weight.copy_(torch.cat(halves, dim=1))
            self.joint.bias.zero_()
        if self.view_embedding is not None:
            self.view_embedding.zero_()

    def num_tokens(self, connector: Connector, feature_grid: Grid, both: bool) -> int:
        """Returns the number of tokens per clip for one branch or `both`."""
        time, height, width = feature_grid
        if self.kind == "time_concat" and both and not self.after_connector:
            return _product(connector.out_grid((2 * time, height, width)))
        single = _product(connector.out_grid(feature_grid))
        return 2 * single if both and self.kind in ("token_concat", "time_concat") else single

    def forward(self, own: Tensor, mapped: Tensor) -> Tensor:
        """Joins the tokens [B, N, D] of x and F(x) to [B, 2N, D] (concatenation) or [B, N, D] (sum, joint layer)."""
        if self.view_embedding is not None:
            own, mapped = own + self.view_embedding[0], mapped + self.view_embedding[1]
        if self.kind == "sum":
            return own + mapped
        first, second = self.ordered(own, mapped)
        if self.joint is not None:
            joined: Tensor = self.joint(torch.cat((first, second), dim=-1))
            return joined
        return torch.cat((first, second), dim=1)

    def ordered(self, own: Tensor, mapped: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the two branches in `fusion_order`."""
        return (mapped, own) if self.exo_first else (own, mapped)


def _product(grid: Grid) -> int:
    return grid[0] * grid[1] * grid[2]
