"""Ways of looking for the best changes to make together: they choose from named changes by what trials of them show."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from leanformer.edits.plans.network import Network, Variant
from leanformer.edits.plans.scores import Figures, Score
from leanformer.errors import ConfigError

Known = dict[str, dict[str, Figures]]
"""What was measured before: for each score in words, the figures of each variant, its changes joined by commas. It is
plain JSON."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One variant and what it is worth."""

    round: int
    """Counts the sweeps over the images, from 1."""
    changes: tuple[str, ...]
    """Made together, in the order of the network."""
    score: float
    """Less is better."""
    figures: Figures
    rank: tuple[float, ...]
    """The score, and what decides between equal ones."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a search is."""

    round: int
    rounds: int
    variants: int
    """Measured in this round."""
    done: int
    """Images seen in this round, or turns of timing."""
    total: int | None
    """Of the round; None while the images were not counted."""

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total}"
        return f"round {self.round} of {self.rounds}, {self.variants} variants: {self.done}{of}"


class Trials:
    """Measures variants, each once, all of a round in one sweep over the images.

    Args:
        known: figures of earlier searches, for which the network itself is measured again and compared; new ones are
            added to it.

    Attributes:
        made: all trials so far.
    """

    def __init__(
        self, network: Network, score: Score, known: Known, what: str, progress: Callable[[Progress], None] | None
    ) -> None:
        self.network = network
        self.score = score
        self.rounds = 1
        self.made: list[Trial] = []
        self._progress = progress
        self._known = known.setdefault(f"{score.describe()}, {what}", {}) if score.steady else {}
        self._unchecked = self._known.pop("", None)

    @property
    def full(self) -> Figures:
        """The figures of the network itself."""
        return self._known[""]

    def measure(self, variants: Sequence[Sequence[str]]) -> list[Trial]:
        """The trials of `variants`, in their order, as the next round."""
        names = [self.network.ordered(variant) for variant in variants]
        self._measure([(), *names])
        found = []
        for changes in names:
            figures = self._known[",".join(changes)]
            rank = self.score.worth(figures, self.full)
            found.append(Trial(round=self._round, changes=changes, score=rank[0], figures=figures, rank=rank))
        self.made += found
        return found

    @property
    def _round(self) -> int:
        return self.made[-1].round + 1 if self.made else 1

    def _measure(self, names: Sequence[tuple[str, ...]]) -> None:
        missing = [Variant(changes) for changes in names if ",".join(changes) not in self._known]
        if not missing:
            return

        def tick(done: int, total: int | None) -> None:
            if self._progress is not None:
                counted = Progress(round=self._round, rounds=self.rounds, variants=len(missing), done=done, total=total)
                self._progress(counted)

        measured = self.score.measure(self.network, missing, tick)
        self._check_known(measured)
        for variant, figures in measured.items():
            self._known[",".join(self.network.ordered(variant))] = figures

    def _check_known(self, measured: dict[Variant, Figures]) -> None:
        """Figures of another model, or of other images, would be compared with those of this one."""
        earlier, self._unchecked = self._unchecked, None
        if earlier is None:
            return
        now = measured[Variant()]
        if earlier.keys() != now.keys() or not all(math.isclose(now[k], earlier[k], rel_tol=1e-6) for k in now):
            raise ConfigError(
                f"known holds figures of another model or of other images: the network itself gives {now}, "
                f"known says {earlier}; start with an empty one"
            )


class Search:
    """Base of the searches."""

    kind: ClassVar[str]
    needs_data: ClassVar[bool] = True

    def check(self, available: int, count: int) -> None:
        """Refuse, before anything is measured, to choose `count` of `available` changes.

        Raises:
            ConfigError: if there are too many ways.
        """

    def choose(self, network: Network, trials: Trials | None, count: int) -> tuple[str, ...]:
        """`count` of the network's changes, which can be made together; without trials only if data are not needed."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Greedy(Search):
    """Round by round, the change that is best beside those chosen before: L + (L - 1) + ... variants of L changes."""

    kind: ClassVar[str] = "greedy"

    def choose(self, network: Network, trials: Trials | None, count: int) -> tuple[str, ...]:
        """Add the best of each round; of equal ones the first."""
        assert trials is not None
        trials.rounds = count
        chosen: tuple[str, ...] = ()
        for _ in range(count):
            options = [(*chosen, name) for name in network.changes if name not in chosen]
            options = [option for option in options if network.possible(option)]
            chosen = min(trials.measure(options), key=lambda trial: trial.rank).changes
        return chosen


@dataclass(frozen=True, kw_only=True)
class Alone(Search):
    """Each change is measured alone, and those that are best alone are made together: one sweep, blind to what they do
    to each other."""

    kind: ClassVar[str] = "alone"

    def choose(self, network: Network, trials: Trials | None, count: int) -> tuple[str, ...]:
        """The best `count`; their joint score is measured in a second sweep."""
        assert trials is not None
        trials.rounds = 2
        ranked = sorted(trials.measure([(name,) for name in network.changes]), key=lambda trial: trial.rank)
        (together,) = trials.measure([_first_possible(network, [trial.changes[0] for trial in ranked], count)])
        return together.changes


@dataclass(frozen=True, kw_only=True)
class Exhaustive(Search):
    """Every choice there is, which is the best one for sure."""

    kind: ClassVar[str] = "exhaustive"
    limit: int = 1000
    """More choices than this are refused."""

    def check(self, available: int, count: int) -> None:
        """Refuse more choices than the limit."""
        choices = math.comb(available, count)
        if choices > self.limit:
            raise ConfigError(
                f"there are {choices:,} choices of {count} out of {available}, more than the limit of {self.limit:,}; "
                f"take Greedy(), which measures {count * (2 * available - count + 1) // 2}, or raise the limit"
            )

    def choose(self, network: Network, trials: Trials | None, count: int) -> tuple[str, ...]:
        """The best choice."""
        assert trials is not None
        choices = [choice for choice in combinations(network.changes, count) if network.possible(choice)]
        return min(trials.measure(choices), key=lambda trial: trial.rank).changes


@dataclass(frozen=True, kw_only=True)
class RandomChoice(Search):
    """Any, as the seed has it: what a better way has to beat."""

    kind: ClassVar[str] = "random"
    needs_data: ClassVar[bool] = False
    seed: int = 0

    def choose(self, network: Network, trials: Trials | None, count: int) -> tuple[str, ...]:
        """The seed's choice, measured if there is something to measure with."""
        shuffled = random.Random(self.seed).sample(network.changes, len(network.changes))
        return _measured(trials, _first_possible(network, shuffled, count))


@dataclass(frozen=True, kw_only=True)
class FirstOnes(Search):
    """Those that come first in the network."""

    kind: ClassVar[str] = "first"
    needs_data: ClassVar[bool] = False

    def choose(self, network: Network, trials: Trials | None, count: int) -> tuple[str, ...]:
        """The first `count`, measured if there is something to measure with."""
        return _measured(trials, _first_possible(network, network.changes, count))


def _first_possible(network: Network, order: Sequence[str], count: int) -> tuple[str, ...]:
    """The first `count` of `order` that can be made together."""
    chosen: tuple[str, ...] = ()
    for name in order:
        if len(chosen) < count and network.possible((*chosen, name)):
            chosen = (*chosen, name)
    return network.ordered(chosen)


def _measured(trials: Trials | None, chosen: tuple[str, ...]) -> tuple[str, ...]:
    if trials is not None:
        trials.measure([chosen])
    return chosen
