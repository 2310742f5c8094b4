"""Compression: edits chained on a model, each measured, and the search for the chain that reaches a latency."""

from leanformer.compression.chain import Chain, run_chain
from leanformer.compression.choosing import Chooser
from leanformer.compression.figures import Figures, Gain, Latency, Meter
from leanformer.compression.search import Goal, Outcome, Searcher, TargetMissed
from leanformer.compression.steps import Step, parse_step
from leanformer.compression.target import Target
from leanformer.compression.tuning import Tuning

__all__ = [
    "Chain",
    "Chooser",
    "Figures",
    "Gain",
    "Goal",
    "Latency",
    "Meter",
    "Outcome",
    "Searcher",
    "Step",
    "Target",
    "TargetMissed",
    "Tuning",
    "parse_step",
    "run_chain",
]
