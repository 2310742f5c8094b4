"""FoldNorms is exact everywhere it applies, says what it did, and refuses what would not be exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import leanformer
from leanformer.edits import FoldNorms
from leanformer.errors import EditError
from leanformer.layers.attention import AttentionConfig, SimplifiedLinear, Softmax
from leanformer.layers.norm import FrozenAffine, LayerNorm, Norms, PRepBN, ProgressiveNorm, RepBatchNorm, RepBN
from leanformer.layers.region import Window
from leanformer.layers.site import NormSite
from leanformer.models import ImageClassifier

SLICE = [
    "deit_tiny_prepbn",
    "deit_small_prepbn",
    "slab_deit_tiny",
    "slab_deit_small",
    "slab_swin_nano",
    "swin_tiny_prepbn",
    "slab_swin_tiny",
    pytest.param("slab_swin_small", marks=pytest.mark.slow),
    pytest.param("slab_swin_base", marks=pytest.mark.slow),
]
AFFINE = (RepBatchNorm, ProgressiveNorm, nn.BatchNorm1d, nn.BatchNorm2d, FrozenAffine)


def trained(name: str, gain: float = 1.0, **changes: object) -> ImageClassifier:
    """With statistics and parameters that training-mode passes and a shake would leave."""
    torch.manual_seed(1)
    model = leanformer.build(name, **changes).train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.weight.normal_(1.0, 0.1)
                module.bias.normal_(0.0, 0.1)
            if isinstance(module, RepBatchNorm):
                module.alpha.normal_(0.3, 0.1)
            if isinstance(module, ProgressiveNorm):
                module.set_scheduled(0.0)
            if isinstance(module, nn.Linear):
                module.weight.mul_(gain)
        size = model.config.image_size
        for _ in range(2):
            model(torch.randn(4, 3, size, size) * 1.5 + 0.5)
    return model.eval()


@pytest.mark.parametrize("name", SLICE)
def test_every_model_of_the_slice_folds_exactly_and_leaves_no_norm(name: str) -> None:
    model = trained(name)
    images = torch.randn(2, 3, model.config.image_size, model.config.image_size)
    with torch.inference_mode():
        before = model(images)
        leanformer.apply(model, FoldNorms())
        after = model(images)
    assert ((after - before).abs().max() / before.abs().max()).item() <= 1e-5
    assert not any(isinstance(m, (*AFFINE, nn.LayerNorm)) for m in model.modules())


@pytest.mark.parametrize("attention", [Softmax(relative_position=True), SimplifiedLinear()], ids=lambda a: a.kind)
def test_windows_that_pad_stay_exact(attention: AttentionConfig) -> None:
    norms = Norms(block=RepBN())
    # 17 x 17 places in windows of 4; larger weights, so that what a window pads with shows in the scores
    model = trained("swin_nano", 3.0, image_size=68, attention=attention, norms=norms, unmasked_shift=True)
    images = torch.randn(2, 3, 68, 68)
    before = model(images).detach()
    leanformer.apply(model, FoldNorms())
    torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)
    for module in model.modules():
        if isinstance(module, Window):
            module.pad.zero_()  # what naive folding does
    assert (model(images) - before).abs().max() > 0.01 * before.abs().max()


def test_a_norm_without_a_padding_vector_stays_as_a_fixed_affine_and_is_named() -> None:
    model = trained("swin_nano", image_size=72, norms=Norms(block=RepBN()))
    norm = model.backbone.stages[0].blocks[0].attn.norm
    with torch.no_grad():
        norm.bn.weight[0] = 0.0
        norm.alpha.zero_()
    images = torch.randn(2, 3, 72, 72)
    with torch.inference_mode():
        before = model(images)
        report = leanformer.apply(model, FoldNorms())[0]
        torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)
    assert report.details["frozen"] == ["backbone.stages.0.blocks.0.attn.norm"]
    assert model.edits == [FoldNorms(frozen=("backbone.stages.0.blocks.0.attn.norm",))]
    assert "backbone.stages.0.blocks.0.attn.norm cannot be folded exactly" in "\n".join(report.lines)
    fresh = ImageClassifier(model.config)
    model.edits[0].replay(fresh)
    assert fresh.state_dict().keys() == model.state_dict().keys()


def test_features_without_a_classifier_keep_their_last_norm_as_a_fixed_affine() -> None:
    model = trained("slab_swin_nano", num_classes=0)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
        report = leanformer.apply(model, FoldNorms())[0]
        torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)
    assert report.details["frozen"] == ["head.norm"]


class NormBeforeConv(nn.Module):
    def __init__(self, **options: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, **options)

    def norm_sites(self) -> tuple[NormSite, ...]:
        return (NormSite(owner=self, attribute="norm", after=(self.conv,)),)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x))


@pytest.mark.parametrize(
    ("options", "frozen"),
    [({}, []), ({"stride": 2}, []), ({"padding": 1}, ["norm"]), ({"groups": 4}, ["norm"])],
    ids=str,
)
def test_a_norm_folds_into_a_convolution_unless_zeros_are_padded_between(options: dict, frozen: list[str]) -> None:
    model = NormBeforeConv(**options).train()
    x = torch.randn(3, 4, 7, 9) * 2 + 1
    model(x)
    before = model.eval()(x).detach()
    report = leanformer.apply(model, FoldNorms())[0]
    assert report.details["frozen"] == frozen
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


def test_a_norm_that_still_blends_is_refused_and_the_model_is_untouched() -> None:
    model = trained("slab_swin_nano")
    model.head.norm.set_scheduled(0.25)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(EditError, match=r"head.norm still blends 0.250 of its start norm"):
        leanformer.apply(model, FoldNorms())
    assert model.edits == []
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_layer_norms_stay_beside_folded_norms_and_are_counted() -> None:
    model = trained("swin_nano", norms=Norms(block=PRepBN(), final=LayerNorm()))
    report = leanformer.apply(model, FoldNorms())[0]
    assert report.details["left"] == ["head.norm"]
    assert "1 norms stay (LayerNorm): they depend on each input" in report.lines


def test_folding_twice_is_refused() -> None:
    model = trained("slab_swin_nano")
    leanformer.apply(model, FoldNorms())
    with pytest.raises(EditError, match="nothing to fold, .* its norms are folded already"):
        leanformer.apply(model, FoldNorms())
