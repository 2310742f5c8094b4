"""Figures of a search on the disk, so that one that was stopped goes on without measuring again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from leanformer import bench
from leanformer.checkpoints import files
from leanformer.compression.figures import Figures, Latency, Meter
from leanformer.edits.plans.search import Known
from leanformer.errors import CheckpointError

FORMAT = 2


class Memory:
    """What was measured, by what it was measured of.

    Figures of another machine, other versions or other settings are dropped: they cannot be compared with new ones.

    Args:
        path: the file; written anew after each measurement.
    """

    def __init__(self, path: Path, meter: Meter) -> None:
        self.path = path
        self.setting = _setting(meter)
        self._data: dict[str, Any] = {"figures": {}, "latencies": {}, "plans": {}}
        if path.exists():
            found = files.read_json(path)
            known = isinstance(found, dict) and "format" in found
            if not known or (found["format"] == FORMAT and not {"setting", *self._data} <= found.keys()):
                raise CheckpointError(f"{path}: not the figures of a search; remove it to start again")
            if found["format"] == FORMAT and found["setting"] == self.setting:
                self._data = {name: found[name] for name in self._data}
        self._planned = 0

    def figures(self, key: str, measure: Callable[[], Figures]) -> Figures:
        """The figures of `key`, measured if they are not known."""
        known = self._data["figures"]
        if key not in known:
            known[key] = measure().to_dict()
            self._write()
        return Figures.from_dict(known[key])

    def latency(self, key: str, measure: Callable[[], Latency]) -> Latency:
        """The latency of `key`, measured if it is not known."""
        known = self._data["latencies"]
        if key not in known:
            known[key] = asdict(measure())
            self._write()
        return Latency.from_dict(known[key])

    def plans(self, key: str) -> Known:
        """What plans have measured with the images and the way that `key` says; they add to it."""
        return self._data["plans"].setdefault(key, {})

    def keep_plans(self) -> None:
        """Write what plans have measured, if there is more than the time before."""
        measured = sum(len(figures) for known in self._data["plans"].values() for figures in known.values())
        if measured != self._planned:
            self._planned = measured
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(self.path, {"format": FORMAT, "setting": self.setting, **self._data})


def _setting(meter: Meter) -> dict[str, Any]:
    """What figures depend on beside the model."""
    method = bench.record_method(
        batch_size=meter.batch_size, image_size=meter.image_size, warmup=0, repeats=meter.repeats, threads=meter.threads
    )
    device = next(meter.original.parameters()).device
    return {
        "device": method.device if device.type == "cpu" else str(device),
        "cpu": method.cpu,
        "threads": method.threads,
        "versions": method.versions,
        "batch_size": meter.batch_size,
        "image_size": list(meter.image_size),
        "data": meter.title,
        "num_images": None if meter.images is None else len(meter.images),
        "model": meter.fingerprint,
    }
