"""ONNX: one file with the weights inside, described by its metadata, and compared with the model before it gets its
name."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from leanformer.errors import ExportError, require
from leanformer.export.classifier import OnnxClassifier
from leanformer.export.metadata import describe, to_properties
from leanformer.export.program import device_of, evaluation_mode, root_cause, trace
from leanformer.export.verify import Verification, fixed_images, verify

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

NORM_NODES = frozenset({
    "BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "MeanVarianceNormalization", "LpNormalization",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written and how it compares with the model."""

    path: Path
    size_bytes: int
    """Of the file, with the external data of a model over 2 GB."""
    opset: int
    image_size: tuple[int, int]
    dynamic_batch: bool
    nodes: dict[str, int]
    """Number of nodes of each kind."""
    num_norms: int
    """Normalisations left in the graph; a model whose norms were folded has none."""
    verification: Verification
    seconds: float

    def lines(self) -> tuple[str, ...]:
        """The report in sentences, for a person."""
        batch = "any batch size" if self.dynamic_batch else "batch size 1"
        height, width = self.image_size
        return (
            f"{self.path}: ONNX opset {self.opset}, {self.size_bytes / 1e6:.2f} MB, {batch}, {height} x {width} images",
            f"graph: {sum(self.nodes.values())} nodes, {self.num_norms} of them normalisations",
            f"compared with the model: {self.verification}",
        )


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    image_size: int | tuple[int, int],
    dynamic_batch: bool = True,
    opset: int | None = None,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Write `model` in evaluation mode as an ONNX file, reopen it in onnxruntime and compare the two.

    The input is named `images` (B, 3, H, W), prepared as the metadata says; the output `logits` (B, K).

    Raises:
        ExportError: if a module cannot be traced, naming it; if the file cannot be written; or if it does not compute
            what the model does. It is then kept as `<path>.unverified`, and whatever `path` held before is untouched.
    """
    require("onnxscript", extra="export")
    started = time.perf_counter()
    path = Path(path)
    if path.is_dir():
        raise ExportError(f"{path} is a folder; give the path of a file, such as {path / 'model.onnx'}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    images = fixed_images(1, (height, width))
    with evaluation_mode(model), _quiet():
        program = trace(model, images.to(device_of(model)), dynamic_batch=dynamic_batch)
        converted = _convert(program, opset)
    converted.model.metadata_props.update(to_properties(describe(model)))
    with _folder_beside(path) as folder:
        written = folder / path.name
        converted.save(written)
        graph = _check(written)
        batches = [images, fixed_images(3, (height, width))] if dynamic_batch else [images]
        verification = verify(OnnxClassifier(written), model, batches, tolerance=tolerance)
        size = sum(file.stat().st_size for file in folder.iterdir())
        _move(written, path if verification.passed else path.with_name(f"{path.name}.unverified"))
    if not verification.passed:
        raise ExportError(
            f"{path.name} does not compute what the model does: {verification}; kept as {path}.unverified"
        )
    return ExportReport(
        path=path,
        size_bytes=size,
        opset=next(entry.version for entry in graph.opset_import if entry.domain == ""),
        image_size=(height, width),
        dynamic_batch=dynamic_batch,
        nodes=dict(Counter(node.op_type for node in graph.graph.node)),
        num_norms=_count_norms(graph),
        verification=verification,
        seconds=time.perf_counter() - started,
    )


def count_norm_nodes(path: str | Path) -> int:
    """Normalisations in an ONNX file: the nodes of that name, and those spelt out as mean, (add,) square root."""
    return _count_norms(require("onnx", extra="export").load(str(path), load_external_data=False))


def _count_norms(graph: onnx.ModelProto) -> int:
    readers: dict[str, list[Any]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return sum(_is_norm(node, readers) for node in graph.graph.node)


def _is_norm(node: Any, readers: dict[str, list[Any]]) -> bool:
    if node.op_type in NORM_NODES:
        return True
    if node.op_type != "ReduceMean":
        return False
    following = list(readers.get(node.output[0], ()))
    for reader in tuple(following):
        if reader.op_type == "Add":  # the epsilon
            following.extend(readers.get(reader.output[0], ()))
    return any(reader.op_type in ("Sqrt", "Pow") for reader in following)


def _convert(program: ExportedProgram, opset: int | None) -> torch.onnx.ONNXProgram:
    try:
        # Attention is decomposed here. Under the rules of the fused CPU kernel the parts get strides that the views
        # after it were not traced with, and the conversion of biased attention fails.
        with sdpa_kernel(SDPBackend.MATH):
            converted = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=["images"],
                output_names=["logits"],
                custom_translation_table={torch.ops.aten.sort.stable: _sort},
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"the model cannot be expressed in ONNX: {root_cause(error)}") from error
    assert converted is not None, "the dynamo exporter always returns a program"
    for node in converted.model.graph:
        node.metadata_props.clear()  # Python stack traces: paths of this machine, and half of a small file
    return converted


def _sort(x: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
    """aten.sort.stable, which the exporter lacks: TopK takes the first of equal values first, so it is stable."""
    op = require("onnxscript", extra="export").opset18
    size = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
    return op.TopK(x, size, axis=dim, largest=int(descending), sorted=1)


def _check(path: Path) -> onnx.ModelProto:
    onnx = require("onnx", extra="export")
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    return onnx.load(str(path), load_external_data=False)


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `path`; what the disk refuses is an error that names `path`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
            yield Path(folder)
    except OSError as error:
        raise ExportError(f"{path}: could not be written ({error.strerror or error})") from error


def _move(written: Path, target: Path) -> None:
    for file in written.parent.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        if file != written:  # external data, which the graph refers to by name
            os.replace(file, target.parent / file.name)
    os.replace(written, target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints its progress and warns about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
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
