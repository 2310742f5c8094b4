"""Swin: stages of windowed attention with patch merging between them (https://arxiv.org/abs/2103.14030)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from torch import Tensor, nn

from leanformer import ops
from leanformer.config import PerStage, at, check_per_stage, register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention import AttentionConfig, Softmax
from leanformer.layers.block import Block, pre_norm_block
from leanformer.layers.embed import ConvStem, PatchEmbed, PatchMerging
from leanformer.layers.init import trunc_normal_linears
from leanformer.layers.mlp import MLP
from leanformer.layers.position import LearnedPosition
from leanformer.layers.region import Window
from leanformer.layers.site import Grid, Site
from leanformer.models.backbone import (
    Backbone,
    StagedConfig,
    build_stages,
    halving_grids,
    patch_grid,
    stage_info,
)
from leanformer.models.registry import register

SWIN_SOFTMAX = Softmax(relative_position=True)


@register_config("swin")
class Swin(StagedConfig):
    """A hierarchical transformer; the attention and window of each stage, or each block, are free."""

    patch_size: int = 4
    attention: PerStage[AttentionConfig] = SWIN_SOFTMAX
    window_size: PerStage[int | None] = 7
    """Side of the attention windows; None for the whole map. Odd blocks shift them by half where the attention takes a
    mask."""
    unmasked_shift: bool = False
    """Also shift windows of attentions that take no mask, so that tokens mix across the map's border."""
    fit_windows: bool = True
    """Whether windows shrink to a smaller map and then stay in place; else the map is padded to them and shifted, as
    the published backbones for dense tasks do it."""
    stem: Literal["patch", "conv"] = "patch"
    """"conv" is a stack of overlapping convolutions: better on few images."""
    absolute_position: bool = False

    def __post_init__(self) -> None:
        StagedConfig.__post_init__(self)
        self.check_ranges(patch_size=1)
        check_per_stage("window_size", self.window_size, self.depths)

    def build(self) -> SwinTransformer:
        """The backbone, randomly initialised."""
        return SwinTransformer(self)


class SwinTransformer(Backbone):
    """Stem, stages of blocks, each stage on a map of half the side."""

    def __init__(self, config: Swin) -> None:
        super().__init__()
        grid = patch_grid(config, config.patch_size)
        dims, norms = config.dims, config.norms
        stem = PatchEmbed if config.stem == "patch" else ConvStem
        self.stem = stem(config.in_channels, dims[0], config.patch_size, norms.at("stem").build(dims[0]))
        self.position = LearnedPosition(dims[0], grid, std=0.02) if config.absolute_position else None
        self.feature_info = stage_info(config, config.patch_size)

        def downsample(stage: int) -> nn.Module:
            dim = dims[stage - 1]
            return PatchMerging(dim, dims[stage], norms.at("downsample").build(4 * dim))

        grids = halving_grids(grid, len(dims))
        self.stages = build_stages(config, grids, downsample, partial(_block, config))
        trunc_normal_linears(self)

    def no_weight_decay(self) -> set[str]:
        """The position table and the relative position biases."""
        return {
            name
            for name, _ in self.named_parameters()
            if name == "position.table" or name.endswith("kernel.bias.table")
        }

    def embed(self, images: Tensor) -> tuple[Tensor, Grid]:
        """The tokens (B, N, C) that the first stage reads, and their grid."""
        x, grid = self.stem(ops.pad_image(images, self.feature_info[0].stride))
        return (x if self.position is None else x + self.position(grid)), grid


def _block(config: Swin, stage: int, index: int, grid: Grid, drop_path: float) -> Block:
    dim = config.dims[stage]
    attention = at(config.attention, stage, index)
    window = _window(config, attention, stage, index, grid)
    site = Site(
        dim=dim,
        num_heads=config.num_heads[stage],
        grid=grid if window is None else (window.size, window.size),
        qkv_bias=config.qkv_bias,
    )
    mlp = MLP(dim, config.hidden_dim(stage, index))
    return pre_norm_block(dim, attention.build(site), mlp, config.norms.block, region=window, drop_path=drop_path)


def _window(config: Swin, attention: AttentionConfig, stage: int, index: int, grid: Grid) -> Window | None:
    size = at(config.window_size, stage, index)
    if size is None:
        return None
    if size < 1:
        raise ConfigError(f"window_size must be positive or None for the whole map, got {size} in stage {stage}")
    if config.fit_windows and min(grid) <= size:
        return Window(min(grid), 0, grid)
    shifts = index % 2 == 1 and (attention.takes_mask or config.unmasked_shift)
    return Window(size, size // 2 if shifts else 0, grid, masked=attention.takes_mask, fits=config.fit_windows)


@register
def swin_tiny() -> Swin:
    """Swin-T at 224, window 7."""
    return Swin(drop_path=0.2)


@register
def swin_small() -> Swin:
    """Swin-S at 224, window 7."""
    return replace(swin_tiny(), depths=(2, 2, 18, 2), drop_path=0.3)


@register
def swin_base() -> Swin:
    """Swin-B at 224, window 7."""
    return replace(swin_small(), dims=(128, 256, 512, 1024), num_heads=(4, 8, 16, 32), drop_path=0.5)


@register
def swin_nano() -> Swin:
    """A Swin of two stages and 0.3 million parameters for small images and tests, with a convolutional stem."""
    return Swin(
        image_size=64, num_classes=10, depths=(2, 2), dims=(48, 96), num_heads=(2, 4), window_size=4, stem="conv"
    )
