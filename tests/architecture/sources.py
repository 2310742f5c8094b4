"""The library's source files as the architecture tests read them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "leanformer"


def library_files() -> list[Path]:
    """Every Python file of the package, sorted."""
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The top folder or module that a file belongs to: `data` for leanformer/data/images.py, `config` for config.py."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when the module is imported: not those in functions or for the type checker alone."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If):
            checked = "TYPE_CHECKING" in ast.unparse(node.test)
            yield from at_import([*([] if checked else node.body), *node.orelse])
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            yield from at_import(node.body)


def imported_modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The dotted names that an import statement may bring in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert node.module and not node.level, f"relative import in line {node.lineno}; name the module from its root"
    return [node.module]
