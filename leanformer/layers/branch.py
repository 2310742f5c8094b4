"""The one residual branch: x + drop_path(scale * body(norm(x))), the body acting inside a region; and the forms of a
branch whose body fades out or is gone ("MLP Can Be A Good Transformer Learner", https://arxiv.org/abs/2404.05657)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from leanformer.layers.region import Window
from leanformer.layers.site import Grid, NormSite

Body = Callable[[Tensor, Grid], Tensor]
"""What gives a branch's result before it is scaled and added."""


class Branch(nn.Module):
    """A normalised, optionally windowed body added to its input.

    Args:
        body: maps (x, grid) to tokens like x, and names the layers that read x first in `entry_layers()`; those whose
            result is its own in `exit_layers()`, if it ends with any.
        norm: None for none.
        region: windows in which the body runs; None for the whole map.
        layer_scale: learned factors on the body's result; None for none.
        drop_path: probability that a sample skips the body while training.
    """

    def __init__(
        self,
        body: nn.Module,
        *,
        norm: nn.Module | None = None,
        region: Window | None = None,
        layer_scale: LayerScale | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm = norm
        self.body = body
        self.region = region
        self.layer_scale = layer_scale
        self.drop_path = DropPath(drop_path)

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm in front of the body."""
        if self.norm is None:
            return ()
        after = self.body.entry_layers()  # type: ignore[operator]
        inner = self.body.paddings() if hasattr(self.body, "paddings") else ()  # type: ignore[operator]
        paddings = (*inner, *(() if self.region is None else (self.region,)))
        return (NormSite(owner=self, attribute="norm", after=after, paddings=paddings),)

    def update(self, x: Tensor, grid: Grid, body: Body | None = None) -> Tensor:
        """The residual update alone, (B, N, C); that of `body` in place of the branch's own, if one is given."""
        body = self.body if body is None else body
        y = x if self.norm is None else self.norm(x)
        y = body(y, grid) if self.region is None else self.region(body, y, grid)
        return self.drop_path(y if self.layer_scale is None else self.layer_scale(y))

    def forward(self, x: Tensor, grid: Grid, body: Body | None = None) -> Tensor:
        """(B, N, C) to (B, N, C), with `body` in place of the branch's own, if one is given."""
        return x + self.update(x, grid, body)


RemovedForm = Literal["identity", "skip"]
"""What a body becomes when it is gone: the identity, so that x becomes x + x, or nothing, so that x stays."""


class DilutedBranch(Branch):
    """A branch that fades out: (2 - share) x + share * update(x), or x + share * update(x) in the form "skip".

    With share 1 it is the branch, bit for bit. With share 0 the body no longer runs, so its parameters get no
    gradient, and what is left is 2 x, or x. The share is that of training and evaluation alike.

    Args:
        branch: its parts are taken over, under their names.
    """

    scheduled: ClassVar[str] = "attention_share"
    share: Tensor

    def __init__(self, branch: Branch, form: RemovedForm = "identity") -> None:
        super().__init__(branch.body, norm=branch.norm, region=branch.region, layer_scale=branch.layer_scale)
        self.drop_path = branch.drop_path
        self.training = branch.training
        self.form: RemovedForm = form
        self.gone = False
        device = next((parameter.device for parameter in branch.parameters()), None)
        self.register_buffer("share", torch.ones((), device=device))

    def set_scheduled(self, value: float) -> None:
        """Set the share of the body's update, in [0, 1]."""
        value = min(max(value, 0.0), 1.0)
        self.gone = value == 0.0
        self.share.fill_(value)

    def follow_buffers(self) -> None:
        """Take the share from its buffer, which was loaded."""
        self.set_scheduled(self.share.item())

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.follow_buffers()

    def forward(self, x: Tensor, grid: Grid, body: Body | None = None) -> Tensor:
        """(B, N, C) to (B, N, C), with `body` in place of the branch's own, if one is given."""
        skip = self.form == "skip"
        if self.gone:
            return x if skip else 2.0 * x
        kept = x if skip else (2.0 - self.share) * x
        return kept + self.share * self.update(x, grid, body)

    def extra_repr(self) -> str:
        """What is left when the share is 0."""
        return f"form={self.form}"


class LayerScale(nn.Module):
    """One learned factor for each channel (https://arxiv.org/abs/2103.17239)."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(init * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Scale x, (..., C)."""
        return x * self.gamma


class Rescale(nn.Module):
    """A fixed multiple of the tokens: what stays of a branch whose body became the identity."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, N, C) to (B, N, C); the grid is not used."""
        return x * self.factor

    def extra_repr(self) -> str:
        """The factor."""
        return f"factor={self.factor}"


class DropPath(nn.Module):
    """Stochastic depth (https://arxiv.org/abs/1603.09382): zero whole samples while training, scale the kept ones
    up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of x, (B, ...)."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        kept = torch.empty(x.shape[0], *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * (kept / keep)

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate:.3f}"
