"""Swapped norms begin where the model was, as far as they can, and say how far; frozen ones stay what they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import leanformer
from leanformer.config import registered_kinds
from leanformer.edits import FoldNorms, FreezeNorms, SwapNorm
from leanformer.errors import ConfigError, EditError
from leanformer.layers.norm import (
    BatchNorm,
    FrozenAffine,
    LayerNorm,
    NormConfig,
    Norms,
    PRepBN,
    ProgressiveNorm,
    RepBN,
    RMSNorm,
    config_of,
)
from leanformer.models import ImageClassifier, find

NANO = ["deit_nano", "swin_nano", "pvt_nano", "pvt_v2_nano", "cswin_nano", "l2vit_nano", "swiftformer_nano"]
LAYER_NORMED = NANO[:-1]
IMAGES = torch.randn(3, 3, 40, 40, generator=torch.Generator().manual_seed(5))


def nano(name: str, norms: Norms | None = None, **changes: object) -> ImageClassifier:
    config = replace(find(name), image_size=40, drop_path=0.0, **changes)
    return ImageClassifier(config if norms is None else replace(config, norms=norms))


def shaken(model: ImageClassifier) -> ImageClassifier:
    """With norms that differ from their start: scales, shifts, alphas, statistics."""
    with torch.no_grad():
        for name, value in (*model.named_parameters(), *model.named_buffers()):
            of_norm = any(part in name for part in (".norm", ".bn", "alpha"))
            if of_norm and value.ndim == 1 and value.is_floating_point():
                value.add_(0.2 * torch.rand_like(value))
    return model


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("name", LAYER_NORMED)
@pytest.mark.parametrize("where", [("block",), ("block", "final")], ids="+".join)
def test_a_model_with_swapped_norms_trains_on_from_where_it_was(name: str, where: tuple) -> None:
    if name == "pvt_v2_nano":
        where = (*where, "downsample", "reduction")
    model = shaken(nano(name)).train()
    before = model(IMAGES)
    before.square().sum().backward()
    gradients = {k: p.grad.clone() for k, p in model.named_parameters() if "norm" not in k}
    model.zero_grad()
    report = leanformer.apply(model, SwapNorm(where=where))[0]
    after = model(IMAGES)
    assert torch.equal(after, before)
    after.square().sum().backward()
    for key, parameter in model.named_parameters():
        if key in gradients:
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-4, atol=1e-6)
    assert set(report.details["carried"].values()) == {"start"}
    assert "in train mode, at norm_progress 1, the model computes what it did" in "\n".join(report.lines)
    with torch.inference_mode():  # what the report says: eval mode has no statistics yet
        assert not torch.allclose(model.eval()(IMAGES), before, rtol=1e-3, atol=1e-3 * before.abs().max().item())


def test_the_norm_that_starts_keeps_its_eps() -> None:
    model = nano("deit_nano")
    leanformer.apply(model, SwapNorm(to=PRepBN(start=LayerNorm(eps=1e-5))))
    assert config_of(model.backbone.stages[0].blocks[0].attn.norm) == PRepBN(start=LayerNorm(eps=1e-6))


BATCH_TYPES = [BatchNorm(), RepBN(), BatchNorm(eps=1e-3), PRepBN()]


PAIRS = [(old, to) for old in (BatchNorm(), RepBN(eps=1e-4), PRepBN()) for to in BATCH_TYPES if old != to]


@pytest.mark.parametrize(("old", "to"), PAIRS, ids=lambda c: f"{c.kind}-{c.eps}")
def test_between_batch_norms_eval_mode_stays(old: NormConfig, to: NormConfig) -> None:
    model = nano("swin_nano", Norms(block=old)).train()
    model(IMAGES * 2 + 1)
    shaken(model).eval()
    with torch.inference_mode():
        before = model(IMAGES)
        report = leanformer.apply(model, SwapNorm(to=to, where=("block", "downsample", "final", "stem")))[0]
        torch.testing.assert_close(model(IMAGES), before, rtol=1e-5, atol=1e-5)
    assert "the function of eval mode and the statistics are kept" in report.lines
    assert all(isinstance(config_of(item), type(to)) for item in model.modules() if isinstance(item, ProgressiveNorm))


def test_a_batch_norm_becomes_rep_bn_in_train_mode_too() -> None:
    model = nano("swiftformer_nano").train()
    model(IMAGES)
    twin = ImageClassifier(model.config)
    twin.load_state_dict(model.state_dict())
    leanformer.apply(model, SwapNorm(to=RepBN()))
    torch.testing.assert_close(model.train()(IMAGES), twin.train()(IMAGES), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("to", [RMSNorm(), RepBN(), BatchNorm()], ids=lambda c: c.kind)
def test_scales_and_shifts_are_carried_where_the_function_is_not(to: NormConfig) -> None:
    model = shaken(nano("deit_nano"))
    old = model.backbone.stages[0].blocks[1].mlp.norm
    report = leanformer.apply(model, SwapNorm(to=to))[0]
    new = model.backbone.stages[0].blocks[1].mlp.norm
    inner = getattr(new, "bn", new)
    assert type(config_of(new)) is type(to)
    assert torch.equal(inner.weight, old.weight)
    assert getattr(inner, "bias", None) is None or torch.equal(inner.bias, old.bias)
    assert "alpha" not in dict(new.named_parameters()) or new.alpha.item() == 0.0
    assert report.lines[-1] == "scales and shifts are carried over, the function is not: train the model"


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("swin_nano", SwapNorm(to=LayerNorm()), "swap_norm: backbone.stages.0.blocks.0.attn.norm is LayerNorm already"),
        (
            "deit_nano",
            SwapNorm(where=("block", "stem")),
            "swap_norm: this model has no norm at 'stem'; its norms are at block, final",
        ),
    ],
)
def test_a_swap_that_cannot_be_is_refused_and_changes_nothing(name: str, edit: SwapNorm, message: str) -> None:
    model = nano(name)
    before, modules = statistics(model), str(model)
    with pytest.raises(EditError, match=message):
        leanformer.apply(model, edit)
    assert str(model) == modules and model.edits == []
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_one_norm_that_is_there_already_keeps_the_others_from_being_swapped() -> None:
    model = nano("swin_nano", Norms(block=LayerNorm(), final=PRepBN()))
    with pytest.raises(EditError, match="head.norm is PRepBN already; leave out 'final'"):
        leanformer.apply(model, SwapNorm(where=("block", "final")))
    assert isinstance(model.backbone.stages[0].blocks[0].attn.norm, nn.LayerNorm)


def test_a_folded_norm_is_not_swapped() -> None:
    model = nano("swin_nano", Norms(block=RepBN())).eval()
    leanformer.apply(model, FoldNorms())
    with pytest.raises(EditError, match=r"attn.norm has been folded or frozen, so there is no norm left to swap"):
        leanformer.apply(model, SwapNorm())


@pytest.mark.parametrize("where", [(), ("block", "block")], ids=len)
def test_places_are_named_each_once(where: tuple) -> None:
    with pytest.raises(ConfigError, match="where names places, each once"):
        SwapNorm(where=where)


def test_an_unknown_place_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="where"):
        SwapNorm(where=("blocks",))


@pytest.mark.parametrize("name", NANO)
@pytest.mark.parametrize("norm", [BatchNorm(), RepBN(), PRepBN()], ids=lambda c: c.kind)
def test_frozen_norms_stay_in_train_mode_and_fold_later(name: str, norm: NormConfig) -> None:
    model = nano(name, Norms(block=norm)).train()
    model(IMAGES * 2 + 1)
    for module in shaken(model).modules():
        if isinstance(module, ProgressiveNorm):
            module.set_scheduled(0.0)
    with torch.inference_mode():
        before = model.eval()(IMAGES)
        report = leanformer.apply(model, FreezeNorms())[0]
        torch.testing.assert_close(model(IMAGES), before, rtol=1e-6, atol=1e-6)
        assert torch.equal(model.train()(IMAGES), model.eval()(IMAGES))  # no statistics of the batch
        frozen = [module for module in model.modules() if isinstance(module, FrozenAffine)]
        assert len(frozen) == len(report.details["frozen"])
        leanformer.apply(model, FoldNorms())
        torch.testing.assert_close(model(IMAGES), before, rtol=1e-5, atol=1e-5)
        assert sum(isinstance(module, FrozenAffine) for module in model.modules()) < len(frozen) / 2


def test_nothing_to_freeze_and_unfinished_norms_are_refused() -> None:
    with pytest.raises(EditError, match=r"nothing to freeze, this model has LayerNorm, .* or the edit swap_norm"):
        leanformer.apply(nano("deit_nano"), FreezeNorms())
    model = nano("deit_nano", Norms(block=PRepBN()))
    with pytest.raises(EditError, match="attn.norm still blends 1.000 of its start norm, so freezing would change"):
        leanformer.apply(model, FreezeNorms())
    assert not any(isinstance(module, FrozenAffine) for module in model.modules())
    with pytest.raises(EditError, match="nothing to freeze, this model has no norm, or its norms are folded already"):
        leanformer.apply(nano("swiftformer_nano"), FreezeNorms(), FreezeNorms())


def test_every_norm_can_be_swapped_in() -> None:
    for config in (cls() for cls in registered_kinds(NormConfig).values()):
        model = nano("deit_nano", Norms(block=RMSNorm() if config == LayerNorm() else LayerNorm()))
        leanformer.apply(model, SwapNorm(to=config, where=("block", "final")))
        assert model.train()(IMAGES).isfinite().all()
