"""Plans that choose how to spend an amount: which attention layers or heads go."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from leanformer.bench.latency import fixed_batch
from leanformer.compression.steps import Amount
from leanformer.data import EvalBatches, LabeledImages
from leanformer.data.part import some_of
from leanformer.edits import plans
from leanformer.edits.plans.search import Known
from leanformer.errors import ConfigError, DataError
from leanformer.models import ImageClassifier
from leanformer.tasks.matching import find_columns

Way = Literal["entropy", "accuracy", "latency", "exhaustive", "random", "first"]
"""What a plan goes by: the entropy of the outputs (greedily, as published), the accuracy, the latency, the entropy of
every choice, nothing, or the order of the layers."""

NEEDS_DATA = ("entropy", "accuracy", "exhaustive")
GREEDY = ("entropy", "accuracy", "latency")
"""Ways that take one layer after another, so that what they choose of few is a part of what they choose of many."""


@dataclass(kw_only=True)
class Chooser:
    """Chooses with some of the images of one data set.

    Attributes:
        images: that are measured on; None where there are no data.
        count: how many of them are used.
        timed: images in each pass, where a plan goes by the latency.
        known: figures of the search so far, which a stopped one goes on from.
    """

    images: LabeledImages | None
    way: Way = "entropy"
    count: int = 512
    seed: int = 0
    batch_size: int = 64
    timed: int = 1
    known: Known = field(default_factory=dict)
    progress: Callable[[plans.Progress], None] | None = None

    def __post_init__(self) -> None:
        if self.way not in get_args(Way):
            raise ConfigError(f"a plan goes by {', '.join(get_args(Way))}, got {self.way!r}")

    @property
    def sees(self) -> str:
        """What is measured with, in words that tell it from other images."""
        return "nothing" if self.images is None else f"{self.count} of {len(self.images)} images"

    def check(self, amount: Amount) -> None:
        """Refuse what cannot be chosen without images.

        Raises:
            DataError: if the plan needs images and there are none.
        """
        if self.way in NEEDS_DATA and self.images is None:
            raise DataError(
                f"{amount.kind} is chosen with images, and none were given; add --data, name the blocks "
                "(remove_attention:0,2,4), or take --plan first or random"
            )

    def choose(self, model: ImageClassifier, amount: Amount) -> plans.Plan:
        """The plan that spends `amount` on the model, which stays as it is.

        Raises:
            DataError: if the plan needs images and there are none.
            EditError, ConfigError: if the model has nothing of that kind, or not as much.
        """
        shared = {"known": self.known, "progress": self.progress}
        score, search = self._score(model, amount), self._search(amount)
        if amount.kind == "drop_heads":
            return plans.plan_head_removal(
                model, score, ratio=amount.share, num_heads=amount.count, search=search, **shared
            )
        return plans.plan_attention_removal(
            model,
            score,
            ratio=amount.share,
            num_layers=amount.count,
            search=search,
            form="skip",
            edit_form="skip",
            **shared,
        )

    def _search(self, amount: Amount) -> plans.Search:
        if self.way == "exhaustive":
            return plans.Exhaustive()
        if self.way == "random":
            return plans.RandomChoice(seed=self.seed)
        if self.way == "first":
            return plans.FirstOnes()
        return plans.Alone() if amount.kind == "drop_heads" else plans.Greedy()  # heads are too many for greed

    def _score(self, model: ImageClassifier, amount: Amount) -> plans.Score | None:
        self.check(amount)
        if self.way == "latency":
            return plans.LatencyGain(fixed_batch(self.timed, model.config.image_grid))
        if self.images is None or self.way in ("random", "first"):
            return None
        batches = EvalBatches(some_of(self.images, self.count), model.preprocess, self.batch_size)

        def images() -> Iterator[Tensor]:
            return (batch.images for batch in batches)

        if self.way != "accuracy":
            return plans.TransferEntropy(images)
        columns = find_columns(model.classes, model.config.num_classes, self.images, "the data set of the plan")

        def labeled() -> Iterator[tuple[Tensor, Tensor]]:
            return ((batch.images, _scored(batch.labels, columns)) for batch in batches)

        return plans.AccuracyDrop(labeled)


def _scored(labels: Tensor, columns: Sequence[int]) -> Tensor:
    """The model's numbers of the classes that the data set numbers in its own way; several for an image stay."""
    return torch.tensor(columns)[labels] if labels.ndim == 1 else labels
