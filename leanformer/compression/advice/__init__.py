"""Advice: where a model's time goes on this device, from which sizes on another attention is faster, what each edit
would buy, and what to do first."""

from leanformer.compression.advice.advise import advise
from leanformer.compression.advice.figures import Advice
from leanformer.compression.advice.setting import rebuilt
from leanformer.compression.advice.text import advice_lines
from leanformer.compression.advice.turns import Timer

__all__ = ["Advice", "Timer", "advice_lines", "advise", "rebuilt"]
