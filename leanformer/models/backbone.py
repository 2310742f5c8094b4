"""What every backbone offers: tokens of the last stage, one map per stage for dense tasks, and a config that builds
it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from leanformer import ops
from leanformer.config import PerStage, at, check_per_stage, register_config
from leanformer.errors import ConfigError, DataError, EditError
from leanformer.layers.attention import AttentionConfig, Softmax
from leanformer.layers.block import Stage
from leanformer.layers.embed import ConvDownsample
from leanformer.layers.head import ClassifierHead
from leanformer.layers.init import trunc_normal_linears
from leanformer.layers.norm import Norms
from leanformer.layers.site import Grid


class FeatureInfo(NamedTuple):
    """Shape of one stage's map."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """Base of all backbones: images (B, 3, H, W) to tokens."""

    feature_info: tuple[FeatureInfo, ...]
    stem: nn.Module
    """Maps images to tokens and their grid."""
    stages: nn.ModuleList
    """`Stage`s, each on the map that the one before gave."""
    least_side: int = 1
    """Of images in pixels: smaller ones would leave a stage without a map."""
    drops_odd_rows: ClassVar[bool] = False
    """Whether the last row or column of a map with an odd side is left out of the next stage's, as in PVT; else it gets
    a neighbour of zeros."""

    def embed(self, images: Tensor) -> tuple[Tensor, Grid]:
        """The tokens (B, prefix + N, C) that the first stage reads, and their grid."""
        return self.stem(images)

    def forward_stages(self, images: Tensor, count: int | None = None) -> list[tuple[Tensor, Grid]]:
        """Tokens (B, prefix + N, C) and grid at the end of each stage, or of the first `count`."""
        self._check(images)
        x, grid = self.embed(images)
        ends = []
        for stage in islice(self.stages, count):
            x, grid = stage(x, grid)
            ends.append((x, grid))
        return ends

    def forward_blocks(self, images: Tensor, count: int | None = None) -> list[tuple[Tensor, Grid]]:
        """Tokens (B, prefix + N, C) and grid behind each block of the first stage, or behind the first `count`."""
        self._check(images)
        stage = cast(Stage, self.stages[0])
        x, grid = stage.enter(*self.embed(images))
        return [(end, grid) for end in islice(stage.blocks.ends(x, grid), count)]

    def _check(self, images: Tensor) -> None:
        """Refuse images that the stem or a stage cannot read. Compiled and exported graphs are left without it."""
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
            return
        shape = tuple(images.shape)
        if len(shape) != 4:
            raise DataError(f"images come as (batch, channels, height, width), got {shape}; one image is images[None]")
        channels = next(module.in_channels for module in self.stem.modules() if isinstance(module, nn.Conv2d))
        if shape[1] != channels:
            raise DataError(
                f"the model reads images of {channels} channels, got {shape}; convert them, or build it with "
                f"in_channels={shape[1]}"
            )
        if min(shape[2:]) < self.least_side:
            raise DataError(
                f"images of {shape[2]} x {shape[3]} pixels are too small for this {type(self).__name__}: "
                f"each side must be at least {self.least_side}"
            )

    def output_norm(self) -> tuple[nn.Module, str] | None:
        """Owner and attribute of the norm that the last stage ends with, if it does; the head then has none."""
        return None

    def forward(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Tokens (B, prefix + N, C) of the last stage, not normalised, and their grid."""
        return self.forward_stages(images)[-1]

    def feature_grids(self, image_grid: Grid) -> list[Grid]:
        """The size of each map of `forward_features`, for images whose sides are multiples of the first stride."""
        up = 0 if self.drops_odd_rows else 1
        strides = [info.stride for info in self.feature_info]
        height, width = image_grid
        return [((height + up * (s - 1)) // s, (width + up * (s - 1)) // s) for s in strides]

    def forward_features(self, images: Tensor) -> list[Tensor]:
        """One map (B, C, H, W) for each stage, prefix tokens left out."""
        maps = []
        for tokens, grid in self.forward_stages(images):
            maps.append(ops.to_map(map_tokens(tokens, grid), grid))
        return maps

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay must leave alone, besides biases and everything of one axis."""
        return set()


@register_config("backbone")
class BackboneConfig:
    """Base of the configs of backbones, with what every image classifier needs."""

    kind: ClassVar[str]
    image_size: int | tuple[int, int] = 224
    """Side, or (height, width), in pixels."""
    num_classes: int = 1000
    in_channels: int = 3
    drop_path: float = 0.0
    """Stochastic-depth rate of the last block; it grows linearly from zero."""
    norms: Norms = Norms()

    @property
    def image_grid(self) -> Grid:
        """(height, width) of the images."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    def check_ranges(self, **least: float) -> None:
        """Check that each named field, or each of its entries, is at least the number given, and the fields of every
        backbone that they are in their range.

        Raises:
            ConfigError: naming the field.
        """
        for name, low in {"num_classes": 0, "in_channels": 1, **least}.items():
            value = getattr(self, name)
            if any(entry < low for entry in (value if isinstance(value, tuple) else (value,))):
                raise ConfigError(f"{name} must be at least {low}, got {value}")
        if not 0.0 <= self.drop_path < 1.0:
            raise ConfigError(f"drop_path must be in [0, 1), got {self.drop_path}")

    def build(self) -> Backbone:
        """The backbone, randomly initialised."""
        raise NotImplementedError

    def build_head(self) -> ClassifierHead:
        """The classifier head that belongs to it."""
        raise NotImplementedError


@register_config("staged_backbone")
class StagedConfig(BackboneConfig):
    """Base of the configs of hierarchical backbones: stages of blocks, each on a coarser map than the one before."""

    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks in each stage."""
    dims: tuple[int, ...] = (96, 192, 384, 768)
    """Channels in each stage."""
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    mlp_ratio: PerStage[float] = 4.0
    """Width of the MLP's hidden layer over that of the tokens."""
    qkv_bias: bool = True
    attention: PerStage[AttentionConfig] = Softmax()
    """One for all blocks, or one for each stage, or for each block of a stage."""

    def __post_init__(self) -> None:
        self.check_ranges(depths=0, dims=1, num_heads=1)
        if not self.depths:
            raise ConfigError("depths names no stage; give at least one")
        if not len(self.depths) == len(self.dims) == len(self.num_heads):
            raise ConfigError(f"depths {self.depths}, dims {self.dims} and num_heads {self.num_heads} differ in length")
        check_per_stage("attention", self.attention, self.depths)
        check_per_stage("mlp_ratio", self.mlp_ratio, self.depths)
        for stage, (depth, dim, heads) in enumerate(zip(self.depths, self.dims, self.num_heads, strict=True)):
            if dim % heads:
                raise ConfigError(f"dim {dim} is not divisible by its num_heads {heads}")
            ratios = [at(self.mlp_ratio, stage, block) for block in range(depth)]
            if any(not 1 <= ratio * dim < float("inf") for ratio in ratios):
                raise ConfigError(f"mlp_ratio must leave a hidden channel, got {self.mlp_ratio} of {dim} channels")

    def hidden_dim(self, stage: int, block: int) -> int:
        """Width of an MLP's hidden layer."""
        return int(self.dims[stage] * at(self.mlp_ratio, stage, block))

    def drop_path_iterator(self) -> Iterator[float]:
        """The stochastic-depth rates of all blocks in order."""
        return iter(drop_path_rates(self.drop_path, sum(self.depths)))

    def build_head(self) -> ClassifierHead:
        """Norm, mean over the map, classifier."""
        head = ClassifierHead(self.dims[-1], self.num_classes, self.norms.at("final").build(self.dims[-1]))
        trunc_normal_linears(head)
        return head


def map_tokens(tokens: Tensor, grid: Grid) -> Tensor:
    """The tokens (B, H W, C) of a map among those with others in front, (B, prefix + H W, C).

    Raises:
        EditError: if an edit left them out.
    """
    count = grid[0] * grid[1]
    if tokens.shape[1] < count:
        raise EditError(
            f"the last block computes {tokens.shape[1]} tokens, those that the classifier reads, and no map of "
            f"{grid[0]} x {grid[1]}: class_token_tail was applied; take the model without it"
        )
    return tokens[:, tokens.shape[1] - count :]


def patch_grid(config: BackboneConfig, patch_size: int) -> Grid:
    """The grid of patches of an image.

    Raises:
        ConfigError: if a side of the image is no multiple of the patch size.
    """
    for side in config.image_grid:
        if side < patch_size or side % patch_size:
            below = max(side // patch_size, 1) * patch_size
            raise ConfigError(
                f"image_size {side} is not a multiple of the patch size {patch_size} of {config.kind!r}; "
                f"take {below} or {below + patch_size}"
            )
    height, width = config.image_grid
    return height // patch_size, width // patch_size


def halving_grids(grid: Grid, count: int) -> list[Grid]:
    """`count` grids from `grid` on, each of half the sides of the one before, rounded up."""
    grids = [grid]
    while len(grids) < count:
        grids.append(((grids[-1][0] + 1) // 2, (grids[-1][1] + 1) // 2))
    return grids[:count]


def build_stages(
    config: StagedConfig,
    grids: Sequence[Grid],
    downsample: Callable[[int], nn.Module],
    block: Callable[[int, int, Grid, float], nn.Module],
) -> nn.ModuleList:
    """The stages of a hierarchical backbone.

    Args:
        grids: the map of each stage.
        downsample: gives, for each stage but the first, what makes its map of the one before.
        block: gives the block for (stage, index in it, grid, drop-path rate).
    """
    rates = config.drop_path_iterator()
    return nn.ModuleList(
        Stage(
            [block(stage, index, grid, next(rates)) for index in range(depth)],
            downsample=downsample(stage) if stage else None,
        )
        for stage, (grid, depth) in enumerate(zip(grids, config.depths, strict=True))
    )


def conv_downsample(config: StagedConfig, stage: int) -> nn.Module:
    """A 3 x 3 convolution of stride 2 to the channels of `stage`, then a norm."""
    dims = config.dims
    norm = config.norms.at("downsample").build(dims[stage])
    return ConvDownsample(dims[stage - 1], dims[stage], norm, kernel_size=3, padding=1)


def stage_info(config: StagedConfig, patch_size: int) -> tuple[FeatureInfo, ...]:
    """Channels and strides of stages that each halve the map."""
    return tuple(FeatureInfo(dim, patch_size << stage) for stage, dim in enumerate(config.dims))


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Rates growing linearly from 0 to `rate` over `depth` blocks."""
    return [rate * index / max(depth - 1, 1) for index in range(depth)]
