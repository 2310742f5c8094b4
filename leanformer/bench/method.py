"""How a figure was measured: without this record a latency means nothing."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from leanformer.bench.latency import CPU


@dataclass(frozen=True, kw_only=True)
class Method:
    """Machine, versions and settings of a measurement."""

    device: str
    cpu: str
    """Model name of the processor."""
    cores: int
    """Cores that this process may use."""
    threads: int
    waiting: str
    """What idle threads of torch do, as `OMP_WAIT_POLICY` says."""
    system: str
    versions: dict[str, str]
    """Of leanformer, torch, Python and the runtimes that are installed."""
    commit: str | None
    """Of leanformer's source, with `+changes` if it was modified; None outside a checkout."""
    command: str
    date: str
    batch_size: int
    image_size: tuple[int, int]
    dtype: str
    warmup: int
    repeats: int
    timing: str

    def rows(self) -> list[tuple[str, str]]:
        """Every entry as a name and a text, in order."""
        return [(field.name.replace("_", " "), _text(getattr(self, field.name))) for field in fields(self)]

    def machine_rows(self) -> list[tuple[str, str]]:
        """Where and with what it was measured, without the settings of the measurement."""
        return [row for row in self.rows() if row[0] in MACHINE]


MACHINE = ("device", "cpu", "cores", "threads", "waiting", "system", "versions", "commit", "command", "date")


def record_method(
    *,
    batch_size: int,
    image_size: int | tuple[int, int],
    warmup: int,
    repeats: int,
    threads: int | None = None,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> Method:
    """The record of a measurement made here and now with these settings."""
    return Method(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        cpu=cpu_name(),
        cores=_num_cores(),
        threads=threads or torch.get_num_threads(),
        waiting=f"idle threads wait: {os.environ.get('OMP_WAIT_POLICY', 'spinning for a while, the default')}",
        system=platform.platform(),
        versions=_versions(),
        commit=_commit(Path(__file__).parent),
        command=shlex.join(sys.argv),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        batch_size=batch_size,
        image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        dtype=str(dtype).removeprefix("torch."),
        warmup=warmup,
        repeats=repeats,
        timing=(
            "all in one process, in turns of alternating order, each timed call after an untimed one of the same "
            "model; median, 10 % and 90 % quantiles; speed-up = median of the rounds' ratios to the first, with its "
            "95 % interval"
        ),
    )


def cpu_name() -> str:
    """The processor's model name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("leanformer", "onnxruntime", "openvino", "executorch"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _commit(folder: Path) -> str | None:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "method.py") is None:  # installed, perhaps inside somebody else's repository
        return None
    commit = git("rev-parse", "--short=12", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def _text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    if isinstance(value, tuple):
        return " x ".join(str(item) for item in value)
    return str(value)
