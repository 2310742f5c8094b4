"""A classifier with the interface of timm's models (https://github.com/huggingface/pytorch-image-models).

Needs no timm itself: the interface is a set of names that timm and what builds on it ask for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from leanformer import ops
from leanformer.errors import ConfigError, EditError
from leanformer.layers.block import BlockSequence
from leanformer.layers.site import Grid
from leanformer.models import BackboneConfig, ImageClassifier
from leanformer.models.backbone import map_tokens

POOLS = {"mean": "avg", "token": "token"}
"""timm's word for each way of pooling."""
WITH_THE_GROUP_BEFORE = (99999,)
"""timm's mark of parameters that belong to the group in front of theirs."""


class TimmClassifier(ImageClassifier):
    """An `ImageClassifier` that answers to what timm asks of its models. Its weights have the same names.

    Intermediate features are those behind each stage; for a backbone of one stage (ViT), those behind each block.

    Args:
        drop_rate: probability that a feature in front of the classifier is zeroed while training.
        global_pool: "" leaves the features as they are, without a classifier; None, or timm's word for how the model
            pools, pools them.
    """

    def __init__(
        self, config: BackboneConfig, name: str | None = None, drop_rate: float = 0.0, global_pool: str | None = None
    ) -> None:
        super().__init__(config, name)
        stages = self.backbone.stages
        self.of_one_stage = len(stages) == 1
        last = self.backbone.feature_info[-1]
        self.num_features = self.embed_dim = last.channels
        self.head_hidden_size = self.head.dim
        self.num_prefix_tokens = self.head.prefix_tokens if self.of_one_stage else 0
        self.head_drop = nn.Dropout(drop_rate)
        self.global_pool = POOLS[self.head.pool]
        self._set_pool(global_pool, config.num_classes)
        if self.of_one_stage:
            places = [(f"backbone.stages.0.blocks.{block}", last) for block in range(len(stages[0].blocks))]  # type: ignore[arg-type]
        else:
            places = [(f"backbone.stages.{stage}", info) for stage, info in enumerate(self.backbone.feature_info)]
        self.feature_info = [
            {"num_chs": info.channels, "reduction": info.stride, "module": module} for module, info in places
        ]

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier; 0 without one."""
        return self.config.num_classes

    @property
    def in_chans(self) -> int:
        """Channels of the images."""
        return self.config.in_channels

    def forward_features(self, x: Tensor) -> Tensor:
        """Normalised tokens (B, prefix + N, C) of a backbone of one stage or with tokens in front of its last map, else
        the last map (B, C, H, W)."""
        return self._as_features(*self._ends(x)[-1], norm=True)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Class scores of what `forward_features` gave; with `pre_logits` what the classifier reads, (B, C)."""
        if not self.global_pool:
            return x
        read = [self.head_drop(pooled) for pooled in self.head.read(ops.to_tokens(x) if x.ndim == 4 else x)]
        return torch.stack(read).mean(dim=0) if pre_logits else self.head.classify(*read)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """(B, 3, H, W) to (B, num_classes)."""
        return self.forward_head(self.forward_features(images))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
    ) -> Any:
        """Features on the way, in order, beside those at the end.

        Args:
            indices: the last n for a number, those named for a sequence, all for None.
            return_prefix_tokens: give (features, tokens in front of the map) for each.
            norm: normalise those that have as many channels as the last, each block of one stage or the last stage.
            stop_early: compute nothing behind the last one asked for; the features at the end are then those there.
            output_fmt: "NCHW" for maps, "NLC" for tokens.
            intermediates_only: leave out the features at the end.
            output_dict: give a dictionary with "image_intermediates", "image_features" and, with
                `return_prefix_tokens`, "image_intermediates_prefix".
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ConfigError(f"output_fmt must be NCHW or NLC, got {output_fmt!r}")
        total = len(self.feature_info)
        taken = take_indices(total, indices)
        ends = self._ends(x, taken[-1] + 1 if stop_early else None)
        maps, prefixes = [], []
        for index in taken:
            tokens, grid = ends[index]
            if norm and (self.of_one_stage or index == total - 1):
                tokens = self.head.normalize(tokens)
            of_map = map_tokens(tokens, grid)
            prefixes.append(tokens[:, : tokens.shape[1] - of_map.shape[1]])
            maps.append(ops.to_map(of_map, grid) if output_fmt == "NCHW" else of_map)
        whole = self.of_one_stage or len(ends) == total
        features = None if intermediates_only else self._as_features(*ends[-1], norm=whole)
        if output_dict:
            given = {"image_intermediates": maps, "image_features": features}
            given["image_intermediates_prefix"] = prefixes if return_prefix_tokens else None
            return {key: value for key, value in given.items() if value is not None}
        found = list(zip(maps, prefixes, strict=True)) if return_prefix_tokens else maps
        return found if intermediates_only else (features, found)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Remove what the intermediate features `indices` do not need; gives their places from the front."""
        taken = take_indices(len(self.feature_info), indices)
        count = taken[-1] + 1
        shorter = count < len(self.feature_info)
        parts: Any = self.backbone.stages[0].blocks if self.of_one_stage else self.backbone.stages
        del parts[count:], self.feature_info[count:]
        if prune_norm or (shorter and not self.of_one_stage):
            self.head.norm = None
        if prune_head:
            self.reset_classifier(0, "")
        return taken

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """The linear classifier, or both of a distilled model."""
        second = self.head.distillation
        return self.head.linear if second is None else (self.head.linear, second)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier of `num_classes`, 0 for none; `global_pool` as when the model was built."""
        if self.edits:
            kinds = ", ".join(edit.kind for edit in self.edits)
            raise EditError(f"edits ({kinds}) may have changed the classifier; reset it before them")
        self._set_pool(global_pool, num_classes)
        config = replace(self.config, num_classes=num_classes)
        fresh = config.build_head().to(next(self.backbone.parameters())).train(self.training)
        self.head.linear, self.head.distillation = fresh.linear, fresh.distillation
        self.config, self.classes = config, None

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns of parameter names for layer-wise learning rates: a group for each block, or for each stage."""
        stage = r"^backbone\.stages\.(\d+)"
        blocks: list[tuple[str, tuple[int, ...] | None]] = [(stage, None)]
        if not coarse or self.of_one_stage:
            norm = (rf"{stage}\.norm", WITH_THE_GROUP_BEFORE)
            blocks = [(rf"{stage}\.blocks\.(\d+)", None), norm, (stage, (0,))]
        return {"stem": r"^backbone\.(?!stages\.)", "blocks": [*blocks, (r"^head\.norm", WITH_THE_GROUP_BEFORE)]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks a second time in the backward pass: less memory, the same gradients and statistics."""
        for module in self.modules():
            if isinstance(module, BlockSequence):
                module.checkpointing = enable

    def _ends(self, images: Tensor, count: int | None = None) -> list[tuple[Tensor, Grid]]:
        forward = self.backbone.forward_blocks if self.of_one_stage else self.backbone.forward_stages
        return forward(images, count)

    def _as_features(self, tokens: Tensor, grid: Grid, norm: bool) -> Tensor:
        tokens = self.head.normalize(tokens) if norm else tokens
        is_map = not self.of_one_stage and tokens.shape[1] == grid[0] * grid[1]
        return ops.to_map(tokens, grid) if is_map else tokens

    def _set_pool(self, global_pool: str | None, num_classes: int) -> None:
        own = POOLS[self.head.pool]
        wanted = self.global_pool if global_pool is None else global_pool
        if wanted not in ("", own):
            raise ConfigError(
                f"global_pool={wanted!r}: {self.name or self.config.kind} pools by {own!r}; leave it out, or give "
                f"{own!r}, or '' for features that are not pooled"
            )
        if not wanted and num_classes:
            raise ConfigError(f"global_pool='' is for num_classes=0, got {num_classes}; a classifier needs {own!r}")
        self.global_pool = wanted


def take_indices(total: int, indices: int | Sequence[int] | None) -> list[int]:
    """Places from the front, sorted, among `total` features: the last n for a number, those named (negative ones from
    the end), all for None.

    Raises:
        ConfigError: for a place that does not exist.
    """
    if indices is None:
        return list(range(total))
    named = range(-indices, 0) if isinstance(indices, int) else indices
    if not named or not all(-total <= index < total for index in named):
        raise ConfigError(f"indices {indices} ask for features that are not there; there are {total}")
    return sorted({index % total for index in named})
