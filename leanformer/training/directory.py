"""A run's directory: whose it is, and what it was started with."""

from __future__ import annotations

import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leanformer.checkpoints import files, runs
from leanformer.checkpoints.store import CheckpointStore
from leanformer.config import to_dict
from leanformer.errors import CheckpointError, ConfigError, TrainingError
from leanformer.training.config import TrainConfig, differences

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

CONFIG = "config.json"
LOG = "metrics.jsonl"
STATES = "checkpoints"
"""The folder of a run's training states."""
_SUMMARY = {"metrics": dict, "steps": int, "seconds": (int, float), "skipped": dict}
"""What is known of a finished run, and its types."""


def claim(config: TrainConfig, resume: bool) -> bool:
    """Check that `config` may run in its directory; true if it has been finished there. Nothing is written.

    Raises:
        ConfigError: if the directory holds a run that is not to be resumed, or one of another config.
        CheckpointError: if neither its config nor its training states say which run it holds.
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
    _check_log(out / LOG)
    begun, finished, has_states = ((out / name).exists() for name in (CONFIG, runs.RECORD, STATES))
    if not resume and (begun or finished or has_states):
        raise ConfigError(f"{out} already holds a run; go on with it by --resume, or choose another --out")
    if finished and not begun and not has_states:
        raise ConfigError(f"{out} holds a model, but no training run to resume; choose another --out")
    if begun or has_states:
        lines = differences(_saved_config(out) or _config_of_states(out), to_dict(config))
        if lines:
            listed = "\n".join(f"  {line}" for line in lines)
            raise ConfigError(
                f"{out} was started with another config, so it cannot be resumed with this one:\n{listed}\n"
                f"  resume with the old values, or choose another --out"
            )
    return finished


def _check_log(path: Path) -> None:
    """Refuse what stands where the log is to be written."""
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; remove it, or choose another --out") from error
    if is_folder:
        raise ConfigError(f"{path} is a folder, where the log of the run is to be; move it, or choose another --out")


def _saved_config(out: Path) -> dict[str, Any] | None:
    """What `write_config` wrote; None if it is missing or damaged."""
    try:
        saved = files.read_json(out / CONFIG)
    except CheckpointError:
        return None
    return saved if isinstance(saved, dict) and saved.get("kind") == TrainConfig.kind else None  # type: ignore


def _config_of_states(out: Path) -> dict[str, Any]:
    """What the training states say of their run, in place of its config."""
    path, meta = out / CONFIG, CheckpointStore(out / STATES).describe_latest()
    if meta is not None and meta.get("config"):
        return meta["config"]
    found = f"{path}: not the config of a run; it is damaged or was edited" if path.exists() else f"no file {path}"
    if meta is None:
        raise CheckpointError(f"{found}; no training state can be read either, so choose another --out")
    raise CheckpointError(
        f"{found}; start the same command with another --out, stop it, and copy the {CONFIG} that it wrote to {out}: "
        "the training states can then be resumed"
    )


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
    if (config.out / STATES).exists() and _saved_config(config.out) is None:
        log.warning(
            "%s is missing or damaged; the training states are of a run with this config, so it is written anew",
            config.out / CONFIG,
        )
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


def finished_summary(config: TrainConfig) -> dict[str, Any]:
    """What the finished run wrote beside its model: `metrics`, `steps`, `seconds` and `skipped`. A config that was lost
    is written anew.

    Raises:
        CheckpointError: if it is not there.
    """
    if _saved_config(config.out) is None:
        write_config(config)
    extra = runs.read_record(config.out)["extra"]
    training = extra.get("training") if isinstance(extra, dict) else None
    found = {"metrics": extra.get("metrics"), **training} if isinstance(training, dict) else {}
    if set(found) != set(_SUMMARY) or not all(isinstance(found[name], kind) for name, kind in _SUMMARY.items()):
        raise CheckpointError(
            f"{config.out / runs.RECORD}: 'extra' does not say how the run went, found {extra!r}; it was edited: "
            "remove it and finish the run again by --resume, from its last training state"
        )
    return found
