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
    "compression": TORCH,
    "cli": {"tyro"},
    "integrations": TORCH,
    "api": TORCH,
    "__init__": set(),
    "__main__": set(),
}
"""What each part may import when it is imported; everything else waits in the function that needs it."""
ASKED_FOR = {PACKAGE / "integrations" / "timm.py": {"timm"}}
"""Modules that are imported by nobody but the user who wants that library."""


def test_a_module_imports_at_once_only_what_its_folder_may():
    for path in library_files():
        allowed = THIRD_PARTY[part_of(path)] | ASKED_FOR.get(path, set()) | {"leanformer"}
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
    assert parts - placed == {"__init__", "__main__", "api"}
    assert placed <= parts
    assert set(THIRD_PARTY) == parts


def test_a_module_that_imports_a_library_at_once_is_imported_by_no_other():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in ASKED_FOR}
    for path in library_files():
        nodes = [
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        assert not names & {module for node in nodes for module in imported_modules(node)}, path


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
