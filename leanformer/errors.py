"""Errors that a user can fix, and the two helpers that make their messages useful.

Everything that is the user's to mend (a name, a file, an option) derives from `LeanformerError`; the command line
prints it without a traceback. What a developer broke stays an `assert` or an ordinary exception.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class LeanformerError(Exception):
    """Something asked of leanformer cannot be done; the message says what was asked, what was found and what would
    work."""


class ConfigError(LeanformerError):
    """A configuration value, a name or an option is wrong."""


class CheckpointError(LeanformerError):
    """A weight file or a run directory cannot be read, written or does not fit the model."""


class EditError(LeanformerError):
    """An edit cannot be applied to this model exactly."""


class DataError(LeanformerError):
    """A data set or an image cannot be used."""


class TrainingError(LeanformerError):
    """Training cannot go on."""


class ExportError(LeanformerError):
    """A model cannot be exported, or its exported file does not agree with it."""


class MissingExtra(LeanformerError):
    """An optional dependency is not installed."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import the optional `module`, or raise `MissingExtra` with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{module} could not be imported ({error}); install it with: pip install 'leanformer[{extra}]'"
        ) from error


def nearest(word: str, choices: Iterable[str], count: int = 3) -> list[str]:
    """The `count` choices nearest to `word` in spelling, best first; empty if none is near."""
    return difflib.get_close_matches(word, list(choices), n=count, cutoff=0.5)


def suggestion(word: str, choices: Iterable[str]) -> str:
    """The clause `; did you mean a, b?` for an error about an unknown `word`, or nothing if no choice is near."""
    near = nearest(word, choices)
    return f"; did you mean {', '.join(near)}?" if near else ""
