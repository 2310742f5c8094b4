"""What it costs to import the library and to ask the command line for help.

In seconds of processor time: on an idle machine those on the clock, and hardly changed by tests that run beside them.
The best of several counts, since anything else on the machine can only add."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

IMPORT_SECONDS = 0.3
HELP_SECONDS = 1.0

IMPORT = """
import json, sys, time
import torch
before = time.process_time()
from leanformer import *
print(json.dumps([time.process_time() - before, sorted({name.partition(".")[0] for name in sys.modules})]))
"""

HELP = """
import json, sys
from leanformer.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print(json.dumps([status, "torch" in sys.modules]))
"""


def _python(script: str, *arguments: str) -> tuple[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


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


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_help_answers_within_a_second_without_torch(arguments):
    fastest = float("inf")
    for _ in range(5):
        printed, seconds = _python(HELP, *arguments)
        status, torch_imported = json.loads(printed.splitlines()[-1])
        assert not status
        assert not torch_imported
        assert "usage: leanformer" in printed
        fastest = min(fastest, seconds)
        if fastest <= HELP_SECONDS:
            break
    assert fastest <= HELP_SECONDS
