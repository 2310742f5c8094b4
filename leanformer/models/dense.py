"""Backbones for dense tasks: one normalised map for each chosen stage, as detectors and segmenters read them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from leanformer import ops
from leanformer.errors import ConfigError
from leanformer.layers.norm import NormConfig
from leanformer.layers.site import NormSite
from leanformer.models.backbone import Backbone, FeatureInfo, map_tokens

LevelNorms = NormConfig | None | tuple[NormConfig | None, ...]
"""A norm for every level or none, or one entry for each level."""


class PyramidFeatures(nn.Module):
    """Images (B, 3, H, W) to maps (B, C, H / stride, W / stride), fine to coarse, each behind a norm of its own.

    The next stage goes on from the tokens in front of the norm.

    Args:
        levels: the stages whose maps are given, from 0; None for all.
        freeze_statistics: keep the batch statistics of the backbone while training, as detectors with few images on
            each device do.

    Attributes:
        feature_info: (channels, stride) of each map.
    """

    def __init__(
        self,
        backbone: Backbone,
        norms: LevelNorms,
        levels: Sequence[int] | None = None,
        *,
        freeze_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.levels = _checked_levels(levels, len(backbone.feature_info))
        self.freeze_statistics = freeze_statistics
        self.feature_info: tuple[FeatureInfo, ...] = tuple(backbone.feature_info[level] for level in self.levels)
        configs = norms if isinstance(norms, tuple) else (norms,) * len(self.levels)
        if len(configs) != len(self.levels):
            raise ConfigError(f"{len(configs)} norms for {len(self.levels)} levels; give one, or one for each")
        self.norms = nn.ModuleDict(
            {
                str(level): config.build(info.channels)
                for level, config, info in zip(self.levels, configs, self.feature_info, strict=True)
                if config is not None
            }
        )

    def train(self, mode: bool = True) -> PyramidFeatures:
        """Training mode, but for batch norms whose statistics are frozen."""
        super().train(mode)
        if self.freeze_statistics:
            for module in self.backbone.modules():
                if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                    module.eval()
        return self

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norms of the levels, and the one that the backbone ends with if it does; who reads their maps is not
        known here, so they fold into nothing."""
        levels = tuple(NormSite(owner=self.norms, attribute=level, place="final") for level in self.norms)
        found = self.backbone.output_norm()
        return levels if found is None else (*levels, NormSite(owner=found[0], attribute=found[1], place="final"))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to one map (B, C, H / stride, W / stride) for each level."""
        ends = self.backbone.forward_stages(images, max(self.levels) + 1)
        maps = []
        for level in self.levels:
            tokens, grid = ends[level]
            tokens = map_tokens(tokens, grid)
            if str(level) in self.norms:
                tokens = self.norms[str(level)](tokens)
            maps.append(ops.to_map(tokens, grid))
        return maps


def _checked_levels(levels: Sequence[int] | None, count: int) -> tuple[int, ...]:
    chosen = tuple(range(count)) if levels is None else tuple(levels)
    if not chosen or list(chosen) != sorted(set(chosen)) or not 0 <= chosen[0] <= chosen[-1] < count:
        raise ConfigError(f"levels are stages from 0 to {count - 1} in order, each once, got {chosen}")
    return chosen
