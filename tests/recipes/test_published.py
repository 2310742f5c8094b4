"""The recipes are the published trainings: their rates, step by step, and every other number of their tables."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from published import HERE

from leanformer.config import from_dict, to_dict
from leanformer.data.sampling import Sampling
from leanformer.data.synthetic import shapes
from leanformer.edits import DiluteAttention, RemoveAttention
from leanformer.layers.branch import DropPath
from leanformer.models import ImageClassifier
from leanformer.recipes import find_recipe, list_recipes, swiftformer
from leanformer.recipes.imagenet import AUGMENT
from leanformer.training import Clip, Constant, Groups, TrainConfig, fit
from leanformer.training.build import build_model
from leanformer.training.groups import parameter_groups
from leanformer.zoo import list_models

OUT = Path("runs/x")
PUBLISHED = [name for name in list_recipes() if re.search(r"_in(1|22)k$", name)]

# batch, epochs, rate of a full batch, weight decay, clip, EMA, stochastic depth
FLATTEN = {
    "pvt_tiny": (1024, 310, 1e-3, 0.05, None, None, 0.1),
    "pvt_small": (512, 310, 5e-4, 0.05, None, None, 0.1),
    "pvt_medium": (512, 310, 5e-4, 0.05, 1.0, None, 0.3),
    "pvt_base": (256, 310, 2.5e-4, 0.05, 1.0, None, 0.3),
    "pvt_v2_b0": (1024, 310, 1e-3, 0.05, None, None, 0.1),
    "pvt_v2_b1": (1024, 310, 1e-3, 0.05, None, None, 0.1),
    "pvt_v2_b2": (1024, 310, 1e-3, 0.05, None, None, 0.1),
    "pvt_v2_b3": (1024, 310, 1e-3, 0.05, 1.0, None, 0.3),
    "pvt_v2_b4": (512, 310, 5e-4, 0.05, 1.0, None, 0.3),
    "swin_tiny": (1024, 300, 1e-3, 0.05, 5.0, None, 0.2),
    "swin_small": (1024, 300, 1e-3, 0.05, 5.0, None, 0.3),
    "swin_base": (512, 300, 5e-4, 0.05, 5.0, None, 0.5),
    "swin_base_384": (256, 30, 1e-5, 1e-8, 5.0, None, 0.5),
    "cswin_tiny": (2048, 310, 2e-3, 0.05, None, 0.99984, 0.2),
    "cswin_small": (1024, 310, 1e-3, 0.05, None, 0.99984, 0.4),
    "cswin_base": (512, 310, 5e-4, 0.1, None, 0.99982, 0.5),
    "cswin_base_384": (256, 30, 2.5e-6, 1e-8, None, 0.99982, 0.7),
}
SLAB = {
    "deit_tiny_prepbn": (1024, 300, 1e-3, 0.05, 5.0, None, 0.0),
    "deit_small_prepbn": (1024, 300, 1e-3, 0.05, 5.0, None, 0.0),
    "slab_deit_tiny": (1024, 300, 1e-3, 0.05, 5.0, None, 0.0),
    "slab_deit_small": (1024, 300, 1e-3, 0.05, 5.0, None, 0.0),
    "swin_tiny_prepbn": (1024, 300, 1e-3, 0.05, 5.0, None, 0.1),
    "slab_swin_tiny": (1024, 300, 1e-3, 0.05, 5.0, None, 0.2),
    "slab_swin_small": (1024, 300, 1e-3, 0.05, 5.0, None, 0.3),
    "slab_swin_base": (512, 300, 5e-4, 0.05, 5.0, None, 0.5),
    "pvt_tiny_prepbn": (1024, 310, 1e-3, 0.05, None, None, 0.0),
    "pvt_small_prepbn": (512, 310, 5e-4, 0.05, None, None, 0.1),
    "pvt_medium_prepbn": (1024, 310, 1e-3, 0.05, 1.0, None, 0.3),
    "slab_pvt_tiny": (1024, 310, 1e-3, 0.05, None, None, 0.0),
    "slab_pvt_small": (512, 310, 5e-4, 0.05, None, None, 0.1),
    "slab_pvt_medium": (512, 310, 5e-4, 0.05, 1.0, None, 0.3),
    "slab_cswin_tiny": (2048, 310, 2e-3, 0.05, None, None, 0.1),
    "slab_cswin_small": (1024, 310, 1e-3, 0.05, None, None, 0.3),
}
AGC = Clip(limit=0.01, by="adaptive", eps=1e-3)
REST = {
    **{f"swiftformer_{size}_in1k": (2048, 300, 2e-3, 0.025, AGC, None, 0.0) for size in ("xs", "s", "l1", "l3")},
    "l2vit_tiny_in1k": (4096, 300, 4e-3, 0.05, None, 0.9999, 0.1),
    "l2vit_small_in1k": (4096, 300, 4e-3, 0.05, None, 0.9999, 0.2),
    "l2vit_base_in1k": (4096, 300, 4e-3, 0.05, None, 0.9999, 0.3),
    "l2vit_base_in22k": (1024, 90, 1e-3, 0.05, None, None, 0.2),
    "l2vit_base_in22k_in1k": (1024, 30, 4e-5, 1e-8, None, 0.9999, 0.2),
    "l2vit_base_384_in22k_in1k": (1024, 30, 4e-5, 1e-8, None, 0.9999, 0.2),
}
REMOVED = {
    "base": ((0, 1, 3, 4, 6), (0, 1, 3, 4, 6, 9)),
    "small": ((0, 2, 4), (0, 2, 4, 6)),
    "tiny": ((0, 2, 4), (0, 2, 4, 6)),
}
DILUTED = {
    f"deit_{size}_removed_{''.join(map(str, blocks))}_in1k": blocks for size, sets in REMOVED.items() for blocks in sets
}
REST |= dict.fromkeys(DILUTED, (2048, 400, 2e-3, 0.05, None, None, 0.1))
TABLE = {f"flatten_{name}_in1k": row for name, row in FLATTEN.items()}
TABLE |= {f"{name}_in1k": row for name, row in SLAB.items()} | REST


def run_of(name: str) -> TrainConfig:
    return find_recipe(name, OUT)


def model_of(name: str) -> ImageClassifier:
    """On paper, for a thousand classes."""
    with torch.device("meta"):
        spec = replace(run_of(name).model, weights=None)
        return build_model(spec, tuple(map(str, range(1000))))


def rate(config: TrainConfig, step: int, total: int) -> float:
    return config.optimizer.lr * config.lr(step, total, config.epochs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_numbers_of_the_published_table(name):
    config = run_of(name)
    batch, epochs, lr, weight_decay, clip, ema, drop_path = TABLE[name]
    assert (config.batch_size, config.epochs, config.clip, config.ema) == (batch, epochs, clip, ema)
    assert math.isclose(config.optimizer.lr, lr, rel_tol=1e-12)
    assert config.optimizer.weight_decay == weight_decay
    assert model_of(name).config.drop_path == drop_path
    assert config.precision == "fp32"
    assert config.label_smoothing == 0.1
    assert config.loss in (None, "cross_entropy")
    assert (config.optimizer.betas, config.optimizer.eps) == ((0.9, 0.999), 1e-8)
    usual = not name.startswith("swiftformer")  # whose groups are tested below, the usual ones in test_groups.py
    assert (config.optimizer.groups == Groups()) == usual
    assert config.evaluate_every == (10 if name == "l2vit_base_in22k" else 1 if usual else 20)


def test_every_published_training_has_a_recipe():
    assert sorted(TABLE) == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_augmentation_is_that_of_deit_but_in_the_small_swiftformers(name):
    config = run_of(name)
    if name != "swiftformer_xs_in1k":
        assert config.augment == AUGMENT
    if name in ("swiftformer_xs_in1k", "swiftformer_s_in1k"):
        assert config.mixing is None
    else:
        assert (config.mixing.mixup, config.mixing.cutmix, config.mixing.mode) == (0.8, 1.0, "batch")
        assert (config.mixing.probability, config.mixing.switch) == (1.0, 0.5)
    assert (AUGMENT.scale, AUGMENT.auto_augment) == ((0.08, 1.0), "rand-m9-mstd0.5-inc1")
    assert (AUGMENT.erase, AUGMENT.erase_mode, AUGMENT.erase_count, AUGMENT.hflip) == (0.25, "pixel", 1, 0.5)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("swin_tiny", "flatten_swin_t"),
        ("cswin_tiny", "flatten_cswin_t"),
        ("pvt_tiny", "flatten_pvt_t"),
        ("pvt_v2_b2", "flatten_pvt_t"),
        ("swin_base_384", "flatten_swin_b_384"),
        ("cswin_base_384", "flatten_cswin_b_384"),
    ],
)
def test_rates_of_flatten_equal_the_published_ones_at_every_step(name, key):
    expected = golden.load(HERE / "flatten/lr_schedules.npz")[1][f"extra_{key}.cosine"]
    config = run_of(f"flatten_{name}_in1k")
    ours = [rate(config, step, len(expected)) for step in range(len(expected))]
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("name", FLATTEN)
def test_flatten_squashes_images_for_evaluation(name):
    size, crop = {"swin_base_384": (384, 1.0), "cswin_base_384": (384, 0.875)}.get(name, (224, 0.875))
    preprocess = run_of(f"flatten_{name}_in1k").preprocess
    assert (preprocess.image_size, preprocess.crop, preprocess.fit) == ((size, size), crop, "squash")


SLAB_KEYS = {
    "deit_tiny_prepbn": ("deit_t_prepbn", 300_000),
    "deit_small_prepbn": ("deit_s_prepbn", 300_000),
    "slab_deit_tiny": ("slab_deit_t", 60_000),
    "slab_deit_small": ("slab_deit_s", 60_000),
    "swin_tiny_prepbn": ("swin_t_prepbn", 300_000),
    "slab_swin_tiny": ("slab_swin_t", 60_000),
    "slab_swin_small": ("slab_swin_s", 60_000),
    "pvt_tiny_prepbn": ("pvt_t_prepbn", 300_000),
    "pvt_small_prepbn": ("pvt_s_prepbn", 300_000),
    "slab_pvt_tiny": ("slab_pvt_t", 300_000),
    "slab_pvt_small": ("slab_pvt_s", 300_000),
    "slab_cswin_tiny": ("slab_cswin_t", 120_000),
}


@pytest.mark.parametrize("name", SLAB_KEYS)
def test_slab_trains_as_published(name):
    key, steps = SLAB_KEYS[name]
    told, config = golden.load(HERE / "slab/modules/recipes.npz")[0]["recipes"][key], run_of(f"{name}_in1k")
    assert config.batch_size == told["batch_size"] * told["world"]
    assert (config.epochs, config.clip) == (told["epochs"] + told["cooldown"], told["clip_grad"])
    total = config.epochs * told["n_iter"]
    late = {int(step) + 1: value for step, value in told["lr_at"].items()}
    np.testing.assert_allclose([rate(config, step, total) for step in late], list(late.values()), rtol=1e-9)
    (progress,) = config.schedules
    assert progress.what == "norm_progress"
    for step, value in ((0, 1.0), (1, 1 - 1 / steps), (steps - 1, 1 / steps), (steps, 0.0), (total, 0.0)):
        assert math.isclose(progress.schedule(step, total), value, abs_tol=1e-9)


@pytest.mark.parametrize("name", SLAB)
def test_slab_ends_with_ten_passes_for_the_statistics_alone(name):
    (last,) = run_of(f"{name}_in1k").finish
    assert (last.passes, last.momentum, last.augmented) == (10, 0.1, True)
    assert last.batches > 1_281_167 // run_of(f"{name}_in1k").batch_size


def test_rates_of_swiftformer_are_an_epoch_late_as_published():
    expected = golden.load(HERE / "swiftformer/training_pieces.npz")[1]["extra_lr_per_epoch"]
    config = run_of("swiftformer_l1_in1k")
    ours = [rate(config, 625 * epoch + 300, 625 * 300) for epoch in range(300)]
    np.testing.assert_allclose(ours, expected, rtol=1e-9)
    meant = replace(config, lr=swiftformer.AS_INTENDED)
    assert [rate(meant, 625 * epoch, 625 * 300) for epoch in range(299)] == ours[1:]


def test_swiftformer_decays_layer_scales_and_learns_from_a_regnet():
    config = run_of("swiftformer_xs_in1k")
    decayed, spared = parameter_groups(model_of("swiftformer_xs_in1k"), 1.0, 0.025, config.optimizer.groups)
    assert sum(name.endswith("gamma") for name, _ in decayed["params"]) > 20
    assert not any(name.endswith(("gamma", "token_weight")) for name, _ in spared["params"])
    assert config.distill is not None
    assert (config.distill.teacher, config.distill.target) == ("timm/regnety_160.deit_in1k", "hard")
    assert (config.distill.share, config.sampling, config.evaluate_every) == (0.5, Sampling(repeat=3), 20)
    assert config.augment == replace(AUGMENT, auto_augment=None, color_jitter=0.4)


@pytest.mark.parametrize(
    ("name", "key", "steps"),
    [
        ("l2vit_base_in1k", "pretrain_1k", 312),
        ("l2vit_base_in22k_in1k", "finetune", 1251),
        ("l2vit_base_384_in22k_in1k", "finetune", 1251),
    ],
)
def test_rates_of_l2vit_equal_the_published_ones(name, key, steps):
    expected = golden.load(HERE / "l2vit/training_pieces.npz")[1][f"extra_lr_{key}_every97"]
    config = run_of(name)
    total = config.epochs * steps
    np.testing.assert_allclose([rate(config, step, total) for step in range(0, total, 97)], expected, rtol=1e-9)


def test_l2vit_decays_temperatures_and_passes_batches_in_parts():
    decayed, _ = parameter_groups(model_of("l2vit_tiny_in1k"), 1.0, 0.05)
    assert sum(name.endswith("temperature") for name, _ in decayed["params"]) == 6
    parts = {name: run_of(name).accumulate for name in PUBLISHED if name.startswith("l2vit")}
    assert [parts[f"l2vit_{name}"] for name in ("base_in1k", "base_in22k", "base_384_in22k_in1k")] == [4, 1, 2]


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("flatten_swin_base_384_in1k", "flatten_swin_base.in1k"),
        ("flatten_cswin_base_384_in1k", "runs/flatten_cswin_base_in1k"),
        ("l2vit_base_in22k_in1k", "l2vit_base.in22k"),
        ("l2vit_base_384_in22k_in1k", "l2vit_base.in22k"),
    ],
)
def test_fine_tuning_names_the_weights_that_it_starts_from(name, weights):
    assert run_of(name).model.weights == weights


@pytest.mark.parametrize("name", DILUTED)
def test_attention_fades_out_and_is_removed_as_published(name):
    config, blocks = run_of(name), DILUTED[name]
    assert config.model.weights == f"{config.model.name}.in1k"
    assert (config.model.edits, config.finish) == (
        (DiluteAttention(blocks=blocks),),
        (RemoveAttention(blocks=blocks),),
    )
    assert (config.sampling, config.mixing.mode, config.distill) == (Sampling(repeat=3), "batch", None)
    (fading,) = config.schedules
    arrays = golden.load(HERE / "attention_removal/module_lambda_schedule.npz")[1]
    told = dict(zip(arrays["extra_epoch"].tolist(), arrays["extra_lambda"], strict=True))
    ours = [fading.schedule(625 * epoch + 300, 625 * 400, 400) for epoch in range(400)]
    np.testing.assert_allclose(ours, [told[epoch] for epoch in range(400)], rtol=1e-9)
    assert fading.what == "attention_share"
    rates = golden.load(HERE / "attention_removal/module_recipe.npz")[1]["extra_lr_used"]
    np.testing.assert_allclose([rate(config, 625 * e + 300, 625 * 400) for e in range(400)], rates, rtol=1e-9)
    depth = [module.rate for module in model_of(name).modules() if isinstance(module, DropPath)]
    assert depth[::2] == depth[1::2] == pytest.approx([0.1] * 12 if "base" in name else np.linspace(0, 0.1, 12))


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_a_value_that_survives_its_file(name):
    config = run_of(name)
    assert from_dict(to_dict(config), TrainConfig) == config
    assert config.model.name in list_models()


TINY = ("slab_deit_tiny_in1k", "flatten_pvt_v2_b0_in1k", "swiftformer_xs_in1k", "l2vit_tiny_in1k")


@pytest.mark.parametrize("name", TINY)
def test_a_recipe_takes_a_step(name, tmp_path):
    config = run_of(name)
    changes = {"image_size": 64, "drop_path": 0.0}
    small = replace(
        config,
        model=replace(config.model, overrides=tuple(changes.items())),
        out=tmp_path / "run",
        epochs=1,
        batch_size=8,
        lr=Constant(value=0.1),
        distill=None,
        finish=tuple(replace(step, passes=1, batches=1) for step in config.finish),
        workers=0,
        device="cpu",
    )
    train, val = shapes(8, 4, 64, seed=0), shapes(4, 4, 64, seed=1)
    assert fit(small, data=(train, val)).steps == 1
