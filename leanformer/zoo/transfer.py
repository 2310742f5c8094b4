"""A classifier for other classes than those of a weight file: rows picked by a class map, or a new one of zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from leanformer.errors import CheckpointError, ConfigError
from leanformer.models import ImageClassifier
from leanformer.models.backbone import BackboneConfig

CLASSIFIERS = ("head.linear.", "head.distillation.")
"""Where the names of classifiers begin."""


def read_class_map(path: str | Path) -> tuple[int, ...]:
    """The indices in a file of one integer on each line: the row of the file's classifier for each new class.

    Raises:
        CheckpointError: if it cannot be read, or a line is no index.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: the class map cannot be read ({error})") from error
    filled = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    for number, line in filled:
        if not line.isascii() or not line.isdigit():
            raise CheckpointError(f"{path}, line {number}: {line[:40]!r} is no index; a class map has one on each line")
    return tuple(int(line) for _, line in filled)


def transfer_head(
    config: BackboneConfig,
    ours: Mapping[str, Tensor],
    *,
    source: str,
    num_classes: int | None,
    class_map: Sequence[int] | None,
) -> tuple[BackboneConfig, dict[str, Tensor], list[str]]:
    """The config and our tensors with the classifier that is asked for, and a sentence for what changed.

    Args:
        num_classes: other than the file's gives a classifier of zeros, as published fine-tuning starts with.
        class_map: for each new class the row of the file's classifier.

    Raises:
        ConfigError: if both are given and differ.
        CheckpointError: if the class map names a row that the file does not have.
    """
    if class_map is not None:
        if num_classes not in (None, len(class_map)):
            raise ConfigError(f"the class map has {len(class_map)} entries, but num_classes is {num_classes}")
        picked = pick_rows(ours, class_map, config.num_classes, source)
        line = f"the classifier's {len(class_map)} rows are picked from {config.num_classes} by the class map"
        return replace(config, num_classes=len(class_map)), picked, [line]
    if num_classes in (None, config.num_classes):
        return config, dict(ours), []
    wanted = replace(config, num_classes=num_classes)
    with torch.device("meta"):
        blank = ImageClassifier(wanted).state_dict()
    kept = {key: value for key, value in ours.items() if not key.startswith(CLASSIFIERS)}
    zeros = {key: torch.zeros(blank[key].shape) for key in blank if key.startswith(CLASSIFIERS)}
    had = f"that of {config.num_classes} classes in {source} is left out" if config.num_classes else "the file has none"
    return wanted, kept | zeros, [f"the classifier of {num_classes} classes is new and all zeros; {had}"]


def pick_rows(ours: Mapping[str, Tensor], class_map: Sequence[int], num_classes: int, source: str) -> dict[str, Tensor]:
    """Our tensors with the rows of the classifier of `num_classes` that the class map names.

    Raises:
        CheckpointError: if the class map names a row that there is not.
    """
    if not num_classes:
        raise CheckpointError(f"the class map picks rows of a classifier, and {source} has none")
    for index in class_map:
        if not isinstance(index, int) or isinstance(index, bool):
            raise CheckpointError(f"the class map holds {index!r}, which is no index; give integers")
    wrong = [index for index in class_map if not 0 <= index < num_classes]
    if wrong or not class_map:
        what = f"names row {wrong[0]}" if wrong else "is empty"
        raise CheckpointError(f"the class map {what}, but the classifier in {source} has rows 0 to {num_classes - 1}")
    rows = torch.tensor(class_map)
    return {key: value.index_select(0, rows) if key.startswith(CLASSIFIERS) else value for key, value in ours.items()}
