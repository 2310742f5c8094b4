"""Norms on tokens: LayerNorm, RMSNorm, batch norm, RepBN and progressive RepBN (SLAB,
https://arxiv.org/abs/2405.11582, section 3.2).

Batch-type norms cost nothing at inference, because they fold into the linear layers around them; training straight
with them fails in transformers. RepBN adds a learnable shortcut, PRepBN blends from LayerNorm to RepBN while training.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from leanformer.config import register_config
from leanformer.errors import ConfigError

Place = Literal["block", "stem", "downsample", "reduction", "final"]
"""A kind of place that a backbone's config chooses a norm for: the fields of `Norms`."""


class NormConfig:
    """Base of the configs of norms on the channels of (B, N, C)."""

    kind: ClassVar[str]
    eps: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.eps < float("inf"):
            raise ConfigError(f"eps must be at least 0, got {self.eps}")

    def build(self, dim: int) -> nn.Module:
        """The norm over `dim` channels."""
        raise NotImplementedError


@register_config("layer_norm")
class LayerNorm(NormConfig):
    """Layer normalisation over the channels of each token."""

    eps: float = 1e-5

    def build(self, dim: int) -> nn.Module:
        """The norm over `dim` channels."""
        return nn.LayerNorm(dim, eps=self.eps)


@register_config("rms_norm")
class RMSNorm(NormConfig):
    """Division by the root mean square over the channels of each token (https://arxiv.org/abs/1910.07467)."""

    eps: float = 1e-6

    def build(self, dim: int) -> nn.Module:
        """The norm over `dim` channels."""
        return nn.RMSNorm(dim, eps=self.eps)


@register_config("batch_norm")
class BatchNorm(NormConfig):
    """Batch normalisation over batch and tokens: the norm of convolutional networks, free at inference."""

    eps: float = 1e-5

    def build(self, dim: int) -> nn.Module:
        """The norm over `dim` channels."""
        return TokenBatchNorm(dim, eps=self.eps)


@register_config("rep_bn")
class RepBN(NormConfig):
    """Batch normalisation plus a learnable multiple of its input, BN(x) + alpha x."""

    eps: float = 1e-5

    def build(self, dim: int) -> nn.Module:
        """The norm over `dim` channels."""
        return RepBatchNorm(dim, self.eps)


@register_config("p_rep_bn")
class PRepBN(NormConfig):
    """A norm that starts as `start` and ends as RepBN, blended by the schedule `norm_progress` (1 to 0) while
    training."""

    start: NormConfig = LayerNorm()
    eps: float = 1e-5
    """Of the RepBN."""

    def build(self, dim: int) -> nn.Module:
        """The norm over `dim` channels."""
        return ProgressiveNorm(self.start.build(dim), RepBatchNorm(dim, self.eps))


@register_config("norms")
class Norms:
    """One norm for each kind of place; None means as in the blocks."""

    block: NormConfig = LayerNorm()
    stem: NormConfig | None = None
    downsample: NormConfig | None = None
    reduction: NormConfig | None = None
    """Where keys and values get coarser (PVT)."""
    final: NormConfig | None = None

    def at(self, place: Place) -> NormConfig:
        """The norm of `place`."""
        return getattr(self, place) or self.block


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (..., C). In eval mode it is one multiplication and one addition."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, (..., C)."""
        if self.training:
            return super().forward(x.flatten(0, -2)).view_as(x)
        scale, shift = batch_norm_affine(self)
        return torch.addcmul(shift, x, scale)


class RepBatchNorm(nn.Module):
    """BN(x) + alpha x, statistics over batch and tokens. In eval mode it is one multiplication and one addition."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.bn = nn.BatchNorm1d(dim, eps=eps)

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) per channel, each (C,), such that eval mode is scale * x + shift."""
        scale, shift = batch_norm_affine(self.bn)
        return scale + self.alpha, shift

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, (..., C)."""
        if self.bn.training:
            return torch.addcmul(self.bn(x.flatten(0, -2)).view_as(x), x, self.alpha)
        scale, shift = self.affine()
        return torch.addcmul(shift, x, scale)


class ProgressiveNorm(nn.Module):
    """progress * start(x) + (1 - progress) * rep(x) while training; rep(x) alone in eval mode, whatever the
    progress."""

    scheduled: ClassVar[str] = "norm_progress"
    progress: Tensor

    def __init__(self, start: nn.Module, rep: RepBatchNorm) -> None:
        super().__init__()
        self.start = start
        self.rep = rep
        self.warm = self.done = False
        self.register_buffer("progress", torch.ones(()))

    def set_scheduled(self, value: float) -> None:
        """Set the share of the start norm, in [0, 1].

        A value above 1 asks for warm-up: `start` alone runs, and the statistics of `rep` rest. At 0 `start` no longer
        runs, so its parameters get no gradient.
        """
        self.warm, self.done = value > 1.0, value <= 0.0
        self.progress.fill_(min(value, 1.0))

    def affine(self) -> tuple[Tensor, Tensor]:
        """(scale, shift) of eval mode, each (C,)."""
        return self.rep.affine()

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, (..., C)."""
        if not self.training:
            return self.rep(x)
        if self.warm:
            return self.start(x)
        if self.done:
            return self.rep(x)
        rep = self.rep(x)
        # Autocast may give the two different dtypes: on the CPU a LayerNorm keeps the input's, RepBN widens it.
        return torch.lerp(rep, self.start(x).to(rep.dtype), self.progress.to(rep.dtype))


class FrozenAffine(nn.Module):
    """scale * x + shift per channel: what stays of a norm that could not be folded into a neighbour.

    Both are (C,) for tokens and (C, 1, 1) for maps.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.detach().clone())
        self.register_buffer("shift", shift.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift x, (..., C) or (B, C, H, W)."""
        return torch.addcmul(self.shift, x, self.scale)


def batch_norm_affine(bn: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """(scale, shift) per channel of a batch norm in eval mode."""
    assert bn.running_var is not None and bn.running_mean is not None
    scale = bn.weight * (bn.running_var + bn.eps).rsqrt()
    return scale, bn.bias - scale * bn.running_mean


def config_of(norm: nn.Module) -> NormConfig | None:
    """The config that builds a norm like this one; None for what no config builds."""
    if isinstance(norm, nn.LayerNorm):
        return LayerNorm(eps=norm.eps)
    if isinstance(norm, nn.RMSNorm):
        return RMSNorm(eps=norm.eps or torch.finfo(torch.float32).eps)
    if isinstance(norm, TokenBatchNorm):
        return BatchNorm(eps=norm.eps)
    if isinstance(norm, RepBatchNorm):
        return RepBN(eps=norm.bn.eps)
    if isinstance(norm, ProgressiveNorm):
        start = config_of(norm.start)
        return None if start is None else PRepBN(start=start, eps=norm.rep.bn.eps)
    return None
