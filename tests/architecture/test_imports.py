"""Which folder imports what. The order of the folders themselves is import-linter's contract in pyproject.toml."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

from sources import PACKAGE, ROOT, at_import, imported_modules, library_files, part_of

TORCH = {"torch"}
IMAGES = {"torch", "numpy", "PIL"}
THIRD_PARTY = {
    "config": set(),
    "errors": set(),
    "ops": TORCH,
    "layers": TORCH,
    "models": TORCH,
    "edits": TORCH,
    "checkpoints": {"torch", "safetensors", "numpy"},
    "zoo": TORCH,
    "data": IMAGES,
    "tasks": IMAGES,
    "training": IMAGES,
    "export": IMAGES,
    "bench": IMAGES,
    "viz": IMAGES,
    "recipes": TORCH,
    "cli": {"tyro"},
    "api": TORCH,
    "__init__": set(),
}
"""What each part may import when it is imported; everything else waits in the function that needs it."""


def test_a_module_imports_at_once_only_what_its_folder_may():
    for path in library_files():
        allowed = THIRD_PARTY[part_of(path)] | {"leanformer"}
        for line, module in _imports(path):
            top = module.partition(".")[0]
            assert top in allowed or top in sys.stdlib_module_names, (
                f"{path.relative_to(ROOT)}:{line} imports {module} at once; import it inside the function that needs it"
            )


def test_a_command_imports_the_library_only_when_it_runs():
    for path in (PACKAGE / "cli").glob("*.py"):
        for line, module in _imports(path):
            part = module.removeprefix("leanformer.").partition(".")[0]
            assert not module.startswith("leanformer.") or part in {"cli", "errors"}, f"{path.name}:{line} {module}"


def test_every_part_of_the_package_has_its_place_in_the_order_of_layers():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    order = next(contract for contract in settings["contracts"] if contract["type"] == "layers")["layers"]
    placed = {name.strip() for layer in order for name in layer.split("|")}
    parts = {part_of(path) for path in library_files()}
    assert parts - placed == {"__init__", "api"}
    assert placed <= parts
    assert set(THIRD_PARTY) == parts


def test_imports_for_the_type_checker_or_inside_functions_are_not_made_at_once():
    source = """
import os
if TYPE_CHECKING:
    import onnx
else:
    import json
def draw():
    import matplotlib
try:
    import triton
except ImportError:
    pass
"""
    found = [name for node in at_import(ast.parse(source).body) for name in imported_modules(node)]
    assert found == ["os", "json", "triton"]


def _imports(path: Path) -> list[tuple[int, str]]:
    body = ast.parse(path.read_text()).body
    return [(node.lineno, name) for node in at_import(body) for name in imported_modules(node)]
