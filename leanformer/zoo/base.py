"""The published weights of the plain models that SLAB, FLatten and attention removal start from."""

from __future__ import annotations

from leanformer.models import Preprocess
from leanformer.zoo.weights import Weights, publish

_DEIT = "https://github.com/facebookresearch/deit"
_SWIN = "https://github.com/microsoft/Swin-Transformer"
_PVT = "https://github.com/whai362/PVT"

for _name, _file, _top1 in (
    ("deit_tiny", "deit_tiny_patch16_224-a1311bcf.pth", 72.2),
    ("deit_small", "deit_small_patch16_224-cd65a155.pth", 79.9),
    ("deit_base", "deit_base_patch16_224-b5f2ef4d.pth", 81.8),
):
    publish(f"{_name}.in1k", Weights(page=_DEIT, file=_file, license="Apache-2.0", reported={"top1": _top1}))
for _name, _file, _top1 in (
    ("swin_tiny", "swin_tiny_patch4_window7_224.pth", 81.3),
    ("swin_small", "swin_small_patch4_window7_224.pth", 83.0),
    ("swin_base", "swin_base_patch4_window7_224.pth", 83.5),
):
    _weights = Weights(
        page=_SWIN, file=_file, license="MIT", reported={"top1": _top1}, preprocess=Preprocess(interpolation="bicubic")
    )
    publish(f"{_name}.in1k", _weights)
for _name, _file, _top1 in (
    ("pvt_tiny", "pvt_tiny.pth", 75.1),
    ("pvt_small", "pvt_small.pth", 79.8),
    ("pvt_medium", "pvt_medium.pth", 81.2),
    ("pvt_large", "pvt_large.pth", 81.7),
    ("pvt_v2_b0", "pvt_v2_b0.pth", 70.5),
    ("pvt_v2_b1", "pvt_v2_b1.pth", 78.7),
    ("pvt_v2_b2", "pvt_v2_b2.pth", 82.0),
    ("pvt_v2_b2_linear", "pvt_v2_b2_li.pth", 82.1),
    ("pvt_v2_b3", "pvt_v2_b3.pth", 83.1),
    ("pvt_v2_b4", "pvt_v2_b4.pth", 83.6),
    ("pvt_v2_b5", "pvt_v2_b5.pth", 83.8),
):
    publish(f"{_name}.in1k", Weights(page=_PVT, file=_file, license="Apache-2.0", reported={"top1": _top1}))
