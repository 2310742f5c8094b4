"""Linear maps behind or beside each other become one: fewer, larger multiplications, and fewer passes over the
tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from leanformer.edits.edit import Edit, EditReport, edit
from leanformer.errors import EditError
from leanformer.layers.attention.additive import AdditiveAttention
from leanformer.layers.attention.frames import Frame, ReducedAttention
from leanformer.layers.attention.normalized import NormalizedKernel
from leanformer.layers.branch import Branch
from leanformer.layers.conv import ConvPosition, DepthwiseConv
from leanformer.layers.head import ClassifierHead


@edit("fuse_linear")
class FuseLinear(Edit):
    """Make one linear map of several without anything between them. Outputs are equal up to rounding.

    - projections that read the same: queries with keys and values where a PVT does not reduce the map, queries with
      keys of additive attention;
    - layer scales, with the layers whose result they scale;
    - convolutional positions, x + conv(x), with the x that is added;
    - the temperatures of normalised linear attention, with the projection behind;
    - two classifiers of the same features, of which the mean is taken.

    Norms are left to `FoldNorms`, before or after.
    """

    exact: ClassVar[bool] = True

    def apply(self, model: nn.Module) -> EditReport:
        """Fuse in place."""
        done = {what: fuse(model) for what, fuse in _FUSIONS.items()}
        if not any(done.values()):
            raise EditError(
                f"fuse_linear: {type(model).__name__} has no two linear maps without anything between them; "
                "norms are folded by fold_norms"
            )
        lines = [f"fused {len(names)} {what}" for what, names in done.items() if names]
        kept = [
            name
            for name, module in model.named_modules()
            if isinstance(module, Branch) and module.layer_scale is not None
        ]
        if kept:
            lines.append(f"the layer scales of {', '.join(kept)} stay: no linear layer gives what they scale")
        return EditReport(edit=self, lines=tuple(lines), details=done)


def _fuse_reduced(model: nn.Module) -> list[str]:
    names = []
    for name, owner, attribute, mixer in _children(model):
        if isinstance(mixer, ReducedAttention) and mixer.reduce is None:
            new = mixer.fused().train(mixer.training)
            site = getattr(mixer, "site", None)
            new.attention = getattr(mixer, "attention", None)  # type: ignore[assignment]
            new.site = None if site is None else replace(site, reduction=None)  # type: ignore[assignment]
            owner.add_module(attribute, new)
            names.append(name)
    return names


def _fuse_additive(model: nn.Module) -> list[str]:
    names = []
    for name, _, _, mixer in _children(model):
        if isinstance(mixer, AdditiveAttention) and mixer.qk is None:
            mixer.fuse()
            mixer.site = None  # type: ignore[assignment]  # no config builds it
            names.append(name)
    return names


@torch.no_grad()
def _fuse_layer_scales(model: nn.Module) -> list[str]:
    names = []
    for name, branch in model.named_modules():
        if not isinstance(branch, Branch) or branch.layer_scale is None:
            continue
        layers = branch.body.exit_layers() if hasattr(branch.body, "exit_layers") else ()  # type: ignore[operator]
        gamma = branch.layer_scale.gamma
        for layer in layers:
            layer.weight.mul_(gamma.view(-1, *[1] * (layer.weight.ndim - 1)))
            if layer.bias is not None:
                layer.bias.mul_(gamma)
        if layers:
            branch.layer_scale = None
            names.append(f"{name}.layer_scale")
    return names


@torch.no_grad()
def _fuse_positions(model: nn.Module) -> list[str]:
    names = []
    for name, owner, attribute, position in _children(model):
        if isinstance(position, ConvPosition) and not position.gelu:
            side = position.kernel_size[0]
            conv = DepthwiseConv(position.in_channels, side).to(position.weight)
            conv.load_state_dict(position.state_dict())
            conv.weight[:, 0, side // 2, side // 2] += 1.0
            owner.add_module(attribute, conv.train(position.training))
            names.append(name)
    return names


@torch.no_grad()
def _fuse_temperatures(model: nn.Module) -> list[str]:
    names = []
    for name, _, _, mixer in _children(model):
        if not isinstance(mixer, Frame) or not isinstance(mixer.kernel, NormalizedKernel):
            continue
        kernel = mixer.kernel
        if mixer.proj is None or mixer.value_position is not None or kernel.temperature is None:
            continue
        head_dim = kernel.dim // kernel.num_heads
        mixer.proj.weight.mul_(kernel.temperature.flatten().repeat_interleave(head_dim))
        kernel.temperature = None
        names.append(f"{name}.kernel.temperature")
    return names


@torch.no_grad()
def _fuse_classifiers(model: nn.Module) -> list[str]:
    names = []
    for name, head in model.named_modules():
        if isinstance(head, ClassifierHead) and head.pool == "mean" and len(head.classifiers()) == 2:
            first, second = head.classifiers()
            first.weight.copy_((first.weight + second.weight) / 2)
            first.bias.copy_((first.bias + second.bias) / 2)
            head.distillation = None
            names.append(f"{name}.distillation")
    return names


_FUSIONS: dict[str, Callable[[nn.Module], list[str]]] = {
    "projections of queries, keys and values": _fuse_reduced,
    "projections of additive attention": _fuse_additive,
    "layer scales": _fuse_layer_scales,
    "convolutional positions": _fuse_positions,
    "temperatures": _fuse_temperatures,
    "second classifiers": _fuse_classifiers,
}


def _children(model: nn.Module) -> list[tuple[str, nn.Module, str, nn.Module]]:
    """Every module with its dotted name, its owner and its name there."""
    return [
        (f"{prefix}.{name}" if prefix else name, owner, name, child)
        for prefix, owner in model.named_modules()
        for name, child in owner.named_children()
    ]
