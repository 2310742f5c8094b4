"""From the last tokens to class scores."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from leanformer.layers.site import NormSite

Pool = Literal["mean", "token"]


class ClassifierHead(nn.Module):
    """Norm, pooling and a linear classifier, or two of them.

    With `distilled` a second classifier learns from a teacher (https://arxiv.org/abs/2012.12877, section 3): it reads
    the second token, or the same mean. The scores are the mean of both; set `separate` to get the pair while training.

    Args:
        pool: "mean" over the tokens of the map, or the first "token".
        num_classes: 0 for the pooled features themselves.
        prefix_tokens: tokens in front of the map, left out of the mean.
        norm: None where the tokens come normalised.
        pool_first: normalise what was pooled, not the tokens.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        norm: nn.Module | None,
        pool: Pool = "mean",
        prefix_tokens: int = 0,
        distilled: bool = False,
        *,
        pool_first: bool = False,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.separate = False
        self.pool_first = pool_first
        self.norm = norm
        self.pool = pool
        self.prefix_tokens = prefix_tokens
        self.linear = nn.Linear(dim, num_classes) if num_classes else nn.Identity()
        self.distillation = (nn.Linear(dim, num_classes) if num_classes else nn.Identity()) if distilled else None

    def classifiers(self) -> tuple[nn.Linear, ...]:
        """The linear layers that read the pooled tokens; none for a head that gives the features themselves."""
        return tuple(layer for layer in (self.linear, self.distillation) if isinstance(layer, nn.Linear))

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm in front of the classifier; pooling lies between, and commutes with a folded norm."""
        return (
            ()
            if self.norm is None
            else (NormSite(owner=self, attribute="norm", place="final", after=self.classifiers()),)
        )

    def normalize(self, x: Tensor) -> Tensor:
        """The tokens (B, N, C) as they are pooled."""
        return x if self.norm is None or self.pool_first else self.norm(x)

    def read(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each classifier reads of normalised tokens (B, N, C), each (B, C)."""
        pooled = x[:, 0] if self.pool == "token" else x[:, self.prefix_tokens :].mean(dim=1)
        if self.norm is not None and self.pool_first:
            pooled = self.norm(pooled)
        if self.distillation is None:
            return (pooled,)
        return pooled, x[:, 1] if self.pool == "token" else pooled

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """(B, N, C) to (B, num_classes); to a pair of them while training with `separate`."""
        return self.classify(*self.read(self.normalize(x)))

    def classify(self, pooled: Tensor, taught: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Scores (..., num_classes) of what `read` gave; a pair of them while training with `separate`."""
        if self.distillation is None:
            return self.linear(pooled)
        scores, distilled = self.linear(pooled), self.distillation(taught)
        return (scores, distilled) if self.training and self.separate else (scores + distilled) / 2
