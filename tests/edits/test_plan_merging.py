"""A merge schedule by similarity merges the number that was asked for, where tokens are alike, by one threshold."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

import leanformer
from leanformer import ops
from leanformer.edits import MergeTokens, RemoveAttention
from leanformer.edits.plans import plan_token_merging
from leanformer.errors import ConfigError, DataError, EditError
from leanformer.layers.attention import Softmax
from leanformer.layers.merging import MergedTokens, MergingSequence, match_keys
from leanformer.models import ImageClassifier

IMAGES = torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(6))


def batches() -> list[Tensor]:
    return list(IMAGES.split(8))


def nano(**changes: object) -> ImageClassifier:
    torch.manual_seed(7)
    model = leanformer.build("deit_nano", **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def merged_by(edit: MergeTokens, model: ImageClassifier) -> list[int]:
    """By each block."""
    (report,) = leanformer.apply(model, edit)
    return list(report.details["merged"].values())


@pytest.mark.parametrize("num_tokens", [1, 17, 40, 60])
def test_all_blocks_together_merge_the_number_that_was_asked_for(num_tokens: int) -> None:
    plan = plan_token_merging(nano(), batches, num_tokens=num_tokens)
    assert sum(plan.edit.r) == num_tokens
    assert merged_by(plan.edit, nano()) == list(plan.edit.r)


@torch.no_grad()
def test_each_block_merges_what_is_more_similar_than_one_threshold_after_what_was_merged_before() -> None:
    plan = plan_token_merging(nano(), batches, ratio=0.6)
    assert sum(plan.edit.r) == round(0.6 * 64)
    threshold = 1 - plan.score
    model = nano()
    leanformer.apply(model, plan.edit)
    stage = model.backbone.stages[0]
    sequence: MergingSequence = stage.blocks
    tokens, counts = [], []
    for images in batches():
        x, grid = stage.enter(*model.backbone.embed(images))
        starts = [MergedTokens(x, None, None), *sequence.merged_ends(x, grid)][:-1]
        tokens.append([sequence.attend(block, start, grid) for block, start in zip(sequence, starts, strict=True)])
    for number, block in enumerate(sequence):
        alike = [ops.best_matches(match_keys(block, batch[number][1]), 1)[0] > threshold for batch in tokens]
        counts.append(torch.cat(alike).sum(1).double().mean().item())
    left = round(0.6 * 64)
    for count, amount in zip(counts, plan.edit.r, strict=True):
        assert amount == min(round(count), left)
        left -= amount


def test_tokens_are_merged_where_they_are_alike() -> None:
    model = nano(depth=6)
    with torch.no_grad():
        model.backbone.position.table.zero_()
    half = IMAGES.clone()
    half[:, :, :, 32:] = 0.3  # half of the patches are one and the same
    plan = plan_token_merging(model, lambda: list(half.split(8)), num_tokens=16)
    assert plan.edit.r[0] == 16
    assert plan.score < 0.01
    scattered = plan_token_merging(model, batches, num_tokens=16)
    assert scattered.score > plan.score


def test_the_schedule_changes_the_outputs_less_than_the_published_constant_one() -> None:
    """Images of which a part is uniform, as photographs have it."""
    images = IMAGES.clone()
    images[:, :, :, 24:] = 0.3
    model = nano()

    @torch.no_grad()
    def change(edit: MergeTokens) -> float:
        merging = nano()
        leanformer.apply(merging, edit)
        return (merging(images) - model(images)).norm().item()

    plan = plan_token_merging(model, lambda: list(images.split(8)), num_tokens=20)
    assert change(plan.edit) < change(MergeTokens(r=5))


def test_blocks_without_attention_and_those_before_the_start_merge_nothing() -> None:
    leanformer.apply(model := nano(), RemoveAttention(blocks=(1,)))
    plan = plan_token_merging(model, batches, num_tokens=20, start=1)
    assert len(plan.edit.r) == 2
    leanformer.apply(again := nano(), RemoveAttention(blocks=(1,)))
    merged = merged_by(plan.edit, again)
    assert merged[:2] == [0, 0]
    assert merged[2:] == list(plan.edit.r)


def test_stages_of_a_pyramid_share_the_threshold() -> None:
    def model() -> ImageClassifier:
        torch.manual_seed(8)
        return leanformer.build("swin_nano", attention=Softmax(), window_size=None)

    plan = plan_token_merging(model(), batches, num_tokens=150)
    assert len(plan.edit.r) == 4
    assert sum(merged_by(plan.edit, model())) == 150
    assert any(plan.edit.r[:2]) and any(plan.edit.r[2:])


def test_the_model_stays_and_the_record_is_json() -> None:
    model = nano().train()
    modules = dict(model.named_modules())
    told: list[str] = []
    plan = plan_token_merging(model, batches, ratio=0.5, progress=lambda p: told.append(str(p)))
    assert dict(model.named_modules()) == modules
    assert all(module.training for module in modules.values())
    assert told[0] == "round 1 of 12, 1 variants: 20 of 20"
    record = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert record["edit"]["r"] == list(plan.edit.r)
    assert "merge_tokens" in "\n".join(plan.lines())


def test_what_cannot_be_merged_is_said() -> None:
    with pytest.raises(ConfigError, match="the model has 64 tokens to merge, of which 1 to 60 can be taken, got 61"):
        plan_token_merging(nano(), batches, num_tokens=61)
    with pytest.raises(ConfigError, match="ratio must be"):
        plan_token_merging(nano(), batches, ratio=2.0)
    with pytest.raises(EditError, match="windows"):
        plan_token_merging(leanformer.build("swin_nano", attention=Softmax()), batches, ratio=0.5)
    with pytest.raises(DataError, match="no images"):
        plan_token_merging(nano(), list, ratio=0.5)
    with pytest.raises(DataError, match="more than the 0 MiB of memory=; 15 images fit"):
        plan_token_merging(nano(), batches, ratio=0.5, memory=15 * 65 * 64 * 4)
