"""Edits as they are asked for: by kind, by kind and a value, or as JSON; some are chosen by data first."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from leanformer import edits
from leanformer.config import from_dict, registered_kinds
from leanformer.edits import Edit
from leanformer.errors import ConfigError, EditError, suggestion
from leanformer.layers.attention import AttentionConfig
from leanformer.layers.norm import NormConfig


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much of something a plan is to choose: a share of what the model has, or a number."""

    kind: str
    """Of the edit: "remove_attention" or "drop_heads"."""
    share: float | None = None
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Step:
    """One edit as it was asked for."""

    text: str
    edit: Edit | Amount
    """The edit, or what a plan makes one of."""

    @property
    def needs_data(self) -> bool:
        """Whether a plan has to choose."""
        return isinstance(self.edit, Amount)


def parse_step(text: str) -> Step:
    """The step that `text` asks for.

    - `fold_norms`: an edit with its defaults;
    - `remove_attention:0.4` (a share), `remove_attention:4` (a number of layers), both chosen by a plan;
      `remove_attention:0,2,4` (these blocks; one alone as `3,`);
    - `merge_tokens:13` (tokens merged in each block), `merge_tokens:13,-1.0` (with an inflection),
      `merge_tokens:[0,5,40]` (block by block);
    - `drop_heads:0.25` (a share, chosen by a plan), `swap_norm:p_rep_bn`, `swap_attention:focused_linear`;
    - `{"kind": "merge_tokens", "r": 13, "start": 1}`: any edit, with all of its fields.

    Raises:
        EditError: for an unknown edit, or a value that it does not take.
        ConfigError: for JSON that is no edit.
    """
    if text.lstrip().startswith("{"):
        return Step(text=text, edit=_from_json(text))
    kind, colon, argument = text.partition(":")
    known = registered_kinds(Edit)
    if kind not in known:
        raise EditError(f"unknown edit {kind!r}{suggestion(kind, known)}; there are: {', '.join(sorted(known))}")
    if colon:
        if kind not in _READERS:
            raise EditError(f"{text}: {kind} takes no short value; write it as JSON: {_as_json(kind)}")
        return Step(text=text, edit=_READERS[kind](argument.strip(), text))
    if missing := _required(known[kind]):
        example = _EXAMPLES.get(kind, _as_json(kind, *missing))
        raise EditError(f"{kind} needs {' and '.join(missing)}: {example}")
    return Step(text=text, edit=known[kind]())


def _from_json(text: str) -> Edit:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--edit {text}: not JSON: {error}") from error
    return from_dict(data, Edit, "edit")


def _required(edit: type) -> list[str]:
    return [f.name for f in fields(edit) if f.default is MISSING and f.default_factory is MISSING]


def _as_json(kind: str, *names: str) -> str:
    return json.dumps({"kind": kind} | dict.fromkeys(names, "..."))


def _removal(argument: str, text: str) -> Edit | Amount:
    if "," in argument:
        return edits.RemoveAttention(blocks=_whole_numbers(argument, text))
    return _amount("remove_attention", argument, text)


def _dilution(argument: str, text: str) -> Edit:
    return edits.DiluteAttention(blocks=_whole_numbers(argument, text))


def _heads(argument: str, text: str) -> Amount:
    return _amount("drop_heads", argument, text)


def _amount(kind: str, argument: str, text: str) -> Amount:
    value = _number(argument, text)
    if isinstance(value, int):
        if value < 1:
            raise EditError(f"{text}: give a share between 0 and 1, or a number of 1 or more")
        return Amount(kind=kind, count=value)
    if not 0 < value <= 1:
        raise EditError(f"{text}: a share lies between 0 and 1, got {value:g}; a number of layers has no point in it")
    return Amount(kind=kind, share=value)


def _merging(argument: str, text: str) -> Edit:
    try:
        value = json.loads(argument if argument.startswith("[") else f"[{argument}]")
    except ValueError as error:
        raise EditError(f"{text}: give a number of tokens, such as merge_tokens:13") from error
    r: Any = tuple(value) if argument.startswith("[") else value[0] if len(value) == 1 else tuple(value)
    return from_dict({"kind": "merge_tokens", "r": list(r) if isinstance(r, tuple) else r}, Edit, "edit")


def _norm(argument: str, text: str) -> Edit:
    return edits.SwapNorm(to=_kind(argument, NormConfig, text))


def _attention(argument: str, text: str) -> Edit:
    return edits.SwapAttention(to=_kind(argument, AttentionConfig, text))


def _kind(name: str, base: type, text: str) -> Any:
    known = registered_kinds(base)
    if name not in known:
        raise EditError(f"{text}: no {name!r}{suggestion(name, known)}; there are: {', '.join(sorted(known))}")
    return known[name]()


def _whole_numbers(argument: str, text: str) -> tuple[int, ...]:
    parts: Sequence[str] = [part for part in argument.split(",") if part.strip()]
    if not parts or not all(part.strip().isdecimal() for part in parts):
        raise EditError(f"{text}: give the numbers of blocks, from 0 on, with commas between them")
    return tuple(int(part) for part in parts)


def _number(argument: str, text: str) -> int | float:
    for read in (int, float):
        try:
            return read(argument)
        except ValueError:
            continue
    raise EditError(f"{text}: {argument!r} is not a number")


_READERS: dict[str, Callable[[str, str], Edit | Amount]] = {
    "remove_attention": _removal,
    "dilute_attention": _dilution,
    "drop_heads": _heads,
    "merge_tokens": _merging,
    "swap_norm": _norm,
    "swap_attention": _attention,
}
_EXAMPLES = {
    "remove_attention": "remove_attention:0.4 for a share that a plan chooses, remove_attention:0,2,4 for these blocks",
    "dilute_attention": "dilute_attention:0,2,4",
    "drop_heads": "drop_heads:0.25 for a share that a plan chooses",
    "merge_tokens": "merge_tokens:13",
    "swap_norm": "swap_norm:p_rep_bn",
    "swap_attention": "swap_attention:focused_linear",
}
