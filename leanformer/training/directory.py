"""A run's directory: whose it is, and what it was started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanformer.checkpoints import files, runs
from leanformer.config import to_dict
from leanformer.errors import ConfigError
from leanformer.training.config import TrainConfig, differences

CONFIG = "config.json"


def claim(config: TrainConfig, resume: bool) -> bool:
    """Check that `config` may run in its directory; true if it has been finished there. Nothing is written.

    Raises:
        ConfigError: if the directory holds a run that is not to be resumed, or one of another config.
    """
    out = config.out
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; give a directory for the run")
    begun, finished = (out / CONFIG).exists(), (out / runs.RECORD).exists()
    if not resume and (begun or finished):
        raise ConfigError(f"{out} already holds a run; go on with it by --resume, or choose another --out")
    if finished and not begun:
        raise ConfigError(f"{out} holds a model, but no training run to resume; choose another --out")
    if begun:
        lines = differences(files.read_json(out / CONFIG), to_dict(config))
        if lines:
            listed = "\n".join(f"  {line}" for line in lines)
            raise ConfigError(
                f"{out} was started with another config, so it cannot be resumed with this one:\n{listed}\n"
                f"  resume with the old values, or choose another --out"
            )
    return finished


def write_config(config: TrainConfig) -> None:
    """Leave the config in the run's directory, for `claim` and for those who want to repeat the run."""
    files.write_json(config.out / CONFIG, to_dict(config))


def finished_summary(out: Path) -> dict[str, Any]:
    """What the finished run in `out` wrote beside its model: `metrics` and `training`."""
    return runs.read_record(out)["extra"]
