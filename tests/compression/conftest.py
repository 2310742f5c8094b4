"""A model that is always right on its own images, and a clock that counts multiply-accumulates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import leanformer
from leanformer.bench import count_cost
from leanformer.compression import Gain, Latency, Meter
from leanformer.data import ArrayImages, prepare
from leanformer.data.synthetic import shapes
from leanformer.models import ImageClassifier

CLASSES = ("a", "b", "c", "d")


class CountingMeter(Meter):
    """Takes multiply-accumulates for time, so that every run measures the same."""

    timed = 0
    known: dict[str, int]

    def latency(
        self, model: ImageClassifier, previous: ImageClassifier | None = None, *, repeats: int | None = None
    ) -> Latency:
        """A nanosecond for each multiply-accumulate."""
        self.timed += 1
        own, first, before = (self._macs(state) for state in (model, self.original, previous or self.original))
        ms = own / 1e6
        return Latency(
            median_ms=ms,
            p10_ms=ms,
            p90_ms=ms,
            over_original=Gain(speedup=first / own, low=first / own, high=first / own),
            over_previous=Gain(speedup=before / own, low=before / own, high=before / own),
        )

    def _macs(self, model: ImageClassifier) -> int:
        self.known = getattr(self, "known", {})
        key = f"{model.name} {model.edits}"
        if key not in self.known:
            self.known[key] = count_cost(model, self.image_size).macs
        return self.known[key]


@pytest.fixture
def vit() -> ImageClassifier:
    """Four blocks whose outputs differ from image to image."""
    torch.manual_seed(3)
    model = leanformer.build("deit_nano", image_size=32, patch_size=4, depth=4, dim=32, num_heads=2, num_classes=4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    model.set_classes(CLASSES)
    return model.eval()


@pytest.fixture
def images(vit: ImageClassifier) -> ArrayImages:
    """Images whose labels are what the model says of them."""
    drawn = shapes(96, num_classes=4, size=32, seed=1)
    batch = torch.stack([prepare(drawn.image(index), vit.preprocess) for index in range(len(drawn))])
    with torch.no_grad():
        labels = vit(batch).argmax(dim=1).numpy()
    assert len(np.unique(labels)) > 1
    return ArrayImages(drawn.pixels, labels, CLASSES, "own")


@pytest.fixture
def meter(vit: ImageClassifier, images: ArrayImages) -> CountingMeter:
    """Measures with all of them."""
    return CountingMeter(vit, images, "own", repeats=3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a search keeps what it measured."""
    return tmp_path / "search"
