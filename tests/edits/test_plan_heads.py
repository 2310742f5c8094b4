"""Plans for heads measure what dropping them does, and what each adds to the tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import leanformer
from leanformer.edits import DropHeads, RemoveAttention
from leanformer.edits.plans import (
    AccuracyDrop,
    FirstOnes,
    Greedy,
    HeadNorm,
    RandomChoice,
    TransferEntropy,
    plan_head_removal,
)
from leanformer.edits.sites import BlockSite, block_sites
from leanformer.errors import ConfigError, EditError
from leanformer.layers.attention import FocusedLinear, Softmax
from leanformer.models import ImageClassifier, find

IMAGES = torch.randn(17, 3, 40, 40, generator=torch.Generator().manual_seed(2))


def batches() -> list[Tensor]:
    return list(IMAGES.split(9))


def nano(name: str = "deit_nano", **changes: object) -> ImageClassifier:
    torch.manual_seed(4)
    model = leanformer.build(replace(find(name), image_size=40, attention=Softmax(), **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def accuracy_and_loss(model: ImageClassifier, labels: Tensor) -> tuple[float, float]:
    scores = torch.cat([model(images) for images in batches()]).double()
    return (scores.argmax(1) == labels).double().mean().item(), torch.nn.functional.cross_entropy(scores, labels).item()


@pytest.mark.parametrize("name", ["deit_nano", "swin_nano", "pvt_nano", "cswin_nano"])
def test_what_is_tried_is_what_the_edit_makes(name: str) -> None:
    labels = torch.arange(17) % 10
    score = AccuracyDrop(lambda: zip(IMAGES.split(9), labels.split(9), strict=True))
    plan = plan_head_removal(nano(name), score, num_heads=3, search=RandomChoice(seed=5))
    model = nano(name)
    leanformer.apply(model, plan.edit)
    assert sum(len(heads) for _, heads in plan.edit.heads) == 3
    (trial,) = plan.trials
    assert (trial.figures["accuracy"], trial.figures["loss"]) == pytest.approx(accuracy_and_loss(model, labels))
    assert (plan.full["accuracy"], plan.full["loss"]) == pytest.approx(accuracy_and_loss(nano(name), labels))


@torch.no_grad()
def test_the_norm_of_a_head_is_the_length_of_what_it_gives_behind_the_projection() -> None:
    model = nano(layer_scale=0.3)
    given: dict[str, list[Tensor]] = {}
    tokens: dict[str, list[Tensor]] = {}
    for site in block_sites(model):

        def see(proj: torch.nn.Linear, inputs: tuple[Tensor], _: Tensor, site: BlockSite = site) -> None:
            for head, (part, weight) in enumerate(zip(inputs[0].split(32, -1), proj.weight.split(32, 1), strict=True)):
                lengths = (site.block.attn.layer_scale(part @ weight.T)).norm(dim=-1)
                given.setdefault(f"{site.index}.{head}", []).append(lengths)

        site.block.attn.body.proj.register_forward_hook(see)
        site.block.attn.register_forward_hook(
            lambda _, __, after, site=site: tokens.setdefault(str(site.index), []).append(after.norm(dim=-1))
        )
    for images in batches():
        model(images)
    expected = {
        name: (torch.cat(lengths).mean() / torch.cat(tokens[name.split(".")[0]]).mean()).item()
        for name, lengths in given.items()
    }
    plan = plan_head_removal(nano(layer_scale=0.3), HeadNorm(batches), num_heads=3)
    assert {t.changes[0]: t.score for t in plan.trials if t.round == 1} == pytest.approx(expected, rel=1e-4)
    chosen: list[str] = []
    for name in sorted(expected, key=expected.__getitem__):  # a block keeps one of its two heads
        if len(chosen) < 3 and name.split(".")[0] not in {other.split(".")[0] for other in chosen}:
            chosen.append(name)
    assert set(plan.changes) == set(chosen)
    assert plan.score == pytest.approx(sum(expected[name] for name in chosen), rel=1e-4)
    assert plan.unit == "of the tokens' norm"


@pytest.mark.parametrize(("name", "most"), [("deit_nano", 4), ("cswin_nano", 11)])
def test_every_block_keeps_a_head_and_of_stripes_each_direction(name: str, most: int) -> None:
    plan = plan_head_removal(nano(name), num_heads=most, search=FirstOnes())
    leanformer.apply(model := nano(name), plan.edit)
    assert model(IMAGES).isfinite().all()
    with pytest.raises(ConfigError, match=f"of which 1 to {most} can be taken, got {most + 1}"):
        plan_head_removal(nano(name), num_heads=most + 1, search=FirstOnes())


def test_heads_are_left_out_together_by_what_the_network_loses() -> None:
    plan = plan_head_removal(nano(), TransferEntropy(batches), num_heads=2, search=Greedy())
    first, second = ([t for t in plan.trials if t.round == number] for number in (1, 2))
    assert len(first) == 8
    best = min(first, key=lambda trial: trial.score).changes[0]
    block = best.split(".")[0]
    assert all(best in trial.changes for trial in second)
    assert len(second) == 6, "the other head of that block has to stay"
    assert plan.edit == DropHeads(heads=plan.edit.heads)
    assert plan.score == min(trial.score for trial in second)
    assert {str(b) for b, _ in plan.edit.heads} > {block} or len(plan.edit.heads) == 1


def test_a_plan_for_heads_leaves_the_model_as_it_was() -> None:
    model = nano().train()
    modules, state = dict(model.named_modules()), {key: value.clone() for key, value in model.state_dict().items()}
    for score in (HeadNorm(batches), TransferEntropy(batches)):
        plan_head_removal(model, score, ratio=0.25)
    assert all(modules[name] is module for name, module in model.named_modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in modules.values())
    assert all(module.training for module in modules.values())


def test_models_without_heads_to_drop_are_refused_by_what_stands_in_the_way() -> None:
    with pytest.raises(EditError, match="whose heads depend on each other"):
        plan_head_removal(leanformer.build("deit_nano", attention=FocusedLinear()), HeadNorm(batches), ratio=0.5)
    with pytest.raises(EditError, match="splits no heads"):
        plan_head_removal(leanformer.build("swiftformer_nano"), HeadNorm(batches), ratio=0.5)
    with pytest.raises(EditError, match="has a single head, and keeps it"):
        plan_head_removal(leanformer.build("deit_nano", num_heads=1), HeadNorm(batches), ratio=0.5)
    leanformer.apply(model := nano(), RemoveAttention(blocks=(0, 1, 2, 3)))
    with pytest.raises(EditError, match="no block with attention"):
        plan_head_removal(model, HeadNorm(batches), ratio=0.5)
    mixed = leanformer.build("deit_nano", attention=((Softmax(), FocusedLinear(), Softmax(), FocusedLinear()),))
    plan = plan_head_removal(mixed, HeadNorm(batches), num_heads=2)
    assert {name.split(".")[0] for name in plan.changes} == {"0", "2"}
