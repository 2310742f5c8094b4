"""Fine-tune published weights on photos of one's own.

    python examples/finetune_photos.py photos runs/photos

`photos` holds one folder for each class, or `train/` and `val/` with such folders in each. The recipe is the default
one, with three lines changed.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import leanformer
from leanformer.recipes import default_recipe
from leanformer.training import AdamW, Groups, ModelSpec, TrainConfig, fit


def recipe(photos: str, out: Path, model: str = "deit_tiny.in1k") -> TrainConfig:
    """The run: a model's name with a tag starts from these weights, a bare name from random ones."""
    weights = model if "." in model else None
    config = default_recipe(ModelSpec(name=model, weights=weights), out)
    return replace(
        config,
        data=photos,
        workers=2,
        # What is changed: a lower rate, lower still towards the first layers; fewer epochs; and the averaged weights.
        optimizer=AdamW(lr=5e-4, weight_decay=0.05, groups=Groups(layer_decay=0.75)),
        epochs=10,
        ema=0.999,
    )


def main() -> None:
    """Train, or go on with a run that was stopped, and look at one picture."""
    photos, out = sys.argv[1], Path(sys.argv[2])
    result = fit(recipe(photos, out, *sys.argv[3:4]), resume=True)
    print(f"top-1 {100 * result.metrics['top1']:.1f} % of {result.metrics['count']} images; the model is in {out}")
    picture = next(path for path in sorted(Path(photos).rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    print(picture)
    for name, probability in leanformer.predict(result.model, picture, top=3):
        print(f"  {100 * probability:5.1f} %  {name}")


if __name__ == "__main__":  # workers import this file
    main()
