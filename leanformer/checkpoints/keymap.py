"""Key maps: the names and layouts of a published checkpoint on one side, ours on the other, as data that reads both
ways.

A key map is strict: a name that no rule knows is an error, so that nothing is left out of a model in silence. The
first rule that matches wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor

from leanformer.checkpoints.pattern import Pattern, Values
from leanformer.errors import CheckpointError, nearest

_SHOWN = 5


class Rule:
    """Base of the rules: the patterns of both sides, and what happens to the tensors between them."""

    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """(published patterns, our patterns); all of one side are needed to make the other."""
        raise NotImplementedError

    def forward(self, published: list[Tensor]) -> list[Tensor]:
        """Our tensors from the published ones, each in the order of `patterns`. ValueError says what does not fit."""
        return published

    def backward(self, ours: list[Tensor]) -> list[Tensor]:
        """The inverse of `forward`."""
        return ours


@dataclass(frozen=True)
class Rename(Rule):
    """The same tensor under another name."""

    published: str
    ours: str

    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """One name for one name."""
        return (self.published,), (self.ours,)


@dataclass(frozen=True)
class Drop(Rule):
    """A published tensor that we derive or do not need; it is not restored on the way back."""

    published: str

    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """One name for none."""
        return (self.published,), ()

    def forward(self, published: list[Tensor]) -> list[Tensor]:
        """Nothing."""
        return []


@dataclass(frozen=True)
class SplitRows(Rule):
    """One published tensor whose rows are several of ours, of equal size.

    With `groups` the rows are first that many groups (q, k, v: 3), each of which holds a share of every one of ours.
    """

    published: str
    ours: tuple[str, ...]
    groups: int = 1

    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """One name for several."""
        return (self.published,), self.ours

    def forward(self, published: list[Tensor]) -> list[Tensor]:
        """Cut."""
        return _cut(published[0], len(self.ours), self.groups)

    def backward(self, ours: list[Tensor]) -> list[Tensor]:
        """Join."""
        return [_join(ours, self.groups)]


@dataclass(frozen=True)
class JoinRows(Rule):
    """Several published tensors of equal size that are, one after the other, the rows of one of ours."""

    published: tuple[str, ...]
    ours: str

    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Several names for one."""
        return self.published, (self.ours,)

    def forward(self, published: list[Tensor]) -> list[Tensor]:
        """Join."""
        return [_join(published, 1)]

    def backward(self, ours: list[Tensor]) -> list[Tensor]:
        """Cut."""
        return _cut(ours[0], len(self.published), 1)


@dataclass(frozen=True)
class Reshape(Rule):
    """The same numbers in another shape, written as `"c 1 1 -> c"`: axes of size 1 come and go, named axes change
    places."""

    published: str
    ours: str
    shape: str

    def __post_init__(self) -> None:
        left, right = (sorted(axis for axis in side if axis != "1") for side in self._sides())
        assert left == right and len(set(left)) == len(left), f"axes of both sides differ in {self.shape!r}"

    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """One name for one name."""
        return (self.published,), (self.ours,)

    def forward(self, published: list[Tensor]) -> list[Tensor]:
        """From the shape left of the arrow to the one right of it."""
        left, right = self._sides()
        return [_rearrange(published[0], left, right)]

    def backward(self, ours: list[Tensor]) -> list[Tensor]:
        """From the shape right of the arrow to the one left of it."""
        left, right = self._sides()
        return [_rearrange(ours[0], right, left)]

    def _sides(self) -> tuple[list[str], list[str]]:
        left, arrow, right = self.shape.partition("->")
        assert arrow, f"{self.shape!r} has no '->'"
        return left.split(), right.split()


@dataclass(frozen=True)
class ScheduleCounters(Rule):
    """The counters of a published progressive norm (`iter`, `total_step`, `warm` under `published`) as our `progress`
    under `ours`.

    The progress is iter / total_step. On the way back the counters are the smallest integers with that quotient, warm
    being 0.
    """

    published: str
    ours: str

    def patterns(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Three names for one."""
        return tuple(f"{self.published}.{leaf}" for leaf in ("iter", "total_step", "warm")), (f"{self.ours}.progress",)

    def forward(self, published: list[Tensor]) -> list[Tensor]:
        """The progress, 0-d."""
        if any(t.numel() != 1 for t in published):
            raise ValueError(f"counters of shapes {[tuple(t.shape) for t in published]}")
        left, total = (int(t) for t in published[:2])
        if not 0 <= left <= max(total, 0):
            raise ValueError(f"iter is {left} of total_step {total}")
        return [torch.tensor(left / total if left else 0.0)]

    def backward(self, ours: list[Tensor]) -> list[Tensor]:
        """The counters, int64 and 0-d."""
        share = Fraction(float(ours[0])).limit_denominator(2**31)
        return [torch.tensor(count) for count in (share.numerator, share.denominator, 0)]


class _Found(NamedTuple):
    rule: int
    slot: int
    values: tuple[tuple[str, int | str], ...]


class KeyMap:
    """Rules between published and our tensors. Maps compose by their rules: `KeyMap(*A.rules, *more, name="b")`."""

    def __init__(self, *rules: Rule, name: str = "unnamed") -> None:
        self.rules = rules
        self.name = name
        self._published: list[list[Pattern]] = []
        self._ours: list[list[Pattern]] = []
        for rule in rules:
            published, ours = ([Pattern(text) for text in side] for side in rule.patterns())
            expected = (ours or published)[0].names
            assert all(p.names == expected for p in published + ours), f"placeholders of both sides differ: {rule}"
            self._published.append(published)
            self._ours.append(ours)

    def to_ours(self, published: Mapping[str, Tensor], *, source: str = "checkpoint") -> dict[str, Tensor]:
        """Our tensors from published ones; `source` is what errors call them.

        Raises:
            CheckpointError: if a name matches no rule, two names become one, or a tensor does not fit its rule.
        """
        return self._convert(published, source, back=False)

    def to_published(self, ours: Mapping[str, Tensor], *, source: str = "model") -> dict[str, Tensor]:
        """The inverse: published names and layouts, without what was dropped. Gradients convert like weights."""
        return self._convert(ours, source, back=True)

    def rename(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """For each published name, our names of what becomes of it; empty if it is dropped."""
        keys = list(keys)
        found = self._find_all(keys, "checkpoint", back=False, shapes={})
        return {key: _filled(self._ours[hit.rule], hit) for key, hit in zip(keys, found, strict=True)}

    def match(self, key: str) -> list[str] | None:
        """Our names of what becomes of a published one: empty if it is dropped, None if no rule knows it."""
        hit = self._find(key)
        return None if hit is None else _filled(self._ours[hit.rule], hit)

    def published_name(self, ours: str) -> list[str]:
        """The published names of what becomes our tensor `ours`."""
        (hit,) = self._find_all([ours], "model", back=True, shapes={})
        return _filled(self._published[hit.rule], hit)

    def _convert(self, tensors: Mapping[str, Tensor], source: str, *, back: bool) -> dict[str, Tensor]:
        groups: dict[tuple[int, tuple], dict[int, str]] = {}
        keys = list(tensors)
        found = self._find_all(keys, source, back=back, shapes={key: tuple(t.shape) for key, t in tensors.items()})
        for key, hit in zip(keys, found, strict=True):
            groups.setdefault((hit.rule, hit.values), {})[hit.slot] = key
        out: dict[str, Tensor] = {}
        origins: dict[str, str] = {}
        for (index, values), slots in groups.items():
            names = self._names(index, values, slots, source, back)
            made = self._apply(self.rules[index], [tensors[name] for name in names], names, source, back)
            targets = self._published[index] if back else self._ours[index]
            for target, tensor in zip(_filled(targets, _Found(index, 0, values)), made, strict=True):
                if target in out:
                    raise CheckpointError(
                        f"{source}: {origins[target]} and {names[0]} both become {target} in the key map "
                        f"{self.name!r}; the file mixes two layouts"
                    )
                out[target], origins[target] = tensor, names[0]
        return out

    def _names(self, index: int, values: tuple, slots: dict[int, str], source: str, back: bool) -> list[str]:
        """The names that a rule takes, all of which must be there."""
        wanted = _filled(self._ours[index] if back else self._published[index], _Found(index, 0, values))
        missing = [name for slot, name in enumerate(wanted) if slot not in slots]
        if missing:
            raise CheckpointError(
                f"{source}: {', '.join(missing)} missing beside {', '.join(slots.values())}\n"
                f"  the key map {self.name!r} needs all of them: {self.rules[index]}"
            )
        return wanted

    def _apply(self, rule: Rule, tensors: list[Tensor], names: list[str], source: str, back: bool) -> list[Tensor]:
        try:
            return rule.backward(tensors) if back else rule.forward(tensors)
        except ValueError as error:
            raise CheckpointError(
                f"{source}: {', '.join(names)}: {error}\n  rule of the key map {self.name!r}: {rule}"
            ) from error

    def _find_all(self, keys: Sequence[str], source: str, *, back: bool, shapes: Mapping[str, tuple]) -> list[_Found]:
        found = {key: self._find_back(key) if back else self._find(key) for key in keys}
        unmatched = [key for key, hit in found.items() if hit is None]
        if unmatched:
            raise CheckpointError(self._unmatched(unmatched, source, back, shapes))
        return [hit for key in keys if (hit := found[key]) is not None]

    def _find(self, key: str) -> _Found | None:
        return next(self._matches(key, self._published, self._ours), None)

    def _find_back(self, key: str) -> _Found | None:
        """The rule that makes our `key`: its published names must themselves lead to that rule."""
        for hit in self._matches(key, self._ours, self._published):
            published = [self._find(name) for name in _filled(self._published[hit.rule], hit)]
            if all(back and (back.rule, back.values) == (hit.rule, hit.values) for back in published):
                return hit
        return None

    def _matches(self, key: str, sources: list[list[Pattern]], targets: list[list[Pattern]]) -> Iterator[_Found]:
        for index, patterns in enumerate(sources):
            for slot, pattern in enumerate(patterns):
                values = pattern.match(key)
                if values is not None and all(p.fill(values) is not None for p in (*patterns, *targets[index])):
                    yield _Found(index, slot, tuple(sorted(values.items())))

    def _unmatched(self, keys: list[str], source: str, back: bool, shapes: Mapping[str, tuple]) -> str:
        count = "1 key matches" if len(keys) == 1 else f"{len(keys)} keys match"
        lines = [f"{source}: {count} no rule of the key map {self.name!r}{' backwards' if back else ''}"]
        for key in keys[:_SHOWN]:
            lines.append(f"  {key} {shapes[key]}" if key in shapes else f"  {key}")
        if len(keys) > _SHOWN:
            lines.append(f"  ... and {len(keys) - _SHOWN} more")
        rules = {
            p.text: rule
            for rule, side in zip(self.rules, self._ours if back else self._published, strict=True)
            for p in side
        }
        near = nearest(re.sub(r"(?<=\.)\d+(?=\.)", "{b}", keys[0]), rules, count=1)
        lines += [f"  closest rule: {rules[text]}" for text in near]
        if not back:
            lines.append(
                "  this looks like a checkpoint of another model, or of another version of it; check the model's name"
            )
        return "\n".join(lines)


def _filled(patterns: list[Pattern], hit: _Found) -> list[str]:
    values: Values = dict(hit.values)
    names = [pattern.fill(values) for pattern in patterns]
    return [name for name in names if name is not None]


def _cut(tensor: Tensor, count: int, groups: int) -> list[Tensor]:
    if tensor.ndim == 0 or tensor.shape[0] % (groups * count):
        raise ValueError(f"shape {tuple(tensor.shape)}: the rows do not split into {groups} x {count} equal parts")
    parts = tensor.unflatten(0, (groups, count, -1)).unbind(1)
    return [part.flatten(0, 1) for part in parts]


def _join(tensors: list[Tensor], groups: int) -> Tensor:
    shapes = [tuple(t.shape) for t in tensors]
    if len(set(shapes)) > 1 or not shapes[0] or shapes[0][0] % groups:
        raise ValueError(f"shapes {shapes} do not join to the rows of one tensor in {groups} groups")
    return torch.stack([t.unflatten(0, (groups, -1)) for t in tensors], dim=1).flatten(0, 2)


def _rearrange(tensor: Tensor, source: list[str], target: list[str]) -> Tensor:
    shape = tuple(tensor.shape)
    if len(shape) != len(source) or any(axis == "1" and size != 1 for axis, size in zip(source, shape, strict=True)):
        raise ValueError(f"shape {shape} is not ({', '.join(source)})")
    sizes = {axis: size for axis, size in zip(source, shape, strict=True) if axis != "1"}
    order = [list(sizes).index(axis) for axis in target if axis != "1"]
    return tensor.reshape(tuple(sizes.values())).permute(order).reshape([sizes.get(axis, 1) for axis in target])
