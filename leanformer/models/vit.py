"""ViT and DeiT: plain blocks on one map of patches (https://arxiv.org/abs/2010.11929, https://arxiv.org/abs/2012.12877)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from leanformer.config import PerStage, at, check_per_stage, register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention import AttentionConfig, Softmax
from leanformer.layers.block import Block, Stage, pre_norm_block
from leanformer.layers.branch import Rescale
from leanformer.layers.embed import PatchEmbed
from leanformer.layers.head import ClassifierHead, Pool
from leanformer.layers.init import trunc_normal_linears
from leanformer.layers.mlp import MLP
from leanformer.layers.norm import LayerNorm, Norms
from leanformer.layers.position import LearnedPosition
from leanformer.layers.site import Grid, Site
from leanformer.models.backbone import Backbone, BackboneConfig, FeatureInfo, drop_path_rates, patch_grid
from leanformer.models.registry import register


@register_config("vit")
class ViT(BackboneConfig):
    """A vision transformer of one stage."""

    patch_size: int = 16
    dim: int = 192
    depth: int = 12
    num_heads: int = 3
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    attention: PerStage[AttentionConfig] = Softmax()
    """One for all blocks, or `((first, second, ...),)` with one for each block."""
    removed: tuple[int, ...] = ()
    """Blocks, from 0 on, whose attention is the identity without a norm: x becomes 2 x there
    (https://arxiv.org/abs/2404.05657)."""
    drop_path_grows: bool = True
    """Whether the stochastic depth grows from zero to `drop_path`; else every block has that rate."""
    layer_scale: float | None = None
    """Initial value of the learned factors on both branches; None for none."""
    pool: Pool = "token"
    """"token" reads a class token, "mean" averages the map and has none."""
    pool_first: bool = False
    """Normalise what was pooled, not the tokens."""
    distilled: bool = False
    """A second token behind the class token, whose classifier learns from a teacher."""
    registers: int = 0
    """Tokens between those that are read and the map, which nothing reads (https://arxiv.org/abs/2309.16588)."""
    prefix_positions: Literal["all", "read", "none"] = "all"
    """Which tokens in front of the map have an entry in the position table: all, the class and distillation token
    alone, or none, where files hold the class token with its position added."""
    spare_class_token: bool = False
    """Keep a class token that nothing reads, as SLAB's files do, so that they load and are written whole."""
    norms: Norms = Norms(block=LayerNorm(eps=1e-6))

    def __post_init__(self) -> None:
        self.check_ranges(patch_size=1, depth=0, dim=1, num_heads=1, mlp_ratio=0, registers=0)
        if self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} is not divisible by num_heads {self.num_heads}")
        check_per_stage("attention", self.attention, (self.depth,))
        if len(set(self.removed)) < len(self.removed) or not set(self.removed) <= set(range(self.depth)):
            raise ConfigError(f"removed names blocks from 0 to {self.depth - 1}, each once, got {self.removed}")
        if self.spare_class_token and self.pool == "token":
            raise ConfigError("spare_class_token is for pool='mean'; with pool='token' the class token is in use")
        if self.distilled and self.pool != "token":
            raise ConfigError("distilled adds a token that is read; it needs pool='token'")
        if self.pool_first and self.pool != "mean":
            raise ConfigError("pool_first is for pool='mean'; a token is pooled after its norm")

    @property
    def read_tokens(self) -> int:
        """Tokens in front that a classifier reads."""
        return int(self.pool == "token") + int(self.distilled)

    @property
    def prefix_tokens(self) -> int:
        """Tokens in front of the map."""
        return self.read_tokens + self.registers

    @property
    def positioned_tokens(self) -> int:
        """Tokens in front of the map that have an entry in the position table."""
        return {"all": self.prefix_tokens, "read": self.read_tokens, "none": 0}[self.prefix_positions]

    def build(self) -> VisionTransformer:
        """The backbone, randomly initialised."""
        return VisionTransformer(self)

    def build_head(self) -> ClassifierHead:
        """Norm, class token or mean, classifier."""
        norm = self.norms.at("final").build(self.dim)
        head = ClassifierHead(
            self.dim,
            self.num_classes,
            norm,
            self.pool,
            self.prefix_tokens,
            self.distilled,
            pool_first=self.pool_first,
        )
        trunc_normal_linears(head)
        return head


_TOKENS = "class_token", "distillation_token", "register_tokens"


class VisionTransformer(Backbone):
    """Patches, tokens in front of them, a learned position, blocks."""

    def __init__(self, config: ViT) -> None:
        super().__init__()
        grid = patch_grid(config, config.patch_size)
        dim, prefix = config.dim, config.prefix_tokens
        self.feature_info = (FeatureInfo(dim, config.patch_size),)
        self.least_side = config.patch_size
        self.stem = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.prefix_tokens = prefix
        self.class_token = _tokens(dim, int(config.pool == "token" or config.spare_class_token))
        self.distillation_token = _tokens(dim, int(config.distilled))
        self.register_tokens = _tokens(dim, config.registers)
        self.spare_class_token = config.spare_class_token
        if self.class_token is not None:
            self.class_token.requires_grad_(not config.spare_class_token)
        self.position = LearnedPosition(dim, grid, config.positioned_tokens, std=0.02)
        site = Site(dim=dim, num_heads=config.num_heads, grid=grid, prefix_tokens=prefix, qkv_bias=config.qkv_bias)
        grows = config.drop_path_grows
        rates = drop_path_rates(config.drop_path, config.depth) if grows else [config.drop_path] * config.depth
        self.stages = nn.ModuleList([Stage([_block(config, site, i, rate) for i, rate in enumerate(rates)])])
        trunc_normal_linears(self)

    def no_weight_decay(self) -> set[str]:
        """The position table and the tokens in front of the map."""
        return {"position.table", *(name for name in _TOKENS if getattr(self, name) is not None)}

    def embed(self, images: Tensor) -> tuple[Tensor, Grid]:
        """The tokens (B, prefix + N, C) that the first block reads, and their grid."""
        x, grid = self.stem(images)
        table = self.position(grid)
        if not self.prefix_tokens:
            return x + table, grid
        prefix = torch.cat(self._in_front(), dim=1)
        positioned = self.position.prefix_tokens
        prefix = torch.cat((prefix[:, :positioned] + table[:, :positioned], prefix[:, positioned:]), dim=1)
        x = x + table[:, positioned:]
        return torch.cat((prefix.expand(x.shape[0], -1, -1), x), dim=1), grid

    def _in_front(self) -> list[Tensor]:
        read = () if self.spare_class_token else (self.class_token, self.distillation_token)
        return [tokens for tokens in (*read, self.register_tokens) if tokens is not None]


def _tokens(dim: int, count: int) -> nn.Parameter | None:
    """Learned tokens (1, count, C), or None for none."""
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, count, dim), std=0.02)) if count else None


def _block(config: ViT, site: Site, index: int, drop_path: float) -> Block:
    mlp = MLP(config.dim, int(config.dim * config.mlp_ratio))
    mixer = at(config.attention, 0, index).build(site)
    block = pre_norm_block(
        config.dim, mixer, mlp, config.norms.block, drop_path=drop_path, layer_scale=config.layer_scale
    )
    if index in config.removed:
        block.attn = Rescale(2.0)
    return block


@register
def deit_tiny() -> ViT:
    """DeiT-T/16 at 224, without distillation."""
    return ViT(drop_path=0.1)


@register
def deit_small() -> ViT:
    """DeiT-S/16 at 224, without distillation."""
    return replace(deit_tiny(), dim=384, num_heads=6)


@register
def deit_base() -> ViT:
    """DeiT-B/16 at 224, without distillation."""
    return replace(deit_tiny(), dim=768, num_heads=12)


@register
def deit_base_384() -> ViT:
    """DeiT-B/16 at 384, without distillation."""
    return replace(deit_base(), image_size=384)


@register
def deit_tiny_distilled() -> ViT:
    """DeiT-T/16 at 224 with a distillation token."""
    return replace(deit_tiny(), distilled=True)


@register
def deit_small_distilled() -> ViT:
    """DeiT-S/16 at 224 with a distillation token."""
    return replace(deit_small(), distilled=True)


@register
def deit_base_distilled() -> ViT:
    """DeiT-B/16 at 224 with a distillation token."""
    return replace(deit_base(), distilled=True)


@register
def deit_base_distilled_384() -> ViT:
    """DeiT-B/16 at 384 with a distillation token."""
    return replace(deit_base_384(), distilled=True)


@register
def vit_tiny() -> ViT:
    """ViT-T/16 at 224, as in "How to train your ViT" (https://arxiv.org/abs/2106.10270)."""
    return replace(deit_tiny(), drop_path=0.0)


@register
def vit_small() -> ViT:
    """ViT-S/16 at 224, as in "How to train your ViT" (https://arxiv.org/abs/2106.10270)."""
    return replace(deit_small(), drop_path=0.0)


@register
def vit_base() -> ViT:
    """ViT-B/16 at 224."""
    return replace(deit_base(), drop_path=0.0)


@register
def vit_small_dinov2() -> ViT:
    """ViT-S/14 at 518 without a classifier, the form of DINOv2 (https://arxiv.org/abs/2304.07193)."""
    return replace(vit_small(), image_size=518, patch_size=14, layer_scale=1e-5, num_classes=0)


@register
def vit_base_dinov2() -> ViT:
    """ViT-B/14 at 518 without a classifier, the form of DINOv2 (https://arxiv.org/abs/2304.07193)."""
    return replace(vit_small_dinov2(), dim=768, num_heads=12)


@register
def vit_small_dinov2_registers() -> ViT:
    """ViT-S/14 at 518 without a classifier, with four registers that have no position."""
    return replace(vit_small_dinov2(), registers=4, prefix_positions="read")


@register
def vit_base_dinov2_registers() -> ViT:
    """ViT-B/14 at 518 without a classifier, with four registers that have no position."""
    return replace(vit_base_dinov2(), registers=4, prefix_positions="read")


@register
def deit_nano() -> ViT:
    """A DeiT of 0.2 million parameters for small images and tests."""
    return ViT(image_size=64, num_classes=10, patch_size=8, dim=64, depth=4, num_heads=2)
