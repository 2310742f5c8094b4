"""ExecuTorch programs (.pte), for phones and other small devices: what XNNPACK can compute is left to it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._export.verifier import SpecViolationError

from leanformer.errors import ExportError, require
from leanformer.export.format import ExportedClassifier, Format, Graph, check_file
from leanformer.export.metadata import Metadata, from_properties, to_properties
from leanformer.export.program import (
    SORTS,
    attention_in_steps,
    count_program_norms,
    kind_of_node,
    root_cause,
    trace,
)

DESCRIPTION = "leanformer"
"""The method of the program that gives its metadata: JSON, as bytes in a tensor."""


@dataclass(frozen=True, kw_only=True)
class ExecuTorch(Format):
    """An ExecuTorch program in float32, (1, 3, H, W) images to (1, K) logits."""

    name: ClassVar[str] = "executorch"
    suffix: ClassVar[str] = ".pte"
    any_batch: ClassVar[bool] = False

    def write(self, model: nn.Module, images: Tensor, path: Path, metadata: Metadata, dynamic_batch: bool) -> Graph:
        """Write the file."""
        exir = require("executorch.exir", extra="executorch")
        partitions = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", extra="executorch")
        errors = require("executorch.exir.error", extra="executorch")
        program = trace(model, images[:1], dynamic_batch=False)
        num_norms = count_program_norms(program)
        text = json.dumps(to_properties(metadata)).encode()
        described = {DESCRIPTION: torch.frombuffer(bytearray(text), dtype=torch.uint8)}
        try:
            lowered = exir.to_edge_transform_and_lower(
                attention_in_steps(program).run_decompositions(SORTS),
                partitioner=[partitions.XnnpackPartitioner()],
                constant_methods=described,
            )
            kinds = Counter(kind_of_node(node) for node in lowered.exported_program().graph.nodes)
            path.write_bytes(lowered.to_executorch().buffer)
        except (RuntimeError, SpecViolationError, errors.InternalError, errors.ExportError) as error:
            raise ExportError(f"the model cannot be expressed in ExecuTorch: {root_cause(error)}") from error
        nodes = {kind: count for kind, count in kinds.items() if kind not in ("", "getitem")}
        parts = nodes.get("executorch_call_delegate", 0)
        return Graph(title=f"ExecuTorch, {parts} parts in XNNPACK", nodes=nodes, num_norms=num_norms)

    def open(self, path: Path, threads: int) -> ExecuTorchClassifier:
        """Open a file in ExecuTorch's own runtime, on the CPU."""
        return ExecuTorchClassifier(path, threads=threads)


class ExecuTorchClassifier(ExportedClassifier):
    """Runs an ExecuTorch program in its runtime on the CPU.

    Args:
        threads: of the runtime, which all programs of a process share: the last one that is opened sets them. By
            default as many as torch uses now.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        path, threads = Path(path), threads or torch.get_num_threads()
        check_file(path)
        with _without_chatter():
            program = _load(path)
            _set_threads(threads)
            about = _describe(program, path)
            try:
                forward = program.load_method("forward")
            except (RuntimeError, KeyError) as error:  # of an operation that the runtime lacks, for one
                raise ExportError(f"{path}: ExecuTorch cannot run it: {root_cause(error)}") from error
        (taken,) = [forward.metadata.input_tensor_meta(index) for index in range(forward.metadata.num_inputs())]
        batch, *shape = taken.sizes()
        super().__init__(path, about, (batch, *shape), threads)
        self._program, self._forward = program, forward

    def compute(self, images: Tensor) -> Tensor:
        """Logits of a batch that the file takes."""
        return self._forward.execute([images])[0].clone()


def _load(path: Path) -> Any:
    bindings = require("executorch.extension.pybindings.portable_lib", extra="executorch")
    runtime = require("executorch.runtime", extra="executorch").Runtime.get()
    try:
        return runtime.load_program(path, verification=bindings.Verification.InternalConsistency)
    except RuntimeError as error:
        raise ExportError(f"{path}: ExecuTorch cannot open it: {root_cause(error)}") from error


def _describe(program: Any, path: Path) -> Metadata:
    if DESCRIPTION not in program.method_names:
        return from_properties({}, path.name)
    text = bytes(program.load_method(DESCRIPTION).execute([])[0].numpy())
    return from_properties(json.loads(text), path.name)


def _set_threads(threads: int) -> None:
    bindings = require("executorch.extension.pybindings.portable_lib", extra="executorch")
    if bindings._threadpool_get_thread_count() != threads:
        bindings._unsafe_reset_threadpool(threads)


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Silence what the runtime's C++ writes to the standard error stream while it looks at the processor, and its
    warning that it may change."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
