"""Blocks are numbered alike on every backbone, and what is not there is refused by its number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanformer
from leanformer.api import list_models
from leanformer.edits.sites import block_sites, pick_blocks
from leanformer.errors import EditError
from leanformer.layers.block import Block


@pytest.mark.parametrize("name", list_models("*_nano"))
def test_blocks_are_numbered_in_running_order(name: str) -> None:
    model = leanformer.build(name)
    sites = block_sites(model)
    ran: list[nn.Module] = []
    for site in sites:
        site.block.register_forward_pre_hook(lambda block, _: ran.append(block))
    model(torch.randn(1, 3, 64, 64))
    assert [site.block for site in sites] == ran == [m for m in model.modules() if isinstance(m, Block)]
    assert [site.index for site in sites] == list(range(len(sites)))
    for site in sites:
        assert model.get_submodule(site.name) is site.block is site.sequence[site.place]


def test_a_backbone_alone_has_the_same_blocks_as_its_classifier() -> None:
    model = leanformer.build("swin_nano")
    names = [site.name for site in block_sites(model)]
    assert names[2] == "backbone.stages.1.blocks.0"
    assert [f"backbone.{site.name}" for site in block_sites(model.backbone)] == names


def test_blocks_are_picked_in_the_order_asked() -> None:
    assert [site.index for site in pick_blocks(leanformer.build("deit_nano"), (3, 0), "an_edit")] == [3, 0]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ((), "an_edit: blocks names none; this model has blocks 0 to 3"),
        ((1, 4), "an_edit: there is no block 4; this model has blocks 0 to 3"),
        ((-1,), "an_edit: there is no block -1; this model has blocks 0 to 3"),
        ((2, 0, 2), r"an_edit: block 2 is named twice in \(2, 0, 2\)"),
    ],
    ids=("none", "above", "below", "twice"),
)
def test_wrong_numbers_are_refused(indices: tuple[int, ...], message: str) -> None:
    with pytest.raises(EditError, match=message):
        pick_blocks(leanformer.build("deit_nano"), indices, "an_edit")


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(EditError, match="an_edit: Sequential has no transformer blocks"):
        pick_blocks(nn.Sequential(nn.Linear(2, 2)), (0,), "an_edit")
