"""An exported ONNX file as a classifier: the same call, class names and preprocessing as the model it was exported
from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanformer.errors import ExportError, require
from leanformer.export.metadata import from_properties
from leanformer.models.preprocess import Preprocess


class OnnxClassifier(nn.Module):
    """Runs an ONNX file in onnxruntime on the CPU: (B, 3, H, W) images to (B, K) logits.

    It is a module without parameters, so that everything that takes a model (evaluate, predict, bench) takes it.
    Idle threads sleep instead of spinning: a spinning pool would slow whatever is measured next to it.
    """

    classes: tuple[str, ...] | None
    preprocess: Preprocess
    multi_label: bool

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        """Open the file; `threads` bounds those of one operator, by default as many as torch uses now."""
        super().__init__()
        self.path = Path(path)
        self.threads = threads or torch.get_num_threads()
        self._session = _open_session(self.path, self.threads)
        shape = self._session.get_inputs()[0].shape
        self.batch_size = shape[0] if isinstance(shape[0], int) else None
        self.image_size = (shape[2], shape[3])
        metadata = from_properties(self._session.get_modelmeta().custom_metadata_map, self.path.name)
        self.name = metadata.model
        self.classes = metadata.classes
        self.preprocess = metadata.preprocess
        self.multi_label = metadata.multi_label
        self.metadata = metadata

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of (B, 3, H, W) images; a file of one batch size runs them in parts of that size."""
        expected = (3, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise ExportError(f"{self.path.name} takes images of shape {expected}, got {tuple(images.shape[1:])}")
        if self.batch_size is None:
            return self._run(images)
        if len(images) % self.batch_size:
            raise ExportError(
                f"{self.path.name} takes batches of {self.batch_size}, got {len(images)} images; "
                "export with dynamic_batch=True for any number"
            )
        return torch.cat([self._run(part) for part in images.split(self.batch_size)])

    def _run(self, images: Tensor) -> Tensor:
        (logits,) = self._session.run(None, {"images": images.detach().float().cpu().contiguous().numpy()})
        return torch.from_numpy(logits)


def _open_session(path: Path, threads: int) -> Any:
    runtime = require("onnxruntime", extra="export")
    if not path.is_file():
        raise ExportError(f"{path}: there is no such file")
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
