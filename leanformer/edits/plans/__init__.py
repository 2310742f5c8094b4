"""Plans: they measure a model with data and give an edit, which is done apart from choosing it."""

from leanformer.edits.plans.attention import plan_attention_removal
from leanformer.edits.plans.heads import HeadNorm, plan_head_removal
from leanformer.edits.plans.merging import plan_token_merging
from leanformer.edits.plans.plan import Plan
from leanformer.edits.plans.scores import AccuracyDrop, LatencyGain, Score, TransferEntropy
from leanformer.edits.plans.search import Alone, Exhaustive, FirstOnes, Greedy, Progress, RandomChoice, Search, Trial

__all__ = [
    "AccuracyDrop",
    "Alone",
    "Exhaustive",
    "FirstOnes",
    "Greedy",
    "HeadNorm",
    "LatencyGain",
    "Plan",
    "Progress",
    "RandomChoice",
    "Score",
    "Search",
    "TransferEntropy",
    "Trial",
    "plan_attention_removal",
    "plan_head_removal",
    "plan_token_merging",
]
