"""From images to tokens, and from one stage's tokens to the next stage's."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from leanformer import ops
from leanformer.errors import ConfigError
from leanformer.layers.norm import Place
from leanformer.layers.region import PaddedRegion
from leanformer.layers.site import Grid, NormSite


class PatchEmbed(nn.Module):
    """Cut the image into square patches and project each to a token.

    Args:
        kernel_size: side of the projected squares where they overlap; None for the patch size.
        padding: zeros around the image.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: int,
        norm: nn.Module | None = None,
        *,
        kernel_size: int | None = None,
        padding: int = 0,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel_size or patch_size, stride=patch_size, padding=padding)
        self.norm = norm

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm behind the projection, if there is one."""
        if self.norm is None:
            return ()
        return (NormSite(owner=self, attribute="norm", place="stem", before=self.proj),)

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """(B, 3, H, W) to tokens (B, H/p W/p, C) and their grid."""
        return _to_tokens(self.proj(images), self.norm)


class ConvStem(nn.Module):
    """Overlapping 3 x 3 convolutions of stride 2 up to the patch size, batch-normalised: trains faster on few images.

    https://arxiv.org/abs/2106.14881; the last convolution is followed by the backbone's own norm.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: int, norm: nn.Module) -> None:
        super().__init__()
        if patch_size < 2 or patch_size & (patch_size - 1):
            raise ConfigError(
                f"a convolutional stem needs a patch size that is a power of two from 2 on, got {patch_size}"
            )
        depth = patch_size.bit_length() - 1
        widths = [in_channels, *(max(dim >> (depth - 1 - i), 8) for i in range(depth))]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False) for before, after in pairwise(widths)
        )
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.proj = nn.Conv2d(dim, dim, 3, padding=1)
        self.norm = norm

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The batch norms between the convolutions and the norm behind the last."""
        between = tuple(
            NormSite(owner=self.bns, attribute=str(index), place=None, before=conv)  # type: ignore[arg-type]
            for index, conv in enumerate(self.convs)
        )
        return (*between, NormSite(owner=self, attribute="norm", place="stem", before=self.proj))

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """(B, 3, H, W) to tokens (B, H/p W/p, C) and their grid."""
        x = images
        for conv, bn in zip(self.convs, self.bns, strict=True):
            x = F.gelu(bn(conv(x)))
        return _to_tokens(self.proj(x), self.norm)


class ReluStem(nn.Module):
    """Convolutions with batch norm and ReLU between them; what follows the last is the backbone's own norm.

    Args:
        convs: in order; their strides multiply to the patch size.
        last_bn: whether the last convolution is batch-normalised too.
    """

    def __init__(self, convs: Sequence[nn.Conv2d], norm: nn.Module, *, last_bn: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.bns = nn.ModuleList(nn.BatchNorm2d(conv.out_channels) for conv in convs[: None if last_bn else -1])
        self.norm = norm

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The batch norms behind the convolutions, and the norm behind all."""
        convs = cast(list[nn.Conv2d], list(self.convs))
        inner = (NormSite(owner=self.bns, attribute=str(i), place=None, before=convs[i]) for i in range(len(self.bns)))
        return (*inner, NormSite(owner=self, attribute="norm", place="stem", before=convs[-1]))

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """(B, 3, H, W) to tokens (B, H/p W/p, C) and their grid."""
        x = images
        for index, conv in enumerate(self.convs):
            x = conv(x if index == 0 else x.relu())
            x = self.bns[index](x) if index < len(self.bns) else x
        return _to_tokens(x, self.norm)


class NormedDownsample(PaddedRegion):
    """A norm, then a strided convolution of the map; odd sides are padded between the two."""

    def __init__(self, dim: int, dim_out: int, norm: nn.Module, *, kernel_size: int = 2, padding: int = 0) -> None:
        super().__init__()
        self.norm = norm
        self.proj = nn.Conv2d(dim, dim_out, kernel_size, stride=2, padding=padding)

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm in front of the convolution."""
        return (NormSite(owner=self, attribute="norm", place="downsample", after=(self.proj,), paddings=(self,)),)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """(B, H W, C) to the tokens of the coarser map, (B, H/2 W/2, C_out), and its grid."""
        x = ops.pad_to_multiple(self.norm(x).unflatten(1, grid), (2, 2), self.pad)
        return _to_tokens(self.proj(x.permute(0, 3, 1, 2)), None)


class ConvDownsample(nn.Module):
    """A strided convolution of the map, then a norm.

    Args:
        place: what the config calls the place of the norm.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int,
        norm: nn.Module,
        *,
        kernel_size: int,
        stride: int = 2,
        padding: int = 0,
        place: Place = "downsample",
    ) -> None:
        super().__init__()
        self.place: Place = place
        self.proj = nn.Conv2d(dim, dim_out, kernel_size, stride=stride, padding=padding)
        self.norm = norm

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm behind the convolution."""
        return (NormSite(owner=self, attribute="norm", place=self.place, before=self.proj),)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """(B, N, C) to the tokens of the coarser map, (B, N', C_out), and its grid."""
        return _to_tokens(self.proj(ops.to_map(x, grid)), self.norm)


class PatchMerging(nn.Module):
    """Join each 2 x 2 neighbourhood into one token and project it (Swin, section 3.1); odd sides are padded with
    zeros."""

    def __init__(self, dim: int, dim_out: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.reduction = nn.Linear(4 * dim, dim_out, bias=False)

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm in front of the projection."""
        return (NormSite(owner=self, attribute="norm", place="downsample", after=(self.reduction,)),)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """(B, H W, C) to (B, H/2 W/2, C_out) and the new grid."""
        batch, _, dim = x.shape
        height, width = grid
        x = F.pad(x.view(batch, height, width, dim), (0, 0, 0, width % 2, 0, height % 2))
        grid = (height + 1) // 2, (width + 1) // 2
        x = x.view(batch, grid[0], 2, grid[1], 2, dim)
        # The published order of the four: down the column first, then to the right.
        x = x.permute(0, 1, 3, 4, 2, 5).reshape(batch, grid[0] * grid[1], 4 * dim)
        return self.reduction(self.norm(x)), grid


def _to_tokens(image: Tensor, norm: nn.Module | None) -> tuple[Tensor, Grid]:
    grid = image.shape[2], image.shape[3]
    tokens = ops.to_tokens(image)
    return tokens if norm is None else norm(tokens), grid
