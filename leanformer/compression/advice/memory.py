"""Measurements on the disk, for each device, version and setting."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leanformer import bench
from leanformer.checkpoints import files
from leanformer.checkpoints.fetch import cache_folder
from leanformer.compression.advice.figures import Measured
from leanformer.compression.advice.turns import Timer
from leanformer.config import to_dict
from leanformer.errors import CheckpointError
from leanformer.models import ImageClassifier

log = logging.getLogger(__name__)

FORMAT = 2


class AdviceMemory:
    """Pieces of JSON by what they depend on.

    Args:
        folder: None for one in the cache.
        fresh: measure again what is known.
        setting: what all pieces depend on: see `machine_setting`.
    """

    def __init__(self, setting: dict[str, Any], *, folder: Path | None = None, fresh: bool = False) -> None:
        self.folder = cache_folder() / "advice" if folder is None else folder
        self.setting, self.fresh = setting, fresh
        self.measured: list[Measured] = []

    def get(self, key: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The piece that `key` and the setting lead to, measured if it is not known."""
        full = {"format": FORMAT, **self.setting, **key}
        path = self.folder / f"{_digest(full)}.json"
        known = None if self.fresh else _read(path, full)
        if known is not None:
            self.measured.append(Measured(date=known["date"], path=str(path)))
            return known["value"]
        value = measure()
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_json(path, {"key": full, "date": date, "value": value})
        self.measured.append(Measured(date=date, path=None))
        return json.loads(json.dumps(value))  # as it will be read the next time


def machine_setting(timer: Timer) -> dict[str, Any]:
    """What figures depend on beside the model."""
    method = bench.record_method(
        batch_size=1, image_size=1, warmup=0, repeats=timer.repeats, threads=timer.threads, device=timer.device
    )
    names = ("device", "cpu", "cores", "threads", "waiting", "system", "versions", "commit", "repeats")
    return {name: getattr(method, name) for name in names}


def structure(model: ImageClassifier) -> str:
    """A hash of all of a model that its time depends on: its config, its edits, and where its schedules stand; and of
    whether its weights are random, which advice says."""
    scheduled = {
        name: value.item() for name, value in model.named_buffers() if value.ndim == 0 and value.is_floating_point()
    }
    edits = [to_dict(edit) for edit in model.edits]
    known = {"config": to_dict(model.config), "edits": edits, "at": scheduled, "random": not model.origin}
    return _digest(known)


def _read(path: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = files.read_json(path)
    except CheckpointError as error:
        log.warning("%s; measured again", error)
        return None
    return found if isinstance(found, dict) and found.get("key") == json.loads(json.dumps(key)) else None


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]
