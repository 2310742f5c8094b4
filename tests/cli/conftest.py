"""The command line as a user meets it: a status, what is printed, and never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from leanformer.cli import main
from leanformer.data.synthetic import write_folder


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str


def leanformer(*arguments: object) -> Outcome:
    """Run `leanformer` with these arguments in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as end:  # the parser's way out
            status = int(end.code or 0)
    assert "Traceback" not in err.getvalue()
    return Outcome(status, out.getvalue(), err.getvalue())


@pytest.fixture
def run():
    """Runs `leanformer` in this process."""
    return leanformer


@pytest.fixture
def refused(run):
    """The message of a command that a mistake of use must end with status 2, its result unprinted."""

    def refused(*arguments: object) -> str:
        outcome = run(*arguments)
        assert (outcome.status, outcome.out) == (2, ""), outcome
        assert outcome.err.startswith("leanformer: ")
        return outcome.err

    return refused


@pytest.fixture
def spawn():
    """Starts a Python program in a process of its own: a script, or the command line if none is given."""

    def spawn(*arguments: object, script: str | None = None) -> subprocess.Popen:
        program = ["-m", "leanformer.cli"] if script is None else ["-c", script]
        command = [sys.executable, *program, *map(str, arguments)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: the order of sums depends on it
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=one_thread)

    return spawn


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A user's folder: three classes, mixed sizes and modes, and two files of `train` that cannot be read."""
    return write_folder(tmp_path_factory.mktemp("user") / "photos", per_class=16, num_val=8, num_unreadable=2)


@pytest.fixture(scope="session")
def trained(photos, tmp_path_factory) -> SimpleNamespace:
    """A run on the photos, and what the command that made it printed."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    small = ["--image-size", 32, "--epochs", 3, "--batch-size", 16]
    outcome = leanformer("train", "slab_swin_nano", "--data", photos, *small, "--out", out)
    return SimpleNamespace(out=out, outcome=outcome)


@pytest.fixture(scope="session")
def folded(trained, photos) -> SimpleNamespace:
    """The trained run compressed."""
    out = trained.out.with_name("folded")
    edit = ["--edit", "fold_norms", "--data", photos, "--repeats", 6, "--force"]  # whatever its speed
    return SimpleNamespace(out=out, outcome=leanformer("compress", trained.out, *edit, "--out", out))


@pytest.fixture(scope="session")
def exported(folded) -> SimpleNamespace:
    """The folded run as an ONNX file, for tests marked `extras`."""
    pytest.importorskip("onnxruntime")
    file = folded.out / "model.onnx"
    return SimpleNamespace(file=file, outcome=leanformer("export", folded.out, "--out", file))


@pytest.fixture
def photo(photos) -> Path:
    """One that can be read."""
    return photos / "val" / "red circle" / "000.jpg"
