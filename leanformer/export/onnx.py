"""ONNX: one file with the weights inside, run by onnxruntime."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from leanformer.errors import ExportError, require
from leanformer.export.format import ExportedClassifier, Format, Graph, Node, check_file, count_norms
from leanformer.export.metadata import Metadata, from_properties, to_properties
from leanformer.export.program import attention_in_steps, root_cause, trace

if TYPE_CHECKING:
    import onnx
    from torch.export import ExportedProgram

NORMS = frozenset({
    "BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
    "SimplifiedLayerNormalization", "SkipLayerNormalization", "MeanVarianceNormalization", "LpNormalization",
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Onnx(Format):
    """ONNX. The input is named `images` (B, 3, H, W), prepared as the metadata says; the output `logits` (B, K)."""

    name: ClassVar[str] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    opset: int | None = None
    """None for the exporter's own."""

    def write(self, model: nn.Module, images: Tensor, path: Path, metadata: Metadata, dynamic_batch: bool) -> Graph:
        """Write the file, and have onnx check it."""
        require("onnxscript", extra="export")
        converted = _convert(trace(model, images, dynamic_batch=dynamic_batch), self.opset)
        converted.model.metadata_props.update(to_properties(metadata))
        converted.save(path)
        onnx = require("onnx", extra="export")
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
        return read_graph(path)

    def open(self, path: Path, threads: int) -> OnnxClassifier:
        """Open a file in onnxruntime, on the CPU."""
        return OnnxClassifier(path, threads=threads)


class OnnxClassifier(ExportedClassifier):
    """Runs an ONNX file in onnxruntime on the CPU.

    Idle threads sleep instead of spinning: a spinning pool would slow whatever is measured next to it.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        """Open the file; `threads` bounds those of one operator, by default as many as torch uses now."""
        path, threads = Path(path), threads or torch.get_num_threads()
        session = _open_session(path, threads)
        batch, *shape = session.get_inputs()[0].shape
        metadata = from_properties(session.get_modelmeta().custom_metadata_map, path.name)
        super().__init__(path, metadata, (batch if isinstance(batch, int) else None, *shape), threads)
        self._session = session

    def compute(self, images: Tensor) -> Tensor:
        """Logits of a batch that the file takes."""
        (logits,) = self._session.run(None, {"images": images.numpy()})
        return torch.from_numpy(logits)


def read_graph(path: str | Path) -> Graph:
    """What an ONNX file holds."""
    onnx = require("onnx", extra="export")
    held: onnx.ModelProto = onnx.load(str(path), load_external_data=False)
    nodes = [Node(node.op_type, []) for node in held.graph.node]
    makers = {name: made for made, node in zip(nodes, held.graph.node, strict=True) for name in node.output}
    for taker, node in zip(nodes, held.graph.node, strict=True):
        for name in node.input:
            if name in makers:
                makers[name].readers.append(taker)
    opset = next(entry.version for entry in held.opset_import if entry.domain == "")
    return Graph(
        title=f"ONNX opset {opset}",
        nodes=dict(Counter(node.kind for node in nodes)),
        num_norms=count_norms(nodes, NORMS, "ReduceMean", frozenset({"Sqrt", "Pow"})),
    )


def _convert(program: ExportedProgram, opset: int | None) -> torch.onnx.ONNXProgram:
    try:
        converted = torch.onnx.export(
            attention_in_steps(program),
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


def _open_session(path: Path, threads: int) -> Any:
    runtime = require("onnxruntime", extra="export")
    check_file(path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    errors = require("onnxruntime.capi.onnxruntime_pybind11_state", extra="export")
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (errors.InvalidProtobuf, errors.InvalidGraph, errors.Fail, errors.NotImplemented) as error:
        raise ExportError(f"{path}: onnxruntime cannot open it: {error}") from error
