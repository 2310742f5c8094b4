"""Models of other libraries as oracles: random weights in theirs, loaded into ours under their key names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import leanformer
from leanformer.models import BackboneConfig, ImageClassifier
from leanformer.zoo.weights import layout_of


@torch.no_grad()
def randomize(model: nn.Module) -> None:
    """Give every parameter values that matter, tokens, positions and norms included."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            ones = not name.endswith("bias")
            parameter.copy_(ones + 0.1 * noise)
        elif parameter.ndim == 3 or "table" in name:
            parameter.copy_(0.3 * noise)
        else:
            parameter.copy_(0.7 * noise / parameter[0].numel() ** 0.5)


def check_equal(
    config: str | BackboneConfig, weights: Mapping[str, Tensor], theirs: Callable[[Tensor], Tensor], layout: str
) -> ImageClassifier:
    """Load weights into ours, strictly, and compare the outputs to 1e-5 of their scale, and the weights that go back,
    bit for bit. Gives the model."""
    ours = leanformer.load(config, weights=dict(weights)).eval()
    images = torch.randn(2, 3, *ours.config.image_grid, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    found = layout_of(ours.config, {key: tuple(value.shape) for key, value in weights.items()})
    assert found.name == layout
    back = found.map_for(ours.config).to_published(ours.state_dict())
    assert all(torch.equal(value, weights[key]) for key, value in back.items())
    return ours
