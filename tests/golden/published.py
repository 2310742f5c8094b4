"""What it means to equal a published model, for the tests of every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import golden
import numpy as np
import torch

import leanformer
from leanformer.models import BackboneConfig, ImageClassifier
from leanformer.zoo.weights import layout_of

HERE = Path(__file__).parent
DEAD = 1e-8
"""A gradient norm below this part of the largest is rounding."""


def weights_of(meta: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What a checkpoint of a golden file's model would hold."""
    return {key: torch.from_numpy(value) for key, value in golden.state_dict(meta).items()}


def close(actual: torch.Tensor, expected: np.ndarray, atol: float = 1e-5) -> None:
    """Equal to `atol` of the largest expected value."""
    scale = max(float(np.abs(expected).max()), 1e-30)
    np.testing.assert_allclose(actual.detach().numpy() / scale, expected / scale, rtol=0, atol=atol)


def check_model(path: str, model: str | BackboneConfig) -> ImageClassifier:
    """Load the golden weights of `path` under their published keys, strictly, and compare the number of parameters, the
    outputs and the gradient norms. Gives the model."""
    meta, expected = golden.load(HERE / f"{path}.npz")
    loaded = leanformer.load(model, weights=weights_of(meta))
    assert sum(p.numel() for p in loaded.parameters()) == meta["num_params"]

    output = loaded(torch.from_numpy(golden.example_input(meta["input_shape"])))
    close(output, expected["output"])

    largest = np.nanmax(expected["grad_norms"])
    norms = gradient_norms(loaded, output, meta)
    np.testing.assert_allclose(norms, expected["grad_norms"], rtol=1e-3, atol=DEAD * largest)
    return loaded


def gradient_norms(model: ImageClassifier, output: torch.Tensor, meta: dict[str, Any]) -> list[float]:
    """The norms of the gradients of mean(output^2) in the order of a golden file; NaN for parameters without one."""
    output.square().mean().backward()
    key_map = layout_of(model.config).map_for(model.config)
    grads = key_map.to_published({k: p.grad for k, p in model.named_parameters() if p.grad is not None})
    return [grads[key].norm().item() if key in grads else float("nan") for key in meta["params"]]


def check_round_trip(path: str, model: str | BackboneConfig) -> None:
    """The weights of a golden file come back from a model under their published names, bit for bit."""
    meta, _ = golden.load(HERE / f"{path}.npz")
    weights = weights_of(meta)
    loaded = leanformer.load(model, weights=weights)
    back = layout_of(loaded.config).map_for(loaded.config).to_published(loaded.state_dict())
    assert set(weights) <= set(back)
    assert all(torch.equal(back[key], value) for key, value in weights.items())
