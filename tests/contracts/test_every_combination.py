"""Any attention x any norm x any backbone: trains, runs at other sizes, folds, saves and loads, exports and compiles.
New ones are picked up here.

What is quick is asked of every combination. Tracing is asked of a part of them, and of all in the slow tests.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

import leanformer
from leanformer.api import list_models
from leanformer.config import from_dict, registered_kinds, to_dict
from leanformer.errors import ConfigError, EditError
from leanformer.export.program import trace
from leanformer.layers.attention import AttentionConfig, Softmax
from leanformer.layers.norm import FrozenAffine, NormConfig, Norms
from leanformer.models import BackboneConfig, ImageClassifier, find


def configs_of(base: type) -> list:
    return [cls() for cls in registered_kinds(base).values()]


BACKBONES = sorted({find(name).kind: name for name in reversed(list_models("*_nano"))}.values())  # one of each kind
ATTENTIONS = [*configs_of(AttentionConfig), Softmax(relative_position=True)]
NORMS = configs_of(NormConfig)

REFUSED = {
    ("pvt", "softmax with relative positions"): "needs keys on the map of the queries",
    ("pvt_v2", "softmax with relative positions"): "needs keys on the map of the queries",
}
"""Pairs of a backbone's kind and an attention that cannot work, and why."""

FREEZES = {"pvt_v2", "swiftformer", "l2vit"}
"""Kinds of backbones with norms in front of zero-padded convolutions, which stay as a fixed scale and shift."""

SIZES = ((32, 32), (40, 72))
"""At the second, some maps have odd sides, where windows, stripes and merging have to pad."""


class Combination(NamedTuple):
    """One model of the matrix."""

    backbone: str
    attention: AttentionConfig
    norm: NormConfig

    def __str__(self) -> str:
        return f"{self.backbone}-{name_of(self.attention).replace(' ', '_')}-{self.norm.kind}"


def name_of(attention: AttentionConfig) -> str:
    return f"{attention.kind}{' with relative positions' if attention == Softmax(relative_position=True) else ''}"


def refusal(backbone: str, attention: AttentionConfig) -> str | None:
    return REFUSED.get((find(backbone).kind, name_of(attention)))


EVERY = [Combination(*parts) for parts in product(BACKBONES, ATTENTIONS, NORMS) if not refusal(parts[0], parts[1])]


def covering() -> list[Combination]:
    """Half of the pairs of an attention with a backbone, every other one of each; the norms in turn."""
    chosen = []
    for row, backbone in enumerate(BACKBONES):
        fitting = [attention for attention in ATTENTIONS if not refusal(backbone, attention)]
        for column, attention in list(enumerate(fitting))[row % 2 :: 2]:
            chosen.append(Combination(backbone, attention, NORMS[(row + column) // 2 % len(NORMS)]))
    return chosen


def sample() -> list[Combination]:
    """Each backbone once, with the attentions and norms in turn."""
    chosen = []
    for row, backbone in enumerate(BACKBONES):
        fitting = [attention for attention in ATTENTIONS if not refusal(backbone, attention)]
        chosen.append(Combination(backbone, fitting[row % len(fitting)], NORMS[row % len(NORMS)]))
    return chosen


def slow_but(quick: list[Combination]) -> list:
    """Every combination, all but the `quick` ones left to the slow tests."""
    chosen = {str(combination) for combination in quick}
    return [pytest.param(each, id=str(each), marks=() if str(each) in chosen else pytest.mark.slow) for each in EVERY]


every_combination = pytest.mark.parametrize("combination", EVERY, ids=str)


def nano(combination: Combination, **changes: object) -> ImageClassifier:
    torch.manual_seed(0)
    base: BackboneConfig = find(combination.backbone)
    norms = Norms(block=combination.norm)
    config = replace(base, attention=combination.attention, norms=norms, num_classes=5, image_size=32, **changes)
    return ImageClassifier(config)


def images(batch: int, size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.randn(batch, 3, *size)


def set_schedules(model: nn.Module, value: float) -> None:
    for module in model.modules():
        if hasattr(module, "scheduled"):
            module.set_scheduled(value)


def trained(combination: Combination) -> ImageClassifier:
    """With statistics that differ from their start, in eval mode."""
    model = nano(combination).train()
    for _ in range(3):
        model(images(8) * 2 + 1)
    set_schedules(model, 0.0)
    return model.eval()


def assert_gradients(model: nn.Module) -> None:
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_every_backbone_has_a_nano_variant() -> None:
    kinds = {kind for kind, cls in registered_kinds(BackboneConfig).items() if cls.build is not BackboneConfig.build}
    assert {find(name).kind for name in list_models("*_nano")} == kinds


def test_the_part_that_is_traced_by_default_holds_everything_in_several_company() -> None:
    chosen = covering()
    for backbone in BACKBONES:
        assert len({c.norm for c in chosen if c.backbone == backbone}) >= 2
        assert len({name_of(c.attention) for c in chosen if c.backbone == backbone}) >= len(ATTENTIONS) // 2 - 1
    for attention in ATTENTIONS:
        assert len({c.backbone for c in chosen if c.attention == attention}) >= len(BACKBONES) // 2 - 1
    assert {c.norm for c in chosen} == set(NORMS)


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.kind)
@pytest.mark.parametrize(
    ("backbone", "attention"),
    [pair for pair in product(BACKBONES, ATTENTIONS) if refusal(*pair)],
    ids=lambda part: part if isinstance(part, str) else name_of(part),
)
def test_what_cannot_work_is_refused_with_a_reason(backbone: str, attention: AttentionConfig, norm: NormConfig) -> None:
    with pytest.raises(ConfigError, match=refusal(backbone, attention)):
        nano(Combination(backbone, attention, norm))


@every_combination
def test_it_trains(combination: Combination) -> None:
    model = nano(combination, drop_path=0.3).train()
    set_schedules(model, 0.5)
    model(images(6)).square().mean().backward()
    assert_gradients(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@every_combination
def test_it_trains_and_evaluates_in_half_precision_like_in_full(combination: Combination, dtype: torch.dtype) -> None:
    model = nano(combination).train()
    set_schedules(model, 0.5)
    batch = images(6)
    for mode in (True, False):
        expected = model.train(mode)(batch)
        with torch.autocast("cpu", dtype):
            scores = model(batch).float()
        torch.testing.assert_close(scores, expected, rtol=0, atol=0.05 * expected.abs().max().item())
        scores.square().mean().backward()
    assert_gradients(model)


@every_combination
def test_it_gives_one_map_per_stage_at_odd_sizes(combination: Combination) -> None:
    model = nano(combination).eval()
    for height, width in SIZES:
        with torch.inference_mode():
            maps = model.backbone.forward_features(images(2, (height, width)))
            scores = model(images(3, (height, width)))
        assert scores.shape == (3, 5) and scores.isfinite().all()
        grids = model.backbone.feature_grids((height, width))
        channels = [info.channels for info in model.backbone.feature_info]
        assert [tuple(image.shape) for image in maps] == [
            (2, c, *grid) for c, grid in zip(channels, grids, strict=True)
        ]
        assert all(image.isfinite().all() for image in maps)
    with torch.inference_mode():  # sides that no patch divides
        assert model(images(2, (37, 71))).isfinite().all()


@every_combination
def test_it_folds_exactly_or_says_what_stays_and_survives_a_file(combination: Combination, tmp_path: Path) -> None:
    model = trained(combination)
    batches = [images(2, size) for size in SIZES]
    with torch.inference_mode():
        before = [model(batch) for batch in batches]
    fold(model, stays=combination.norm.kind in ("layer_norm", "rms_norm"))
    with torch.inference_mode():
        for batch, wanted in zip(batches, before, strict=True):
            assert_close(model(batch), wanted)
    leanformer.save(model, tmp_path / "run")
    loaded = leanformer.load(tmp_path / "run")
    assert loaded.config == model.config and loaded.edits == model.edits
    with torch.inference_mode():
        assert all(torch.equal(loaded(batch), model(batch)) for batch in batches)


def fold(model: ImageClassifier, stays: bool) -> None:
    """Fold the norms; those that depend on each input stay."""
    if stays and not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        with pytest.raises(EditError, match="nothing to fold, this model has (LayerNorm|RMSNorm)"):
            leanformer.apply(model, leanformer.FoldNorms())
        return
    report = leanformer.apply(model, leanformer.FoldNorms())[0]
    frozen = [name for name, module in model.named_modules() if isinstance(module, FrozenAffine)]
    assert report.details["folded"]
    assert sorted(report.details["frozen"]) == sorted(frozen)
    assert all(any(name in line for line in report.lines) for name in frozen)
    assert not frozen or model.config.kind in FREEZES
    assert bool(report.details["left"]) == stays
    assert not any(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in model.modules())


@every_combination
def test_its_weights_and_its_config_come_back(combination: Combination) -> None:
    model = nano(combination).eval()
    config = from_dict(json.loads(json.dumps(to_dict(model.config))), BackboneConfig)
    assert config == model.config
    twin = ImageClassifier(config).eval()
    twin.load_state_dict(model.state_dict())
    batch = images(2)
    with torch.inference_mode():
        assert torch.equal(twin(batch), model(batch))


@pytest.mark.parametrize("combination", slow_but(covering()))
def test_it_is_traced_for_export_with_any_batch(combination: Combination) -> None:
    model = trained(combination)
    program = trace(model, images(1), dynamic_batch=True).module()
    for batch in (images(1), images(3)):
        with torch.inference_mode():
            assert_close(program(batch), model(batch))


@pytest.mark.parametrize("combination", slow_but(sample()))
def test_it_compiles_into_one_graph(combination: Combination) -> None:
    torch._dynamo.reset()
    model = trained(combination)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    batch = images(2)
    with torch.inference_mode():
        assert_close(compiled(batch), model(batch))


@pytest.mark.slow
@pytest.mark.parametrize("combination", covering(), ids=str)
def test_it_compiles_into_one_graph_with_its_gradients(combination: Combination) -> None:
    torch._dynamo.reset()
    model = nano(combination).train()
    set_schedules(model, 0.5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(images(4)).square().mean().backward()
    assert_gradients(model)


@pytest.mark.slow
@pytest.mark.parametrize("combination", sample(), ids=str)
def test_it_computes_the_same_compiled_to_machine_code(combination: Combination) -> None:
    torch._dynamo.reset()
    model = trained(combination)
    compiled = torch.compile(model, fullgraph=True)
    for size in SIZES:
        batch = images(2, size)
        with torch.inference_mode():
            assert_close(compiled(batch), model(batch), tolerance=1e-4)
