"""A run's directory: whose it is, and what it was started with."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leanformer.checkpoints import files, runs
from leanformer.config import to_dict
from leanformer.errors import CheckpointError, ConfigError, TrainingError
from leanformer.training.config import TrainConfig, differences

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

CONFIG = "config.json"
STATES = "checkpoints"
"""The folder of a run's training states, which are of no use without its config."""


def claim(config: TrainConfig, resume: bool) -> bool:
    """Check that `config` may run in its directory; true if it has been finished there. Nothing is written.

    Raises:
        ConfigError: if the directory holds a run that is not to be resumed, one of another config, or what is left of
            one without its config.
    """
    out = config.out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a directory for the run")
    try:
        str(out).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{out!a} is no text in UTF-8, so weights could not be read from there; choose another --out"
        ) from error
    begun, finished = (out / CONFIG).exists(), (out / runs.RECORD).exists()
    if not resume and (begun or finished):
        raise ConfigError(f"{out} already holds a run; go on with it by --resume, or choose another --out")
    if not begun and (out / STATES).exists():
        raise ConfigError(
            f"{out} holds training states in {STATES}/, but no {CONFIG} that says of which run; put it back, remove "
            "the states, or choose another --out"
        )
    if finished and not begun:
        raise ConfigError(f"{out} holds a model, but no training run to resume; choose another --out")
    if begun:
        saved = files.read_json(out / CONFIG)
        if not isinstance(saved, dict):
            raise CheckpointError(f"{out / CONFIG}: not the config of a run; it is damaged or was edited")
        lines = differences(saved, to_dict(config))
        if lines:
            listed = "\n".join(f"  {line}" for line in lines)
            raise ConfigError(
                f"{out} was started with another config, so it cannot be resumed with this one:\n{listed}\n"
                f"  resume with the old values, or choose another --out"
            )
    return finished


@contextmanager
def occupied(out: Path) -> Iterator[None]:
    """Make the run's directory and hold it, so that no second process trains in it; what an interrupted write left
    there is removed. The hold ends with the process, however it ends. Where there are no locks, there is no hold.

    Raises:
        ConfigError: if another process holds it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out, os.O_RDONLY) if fcntl else None
    except OSError:
        handle = None  # the first write says what is wrong
    try:
        if fcntl and handle is not None:
            _hold(out, handle)
            for entry in out.iterdir():
                if re.fullmatch(r"\.(config|metrics|model)\b.*\.[0-9a-f]{8}\.tmp", entry.name):
                    entry.unlink(missing_ok=True)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _hold(out: Path, handle: int) -> None:
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(
            f"{out} is in use by another process that trains there; wait for it, or choose another --out"
        ) from error
    except OSError:
        pass  # a file system without locks


def write_config(config: TrainConfig) -> None:
    """Leave the config in the run's directory, for `claim` and for those who want to repeat the run."""
    files.write_json(config.out / CONFIG, to_dict(config))


def check_present(out: Path) -> None:
    """Make sure that the run's directory is still there before more is written to it.

    Raises:
        TrainingError: if it is not.
    """
    if not (out / CONFIG).is_file():
        raise TrainingError(
            f"{out} was removed, moved or unmounted while the run trained there; put it back and go on by --resume, or "
            "start the run again"
        )


def finished_summary(out: Path) -> dict[str, Any]:
    """What the finished run in `out` wrote beside its model: `metrics` and `training`."""
    return runs.read_record(out)["extra"]
