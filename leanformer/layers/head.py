"""From the last tokens to class scores."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from leanformer.layers.site import NormSite

Pool = Literal["mean", "token"]


class ClassifierHead(nn.Module):
    """Norm, pooling and a linear classifier.

    Args:
        pool: "mean" over the tokens of the map, or the first "token".
        num_classes: 0 for the pooled features themselves.
        prefix_tokens: tokens in front of the map, left out of the mean.
    """

    def __init__(
        self, dim: int, num_classes: int, norm: nn.Module, pool: Pool = "mean", prefix_tokens: int = 0
    ) -> None:
        super().__init__()
        self.norm = norm
        self.pool = pool
        self.prefix_tokens = prefix_tokens
        self.linear = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def norm_sites(self) -> tuple[NormSite, ...]:
        """The norm in front of the classifier; pooling lies between, and commutes with a folded norm."""
        after = (self.linear,) if isinstance(self.linear, nn.Linear) else ()
        return (NormSite(owner=self, attribute="norm", after=after),)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to (B, num_classes)."""
        x = self.norm(x)
        pooled = x[:, 0] if self.pool == "token" else x[:, self.prefix_tokens :].mean(dim=1)
        return self.linear(pooled)
