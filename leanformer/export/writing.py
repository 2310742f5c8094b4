"""Writing a model in another runtime's format: the file is opened there and compared with the model before it gets its
name."""

from __future__ import annotations

import contextlib
import io
import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from leanformer.errors import ExportError
from leanformer.export.coreml import CoreMl
from leanformer.export.executorch import ExecuTorch
from leanformer.export.files import folder_beside, move_in, size_of
from leanformer.export.format import ExportedClassifier, Format, Graph
from leanformer.export.metadata import describe
from leanformer.export.onnx import Onnx
from leanformer.export.openvino import OpenVino
from leanformer.export.packages import Inductor, TorchProgram
from leanformer.export.program import device_of, evaluation_mode
from leanformer.export.verify import Verification, fixed_images, flat_images, verify

FORMATS: dict[str, Format] = {
    item.name: item for item in (Onnx(), OpenVino(), ExecuTorch(), CoreMl(), Inductor(), TorchProgram())
}
SUFFIXES = {item.suffix: item for item in FORMATS.values()}

LOUD = ("torch.onnx", "onnxscript", "torch.export", "torch.utils.cpp_extension")
"""Loggers of exporters, and of what they import."""


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written and how it compares with the model."""

    path: Path
    size_bytes: int
    """Of the file, with the data that lies beside it."""
    graph: Graph
    image_size: tuple[int, int]
    dynamic_batch: bool
    verification: Verification | None
    """None where the file cannot be run on this machine."""
    not_compared: str
    """Why."""
    seconds: float

    def lines(self) -> tuple[str, ...]:
        """The report in sentences, for a person."""
        batch = "any batch size" if self.dynamic_batch else "batch size 1"
        height, width = self.image_size
        size = f"{self.size_bytes / 1e6:.2f} MB"
        return (
            f"{self.path}: {self.graph.title}, {size}, {batch}, {height} x {width} images",
            f"graph: {sum(self.graph.nodes.values())} nodes, {self.graph.num_norms} of them normalisations",
            f"compared with the model: {self.verification or f'no, {self.not_compared}'}",
        )


def export_model(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: int | tuple[int, int],
    format: Format | None = None,
    dynamic_batch: bool = True,
    images: Iterable[Tensor] = (),
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write `model` in evaluation mode, open the file in its runtime and compare the two.

    Args:
        format: by default the one that the end of the path's name stands for.
        dynamic_batch: whether the file takes any number of images at once, where the format has that.
        images: batches (B, 3, H, W) to compare on, beside fixed ones.
        tolerance: of the outputs' scale.

    Raises:
        ExportError: if a module cannot be traced or expressed, naming it; if the file cannot be written; or if it does
            not compute what the model does. It is then kept as `<path>.unverified`, and whatever `path` held before is
            untouched.
    """
    started = time.perf_counter()
    path = Path(path)
    format = format or format_for(path)
    dynamic_batch = dynamic_batch and format.any_batch
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    example = fixed_images(1, size)
    with folder_beside(path) as folder:
        written = folder / path.name
        with evaluation_mode(model), quiet():
            graph = format.write(model, example.to(device_of(model)), written, describe(model), dynamic_batch)
        batches = [example, fixed_images(3, size), flat_images(size)]
        runtime, reason = format.open(written, torch.get_num_threads()), format.not_run_here()
        verification = None if reason else verify(runtime, model, [*batches, *images], tolerance=tolerance)
        size_bytes = size_of(folder)
        passed = verification is None or verification.passed
        move_in(written, path, "" if passed else ".unverified")
    if not passed:
        raise ExportError(
            f"{path.name} does not compute what the model does: {verification}; kept as {path}.unverified"
        )
    return ExportReport(
        path=path,
        size_bytes=size_bytes,
        graph=graph,
        image_size=size,
        dynamic_batch=dynamic_batch,
        verification=verification,
        not_compared=reason,
        seconds=time.perf_counter() - started,
    )


def format_for(path: Path) -> Format:
    """The format of what is to be written to `path`.

    Raises:
        ExportError: for a folder, and for ends that are not known.
    """
    if path.is_dir() and not any(path.name.endswith(end) and item.is_folder for end, item in SUFFIXES.items()):
        raise ExportError(f"{path} is a folder; give the path of a file, such as {path / 'model.onnx'}")
    return format_of(path)


def format_of(path: Path) -> Format:
    """The format of files whose names end as this one's does.

    Raises:
        ExportError: naming the ends that are known.
    """
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix):
            return SUFFIXES[suffix]
    known = ", ".join(f"{item.suffix} ({name})" for name, item in FORMATS.items())
    raise ExportError(f"{path}: exported files are known by the end of their name: {known}")


def open_exported(path: str | Path, *, threads: int | None = None) -> ExportedClassifier:
    """An exported file as a classifier, in its runtime.

    Args:
        threads: by default as many as torch uses now.
    """
    return format_of(Path(path)).open(Path(path), threads or torch.get_num_threads())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence exporters, which print their progress and warn about their own internals."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [log.level for log in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for log in loggers:
            log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for log, level in zip(loggers, levels, strict=True):
                log.setLevel(level)
