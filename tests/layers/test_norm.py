"""RepBN and PRepBN: what they compute in each mode, and what a schedule may ask of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from leanformer.config import registered_kinds
from leanformer.errors import ConfigError
from leanformer.layers.norm import FrozenAffine, LayerNorm, NormConfig, PRepBN, RepBN, batch_norm_affine


def shaken(norm: nn.Module) -> nn.Module:
    for parameter in norm.parameters():
        nn.init.normal_(parameter, 1.0, 0.2)
    for name, buffer in norm.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 2.0)
    return norm


@pytest.mark.parametrize("norm", registered_kinds(NormConfig).values())
@pytest.mark.parametrize("eps", [-1e-5, float("nan"), float("inf")])
def test_an_eps_that_no_norm_can_take_is_refused(norm: type[NormConfig], eps: float) -> None:
    with pytest.raises(ConfigError, match=f"eps must be at least 0, got {eps}"):
        norm(eps=eps)  # type: ignore[call-arg]


def test_affine_is_what_eval_mode_computes() -> None:
    x = torch.randn(3, 33, 7)
    for norm in (shaken(RepBN().build(7)).eval(), shaken(PRepBN().build(7)).eval()):
        scale, shift = norm.affine()
        torch.testing.assert_close(norm(x), scale * x + shift)
        torch.testing.assert_close(FrozenAffine(scale, shift)(x), norm(x))
    bn = shaken(nn.BatchNorm2d(7)).eval()
    scale, shift = batch_norm_affine(bn)
    image = torch.randn(2, 7, 3, 5)
    torch.testing.assert_close(bn(image), scale[:, None, None] * image + shift[:, None, None])


def test_train_mode_blends_by_the_share_and_eval_mode_ignores_it() -> None:
    norm = shaken(PRepBN(start=LayerNorm(eps=1e-6)).build(7))
    x = torch.randn(3, 33, 7)
    norm.train()
    start, rep = norm.start(x), norm.rep(x)
    for share in (1.0, 0.25):
        norm.set_scheduled(share)
        torch.testing.assert_close(norm(x), share * start + (1 - share) * rep)
    evaluated = norm.eval()(x)
    norm.set_scheduled(0.9)
    assert torch.equal(norm(x), evaluated)


def test_the_start_norm_rests_at_share_zero_and_the_rep_norm_during_warm_up() -> None:
    norm = shaken(PRepBN().build(7)).train()
    before = norm.rep.bn.running_mean.clone()
    norm.set_scheduled(1.5)
    norm(torch.randn(3, 5, 7)).sum().backward()
    assert norm.rep.alpha.grad is None and norm.start.weight.grad is not None
    assert torch.equal(norm.rep.bn.running_mean, before)
    assert norm.progress.item() == 1.0
    norm.zero_grad(set_to_none=True)
    norm.set_scheduled(0.0)
    norm(torch.randn(3, 5, 7)).sum().backward()
    assert norm.start.weight.grad is None and norm.rep.alpha.grad is not None
    assert not torch.equal(norm.rep.bn.running_mean, before)


def test_the_share_is_a_buffer_so_one_exported_graph_serves_all_values() -> None:
    norm = shaken(PRepBN().build(7)).train()
    x = torch.randn(3, 5, 7)
    norm.set_scheduled(0.5)
    program = torch.export.export(norm, (x,)).module()
    program.progress.fill_(0.25)
    expected = 0.25 * norm.start(x) + 0.75 * norm.rep(x)
    torch.testing.assert_close(program(x), expected)


@pytest.mark.parametrize("config", [RepBN(), PRepBN()])
def test_statistics_run_over_batch_and_tokens(config: RepBN | PRepBN) -> None:
    norm = config.build(5).train()
    rep = norm if isinstance(config, RepBN) else norm.rep
    rep.bn.momentum = 1.0
    x = torch.randn(4, 9, 5) * 3 + 1
    norm(x)
    torch.testing.assert_close(rep.bn.running_mean, x.flatten(0, 1).mean(0))
    torch.testing.assert_close(rep.bn.running_var, x.flatten(0, 1).var(0))
