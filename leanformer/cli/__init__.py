"""The command line: one dataclass for each command, in a file of its own; its docstrings are the help.

Nothing here imports torch before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated, TextIO, Union

import tyro

from leanformer.cli.bench import Bench
from leanformer.cli.compress import Compress
from leanformer.cli.demo import Demo
from leanformer.cli.doctor import Doctor
from leanformer.cli.evaluate import Evaluate
from leanformer.cli.export import Export
from leanformer.cli.info import Info
from leanformer.cli.list import List
from leanformer.cli.predict import Predict
from leanformer.cli.train import Train
from leanformer.errors import LeanformerError

COMMANDS = {
    "demo": Demo,
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "compress": Compress,
    "export": Export,
    "bench": Bench,
    "list": List,
    "info": Info,
    "doctor": Doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 for a result that is not as it should be, 2 for an error of
    use."""
    subcommands = tuple(Annotated[cls, tyro.conf.subcommand(name, prefix_name=False)] for name, cls in COMMANDS.items())
    command = tyro.cli(
        Union[subcommands],  # type: ignore[arg-type, valid-type]  # noqa: UP007
        prog="leanformer",
        description="Make transformers lean, and prove it.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    _log_to_stderr()
    try:
        return command.run()  # type: ignore[attr-defined]
    except LeanformerError as error:
        print(f"leanformer: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("leanformer: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at the moment: a progress bar stands in for it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


def _log_to_stderr() -> None:
    logger = logging.getLogger("leanformer")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        logger.addHandler(_Stderr())
    logger.setLevel(logging.INFO)
    logger.propagate = False
