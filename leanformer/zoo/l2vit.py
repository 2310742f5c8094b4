"""The published weights of L2ViT (https://arxiv.org/abs/2501.16182).

A file whose name ends in `best-ema` may hold two sets of weights: the code that wrote it keeps the raw ones under
`model` and the averaged ones under `model_ema`, and its own evaluation reads `model`. Loading takes `model`; `ema=True`
takes the other. Which of the two reaches the published accuracy is not known.

Evaluation below 384 pixels resizes the shorter side and crops; at 384 it squashes the whole image.
"""

from __future__ import annotations

from leanformer.models import Preprocess
from leanformer.zoo.weights import Weights, publish

PAGE = "https://github.com/ChuanyangZheng/L2ViT/releases/tag/v1.0"
_FILES = PAGE.replace("tag", "download")
_AT_384 = Preprocess(image_size=(384, 384), fit="squash", crop=1.0)

for _name, _file, _reported, _preprocess in (
    ("l2vit_tiny.in1k", "L2ViT-Tiny-checkpoint-best-ema.pth", {"top1": 83.1}, Preprocess()),
    ("l2vit_small.in1k", "L2ViT-Small-checkpoint-best-ema.pth", {"top1": 84.1}, Preprocess()),
    ("l2vit_base.in1k", "L2ViT-Base-checkpoint-best-ema.pth", {"top1": 84.384, "top5": 96.902}, Preprocess()),
    (
        "l2vit_base.in22k_in1k",
        "L2ViT-Base-22k21k-finetune-224-checkpoint-best.pth",
        {"top1": 86.0},
        Preprocess(),
    ),
    ("l2vit_base.in22k", "L2ViT-Base-22k-pretrain-checkpoint-best.pth", {}, Preprocess()),
    ("l2vit_base_384.in22k_in1k", "L2ViT-Base-22k21k-finetune-384-checkpoint-best.pth", {"top1": 87.0}, _AT_384),
):
    _weights = Weights(
        page=PAGE,
        file=_file,
        url=f"{_FILES}/{_file}",
        license="MIT",
        preprocess=_preprocess,
        reported=_reported,
    )
    publish(_name, _weights)
