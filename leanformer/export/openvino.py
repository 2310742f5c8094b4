"""OpenVINO IR: a graph (.xml) beside its weights (.bin), run by OpenVINO on the CPU."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch._decomp import get_decompositions
from torch.export import ExportedProgram

from leanformer.errors import ExportError, require
from leanformer.export.format import ExportedClassifier, Format, Graph, Node, check_file, count_norms
from leanformer.export.metadata import PREFIX, Metadata, from_properties, to_properties
from leanformer.export.program import root_cause, trace

NORMS = frozenset({"MVN", "BatchNormInference", "GroupNormalization", "NormalizeL2", "RMS"})
SPELT_OUT = [torch.ops.aten.index_add]
"""Operations that the converter does not take as they are."""
SECTION = PREFIX.removesuffix(".")
"""Where the metadata stands in the file's `rt_info`."""

Precision = Literal["f32", "bf16", "f16"]
"""What the runtime computes in; it takes the nearest that the processor has."""


def require_untracked(module: str, *, extra: str) -> ModuleType:
    """`require` for OpenVINO and what belongs to it, without the package with which they report their use.

    That package starts processes that call its maker's server, from whatever process exports a model.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore[reportArgumentType]
    return require(module, extra=extra)


@dataclass(frozen=True, kw_only=True)
class OpenVino(Format):
    """OpenVINO IR in float32. The input is named `images` (B, 3, H, W), the output `logits` (B, K)."""

    name: ClassVar[str] = "openvino"
    suffix: ClassVar[str] = ".xml"

    def write(self, model: nn.Module, images: Tensor, path: Path, metadata: Metadata, dynamic_batch: bool) -> Graph:
        """Write both files."""
        converted = convert(spelt_out(trace(model, images, dynamic_batch=dynamic_batch)), images, dynamic_batch)
        return save_graph(converted, path, metadata)

    def open(self, path: Path, threads: int) -> OpenVinoClassifier:
        """Open a file on the CPU, computing in float32."""
        return OpenVinoClassifier(path, threads=threads)


class CompiledClassifier(ExportedClassifier):
    """Runs a graph that OpenVINO has compiled with so many threads; `path` is what errors call it."""

    def __init__(self, compiled: Any, metadata: Metadata, path: Path, threads: int) -> None:
        batch, *shape = compiled.inputs[0].get_partial_shape()
        size = tuple(int(side.get_length()) for side in shape)
        assert len(size) == 3
        super().__init__(path, metadata, (None if batch.is_dynamic else int(batch.get_length()), *size), threads)
        self._compiled = compiled

    def compute(self, images: Tensor) -> Tensor:
        """Logits of a batch that the file takes."""
        return torch.from_numpy(self._compiled(images.numpy())[0].copy())


class OpenVinoClassifier(CompiledClassifier):
    """Runs an OpenVINO IR on the CPU.

    Args:
        threads: by default as many as torch uses now.
        precision: of the computation; the weights in the file stay as they are.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None, precision: Precision = "f32") -> None:
        path = Path(path)
        check_file(path)
        check_file(path.with_suffix(".bin"))
        reader = require_untracked("openvino.frontend", extra="export").FrontEndManager().load_by_framework("ir")
        try:
            held = reader.convert(reader.load(str(path)))
        except RuntimeError as error:
            raise ExportError(f"{path}: OpenVINO cannot open it: {root_cause(error)}") from error
        metadata = from_properties(_properties(held), path.name)
        threads = threads or torch.get_num_threads()
        super().__init__(compile_graph(held, threads, precision), metadata, path, threads)
        self.precision = precision


def compile_graph(held: Any, threads: int, precision: Precision = "f32") -> Any:
    """A graph, ready to run on the CPU."""
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1}
    return require_untracked("openvino", extra="export").Core().compile_model(held, "CPU", settings)


def spelt_out(program: ExportedProgram) -> ExportedProgram:
    """The program in operations that the converter takes."""
    return program.run_decompositions(get_decompositions(SPELT_OUT))


def convert(program: ExportedProgram, images: Tensor, dynamic_batch: bool) -> Any:
    """An OpenVINO graph of a program in operations that the converter takes, for images like these, (B, 3, H, W).

    Raises:
        ExportError: naming what cannot be expressed.
    """
    runtime = require_untracked("openvino", extra="export")
    try:
        converted = runtime.convert_model(program)
    except RuntimeError as error:  # what the converter raises
        raise ExportError(f"the model cannot be expressed in OpenVINO: {root_cause(error)}") from error
    converted.inputs[0].get_tensor().set_names({"images"})
    converted.outputs[0].get_tensor().set_names({"logits"})
    batch = -1 if dynamic_batch else len(images)
    converted.reshape({"images": runtime.PartialShape([batch, *images.shape[1:]])})
    return converted


def save_graph(held: Any, path: Path, metadata: Metadata) -> Graph:
    """Write a graph and its weights, and say what it holds."""
    for name, text in to_properties(metadata).items():
        held.set_rt_info(text, [SECTION, name.removeprefix(PREFIX)])
    require_untracked("openvino", extra="export").save_model(held, path, compress_to_fp16=False)
    return read_graph(held)


def read_graph(held: Any) -> Graph:
    """What an OpenVINO model holds."""
    makers = {op.get_friendly_name(): Node(op.get_type_name(), []) for op in held.get_ops()}
    for op in held.get_ops():
        for source in op.input_values():
            makers[source.get_node().get_friendly_name()].readers.append(makers[op.get_friendly_name()])
    nodes = list(makers.values())
    return Graph(
        title="OpenVINO IR",
        nodes=dict(Counter(node.kind for node in nodes)),
        num_norms=count_norms(nodes, NORMS, "ReduceMean", frozenset({"Sqrt", "Power"})),
    )


def _properties(held: Any) -> dict[str, str]:
    if not held.has_rt_info(SECTION):
        return {}
    return {PREFIX + name: value.astype(str) for name, value in held.get_rt_info(SECTION).astype(dict).items()}
