"""Trackers: the lines of `metrics.jsonl` sent on to TensorBoard, Weights & Biases or MLflow.

The file stays the record of a run. A tracker follows it, so it shows the same figures, and one that fails is left alone
while the run goes on. Without a server everything stays in the run's directory (`WANDB_MODE=offline` for the one that
needs to be told; MLflow goes where `MLFLOW_TRACKING_URI` says).
"""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from leanformer.checkpoints import files
from leanformer.config import to_dict
from leanformer.errors import require
from leanformer.training.callbacks import Callback

if TYPE_CHECKING:
    from leanformer.training.state import Run

log = logging.getLogger(__name__)

TrackerName = Literal["tensorboard", "wandb", "mlflow"]
IDENTITIES = "tracking.json"
"""Which run of each tracker a run's directory belongs to, so that a resumed run goes on in it."""
LONGEST_PARAMETER = 500
"""Characters of a config's value that MLflow takes."""


class Sink(Protocol):
    """Where figures go."""

    def send(self, figures: Mapping[str, float], step: int) -> None:
        """Take the figures of one line."""
        ...

    def close(self) -> None:
        """Write what is still held back."""
        ...


class Tracker(Callback):
    """Sends each new line of a run's `metrics.jsonl` on, as `event/name` at its step; failing, it says so once.

    Raises:
        MissingExtra: when it is made, if the tracker is not installed.
    """

    first_rank_alone = True

    def __init__(self, name: TrackerName) -> None:
        self.name = name
        self._library = require(name, extra="track")
        self._sink: Sink | None = None
        self._sent = 0  # bytes of the file

    def on_start(self, run: Run) -> None:
        """Open the tracker behind the lines that a resumed run already has."""
        self._sent = (run.out / "metrics.jsonl").stat().st_size
        with _Contained(self._give_up):
            self._sink = SINKS[self.name](run, self._library)

    def on_rollback(self, run: Run) -> None:
        """Go on behind the lines that still hold."""
        self._sent = (run.out / "metrics.jsonl").stat().st_size

    def after_step(self, run: Run, step: int) -> None:
        """Send the step's line, if it has one."""
        if (step + 1) % run.config.log_every == 0:
            self._follow(run)

    def on_epoch(self, run: Run, epoch: int) -> None:
        """Send the epoch's line."""
        self._follow(run)

    def on_end(self, run: Run) -> None:
        """Send the last lines and close the tracker."""
        self._follow(run)
        if self._sink is not None:
            with _Contained(self._give_up):
                self._sink.close()

    def _follow(self, run: Run) -> None:
        if self._sink is None:
            return
        with (run.out / "metrics.jsonl").open("rb") as file:
            file.seek(self._sent)
            new = file.read()
        with _Contained(self._give_up):
            whole = new[: new.rfind(b"\n") + 1]
            self._sent += len(whole)
            for line in whole.splitlines():
                record = json.loads(line)
                self._sink.send(_figures(record), record["step"])

    def _give_up(self, error: Exception) -> None:
        self._sink = None
        log.warning(
            "%s failed and gets no more figures of this run (%s: %s); metrics.jsonl has them all",
            self.name,
            type(error).__name__,
            error,
        )


class _Contained:
    """Ends at any failure of what it contains, and tells: a server or its library may do anything, training goes on."""

    def __init__(self, tell: Callable[[Exception], None]) -> None:
        self._tell = tell

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._tell(error)
        return True


def _figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line under the names that trackers show."""
    event = record["event"]
    numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
    return {f"{event}/{name}": float(value) for name, value in numbers.items() if name != "step"}


class _TensorBoard:
    """Event files in the run's directory; `tensorboard --logdir RUN` shows them."""

    def __init__(self, run: Run, library: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.out / "tensorboard"), purge_step=run.step + 1 if run.step else None)
        self._writer.add_text("config", f"```\n{json.dumps(to_dict(run.config), indent=2)}\n```", run.step)

    def send(self, figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    """A run of wandb, in the project that `WANDB_PROJECT` names or `leanformer`."""

    def __init__(self, run: Run, library: Any) -> None:
        identity = _identities(run.out).get("wandb") or uuid.uuid4().hex[:12]
        self._run = library.init(
            project=os.environ.get("WANDB_PROJECT", "leanformer"),
            name=run.out.name,
            id=identity,
            resume="allow",
            dir=str(run.out),
            config=to_dict(run.config),
        )
        _remember(run.out, "wandb", identity)

    def send(self, figures: Mapping[str, float], step: int) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """A run of MLflow, in a database in the run's directory unless `MLFLOW_TRACKING_URI` names a server."""

    def __init__(self, run: Run, library: Any) -> None:
        self._library = library
        if "MLFLOW_TRACKING_URI" not in os.environ:
            library.set_tracking_uri(f"sqlite:///{run.out.absolute() / 'mlflow.db'}")
        identity = _identities(run.out).get("mlflow")
        started = library.start_run(run_id=identity, run_name=None if identity else run.out.name)
        if identity is None:
            _remember(run.out, "mlflow", started.info.run_id)
            config = {name: json.dumps(value)[:LONGEST_PARAMETER] for name, value in to_dict(run.config).items()}
            library.log_params(config)

    def send(self, figures: Mapping[str, float], step: int) -> None:
        self._library.log_metrics(dict(figures), step=step)

    def close(self) -> None:
        self._library.end_run()


SINKS = {"tensorboard": _TensorBoard, "wandb": _WeightsAndBiases, "mlflow": _MLflow}


def _identities(out: Path) -> dict[str, str]:
    path = out / IDENTITIES
    return files.read_json(path) if path.exists() else {}


def _remember(out: Path, name: str, identity: str) -> None:
    files.write_json(out / IDENTITIES, {**_identities(out), name: identity})
