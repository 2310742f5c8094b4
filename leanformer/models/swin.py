"""Swin: stages of windowed attention with patch merging between them (https://arxiv.org/abs/2103.14030)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from leanformer.config import PerStage, at, check_per_stage, register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention import AttentionConfig, Softmax
from leanformer.layers.block import Block, BlockSequence
from leanformer.layers.branch import Branch
from leanformer.layers.embed import ConvStem, PatchEmbed, PatchMerging
from leanformer.layers.head import ClassifierHead
from leanformer.layers.init import trunc_normal_linears
from leanformer.layers.mlp import MLP
from leanformer.layers.position import LearnedPosition
from leanformer.layers.region import Window
from leanformer.layers.site import Grid, Site
from leanformer.models.backbone import Backbone, BackboneConfig, FeatureInfo, drop_path_rates, patch_grid
from leanformer.models.registry import register

SWIN_SOFTMAX = Softmax(relative_position=True)


@register_config("swin")
class Swin(BackboneConfig):
    """A hierarchical transformer; the attention and window of each stage, or each block, are free."""

    patch_size: int = 4
    depths: tuple[int, ...] = (2, 2, 6, 2)
    dims: tuple[int, ...] = (96, 192, 384, 768)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    attention: PerStage[AttentionConfig] = SWIN_SOFTMAX
    window_size: PerStage[int | None] = 7
    """Side of the attention windows; None for the whole map. Odd blocks shift them by half where the attention takes a
    mask."""
    unmasked_shift: bool = False
    """Also shift windows of attentions that take no mask, so that tokens mix across the map's border."""
    stem: Literal["patch", "conv"] = "patch"
    """"conv" is a stack of overlapping convolutions: better on few images."""
    absolute_position: bool = False
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        self.check_ranges(patch_size=1, depths=0, dims=1, num_heads=1, mlp_ratio=0)
        if not len(self.depths) == len(self.dims) == len(self.num_heads):
            raise ConfigError(f"depths {self.depths}, dims {self.dims} and num_heads {self.num_heads} differ in length")
        check_per_stage("attention", self.attention, self.depths)
        check_per_stage("window_size", self.window_size, self.depths)
        for dim, heads in zip(self.dims, self.num_heads, strict=True):
            if dim % heads:
                raise ConfigError(f"dim {dim} is not divisible by its num_heads {heads}")

    def build(self) -> SwinTransformer:
        """The backbone, randomly initialised."""
        return SwinTransformer(self)

    def build_head(self) -> ClassifierHead:
        """Norm, mean over the map, classifier."""
        head = ClassifierHead(self.dims[-1], self.num_classes, self.norms.at("final").build(self.dims[-1]))
        trunc_normal_linears(head)
        return head


class Stage(nn.Module):
    """Patch merging (but for the first stage), then blocks."""

    def __init__(self, downsample: PatchMerging | None, blocks: list[Block]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = BlockSequence(blocks)

    def forward(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        """Tokens (B, N, C) of a map to those of this stage's map, and its grid."""
        if self.downsample is not None:
            x, grid = self.downsample(x, grid)
        return self.blocks(x, grid), grid


class SwinTransformer(Backbone):
    """Stem, stages of blocks, each stage on a map of half the side."""

    def __init__(self, config: Swin) -> None:
        super().__init__()
        grid = patch_grid(config, config.patch_size)
        dims, norms = config.dims, config.norms
        stem = PatchEmbed if config.stem == "patch" else ConvStem
        self.stem = stem(config.in_channels, dims[0], config.patch_size, norms.at("stem").build(dims[0]))
        self.position = LearnedPosition(dims[0], grid, std=0.02) if config.absolute_position else None
        self.feature_info = tuple(FeatureInfo(dim, config.patch_size << stage) for stage, dim in enumerate(dims))
        rates = iter(drop_path_rates(config.drop_path, sum(config.depths)))
        stages = []
        for stage, depth in enumerate(config.depths):
            downsample = None
            if stage:
                grid = (grid[0] + 1) // 2, (grid[1] + 1) // 2
                downsample = PatchMerging(
                    dims[stage - 1], dims[stage], norms.at("downsample").build(4 * dims[stage - 1])
                )
            blocks = [_block(config, stage, index, grid, next(rates)) for index in range(depth)]
            stages.append(Stage(downsample, blocks))
        self.stages = nn.ModuleList(stages)
        trunc_normal_linears(self)

    def no_weight_decay(self) -> set[str]:
        """The position table and the relative position biases."""
        return {
            name
            for name, _ in self.named_parameters()
            if name == "position.table" or name.endswith("kernel.bias.table")
        }

    def forward_stages(self, images: Tensor) -> list[tuple[Tensor, Grid]]:
        """Tokens (B, N, C) and grid at the end of each stage."""
        x, grid = self.stem(images)
        if self.position is not None:
            x = x + self.position(grid)
        ends = []
        for stage in self.stages:
            x, grid = stage(x, grid)
            ends.append((x, grid))
        return ends


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
    norm = config.norms.block
    body = attention.build(site)
    mlp = MLP(dim, int(dim * config.mlp_ratio))
    return Block(
        attn=Branch(body, norm=norm.build(dim), region=window, drop_path=drop_path),  # type: ignore[arg-type]
        mlp=Branch(mlp, norm=norm.build(dim), drop_path=drop_path),
    )


def _window(config: Swin, attention: AttentionConfig, stage: int, index: int, grid: Grid) -> Window | None:
    size = at(config.window_size, stage, index)
    if size is None:
        return None
    if size < 1:
        raise ConfigError(f"window_size must be positive or None for the whole map, got {size} in stage {stage}")
    if min(grid) <= size:
        return Window(min(grid), 0, grid)
    shifts = index % 2 == 1 and (attention.takes_mask or config.unmasked_shift)
    return Window(size, size // 2 if shifts else 0, grid, masked=attention.takes_mask)


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
