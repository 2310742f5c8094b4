"""The last phase of a training with batch norms: they alone go on, as a model runs after training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from leanformer.config import register_config
from leanformer.errors import ConfigError
from leanformer.training.batch_norms import moving_norms
from leanformer.training.callbacks import Callback

if TYPE_CHECKING:
    from leanformer.training.state import Run


@register_config("batch_norm_phase")
class BatchNormPhase:
    """The last epochs, in which batch norms alone change (SLAB, https://arxiv.org/abs/2405.11582, section 4).

    All else is frozen and runs as after training, without stochastic depth. A progressive norm should have arrived.
    """

    epochs: int
    affine: bool = False
    """Whether their weights are trained too; else their statistics alone follow the images."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs of batch norms must be at least 1, got {self.epochs}")


class TrainBatchNorms(Callback):
    """Freezes all but the batch norms once the phase begins."""

    def __init__(self, phase: BatchNormPhase) -> None:
        self.phase = phase
        self.norms: list[_BatchNorm] = []
        self.frozen: list[nn.Parameter] = []

    def on_start(self, run: Run) -> None:
        """Note the batch norms that are not frozen anyway, before all the rest is."""
        self.norms = moving_norms(run.model)

    def on_step(self, run: Run, step: int) -> None:
        """Set modes and what is trained; each epoch begins in training mode."""
        if step < run.total_steps - self.phase.epochs * run.steps_per_epoch or not run.model.training:
            return
        run.model.eval()
        kept: set[nn.Parameter] = set()
        for norm in self.norms:
            norm.train()
            kept |= set(norm.parameters()) if self.phase.affine else set()
        for parameter in run.model.parameters():
            if parameter.requires_grad and parameter not in kept:
                parameter.requires_grad_(False)
                self.frozen.append(parameter)

    def after_step(self, run: Run, step: int) -> None:
        """Thaw all when training has ended."""
        if step + 1 == run.total_steps:
            self._thaw()

    def on_rollback(self, run: Run) -> None:
        """Thaw all: the phase may not have begun yet."""
        self._thaw()

    def _thaw(self) -> None:
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen.clear()
