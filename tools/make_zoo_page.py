"""Write docs/zoo.md, the table of every registered model and every published weight file.

python tools/make_zoo_page.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from leanformer.bench import known_cost
from leanformer.models import Preprocess
from leanformer.models.registry import system_of
from leanformer.zoo import find, list_models
from leanformer.zoo.weights import Weights, all_published, published

PAGE = Path(__file__).parents[1] / "docs/zoo.md"
SYSTEMS = {
    "base": "Plain models",
    "slab": "SLAB",
    "flatten": "FLatten",
    "swiftformer": "SwiftFormer",
    "l2vit": "L2ViT",
    "attention_removal": "Attention removal",
}
HEAD = """# The zoo

Every registered model. `leanformer list` prints the same with filters, `leanformer info NAME` what a model is made of.
Parameters and multiply-accumulates (MACs) are counted from our modules, the latter for one image of the model's size. A
model with `nano` in its name is for small images and tests. `python tools/make_zoo_page.py` generates this page.

Published weights are named `MODEL.TAG`; a model's name alone means its first. Accuracies are top-1 on ImageNet-1k in
per cent as their authors report them; none was measured here. Where there is a direct link, `leanformer.load` fetches
the file; elsewhere get it from the page ([how](how-to/published-weights.md)).
"""


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{len(list_models())} models in {PAGE.name}")


def page() -> str:
    parts = [HEAD]
    for system, title in SYSTEMS.items():
        names = [name for name in list_models() if system_of(name) == system]
        parts.append(f"## {title}\n\n{_table(MODEL_COLUMNS, map(_model, names))}")
        weights = [name for name in all_published() if name.partition(".")[0] in names]
        if weights:
            parts.append(f"{_table(WEIGHT_COLUMNS, map(_weights, weights))}")
    return "\n".join(parts)


MODEL_COLUMNS = ("model", "backbone", "parameters", "MACs", "image")
WEIGHT_COLUMNS = ("weights", "top-1", "evaluation", "license", "file")


def _model(name: str) -> tuple[str, ...]:
    config, cost = find(name), known_cost(name)
    height, width = config.image_grid
    return (
        f"`{name}`",
        config.kind,
        f"{cost.parameters / 1e6:.2f} M",
        f"{cost.macs / 1e9:.2f} G" if cost.macs > 1e8 else f"{cost.macs / 1e6:.1f} M",
        f"{height} x {width}",
    )


def _weights(name: str) -> tuple[str, ...]:
    weights = published(name)
    assert weights is not None
    top1 = weights.reported.get("top1")
    shown = "" if top1 is None else f"{top1:g}"
    return f"`{name}`", shown, _evaluation(weights.preprocess), weights.license or "none published", _file(weights)


def _evaluation(preprocess: Preprocess) -> str:
    fit = {"shorter": "shorter side", "squash": "squashed"}[preprocess.fit]
    height = preprocess.image_size[0]
    return f"{height} px, {fit}, crop {preprocess.crop:g}, {preprocess.interpolation}"


def _file(weights: Weights) -> str:
    return f"[direct]({weights.url})" if weights.url else f"[page]({weights.page})"


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
