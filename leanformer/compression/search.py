"""The search for a chain of edits that reaches a latency and keeps the accuracy, on this device.

Every candidate is timed in turns with the original. Those that are fast enough are evaluated on some of the images; if
none of them is accurate enough, the most promising are trained until they recover. What is chosen is measured once
more, on all images. All figures are kept on the disk as they come, so that a search that was stopped goes on.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from leanformer.compression.chain import Tell, edits_of
from leanformer.compression.choosing import Chooser
from leanformer.compression.figures import Figures, Latency, Meter
from leanformer.compression.memory import Memory
from leanformer.compression.moves import Candidate, candidates, exact_edits
from leanformer.compression.target import Target
from leanformer.compression.tuning import Tuning, keep_original
from leanformer.data import LabeledImages
from leanformer.edits import plans
from leanformer.errors import EditError
from leanformer.models import ImageClassifier

QUICK = 10
"""Rounds in which a candidate is timed at first."""
MORE_ROUNDS = (3, 9)
"""Times as many rounds where the first ones leave open whether the target is reached, and where those do."""
COMFORTABLE = 0.97
"""Of the target: a latency that noise will not carry over it."""
HOPELESS = 0.2
"""Accuracy lost without training from which on a candidate's accuracy says little of what training will recover."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What is looked for, and how long."""

    target: Target
    max_drop: float
    """Points of accuracy that may be lost."""
    tuned: int = 3
    """Candidates that are trained at most."""

    def kept(self, figures: Figures, original: Figures) -> bool:
        """Whether the accuracy is."""
        assert figures.score is not None and original.score is not None
        return 100 * (original.score - figures.score) <= self.max_drop + 1e-9


@dataclass(kw_only=True)
class Outcome:
    """What a search found."""

    model: ImageClassifier
    rows: list[Figures]
    """Everything measured with an accuracy, the original first; the last one is the choice, on all images."""
    best: Figures
    """Those of the model."""


class TargetMissed(EditError):
    """No chain of edits reached the goal."""

    exit_code = 1


@dataclass(kw_only=True)
class Searcher:
    """One search.

    Attributes:
        all_images: that the choice is measured on; the meter has some of them.
        folder: where figures and training runs are kept.
        tuning: how candidates are trained; None for not at all.
    """

    original: ImageClassifier
    meter: Meter
    chooser: Chooser
    goal: Goal
    all_images: LabeledImages
    folder: Path
    tuning: Tuning | None
    tell: Tell

    def run(self) -> Outcome:
        """Search.

        Raises:
            TargetMissed: if nothing reached the goal, with the best that did nearly.
        """
        self.memory = memory = Memory(self.folder / "figures.json", self.meter)
        told = self.chooser.progress

        def progress(made: plans.Progress) -> None:
            memory.keep_plans()
            if told is not None:
                told(made)

        self.chooser = dataclasses.replace(self.chooser, known=memory.plans(self.chooser.sees), progress=progress)
        self.first = self.memory.figures("original", lambda: self.meter.measure("original", self.original))
        self.tell(self.first.line())
        self.exact = exact_edits(self.original, self.meter, memory, self.tell)
        self.rows = [self.first]
        fast = self._fast_enough()
        for figures in map(self._figures, fast):
            self.tell(figures.line(self.first))
            if figures.score is not None:
                self.rows.append(figures)
        for model, figures in self._promising(fast):
            if (done := self._confirmed(model, figures)) is not None:
                return done
        raise self._missed()

    def _built(self, candidate: Candidate) -> ImageClassifier:
        return candidate.built(self.original, self.exact)

    def _latency(self, candidate: Candidate) -> Latency:
        return self.memory.latency(candidate.key, lambda: self.meter.latency(self._built(candidate), repeats=QUICK))

    def _fast_enough(self) -> list[Candidate]:
        """The candidates that reach the target, all of them timed."""

        def slower(candidate: Candidate) -> bool:
            return self._latency(candidate).over_original.verdict == "slower"

        found, timed, fastest = [], 0, None
        tried = candidates(self.original, self.chooser, self.tell, trainable=self.tuning is not None, slower=slower)
        for candidate in tried:
            latency = self._latency(candidate)
            timed += 1
            fastest = min(fastest or latency, latency, key=self.goal.target.excess)
            if self.goal.target.reached(latency):
                found.append(candidate)
        assert fastest is not None, "the exact edits alone are a candidate"
        self.fastest = fastest
        self.tell(f"{len(found)} of {timed} candidates reach {self.goal.target}")
        return found

    def _figures(self, candidate: Candidate) -> Figures:
        """With an accuracy, if it says anything before training."""

        def measure() -> Figures:
            model = self._built(candidate)
            return self._measure(candidate.name, model, scored=not candidate.swaps_norms)

        return self.memory.figures(candidate.key, measure)

    def _promising(self, fast: Sequence[Candidate]) -> Iterator[tuple[ImageClassifier, Figures]]:
        """Models that are fast and accurate enough on some images: as they are, then trained."""
        measured = {candidate.key: self._figures(candidate) for candidate in fast}
        fast = [candidate for candidate in fast if self.goal.target.reached(measured[candidate.key].latency)]
        accurate = [c for c in fast if not c.swaps_norms and self.goal.kept(measured[c.key], self.first)]
        for candidate in sorted(accurate, key=lambda c: -(measured[c.key].score or 0.0)):
            yield self._built(candidate), measured[candidate.key]
        if self.tuning is None:
            return
        trainable = [candidate for candidate in fast if candidate.changes]
        for candidate in sorted(trainable, key=lambda c: self._promise(measured[c.key]))[: self.goal.tuned]:
            model, figures = self._tuned(candidate)
            self.rows.append(figures)
            self.tell(figures.line(self.first))
            if self.goal.kept(figures, self.first) and self.goal.target.reached(figures.latency):
                yield model, figures

    def _promise(self, figures: Figures) -> tuple[bool, bool, int]:
        """Candidates that are still near the original come first, then those that will surely be fast enough when they
        are measured again, then those that have the most left."""
        assert self.first.score is not None
        lost = 0.0 if figures.score is None else self.first.score - figures.score
        return lost > HOPELESS, self.goal.target.excess(figures.latency) > COMFORTABLE, -figures.macs

    def _tuned(self, candidate: Candidate) -> tuple[ImageClassifier, Figures]:
        assert self.tuning is not None
        start = keep_original(self.original, self.folder / f"original-{self.meter.fingerprint}")
        key = f"{candidate.key} tuned as {self.tuning.key}"
        self.tell(f"training {candidate.name}, epochs: {self.tuning.epochs}")
        out = self.folder / f"tuned-{_digest(f'{self.meter.fingerprint} {key}')}"
        model = candidate.finished(self.tuning.run(start, self.original, candidate.changes, out), self.exact)
        name = f"{candidate.name}, trained"
        return model, self.memory.figures(key, lambda: self._measure(name, model))

    def _measure(
        self, name: str, model: ImageClassifier, *, images: LabeledImages | None = None, scored: bool = True
    ) -> Figures:
        """Figures whose latency was measured in more rounds where it is near the target."""
        figures = self.meter.measure(name, model, edits_of(model), images=images, scored=scored)
        for more in MORE_ROUNDS:
            if self.goal.target.is_open(figures.latency):
                latency = self.meter.latency(model, repeats=more * self.meter.repeats)
                figures = dataclasses.replace(figures, latency=latency)
        return figures

    def _confirmed(self, model: ImageClassifier, figures: Figures) -> Outcome | None:
        """The choice measured once more, on all images; None if it does not hold."""
        first = self.memory.figures(
            f"original, all {len(self.all_images)} images",
            lambda: self.meter.measure("original", self.original, images=self.all_images),
        )
        final = self._measure(f"{figures.name}, all images", model, images=self.all_images)
        self.rows += [dataclasses.replace(first, name="original, all images"), final]
        self.tell(final.line(first))
        if self.goal.kept(final, first) and self.goal.target.reached(final.latency):
            return Outcome(model=model, rows=self.rows, best=final)
        self.tell("this does not hold; going on")
        return None

    def _missed(self) -> TargetMissed:
        target, goal = self.goal.target, self.goal
        wanted = f"{target} with at most {goal.max_drop:g} points lost"
        reached = [row for row in self.rows[1:] if target.reached(row.latency)]
        if not reached:
            excess = target.excess(self.fastest)
            return TargetMissed(
                f"nothing reaches {wanted}: the fastest candidate has a median of {self.fastest.median_ms:#.3g} ms, "
                f"{self.fastest.over_original} of the original's speed, {excess:.2f} times the target; "
                "ask for less, or start from a smaller model"
            )
        best = max(reached, key=lambda row: row.score or 0.0)
        hint = "more --tune-epochs" if self.tuning is not None else "--tune-epochs, which trains candidates"
        text = f"nothing reaches {wanted}: the best that is fast enough is {best.line(self.first)}"
        accurate = [row for row in self.rows[1:] if goal.kept(row, self.first) and not target.reached(row.latency)]
        if accurate:
            fastest = min(accurate, key=lambda row: target.excess(row.latency))
            over = f"{target.excess(fastest.latency):.2f} times the target"
            text += f"; the fastest that is accurate enough takes {over}: {fastest.line(self.first)}"
        return TargetMissed(f"{text}; allow a larger --max-drop, ask for a little less, or try {hint}")


def _digest(text: str) -> str:
    """A short form of it, for names of files."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
