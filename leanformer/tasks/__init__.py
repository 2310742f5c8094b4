"""What models are trained for: losses of a batch, metrics of a data set."""

from leanformer.tasks.classify import Classification, Metrics, format_line

__all__ = ["Classification", "Metrics", "format_line"]
