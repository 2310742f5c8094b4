"""The example of fine-tuning from Python, and what the page of the examples says of its neighbors."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from leanformer.config import to_dict
from leanformer.data.synthetic import write_folder
from leanformer.recipes import default_recipe
from leanformer.training import ModelSpec
from leanformer.training.config import differences

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("finetune_photos", EXAMPLES / "finetune_photos.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_three_things_of_the_default_recipe_are_changed(example):
    changed = example.recipe("garments", Path("runs/a"))
    assert changed.model == ModelSpec(name="deit_tiny.in1k", weights="deit_tiny.in1k")
    lines = differences(to_dict(default_recipe(changed.model, Path("runs/a"))), to_dict(changed))
    assert {line.partition(":")[0].partition(".")[0] for line in lines} == {"optimizer", "epochs", "ema"}


def test_every_example_is_on_their_page():
    named = set(re.findall(r"\]\((.+?)\)", (EXAMPLES / "README.md").read_text()))
    assert named == {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}


@pytest.mark.slow
def test_photos_are_trained_on_and_one_is_looked_at(example, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_folder("photos", per_class=6, num_val=2)
    monkeypatch.setattr(sys, "argv", ["finetune_photos.py", "photos", "runs/a", "slab_swin_nano"])
    example.main()
    said = capsys.readouterr().out
    assert re.search(r"top-1 .* % of 6 images; the model is in runs/a\nphotos/.*\n( +[\d.]+ %  \w+ \w+\n){3}", said)
    example.main()  # which has nothing left to do
    assert capsys.readouterr().out == said
