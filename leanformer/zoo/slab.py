"""SLAB: progressive re-parameterised BatchNorm and simplified linear attention (https://arxiv.org/abs/2405.11582, ICML
2024).

The published code has no licence; its weights are on the release page of its repository.
"""

from __future__ import annotations

from dataclasses import replace

from leanformer.layers.attention import SimplifiedLinear
from leanformer.layers.norm import LayerNorm, Norms, PRepBN
from leanformer.models.registry import register
from leanformer.models.swin import SWIN_SOFTMAX, Swin, swin_base, swin_nano, swin_small, swin_tiny
from leanformer.models.vit import ViT, deit_small, deit_tiny
from leanformer.zoo.weights import Weights, publish

PAGE = "https://github.com/xinghaochen/SLAB"
DEIT_NORMS = Norms(block=PRepBN(start=LayerNorm(eps=1e-6)))
SWIN_NORMS = Norms(block=PRepBN(start=LayerNorm(eps=1e-5)))


@register
def deit_tiny_prepbn() -> ViT:
    """DeiT-T with progressive RepBN; the published file holds bare RepBN, which loads too."""
    return replace(deit_tiny(), norms=DEIT_NORMS)


@register
def deit_small_prepbn() -> ViT:
    """DeiT-S with progressive RepBN."""
    return replace(deit_small(), norms=DEIT_NORMS)


@register
def slab_deit_tiny() -> ViT:
    """DeiT-T with simplified linear attention and progressive RepBN, mean pooling."""
    return _slab_deit(deit_tiny())


@register
def slab_deit_small() -> ViT:
    """DeiT-S with simplified linear attention and progressive RepBN, mean pooling."""
    return _slab_deit(deit_small())


@register
def swin_tiny_prepbn() -> Swin:
    """Swin-T with progressive RepBN; the published file holds bare RepBN, which loads too."""
    return replace(swin_tiny(), norms=SWIN_NORMS, drop_path=0.1)


@register
def slab_swin_tiny() -> Swin:
    """Swin-T, simplified linear attention over the whole map in stages 1-2, progressive RepBN."""
    return _slab_swin(swin_tiny())


@register
def slab_swin_small() -> Swin:
    """Swin-S, simplified linear attention over the whole map in stages 1-2, progressive RepBN."""
    return _slab_swin(swin_small())


@register
def slab_swin_base() -> Swin:
    """Swin-B, simplified linear attention over the whole map in stages 1-2, progressive RepBN."""
    return _slab_swin(swin_base())


@register
def slab_swin_nano() -> Swin:
    """A SLAB model of 0.4 million parameters for small images: simplified linear attention throughout, convolutional
    stem."""
    return replace(swin_nano(), attention=SimplifiedLinear(), window_size=None, norms=SWIN_NORMS)


def _slab_deit(base: ViT) -> ViT:
    return replace(base, attention=SimplifiedLinear(), pool="mean", spare_class_token=True, norms=DEIT_NORMS)


def _slab_swin(base: Swin) -> Swin:
    linear = SimplifiedLinear()
    return replace(
        base,
        attention=(linear, linear, SWIN_SOFTMAX, SWIN_SOFTMAX),
        window_size=(None, None, 7, 7),
        norms=SWIN_NORMS,
    )


for _name, _file, _top1 in (
    ("deit_tiny_prepbn", "deit_tiny_prepbn.pth", 73.6),
    ("deit_small_prepbn", "deit_small_prepbn.pth", 80.2),
    ("slab_deit_tiny", "slab_deit_tiny.pth", 74.3),
    ("slab_deit_small", "slab_deit_small.pth", 80.0),
    ("swin_tiny_prepbn", "swin_tiny_prepbn.pth", 81.4),
    ("slab_swin_tiny", "slab_swin_tiny.pth", 81.8),
    ("slab_swin_small", "slab_swin_small.pth", 83.6),
):
    publish(f"{_name}.in1k", Weights(page=f"{PAGE}/releases", file=_file, reported={"top1": _top1}))
