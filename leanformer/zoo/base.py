"""The published weights of the plain models that SLAB, FLatten and attention removal start from."""

from __future__ import annotations

from leanformer.models import Preprocess
from leanformer.zoo.weights import Weights, publish

_DEIT = "https://github.com/facebookresearch/deit"
_SWIN = "https://github.com/microsoft/Swin-Transformer"

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
