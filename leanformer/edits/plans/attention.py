"""Which attention layers to remove ("MLP Can Be A Good Transformer Learner", https://arxiv.org/abs/2404.05657,
section 3 and algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from torch import nn

from leanformer.edits.attention import RemoveAttention
from leanformer.edits.plans.network import Change, Network
from leanformer.edits.plans.plan import Plan, count_of, run_search
from leanformer.edits.plans.scores import Score
from leanformer.edits.plans.search import Greedy, Known, Progress, Search
from leanformer.edits.sites import block_sites
from leanformer.errors import ConfigError, EditError
from leanformer.layers.branch import Branch, DilutedBranch, RemovedForm, Rescale


def plan_attention_removal(
    model: nn.Module,
    score: Score | None = None,
    *,
    ratio: float | None = None,
    num_layers: int | None = None,
    search: Search | None = None,
    form: RemovedForm = "skip",
    edit_form: RemovedForm = "identity",
    known: Known | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Plan:
    """Choose attention layers of an image classifier to remove; it stays as it is.

    The defaults are NOSE as published, with `score=TransferEntropy(batches)`: greedily the layers without which the
    output's entropy falls least, tried by skipping them. The edit makes them the identity, so that their blocks double
    the tokens; it belongs behind training with `DiluteAttention`. For a model that is not trained again, try and remove
    in one form: `form="skip", edit_form="skip"`.

    Args:
        score: what the search goes by; None for a search that needs no data.
        ratio: share of the attention layers that the model has, rounded to whole ones.
        num_layers: their number, in place of `ratio`.
        search: `Greedy()` if None.
        form: what a layer is while it is tried: "skip" leaves x, "identity" gives 2 x.
        edit_form: what the edit makes of it.
        known: figures to start from, of a search that was stopped, say; filled with all that is measured. JSON.
        progress: called after each batch.

    Raises:
        EditError: for models without attention, or with one that is being diluted.
        ConfigError: for an unknown form, a ratio or number out of range, or too many choices for `Exhaustive`.
        DataError: without images, with too few, or with other ones from sweep to sweep.
    """
    for name, given in (("form", form), ("edit_form", edit_form)):
        if given not in get_args(RemovedForm):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(RemovedForm))}, got {given!r}")
    changes = _removals(model, form)
    count = count_of(ratio, num_layers, len(changes), "attention layers")
    return run_search(
        Network(model, changes),
        score,
        search or Greedy(),
        count,
        what=f"without attention, as {form}",
        make=lambda chosen: RemoveAttention(blocks=tuple(map(int, chosen)), form=edit_form),
        asked={"ratio": ratio, "num_layers": count, "form": form},
        known=known,
        progress=progress,
    )


def _removals(model: nn.Module, form: RemovedForm) -> list[Change]:
    found = []
    for site in block_sites(model):
        branch = site.block.attn
        if isinstance(branch, DilutedBranch):
            raise EditError(
                f"remove_attention: the attention of block {site.index} ({site.name}) is being diluted; choose before, "
                "or remove what was diluted"
            )
        if isinstance(branch, Branch):
            left = None if form == "skip" else Rescale(2.0)
            found.append(
                Change(
                    name=str(site.index),
                    block=site.block,
                    owner=site.block,
                    attribute="attn",
                    value=lambda _, left=left: left,
                )
            )
    if not found:
        raise EditError(f"remove_attention: {type(model).__name__} has no block with attention that could be removed")
    return found
