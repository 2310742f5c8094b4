"""Batch norms while they train: which of them rest, and over several ranks statistics of all images together, or each
rank's own, averaged afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leanformer.layers.norm import TokenBatchNorm
from leanformer.training.distributed import Ranks


def moving_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch norms that follow the images in training: those whose weights are frozen hold their statistics too."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [
        norm for norm in norms if not (parameters := [*norm.parameters()]) or any(p.requires_grad for p in parameters)
    ]


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Means and variances that the batch norms in training mode gather."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    return [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]


@contextmanager
def synchronized(model: nn.Module, ranks: Ranks) -> Iterator[None]:
    """Let the batch norms of `model`, in training mode, normalize by the images of all ranks, gradients included.

    Several ranks then compute what one would with all of their images, of which each has the same number. It is
    torch's SyncBatchNorm for any device, on the modules as they are.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    mine = [norm for norm in norms if ranks.world > 1 and "forward" not in vars(norm)]
    for norm in mine:
        norm.forward = partial(_forward, norm, ranks.world)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in mine:
            del norm.forward


@torch.compiler.disable
def _forward(norm: _BatchNorm, world: int, x: Tensor) -> Tensor:
    """What `norm` computes of x, (..., C) for tokens and else (B, C, ...)."""
    if not norm.training:
        return type(norm).forward(norm, x)
    rows = x.flatten(0, -2) if isinstance(norm, TokenBatchNorm) else x
    out, mean, var = _Normalize.apply(rows, norm.weight, norm.bias, norm.eps, world)
    with torch.no_grad():
        _count(norm, mean, var, rows.numel() // rows.shape[1] * world)
    return out.view_as(x)


def _count(norm: _BatchNorm, mean: Tensor, var: Tensor, count: int) -> None:
    """Move the running statistics; the variance that they follow is the unbiased one."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_((var * (count / max(count - 1, 1))).to(norm.running_var.dtype), share)


class _Normalize(torch.autograd.Function):
    """Batch normalization of (B, C, ...) over all axes but the second and over the ranks, in float32 at least."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, world: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        axes = [axis for axis in range(x.ndim) if axis != 1]
        wide = x if x.dtype == torch.float64 else x.float()
        var, mean = torch.var_mean(wide, axes, correction=0)
        gathered = [torch.empty_like(torch.stack((mean, var))) for _ in range(world)]
        dist.all_gather(gathered, torch.stack((mean, var)))
        means, variances = torch.stack(gathered).unbind(1)
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        inverse = torch.rsqrt(var + eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.axes, ctx.count = axes, x.numel() // x.shape[1] * world
        ctx.mark_non_differentiable(mean, var)
        out = (wide - _wide(mean, x)) * _wide(inverse * weight, x) + _wide(bias, x)
        return out.to(x.dtype), mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        grad = grads[0].to(mean.dtype)
        normal = (x.to(mean.dtype) - _wide(mean, x)) * _wide(inverse, x)
        own = torch.stack((grad.sum(ctx.axes), (grad * normal).sum(ctx.axes)))
        sums = own.clone()
        dist.all_reduce(sums)
        along_one, along_normal = (_wide(value, x) for value in sums / ctx.count)
        grad_x = _wide(inverse * weight, x) * (grad - along_one - normal * along_normal)
        return grad_x.to(x.dtype), own[1].to(weight.dtype), own[0].to(weight.dtype), None, None


def _wide(values: Tensor, x: Tensor) -> Tensor:
    """One value for each channel, (C,), in the shape in which it meets x, (B, C, ...)."""
    return values.view(1, -1, *[1] * (x.ndim - 2))
