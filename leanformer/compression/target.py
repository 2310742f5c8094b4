"""What a search is to reach."""

from __future__ import annotations

import re
from dataclasses import dataclass

from leanformer.compression.figures import Latency
from leanformer.errors import ConfigError

_TARGET = re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(x|ms)\s*")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A latency: a share of the original's, or milliseconds on this device."""

    share: float | None = None
    milliseconds: float | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """`0.6x` or `8ms`.

        Raises:
            ConfigError: for anything else, a share of 1 or more included.
        """
        found = _TARGET.fullmatch(text)
        if found is None or float(found[1]) <= 0:
            raise ConfigError(
                f"a target latency is a share of the model's own, such as 0.6x, or milliseconds, such as 8ms; "
                f"got {text!r}"
            )
        value = float(found[1])
        if found[2] == "ms":
            return cls(milliseconds=value)
        if value >= 1:
            raise ConfigError(f"a target of {text} asks for nothing: give a share below 1, such as 0.6x")
        return cls(share=value)

    def reached(self, latency: Latency) -> bool:
        """Whether a latency is within the target."""
        return self.excess(latency) <= 1.0

    def excess(self, latency: Latency) -> float:
        """The latency over the target."""
        if self.milliseconds is not None:
            return latency.median_ms / self.milliseconds
        assert self.share is not None
        return 1.0 / latency.over_original.speedup / self.share

    def is_open(self, latency: Latency) -> bool:
        """Whether a latency is so near the target that its spread leaves open whether it is within."""
        if self.milliseconds is not None:
            return latency.p10_ms <= self.milliseconds <= latency.p90_ms
        assert self.share is not None
        return latency.over_original.low <= 1.0 / self.share <= latency.over_original.high

    def __str__(self) -> str:
        return f"{self.milliseconds:g} ms" if self.share is None else f"{self.share:g}x of the original's latency"
