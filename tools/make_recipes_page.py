"""Write docs/how-to/recipes.md, the table of every published training.

python tools/make_recipes_page.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from leanformer.recipes import attention_removal, find_recipe, flatten, l2vit, list_recipes, slab, swiftformer
from leanformer.training import CoolDown, TrainConfig

PAGE = Path(__file__).parents[1] / "docs/how-to/recipes.md"
MODULES = {
    "SLAB": slab,
    "FLatten": flatten,
    "SwiftFormer": swiftformer,
    "L2ViT": l2vit,
    "Attention removal": attention_removal,
}
HEAD = """# Published trainings

```console
leanformer list --recipes
leanformer train swiftformer_xs_in1k --data imagenet --out runs/xs
```

A recipe is a function from the run's directory to its config (`leanformer.recipes`), with every number that its authors
published. Any of them is changed by `--set` ([how](train.md#change-any-of-it)), and `--from RUN/config.json` repeats
what came of it. Batches are those of all processes together, and are passed through the model in parts where the table
says so. The rate is the largest one, of AdamW in all of them. Epochs written as a sum end with so many at the lowest
rate. `python tools/make_recipes_page.py` generates this page.
"""
COLUMNS = ("recipe", "epochs", "images", "rate", "decay", "augmentation", "mixing", "more")


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(_published())} recipes in {PAGE.name}")


def page() -> str:
    parts = [HEAD]
    for title, module in MODULES.items():
        rows = [_row(name, find_recipe(name, Path("runs") / name)) for name in _published() if _is_of(name, module)]
        parts.append(f"## {title}\n\n{_said(inspect.getdoc(module) or '')}\n\n{_table(COLUMNS, rows)}")
    return "\n".join(parts)


def _published() -> list[str]:
    return [name for name in list_recipes() if name.endswith("_in1k") or name.endswith("_in22k")]


def _is_of(name: str, module: object) -> bool:
    return hasattr(module, name)


def _said(doc: str) -> str:
    """A module's docstring with its paragraphs as lines, and its links as such."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in doc.split("\n\n")]
    return "\n\n".join(re.sub(r"https://[\w./]*\w", r"<\g<0>>", paragraph) for paragraph in paragraphs)


def _row(name: str, config: TrainConfig) -> tuple[str, ...]:
    return (
        f"`{name}`",
        _epochs(config),
        str(config.batch_size) + (f" in {config.accumulate} parts" if config.accumulate > 1 else ""),
        f"{config.optimizer.lr:g}",
        f"{config.optimizer.weight_decay:g}",
        _augmentation(config),
        _mixing(config),
        _more(config),
    )


def _epochs(config: TrainConfig) -> str:
    schedule: object = config.lr
    while schedule is not None and not isinstance(schedule, CoolDown):
        schedule = getattr(schedule, "schedule", None)
    last = 0 if schedule is None else int(schedule.epochs)
    return f"{config.epochs - last} + {last}" if last else str(config.epochs)


def _augmentation(config: TrainConfig) -> str:
    augment = config.augment
    assert augment is not None
    policy = augment.auto_augment and augment.auto_augment.partition("-mstd")[0]
    parts = [
        f"`{policy}`" if policy else "",
        f"jitter {augment.color_jitter:g}" if augment.color_jitter else "",
        f"erase {augment.erase:g}" if augment.erase else "",
        f"repeated {config.sampling.repeat} x" if config.sampling.repeat > 1 else "",
    ]
    return ", ".join(part for part in parts if part)


def _mixing(config: TrainConfig) -> str:
    mixing = config.mixing
    return f"mixup {mixing.mixup:g}, cutmix {mixing.cutmix:g}" if mixing else "none"


def _more(config: TrainConfig) -> str:
    clip = config.clip
    parts = [
        f"starts from `{config.model.weights}`" if config.model.weights else "",
        f"averaged, {config.ema:g}" if config.ema else "",
        f"distilled from `{config.distill.teacher}`" if config.distill else "",
        f"clipped at {clip:g}" if isinstance(clip, float) else "",
        f"clipped at {clip.limit:g} ({clip.by})" if clip and not isinstance(clip, float) else "",
        *(f"schedule of `{scheduled.what}`" for scheduled in config.schedules),
        *(f"ends with `{step.kind}`" for step in config.finish),
        "on ImageNet-22k" if "22k" in config.data else "",
    ]
    return ", ".join(part for part in parts if part)


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
