"""The feed-forward bodies of blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.layers.conv import DepthwiseConv
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

    def exit_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that give the result."""
        return (self.fc2,)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C); the grid is not used."""
        return self.fc2(F.gelu(self.fc1(x)))


class ConvMLP(MLP):
    """Linear, depthwise 3 x 3 convolution of the map, GELU, linear (PVTv2, https://arxiv.org/abs/2106.13797,
    section 3.3): the zeros around the map tell tokens where they are.

    Args:
        relu: whether a ReLU lies in front of the convolution, as in the linear PVTv2.
    """

    def __init__(self, dim: int, hidden_dim: int, relu: bool = False) -> None:
        super().__init__(dim, hidden_dim)
        self.relu = relu
        self.conv = DepthwiseConv(hidden_dim, 3)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, H W, C) to the same shape."""
        x = self.fc1(x)
        return self.fc2(F.gelu(self.conv(x.relu() if self.relu else x, grid)))
