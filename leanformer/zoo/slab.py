"""SLAB: progressive re-parameterised BatchNorm and simplified linear attention (https://arxiv.org/abs/2405.11582, ICML
2024).

The published code has no licence; its weights are on the release page of its repository.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from leanformer.layers.attention import SimplifiedLinear, Softmax
from leanformer.layers.norm import LayerNorm, Norms, PRepBN
from leanformer.models import pvt
from leanformer.models.cswin import CSwin, cswin_small, cswin_tiny
from leanformer.models.registry import register
from leanformer.models.swin import SWIN_SOFTMAX, Swin, swin_base, swin_nano, swin_small, swin_tiny
from leanformer.models.vit import ViT, deit_small, deit_tiny
from leanformer.zoo.weights import Weights, publish

PAGE = "https://github.com/xinghaochen/SLAB"
DEIT_NORMS = Norms(block=PRepBN(start=LayerNorm(eps=1e-6)))
SWIN_NORMS = Norms(block=PRepBN(start=LayerNorm(eps=1e-5)))
PVT_NORMS = Norms(block=PRepBN(start=LayerNorm(eps=1e-6)))
PVT_V2_NORMS = replace(PVT_NORMS, reduction=LayerNorm(eps=1e-5))
P = TypeVar("P", bound=pvt.Pyramid)


@register
def deit_tiny_prepbn() -> ViT:
    """DeiT-T with progressive RepBN; the published file holds bare RepBN, which loads too."""
    return replace(deit_tiny(), norms=DEIT_NORMS, drop_path=0.0)


@register
def deit_small_prepbn() -> ViT:
    """DeiT-S with progressive RepBN."""
    return replace(deit_small(), norms=DEIT_NORMS, drop_path=0.0)


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


@register
def slab_cswin_tiny() -> CSwin:
    """CSwin-T (2-4-18-1 blocks), simplified linear attention over the whole map in stages 1-2, progressive RepBN."""
    return replace(_slab_cswin(cswin_tiny()), depths=(2, 4, 18, 1), drop_path=0.1)


@register
def slab_cswin_small() -> CSwin:
    """CSwin-S, simplified linear attention over the whole map in stages 1-2, progressive RepBN."""
    return replace(_slab_cswin(cswin_small()), drop_path=0.3)


@register
def pvt_tiny_prepbn() -> pvt.PVT:
    """PVT-Tiny with progressive RepBN, mean pooling."""
    return _pvt_prepbn(pvt.pvt_tiny(), drop_path=0.0)


@register
def pvt_small_prepbn() -> pvt.PVT:
    """PVT-Small with progressive RepBN, mean pooling."""
    return _pvt_prepbn(pvt.pvt_small(), drop_path=0.1)


@register
def pvt_medium_prepbn() -> pvt.PVT:
    """PVT-Medium with progressive RepBN, mean pooling."""
    return _pvt_prepbn(pvt.pvt_medium(), drop_path=0.3)


@register
def pvt_large_prepbn() -> pvt.PVT:
    """PVT-Large with progressive RepBN, mean pooling."""
    return _pvt_prepbn(pvt.pvt_large(), drop_path=0.1)


@register
def slab_pvt_tiny() -> pvt.PVT:
    """PVT-Tiny with simplified linear attention over the whole map and progressive RepBN, mean pooling."""
    return _linear(pvt_tiny_prepbn())


@register
def slab_pvt_small() -> pvt.PVT:
    """PVT-Small with simplified linear attention over the whole map and progressive RepBN, mean pooling."""
    return _linear(pvt_small_prepbn())


@register
def slab_pvt_medium() -> pvt.PVT:
    """PVT-Medium with simplified linear attention over the whole map and progressive RepBN, mean pooling."""
    return _linear(pvt_medium_prepbn())


@register
def slab_pvt_large() -> pvt.PVT:
    """PVT-Large with simplified linear attention over the whole map and progressive RepBN, mean pooling."""
    return _linear(pvt_large_prepbn())


@register
def pvt_v2_b0_prepbn() -> pvt.PVTv2:
    """PVTv2-B0 with progressive RepBN."""
    return replace(pvt.pvt_v2_b0(), norms=PVT_V2_NORMS, drop_path=0.1)


@register
def pvt_v2_b1_prepbn() -> pvt.PVTv2:
    """PVTv2-B1 with progressive RepBN."""
    return replace(pvt.pvt_v2_b1(), norms=PVT_V2_NORMS, drop_path=0.1)


@register
def pvt_v2_b2_prepbn() -> pvt.PVTv2:
    """PVTv2-B2 with progressive RepBN."""
    return replace(pvt.pvt_v2_b2(), norms=PVT_V2_NORMS, drop_path=0.1)


@register
def pvt_v2_b3_prepbn() -> pvt.PVTv2:
    """PVTv2-B3 with progressive RepBN."""
    return replace(pvt.pvt_v2_b3(), norms=PVT_V2_NORMS, drop_path=0.1)


@register
def pvt_v2_b4_prepbn() -> pvt.PVTv2:
    """PVTv2-B4 with progressive RepBN."""
    return replace(pvt.pvt_v2_b4(), norms=PVT_V2_NORMS, drop_path=0.1)


@register
def pvt_v2_b5_prepbn() -> pvt.PVTv2:
    """PVTv2-B5 with progressive RepBN."""
    return replace(pvt.pvt_v2_b5(), norms=PVT_V2_NORMS, drop_path=0.1)


@register
def slab_pvt_v2_b0() -> pvt.PVTv2:
    """PVTv2-B0 with simplified linear attention over the whole map and progressive RepBN."""
    return _linear(pvt_v2_b0_prepbn())


@register
def slab_pvt_v2_b1() -> pvt.PVTv2:
    """PVTv2-B1 with simplified linear attention over the whole map and progressive RepBN."""
    return _linear(pvt_v2_b1_prepbn())


@register
def slab_pvt_v2_b2() -> pvt.PVTv2:
    """PVTv2-B2 with simplified linear attention over the whole map and progressive RepBN."""
    return _linear(pvt_v2_b2_prepbn())


@register
def slab_pvt_v2_b3() -> pvt.PVTv2:
    """PVTv2-B3 with simplified linear attention over the whole map and progressive RepBN."""
    return _linear(pvt_v2_b3_prepbn())


@register
def slab_pvt_v2_b4() -> pvt.PVTv2:
    """PVTv2-B4 with simplified linear attention over the whole map and progressive RepBN."""
    return _linear(pvt_v2_b4_prepbn())


@register
def slab_pvt_v2_b5() -> pvt.PVTv2:
    """PVTv2-B5 with simplified linear attention over the whole map and progressive RepBN."""
    return _linear(pvt_v2_b5_prepbn())


def _slab_deit(base: ViT) -> ViT:
    linear = SimplifiedLinear()
    return replace(base, attention=linear, pool="mean", spare_class_token=True, norms=DEIT_NORMS, drop_path=0.0)


def _slab_swin(base: Swin) -> Swin:
    linear = SimplifiedLinear()
    return replace(
        base,
        attention=(linear, linear, SWIN_SOFTMAX, SWIN_SOFTMAX),
        window_size=(None, None, 7, 7),
        norms=SWIN_NORMS,
    )


def _slab_cswin(base: CSwin) -> CSwin:
    linear = SimplifiedLinear(spare_scale=True)
    return replace(
        base,
        attention=(linear, linear, Softmax(), Softmax()),
        split_size=(None, None, 7, None),
        norms=SWIN_NORMS,
    )


def _pvt_prepbn(base: pvt.PVT, drop_path: float) -> pvt.PVT:
    return replace(base, pool="mean", norms=PVT_NORMS, drop_path=drop_path)


def _linear(base: P) -> P:
    return replace(base, attention=SimplifiedLinear(), reductions=1)


for _name, _file, _top1 in (
    ("deit_tiny_prepbn", "deit_tiny_prepbn.pth", 73.6),
    ("deit_small_prepbn", "deit_small_prepbn.pth", 80.2),
    ("slab_deit_tiny", "slab_deit_tiny.pth", 74.3),
    ("slab_deit_small", "slab_deit_small.pth", 80.0),
    ("pvt_tiny_prepbn", "pvt_tiny_prepbn.pth", 76.0),
    ("pvt_small_prepbn", "pvt_small_prepbn.pth", 80.1),
    ("pvt_medium_prepbn", "pvt_medium_prepbn.pth", 81.7),
    ("slab_pvt_tiny", "slab_pvt_tiny.pth", 76.5),
    ("swin_tiny_prepbn", "swin_tiny_prepbn.pth", 81.4),
    ("slab_swin_tiny", "slab_swin_tiny.pth", 81.8),
    ("slab_swin_small", "slab_swin_small.pth", 83.6),
    ("slab_cswin_tiny", "slab_cswin_tiny.pth", 82.8),
):
    _url = f"{PAGE}/releases/download/ckpts/{_file}"
    publish(f"{_name}.in1k", Weights(page=f"{PAGE}/releases", file=_file, url=_url, reported={"top1": _top1}))
