"""The command line: one dataclass for each command, in a file of its own; its docstrings are the help.

Nothing here imports torch before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TextIO, Union

import tyro

import leanformer
from leanformer.cli.advise import Advise
from leanformer.cli.bench import Bench
from leanformer.cli.compress import Compress
from leanformer.cli.convert import Convert
from leanformer.cli.demo import Demo
from leanformer.cli.doctor import Doctor
from leanformer.cli.evaluate import Evaluate
from leanformer.cli.export import Export
from leanformer.cli.info import Info
from leanformer.cli.list import List
from leanformer.cli.predict import Predict
from leanformer.cli.report import Report
from leanformer.cli.train import Train
from leanformer.errors import LeanformerError

COMMANDS = {
    "demo": Demo,
    "train": Train,
    "evaluate": Evaluate,
    "report": Report,
    "predict": Predict,
    "compress": Compress,
    "export": Export,
    "convert": Convert,
    "bench": Bench,
    "advise": Advise,
    "list": List,
    "info": Info,
    "doctor": Doctor,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status: 0, 1 for a result that is not as it should be, 2 for an error of
    use."""
    # Threads that wait for each other sleep. Spinning, torch's default, gains a little on an idle machine, and makes
    # training many times slower wherever something else runs beside it. Read when torch is imported.
    # Commands that measure keep the default: sleeping slows small models on several threads.
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in ("train", "demo"):
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _settle_streams()
    try:
        if [*given] == ["--version"]:
            print(f"leanformer {leanformer.__version__}")
            return 0
        return _run(arguments)
    except LeanformerError as error:
        if not getattr(error, "silent", False):  # another process of this run has said it
            print(f"leanformer: {error}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("leanformer: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        _discard_output()
        return 0
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        _discard_output()
        where = f" to {error.filename}" if error.filename else ""
        print(f"leanformer: cannot write{where}: {error.strerror}; make room and run it again", file=sys.stderr)
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    """Run a command and write all that it printed, after a mistake too: the last of it fails here or nowhere."""
    try:
        command = _parse(arguments)
        with _log_on_stderr():
            return command.run()
    finally:
        sys.stdout.flush()


def _discard_output() -> None:
    """Send what is still to be printed nowhere, so that the process does not fail on it when it ends."""
    with contextlib.suppress(OSError, ValueError):  # output that is no file has nothing to fail on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _settle_streams() -> None:
    """Make output fail for nothing of ours: what is closed takes everything, and file names may hold any bytes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _parse(arguments: Sequence[str] | None) -> Any:
    """The command with its options; exits after `--help` and after a mistake."""
    subcommands = tuple(Annotated[cls, tyro.conf.subcommand(name, prefix_name=False)] for name, cls in COMMANDS.items())
    return tyro.cli(
        Union[subcommands],  # type: ignore[arg-type, valid-type]  # noqa: UP007
        prog="leanformer",
        description="Make transformers lean, and prove it. --version alone prints the version.",
        args=arguments,
        config=(tyro.conf.FlagCreatePairsOff,),
    )


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to whatever stderr is at the moment: a progress bar stands in for it while it is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self.stream = sys.stderr
        super().emit(record)


@contextlib.contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show what the library logs while a command runs, and leave logging as it was."""
    logger, handler = logging.getLogger("leanformer"), _Stderr()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
