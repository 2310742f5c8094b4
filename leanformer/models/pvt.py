"""PVT and PVTv2: pyramids of stages whose attention looks at a coarser map (https://arxiv.org/abs/2102.12122,
https://arxiv.org/abs/2106.13797)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import count
from operator import ge
from typing import ClassVar, TypedDict

import torch
from torch import nn

from leanformer.config import PerStage, at, check_per_stage, register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention.frames import ReducedAttention
from leanformer.layers.block import Block, pre_norm_block
from leanformer.layers.embed import ConvDownsample, PatchEmbed
from leanformer.layers.head import ClassifierHead, Pool
from leanformer.layers.init import fan_out_convs, trunc_normal_linears
from leanformer.layers.mlp import MLP, ConvMLP
from leanformer.layers.norm import LayerNorm, Norms
from leanformer.layers.position import LearnedPosition
from leanformer.layers.site import Grid, NormSite, Reduction, Site
from leanformer.models.backbone import (
    Backbone,
    StagedConfig,
    build_stages,
    stage_info,
)
from leanformer.models.registry import register

OUTER = LayerNorm(eps=1e-5)
POOL = 7
"""Side of the map that the keys of a linear PVTv2 come from."""


class Patches(TypedDict):
    """What of a map one token is made of."""

    kernel_size: int
    padding: int


@register_config("pyramid")
class Pyramid(StagedConfig):
    """What both generations share: the stages and their spatial reductions."""

    overlaps: ClassVar[bool]
    """Whether neighbouring patches overlap; maps of odd sides are then rounded up, else down."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    dims: tuple[int, ...] = (64, 128, 320, 512)
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratio: PerStage[float] = (8.0, 8.0, 4.0, 4.0)
    patch_size: int = 4
    """Side of the patches of the first stage; those of the others have 2."""
    reductions: PerStage[int] = (8, 4, 2, 1)
    """By how much the map that keys and values come from is coarser, in each stage or block."""
    norms: Norms = Norms(block=LayerNorm(eps=1e-6), stem=OUTER, downsample=OUTER, reduction=OUTER)

    def __post_init__(self) -> None:
        StagedConfig.__post_init__(self)
        self.check_ranges(patch_size=1)
        check_per_stage("reductions", self.reductions, self.depths)
        for stage, depth in enumerate(self.depths):
            if any(at(self.reductions, stage, index) < 1 for index in range(depth)):
                raise ConfigError(f"reductions must be at least 1, which is none, got {self.reductions}")

    def stride(self, stage: int) -> int:
        """Of the convolution in front of a stage."""
        return 2 if stage else self.patch_size

    def patches(self, stage: int) -> Patches:
        """The patches that the convolution in front of a stage reads."""
        stride = self.stride(stage)
        return {
            "kernel_size": 2 * stride - 1 if self.overlaps else stride,
            "padding": stride - 1 if self.overlaps else 0,
        }

    def grids(self) -> list[Grid]:
        """The map of each stage.

        Raises:
            ConfigError: if the images are too small.
        """
        height, width = self.image_grid
        grids = list(zip(self.sides(height), self.sides(width), strict=True))
        for stage, grid in enumerate(grids):
            if min(grid) < 1:
                raise ConfigError(
                    f"image_size {self.image_size} leaves no map for stage {stage} of {self.kind!r}; "
                    f"take {self.patch_size << (len(self.depths) - 1)} or more"
                )
        return grids

    def sides(self, side: int) -> list[int]:
        """The side of each stage's map, for images of the side `side`."""
        sides = []
        for stage in range(len(self.depths)):
            stride = self.stride(stage)
            side = (side + (stride - 1 if self.overlaps else 0)) // stride
            sides.append(side)
        return sides

    def prefix_tokens(self, stage: int) -> int:
        """Tokens in front of the map of a stage."""
        return 0

    def reduction(self, stage: int, block: int) -> Reduction:
        """Where the keys and values of a block come from."""
        return Reduction(stride=at(self.reductions, stage, block), norm=self.norms.at("reduction"))

    def mlp(self, stage: int, block: int) -> nn.Module:
        """The MLP of a block."""
        return MLP(self.dims[stage], self.hidden_dim(stage, block))


@register_config("pvt")
class PVT(Pyramid):
    """The first generation: separate patches, a learned position in each stage, a class token in the last."""

    overlaps: ClassVar[bool] = False
    pool: Pool = "token"
    """"token" reads a class token and has a final norm; "mean" averages the map and has neither (SLAB, FLatten)."""
    spare_norm: bool = False
    """Keep a final norm that nothing reads, as FLatten's files do, so that they load and are written whole."""

    def __post_init__(self) -> None:
        Pyramid.__post_init__(self)
        if self.spare_norm and self.pool == "token":
            raise ConfigError("spare_norm is for pool='mean'; with pool='token' the final norm is in use")

    def prefix_tokens(self, stage: int) -> int:
        """The class token in front of the last map."""
        return int(self.pool == "token" and stage == len(self.depths) - 1)

    def build(self) -> PyramidVisionTransformer:
        """The backbone, randomly initialised."""
        return PyramidVisionTransformer(self)

    def build_head(self) -> ClassifierHead:
        """Norm, class token, classifier; or the mean without a norm."""
        dim, prefix = self.dims[-1], self.prefix_tokens(len(self.depths) - 1)
        head = ClassifierHead(
            dim, self.num_classes, self.norms.at("final").build(dim) if prefix else None, self.pool, prefix
        )
        trunc_normal_linears(head)
        return head


@register_config("pvt_v2")
class PVTv2(Pyramid):
    """The second generation: overlapping patches, depthwise convolutions in the MLPs in place of positions, a norm
    behind each stage."""

    overlaps: ClassVar[bool] = True
    linear: bool = False
    """Take keys from a map pooled to 7 x 7 whatever the image's size, in place of the reductions."""

    def reduction(self, stage: int, block: int) -> Reduction:
        """Where the keys and values of a block come from."""
        return Reduction(pool=POOL, norm=self.norms.at("reduction")) if self.linear else super().reduction(stage, block)

    def mlp(self, stage: int, block: int) -> nn.Module:
        """The MLP of a block."""
        return ConvMLP(self.dims[stage], self.hidden_dim(stage, block), relu=self.linear)

    def build(self) -> PyramidVisionTransformerV2:
        """The backbone, randomly initialised."""
        return PyramidVisionTransformerV2(self)

    def build_head(self) -> ClassifierHead:
        """Mean over the map, which comes normalised, and classifier."""
        head = ClassifierHead(self.dims[-1], self.num_classes, None)
        trunc_normal_linears(head)
        return head


class PyramidTransformer(Backbone):
    """Stem and stages of blocks, each stage on a map of half the side."""

    def __init__(self, config: Pyramid) -> None:
        super().__init__()
        dims, norms = config.dims, config.norms
        self.feature_info = stage_info(config, config.patch_size)
        stem_norm = norms.at("stem").build(dims[0])
        self.stem = PatchEmbed(config.in_channels, dims[0], config.patch_size, stem_norm, **config.patches(0))

        def downsample(stage: int) -> nn.Module:
            norm = norms.at("downsample").build(dims[stage])
            return ConvDownsample(dims[stage - 1], dims[stage], norm, **config.patches(stage))

        self.stages = build_stages(config, config.grids(), downsample, partial(_block, config))
        needed = [_least_map(stage) for stage in self.stages]
        fitting = (side for side in count(1) if all(map(ge, config.sides(side), needed)))
        self.least_side = next(fitting)


def _least_map(stage: nn.Module) -> int:
    """The side of the smallest map that all blocks of a stage can reduce."""
    return max((body.reduction.stride for body in stage.modules() if isinstance(body, ReducedAttention)), default=1)


class PyramidVisionTransformer(PyramidTransformer):
    """PVT: each stage adds a position, and the last may have a class token in front."""

    drops_odd_rows: ClassVar[bool] = True

    def __init__(self, config: PVT) -> None:
        super().__init__(config)
        for index, (stage, grid, dim) in enumerate(zip(self.stages, config.grids(), config.dims, strict=True)):
            prefix = config.prefix_tokens(index)
            stage.position = LearnedPosition(dim, grid, prefix, std=0.02, resize="bilinear")
            if prefix:
                stage.class_token = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, 1, dim), std=0.02))
        self.spare_norm = LayerNorm().build(config.dims[-1]).requires_grad_(False) if config.spare_norm else None
        trunc_normal_linears(self)

    def no_weight_decay(self) -> set[str]:
        """The class token; the published recipes decay the position tables."""
        return {name for name, _ in self.named_parameters() if name.endswith("class_token")}


class PyramidVisionTransformerV2(PyramidTransformer):
    """PVTv2: a norm behind each stage."""

    def __init__(self, config: PVTv2) -> None:
        super().__init__(config)
        for stage, dim in zip(self.stages, config.dims, strict=True):
            stage.norm = config.norms.at("final").build(dim)
        trunc_normal_linears(self)
        fan_out_convs(self)

    def output_norm(self) -> tuple[nn.Module, str]:
        """The norm behind the last stage."""
        return self.stages[-1], "norm"

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norms in front of convolutions that pad with zeros, into which nothing folds."""
        return tuple(NormSite(owner=stage, attribute="norm", place="final") for stage in self.stages[:-1])


def _block(config: Pyramid, stage: int, index: int, grid: Grid, drop_path: float) -> Block:
    site = Site(
        dim=config.dims[stage],
        num_heads=config.num_heads[stage],
        grid=grid,
        reduction=config.reduction(stage, index),
        prefix_tokens=config.prefix_tokens(stage),
        qkv_bias=config.qkv_bias,
    )
    mixer = at(config.attention, stage, index).build(site)
    return pre_norm_block(site.dim, mixer, config.mlp(stage, index), config.norms.block, drop_path=drop_path)


@register
def pvt_tiny() -> PVT:
    """PVT-Tiny at 224."""
    return PVT(drop_path=0.1)


@register
def pvt_small() -> PVT:
    """PVT-Small at 224."""
    return replace(pvt_tiny(), depths=(3, 4, 6, 3))


@register
def pvt_medium() -> PVT:
    """PVT-Medium at 224."""
    return replace(pvt_tiny(), depths=(3, 4, 18, 3), drop_path=0.3)


@register
def pvt_large() -> PVT:
    """PVT-Large at 224."""
    return replace(pvt_tiny(), depths=(3, 8, 27, 3), drop_path=0.3)


@register
def pvt_nano() -> PVT:
    """A PVT of two stages and 0.3 million parameters for small images and tests."""
    return PVT(
        image_size=64,
        num_classes=10,
        depths=(2, 2),
        dims=(48, 96),
        num_heads=(2, 4),
        mlp_ratio=4.0,
        reductions=(4, 1),
    )


@register
def pvt_v2_b0() -> PVTv2:
    """PVTv2-B0 at 224."""
    return PVTv2(dims=(32, 64, 160, 256), drop_path=0.1)


@register
def pvt_v2_b1() -> PVTv2:
    """PVTv2-B1 at 224."""
    return PVTv2(drop_path=0.1)


@register
def pvt_v2_b2() -> PVTv2:
    """PVTv2-B2 at 224."""
    return replace(pvt_v2_b1(), depths=(3, 4, 6, 3))


@register
def pvt_v2_b2_linear() -> PVTv2:
    """PVTv2-B2-Linear at 224: keys from a pooled map, so that cost is linear in the number of tokens."""
    return replace(pvt_v2_b2(), linear=True)


@register
def pvt_v2_b3() -> PVTv2:
    """PVTv2-B3 at 224."""
    return replace(pvt_v2_b1(), depths=(3, 4, 18, 3), drop_path=0.3)


@register
def pvt_v2_b4() -> PVTv2:
    """PVTv2-B4 at 224."""
    return replace(pvt_v2_b1(), depths=(3, 8, 27, 3), drop_path=0.3)


@register
def pvt_v2_b5() -> PVTv2:
    """PVTv2-B5 at 224."""
    return replace(pvt_v2_b1(), depths=(3, 6, 40, 3), mlp_ratio=4.0, drop_path=0.3)


@register
def pvt_v2_nano() -> PVTv2:
    """A PVTv2 of three stages and 0.4 million parameters for small images and tests."""
    return PVTv2(
        image_size=64,
        num_classes=10,
        depths=(2, 1, 1),
        dims=(32, 64, 128),
        num_heads=(1, 2, 4),
        mlp_ratio=4.0,
        reductions=(4, 2, 1),
    )
