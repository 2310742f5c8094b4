"""A run that takes a second: a nano model with progressive norms on coloured shapes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from leanformer.data.synthetic import shapes
from leanformer.layers.attention import SimplifiedLinear
from leanformer.layers.norm import Norms, PRepBN
from leanformer.models.vit import ViT
from leanformer.training import AdamW, Linear, ModelSpec, RecalibrateBatchNorm, Scheduled, TrainConfig

NANO = ViT(
    image_size=16,
    patch_size=4,
    dim=24,
    depth=2,
    num_heads=2,
    pool="mean",
    drop_path=0.2,
    attention=SimplifiedLinear(),
    norms=Norms(block=PRepBN()),
)
TO_REP_BN = Scheduled(what="norm_progress", schedule=Linear(start=1.0, end=0.0, until=0.6))


@pytest.fixture
def nano_config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        model=ModelSpec(config=NANO),
        out=tmp_path / "run",
        epochs=3,
        batch_size=16,
        optimizer=AdamW(lr=3e-3),
        clip=1.0,
        ema=0.8,
        label_smoothing=0.1,
        schedules=(TO_REP_BN,),
        finish=(RecalibrateBatchNorm(batches=4),),
        checkpoint_every_steps=4,
        log_every=3,
        device="cpu",
    )


@pytest.fixture
def plain_config(nano_config: TrainConfig) -> TrainConfig:
    """The same without anything progressive or averaged."""
    return replace(
        nano_config, model=ModelSpec(config=replace(NANO, norms=Norms())), schedules=(), finish=(), ema=None, clip=None
    )


@pytest.fixture(scope="session")
def nano_data():
    return shapes(96, 4, 16, seed=0), shapes(40, 4, 16, seed=1)


@pytest.fixture
def read_log():
    """The records of `metrics.jsonl`, without how long things took."""

    def read(out: Path) -> list[dict]:
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        of_time = ("seconds", "images_per_second", "data_wait")
        return [{k: v for k, v in record.items() if k not in of_time} for record in records]

    return read
