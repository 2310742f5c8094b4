"""Attention fades out and goes: exact at both ends, on every backbone, or refused by the module's name."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import leanformer
from leanformer import bench
from leanformer.api import list_models
from leanformer.bench.cost import count_modules
from leanformer.edits import DiluteAttention, Edit, FoldNorms, RemoveAttention
from leanformer.edits.sites import block_sites
from leanformer.errors import EditError
from leanformer.layers.branch import DilutedBranch, RemovedForm, Rescale
from leanformer.layers.norm import Norms, RepBN
from leanformer.models import ImageClassifier, find

NANO = list_models("*_nano")
FORMS: tuple[RemovedForm, ...] = ("identity", "skip")
BATCH_NORMS = {"slab_swin_nano", "swiftformer_nano"}
every_nano = pytest.mark.parametrize("name", NANO)
every_form = pytest.mark.parametrize("form", FORMS)


def shaken(name: str, **changes: object) -> ImageClassifier:
    """With parameters and statistics far from their start, so that every branch counts."""
    torch.manual_seed(3)
    model = leanformer.build(name, **changes).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and value.ndim:
                value.add_(0.1 * torch.randn_like(value))
    return model


def every_other(model: nn.Module) -> tuple[int, ...]:
    return tuple(range(0, len(block_sites(model)), 2))


def set_share(model: nn.Module, share: float) -> None:
    for module in model.modules():
        if isinstance(module, DilutedBranch):
            module.set_scheduled(share)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64)


@every_nano
@every_form
def test_dilution_is_the_model_at_share_1_and_its_removal_at_share_0(name: str, form: RemovedForm) -> None:
    model, x = shaken(name), images()
    blocks = every_other(model)
    removed = copy.deepcopy(model)
    leanformer.apply(removed, RemoveAttention(blocks=blocks, form=form))
    with torch.inference_mode():
        whole, rest = model(x), removed(x)
        leanformer.apply(model, DiluteAttention(blocks=blocks, form=form))
        assert torch.equal(model(x), whole)
        set_share(model, 0.5)
        between = model(x)
        set_share(model, 0.0)
        assert torch.equal(model(x), rest)
        leanformer.apply(model, RemoveAttention(blocks=blocks, form=form))
        assert torch.equal(model(x), rest)
    assert not any(torch.allclose(a, b) for a, b in ((whole, rest), (whole, between), (rest, between)))


@every_nano
def test_removed_attention_leaves_no_parameter_and_no_work(name: str) -> None:
    model, blocks = shaken(name), (1,)
    site = block_sites(model)[1]
    gone = [key for key, _ in model.named_parameters() if key.startswith(f"{site.name}.attn.")]
    before = count_modules(model, 64)
    report = leanformer.apply(model, RemoveAttention(blocks=blocks))[0]
    after = count_modules(model, 64)
    assert gone
    assert not any(key.startswith(f"{site.name}.attn") for key in [*model.state_dict(), *after])
    assert sum(after.values()) == sum(macs for key, macs in before.items() if not key.startswith(f"{site.name}.attn."))
    assert report.details["parameters"] == sum(
        value.numel() for key, value in leanformer.build(name).named_parameters() if key in gone
    )


def test_diluted_attention_costs_what_is_computed() -> None:
    model = leanformer.build("deit_nano")
    whole = bench.count_cost(model, 64)
    leanformer.apply(model, DiluteAttention(blocks=(0, 2)))
    assert bench.count_cost(model, 64) == whole
    set_share(model, 0.0)
    faded = bench.count_cost(model, 64)
    leanformer.apply(model, RemoveAttention(blocks=(0, 2)))
    removed = bench.count_cost(model, 64)
    assert faded.macs == removed.macs < whole.macs
    assert faded.parameters == whole.parameters > removed.parameters


@pytest.mark.parametrize("name", [name for name in NANO if name not in BATCH_NORMS])
def test_the_folded_factor_changes_no_bit(name: str) -> None:
    model, x = shaken(name), images()
    blocks = every_other(model)
    folded = copy.deepcopy(model)
    leanformer.apply(model, RemoveAttention(blocks=blocks))
    leanformer.apply(folded, RemoveAttention(blocks=blocks, fold=True))
    assert any(isinstance(module, Rescale) for module in model.modules())
    assert not any(isinstance(module, Rescale) for module in folded.modules())
    with torch.inference_mode():
        assert torch.equal(folded(x), model(x))


@pytest.mark.parametrize("name", ["slab_swin_nano", "pvt_nano", "pvt_v2_nano", "swiftformer_nano"])
def test_the_factor_folds_where_norms_have_been_folded(name: str) -> None:
    """Where no norm divides it out, the layers that read the tokens do, and windows pad with less."""
    changes = {} if name == "swiftformer_nano" else {"norms": Norms(block=RepBN()), "image_size": 72}
    model, x = shaken(name, **changes), torch.randn(2, 3, 72, 72)
    blocks = every_other(model)
    leanformer.apply(model, FoldNorms())
    folded = copy.deepcopy(model)
    leanformer.apply(model, RemoveAttention(blocks=blocks))
    if name == "swiftformer_nano":  # its convolutions are followed by batch norms that fold back into them
        assert not [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    leanformer.apply(folded, RemoveAttention(blocks=blocks, fold=True))
    with torch.inference_mode():
        assert torch.equal(folded(x), model(x))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("swiftformer_nano", {}, r"blocks\.1\.mlp\.norm \(TokenBatchNorm\) does not divide a factor out; fold_norms"),
        ("slab_swin_nano", {}, r"blocks\.0\.mlp\.norm \(ProgressiveNorm\) does not divide a factor out; fold_norms"),
        ("l2vit_nano", {"position_gelu": True}, r"blocks\.0\.mlp_position \(ConvPosition\) does not pass a factor on"),
    ],
)
def test_a_factor_that_cannot_be_folded_is_refused_by_the_module_and_nothing_changes(
    name: str, changes: dict, message: str
) -> None:
    model, x = shaken(name, **changes), images()
    before = model(x)
    with pytest.raises(EditError, match=message):
        leanformer.apply(model, RemoveAttention(blocks=(0,), fold=True))
    assert torch.equal(model(x), before)
    assert model.edits == []


def test_a_factor_stays_where_nothing_reads_the_tokens() -> None:
    with pytest.raises(EditError, match=r"stages\.0 \(Stage\) ends with the tokens themselves"):
        RemoveAttention(blocks=(3,), fold=True).apply(leanformer.build("deit_nano").backbone)
    with pytest.raises(EditError, match=r"stages\.\d \(Stage\) ends with the tokens themselves"):
        RemoveAttention(blocks=(3,), fold=True).apply(leanformer.build("pvt_nano", pool="mean", num_classes=0))
    model = shaken("pvt_v2_nano", norms=Norms(block=RepBN()))
    leanformer.apply(model, FoldNorms())  # the norm that its backbone ends with is a part of the classifier now
    with pytest.raises(EditError, match=r"stages\.\d \(Stage\) ends with the tokens themselves"):
        RemoveAttention(blocks=(len(block_sites(model)) - 1,), fold=True).apply(model.backbone)


@every_nano
@pytest.mark.parametrize(
    "chain",
    [
        (DiluteAttention(blocks=(0, 2)),),
        (DiluteAttention(blocks=(0, 2), form="skip"), RemoveAttention(blocks=(0, 2), form="skip")),
        (RemoveAttention(blocks=(0, 2)), DiluteAttention(blocks=(1,))),
        (FoldNorms(), RemoveAttention(blocks=(1,), fold=True)),
    ],
    ids=("diluted", "skipped", "removed", "folded"),
)
def test_an_edited_model_comes_back_from_its_folder(name: str, chain: tuple[Edit, ...], tmp_path: Path) -> None:
    model, x = shaken(name, norms=Norms(block=RepBN())), images()
    for change in chain:
        leanformer.apply(model, change)
        set_share(model, 0.0)
    leanformer.save(model, tmp_path)
    back = leanformer.load(tmp_path)
    with torch.inference_mode():
        assert torch.equal(back(x), model(x))
    assert back.edits == model.edits
    assert all(module.gone for module in back.modules() if isinstance(module, DilutedBranch))


def test_the_published_form_of_the_config_is_the_edit() -> None:
    torch.manual_seed(0)
    edited = leanformer.build("deit_nano")
    leanformer.apply(edited, RemoveAttention(blocks=(0, 2)))
    built = ImageClassifier(replace(find("deit_nano"), removed=(0, 2)))
    built.load_state_dict(edited.state_dict())
    x = images()
    assert torch.equal(built.eval()(x), edited.eval()(x))
    with pytest.raises(EditError, match=r"block 2 \(backbone\.stages\.0\.blocks\.2\) has no attention any more"):
        DiluteAttention(blocks=(1, 2)).apply(built)
    assert not any(isinstance(module, DilutedBranch) for module in built.modules())


@pytest.mark.parametrize(
    ("before", "asked", "message"),
    [
        ((), RemoveAttention(blocks=(0, 4)), "remove_attention: there is no block 4; this model has blocks 0 to 3"),
        ((RemoveAttention(blocks=(1,)),), RemoveAttention(blocks=(0, 1)), "block 1 .* no attention any more"),
        ((RemoveAttention(blocks=(1,), form="skip"),), RemoveAttention(blocks=(1,)), "no attention any more"),
        ((DiluteAttention(blocks=(1,)),), DiluteAttention(blocks=(0, 1)), "block 1 .* is diluted already"),
        ((DiluteAttention(blocks=(1,)),), RemoveAttention(blocks=(0, 1)), "block 1 .* still has 1.000 of its attent"),
        ((DiluteAttention(blocks=(1,), form="skip"),), RemoveAttention(blocks=(0, 1)), "with form='skip'"),
    ],
    ids=("range", "removed", "skipped", "diluted", "share", "form"),
)
def test_what_cannot_be_done_is_refused_before_anything_changes(
    before: tuple[Edit, ...], asked: Edit, message: str
) -> None:
    model = leanformer.build("deit_nano")
    leanformer.apply(model, *before)
    modules, record = [id(module) for module in model.modules()], list(model.edits)
    with pytest.raises(EditError, match=message):
        leanformer.apply(model, asked)
    assert [id(module) for module in model.modules()] == modules
    assert model.edits == record


def test_folding_needs_a_factor() -> None:
    with pytest.raises(EditError, match="multiplies by nothing"):
        RemoveAttention(blocks=(0,), form="skip", fold=True)


def test_the_report_says_when_attention_was_in_use() -> None:
    model = leanformer.build("deit_nano")
    leanformer.apply(model, DiluteAttention(blocks=(0,)))
    set_share(model, 0.0)
    (report,) = leanformer.apply(model, RemoveAttention(blocks=(0, 3)))
    assert report.lines[0] == "removed the attention of blocks 0, 3: 33,536 parameters; x becomes 2 x there"
    assert report.lines[1].startswith("the attention of block 3 was in use, so the outputs change")
    assert report.details["in_use"] == [3]


def test_the_body_stops_at_share_0_and_learns_before() -> None:
    model = leanformer.build("deit_nano", drop_path=0.0).train()
    leanformer.apply(model, DiluteAttention(blocks=(0,)))
    (attention,) = (module for module in model.modules() if isinstance(module, DilutedBranch))
    for share, learns in ((0.25, True), (0.0, False)):
        model.zero_grad()
        set_share(model, share)
        model(images()).square().mean().backward()
        assert all((p.grad is not None) == learns for p in attention.parameters())
    with torch.no_grad():
        next(attention.parameters()).fill_(torch.nan)  # dead weights reach nothing
    assert model(images()).isfinite().all()


def test_a_compiled_model_follows_the_share() -> None:
    model = leanformer.build("deit_nano").eval()
    leanformer.apply(model, DiluteAttention(blocks=(0, 2)))
    network, x = torch.compile(model, backend="eager"), images()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        for share in (1.0, 0.75, 0.3, 0.0):
            set_share(model, share)
            torch.testing.assert_close(network(x), model(x))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # with and without the attention


def test_a_share_outside_its_range_is_its_end() -> None:
    model = leanformer.build("deit_nano")
    leanformer.apply(model, DiluteAttention(blocks=(0,)))
    (branch,) = (module for module in model.modules() if isinstance(module, DilutedBranch))
    for value, expected in ((1.5, 1.0), (-0.1, 0.0)):
        branch.set_scheduled(value)
        assert branch.share.item() == expected
    assert branch.gone
