"""Named initialisation schemes."""

from __future__ import annotations

import math

from torch import nn


def trunc_normal_linears(model: nn.Module, std: float = 0.02) -> None:
    """The scheme of ViT, DeiT and Swin: linear weights from a truncated normal, their biases zero; the rest as torch
    has it."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def trunc_normal_weights(model: nn.Module, std: float = 0.02) -> None:
    """The scheme of SwiftFormer and L2ViT: weights of linear layers and convolutions from a truncated normal, their
    biases zero."""
    trunc_normal_linears(model, std)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def fan_out_convs(model: nn.Module) -> None:
    """The scheme of PVTv2 for convolutions: a normal of variance 2 / (kernel area x outputs / groups), biases zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
