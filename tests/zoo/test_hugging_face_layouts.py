"""Models of Hugging Face transformers with random weights, saved as they save them, give their outputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import check_equal, randomize
from safetensors.torch import load_file

from leanformer.layers.norm import LayerNorm, Norms
from leanformer.models.pvt import PVTv2
from leanformer.models.swin import Swin
from leanformer.models.vit import ViT

pytestmark = pytest.mark.extras
transformers = pytest.importorskip("transformers")

VIT = ViT(image_size=32, patch_size=8, dim=32, depth=2, num_heads=2, num_classes=5)
BACKBONE = replace(VIT, num_classes=0)
DINOV2 = replace(BACKBONE, layer_scale=1e-5)
SWIN = Swin(image_size=64, dims=(12, 24), depths=(2, 2), num_heads=(1, 2), window_size=4, num_classes=5)
EPS = LayerNorm(eps=1e-6)
SIZES = {
    "hidden_sizes": [16, 32, 64, 128],
    "depths": [1, 2, 1, 1],
    "num_attention_heads": [1, 2, 4, 8],
    "image_size": 64,
}
PVT_V2 = PVTv2(
    image_size=64,
    dims=(16, 32, 64, 128),
    depths=(1, 2, 1, 1),
    num_heads=(1, 2, 4, 8),
    num_classes=5,
    norms=Norms(block=EPS),
)
# class of transformers, its config, our config, layout
CASES = {
    "ViTForImageClassification": ("ViT", VIT, "hugging_face"),
    "ViTModel": ("ViT", BACKBONE, "hugging_face_backbone"),
    "DeiTForImageClassificationWithTeacher": ("DeiT", VIT, "hugging_face_deit"),
    "Dinov2Model": ("Dinov2", DINOV2, "hugging_face_dinov2"),
    "Dinov2WithRegistersModel": ("Dinov2WithRegisters", DINOV2, "hugging_face_dinov2"),
    "SwinForImageClassification": ("Swin", SWIN, "hugging_face"),
    "SwinModel": ("Swin", replace(SWIN, num_classes=0), "hugging_face_backbone"),
    "PvtV2ForImageClassification": ("PvtV2", PVT_V2, "hugging_face"),
    "PvtV2Model": ("PvtV2", replace(PVT_V2, num_classes=0), "hugging_face_backbone"),
}


def options(family: str) -> dict[str, Any]:
    if family == "Swin":
        return {"image_size": 64, "embed_dim": 12, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
    if family == "PvtV2":
        return SIZES
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    return sizes if family.startswith("Dinov2") else {**sizes, "intermediate_size": 128, "layer_norm_eps": 1e-6}


def save(name: str, family: str, folder: Path, **more: Any) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    config = getattr(transformers, f"{family}Config")(num_labels=5, **options(family), **more)
    model = getattr(transformers, name)(config).eval()
    randomize(model)
    model.save_pretrained(folder)
    return model, load_file(folder / "model.safetensors")


def scores(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    out = model(images)
    if "logits" in out:
        return out.logits
    last = out.last_hidden_state
    return (
        last.mean(dim=(2, 3)) if last.ndim == 4 else last.mean(dim=1) if "Swin" in type(model).__name__ else last[:, 0]
    )


@pytest.mark.parametrize("name", CASES)
def test_equal_weights_give_equal_outputs(name: str, tmp_path: Path) -> None:
    family, ours, layout = CASES[name]
    model, weights = save(name, family, tmp_path)
    loaded = check_equal(ours, weights, lambda images: scores(model, images), layout)
    if isinstance(loaded.config, ViT):
        assert loaded.config.registers == (4 if "Registers" in name else 0)
        assert loaded.config.distilled == ("Teacher" in name)


def test_linear_pvt_v2_loads_too(tmp_path: Path) -> None:
    model, weights = save("PvtV2ForImageClassification", "PvtV2", tmp_path, linear_attention=True)
    check_equal(replace(PVT_V2, linear=True), weights, lambda images: scores(model, images), "hugging_face")
