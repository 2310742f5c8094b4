"""Finished models in other runtimes' formats, each file compared with the model before it is called done."""

from leanformer.export.classifier import OnnxClassifier
from leanformer.export.onnx import ExportReport, count_norm_nodes, export_onnx
from leanformer.export.verify import Verification, verify

__all__ = ["ExportReport", "OnnxClassifier", "Verification", "count_norm_nodes", "export_onnx", "verify"]
