"""What it costs to import the library and to ask the command line for help. Other work on the machine can only add to a
measured time, so the fastest of several counts."""

from __future__ import annotations

import json
import subprocess
import sys
import time

IMPORT_SECONDS = 0.3
HELP_SECONDS = 1.0

IMPORT = """
import json, sys, time
import torch, numpy, PIL.Image, safetensors.torch
before = time.perf_counter()
from leanformer import *
print(json.dumps([time.perf_counter() - before, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

HELP = """
import json, sys
from leanformer.cli import main
try:
    main(["--help"])
except SystemExit as end:
    status = end.code
print(json.dumps([status, "torch" in sys.modules]))
"""


def _python(script: str) -> tuple[str, float]:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return done.stdout, time.perf_counter() - started


def test_all_public_names_cost_at_most_a_third_of_a_second_over_torch():
    fastest = float("inf")
    for _ in range(5):
        seconds, _ = json.loads(_python(IMPORT)[0])
        fastest = min(fastest, seconds)
        if fastest <= IMPORT_SECONDS:
            break
    assert fastest <= IMPORT_SECONDS


def test_the_library_imports_torch_numpy_safetensors_and_pillow_alone():
    _, modules = json.loads(_python(IMPORT)[0])
    assert "leanformer" in modules
    heavy = {"timm", "torchvision", "matplotlib", "rich", "tyro", "onnx", "onnxruntime", "onnxscript", "transformers"}
    assert not heavy & set(modules)


def test_help_answers_within_a_second_without_torch():
    fastest = float("inf")
    for _ in range(5):
        printed, seconds = _python(HELP)
        status, torch_imported = json.loads(printed.splitlines()[-1])
        assert not status
        assert not torch_imported
        assert "subcommands" in printed
        fastest = min(fastest, seconds)
        if fastest <= HELP_SECONDS:
            break
    assert fastest <= HELP_SECONDS
