"""Patterns over the names of tensors: text with placeholders, read from a name and written into one."""

from __future__ import annotations

import re
from collections.abc import Mapping

Values = dict[str, int | str]

_PLACEHOLDER = re.compile(r"\{([a-z_]+)([+-]\d+)?\}")
_INDEX = r"(0|[1-9]\d*)"
_ONE_PART = r"([^.]+)"
_PARTS = r"([^.]+(?:\.[^.]+)*)"


class Pattern:
    """A name with placeholders.

    `{b}`, one letter, is an index; `{s+1}` and `{s-1}` are the index s shifted, and a negative index fits nothing.
    `{leaf}` is one part between dots. Any longer word, usually `{rest}`, is one part or more. A placeholder that occurs
    twice has one value.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        pieces = _PLACEHOLDER.split(text)  # literal, name, shift, literal, name, shift, ..., literal
        self._literals = pieces[0::3]
        self._slots = [(name, int(shift or 0)) for name, shift in zip(pieces[1::3], pieces[2::3], strict=True)]
        assert not any(brace in literal for literal in self._literals for brace in "{}"), f"bad placeholder in {text!r}"
        assert all(len(name) == 1 or not shift for name, shift in self._slots), (
            f"only an index can be shifted: {text!r}"
        )
        groups = [_group(name) for name, _ in self._slots] + [""]
        self._regex = re.compile(
            "".join(re.escape(text) + group for text, group in zip(self._literals, groups, strict=True))
        )

    @property
    def names(self) -> set[str]:
        """The placeholders."""
        return {name for name, _ in self._slots}

    def match(self, key: str) -> Values | None:
        """The values of the placeholders for which this pattern is `key`, or None."""
        found = self._regex.fullmatch(key)
        if found is None:
            return None
        values: Values = {}
        for (name, shift), text in zip(self._slots, found.groups(), strict=True):
            value = int(text) - shift if len(name) == 1 else text
            if values.setdefault(name, value) != value or (isinstance(value, int) and value < 0):
                return None
        return values

    def fill(self, values: Mapping[str, int | str]) -> str | None:
        """The name with these values, or None if an index becomes negative."""
        out = [self._literals[0]]
        for (name, shift), literal in zip(self._slots, self._literals[1:], strict=True):
            value = values[name]
            if isinstance(value, int):
                value += shift
                if value < 0:
                    return None
            out += [str(value), literal]
        return "".join(out)


def _group(name: str) -> str:
    if len(name) == 1:
        return _INDEX
    return _ONE_PART if name == "leaf" else _PARTS
