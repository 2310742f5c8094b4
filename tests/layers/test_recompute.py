"""Blocks that are computed a second time give what a plain call gives."""

from __future__ import annotations

import copy

import pytest
import torch

import leanformer
from leanformer.layers.block import BlockSequence
from leanformer.layers.norm import BatchNorm, LayerNorm, Norms, PRepBN
from leanformer.models import ImageClassifier


def checkpointed(model: ImageClassifier) -> ImageClassifier:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, BlockSequence):
            module.checkpointing = True
    return model


@pytest.mark.parametrize("norm", [LayerNorm(), BatchNorm(), PRepBN()], ids=lambda norm: norm.kind)
def test_gradients_and_running_statistics_are_those_of_a_plain_step(norm):
    plain = leanformer.build("swin_nano", norms=Norms(block=norm), drop_path=0.5).train()
    again = checkpointed(plain)
    images = torch.randn(3, 3, 64, 64)
    for model in (plain, again):
        torch.manual_seed(1)
        model(images).square().sum().backward()
    for (name, kept), redone in zip(plain.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(redone.grad, kept.grad, msg=lambda text, name=name: f"{name}: {text}")
    for (name, kept), redone in zip(plain.named_buffers(), again.buffers(), strict=True):
        assert torch.equal(redone, kept), name


def test_less_is_kept_for_the_backward_pass():
    def kept_bytes(model: ImageClassifier) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            model(torch.randn(2, 3, 64, 64))
        return sum(sizes)

    model = leanformer.build("deit_nano").train()
    assert kept_bytes(checkpointed(model)) < 0.3 * kept_bytes(model)


def test_without_gradients_nothing_changes():
    model = leanformer.build("deit_nano").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(checkpointed(model)(images), model(images))
