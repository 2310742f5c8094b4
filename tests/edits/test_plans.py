"""Plans choose as measuring every variant from scratch would, leave no trace on the model, and refuse what they cannot
measure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leanformer
from leanformer.api import list_models
from leanformer.config import from_dict
from leanformer.edits import DiluteAttention, Edit, RemoveAttention
from leanformer.edits.plans import (
    AccuracyDrop,
    Alone,
    Exhaustive,
    FirstOnes,
    LatencyGain,
    RandomChoice,
    TransferEntropy,
    plan_attention_removal,
)
from leanformer.edits.sites import block_sites
from leanformer.errors import ConfigError, DataError, EditError
from leanformer.layers.block import BlockSequence
from leanformer.models import ImageClassifier, find
from leanformer.ops import Moments, gaussian_entropy

BACKBONES = sorted({find(name).kind: name for name in reversed(list_models("*_nano"))}.values())
IMAGES = torch.randn(19, 3, 40, 40, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(19) % 10


def batches() -> list[Tensor]:
    return list(IMAGES.split(8))


def labeled() -> list[tuple[Tensor, Tensor]]:
    return list(zip(IMAGES.split(8), LABELS.split(8), strict=True))


def nano(name: str = "deit_nano") -> ImageClassifier:
    """With weights large enough that every attention matters."""
    torch.manual_seed(3)
    model = leanformer.build(name, image_size=40)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(5)
            if hasattr(module, "gamma"):
                module.gamma.fill_(0.5)
    return model.eval()


@torch.no_grad()
def entropy_without(name: str, removed: Sequence[int], replacement: nn.Module | None = None) -> float:
    """Of the scores of a model that has those attentions no longer, a whole pass for each batch."""
    model = nano(name)
    for index in removed:
        block_sites(model)[index].block.attn = replacement
    moments = Moments()
    for images in batches():
        moments.add(model(images))
    return gaussian_entropy(moments, unbiased=True) / math.log(2)


def greedy_by_hand(name: str, count: int) -> tuple[tuple[int, ...], dict[tuple[int, ...], float]]:
    full, scores, chosen = entropy_without(name, ()), {}, ()
    for _ in range(count):
        left = [i for i in range(len(block_sites(nano(name)))) if i not in chosen]
        tried = {tuple(sorted((*chosen, i))): None for i in left}
        lost = {blocks: full - entropy_without(name, blocks) for blocks in tried}
        chosen = min(lost, key=lost.__getitem__)
        scores |= lost
    return chosen, scores


@pytest.mark.parametrize("name", BACKBONES)
def test_the_greedy_search_measures_bit_for_bit_what_whole_passes_of_changed_models_give(name: str) -> None:
    count = len(block_sites(nano(name))) - 1
    chosen, scores = greedy_by_hand(name, count)
    plan = plan_attention_removal(nano(name), TransferEntropy(batches), num_layers=count)
    assert {tuple(map(int, trial.changes)): trial.score for trial in plan.trials} == scores
    assert plan.edit == RemoveAttention(blocks=tuple(sorted(chosen)))
    assert len({round(score, 4) for score in scores.values()}) > count, "every removal shows"


def test_blocks_that_run_together_are_tried_together() -> None:
    class Together(BlockSequence):
        def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
            for block in self:
                x = block(x, grid)
            return x

    model, expected = nano("swin_nano"), plan_attention_removal(nano("swin_nano"), TransferEntropy(batches), ratio=0.5)
    for stage in model.backbone.stages:
        stage.blocks = Together(stage.blocks)
    plan = plan_attention_removal(model, TransferEntropy(batches), ratio=0.5)
    assert [(t.changes, t.score) for t in plan.trials] == [(t.changes, t.score) for t in expected.trials]
    assert plan.forward_passes > expected.forward_passes


def test_variants_share_the_work_in_front_of_what_they_change() -> None:
    model = nano()
    plan = plan_attention_removal(model, TransferEntropy(batches), num_layers=2)
    # Of 4 blocks: the whole network, then each candidate from its block on; in the second round there is no whole one.
    assert plan.forward_passes < 1 + 4 + 1 + 3
    first = 4 + (4 + 3 + 2 + 1)
    assert plan.forward_passes * 4 == first + _work_of_second_round(int(plan.trials[0].changes[0]), plan)


def _work_of_second_round(_: int, plan: Any) -> int:
    """Blocks run: the paths of the variants, as the edges of a tree."""
    variants = [{int(name) for name in trial.changes} for trial in plan.trials if trial.round == 2]
    return len({tuple(i in variant for i in range(end + 1)) for variant in variants for end in range(4)})


def test_an_exhaustive_search_tries_every_choice_and_is_at_least_as_good_as_a_greedy_one() -> None:
    score = TransferEntropy(batches)
    greedy = plan_attention_removal(nano(), score, num_layers=2)
    best = plan_attention_removal(nano(), score, num_layers=2, search=Exhaustive())
    assert [trial.changes for trial in best.trials] == [tuple(map(str, c)) for c in combinations(range(4), 2)]
    assert best.score == min(trial.score for trial in best.trials)
    assert best.score <= greedy.score
    assert {t.changes: t.score for t in greedy.trials}.items() & {t.changes: t.score for t in best.trials}.items()


def test_an_exhaustive_search_of_too_many_choices_is_refused_before_anything_is_measured() -> None:
    def none_read() -> list[Tensor]:
        pytest.fail("the images were read")

    with pytest.raises(ConfigError, match=r"6 choices of 2 out of 4, more than the limit of 5; take Greedy\(\)"):
        plan_attention_removal(nano(), TransferEntropy(none_read), num_layers=2, search=Exhaustive(limit=5))


def test_each_alone_takes_those_that_are_best_alone() -> None:
    plan = plan_attention_removal(nano(), TransferEntropy(batches), num_layers=2, search=Alone())
    alone = sorted((t for t in plan.trials if t.round == 1), key=lambda t: t.score)
    assert plan.changes == tuple(sorted(t.changes[0] for t in alone[:2]))
    assert plan.score == plan.trials[-1].score == pytest.approx(_lost(plan.changes))


def _lost(names: Sequence[str]) -> float:
    return entropy_without("deit_nano", ()) - entropy_without("deit_nano", [int(name) for name in names])


def test_the_absolute_score_counts_an_entropy_that_grows_like_one_that_falls() -> None:
    signed = plan_attention_removal(nano(), TransferEntropy(batches), num_layers=1)
    absolute = plan_attention_removal(nano(), TransferEntropy(batches, absolute=True), num_layers=1)
    assert [t.score for t in absolute.trials] == [abs(t.score) for t in signed.trials]
    assert absolute.score == min(abs(t.score) for t in signed.trials)


def test_a_random_choice_repeats_with_its_seed_and_needs_no_data() -> None:
    choices = [plan_attention_removal(nano(), num_layers=2, search=RandomChoice(seed=s)).changes for s in (1, 1, 2, 3)]
    assert choices[0] == choices[1]
    assert len(set(choices)) > 1
    measured = plan_attention_removal(nano(), TransferEntropy(batches), num_layers=2, search=RandomChoice(seed=1))
    assert measured.changes == choices[0]
    assert measured.score == pytest.approx(_lost(choices[0]))


def test_the_first_ones_are_those_that_run_first() -> None:
    plan = plan_attention_removal(nano(), ratio=0.5, search=FirstOnes())
    assert plan.edit == RemoveAttention(blocks=(0, 1))
    assert plan.score is None
    assert "nothing was measured" in plan.lines()


def test_accuracy_is_lost_least_and_equal_losses_are_told_apart_by_the_loss() -> None:
    plan = plan_attention_removal(nano(), AccuracyDrop(labeled), num_layers=1, form="identity")
    found = {}
    for index in range(4):
        model = nano()
        leanformer.apply(model, RemoveAttention(blocks=(index,)))
        with torch.no_grad():
            scores = torch.cat([model(images) for images in batches()]).double()
        right = (scores.argmax(1) == LABELS).double().mean().item()
        loss = nn.functional.cross_entropy(scores, LABELS).item()
        found[str(index)] = (right, loss)
        figures = plan.trials[index].figures
        assert (figures["accuracy"], figures["loss"]) == pytest.approx((right, loss))
    assert plan.changes == (min(found, key=lambda name: (-found[name][0], found[name][1])),)
    assert plan.score == pytest.approx(plan.full["accuracy"] - found[plan.changes[0]][0])


def test_the_latency_search_removes_what_takes_longest() -> None:
    costs = dict(zip(range(4), (3.0, 5.0, 1.0, 4.0), strict=True))

    def seconds(model: nn.Module, _: Tensor) -> float:
        return 10.0 + sum(costs[site.index] for site in block_sites(model) if site.block.attn is not None)

    score = LatencyGain(IMAGES[:2], num_turns=3, measure=seconds)
    plan = plan_attention_removal(nano(), score, num_layers=2)
    assert plan.edit == RemoveAttention(blocks=(1, 3))
    assert plan.score == pytest.approx(14 / 23 - 1)
    assert plan.full["ms"] == 23_000


def test_a_layer_less_takes_less_time_by_the_clock() -> None:
    plan = plan_attention_removal(nano(), LatencyGain(IMAGES[:4], num_turns=7), num_layers=4)
    assert plan.score < 0


def test_a_plan_leaves_the_model_as_it_was_whatever_stops_it() -> None:
    model = nano().train()
    modules, state = dict(model.named_modules()), {key: value.clone() for key, value in model.state_dict().items()}

    def assert_untouched() -> None:
        assert list(dict(model.named_modules())) == list(modules)
        assert all(modules[name] is module for name, module in model.named_modules())
        assert all(module.training for module in modules.values())
        assert model.edits == []
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())

    plan_attention_removal(model, TransferEntropy(batches), num_layers=2)
    assert_untouched()

    def break_while_something_is_tried(*_: object) -> None:
        if any(site.block.attn is None for site in block_sites(model)):
            raise KeyboardInterrupt

    hooks = [site.block.mlp.register_forward_hook(break_while_something_is_tried) for site in block_sites(model)]
    with pytest.raises(KeyboardInterrupt):
        plan_attention_removal(model, TransferEntropy(batches), num_layers=2)
    for hook in hooks:
        hook.remove()
    assert_untouched()


def test_a_search_that_was_stopped_goes_on_from_what_it_knew() -> None:
    known: dict = {}

    def stop(progress: Any) -> None:
        if progress.round == 2:
            raise KeyboardInterrupt

    whole = plan_attention_removal(nano(), TransferEntropy(batches), num_layers=2)
    with pytest.raises(KeyboardInterrupt):
        plan_attention_removal(nano(), TransferEntropy(batches), num_layers=2, known=known, progress=stop)
    known = json.loads(json.dumps(known))
    rest = plan_attention_removal(nano(), TransferEntropy(batches), num_layers=2, known=known)
    assert [(t.changes, t.score) for t in rest.trials] == [(t.changes, t.score) for t in whole.trials]
    assert rest.forward_passes < whole.forward_passes
    # Other figures are not mixed with these: layers tried in another form, another output.
    other = plan_attention_removal(nano(), TransferEntropy(batches), num_layers=1, form="identity", known=known)
    assert other.score != whole.trials[0].score
    assert len(known) == 2
    leanformer.apply(model := nano(), RemoveAttention(blocks=(3,)))
    with pytest.raises(ConfigError, match="known holds figures of another model"):
        plan_attention_removal(model, TransferEntropy(batches), num_layers=1, known=known)


def test_progress_is_told_after_each_batch() -> None:
    told = []
    plan_attention_removal(nano(), TransferEntropy(batches), num_layers=2, progress=lambda p: told.append(str(p)))
    assert told == [
        "round 1 of 2, 5 variants: 8",
        "round 1 of 2, 5 variants: 16",
        "round 1 of 2, 5 variants: 19",
        "round 2 of 2, 3 variants: 8 of 19",
        "round 2 of 2, 3 variants: 16 of 19",
        "round 2 of 2, 3 variants: 19 of 19",
    ]


def test_the_record_is_json_and_its_edit_can_be_made() -> None:
    plan = plan_attention_removal(nano(), TransferEntropy(batches), ratio=0.5, edit_form="skip")
    record = json.loads(json.dumps(plan.to_dict(), allow_nan=False))
    assert record["asked"]["search"] == "greedy"
    assert record["num_images"] == 19
    assert len(record["trials"]) == 4 + 3
    edit = from_dict(record["edit"], Edit)
    assert edit == plan.edit == RemoveAttention(blocks=tuple(map(int, plan.changes)), form="skip")
    leanformer.apply(model := nano(), edit)
    with torch.no_grad():
        assert model(IMAGES).isfinite().all()
    lines = "\n".join(plan.lines())
    assert f"remove_attention: {', '.join(plan.changes)}" in lines
    assert all(f"{t.score:+.4g}" in lines for t in plan.trials)


def test_layers_removed_before_are_not_counted() -> None:
    leanformer.apply(model := nano(), RemoveAttention(blocks=(1,)))
    plan = plan_attention_removal(model, TransferEntropy(batches), num_layers=3)
    assert plan.edit == RemoveAttention(blocks=(0, 2, 3))


def test_the_features_of_a_model_without_classifier_can_be_measured() -> None:
    model = leanformer.build("deit_nano", image_size=40, num_classes=0)
    with pytest.raises(EditError, match=r"no classifier.*output='features'"):
        plan_attention_removal(model, TransferEntropy(batches), num_layers=1)
    plan = plan_attention_removal(model, TransferEntropy(batches, output="features"), num_layers=1)
    assert plan.unit == "nats"


def test_a_classifier_of_zeros_is_named() -> None:
    model = nano()
    nn.init.zeros_(model.head.linear.weight)
    with pytest.raises(EditError, match="the logits do not vary.*classifier of zeros"):
        plan_attention_removal(model, TransferEntropy(batches), num_layers=1)


def test_removing_all_that_the_class_token_hears_is_the_worst_choice_not_an_error() -> None:
    plan = plan_attention_removal(nano(), TransferEntropy(batches), ratio=1.0)
    assert plan.score > 100


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"ratio": 0.0}, ConfigError, "ratio must be above 0 and at most 1, got 0.0"),
        ({"ratio": 1.5}, ConfigError, "ratio must be above 0"),
        ({"ratio": 0.1}, ConfigError, "ratio 0.1 of 4 attention layers is none; take 0.25 or more"),
        ({"num_layers": 5}, ConfigError, "the model has 4 attention layers, of which 1 to 4 can be taken, got 5"),
        ({"num_layers": 1, "ratio": 0.5}, ConfigError, "give either ratio or the number"),
        ({}, ConfigError, "give either ratio or the number"),
        ({"ratio": 0.5, "form": "half"}, ConfigError, "form must be one of identity, skip, got 'half'"),
        ({"ratio": 0.5, "score": None}, DataError, "cannot choose without data: the search 'greedy' needs a score"),
        ({"ratio": 0.5, "search": Alone(), "score": None}, DataError, "cannot choose without data"),
        ({"ratio": 0.5, "score": TransferEntropy(list)}, DataError, "cannot choose without data: .*no images"),
        ({"ratio": 0.5, "score": TransferEntropy(lambda: [IMAGES[:9]])}, DataError, "needs 16 images or more.*got 9"),
        ({"ratio": 0.5, "score": TransferEntropy(labeled)}, DataError, "has to be images alone, got tuple"),
        ({"ratio": 0.5, "score": AccuracyDrop(batches)}, DataError, "has to be a pair"),
        ({"ratio": 0.5, "score": AccuracyDrop(lambda: [(IMAGES, LABELS + 1)])}, DataError, "from 0 to 9, got 10"),
        ({"ratio": 0.5, "score": TransferEntropy(lambda: [IMAGES[0]])}, DataError, "images come as"),
        ({"ratio": 0.5, "score": TransferEntropy(lambda: [IMAGES.repeat(1, 2, 1, 1)])}, DataError, "3 channels"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_asked_is_said(change: dict, error: type, message: str) -> None:
    asked = {"score": TransferEntropy(batches), **change}
    with pytest.raises(error, match=message):
        plan_attention_removal(nano(), **asked)


def test_batches_have_to_be_the_same_ones_each_time() -> None:
    with pytest.raises(ConfigError, match="has to be a function"):
        TransferEntropy(batches())  # type: ignore[arg-type]
    order = torch.Generator().manual_seed(0)

    def shuffled() -> Iterator[Tensor]:
        yield from IMAGES[torch.randperm(19, generator=order)].split(8)

    with pytest.raises(DataError, match="turn off shuffling"):
        plan_attention_removal(nano(), TransferEntropy(shuffled), num_layers=2)
    calls = iter(range(9))
    with pytest.raises(DataError, match="turn off shuffling"):
        fewer = TransferEntropy(lambda: batches()[: 3 - next(calls) // 2])
        plan_attention_removal(nano(), fewer, num_layers=2)


def test_models_that_cannot_be_planned_for_are_refused() -> None:
    score = TransferEntropy(batches)
    with pytest.raises(EditError, match="no block with attention"):
        plan_attention_removal(leanformer.build("deit_nano", image_size=40, removed=(0, 1, 2, 3)), score, ratio=0.5)
    leanformer.apply(model := nano(), DiluteAttention(blocks=(1,)))
    with pytest.raises(EditError, match=r"block 1 \(backbone.stages.0.blocks.1\) is being diluted"):
        plan_attention_removal(model, score, ratio=0.5)
    with pytest.raises(EditError, match="image classifiers, got VisionTransformer"):
        plan_attention_removal(nano().backbone, score, ratio=0.5)
    model, forward = nano(), nano().backbone.forward
    model.backbone.forward = lambda images: (2 * forward(images)[0], None)  # type: ignore[method-assign]
    with pytest.raises(EditError, match="one after another do not give its outputs"):
        plan_attention_removal(model, score, ratio=0.5)
    model = nano()
    model.head.linear.bias.data[0] = math.nan
    with pytest.raises(EditError, match="not finite"):
        plan_attention_removal(model, score, ratio=0.5)


def test_every_backbone_has_a_nano_model_here() -> None:
    assert {find(name).kind for name in BACKBONES} >= {"vit", "swin", "pvt", "pvt_v2", "cswin", "swiftformer", "l2vit"}
