"""`leanformer info`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from leanformer.cli.common import open_trainable, print_json

if TYPE_CHECKING:
    from leanformer.models import ImageClassifier

NORMS = {"ProgressiveNorm": "PRepBN", "RepBatchNorm": "RepBN", "Identity": "folded", "FrozenAffine": "fixed affine"}
"""What the modules of norms are called by users."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Show what a model is made of: its stages, attentions, norms, parameters and MACs."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model's name or a run directory."""
    json: bool = False
    """Print JSON, with the whole config."""

    def run(self) -> int:
        """Print the structure."""
        from leanformer import api, bench
        from leanformer.config import to_dict
        from leanformer.zoo.resolve import is_stored
        from leanformer.zoo.weights import published

        model = open_trainable(self.model) if is_stored(self.model) else api.build(self.model)
        size = model.config.image_grid
        cost = bench.count_cost(model, size)
        stages = _stages(model)
        if self.json:
            print_json(
                {"model": model.name, "parameters": cost.parameters, "macs": cost.macs, "stages": stages,
                 "config": to_dict(model.config), "edits": [to_dict(edit) for edit in model.edits],
                 "preprocess": to_dict(model.preprocess), "origin": model.origin}
            )  # fmt: skip
            return 0
        name, images = model.name or self.model, f"{size[0]} x {size[1]} images"
        print(f"{name}: {model.config.kind}, {images}, {model.config.num_classes} classes")
        print(f"{cost.parameters:,} parameters, {cost.macs / 1e6:,.1f} M MACs "
              f"(linear {cost.linear_macs / 1e6:,.1f}, convolution {cost.conv_macs / 1e6:,.1f}, "
              f"attention {cost.attention_macs / 1e6:,.1f})")  # fmt: skip
        for stage in stages:
            print(f"stage {stage['stage']}: {stage['channels']} channels, stride {stage['stride']}")
            for block in stage["blocks"]:
                print(f"  {block['blocks']}: {block['attention']}, {block['region']}, norm {block['norm']}")
        for edit in model.edits:
            print(f"edit: {edit.kind}")
        weights = published(model.name) if model.name else None
        if weights is not None:
            figures = ", ".join(f"{name} {value}" for name, value in weights.reported.items())
            print(
                f"published: {figures}; {weights.page}; license of the weights: {weights.license or 'none published'}"
            )
        return 0


def _stages(model: ImageClassifier) -> list[dict]:
    """One entry per stage; neighbouring blocks that are alike share a line."""
    stages = []
    entries: Any = model.backbone.stages
    for number, (stage, info) in enumerate(zip(entries, model.backbone.feature_info, strict=True), start=1):
        blocks: list[dict] = []
        for index, block in enumerate(stage.blocks, start=1):
            entry = _block(block)
            if blocks and {key: value for key, value in blocks[-1].items() if key != "blocks"} == entry:
                blocks[-1]["blocks"] = f"{blocks[-1]['blocks'].partition('-')[0]}-{index}"
            else:
                blocks.append({"blocks": f"block {index}", **entry})
        stages.append({"stage": number, "channels": info.channels, "stride": info.stride, "blocks": blocks})
    return stages


def _block(block: Any) -> dict[str, str]:
    attn = block.attn
    region = "whole map" if attn.region is None else f"windows of {attn.region.size}"
    if attn.region is not None and attn.region.shift:
        region += f" shifted by {attn.region.shift}"
    return {
        "attention": attn.body.describe(),
        "region": region,
        "norm": NORMS.get(type(attn.norm).__name__, type(attn.norm).__name__),
    }
