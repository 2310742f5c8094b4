"""Everything that could be changed in a model, on copies of it; and what it refuses."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from leanformer import edits
from leanformer.bench import count_cost
from leanformer.compression.advice.figures import Needs, Refusal
from leanformer.config import registered_kinds, to_dict
from leanformer.edits import (
    ClassTokenTail,
    DropHeads,
    Edit,
    FoldNorms,
    FuseLinear,
    MergeTokens,
    RemoveAttention,
    SwapAttention,
    SwapNorm,
)
from leanformer.edits.heads import head_counts
from leanformer.edits.sites import block_sites
from leanformer.errors import LeanformerError
from leanformer.layers.attention import AttentionConfig, Softmax
from leanformer.layers.branch import Branch
from leanformer.layers.norm import PRepBN
from leanformer.models import ImageClassifier, list_models
from leanformer.zoo import find

REMOVED_SHARES = (0.25, 0.5)
MERGED_SHARES = (0.25, 0.5, 0.75)
"""Of the tokens, gone behind the last block."""
DROPPED_SHARE = 0.25
TOO_COSTLY = 4.0
"""Times the multiply-accumulates of the model, from which on another attention is not run."""
_ATTENTION = {"attention", "window_size", "split_size", "unmasked_shift"}
"""Fields of configs in which relatives differ."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A changed copy of the model."""

    name: str
    needs: Needs
    attention: bool
    edit: str | None
    exact: bool
    model: ImageClassifier


@dataclass(frozen=True)
class _Asked:
    """Edits that belong together, as they are to be typed."""

    text: str
    changes: tuple[Edit, ...]
    needs: Needs


def candidates(model: ImageClassifier) -> tuple[list[Candidate], list[Refusal]]:
    """The model with each edit that it takes, and why it does not take the others."""
    found: list[Candidate] = []
    refused: dict[str, str] = {}
    for asked in _asked(model):
        try:
            found.append(_candidate(model, asked))
        except LeanformerError as error:
            refused.setdefault(asked.text.partition(":")[0], str(error))
    try:
        found.append(_candidate(model, _Asked(f"drop_heads:{DROPPED_SHARE}", (_fewer_heads(model),), "images")))
    except LeanformerError as error:
        refused["drop_heads"] = str(error)
    taken = {change.name.partition(":")[0] for change in found}
    return found, [Refusal(name=name, reason=reason) for name, reason in refused.items() if name not in taken]


def other_attentions(model: ImageClassifier) -> tuple[list[Candidate], list[Refusal]]:
    """Registered models that differ from this one in their attention alone, then the model with each attention there
    is; over the whole map, where it has windows."""
    found = [
        Candidate(name=name, needs="training", attention=True, edit=None, exact=False, model=relative)
        for name, relative in relatives(model)
    ]
    refused = []
    windows = any(getattr(site.block.attn, "region", None) is not None for site in block_sites(model))
    own = {
        module.attention
        for module in model.modules()
        if isinstance(getattr(module, "attention", None), AttentionConfig)
    }
    for kind, attention in sorted(registered_kinds(AttentionConfig).items()):
        if not windows and own == {attention()}:
            continue
        swap = SwapAttention(to=attention(), whole_map=windows)
        text = json.dumps(to_dict(swap)) if windows else f"swap_attention:{kind}"
        title = f"{kind}{' over the whole map' if windows else ''}"
        try:
            candidate = _candidate(model, _Asked(text, (swap,), "training"))
        except LeanformerError as error:
            refused.append(Refusal(name=title, reason=str(error)))
            continue
        if isinstance(swap.to, Softmax) and (times := _cost_over(candidate.model, model)) > TOO_COSTLY:
            refused.append(Refusal(name=title, reason=f"not run: {times:.0f} times the multiply-accumulates"))
            continue
        found.append(replace(candidate, name=title, attention=True))
    return found, refused


def relatives(model: ImageClassifier) -> Iterator[tuple[str, ImageClassifier]]:
    """Registered models that differ from an unedited one in their attention alone, at its image size."""
    if model.edits:
        return
    own = to_dict(model.config)
    for name in list_models():
        config = find(name)
        other = to_dict(config)
        if _without_attention(other) != _without_attention(own) or _attention(other) == _attention(own):
            continue
        try:
            changed = replace(config, image_size=model.config.image_size, num_classes=model.config.num_classes)
            relative = ImageClassifier(changed, name)
        except LeanformerError:  # its windows do not fit these images, say
            continue
        yield name, relative.to(next(model.parameters()).device).eval()


def finish_norms(model: nn.Module) -> None:
    """End the schedules of norms of a model with random weights, so that they fold."""
    for module in model.modules():
        if getattr(module, "scheduled", None) == "norm_progress":
            module.set_scheduled(0.0)  # type: ignore[operator]


def _asked(model: ImageClassifier) -> Iterator[_Asked]:
    """The edits without those whose making can fail."""
    for exact in (FoldNorms(), FuseLinear(), ClassTokenTail()):
        yield _Asked(exact.kind, (exact,), "nothing")
    attending = [site.index for site in block_sites(model) if isinstance(site.block.attn, Branch)]
    for share in REMOVED_SHARES:
        chosen = tuple(attending[: max(1, round(share * len(attending)))])
        yield _Asked(f"remove_attention:{share}", (RemoveAttention(blocks=chosen),), "images")
    for r in _merges(model):
        yield _Asked(f"merge_tokens:{r}", (MergeTokens(r=r),), "images")
    yield _Asked("swap_norm:p_rep_bn, then fold_norms", (SwapNorm(to=PRepBN()), FoldNorms()), "training")


def _merges(model: ImageClassifier) -> list[int]:
    height, width = model.config.image_grid
    num_tokens = height * width // model.backbone.feature_info[-1].stride ** 2
    num_blocks = max(len(block_sites(model)), 1)
    return sorted({max(1, round(share * num_tokens / num_blocks)) for share in MERGED_SHARES})


def _fewer_heads(model: ImageClassifier) -> DropHeads:
    """The first of the heads of each mixer gone, as many as the share says and at least one of two.

    Raises:
        EditError, ConfigError: if heads cannot be dropped, or there are too few.
    """
    dropped = []
    for site in block_sites(model):
        if not isinstance(site.block.attn, Branch):
            continue
        start, heads = 0, []
        for count in head_counts(site):
            gone = min(max(1, round(DROPPED_SHARE * count)), count - 1)
            heads += range(start, start + gone)
            start += count
        if heads:
            dropped.append((site.index, tuple(heads)))
    return DropHeads(heads=tuple(dropped))


def _candidate(model: ImageClassifier, asked: _Asked) -> Candidate:
    """A changed copy; it shares weights with the model where no edit writes into them.

    Raises:
        EditError: if the model does not take the change.
    """
    shares = all(isinstance(change, (RemoveAttention, MergeTokens, SwapAttention)) for change in asked.changes)
    memo: dict[int, Any] = {id(tensor): tensor for tensor in model.parameters()} if shares else {}
    changed = copy.deepcopy(model, memo)
    for change in asked.changes:
        edits.apply(changed, change)
        if isinstance(change, SwapNorm):
            finish_norms(changed)
    return Candidate(
        name=asked.text,
        needs=asked.needs,
        attention=False,
        edit=asked.text,
        exact=all(change.exact for change in asked.changes),
        model=changed.eval(),
    )


def _cost_over(changed: ImageClassifier, model: ImageClassifier) -> float:
    size = model.config.image_grid
    return count_cost(changed, size).macs / max(count_cost(model, size).macs, 1)


def _attention(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name in _ATTENTION}


def _without_attention(config: dict[str, Any]) -> dict[str, Any]:
    ignored = {*_ATTENTION, "drop_path", "image_size", "num_classes"}
    return {name: value for name, value in config.items() if name not in ignored}
