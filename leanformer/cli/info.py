"""`leanformer info`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from leanformer.cli.common import open_trainable, print_json

if TYPE_CHECKING:
    from leanformer.models import ImageClassifier

NORMS = {
    "ProgressiveNorm": "PRepBN",
    "RepBatchNorm": "RepBN",
    "TokenBatchNorm": "BatchNorm",
    "Identity": "folded",
    "FrozenAffine": "fixed affine",
    "NoneType": "none",
}
"""What the modules of norms are called by users."""

AROUND = ("position", "local", "mlp_position")
"""What a block may have beside its attention and its MLP."""


@dataclass(frozen=True, kw_only=True)
class Info:
    """Show what a model is made of: its stages, attentions, norms, parameters and MACs."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A model's name or a run directory."""
    json: bool = False
    """Print JSON, with the whole config."""

    def run(self) -> int:
        """Print the structure."""
        from leanformer import bench
        from leanformer.config import to_dict

        model = _open(self.model)
        size = model.config.image_grid
        parts = bench.count_parts(model, size)
        facts = {
            "model": model.name,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "macs": sum(parts.values()),
            "macs by part": parts,
            "stages": _stages(model),
            "published": _published(model.name) if model.name else None,
        }
        if self.json:
            print_json(
                {**facts, "config": to_dict(model.config), "edits": [to_dict(edit) for edit in model.edits],
                 "preprocess": to_dict(model.preprocess), "origin": model.origin}
            )  # fmt: skip
            return 0
        images = f"{size[0]} x {size[1]} images"
        classes = f"{model.config.num_classes} classes" if model.config.num_classes else "no classifier"
        print(f"{model.name or self.model}: {model.config.kind}, {images}, {classes}")
        _print(facts)
        for edit in model.edits:
            print(f"edit: {edit.kind}{_chosen(edit)}")
        return 0


def _chosen(edit: Any) -> str:
    """The fields of an edit that are not left at their defaults."""
    values = ((field.name, getattr(edit, field.name), field.default) for field in fields(edit))
    return "".join(f", {name} {_plain(value)}" for name, value, default in values if value != default)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _open(model: str) -> ImageClassifier:
    """A stored model; of a registered one the structure alone, for nothing here reads its weights."""
    import torch

    from leanformer import api
    from leanformer.zoo.resolve import is_stored

    if is_stored(model):
        return open_trainable(model)
    with torch.device("meta"):
        return api.build(model)


def _published(name: str) -> dict[str, Any] | None:
    from leanformer.models.registry import describe, list_models, system_of
    from leanformer.zoo.weights import published

    if name.partition(".")[0] not in list_models():  # one of timm's, or of another version
        return None
    weights = published(name)
    found = {"what it is": describe(name), "system": system_of(name)}
    if weights is None:
        return found
    return {**found, "figures": dict(weights.reported), "page": weights.page, "license of weights": weights.license}


def _print(facts: dict[str, Any]) -> None:
    published = facts["published"]
    if published is not None:
        print(published["what it is"])
    print(f"{facts['parameters']:,} parameters, {facts['macs'] / 1e6:,.1f} M MACs:")
    for part, macs in facts["macs by part"].items():
        if macs:
            print(f"  {part}: {_amount(macs)}, {macs / facts['macs']:.1%}")
    for stage in facts["stages"]:
        print(f"stages.{stage['stage']}: {stage['channels']} channels, stride {stage['stride']}")
        for block in stage["blocks"]:
            around = f", with {', '.join(block['around'])}" if block["around"] else ""
            count = block.get("tokens")
            tokens = f", {count['before']} tokens, {count['behind']} behind the attention" if count else ""
            print(f"  {block['blocks']}: {block['attention']}, {block['region']}, norm {block['norm']}{around}{tokens}")
    if published is not None and "page" in published:
        figures = ", ".join(f"{name} {value}" for name, value in published["figures"].items()) or "no figures"
        license = published["license of weights"] or "none published"
        print(f"published: {figures}; {published['page']}; license of the weights: {license}")


def _amount(macs: int) -> str:
    """In millions, or thousands where that would be none."""
    return f"{macs / 1e6:,.1f} M" if macs >= 50_000 else f"{macs / 1e3:,.1f} k"


def _stages(model: ImageClassifier) -> list[dict[str, Any]]:
    """One entry per stage, numbered as the modules are; neighboring blocks that are alike share a line."""
    stages = []
    entries: Any = model.backbone.stages
    for number, (stage, info) in enumerate(zip(entries, model.backbone.feature_info, strict=True)):
        blocks: list[dict[str, Any]] = []
        merged = _merged(model, stage.blocks, number)
        for index, block in enumerate(stage.blocks):
            entry = {**_block(block), **({"tokens": merged[index]} if merged else {})}
            if blocks and {key: value for key, value in blocks[-1].items() if key != "blocks"} == entry:
                blocks[-1]["blocks"] = f"{blocks[-1]['blocks'].partition('-')[0]}-{index}"
            else:
                blocks.append({"blocks": f"blocks.{index}", **entry})
        stages.append({"stage": number, "channels": info.channels, "stride": info.stride, "blocks": blocks})
    return stages


def _merged(model: ImageClassifier, blocks: Any, stage: int) -> list[dict[str, int]]:
    """The tokens in front of each block of a sequence that merges and behind its attention, of images of the model's
    size."""
    if not hasattr(blocks, "num_merged"):
        return []
    height, width = model.backbone.feature_grids(model.config.image_grid)[stage]
    left = blocks.prefix_tokens + height * width
    tokens = []
    for block, number in zip(blocks, blocks.num_merged(left), strict=True):
        tokens.append({"before": left, "behind": getattr(getattr(block, "local", None), "count", left - number)})
        left -= number
    return tokens


def _block(block: Any) -> dict[str, Any]:
    if not hasattr(block, "attn"):  # a branch alone, as in a convolutional encoder
        inner = getattr(block.body, "norm", None) if block.norm is None else block.norm
        return {"attention": "no attention", "region": type(block.body).__name__, "norm": _norm(inner), "around": []}
    around = [_name(part) for part in (getattr(block, slot) for slot in AROUND) if part is not None]
    if not hasattr(block.attn, "body"):
        region = "tokens as they are" if block.attn is None else f"tokens times {block.attn.factor:g}"
        return {"attention": "no attention", "region": region, "norm": _norm(block.mlp.norm), "around": around}
    attn = block.attn
    share = f" diluted to {attn.share.item():.3g}" if hasattr(attn, "share") else ""
    return {
        "attention": f"{attn.body.describe()}{share}",
        "region": _region(attn),
        "norm": _norm(block.mlp.norm if attn.norm is None else attn.norm),
        "around": around,
    }


def _region(attn: Any) -> str:
    if attn.region is not None:
        shift = f" shifted by {attn.region.shift}" if attn.region.shift else ""
        return f"windows of {attn.region.size}{shift}"
    stripes: Any = getattr(attn.body, "stripes", ())
    if not len(stripes):
        return f"whole map{_keys(attn.body)}"
    return f"stripes of {stripes[0].split_size} " + " and ".join(stripe.direction for stripe in stripes)


def _keys(body: Any) -> str:
    """Where keys and values come from, if not from the map itself."""
    if getattr(body, "reduce", None) is None:
        return ""
    pool, stride = body.reduction.pool, body.reduction.stride
    return f", keys pooled to {pool} x {pool}" if pool else f", keys reduced by {stride}"


def _name(part: Any) -> str:
    return type(getattr(part, "body", part)).__name__


def _norm(norm: Any) -> str:
    name = type(norm).__name__
    return NORMS.get(name, name)
