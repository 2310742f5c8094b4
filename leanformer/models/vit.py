"""ViT and DeiT: plain blocks on one map of patches (https://arxiv.org/abs/2010.11929, https://arxiv.org/abs/2012.12877)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from leanformer.config import PerStage, at, check_per_stage, register_config
from leanformer.errors import ConfigError
from leanformer.layers.attention import AttentionConfig, Softmax
from leanformer.layers.block import Block, Stage, pre_norm_block
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
    pool: Pool = "token"
    """"token" reads a class token, "mean" averages the map and has none."""
    spare_class_token: bool = False
    """Keep a class token that nothing reads, as SLAB's files do, so that they load and are written whole."""
    norms: Norms = Norms(block=LayerNorm(eps=1e-6))

    def __post_init__(self) -> None:
        self.check_ranges(patch_size=1, depth=0, dim=1, num_heads=1, mlp_ratio=0)
        if self.dim % self.num_heads:
            raise ConfigError(f"dim {self.dim} is not divisible by num_heads {self.num_heads}")
        check_per_stage("attention", self.attention, (self.depth,))
        if self.spare_class_token and self.pool == "token":
            raise ConfigError("spare_class_token is for pool='mean'; with pool='token' the class token is in use")

    def build(self) -> VisionTransformer:
        """The backbone, randomly initialised."""
        return VisionTransformer(self)

    def build_head(self) -> ClassifierHead:
        """Norm, class token or mean, classifier."""
        prefix = int(self.pool == "token")
        head = ClassifierHead(self.dim, self.num_classes, self.norms.at("final").build(self.dim), self.pool, prefix)
        trunc_normal_linears(head)
        return head


class VisionTransformer(Backbone):
    """Patches, a learned position, blocks."""

    def __init__(self, config: ViT) -> None:
        super().__init__()
        grid = patch_grid(config, config.patch_size)
        dim, prefix = config.dim, int(config.pool == "token")
        self.feature_info = (FeatureInfo(dim, config.patch_size),)
        self.stem = PatchEmbed(config.in_channels, dim, config.patch_size)
        self.class_token = (
            nn.Parameter(torch.zeros(1, 1, dim), requires_grad=bool(prefix)) if self._has_token(config) else None
        )
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=0.02)
        self.prefix_tokens = prefix
        self.position = LearnedPosition(dim, grid, prefix, std=0.02)
        site = Site(dim=dim, num_heads=config.num_heads, grid=grid, prefix_tokens=prefix, qkv_bias=config.qkv_bias)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.stages = nn.ModuleList([Stage([_block(config, site, i, rate) for i, rate in enumerate(rates)])])
        trunc_normal_linears(self)

    @staticmethod
    def _has_token(config: ViT) -> bool:
        return config.pool == "token" or config.spare_class_token

    def no_weight_decay(self) -> set[str]:
        """The position table and the class token."""
        return {"position.table", "class_token"}

    def embed(self, images: Tensor) -> tuple[Tensor, Grid]:
        """The tokens (B, prefix + N, C) that the first block reads, and their grid."""
        x, grid = self.stem(images)
        if self.prefix_tokens:
            assert self.class_token is not None
            x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)
        return x + self.position(grid), grid


def _block(config: ViT, site: Site, index: int, drop_path: float) -> Block:
    mixer = at(config.attention, 0, index).build(site)
    mlp = MLP(config.dim, int(config.dim * config.mlp_ratio))
    return pre_norm_block(config.dim, mixer, mlp, config.norms.block, drop_path=drop_path)


@register
def deit_tiny() -> ViT:
    """DeiT-T/16 at 224, without distillation."""
    return ViT()


@register
def deit_small() -> ViT:
    """DeiT-S/16 at 224, without distillation."""
    return replace(deit_tiny(), dim=384, num_heads=6)


@register
def deit_base() -> ViT:
    """DeiT-B/16 at 224, without distillation."""
    return replace(deit_tiny(), dim=768, num_heads=12)


@register
def deit_nano() -> ViT:
    """A DeiT of 0.2 million parameters for small images and tests."""
    return ViT(image_size=64, num_classes=10, patch_size=8, dim=64, depth=4, num_heads=2)
