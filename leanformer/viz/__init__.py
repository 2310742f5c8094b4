"""What a model does, to look at: charts, chosen predictions, and the report of a run as one file."""

from leanformer.viz.predictions import Prediction, choose_predictions
from leanformer.viz.report import Report, Step, render_report, write_report

__all__ = ["Prediction", "Report", "Step", "choose_predictions", "render_report", "write_report"]
