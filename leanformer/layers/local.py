"""Local parts of blocks: convolutions that return the detail around a token which linear attention averages away."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.layers.conv import DepthwiseConv
from leanformer.layers.mlp import MLP
from leanformer.layers.norm import NormConfig, TokenBatchNorm
from leanformer.layers.site import Grid, NormSite


class LocalConcentration(nn.Module):
    """Two depthwise convolutions with GELU and batch norm between them: the body of L2ViT's branch behind global
    attention (https://arxiv.org/abs/2501.16182)."""

    def __init__(self, dim: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv1 = DepthwiseConv(dim, kernel_size)
        self.bn = TokenBatchNorm(dim)
        self.conv2 = DepthwiseConv(dim, kernel_size)

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first."""
        return (self.conv1,)

    def exit_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that give the result."""
        return (self.conv2,)

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The batch norm between GELU and a convolution that pads with zeros: it folds into neither."""
        return (NormSite(owner=self, attribute="bn", place=None, after=(self.conv2,)),)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, H W, C) to the same shape."""
        return self.conv2(self.bn(F.gelu(self.conv1(x, grid))), grid)


class LocalMLP(nn.Module):
    """A depthwise convolution, a norm, then an MLP on each token: the convolutional encoder of SwiftFormer
    (https://arxiv.org/abs/2303.15446, section 3.2), and with `hidden_dim` equal to `dim` its local representation."""

    def __init__(self, dim: int, hidden_dim: int, norm: NormConfig, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = DepthwiseConv(dim, kernel_size)
        self.norm = norm.build(dim)
        self.mlp = MLP(dim, hidden_dim)

    def entry_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that read x first."""
        return (self.conv,)

    def exit_layers(self) -> tuple[nn.Linear | nn.Conv2d, ...]:
        """The layers that give the result."""
        return self.mlp.exit_layers()

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm behind the convolution."""
        return (NormSite(owner=self, attribute="norm", before=self.conv),)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, H W, C) to the same shape."""
        return self.mlp(self.norm(self.conv(x, grid)), grid)
