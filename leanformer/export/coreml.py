"""Core ML packages (.mlpackage): written anywhere, run on a Mac alone."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.export import ExportedProgram

from leanformer.errors import ExportError, require
from leanformer.export.format import ExportedClassifier, Format, Graph, Node, check_file, count_norms
from leanformer.export.metadata import Metadata, from_properties, to_properties
from leanformer.export.program import SORTS, attention_in_steps, in_core_operations, root_cause, trace

NORMS = frozenset({"layer_norm", "batch_norm", "instance_norm", "l2_norm"})
MANIFEST = "Manifest.json"


@dataclass(frozen=True, kw_only=True)
class CoreMl(Format):
    """A Core ML program for iOS 17 or macOS 14 and newer, in float32: `images` (1, 3, H, W) to `logits` (1, K)."""

    name: ClassVar[str] = "coreml"
    suffix: ClassVar[str] = ".mlpackage"
    any_batch: ClassVar[bool] = False
    is_folder: ClassVar[bool] = True

    def not_run_here(self) -> str:
        """Why files of this format cannot be run on this machine."""
        return "" if sys.platform == "darwin" else "Core ML runs on a Mac alone"

    def write(self, model: nn.Module, images: Tensor, path: Path, metadata: Metadata, dynamic_batch: bool) -> Graph:
        """Write the package."""
        with _without_warnings():
            tools = require("coremltools", extra="coreml")
            program = in_core_operations(
                attention_in_steps(trace(model, images[:1], dynamic_batch=False)), _spelt_out()
            )
            try:
                converted = tools.convert(
                    _without_empty_parts(program),
                    minimum_deployment_target=tools.target.iOS17,
                    compute_precision=tools.precision.FLOAT32,
                    inputs=[tools.TensorType(name="images", shape=(1, *images.shape[1:]))],
                    outputs=[tools.TensorType(name="logits")],
                )
            except (RuntimeError, ValueError) as error:  # of an operation or a shape that the converter does not take
                raise ExportError(f"the model cannot be expressed in Core ML: {root_cause(error)}") from error
            converted.user_defined_metadata.update(to_properties(metadata))
            converted.save(str(path))
        return read_graph(converted.get_spec())

    def open(self, path: Path, threads: int) -> CoreMlClassifier:
        """Open a package; Core ML chooses its own threads."""
        return CoreMlClassifier(path, threads=threads)


class CoreMlClassifier(ExportedClassifier):
    """Runs a Core ML package on a Mac; elsewhere it says what the package holds."""

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        path = Path(path)
        check_file(path / MANIFEST)
        runs_here = not CoreMl().not_run_here()
        with _without_warnings():
            models = require("coremltools.models", extra="coreml")
            try:
                self._held = models.MLModel(str(path), skip_model_load=not runs_here)
            except (RuntimeError, ValueError, OSError) as error:
                raise ExportError(f"{path}: coremltools cannot open it: {root_cause(error)}") from error
        metadata = from_properties(dict(self._held.user_defined_metadata), path.name)
        batch, *shape = self._held.get_spec().description.input[0].type.multiArrayType.shape
        super().__init__(path, metadata, (batch, *shape), threads or torch.get_num_threads())

    def compute(self, images: Tensor) -> Tensor:
        """Logits of a batch that the package takes."""
        if reason := CoreMl().not_run_here():
            raise ExportError(f"{self.path.name}: {reason}")
        return torch.from_numpy(self._held.predict({"images": images.numpy()})["logits"]).float()


def read_graph(spec: Any) -> Graph:
    """What a Core ML program holds."""
    (function,) = spec.mlProgram.functions.values()
    (block,) = function.block_specializations.values()
    computed = [operation for operation in block.operations if operation.type != "const"]
    nodes = [Node(operation.type, []) for operation in computed]
    makers = {out.name: node for node, operation in zip(nodes, computed, strict=True) for out in operation.outputs}
    for node, operation in zip(nodes, computed, strict=True):
        for given in operation.inputs.values():
            for argument in given.arguments:
                if argument.name in makers:
                    makers[argument.name].readers.append(node)
    return Graph(
        title="Core ML program",
        nodes=dict(Counter(node.kind for node in nodes)),
        num_norms=count_norms(nodes, NORMS, "reduce_mean", frozenset({"sqrt", "rsqrt", "pow"})),
    )


def _spelt_out() -> dict[Any, Any]:
    """How to compute what the converter does not know."""
    known = get_decompositions([torch.ops.aten.addcmul, torch.ops.aten.index_add])
    return {**known, **SORTS, torch.ops.aten.alias.default: _same, torch.ops.aten.roll.default: roll_in_parts}


def _same(x: Tensor) -> Tensor:
    return x


def roll_in_parts(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Any:
    """aten.roll, dimension by dimension: the part that leaves at the end enters at the beginning."""
    if not dims:
        return NotImplemented
    for shift, dim in zip(shifts, dims, strict=True):
        size = x.shape[dim]
        if leaving := shift % size:
            x = torch.cat((x.narrow(dim, size - leaving, leaving), x.narrow(dim, 0, size - leaving)), dim=dim)
    return x


def _without_empty_parts(program: ExportedProgram) -> ExportedProgram:
    """Leave tensors without elements out of concatenations; the converter takes them for one element."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.cat.default:
            parts, *dim = node.args
            node.args = ([part for part in parts if part.meta["val"].numel()], *dim)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    return program


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence coremltools, which tells at every import which versions it was not tested with."""
    log = logging.getLogger("coremltools")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            yield
    finally:
        log.setLevel(level)
