"""ClassTokenTail: the same scores from a last block that computes the tokens that are read, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import leanformer
from leanformer import bench
from leanformer.checkpoints import runs
from leanformer.edits import ClassTokenTail, DiluteAttention, Edit, FoldNorms, FuseLinear, MergeTokens, RemoveAttention
from leanformer.errors import EditError
from leanformer.layers.attention import FocusedLinear, Softmax
from leanformer.layers.norm import LayerNorm, Norms, RepBN
from leanformer.models import ImageClassifier
from leanformer.models.dense import PyramidFeatures

FORMS = {
    "token": {},
    "distilled with registers": {"distilled": True, "registers": 3},
    "layer scale": {"layer_scale": 0.5, "qkv_bias": False},
    "norms of batches": {"norms": Norms(block=RepBN())},
}
OTHERS = {
    "merging before": (MergeTokens(r=9), ClassTokenTail()),
    "merging behind": (ClassTokenTail(), MergeTokens(r=9)),
    "merging without sizes": (ClassTokenTail(), MergeTokens(r=9, proportional=False)),
    "removal before": (RemoveAttention(blocks=(1, 3)), ClassTokenTail()),
    "removal behind": (ClassTokenTail(), RemoveAttention(blocks=(1, 3))),
    "removal folded behind": (ClassTokenTail(), RemoveAttention(blocks=(1, 3), fold=True)),
    "all of them": (RemoveAttention(blocks=(1,), form="skip"), MergeTokens(r=9), ClassTokenTail()),
}


def deit(*edits: Edit, **changes: object) -> ImageClassifier:
    torch.manual_seed(7)
    model = leanformer.build("deit_nano", **changes)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():  # so that tokens, blocks and statistics differ
            if name.endswith(("qkv.weight", "table")):
                tensor.mul_(8)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(0, 0.1)
    leanformer.apply(model, *edits)
    return model.eval()


def images() -> Tensor:
    return torch.randn(3, 3, 64, 64)


def difference(one: Tensor, other: Tensor) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("form", FORMS)
@torch.inference_mode()
def test_the_scores_stay_and_the_last_block_gives_what_is_read(form: str) -> None:
    model, x = deit(**FORMS[form]), images()
    expected = model(x)
    report = leanformer.apply(model, ClassTokenTail())[0]
    assert difference(model(x), expected) < 5e-6
    assert model.backbone(x)[0].shape[1] == report.details["tokens"] == (2 if "distilled" in form else 1)


@pytest.mark.parametrize("order", OTHERS)
@torch.inference_mode()
def test_other_edits_may_come_before_and_behind(order: str) -> None:
    x, edits = images(), OTHERS[order]
    tailed = deit(*edits)
    whole = deit(*(edit for edit in edits if not isinstance(edit, ClassTokenTail)))
    assert difference(tailed(x), whole(x)) < 5e-6
    assert tailed.backbone(x)[0].shape[1] == 1


@pytest.mark.parametrize("edits", [(FoldNorms(), ClassTokenTail()), (ClassTokenTail(), FoldNorms())], ids=str)
@torch.inference_mode()
def test_norms_fold_before_and_behind_it(edits: tuple[Edit, ...]) -> None:
    norms = Norms(block=RepBN(), final=LayerNorm())
    x = images()
    assert difference(deit(*edits, norms=norms)(x), deit(norms=norms)(x)) < 1e-5


def test_what_is_computed_and_counted_is_what_is_left() -> None:
    tokens, dim = 65, 64
    whole, tailed = (bench.count_parts(deit(*edits), 64) for edits in ((), (ClassTokenTail(),)))
    saved = {part: whole[part] - tailed[part] for part in whole if whole[part] != tailed[part]}
    others = tokens - 1
    assert saved == {
        "attention projections": others * 2 * dim**2,  # queries and the output
        "attention": 2 * others * tokens * dim,
        "MLP": others * 8 * dim**2,
    }
    gone = bench.count_parts(deit(RemoveAttention(blocks=(3,)), ClassTokenTail()), 64)
    assert whole["MLP"] - gone["MLP"] == others * 8 * dim**2


def test_gradients_are_those_of_the_whole_block() -> None:
    x, grads = images(), []
    for model in (deit(), deit(ClassTokenTail())):
        model(x).square().mean().backward()
        named = {name: parameter.grad for name, parameter in model.named_parameters()}
        last = "backbone.stages.0.blocks.3.attn.body"
        if f"{last}.q.weight" in named:
            for kind in ("weight", "bias"):
                rows = [named.pop(f"{last}.{name}.{kind}") for name in ("q", "kv")]
                named[f"{last}.qkv.{kind}"] = torch.cat(rows)
        grads.append(named)
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-7)


def test_it_is_saved_and_replayed(tmp_path: object) -> None:
    x = images()
    for edits in (OTHERS["merging before"], OTHERS["removal behind"], OTHERS["removal folded behind"]):
        model = deit(*edits)
        runs.save(model, tmp_path / "run")
        loaded = runs.load(tmp_path / "run")
        assert loaded.edits == list(edits)
        with torch.inference_mode():
            assert torch.equal(loaded(x), model(x))


@torch.inference_mode()
def test_the_last_stage_of_a_pvt_takes_it_once_its_projections_are_joined() -> None:
    torch.manual_seed(0)
    model, x = leanformer.build("pvt_nano").eval(), images()
    expected = model(x)
    leanformer.apply(model, FuseLinear(), ClassTokenTail())
    assert difference(model(x), expected) < 5e-6
    report = leanformer.apply(model, MergeTokens(r=3, start=2))[0]
    assert report.lines == ("backbone.stages.1.blocks: 65 tokens become 62, in 1 block",)
    assert model(x).isfinite().all()


def test_frozen_weights_stay_frozen() -> None:
    model = deit().requires_grad_(False)
    leanformer.apply(model, ClassTokenTail())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_dense_use_is_refused_by_name() -> None:
    model = deit(ClassTokenTail())
    message = "no map of 8 x 8: class_token_tail was applied"
    with pytest.raises(EditError, match=message):
        model.backbone.forward_features(images())
    with pytest.raises(EditError, match=message):
        PyramidFeatures(model.backbone, LayerNorm())(images())


def test_compiles_into_one_graph() -> None:
    model, x = deit(ClassTokenTail(), depth=1), images()
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("deit_nano", {"pool": "mean"}, "reads the mean over the map, not a class token"),
        ("swin_nano", {}, "reads the mean over the map"),
        ("deit_nano", {"attention": FocusedLinear()}, r"blocks\.3\.attn\.body is Focused: only softmax"),
        ("deit_nano", {"attention": Softmax(relative_position=True)}, r"blocks\.3\.attn\.body has a position"),
        ("pvt_nano", {}, r"stages\.1\.blocks\.1\.attn\.body projects keys apart from queries; fuse_linear joins"),
        ("deit_nano", {"depth": 0}, "ends with no transformer block"),
    ],
    ids=["mean", "swin", "linear", "relative position", "pvt", "no block"],
)
def test_models_that_read_or_mix_more_are_refused_and_untouched(name: str, changes: dict, message: str) -> None:
    model = leanformer.build(name, **changes)
    modules = list(model.modules())
    with pytest.raises(EditError, match=message):
        leanformer.apply(model, ClassTokenTail())
    assert list(model.modules()) == modules


def test_orders_that_make_no_sense_are_refused() -> None:
    with pytest.raises(EditError, match="computes no more than the tokens that are read already"):
        deit(ClassTokenTail(), ClassTokenTail())
    with pytest.raises(EditError, match=r"blocks\.3\.attn is diluted; remove it first"):
        deit(DiluteAttention(blocks=(3,)), ClassTokenTail())
    with pytest.raises(EditError, match="dilute before class_token_tail"):
        deit(ClassTokenTail(), DiluteAttention(blocks=(3,)))
    with pytest.raises(EditError, match="VisionTransformer is no image classifier"):
        leanformer.apply(leanformer.build("deit_nano").backbone, ClassTokenTail())
