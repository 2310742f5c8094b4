"""README and documentation: what they show runs, parses and exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sources import ROOT

import leanformer
from leanformer.cli import COMMANDS, main
from leanformer.data.synthetic import shapes, write_folder
from leanformer.zoo.weights import layout_of

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """The command lines of the console blocks, in words."""
    lines = [line for block in blocks(page, "console") for line in block.splitlines()]
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]


def pages_with(language: str) -> pytest.MarkDecorator:
    """The test runs once for each page that has blocks of the language."""
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


@pages_with("python")
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = "\n".join(blocks(page, "python"))
    _write_what_is_read(source)
    exec(compile(source, str(page), "exec"), {})


@pages_with("console")
def test_the_commands_of_a_page_are_ones_that_leanformer_takes(page, monkeypatch):
    ran = []
    for name, cls in COMMANDS.items():  # parse only
        monkeypatch.setattr(cls, "run", lambda _, name=name: ran.append(name) or 0)
    for program, *arguments in commands(page):
        if program == "make":
            assert set(arguments) <= _make_targets()
        else:
            if program == "torchrun":
                program, *arguments = arguments[arguments.index("-m") + 1 :]
            assert program == "leanformer"
            assert main(arguments) == 0
            assert ran[-1] == arguments[0]


@pytest.mark.extras
def test_the_commands_of_the_readme_work_one_after_another(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    write_folder("photos", per_class=6, num_val=2)
    shapes(num_images=1).image(0).save("some.jpg")
    quick = {"train": ["--epochs", "1"], "bench": ["--repeats", "3"], "compress": ["--repeats", "6"]}
    for program, *arguments in commands(ROOT / "README.md"):
        if program == "leanformer":
            assert main([*arguments, *quick.get(arguments[0], [])]) == 0, arguments
    assert {path.name for path in tmp_path.iterdir()} >= {"runs", "mine.onnx", "bench.md"}


def test_every_link_between_pages_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_every_make_target_that_a_page_names_exists():
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)", page.read_text())) <= _make_targets(), page


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        assert f": {page.relative_to(ROOT / 'docs')}\n" in navigation


def test_everything_in_the_reference_exists_and_explains_itself():
    for name in re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "reference.md").read_text(), flags=re.MULTILINE):
        assert _find(name).__doc__, name


@pytest.mark.extras
def test_the_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "leanformer.FoldNorms" in (tmp_path / "reference" / "index.html").read_text()


def test_the_packaged_version_is_the_one_that_the_changelog_describes():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert version is not None
    assert leanformer.__version__ == version[1]
    assert f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()


def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def _write_what_is_read(source: str) -> None:
    """The files that the examples take as given: a picture, a published file."""
    if "cat.jpg" in source:
        shapes(num_images=1).image(0).save("cat.jpg")
    for name, file in re.findall(r'load\("(\w+)", weights="(.+?)"', source):
        model = leanformer.build(name)
        torch.save({"model": layout_of(model.config).map_for(model.config).to_published(model.state_dict())}, file)


def _find(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError:
        return importlib.import_module(name)


@pytest.mark.parametrize("name", ["zoo", "recipes"])
def test_a_generated_page_is_the_one_that_its_tool_gives(name: str) -> None:
    path = ROOT / f"tools/make_{name}_page.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), f"python tools/{path.name} writes it again"
