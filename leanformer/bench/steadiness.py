"""Whether a machine was steady while it was measured: figures of one that was not are worth little."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from leanformer.bench.latency import quantile

BUSY = 1.3
"""Spread (90 % over 10 % quantile) of the times of one runner from which on something else was running."""
DRIFTED = 1.1
"""Change from the first third of the rounds to the last that is no accident."""
FEWEST = 9
"""Rounds from which on either can be told."""


def disturbances(name: str, seconds: Sequence[float]) -> list[str]:
    """What was wrong with the machine, in sentences, by the times of one runner in the order of the rounds."""
    if len(seconds) < FEWEST:
        return []
    found, ordered = [], sorted(seconds)
    spread = quantile(ordered, 0.9) / quantile(ordered, 0.1)
    if spread > BUSY:
        found.append(
            f"the machine was busy: times of {name} spread {spread:.1f}-fold (90 % over 10 % quantile); measure again "
            "when nothing else runs"
        )
    third = len(seconds) // 3
    drift = statistics.median(seconds[-third:]) / statistics.median(seconds[:third])
    if not 1 / DRIFTED <= drift <= DRIFTED:
        change = f"slower by {drift - 1:.0%}" if drift > 1 else f"faster by {1 - drift:.0%}"
        found.append(
            f"the machine drifted: {name} became {change} from the first to the last third of the rounds; speed-ups "
            "hold, as all were measured in turns, but times do not"
        )
    return found
