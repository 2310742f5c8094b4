"""Configurations as values: frozen dataclasses with a `kind`, written to JSON and read back strictly.

A config exists only where a user chooses (attention, norm, backbone, schedule, run, ...). Its decorator makes it a
frozen keyword-only dataclass and registers its kind, so that `from_dict(to_dict(config)) == config` for every one of
them.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from leanformer.errors import ConfigError, suggestion

T = TypeVar("T")
PerStage = Union[T, tuple[T | tuple[T, ...], ...]]  # noqa: UP007 - a generic alias, which X | Y is not
"""A value for every stage, or a tuple with one entry per stage, an entry being a value or a tuple with one per
block."""

_KINDS: dict[str, type] = {}


@dataclass_transform(kw_only_default=True, frozen_default=True)
def register_config(kind: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: make the class a frozen keyword-only dataclass, known to JSON as `kind`."""

    def wrap(cls: type[T]) -> type[T]:
        if "__dataclass_fields__" not in vars(cls):
            cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
            cls.__init__ = _checking_types(cls.__init__)  # type: ignore[method-assign]
        known = _KINDS.get(kind)
        assert known is None or known.__qualname__ == cls.__qualname__, f"kind {kind!r} is taken by {known}"
        cls.kind = kind  # type: ignore[attr-defined]
        _KINDS[kind] = cls
        return cls

    return wrap


def _checking_types(init: Callable[..., None]) -> Callable[..., None]:
    """`init`, which first refuses values of another type than the field's: arithmetic on them would fail far from
    here, and code that compares with one choice would take any other value for the last."""

    @wraps(init)
    def checked(self: Any, **values: Any) -> None:
        cls = type(self)
        known = _hints(cls)
        init(self, **{name: _checked(v, cls, name, cls.kind) if name in known else v for name, v in values.items()})

    return checked


def registered_kinds(base: type | None = None) -> dict[str, type]:
    """Every registered config class by kind; with `base`, only its subclasses."""
    return {kind: cls for kind, cls in _KINDS.items() if base is None or issubclass(cls, base)}


def at(value: PerStage[T], stage: int, block: int) -> T:
    """The entry of a per-stage value, one that `check_per_stage` accepts, for block `block` of stage `stage`."""
    if isinstance(value, tuple):
        value = value[stage]
    if isinstance(value, tuple):
        value = value[block]
    return value  # type: ignore[return-value]


def check_per_stage(name: str, value: PerStage[Any], depths: tuple[int, ...]) -> None:
    """Refuse a per-stage value whose entries do not fit stages of `depths` blocks."""
    if not isinstance(value, tuple):
        return
    if len(value) != len(depths):
        raise ConfigError(
            f"{name} has {len(value)} entries for {len(depths)} stages; give one value for all, or one entry for each "
            "stage, which may be a tuple with one for each block"
        )
    for stage, (entry, depth) in enumerate(zip(value, depths, strict=True)):
        if isinstance(entry, tuple) and len(entry) != depth:
            raise ConfigError(f"{name} has {len(entry)} entries for the {depth} blocks of stage {stage}")


def to_dict(value: Any) -> Any:
    """The JSON form of a config (or of a plain value): dataclasses become objects with a `kind`, tuples become
    lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": getattr(value, "kind", None), **fields}
    if isinstance(value, (tuple, list)):
        return [to_dict(item) for item in value]
    if isinstance(value, dict):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"{value!r} of type {type(value).__name__} has no JSON form")


def from_dict(data: Any, expected: type[T], path: str = "config") -> T:
    """Read the JSON form of a registered config that must be an `expected`.

    Raises:
        ConfigError: for an unknown kind or field, a missing field or a value of the wrong type, naming its path.
    """
    if not isinstance(data, dict) or "kind" not in data:
        raise ConfigError(f"{path}: expected an object with a 'kind', found {data!r}")
    kind = data["kind"]
    if kind not in _KINDS:
        raise ConfigError(f"{path}: unknown kind {kind!r}{suggestion(str(kind), _KINDS)}")
    cls = _KINDS[kind]
    if not issubclass(cls, expected):
        choices = ", ".join(sorted(registered_kinds(expected)))
        raise ConfigError(f"{path}: kind {kind!r} is not a {expected.__name__}; choose one of {choices}")
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values = {}
    for name, item in data.items():
        if name == "kind":
            continue
        if name not in names:
            raise ConfigError(f"{path}: {kind!r} has no field {name!r}{suggestion(name, names)}")
        values[name] = _checked(read_value(item, f"{path}.{name}"), cls, name, path)
    return _construct(cls, values, path)


def replace_at(config: T, path: str, value: Any) -> T:
    """A copy of `config` with the field at the dotted `path` set to `value`, its type checked; an entry of a tuple is
    a number.

    Raises:
        ConfigError: if there is no such field or the value does not fit it.
    """
    head, _, rest = path.partition(".")
    names = [f.name for f in dataclasses.fields(config)]  # type: ignore[arg-type]
    if head not in names:
        kind = getattr(config, "kind", type(config).__name__)
        raise ConfigError(f"{kind!r} has no field {head!r}{suggestion(head, names)}")
    if rest:
        value = _replaced_inside(getattr(config, head), head, rest, value)
    value = _checked(value, type(config), head, "config")
    return dataclasses.replace(config, **{head: value})  # type: ignore[type-var]


def _replaced_inside(inner: Any, name: str, rest: str, value: Any) -> Any:
    """What the field `name` holds, with the field or entry at the path `rest` in it set."""
    if dataclasses.is_dataclass(inner):
        return replace_at(inner, rest, value)
    if not isinstance(inner, tuple):
        way_out = f"; set {name!r} itself first" if inner is None else ""
        raise ConfigError(f"{name!r} is {inner!r}, which has no field {rest!r}{way_out}")
    entry, _, further = rest.partition(".")
    if not entry.isdecimal() or int(entry) >= len(inner):
        raise ConfigError(f"{name!r} has {len(inner)} entries, numbered from 0, but no {entry!r}")
    place = int(entry)
    if further:
        value = _replaced_inside(inner[place], f"{name}.{entry}", further, value)
    return (*inner[:place], value, *inner[place + 1 :])


def read_value(item: Any, path: str = "config") -> Any:
    """The value whose JSON form is `item`: objects with a `kind` become configs, lists become tuples.

    Raises:
        ConfigError: as for `from_dict`.
    """
    if isinstance(item, dict):
        return from_dict(item, object, path) if "kind" in item else item
    if isinstance(item, list):
        return tuple(read_value(entry, f"{path}[{index}]") for index, entry in enumerate(item))
    return item


def _construct(cls: type, values: dict[str, Any], path: str) -> Any:
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{path}: missing {', '.join(missing)}")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _checked(value: Any, cls: type, name: str, path: str) -> Any:
    hint = _hints(cls)[name]
    if isinstance(value, str) and (hint is Path or Path in get_args(hint)) and str not in get_args(hint):
        return Path(value)
    if _conforms(value, hint):
        return value
    if get_origin(hint) is Literal:
        choices = ", ".join(map(repr, get_args(hint)))
        raise ConfigError(f"{path}.{name} must be one of {choices}, got {value!r}")
    shown = re.sub(r"\b\w+\.", "", str(hint)) if get_args(hint) else getattr(hint, "__name__", hint)
    raise ConfigError(f"{path}.{name}: {value!r} is not of type {shown}")


def _conforms(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(_conforms(value, option) for option in args)
    if origin is Literal:
        return value in args
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(_conforms(item, args[0]) for item in value)
        return len(value) == len(args) and all(_conforms(item, arg) for item, arg in zip(value, args, strict=True))
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, origin or hint)
