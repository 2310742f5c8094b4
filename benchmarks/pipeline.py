"""Whether the data pipeline keeps up with training: images a second of both, and of a run, with 0, 1 and 2 workers.

    OMP_NUM_THREADS=1 python benchmarks/pipeline.py

Images are JPEG files of 500 x 375 pixels, as large as most of ImageNet's, made of smooth color with fine grain; they
are cut to 224 and varied as in the published trainings (random crop, RandAugment, random erasing). Prints Markdown in
less than three minutes on two cores: what each part of the pipeline takes for an image, what it delivers to someone who
does nothing else, what nano models take, and what a run of the fastest of them gets and waits for.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image

from leanformer.bench.latency import quantile
from leanformer.bench.method import record_method
from leanformer.data import Augment, TrainBatches, open_data
from leanformer.data.timing import images_per_second, measure_parts
from leanformer.models import ImageClassifier, Preprocess
from leanformer.recipes.registry import default_recipe
from leanformer.training import ModelSpec, fit
from leanformer.zoo import find

SIZE, BATCH_SIZE = 224, 16
AUGMENT = Augment(scale=(0.08, 1.0), auto_augment="rand-m9-mstd0.5-inc1", erase=0.25)
MODELS = ("deit_nano", "swin_nano", "swiftformer_nano", "pvt_v2_nano", "l2vit_nano")


def write_images(root: Path, num_train: int, num_val: int) -> Path:
    """Folders of two classes for training and validation."""
    random = np.random.default_rng(0)
    for split, count in (("train", num_train), ("val", num_val)):
        for number in range(count):
            colors = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8))
            smooth = colors.resize((500, 375), Image.Resampling.BICUBIC)
            grain = random.normal(0, 12, (375, 500, 1))
            path = root / split / "ab"[number % 2] / f"{number:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((np.asarray(smooth) + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
    return root


def training_speed(name: str, num_steps: int) -> float:
    """Images a second of training steps on one batch that is already there."""
    model = ImageClassifier(replace(find(name), image_size=SIZE, num_classes=2)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    images, labels = torch.randn(BATCH_SIZE, 3, SIZE, SIZE), torch.arange(BATCH_SIZE) % 2
    seconds = []
    for _ in range(num_steps + 1):
        begun = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begun)
    return BATCH_SIZE / quantile(sorted(seconds[1:]), 0.5)


def run_speed(name: str, data: Path, workers: int, folder: Path) -> tuple[float, float]:
    """Images a second of a run after its first steps, and the share of the time that it waited for images."""
    out = folder / f"workers{workers}"
    spec = ModelSpec(name=name, overrides=(("image_size", SIZE),))
    config = default_recipe(spec, out)
    config = replace(config, data=str(data), augment=AUGMENT, batch_size=BATCH_SIZE, epochs=2, workers=workers)
    fit(replace(config, finish=(), evaluate_every=0, log_every=1, device="cpu"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step" and line["epoch"] > 1]  # workers have begun
    seconds = [BATCH_SIZE / line["images_per_second"] for line in steps]
    waited = sum(line["data_wait"] * spent for line, spent in zip(steps, seconds, strict=True))
    return BATCH_SIZE * len(steps) / sum(seconds), waited / sum(seconds)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    models: tuple[str, ...] = MODELS
    """Models whose training speed is measured."""
    images: int = 192
    """To train on."""
    seconds: float = 6.0
    """That each number of workers delivers images for."""
    steps: int = 4
    """Of each model."""

    def run(self) -> None:
        """Print the tables, and how they came about."""
        with tempfile.TemporaryDirectory() as folder:
            data = write_images(Path(folder) / "images", self.images, BATCH_SIZE)
            self._show(data, Path(folder))

    def _show(self, data: Path, folder: Path) -> None:
        train, preprocess = open_data(str(data), "train"), Preprocess(image_size=(SIZE, SIZE))
        print(f"{measure_parts(train, preprocess, AUGMENT)}\n")
        speeds = {name: training_speed(name, self.steps) for name in self.models}
        print("| model | training alone, images/s |\n| --- | --- |")
        for name, speed in speeds.items():
            print(f"| {name} | {speed:.1f} |")
        fastest = max(speeds, key=lambda name: speeds[name])
        print(f"\n| workers | pipeline alone, images/s | a run of {fastest}, images/s | of that waiting for images |")
        print("| --- | --- | --- | --- |")
        for workers in (0, 1, 2):
            batches = TrainBatches(train, preprocess, AUGMENT, BATCH_SIZE, 0, workers)
            alone = images_per_second(batches, self.seconds)
            speed, waited = run_speed(fastest, data, workers, folder)
            print(f"| {workers} | {alone:.1f} | {speed:.1f} | {100 * waited:.0f} % |", flush=True)
        print()
        method = record_method(batch_size=BATCH_SIZE, image_size=SIZE, warmup=1, repeats=self.steps)
        for field, text in method.machine_rows():
            print(f"- {field}: {text}")


if __name__ == "__main__":
    tyro.cli(Options).run()
