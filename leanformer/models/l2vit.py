"""L2ViT: blocks of softmax attention in windows and of linear attention over the whole map by turns
(https://arxiv.org/abs/2501.16182)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

from torch import Tensor, nn

from leanformer import ops
from leanformer.config import PerStage, at, check_per_stage, register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention import AttentionConfig, NormalizedLinear, Softmax
from leanformer.layers.block import Block, pre_norm_block
from leanformer.layers.branch import Branch
from leanformer.layers.conv import ConvPosition
from leanformer.layers.embed import NormedDownsample, PatchEmbed, ReluStem
from leanformer.layers.head import ClassifierHead
from leanformer.layers.init import trunc_normal_linears, trunc_normal_weights
from leanformer.layers.local import LocalConcentration
from leanformer.layers.mlp import MLP
from leanformer.layers.region import Window
from leanformer.layers.site import Grid, NormSite, Site
from leanformer.models.backbone import (
    Backbone,
    StagedConfig,
    build_stages,
    halving_grids,
    stage_info,
)
from leanformer.models.registry import register

PATCH_SIZE = 4


@register_config("l2vit")
class L2ViT(StagedConfig):
    """A hierarchical transformer of local blocks (attention in windows, two convolutional positions) and global blocks
    (attention over the map, one position, a local concentration module)."""

    attention: PerStage[AttentionConfig | None] = None  # type: ignore[assignment]
    """None for softmax in local blocks and normalised linear attention in global ones."""
    blocks: Literal["alternating", "local", "global"] = "alternating"
    """"alternating" starts every stage with a local block."""
    window_size: PerStage[int] = 7
    """Side of the windows of local blocks. They never shift, and padded places take part in the attention."""
    stem: Literal["conv", "deep_conv", "patch", "overlapped_patch"] = "conv"
    """Two or four convolutions with batch norm and ReLU, or a single one of 4 x 4 or 7 x 7."""
    overlapped: bool = False
    """Whether the maps get coarser by convolutions of 3 x 3 in place of 2 x 2."""
    position_gelu: bool = False
    """Whether GELU follows the convolutions of the positions."""
    head_dim: int = 0
    """Width of a layer with ReLU in front of the pooling; 0 for none."""

    def __post_init__(self) -> None:
        StagedConfig.__post_init__(self)
        self.check_ranges(head_dim=0)
        check_per_stage("window_size", self.window_size, self.depths)
        if self.stem in ("conv", "deep_conv") and self.dims[0] < 2:
            raise ConfigError(f"the first of dims must be at least 2, since the stem begins with half, got {self.dims}")
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                if at(self.window_size, stage, block) < 1:
                    raise ConfigError(f"window_size must be at least 1, got {self.window_size}")

    def is_local(self, block: int) -> bool:
        """Whether a stage's block `block` is a local one."""
        return self.blocks == "local" or (self.blocks == "alternating" and block % 2 == 0)

    def build(self) -> L2Transformer:
        """The backbone, randomly initialised."""
        return L2Transformer(self)

    def build_head(self) -> ClassifierHead:
        """Norm, the layer in front of the pooling if there is one, mean over the map, classifier."""
        if not self.head_dim:
            return StagedConfig.build_head(self)
        head = ProjectedHead(
            self.dims[-1], self.head_dim, self.num_classes, self.norms.at("final").build(self.dims[-1])
        )
        trunc_normal_linears(head)
        return head


class ProjectedHead(ClassifierHead):
    """A head whose tokens pass a linear layer and ReLU before they are pooled."""

    def __init__(self, dim: int, hidden_dim: int, num_classes: int, norm: nn.Module) -> None:
        super().__init__(hidden_dim, num_classes, norm)
        self.proj = nn.Linear(dim, hidden_dim)

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm in front of the layer."""
        return (NormSite(owner=self, attribute="norm", place="final", after=(self.proj,)),)

    def read(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the classifier reads of normalised tokens (B, N, C): (B, hidden), alone."""
        return super().read(self.proj(x).relu())


class L2Transformer(Backbone):
    """Stem, stages of blocks, each stage on a map of half the side, odd sides rounded up."""

    def __init__(self, config: L2ViT) -> None:
        super().__init__()
        dims, norms = config.dims, config.norms
        self.stem = _stem(config)
        self.feature_info = stage_info(config, PATCH_SIZE)
        height, width = config.image_grid
        side, padding = (3, 1) if config.overlapped else (2, 0)

        def downsample(stage: int) -> nn.Module:
            norm = norms.at("downsample").build(dims[stage - 1])
            return NormedDownsample(dims[stage - 1], dims[stage], norm, kernel_size=side, padding=padding)

        grids = halving_grids((-(-height // PATCH_SIZE), -(-width // PATCH_SIZE)), len(dims))
        self.stages = build_stages(config, grids, downsample, partial(_block, config))
        trunc_normal_weights(self)

    def embed(self, images: Tensor) -> tuple[Tensor, Grid]:
        """The tokens (B, N, C) that the first stage reads, and their grid."""
        return self.stem(ops.pad_image(images, PATCH_SIZE))


def _stem(config: L2ViT) -> nn.Module:
    channels, dim = config.in_channels, config.dims[0]
    norm = config.norms.at("stem").build(dim)
    if config.stem == "patch":
        return PatchEmbed(channels, dim, PATCH_SIZE, norm)
    if config.stem == "overlapped_patch":
        return PatchEmbed(channels, dim, PATCH_SIZE, norm, kernel_size=7, padding=3)
    half = dim // 2
    if config.stem == "conv":
        convs = [nn.Conv2d(channels, half, 3, stride=2, padding=1), nn.Conv2d(half, dim, 3, stride=2, padding=1)]
        return ReluStem(convs, norm, last_bn=True)
    convs = [
        nn.Conv2d(channels, half, 7, stride=2, padding=3, bias=False),
        nn.Conv2d(half, half, 3, padding=1, bias=False),
        nn.Conv2d(half, half, 3, padding=1, bias=False),
        nn.Conv2d(half, dim, 2, stride=2),
    ]
    return ReluStem(convs, norm, last_bn=False)


def _block(config: L2ViT, stage: int, index: int, grid: Grid, drop_path: float) -> Block:
    dim, norm, local = config.dims[stage], config.norms.block, config.is_local(index)
    size = at(config.window_size, stage, index)
    attention = at(config.attention, stage, index) or (Softmax() if local else NormalizedLinear())
    site = Site(
        dim=dim,
        num_heads=config.num_heads[stage],
        grid=(size, size) if local else grid,
        qkv_bias=config.qkv_bias,
    )
    return pre_norm_block(
        dim,
        attention.build(site),
        MLP(dim, config.hidden_dim(stage, index)),
        norm,
        region=Window(size, 0, grid) if local else None,
        drop_path=drop_path,
        position=ConvPosition(dim, gelu=config.position_gelu),
        local=None if local else Branch(LocalConcentration(dim), norm=norm.build(dim), drop_path=drop_path),
        mlp_position=ConvPosition(dim, gelu=config.position_gelu) if local else None,
    )


@register
def l2vit_tiny() -> L2ViT:
    """L2ViT-T at 224, window 7."""
    return L2ViT()


@register
def l2vit_small() -> L2ViT:
    """L2ViT-S at 224, window 7."""
    return replace(l2vit_tiny(), depths=(2, 2, 18, 2))


@register
def l2vit_base() -> L2ViT:
    """L2ViT-B at 224, window 7."""
    return replace(l2vit_small(), dims=(128, 256, 512, 1024), num_heads=(4, 8, 16, 32), drop_path=0.3)


@register
def l2vit_base_384() -> L2ViT:
    """L2ViT-B at 384, window 12; its parameters are those of L2ViT-B."""
    return replace(l2vit_base(), image_size=384, window_size=12, drop_path=0.2)


@register
def l2vit_nano() -> L2ViT:
    """An L2ViT of two stages and 0.3 million parameters for small images and tests."""
    return L2ViT(image_size=64, num_classes=10, depths=(2, 2), dims=(48, 96), num_heads=(2, 4), window_size=4)
