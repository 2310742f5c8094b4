"""Gradient clipping: by the norm of all, by value, or by the size of each unit's weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from leanformer.config import register_config
from leanformer.errors import ConfigError


@register_config("clip")
class Clip:
    """How gradients are kept small before each step."""

    limit: float
    """Largest norm of the whole gradient, largest value in it, or largest norm of a unit's gradient in terms of that
    of its weights."""
    by: Literal["norm", "value", "adaptive"] = "norm"
    """`adaptive` compares each unit, a row of a matrix or a filter, with its weights
    (https://arxiv.org/abs/2102.06171)."""
    eps: float = 1e-3
    """What the norm of a unit's weights counts at least."""

    def __post_init__(self) -> None:
        for name in ("limit", "eps"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.by not in ("norm", "value", "adaptive"):
            raise ConfigError(f"by must be 'norm', 'value' or 'adaptive', got {self.by!r}")

    def apply(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip the gradients in place; the norm of the whole gradient before that."""
        held = [parameter for parameter in parameters if parameter.grad is not None]
        if self.by == "norm":
            return torch.nn.utils.clip_grad_norm_(held, self.limit)
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in held if parameter.grad is not None])
        if self.by == "value":
            torch.nn.utils.clip_grad_value_(held, self.limit)
        else:
            from timm.utils.agc import adaptive_clip_grad

            adaptive_clip_grad(held, clip_factor=self.limit, eps=self.eps)
        return norm
