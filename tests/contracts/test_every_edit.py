"""Any edit x any backbone: done as it says, saved and loaded, or refused with a module's name and nothing changed. An
edit that is new needs an entry here.

What an edit computes is tested beside it. Here it meets every backbone, and the other edits in every order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leanformer
from leanformer.api import list_models
from leanformer.config import from_dict, registered_kinds, to_dict
from leanformer.edits import (
    ClassTokenTail,
    DiluteAttention,
    DropHeads,
    Edit,
    FoldNorms,
    FreezeNorms,
    FuseLinear,
    MergeTokens,
    RemoveAttention,
    SwapAttention,
    SwapNorm,
)
from leanformer.edits.norm_sites import find_norms
from leanformer.errors import EditError
from leanformer.layers.attention import EluLinear
from leanformer.layers.norm import BatchNorm, LayerNorm, Norms, PRepBN, RepBN
from leanformer.models import ImageClassifier, find

BACKBONES = {find(name).kind: name for name in list_models("*_nano")}  # one of each kind
ALL = frozenset(BACKBONES)
SIZE = (40, 56)
IMAGES = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(7))


@dataclass(frozen=True)
class Entry:
    """An edit as it is tried, and the kinds of backbones that take it."""

    edit: Edit
    takes: frozenset[str] = ALL
    keeps: bool = False
    """Whether the outputs stay in eval mode."""
    others: str = ""
    """What the refusal of other backbones says."""
    norms: Norms | None = None
    """Of the model, where they matter."""

    def __str__(self) -> str:
        return self.edit.kind


ENTRIES = {
    entry.edit.kind: entry
    for entry in (
        Entry(FoldNorms(), keeps=True, norms=Norms(block=RepBN())),
        Entry(FreezeNorms(), keeps=True, norms=Norms(block=RepBN())),
        Entry(SwapNorm(to=PRepBN()), norms=Norms(block=LayerNorm())),
        Entry(SwapAttention(to=EluLinear())),
        Entry(
            DropHeads(heads=((2, (1,)),)),
            takes=ALL - {"swiftformer"},
            others=r"stages\.2\.blocks\.1\.attn\.body is AdditiveAttention, which splits no heads",
        ),
        Entry(
            FuseLinear(),
            takes=frozenset({"pvt", "pvt_v2", "swiftformer", "l2vit"}),
            keeps=True,
            others="ImageClassifier has no two linear maps without anything between them",
        ),
        Entry(DiluteAttention(blocks=(0, 2)), keeps=True),
        Entry(RemoveAttention(blocks=(0, 2))),
        Entry(
            MergeTokens(r=3),
            takes=frozenset({"vit"}),
            others=r"backbone\.stages\.\d\.blocks\.\d(\.[a-z_.]+)? ",
        ),
        Entry(
            ClassTokenTail(),
            takes=frozenset({"vit"}),
            keeps=True,
            others=r"(the classifier reads the mean over the map|backbone\.stages\.1\.blocks\.1)",
        ),
    )
}
EVERY = [(entry, kind) for entry in ENTRIES.values() for kind in sorted(BACKBONES)]
every_pair = pytest.mark.parametrize(("entry", "kind"), EVERY, ids=str)


def nano(kind: str, norms: Norms | None = None) -> ImageClassifier:
    """A small model in eval mode, with statistics and parameters that differ from their start."""
    torch.manual_seed(0)
    config = replace(find(BACKBONES[kind]), image_size=SIZE, num_classes=5, drop_path=0.0)
    model = ImageClassifier(config if norms is None else replace(config, norms=norms)).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        model(IMAGES * 2 + 1)
    settle(model)
    return model.eval()


def settle(model: nn.Module) -> None:
    """Progressive norms are finished, so that they fold."""
    for module in model.modules():
        if getattr(module, "scheduled", None) == "norm_progress":
            module.set_scheduled(0.0)


def scores(model: nn.Module) -> Tensor:
    with torch.inference_mode():
        return model(IMAGES)


def state(model: ImageClassifier) -> tuple[str, dict[str, Tensor], list[Edit]]:
    return str(model), {key: value.clone() for key, value in model.state_dict().items()}, list(model.edits)


def assert_untouched(model: ImageClassifier, before: tuple[str, dict[str, Tensor], list[Edit]]) -> None:
    modules, tensors, edits = before
    assert str(model) == modules and model.edits == edits
    assert model.state_dict().keys() == tensors.keys()
    assert all(torch.equal(tensors[key], value) for key, value in model.state_dict().items())


def assert_survives_a_file(model: ImageClassifier, directory: Path) -> None:
    leanformer.save(model, directory)
    loaded = leanformer.load(directory)
    assert loaded.edits == model.edits and str(loaded) == str(model)
    assert torch.equal(scores(loaded), scores(model))


def try_edit(model: ImageClassifier, change: Edit) -> bool:
    """Whether the model takes the edit; a refusal leaves it untouched and says who refuses what."""
    before = state(model)
    try:
        leanformer.apply(model, change)
    except EditError as error:
        assert_untouched(model, before)
        assert str(error).startswith(f"{change.kind}: ") and len(str(error)) > 40
        return False
    assert model.edits[-1].kind == change.kind
    return True


def test_every_registered_edit_has_an_entry() -> None:
    assert set(ENTRIES) == set(registered_kinds(Edit)), "add an Entry for an edit that is new, and its row to edits.md"


def test_every_edit_has_a_row_on_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "edits.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)", page, re.MULTILINE))
    assert rows >= {type(entry.edit).__name__ for entry in ENTRIES.values()}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=str)
def test_an_edit_is_a_value_with_a_json_form(entry: Entry) -> None:
    assert from_dict(to_dict(entry.edit), Edit) == entry.edit
    assert type(entry.edit).__doc__
    assert not type(entry.edit).exact or entry.keeps


@every_pair
def test_a_backbone_takes_an_edit_as_said_or_refuses_it(entry: Entry, kind: str, tmp_path: Path) -> None:
    model = nano(kind, entry.norms)
    before, untouched = scores(model), state(model)
    if kind not in entry.takes:
        with pytest.raises(EditError, match=f"^{entry.edit.kind}: .*{entry.others}"):
            leanformer.apply(model, entry.edit)
        assert_untouched(model, untouched)
        return
    report = leanformer.apply(model, entry.edit)[0]
    assert report.lines and model.edits == [report.edit]
    after = scores(model)
    if entry.keeps:
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * before.abs().max().item())
    else:
        assert after.shape == before.shape and after.isfinite().all()
        assert not torch.allclose(after, before, rtol=1e-5, atol=1e-5)
    assert_survives_a_file(model, tmp_path / "model")
    model.train()(IMAGES).square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


FOLDED = [entry for entry in ENTRIES.values() if not isinstance(entry.edit, (FoldNorms, FreezeNorms, SwapNorm))]


@pytest.mark.parametrize(("entry", "kind"), [(e, k) for e in FOLDED for k in sorted(e.takes)], ids=str)
def test_norms_fold_exactly_behind_every_edit(entry: Entry, kind: str, tmp_path: Path) -> None:
    model = nano(kind, Norms(block=PRepBN()))
    leanformer.apply(model, entry.edit)
    before = scores(model)
    report = leanformer.apply(model, FoldNorms())[0]
    assert len(report.details["folded"]) > len(report.details["frozen"]) and not report.details["left"]
    torch.testing.assert_close(scores(model), before, rtol=1e-5, atol=1e-5 * before.abs().max().item())
    assert_survives_a_file(model, tmp_path / "model")


@pytest.mark.parametrize("to", [BatchNorm(), RepBN(), PRepBN()], ids=lambda norm: norm.kind)
@pytest.mark.parametrize("kind", sorted(BACKBONES))
def test_swapped_norms_fold_exactly_once_they_have_seen_data(kind: str, to: object, tmp_path: Path) -> None:
    model = nano(kind, Norms(block=LayerNorm()))
    places = dict.fromkeys(item.site.place for item in find_norms(model))
    leanformer.apply(model, SwapNorm(to=to, where=tuple(place for place in places if place)))
    with torch.no_grad():
        model.train()(IMAGES * 2 + 1)
    settle(model)
    model.eval()
    before = scores(model)
    report = leanformer.apply(model, FoldNorms())[0]
    assert not report.details["left"] and not any(isinstance(m, nn.LayerNorm) for m in model.modules())
    torch.testing.assert_close(scores(model), before, rtol=1e-5, atol=1e-5 * before.abs().max().item())
    assert_survives_a_file(model, tmp_path / "model")


def pairs() -> list:
    chosen = []
    for index, (first, second) in enumerate(permutations(ENTRIES.values(), 2)):
        for place, kind in enumerate(sorted(BACKBONES)):
            marks = () if (index + place) % 35 == 0 else pytest.mark.slow
            chosen.append(pytest.param(first, second, kind, marks=marks, id=f"{first}-{second}-{kind}"))
    return chosen


@pytest.mark.parametrize(("first", "second", "kind"), pairs())
def test_edits_follow_each_other_or_are_refused_untouched(
    first: Entry, second: Entry, kind: str, tmp_path: Path
) -> None:
    model = nano(kind, Norms(block=RepBN()))
    try_edit(model, first.edit)
    before = scores(model)
    done = try_edit(model, second.edit)
    assert scores(model).isfinite().all()
    if done and second.keeps:
        torch.testing.assert_close(scores(model), before, rtol=1e-5, atol=1e-5 * before.abs().max().item())
    assert_survives_a_file(model, tmp_path / "model")
