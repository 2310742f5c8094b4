"""Optimizers as values, the parameter groups they work on, and their state as named tensors."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from leanformer.config import register_config
from leanformer.errors import ConfigError, suggestion
from leanformer.training.groups import Groups, parameter_groups

UNFIT = frozenset({"adahessian", "kron", "kronc", "kronw"})
"""Optimizers of timm that differentiate the gradient, or that draw random numbers of their own."""

OWN_KEYS = frozenset({"params", "param_names", "lr", "weight_decay", "base_lr", "base_weight_decay"})
"""What a group holds beside what its optimizer keeps there."""


class OptimizerConfig:
    """Base of the configs of optimizers. Schedules multiply `lr` and `weight_decay`."""

    kind: ClassVar[str]
    lr: float
    weight_decay: float
    groups: Groups

    def __post_init__(self) -> None:
        if not 0.0 <= self.lr < float("inf"):
            raise ConfigError(f"the learning rate (lr) must be finite and not negative, got {self.lr}")
        if not 0.0 <= self.weight_decay < float("inf"):
            raise ConfigError(f"weight_decay must be finite and 0 or more, got {self.weight_decay}")

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the model's parameters, weight decay left out where it does harm."""
        return self.make(parameter_groups(model, self.lr, self.weight_decay, self.groups))

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the given parameter groups."""
        raise NotImplementedError


@register_config("adamw")
class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101)."""

    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    groups: Groups = Groups()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"betas must be 0 or more and below 1, got {self.betas}")
        if not 0.0 <= self.eps < float("inf"):
            raise ConfigError(f"eps must be finite and 0 or more, got {self.eps}")

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the given parameter groups."""
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


@register_config("sgd")
class SGD(OptimizerConfig):
    """Gradient descent with momentum."""

    lr: float = 0.1
    weight_decay: float = 1e-4
    momentum: float = 0.9
    nesterov: bool = False
    groups: Groups = Groups()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.momentum < float("inf"):
            raise ConfigError(f"momentum must be finite and 0 or more, got {self.momentum}")
        if self.nesterov and self.momentum == 0.0:
            raise ConfigError("nesterov needs a momentum above 0, got 0; set momentum, or leave out nesterov")

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the given parameter groups."""
        fused = not any(hasattr(p, "placements") for g in groups for _, p in g["params"])  # DTensors lack a kernel
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=fused)


@register_config("timm_optimizer")
class TimmOptimizer(OptimizerConfig):
    """An optimizer that timm knows by name, such as `lamb`, `lion` or `adan`."""

    name: str
    lr: float = 1e-3
    weight_decay: float = 0.05
    options: tuple[tuple[str, Any], ...] = ()
    """(argument, value) pairs for it, such as `("betas", (0.9, 0.98))`."""
    groups: Groups = Groups()

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the given parameter groups.

        Raises:
            ConfigError: for an unknown name or option.
        """
        from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[reportPrivateImportUsage]

        names = [str(name) for name in list_optimizers()]
        if self.name not in names:
            raise ConfigError(f"timm has no optimizer {self.name!r}{suggestion(self.name, names)}")
        if self.name in UNFIT:
            raise ConfigError(f"a run with {self.name!r} could not be resumed exactly; choose another optimizer")
        try:
            made = create_optimizer_v2(
                groups, opt=self.name, lr=self.lr, weight_decay=self.weight_decay, **dict(self.options)
            )
        except (TypeError, ValueError, AssertionError, ModuleNotFoundError) as error:
            raise ConfigError(f"the optimizer {self.name!r} cannot be made: {error}") from error
        if not isinstance(made, torch.optim.Optimizer):
            raise ConfigError(f"{self.name!r} wraps another optimizer; name that one")
        return made


def scale_groups(optimizer: torch.optim.Optimizer, what: str, factor: float) -> None:
    """Set `lr` or `weight_decay` of every group to `factor` times its base value."""
    for group in optimizer.param_groups:
        group[what] = group[f"base_{what}"] * factor


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The optimizer's state as tensors and as plain numbers, each named `<parameter>.<key>`, or `group <i>.<key>` for
    what it counts for a whole group."""
    tensors, numbers = {}, {}
    for index, group in enumerate(optimizer.param_groups):
        counted = {key: value for key, value in group.items() if key not in {*OWN_KEYS, *optimizer.defaults}}
        items = [(f"group {index}", counted)]
        items += [
            (name, optimizer.state.get(parameter, {}))
            for name, parameter in zip(group["param_names"], group["params"], strict=True)
        ]
        for name, values in items:
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"] = value
                elif isinstance(value, (int, float)):
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
    for index, group in enumerate(packed["param_groups"]):
        for key in [key for key in group if key not in {*OWN_KEYS, *optimizer.defaults}]:
            del group[key]
        group.update(state.pop(f"group {index}", {}))
    ids = {
        name: index
        for group in packed["param_groups"]
        for name, index in zip(group["param_names"], group["params"], strict=True)
    }
    packed["state"] = {ids[name]: values for name, values in state.items()}
    optimizer.load_state_dict(packed)
    _restore_forms(optimizer, tensors)


def _restore_forms(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Undo torch's cast of an optimizer's state to the type of its parameter, and lay it out in memory like the
    parameter, as fused optimizers take for granted."""
    for group in optimizer.param_groups:
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            values = optimizer.state.get(parameter, {})
            for key, value in values.items():
                saved = tensors.get(f"{name}.{key}")
                if saved is not None and saved.shape == parameter.shape:
                    values[key] = torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False).copy_(saved)
                elif saved is not None and saved.dtype != value.dtype:
                    values[key] = saved.to(value.device)
