"""Weights trained at one resolution load at another as the published fine-tuning does it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from published import close

import leanformer
from leanformer.checkpoints.resize import resize_position
from leanformer.models import BackboneConfig
from leanformer.zoo.convert import to_layout
from leanformer.zoo.identify import published_shapes

HERE = Path(__file__).parent
SMALL = {"depths": (1, 1, 2, 1)}
SWIN = {"dims": (8, 16, 32, 64), "num_heads": (1, 1, 2, 2), **SMALL}
CSWIN = {"dims": (16, 32, 64, 128), "num_heads": (2, 2, 4, 4), **SMALL}


def filled(config: BackboneConfig, gain: float = 1.0) -> dict[str, torch.Tensor]:
    """The golden weights of a model under their published keys."""
    shapes = published_shapes(config)
    return {key: torch.from_numpy(golden.fill(key, shape, "", gain)) for key, shape in shapes.items()}


def arrays_of(path: str) -> tuple[dict, dict[str, np.ndarray]]:
    arrays = np.load(HERE / f"{path}.npz")
    return json.loads(str(arrays["meta"])), dict(arrays)


@pytest.mark.parametrize(
    ("path", "name", "changes", "grown"),
    [
        ("flatten/resize_swin_224_to_384", "flatten_swin_tiny", SWIN, {"window_size": (None, None, 12, 12)}),
        ("flatten/resize_cswin_224_to_384", "flatten_cswin_tiny", CSWIN, {"split_size": (None, None, 12, None)}),
    ],
)
def test_flatten_fine_tunes_at_384_from_what_was_trained_at_224(path, name, changes, grown):
    meta, expected = arrays_of(path)
    config = replace(leanformer.models.find(name), **changes)
    model = leanformer.load(config, weights=filled(config), image_size=384, **grown)
    back = to_layout(model, "published")
    for index, key in enumerate(meta["picked"]):
        close(back[key], expected[f"extra_resized_{index}"])
    close(model(torch.from_numpy(golden.example_input((1, 3, 384, 384)))), expected["output"])
    assert len(model.origin["changed"]) == 1


def test_slab_fine_tunes_at_384_with_a_classifier_of_zeros():
    _, expected = arrays_of("slab/modules/load_pretrained")
    config = replace(leanformer.models.find("slab_swin_tiny"), absolute_position=True)
    larger = {"image_size": 384, "window_size": (None, None, 12, 12)}
    model = leanformer.load(config, weights=filled(config, gain=0.6), num_classes=10, **larger)
    back = to_layout(model, "published")
    close(back["layers.2.blocks.0.attn.relative_position_bias_table"], expected["extra_rpb_l2b0"])
    for key, name in (("layers.0.blocks.0.attn.positional_encoding", "pe_l0b0"),
                      ("layers.1.blocks.1.attn.positional_encoding", "pe_l1b1"),
                      ("absolute_pos_embed", "ape")):  # fmt: skip
        close(back[key][0, ::97], expected[f"extra_{name}_every97"])
    assert not back["head.weight"].any() and not back["head.bias"].any()
    model.head.linear = torch.nn.Identity()
    close(model(torch.from_numpy(golden.example_input((1, 3, 384, 384)))), expected["output"])


@pytest.mark.parametrize("side", [24, 7, 14])
def test_deit_keeps_the_position_of_its_class_token(side):
    _, expected = arrays_of("attention_removal/module_pos_embed_resize")
    table = torch.from_numpy(golden.example_input((1, 197, 16)))
    close(resize_position(table, (side, side), prefix_tokens=1), expected[f"extra_14to{side}"])
