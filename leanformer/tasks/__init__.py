"""What models are trained for: losses of a batch, metrics of a data set."""

from leanformer.tasks.calibration import Calibration, measure_calibration
from leanformer.tasks.classify import Classification, Metrics, format_line
from leanformer.tasks.distill import Distill, build_teacher

__all__ = ["Calibration", "Classification", "Distill", "Metrics", "build_teacher", "format_line", "measure_calibration"]
