from __future__ import annotations

import pytest
import torch

import leanformer


@pytest.fixture(scope="session")
def small():
    """A model of 24 x 16 pixels whose classes have names that formats have to write with care."""
    torch.manual_seed(0)
    built = leanformer.build("deit_nano", image_size=(24, 16), patch_size=8, depth=1, num_classes=3)
    built.set_classes(("ant", "<bee> & 'wasp'", "été"))
    return built.eval()
