"""Finished models in other runtimes' formats, each file compared with the model before it is called done."""

from leanformer.export.coreml import CoreMl, CoreMlClassifier
from leanformer.export.executorch import ExecuTorch, ExecuTorchClassifier
from leanformer.export.format import ExportedClassifier, Format, Graph
from leanformer.export.int8 import Int8Report, Score, export_int8
from leanformer.export.normalization import NormalizingClassifier
from leanformer.export.onnx import Onnx, OnnxClassifier
from leanformer.export.openvino import OpenVino, OpenVinoClassifier
from leanformer.export.packages import Inductor, PackageClassifier, TorchProgram
from leanformer.export.verify import Verification, verify
from leanformer.export.writing import (
    FORMATS,
    SUFFIXES,
    ExportReport,
    export_model,
    format_for,
    format_of,
    open_exported,
)

__all__ = [
    "FORMATS",
    "SUFFIXES",
    "CoreMl",
    "CoreMlClassifier",
    "ExecuTorch",
    "ExecuTorchClassifier",
    "ExportReport",
    "ExportedClassifier",
    "Format",
    "Graph",
    "Inductor",
    "Int8Report",
    "NormalizingClassifier",
    "Onnx",
    "OnnxClassifier",
    "OpenVino",
    "OpenVinoClassifier",
    "PackageClassifier",
    "Score",
    "TorchProgram",
    "Verification",
    "export_int8",
    "export_model",
    "format_for",
    "format_of",
    "open_exported",
    "verify",
]
