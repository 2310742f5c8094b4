"""What models are trained for: losses of a batch, metrics of a data set."""

from leanformer.tasks.calibration import Calibration, measure_calibration
from leanformer.tasks.classify import Classification, Metrics, format_line
from leanformer.tasks.distill import Distill, build_teacher
from leanformer.tasks.evaluation import evaluate_images
from leanformer.tasks.multi_label import MultiLabelMetrics

__all__ = [
    "Calibration",
    "Classification",
    "Distill",
    "Metrics",
    "MultiLabelMetrics",
    "build_teacher",
    "evaluate_images",
    "format_line",
    "measure_calibration",
]
