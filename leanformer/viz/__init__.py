"""What a model does, to look at: charts, chosen predictions, and pages of a run as one file."""

from leanformer.viz.predictions import Prediction, choose_predictions
from leanformer.viz.report import Report, Step, render_report, write_report
from leanformer.viz.run_page import RunPage, render_run_page, write_run_page

__all__ = [
    "Prediction",
    "Report",
    "RunPage",
    "Step",
    "choose_predictions",
    "render_report",
    "render_run_page",
    "write_report",
    "write_run_page",
]
