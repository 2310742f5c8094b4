"""What the published trainings on ImageNet share. Each says how it differs, and nothing else.

All are told for one process that sees the whole batch; a batch norm then sees more images than it did where the batch
was spread over eight. Published runs drew one share of Mixup for each process, these draw one for each step. No data
set comes with them: `data` is a folder of the working directory unless another is named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanformer.data.augment import Augment
from leanformer.data.mixing import Mixing
from leanformer.training import AdamW, CoolDown, Cosine, Lag, ModelSpec, TrainConfig, WarmUp
from leanformer.training.schedules import Schedule

NUM_IMAGES = 1_281_167
"""Training images of ImageNet-1k."""

AUGMENT = Augment(scale=(0.08, 1.0), auto_augment="rand-m9-mstd0.5-inc1", erase=0.25)
"""Large random crops, flips, RandAugment and random erasing: that of DeiT, which all of them took over."""


def imagenet(model: str | ModelSpec, out: Path, **changes: Any) -> TrainConfig:
    """300 epochs of ImageNet-1k with DeiT's augmentation; `changes` are fields of the config."""
    shared: dict[str, Any] = {
        "model": ModelSpec(name=model) if isinstance(model, str) else model,
        "out": out,
        "data": "imagenet",
        "augment": AUGMENT,
        "mixing": Mixing(mixup=0.8, cutmix=1.0),
        "label_smoothing": 0.1,
        "epochs": 300,
        "workers": 8,
    }
    return TrainConfig(**shared | changes)


def scaled(lr: float, batch_size: int, weight_decay: float = 0.05) -> AdamW:
    """AdamW with a learning rate that is told for 512 images."""
    return AdamW(lr=lr * batch_size / 512, weight_decay=weight_decay)


def one_step_late(start: float, final: float, warm_up: float, cool_down: float = 0) -> Schedule:
    """The cosine of Swin's trainer: a warm-up that covers its beginning, from `start` times the learning rate, then
    `final` times it in the last epochs.

    Args:
        warm_up: epochs; 0 for none.
        cool_down: epochs.
    """
    schedule: Schedule = Cosine(final=final)
    if cool_down:
        schedule = CoolDown(schedule=schedule, epochs=cool_down)
    if warm_up:
        schedule = WarmUp(schedule=schedule, epochs=warm_up, start=start, shift=False)
    return Lag(schedule=schedule)  # parity: the trainer sets the rate after the step, by that step's number
