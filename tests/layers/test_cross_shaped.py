"""Cross-shaped attention: who sees whom, and what stays the same at other sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from leanformer.errors import ConfigError
from leanformer.layers.attention import Softmax
from leanformer.layers.attention.cross_shaped import CrossShaped, cross_shaped
from leanformer.layers.region import Stripes
from leanformer.layers.site import Site
from leanformer.models import ImageClassifier, find

GRID = (7, 9)


def attention(split_size: int | None, num_heads: int = 4) -> CrossShaped:
    torch.manual_seed(0)
    return cross_shaped(Softmax(), Site(dim=16, num_heads=num_heads, grid=GRID), split_size)


def test_half_of_the_channels_see_their_stripe_down_the_map_and_half_theirs_across() -> None:
    mixer = attention(2)
    mixer.proj = nn.Identity()
    x = torch.randn(3, 63, 16)
    changed = x.clone()
    changed[:, 4 * 9 + 5] += 1.0  # the token in row 4 and column 5
    differs = (mixer(changed, GRID) - mixer(x, GRID)).abs().sum(0).view(*GRID, 16) > 1e-6
    rows, columns = torch.arange(7)[:, None].expand(GRID), torch.arange(9).expand(GRID)
    assert torch.equal(differs[..., :8].any(-1), columns // 2 == 2)
    assert torch.equal(differs[..., 8:].any(-1), rows // 2 == 2)


def test_stripes_as_wide_as_the_map_give_what_one_branch_gives() -> None:
    striped, whole = attention(9), attention(None)
    for target, *parts in (
        (whole.branches[0].qkv, *(branch.qkv for branch in striped.branches)),
        (whole.branches[0].value_position, *(branch.value_position for branch in striped.branches)),
    ):
        groups = 3 if isinstance(target, nn.Linear) else 1
        for name in ("weight", "bias"):
            rows = [getattr(part, name).detach().unflatten(0, (groups, -1)) for part in parts]
            getattr(target, name).data.copy_(torch.cat(rows, dim=1).flatten(0, 1))
    whole.proj.load_state_dict(striped.proj.state_dict())
    x = torch.randn(3, 63, 16)
    torch.testing.assert_close(striped(x, GRID), whole(x, GRID))


def test_a_stripe_is_never_wider_than_the_map() -> None:
    assert Stripes(5, "down").size((7, 3)) == (7, 3)
    assert Stripes(5, "across").size((7, 3)) == (5, 3)


def test_parameters_do_not_depend_on_the_size_of_the_images() -> None:
    config = find("cswin_nano")
    small, large = (ImageClassifier(replace(config, image_size=size)).state_dict() for size in (32, (96, 160)))
    assert {k: v.shape for k, v in small.items()} == {k: v.shape for k, v in large.items()}


def test_heads_and_stripes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_heads must be even, got 1; or take split_size None"):
        attention(2, num_heads=1)
    with pytest.raises(ConfigError, match="split_size must be positive, or None .* got 0"):
        attention(0)
