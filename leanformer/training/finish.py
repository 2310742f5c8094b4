"""What is done to a trained model before its last evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leanformer.config import register_config
from leanformer.errors import ConfigError


class Finish:
    """Base of the steps that need training images; steps that need none are edits."""

    kind: ClassVar[str]
    augmented: bool = False
    """Whether it wants its images varied as in training."""

    def apply(self, model: nn.Module, batches: Callable[[int], Iterator[Tensor]]) -> str:
        """Change `model` in place and say what was done. `batches(n)` gives images of at most n training batches."""
        raise NotImplementedError


@register_config("recalibrate_batch_norm")
class RecalibrateBatchNorm(Finish):
    """Replace the running statistics of batch norms by averages over training images, the weights held.

    Running statistics lag behind the weights, and behind what a progressive norm was before its last steps.
    """

    batches: int = 200
    """At most, in each pass."""
    passes: int = 1
    """Over the training images."""
    momentum: float | None = None
    """Share by which each batch moves the statistics, which then go on from where they are; None: plain averages."""
    augmented: bool = False
    """Whether the images are varied as in training."""

    def __post_init__(self) -> None:
        if self.batches < 1 or self.passes < 1:
            raise ConfigError(f"batches and passes must be at least 1, got {self.batches} and {self.passes}")
        if self.momentum is not None and not 0 < self.momentum <= 1:
            raise ConfigError(f"momentum must be in (0, 1], or None, got {self.momentum}")

    @torch.no_grad()
    def apply(self, model: nn.Module, batches: Callable[[int], Iterator[Tensor]]) -> str:
        """Recompute mean and variance of every batch norm over the batches."""
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        if not norms:
            return "no batch norm to recalibrate"
        momenta = [norm.momentum for norm in norms]
        model.eval()
        for norm in norms:
            if self.momentum is None:
                norm.reset_running_stats()
            norm.momentum = self.momentum  # None: every batch counts the same
            norm.train()
        count = 0
        for _ in range(self.passes):
            for images in batches(self.batches):
                model(images)
                count += 1
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
        return f"recalibrated {len(norms)} batch norms over {count} batches"
