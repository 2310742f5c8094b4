"""Optimizers as values, the parameter groups they work on, and their state as named tensors."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from leanformer.config import register_config
from leanformer.errors import ConfigError


class OptimizerConfig:
    """Base of the configs of optimizers. Schedules multiply `lr` and `weight_decay`."""

    kind: ClassVar[str]
    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.lr < float("inf"):
            raise ConfigError(f"the learning rate (lr) must be finite and not negative, got {self.lr}")
        if self.weight_decay < 0.0:
            raise ConfigError(f"weight_decay must be 0 or more, got {self.weight_decay}")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters, weight decay left out where it does harm."""
        raise NotImplementedError


@register_config("adamw")
class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101)."""

    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters."""
        groups = parameter_groups(model, self.lr, self.weight_decay)
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


@register_config("sgd")
class SGD(OptimizerConfig):
    """Gradient descent with momentum."""

    lr: float = 0.1
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters."""
        groups = parameter_groups(model, self.lr, self.weight_decay)
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of named parameters: with weight decay, and without it.

    Decay spares biases, everything of at most one axis (norms, scales) and what the model names in `no_weight_decay()`.
    A group keeps `base_lr` and `base_weight_decay`, which schedules multiply.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("the model has no parameter to train: all of them are frozen")
    spared: set[str] = model.no_weight_decay() if hasattr(model, "no_weight_decay") else set()  # type: ignore[operator]

    def decays(name: str, parameter: Tensor) -> bool:
        return parameter.ndim > 1 and not name.endswith("bias") and name not in spared

    with_decay = [(name, p) for name, p in trained if decays(name, p)]
    without = [(name, p) for name, p in trained if not decays(name, p)]
    pairs = ((with_decay, weight_decay), (without, 0.0))
    return [
        {"params": named, "weight_decay": decay, "base_lr": lr, "base_weight_decay": decay}
        for named, decay in pairs
        if named
    ]


def scale_groups(optimizer: torch.optim.Optimizer, what: str, factor: float) -> None:
    """Set `lr` or `weight_decay` of every group to `factor` times its base value."""
    for group in optimizer.param_groups:
        group[what] = group[f"base_{what}"] * factor


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The optimizer's state as tensors and as plain numbers, each named `<parameter>.<key>`."""
    tensors, numbers = {}, {}
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"] = value
                elif value is not None:
                    numbers[f"{name}.{key}"] = value
    return tensors, numbers


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], numbers: dict[str, float]
) -> None:
    """Restore what `optimizer_state` gave; the groups keep the values that their config gave them."""
    state: dict[str, dict[str, Any]] = {}
    for full_name, value in (*tensors.items(), *numbers.items()):
        name, _, key = full_name.rpartition(".")
        state.setdefault(name, {})[key] = value
    packed = optimizer.state_dict()
    ids = {
        name: index
        for group in packed["param_groups"]
        for name, index in zip(group["param_names"], group["params"], strict=True)
    }
    packed["state"] = {ids[name]: values for name, values in state.items()}
    optimizer.load_state_dict(packed)
