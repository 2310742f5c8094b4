"""The search for attention layers to remove chooses as the published tool does on its toy network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden
import pytest
import torch

import leanformer
from leanformer.edits import RemoveAttention
from leanformer.edits.plans import Plan, TransferEntropy, plan_attention_removal
from leanformer.models import ImageClassifier
from leanformer.models.vit import ViT

META, _ = golden.load(Path(__file__).parents[1] / "golden" / "attention_removal" / "module_entropy.npz")
IMAGES = torch.from_numpy(golden.example_input((260, 3, 64, 64)))


def batches() -> list[torch.Tensor]:
    return list(IMAGES.split(52))


def published_weights() -> dict[str, torch.Tensor]:
    """Those of the toy: its keys are the ones of any ViT of its shape."""
    dim, blocks = 48, range(6)
    shapes = {"cls_token": (1, 1, dim), "pos_embed": (1, 17, dim), "patch_embed.proj.weight": (dim, 3, 16, 16)}
    shapes |= {"patch_embed.proj.bias": (dim,), "head.weight": (10, dim), "head.bias": (10,)}
    linears = {
        "attn.qkv": (3 * dim, dim),
        "attn.proj": (dim, dim),
        "mlp.fc1": (4 * dim, dim),
        "mlp.fc2": (dim, 4 * dim),
    }
    for prefix in ("norm", *(f"blocks.{i}.norm{n}" for i in blocks for n in (1, 2))):
        shapes |= {f"{prefix}.weight": (dim,), f"{prefix}.bias": (dim,)}
    for i in blocks:
        for name, shape in linears.items():
            shapes |= {f"blocks.{i}.{name}.weight": shape, f"blocks.{i}.{name}.bias": shape[:1]}
    return {key: torch.from_numpy(golden.fill(key, shape)) for key, shape in shapes.items()}


@pytest.fixture(scope="module")
def toy() -> ImageClassifier:
    config = ViT(image_size=64, patch_size=16, dim=48, depth=6, num_heads=3, num_classes=10)
    return leanformer.load(config, weights=published_weights())


@pytest.fixture(scope="module")
def by_logits(toy: ImageClassifier) -> Plan:
    return plan_attention_removal(toy, TransferEntropy(batches), num_layers=4)


@pytest.fixture(scope="module")
def by_features(toy: ImageClassifier) -> Plan:
    return plan_attention_removal(toy, TransferEntropy(batches, output="features"), num_layers=4)


def rows(variant: str) -> dict[str, dict[str, Any]]:
    return {",".join(map(str, row["skipped"])): row for row in META["rows"] if row["variant"] == variant}


def test_the_greedy_choice_and_every_transfer_entropy_are_the_published_ones(by_logits: Plan) -> None:
    assert by_logits.edit == RemoveAttention(blocks=(1, 2, 4, 5))
    chosen: set[str] = set()
    for number, expected in enumerate(META["greedy"], start=1):
        trials = [trial for trial in by_logits.trials if trial.round == number]
        found = {(set(trial.changes) - chosen).pop(): trial.score for trial in trials}
        assert found == pytest.approx(expected["transfer_entropy"], abs=1e-4)  # theirs are float32
        chosen.add(str(expected["chosen"]))
    assert by_logits.changes == tuple(sorted(chosen))
    assert by_logits.unit == "bits"


def test_the_entropies_of_scores_are_the_published_ones(by_logits: Plan) -> None:
    published = rows("skip")
    assert by_logits.full["entropy"] == pytest.approx(published[""]["head"], abs=1e-4)
    compared = [trial for trial in by_logits.trials if ",".join(trial.changes) in published]
    assert len(compared) == 18
    for trial in compared:
        assert trial.figures["entropy"] == pytest.approx(published[",".join(trial.changes)]["head"], abs=1e-4)


def test_the_entropies_of_features_are_the_published_ones(by_features: Plan) -> None:
    published = rows("skip")
    assert by_features.full["entropy"] == pytest.approx(published[""]["block"], rel=1e-5)
    compared = [trial for trial in by_features.trials if ",".join(trial.changes) in published]
    assert len(compared) >= 12
    for trial in compared:
        assert trial.figures["entropy"] == pytest.approx(published[",".join(trial.changes)]["block"], rel=1e-5)
    assert by_features.unit == "nats"


def test_layers_can_be_tried_in_the_form_in_which_they_are_removed(toy: ImageClassifier) -> None:
    known: dict = {}
    score = TransferEntropy(batches)
    plan_attention_removal(toy, score, num_layers=4, form="identity", known=known)
    (figures,) = known.values()
    assert figures["1,2,4,5"]["entropy"] == pytest.approx(rows("identity")["1,2,4,5"]["head"], abs=1e-4)
