"""The feed-forward body of a block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.layers.site import Grid


class MLP(nn.Module):
    """Linear, GELU (exact), linear, on each token."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first."""
        return (self.fc1,)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C); the grid is not used."""
        return self.fc2(F.gelu(self.fc1(x)))
