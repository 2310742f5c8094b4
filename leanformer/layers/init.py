"""Named initialisation schemes."""

from __future__ import annotations

from torch import nn


def trunc_normal_linears(model: nn.Module, std: float = 0.02) -> None:
    """The scheme of ViT, DeiT and Swin: linear weights from a truncated normal, their biases zero; the rest as torch
    has it."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
