"""Any attention x any norm x any backbone: trains, runs at other sizes, folds, saves and loads. New ones are picked up
here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import leanformer
from leanformer.api import list_models
from leanformer.config import registered_kinds
from leanformer.errors import EditError
from leanformer.layers.attention import AttentionConfig
from leanformer.layers.norm import NormConfig, Norms
from leanformer.models import BackboneConfig, ImageClassifier, find


def configs_of(base: type) -> list:
    return [cls() for cls in registered_kinds(base).values()]


BACKBONES = sorted({find(name).kind: name for name in reversed(list_models("*_nano"))}.values())  # one of each kind
combinations = [
    pytest.param(backbone, attention, norm, id=f"{backbone}-{attention.kind}-{norm.kind}")
    for backbone in BACKBONES
    for attention in configs_of(AttentionConfig)
    for norm in configs_of(NormConfig)
]


def nano(backbone: str, attention: AttentionConfig, norm: NormConfig, **changes: object) -> ImageClassifier:
    torch.manual_seed(0)
    config: BackboneConfig = find(backbone)
    config = replace(config, attention=attention, norms=Norms(block=norm), num_classes=5, image_size=32, **changes)
    return ImageClassifier(config)


def finish_schedules(model: torch.nn.Module) -> None:
    for module in model.modules():
        if hasattr(module, "scheduled"):
            module.set_scheduled(0.0)


def test_every_backbone_has_a_nano_variant() -> None:
    kinds = {kind for kind, cls in registered_kinds(BackboneConfig).items() if cls.build is not BackboneConfig.build}
    assert {find(name).kind for name in list_models("*_nano")} == kinds


@pytest.mark.parametrize(("backbone", "attention", "norm"), combinations)
def test_it_trains(backbone: str, attention: AttentionConfig, norm: NormConfig) -> None:
    model = nano(backbone, attention, norm, drop_path=0.3).train()
    for module in model.modules():
        if hasattr(module, "scheduled"):
            module.set_scheduled(0.5)
    model(torch.randn(6, 3, 32, 32)).square().mean().backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("backbone", "attention", "norm"), combinations)
def test_it_trains_and_evaluates_in_half_precision_like_in_full(
    backbone: str, attention: AttentionConfig, norm: NormConfig, dtype: torch.dtype
) -> None:
    model = nano(backbone, attention, norm).train()
    for module in model.modules():
        if hasattr(module, "scheduled"):
            module.set_scheduled(0.5)
    images = torch.randn(6, 3, 32, 32)
    for mode in (True, False):
        expected = model.train(mode)(images)
        with torch.autocast("cpu", dtype):
            scores = model(images).float()
        torch.testing.assert_close(scores, expected, rtol=0, atol=0.05 * expected.abs().max().item())
        scores.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("backbone", "attention", "norm"), combinations)
def test_it_gives_one_map_per_stage_at_odd_sizes(backbone: str, attention: AttentionConfig, norm: NormConfig) -> None:
    model = nano(backbone, attention, norm).eval()
    with torch.inference_mode():
        maps = model.backbone.forward_features(torch.randn(2, 3, 40, 72))
        assert model(torch.randn(3, 3, 40, 72)).shape == (3, 5)
    for image, info in zip(maps, model.backbone.feature_info, strict=True):
        assert image.shape == (2, info.channels, -(-40 // info.stride), -(-72 // info.stride))
        assert image.isfinite().all()


@pytest.mark.parametrize(("backbone", "attention", "norm"), combinations)
def test_it_folds_exactly_or_refuses_and_survives_a_file(
    backbone: str, attention: AttentionConfig, norm: NormConfig, tmp_path: Path
) -> None:
    model = nano(backbone, attention, norm).train()
    for _ in range(3):
        model(torch.randn(8, 3, 32, 32) * 2 + 1)
    model.eval()
    finish_schedules(model)
    # 40 x 72 makes windows pad, where naive folding is wrong by O(1)
    images = [torch.randn(3, 3, 32, 32), torch.randn(2, 3, 40, 72)]
    with torch.inference_mode():
        before = [model(x) for x in images]
    stays = norm.kind in ("layer_norm", "rms_norm")  # they depend on each input
    if stays and not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
        with pytest.raises(EditError, match="nothing to fold, this model has (LayerNorm|RMSNorm)"):
            leanformer.apply(model, leanformer.FoldNorms())
    else:
        report = leanformer.apply(model, leanformer.FoldNorms())[0]
        assert report.details["folded"] and not report.details["frozen"]
        assert bool(report.details["left"]) == stays
    with torch.inference_mode():
        for x, wanted in zip(images, before, strict=True):
            torch.testing.assert_close(model(x), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    leanformer.save(model, tmp_path / "run")
    loaded = leanformer.load(tmp_path / "run")
    assert loaded.config == model.config and loaded.edits == model.edits
    with torch.inference_mode():
        for x in images:
            assert torch.equal(loaded(x), model(x))
