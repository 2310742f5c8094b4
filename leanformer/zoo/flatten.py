"""FLatten: focused linear attention (https://arxiv.org/abs/2308.00442, ICCV 2023).

The published code has no licence. Its evaluation squashes images to a square before the centre crop, and the reported
accuracies come from that. The normaliser of the published code changed after the weights were released (a sum over keys
became their mean); both forms have the same keys and differ by less than 1e-5 in the scores.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from leanformer.layers.attention import FocusedLinear, Softmax
from leanformer.models import Preprocess, pvt
from leanformer.models.cswin import CSwin, cswin_base, cswin_small, cswin_tiny
from leanformer.models.registry import register
from leanformer.models.swin import SWIN_SOFTMAX, Swin, swin_base, swin_small, swin_tiny
from leanformer.zoo.weights import Weights, publish

PAGE = "https://github.com/LeapLabTHU/FLatten-Transformer"
P = TypeVar("P", bound=pvt.Pyramid)


@register
def flatten_swin_tiny() -> Swin:
    """Swin-T, focused linear attention over the whole map in stages 1-2, softmax in windows after."""
    return _flatten_swin(swin_tiny())


@register
def flatten_swin_small() -> Swin:
    """Swin-S, focused linear attention over the whole map in stages 1-2, softmax in windows after."""
    return _flatten_swin(swin_small())


@register
def flatten_swin_base() -> Swin:
    """Swin-B, focused linear attention over the whole map in stages 1-2, softmax in windows after."""
    return _flatten_swin(swin_base())


@register
def flatten_swin_base_384() -> Swin:
    """Swin-B at 384 pixels with windows of 12 in stages 3-4."""
    return replace(flatten_swin_base(), image_size=384, window_size=(None, None, 12, 12))


@register
def flatten_cswin_tiny() -> CSwin:
    """CSwin-T (2-4-18-1 blocks), focused linear attention over the whole map in stages 1-2, softmax after."""
    return replace(_flatten_cswin(cswin_tiny()), depths=(2, 4, 18, 1))


@register
def flatten_cswin_small() -> CSwin:
    """CSwin-S, focused linear attention over the whole map in stages 1-2, softmax after."""
    return _flatten_cswin(cswin_small())


@register
def flatten_cswin_base() -> CSwin:
    """CSwin-B (3-6-29-2 blocks), focused linear attention over the whole map in stages 1-2, softmax after."""
    return replace(_flatten_cswin(cswin_base()), depths=(3, 6, 29, 2))


@register
def flatten_cswin_base_384() -> CSwin:
    """FLatten-CSwin-B at 384 pixels with stripes of 12 in stage 3."""
    return replace(flatten_cswin_base(), image_size=384, split_size=(None, None, 12, None), drop_path=0.7)


@register
def flatten_pvt_tiny() -> pvt.PVT:
    """PVT-Tiny with focused linear attention over the whole map, mean pooling."""
    return _flatten_pvt(pvt.pvt_tiny())


@register
def flatten_pvt_small() -> pvt.PVT:
    """PVT-Small with focused linear attention over the whole map, mean pooling."""
    return _flatten_pvt(pvt.pvt_small())


@register
def flatten_pvt_medium() -> pvt.PVT:
    """PVT-Medium with focused linear attention over the whole map, mean pooling."""
    return _flatten_pvt(pvt.pvt_medium())


@register
def flatten_pvt_base() -> pvt.PVT:
    """PVT-Large with focused linear attention over the whole map, mean pooling. FLatten calls it base."""
    return _flatten_pvt(pvt.pvt_large())


@register
def flatten_pvt_v2_b0() -> pvt.PVTv2:
    """PVTv2-B0 with focused linear attention over the whole map."""
    return _linear(pvt.pvt_v2_b0())


@register
def flatten_pvt_v2_b1() -> pvt.PVTv2:
    """PVTv2-B1 with focused linear attention over the whole map."""
    return _linear(pvt.pvt_v2_b1())


@register
def flatten_pvt_v2_b2() -> pvt.PVTv2:
    """PVTv2-B2 with focused linear attention over the whole map."""
    return _linear(pvt.pvt_v2_b2())


@register
def flatten_pvt_v2_b3() -> pvt.PVTv2:
    """PVTv2-B3 with focused linear attention over the whole map."""
    return _linear(pvt.pvt_v2_b3())


@register
def flatten_pvt_v2_b4() -> pvt.PVTv2:
    """PVTv2-B4 with focused linear attention over the whole map."""
    return _linear(pvt.pvt_v2_b4())


@register
def flatten_pvt_v2_b5() -> pvt.PVTv2:
    """PVTv2-B5 with focused linear attention over the whole map."""
    return _linear(pvt.pvt_v2_b5())


def _flatten_swin(base: Swin) -> Swin:
    linear = FocusedLinear()
    return replace(base, attention=(linear, linear, SWIN_SOFTMAX, SWIN_SOFTMAX), window_size=(None, None, 7, 7))


def _flatten_cswin(base: CSwin) -> CSwin:
    linear = FocusedLinear()
    return replace(base, attention=(linear, linear, Softmax(), Softmax()), split_size=(None, None, 7, None))


def _flatten_pvt(base: pvt.PVT) -> pvt.PVT:
    return replace(_linear(base), pool="mean", spare_norm=True)


def _linear(base: P) -> P:
    return replace(base, attention=FocusedLinear(), reductions=1)


for _name, _preprocess, _reported in (
    ("flatten_pvt_tiny", Preprocess(fit="squash"), {"top1": 77.758, "top5": 93.910}),
    ("flatten_pvt_v2_b0", Preprocess(fit="squash"), {"top1": 71.098, "top5": 90.596}),
    ("flatten_swin_tiny", Preprocess(fit="squash"), {"top1": 82.106, "top5": 95.900}),
    ("flatten_swin_small", Preprocess(fit="squash"), {"top1": 83.5}),
    ("flatten_swin_base", Preprocess(fit="squash"), {"top1": 83.8}),
    ("flatten_swin_base_384", Preprocess(image_size=(384, 384), fit="squash", crop=1.0), {"top1": 85.0}),
    ("flatten_cswin_tiny", Preprocess(fit="squash"), {"top1": 83.130, "top5": 96.376}),
):
    publish(f"{_name}.in1k", Weights(page=PAGE, preprocess=_preprocess, reported=_reported))
