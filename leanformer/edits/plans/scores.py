"""What plans choose by: how much a network loses, or how much time it saves, when something is taken out of it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanformer.edits.plans.calibration import Calibration
from leanformer.edits.plans.network import Network, Output, Variant
from leanformer.errors import ConfigError, DataError, EditError
from leanformer.ops import Moments, constant_channels, gaussian_entropy

Figures = dict[str, float]
"""What was measured of one variant."""

Tick = Callable[[int, int | None], None]
"""Told how much of a sweep is done, and of how much if that is known."""


class Score:
    """Base of the scores: it measures variants, and says what their figures are worth; less is better."""

    name: ClassVar[str]
    unit: ClassVar[str]
    steady: ClassVar[bool] = True
    """Whether a second measurement gives the same figures."""

    @property
    def num_images(self) -> int | None:
        """That it measures with, once they were counted; None where there are none to count."""
        return None

    def describe(self) -> str:
        """What is measured, in words that tell it from other scores."""
        return self.name

    def first_images(self) -> Tensor:
        """A few of the images, (B, 3, H, W).

        Raises:
            DataError: if there are none.
        """
        raise NotImplementedError

    def measure(self, network: Network, variants: Sequence[Variant], tick: Tick) -> dict[Variant, Figures]:
        """The figures of each of `variants`, which differ."""
        raise NotImplementedError

    def worth(self, figures: Figures, full: Figures) -> tuple[float, ...]:
        """The score of a variant, where `full` is the network as it is; further numbers decide between equal ones."""
        raise NotImplementedError


class CalibratedScore(Score):
    """Base of the scores that are measured on images."""

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration

    @property
    def num_images(self) -> int | None:
        """That were counted."""
        return self.calibration.num_images

    def first_images(self) -> Tensor:
        """The first one."""
        images, _ = next(self.calibration.read())
        return images[:1]


class TransferEntropy(CalibratedScore):
    """Entropy of the network's output less that of the variant's: how much the output loses ("MLP Can Be A Good
    Transformer Learner", https://arxiv.org/abs/2404.05657, section 3).

    The entropy is that of Gaussian channels (`leanformer.ops.gaussian_entropy`), over all images; that of scores in
    bits with the unbiased deviation, that of features in nats with the one of the population, as published.

    Args:
        batches: gives the batches of images (B, 3, H, W) anew at each call, the same ones each time. The authors take
            training images, 50 000 of them; fewer than a few hundred tell little.
        output: whose entropy: of the scores ("logits"), or of what the classifier reads ("features").
        absolute: whether variants that add to the entropy count like those that take as much from it. The published
            text says the minimum, which is taken as the signed one.
    """

    name: ClassVar[str] = "transfer entropy"

    def __init__(
        self, batches: Callable[[], Iterable[Tensor]], *, output: Output = "logits", absolute: bool = False
    ) -> None:
        if output not in ("logits", "features"):
            raise ConfigError(f"output must be 'logits' or 'features', got {output!r}")
        super().__init__(Calibration(batches, labeled=False))
        self.output: Output = output
        self.absolute = absolute

    @property
    def unit(self) -> str:  # type: ignore[override]
        """Of the entropy."""
        return "bits" if self.output == "logits" else "nats"

    def describe(self) -> str:
        """The output and its unit; the sign is no part of what is measured."""
        return f"entropy of the {self.output} in {self.unit}"

    def measure(self, network: Network, variants: Sequence[Variant], tick: Tick) -> dict[Variant, Figures]:
        """The entropy of each."""
        if self.output == "logits":
            _check_classifies(network)
        moments = {variant: Moments() for variant in variants}
        done = 0
        for images, _ in self.calibration.read():
            for variant, tokens in network.walk(images, variants):
                moments[variant].add(network.read(tokens, self.output))
            done += len(images)
            tick(done, self.calibration.num_images)
        return {variant: {"entropy": self._entropy(variant, seen)} for variant, seen in moments.items()}

    def worth(self, figures: Figures, full: Figures) -> tuple[float, ...]:
        """The transfer entropy, or its size."""
        lost = full["entropy"] - figures["entropy"]
        return (abs(lost) if self.absolute else lost,)

    def _entropy(self, variant: Variant, moments: Moments) -> float:
        channels = len(moments.mean)
        if not variant and len(constant_channels(moments)) == channels:
            raise EditError(
                f"the {self.output} do not vary over the images, so there is no entropy to lose"
                + ("; a classifier of zeros has to be trained first, or take output='features'" * self._of_logits())
            )
        nats = gaussian_entropy(moments, unbiased=self._of_logits())
        if not math.isfinite(nats):
            changed = f" with {', '.join(sorted(variant))} changed" if variant else ""
            raise EditError(f"the network{changed} has no finite entropy: its {self.output} are NaN, infinite or all 0")
        return nats / math.log(2) if self._of_logits() else nats

    def _of_logits(self) -> bool:
        return self.output == "logits"


class AccuracyDrop(CalibratedScore):
    """How much top-1 accuracy is lost, as a share of the images; the mean cross-entropy decides between variants that
    lose the same.

    Args:
        batches: gives the batches (images (B, 3, H, W), labels (B,)) anew at each call, the same ones each time.
    """

    name: ClassVar[str] = "accuracy drop"
    unit: ClassVar[str] = "of 1"

    def __init__(self, batches: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> None:
        super().__init__(Calibration(batches, labeled=True))

    def measure(self, network: Network, variants: Sequence[Variant], tick: Tick) -> dict[Variant, Figures]:
        """Accuracy and cross-entropy of each."""
        _check_classifies(network)
        right, loss = dict.fromkeys(variants, 0), dict.fromkeys(variants, 0.0)
        done = 0
        for images, labels in self.calibration.read():
            _check_labels(labels, network.model.config.num_classes)
            for variant, tokens in network.walk(images, variants):
                scores = network.read(tokens, "logits").double().cpu()
                right[variant] += int((scores.argmax(dim=1) == labels.cpu()).sum())
                loss[variant] += F.cross_entropy(scores, labels.cpu(), reduction="sum").item()
            done += len(images)
            tick(done, self.calibration.num_images)
        return {variant: {"accuracy": right[variant] / done, "loss": loss[variant] / done} for variant in variants}

    def worth(self, figures: Figures, full: Figures) -> tuple[float, ...]:
        """The accuracy lost, and the loss."""
        return full["accuracy"] - figures["accuracy"], figures["loss"]


class LatencyGain(Score):
    """Time of the variant over that of the network, less 1, so that -0.1 saves a tenth. It says nothing about what is
    lost, and depends on the machine.

    All variants of a round and the network itself are timed in turns of alternating order.

    Args:
        images: a batch as it will be used, (B, 3, H, W).
        num_turns: the figure is the median of so many.
        measure: seconds of one pass of a model on images.
    """

    name: ClassVar[str] = "latency gain"
    unit: ClassVar[str] = "of the time"
    steady: ClassVar[bool] = False

    def __init__(
        self,
        images: Tensor,
        *,
        num_turns: int = 10,
        measure: Callable[[nn.Module, Tensor], float] | None = None,
    ) -> None:
        if num_turns < 1:
            raise ConfigError(f"num_turns must be at least 1, got {num_turns}")
        self.images = images
        self.num_turns = num_turns
        self.seconds = measure or time_pass

    def first_images(self) -> Tensor:
        """The batch."""
        if self.images.ndim != 4 or not len(self.images):
            raise DataError(f"images come as (batch, channels, height, width), got {tuple(self.images.shape)}")
        return self.images

    def measure(self, network: Network, variants: Sequence[Variant], tick: Tick) -> dict[Variant, Figures]:
        """Milliseconds of each, and of the network itself in the same turns."""
        images, full = network.to_model(self.images), Variant()
        times: dict[Variant, list[float]] = {variant: [] for variant in dict.fromkeys((full, *variants))}
        for turn in range(self.num_turns):
            for variant in list(times)[:: -1 if turn % 2 else 1]:
                with network.made(variant):
                    times[variant].append(1000.0 * self.seconds(network.model, images))
            tick(turn + 1, self.num_turns)
        medians = {variant: statistics.median(each) for variant, each in times.items()}
        return {variant: {"ms": medians[variant], "full_ms": medians[full]} for variant in variants}

    def worth(self, figures: Figures, full: Figures) -> tuple[float, ...]:
        """The time over that of the network measured with it, less 1."""
        return (figures["ms"] / figures["full_ms"] - 1.0,)


def time_pass(model: nn.Module, images: Tensor) -> float:
    """Seconds of a pass, which follows an unmeasured one so that it finds its own caches."""
    cuda = images.device.type == "cuda"
    model(images)
    if cuda:
        torch.cuda.synchronize(images.device)
    started = time.perf_counter()
    model(images)
    if cuda:
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - started


def _check_classifies(network: Network) -> None:
    if not network.model.config.num_classes:
        raise EditError(
            "the model has no classifier, so it has no scores to compare; take "
            "TransferEntropy(batches, output='features')"
        )


def _check_labels(labels: Tensor, num_classes: int) -> None:
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if labels.is_floating_point() or len(wrong):
        found = f"{labels.dtype}" if labels.is_floating_point() else str(wrong[0].item())
        raise DataError(f"labels are numbers of classes from 0 to {num_classes - 1}, got {found}")
