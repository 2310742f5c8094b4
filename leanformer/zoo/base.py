"""The published weights of the plain models that SLAB, FLatten and attention removal start from."""

from __future__ import annotations

from leanformer.models import Preprocess
from leanformer.zoo.weights import Weights, publish

_DEIT = "https://github.com/facebookresearch/deit"
_DINOV2 = "https://github.com/facebookresearch/dinov2"
_SWIN = "https://github.com/microsoft/Swin-Transformer"
_CSWIN = "https://github.com/microsoft/CSWin-Transformer"
_PVT = "https://github.com/whai362/PVT"

for _name, _file, _top1, _top5 in (
    ("deit_tiny", "deit_tiny_patch16_224-a1311bcf.pth", 72.2, 91.1),
    ("deit_small", "deit_small_patch16_224-cd65a155.pth", 79.9, 95.0),
    ("deit_base", "deit_base_patch16_224-b5f2ef4d.pth", 81.8, 95.6),
    ("deit_base_384", "deit_base_patch16_384-8de9b5d1.pth", 82.9, 96.2),
    ("deit_tiny_distilled", "deit_tiny_distilled_patch16_224-b40b3cf7.pth", 74.5, 91.9),
    ("deit_small_distilled", "deit_small_distilled_patch16_224-649709d9.pth", 81.2, 95.4),
    ("deit_base_distilled", "deit_base_distilled_patch16_224-df68dfff.pth", 83.4, 96.5),
    ("deit_base_distilled_384", "deit_base_distilled_patch16_384-d0272ac0.pth", 85.2, 97.2),
):
    _weights = Weights(
        page=_DEIT,
        file=_file,
        url=f"https://dl.fbaipublicfiles.com/deit/{_file}",
        sha256=_file.rpartition("-")[2].removesuffix(".pth"),
        license="Apache-2.0",
        preprocess=Preprocess(image_size=(384, 384) if _name.endswith("384") else (224, 224)),
        reported={"top1": _top1, "top5": _top5},
    )
    publish(f"{_name}.in1k", _weights)
for _name, _tag in (
    ("tiny", "augreg_in21k_ft_in1k"),
    ("small", "augreg_in21k_ft_in1k"),
    ("small", "augreg_in1k"),
    ("base", "augreg2_in21k_ft_in1k"),
    ("base", "augreg_in21k_ft_in1k"),
    ("base", "augreg_in1k"),
):
    _page = f"https://huggingface.co/timm/vit_{_name}_patch16_224.{_tag}"
    _weights = Weights(
        page=_page,
        file="model.safetensors",
        url=f"{_page}/resolve/main/model.safetensors",
        license="Apache-2.0",
        preprocess=Preprocess(crop=0.9, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    )
    publish(f"vit_{_name}.{_tag}", _weights)
for _name, _file in (
    ("vit_small_dinov2", "dinov2_vits14/dinov2_vits14_pretrain.pth"),
    ("vit_small_dinov2_registers", "dinov2_vits14/dinov2_vits14_reg4_pretrain.pth"),
    ("vit_base_dinov2", "dinov2_vitb14/dinov2_vitb14_pretrain.pth"),
    ("vit_base_dinov2_registers", "dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth"),
):
    _weights = Weights(
        page=_DINOV2,
        file=_file.rpartition("/")[2],
        url=f"https://dl.fbaipublicfiles.com/dinov2/{_file}",
        license="Apache-2.0",
        preprocess=Preprocess(image_size=(518, 518), crop=1.0),
    )
    publish(f"{_name}.lvd142m", _weights)
for _name, _file, _top1 in (
    ("swin_tiny", "swin_tiny_patch4_window7_224.pth", 81.3),
    ("swin_small", "swin_small_patch4_window7_224.pth", 83.0),
    ("swin_base", "swin_base_patch4_window7_224.pth", 83.5),
):
    _weights = Weights(
        page=_SWIN,
        file=_file,
        url=f"https://github.com/SwinTransformer/storage/releases/download/v1.0.0/{_file}",
        license="MIT",
        reported={"top1": _top1},
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
    _weights = Weights(
        page=_PVT,
        file=_file,
        url=f"{_PVT}/releases/download/v2/{_file}",
        license="Apache-2.0",
        reported={"top1": _top1},
    )
    publish(f"{_name}.in1k", _weights)
for _name, _file, _preprocess, _top1 in (
    ("cswin_tiny", "cswin_tiny_224.pth", Preprocess(crop=0.9), 82.8),
    ("cswin_small", "cswin_small_224.pth", Preprocess(crop=0.9), 83.6),
    ("cswin_base", "cswin_base_224.pth", Preprocess(crop=0.9), 84.2),
    ("cswin_base_384", "cswin_base_384.pth", Preprocess(image_size=(384, 384), crop=1.0), 85.5),
):
    _weights = Weights(
        page=_CSWIN,
        file=_file,
        url=f"{_CSWIN}/releases/download/v0.1.0/{_file}",
        license="MIT",
        reported={"top1": _top1},
        preprocess=_preprocess,
    )
    publish(f"{_name}.in1k", _weights)
