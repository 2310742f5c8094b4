"""CSwin: stages of attention in cross-shaped windows, on maps that overlapping convolutions make coarser
(https://arxiv.org/abs/2107.00652)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from leanformer.config import PerStage, at, check_per_stage, register_config
from leanformer.layers.attention.cross_shaped import cross_shaped
from leanformer.layers.block import Block, pre_norm_block
from leanformer.layers.embed import PatchEmbed
from leanformer.layers.init import trunc_normal_linears
from leanformer.layers.mlp import MLP
from leanformer.layers.site import Grid, Site
from leanformer.models.backbone import (
    Backbone,
    StagedConfig,
    build_stages,
    conv_downsample,
    halving_grids,
    patch_grid,
    stage_info,
)
from leanformer.models.registry import register

PATCH_SIZE = 4


@register_config("cswin")
class CSwin(StagedConfig):
    """A hierarchical transformer in cross-shaped windows; the attention and the stripes of each stage, or each block,
    are free."""

    depths: tuple[int, ...] = (1, 2, 21, 1)
    dims: tuple[int, ...] = (64, 128, 256, 512)
    num_heads: tuple[int, ...] = (2, 4, 8, 16)
    split_size: PerStage[int | None] = (1, 2, 7, None)
    """Tokens across a stripe; None for one branch with all heads over the whole map. Stripes are as long as the map,
    and a map that is narrower than `split_size` is one stripe, so the parameters do not depend on the image's size
    (but for learned key positions)."""

    def __post_init__(self) -> None:
        StagedConfig.__post_init__(self)
        check_per_stage("split_size", self.split_size, self.depths)

    def build(self) -> CSwinTransformer:
        """The backbone, randomly initialised."""
        return CSwinTransformer(self)


class CSwinTransformer(Backbone):
    """Stem, stages of blocks, each stage on a map of half the side."""

    least_side = 3  # the stem's kernel of 7 reads 4 zeros beside them

    def __init__(self, config: CSwin) -> None:
        super().__init__()
        grid = patch_grid(config, PATCH_SIZE)
        dims, norms = config.dims, config.norms
        stem_norm = norms.at("stem").build(dims[0])
        self.stem = PatchEmbed(config.in_channels, dims[0], PATCH_SIZE, stem_norm, kernel_size=7, padding=2)
        self.feature_info = stage_info(config, PATCH_SIZE)
        grids = halving_grids(grid, len(dims))
        self.stages = build_stages(config, grids, partial(conv_downsample, config), partial(_block, config))
        trunc_normal_linears(self)


def _block(config: CSwin, stage: int, index: int, grid: Grid, drop_path: float) -> Block:
    dim = config.dims[stage]
    site = Site(dim=dim, num_heads=config.num_heads[stage], grid=grid, qkv_bias=config.qkv_bias)
    attention = cross_shaped(at(config.attention, stage, index), site, at(config.split_size, stage, index))
    mlp = MLP(dim, config.hidden_dim(stage, index))
    return pre_norm_block(dim, attention, mlp, config.norms.block, drop_path=drop_path)


@register
def cswin_tiny() -> CSwin:
    """CSwin-T at 224."""
    return CSwin(drop_path=0.2)


@register
def cswin_small() -> CSwin:
    """CSwin-S at 224."""
    return replace(cswin_tiny(), depths=(2, 4, 32, 2), drop_path=0.4)


@register
def cswin_base() -> CSwin:
    """CSwin-B at 224."""
    return replace(cswin_small(), dims=(96, 192, 384, 768), num_heads=(4, 8, 16, 32), drop_path=0.5)


@register
def cswin_base_384() -> CSwin:
    """CSwin-B at 384 pixels with stripes of 12 in stage 3."""
    return replace(cswin_base(), image_size=384, split_size=(1, 2, 12, None), drop_path=0.7)


@register
def cswin_nano() -> CSwin:
    """A CSwin of three stages and 0.4 million parameters for small images and tests."""
    return CSwin(
        image_size=64,
        num_classes=10,
        depths=(1, 2, 1),
        dims=(32, 64, 128),
        num_heads=(2, 4, 8),
        split_size=(1, 3, None),
    )
