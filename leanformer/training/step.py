"""One update of the weights: from a batch to its loss, the gradient and the optimizer's step."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from leanformer.data import Batch
from leanformer.data.mixing import mix
from leanformer.training.batch_norms import moving_norms
from leanformer.training.clipping import Clip
from leanformer.training.guard import Diverged
from leanformer.training.parallel import whole
from leanformer.training.randomness import seed_step
from leanformer.training.state import StepResult

if TYPE_CHECKING:
    from leanformer.training.state import Run

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def train_mode(model: nn.Module) -> None:
    """Put a model into training mode, but for the batch norms whose weights are frozen: they hold their statistics."""
    model.train()
    moving = set(moving_norms(model))
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module not in moving:
            module.eval()


def train_step(run: Run, batch: Batch) -> StepResult:
    """Update the weights; on a device the host waits for it once, at the end.

    `batch` is this rank's share; the figures are those of all ranks, and so is a request to stop.

    Raises:
        Diverged: if the loss is not finite.
    """
    config, ranks = run.config, run.ranks
    seed_step(config.seed, run.step, ranks.rank)
    run.optimizer.zero_grad(set_to_none=True)
    total, learns = torch.zeros((), device=run.device), False
    batch = _prepare(run, batch)
    parts = _parts(batch, config.accumulate)
    for part in parts:
        share = len(part.labels) / len(batch.labels)
        with torch.autocast(run.device.type, PRECISIONS[config.precision], enabled=config.precision != "fp32"):
            loss = torch.stack(list(run.task.losses(run.network, part).values())).sum() * share
        learns = loss.requires_grad
        if learns:
            with run.parallel.backward(last=part is parts[-1]):
                run.scaler.scale(loss).backward()
        total += loss.detach()
    stop = torch.full_like(total, run.stop.requested)
    ranks.average([total, stop, *run.parallel.averaged()])
    figures = [total, stop]
    if learns:
        figures += _update(run)
    loss, stop, *norms = torch.stack(figures).tolist()
    if not math.isfinite(loss):
        raise Diverged(_not_finite(run, loss), run.step)
    return StepResult(
        loss=loss,
        num_images=len(batch.labels) * ranks.world,
        gradient_norm=norms[0] if norms else None,
        stop=stop > 0,
    )


def _update(run: Run) -> list[torch.Tensor]:
    """Clip and step; gives the norm of the gradient if it is clipped."""
    clip, norms = run.config.clip, []
    if clip is not None:
        run.scaler.unscale_(run.optimizer)
        clip = clip if isinstance(clip, Clip) else Clip(limit=clip)
        norms = [whole(clip.apply(run.model.parameters()))]
    run.scaler.step(run.optimizer)
    run.scaler.update()
    return norms


def _prepare(run: Run, batch: Batch) -> Batch:
    """The batch of the present step on the device, and mixed."""
    images, labels = (tensor.to(run.device, non_blocking=True) for tensor in (batch.images, batch.labels))
    config = run.config
    if config.mixing is not None:
        images, labels = mix(
            images,
            labels,
            config.mixing,
            num_classes=len(run.train_images.classes),
            smoothing=config.label_smoothing,
            seed=config.seed,
            step=run.step,
            rank=run.ranks.rank,
        )
    if config.execution.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    return replace(batch, images=images, labels=labels)


def _parts(batch: Batch, count: int) -> list[Batch]:
    columns = (column.chunk(count) for column in (batch.images, batch.labels, batch.indices))
    return [Batch(images=part[0], labels=part[1], indices=part[2]) for part in zip(*columns, strict=True)]


def _not_finite(run: Run, loss: float) -> str:
    rate = run.optimizer.param_groups[0]["lr"]
    advice = ["a lower learning rate or a longer warm-up"]
    advice += ["clip=1.0"] if run.config.clip is None else []
    advice += ["precision 'fp32'"] if run.config.precision != "fp32" else []
    advice += ["guard=Guard()"] if run.config.guard is None else []
    return (
        f"the loss of step {run.step} is {loss}, at learning rate {rate:.3g}; "
        f"start a new run with {', or '.join(advice)}"
    )
