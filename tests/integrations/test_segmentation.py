"""segmentation-models-pytorch builds on leanformer's models through timm."""

from __future__ import annotations

import pytest
import torch

import leanformer.integrations.timm  # noqa: F401 - registers the models

pytestmark = pytest.mark.extras
smp = pytest.importorskip("segmentation_models_pytorch")


@pytest.mark.parametrize("size", [(64, 64), (128, 160)], ids=str)
@pytest.mark.parametrize("architecture", ["Unet", "FPN", "UPerNet"])
@pytest.mark.parametrize("encoder", ["l2vit_tiny", "flatten_swin_tiny"])
def test_it_decodes_the_maps_of_four_stages(architecture, encoder, size):
    model = getattr(smp, architecture)(f"tu-{encoder}", encoder_weights=None, classes=5, depths=(1, 1, 1, 1))
    masks = model(torch.randn(2, 3, *size))
    assert masks.shape == (2, 5, *size)
    masks.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())


def test_it_takes_other_channels_and_a_pyramid_of_two_stages():
    model = smp.Unet(
        "tu-swin_nano", encoder_weights=None, in_channels=4, encoder_depth=3, decoder_channels=(32, 16, 8), classes=3
    )
    assert model(torch.randn(1, 4, 40, 72)).shape == (1, 3, 40, 72)


def test_a_dense_prediction_transformer_decodes_the_blocks_of_a_vit():
    model = smp.DPT("tu-deit_nano", encoder_weights=None, classes=3)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3, 64, 64)
