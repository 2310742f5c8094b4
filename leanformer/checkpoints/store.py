"""States of a training run on the disk: a kill at any moment, or a damaged file, costs at most the steps since the one
before."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from leanformer.checkpoints import files
from leanformer.errors import CheckpointError

logger = logging.getLogger(__name__)

_META = "leanformer"
_LATEST = "latest.json"
_STATE = re.compile(r"step_(\d+)\.safetensors")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    file: str
    sha256: str | None  # None if only the file's name is known
    step: int


def _entry(item: dict[str, Any]) -> _Entry:
    """An entry of the list; TypeError or KeyError if it is none."""
    if not isinstance(item["step"], int) or item["file"] != _name(item["step"]):
        raise TypeError(f"{item['file']!r} is no training state of step {item['step']!r}")
    return _Entry(file=item["file"], sha256=item["sha256"], step=item["step"])


def _name(step: int) -> str:
    return f"step_{step:08d}.safetensors"


class CheckpointStore:
    """The last `keep` states of a run in `directory`, each `step_<step>.safetensors`; `latest.json` lists them with
    their hashes."""

    def __init__(self, directory: str | Path, keep: int = 2) -> None:
        assert keep >= 1, "a store that keeps nothing has no use"
        self.directory = Path(directory)
        self.keep = keep

    def save(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Path:
        """Write the state at `step`, then the list that names it, then remove states that are too old; returns its
        path.

        Raises:
            CheckpointError: if it cannot be written; what was there before still loads.
        """
        path = self.directory / _name(step)
        earlier = [
            entry for entry in self._entries() if entry.step < step
        ]  # later ones are of a course that was given up
        text = json.dumps({"step": step, "meta": dict(meta)}, sort_keys=True)
        if path.exists():  # whichever of the two it is if this is interrupted, it is whole
            self._write_list(None, step, earlier)
        digest = files.write_safetensors(path, tensors, {_META: text})
        kept = self._write_list(digest, step, earlier)
        self._prune({entry.file for entry in kept})
        return path

    def _write_list(self, digest: str | None, step: int, earlier: list[_Entry]) -> list[_Entry]:
        """Write the list of the state of `step` and those before it that are kept; returns it."""
        kept = [_Entry(file=_name(step), sha256=digest, step=step), *earlier[: self.keep - 1]]
        latest, *previous = (asdict(entry) for entry in kept)
        files.write_json(self.directory / _LATEST, {**latest, "previous": previous})
        return kept

    def load_latest(self, before: int | None = None) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """(step, tensors, meta) of the newest state that is whole, or None if there is no state at all.

        Args:
            before: a step; only states of earlier ones are taken.

        Raises:
            CheckpointError: if there are states and none of them is whole, unless only earlier ones were asked for.
        """
        problems = []
        for entry in self._entries():
            if before is not None and entry.step >= before:
                continue
            try:
                state = self._load(entry)
            except CheckpointError as error:
                problems.append(str(error))
                logger.warning("%s; trying the state before it", error)
                continue
            return state
        if problems and before is None:
            listed = "\n".join(f"  {problem}" for problem in problems)
            raise CheckpointError(
                f"{self.directory}: no training state is usable\n{listed}\n"
                "  remove this folder to start the training afresh"
            )
        return None

    def describe_latest(self) -> dict[str, Any] | None:
        """The meta of the newest state that says what it is, its tensors not looked at; None if none does."""
        for entry in self._entries():
            with contextlib.suppress(CheckpointError):
                return _described(self.directory / entry.file, entry.step)
        return None

    def _load(self, entry: _Entry) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
        path = self.directory / entry.file
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            if entry.sha256 is not None and files.sha256(path) != entry.sha256:
                raise CheckpointError(f"{path} is damaged: its SHA-256 is not the one in {_LATEST}")
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        meta = _described(path, entry.step)
        # The file's memory is copied: it may be pruned, and its folder unmounted, while training goes on.
        return entry.step, {name: tensor.clone() for name, tensor in files.read_tensors(path).items()}, meta

    def _entries(self) -> list[_Entry]:
        """Known states, newest first: those of the list, or where there is none, of the folder."""
        path = self.directory / _LATEST
        if path.is_file():
            try:
                record = files.read_json(path)
                return [_entry(item) for item in (record, *record["previous"])]
            except (CheckpointError, OSError, LookupError, TypeError) as error:
                logger.warning("%s is damaged (%s); taking the states that are in its folder", path, error)
        found = ((_STATE.fullmatch(entry.name), entry.name) for entry in self._listing())
        return sorted(
            (_Entry(file=name, sha256=None, step=int(match.group(1))) for match, name in found if match),
            key=lambda entry: -entry.step,
        )

    def _listing(self) -> list[Path]:
        return list(self.directory.iterdir()) if self.directory.is_dir() else []

    def _prune(self, keep: set[str]) -> None:
        """Remove other states, and what interrupted writes left."""
        for entry in self._listing():
            if entry.name not in keep and re.fullmatch(r"step_\d+\.safetensors|\.(step_|latest).*\.tmp", entry.name):
                entry.unlink(missing_ok=True)


def _described(path: Path, step: int) -> dict[str, Any]:
    """What a state says of itself beside its tensors."""
    text = files.read_metadata(path).get(_META)
    if text is None:
        raise CheckpointError(f"{path} is not a training state of leanformer")
    try:
        record = json.loads(text)
        found, meta = record["step"], record["meta"]
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: its description cannot be read ({error})") from error
    if found != step:
        raise CheckpointError(f"{path} is damaged: it says that it is of step {found}")
    return meta
