"""The names that users import."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import pytest
from sources import PACKAGE, ROOT

import leanformer


def test_every_public_name_is_listed_once_and_known_to_the_type_checker():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    checked = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {a.asname or a.name for n in checked for i in n.body if isinstance(i, ast.ImportFrom) for a in i.names}
    assert sorted(leanformer.__all__) == sorted(set(leanformer.__all__))
    assert set(leanformer.__all__) == typed


@pytest.mark.parametrize("name", leanformer.__all__)
def test_a_public_name_exists_and_explains_itself(name):
    value = getattr(leanformer, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__module__.startswith("leanformer.")
    assert value.__doc__
    assert value.__doc__.strip()
    assert name in dir(leanformer)


@pytest.mark.parametrize("name", leanformer.__all__)
def test_a_public_name_is_in_the_reference(name):
    assert f"::: leanformer.{name}\n" in (ROOT / "docs" / "reference.md").read_text()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'leanformer' has no attribute 'lod'"):
        leanformer.lod  # noqa: B018


def test_public_names_are_imported_when_they_are_first_used():
    script = (
        "import sys, leanformer\n"
        "assert 'torch' not in sys.modules\n"
        "leanformer.build\n"
        "assert 'torch' in sys.modules and 'build' in vars(leanformer)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
