"""Rules of style that no linter holds."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sources import ROOT, library_files

MOST_LINES = 350
MOST_LINES_OF_A_FUNCTION = 60
REPEATED_LINES = 8


def test_every_file_is_read_in_one_sitting_and_says_what_it_is_for():
    for path, tree in _trees():
        assert len(path.read_text().splitlines()) <= MOST_LINES, path
        assert ast.get_docstring(tree), path


def test_every_function_fits_on_a_screen():
    for path, node in _nodes(ast.FunctionDef):
        assert node.end_lineno - node.lineno < MOST_LINES_OF_A_FUNCTION, f"{path}:{node.lineno} {node.name}"


def test_weights_are_never_loaded_in_part_or_unsafely():
    for path, call in _nodes(ast.Call):
        for keyword in call.keywords:
            off = getattr(keyword.value, "value", None) is False
            partial = keyword.arg == "strict" and ast.unparse(call.func) != "zip"
            assert not (off and (partial or keyword.arg == "weights_only")), f"{path}:{call.lineno} {keyword.arg}"


def test_only_named_exceptions_are_caught():
    for path, handler in _nodes(ast.ExceptHandler):
        caught = {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)} if handler.type else {"everything"}
        assert not caught & {"Exception", "BaseException", "everything"}, f"{path}:{handler.lineno}"


def test_no_run_of_lines_stands_in_two_files():
    assert repeated_runs(library_files()) == []


def test_a_repeated_run_is_found_whatever_its_indentation(tmp_path):
    lines = [f"total = total + weight_{i} * value_{i}" for i in range(REPEATED_LINES)]
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text("\n".join(lines))
    second.write_text("if total:\n" + "\n\n".join("    " + line for line in lines))
    assert repeated_runs([first, second]) == ["first.py:1 and second.py:2"]
    second.write_text("\n".join(lines[1:]))
    assert repeated_runs([first, second]) == []


def repeated_runs(paths: list[Path]) -> list[str]:
    """The first of every run of lines that two files share; blank lines, imports and lone brackets do not count."""
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for path in paths:
        lines = [(number, line.strip()) for number, line in enumerate(path.read_text().splitlines(), start=1)]
        telling = [(number, line) for number, line in lines if _tells(line)]
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        for start in range(len(telling) - REPEATED_LINES + 1):
            run = telling[start : start + REPEATED_LINES]
            places[tuple(line for _, line in run)].append((name, run[0][0]))
    shared = [found for found in places.values() if len({name for name, _ in found}) > 1]
    return [" and ".join(f"{name}:{number}" for name, number in found) for found in shared]


def _tells(line: str) -> bool:
    return any(character.isalnum() for character in line) and not line.startswith(("import ", "from ", "#"))


def _trees() -> Iterator[tuple[Path, ast.Module]]:
    yield from ((path, ast.parse(path.read_text())) for path in library_files())


def _nodes(kind: type) -> Iterator[tuple[Path, Any]]:
    yield from ((path, node) for path, tree in _trees() for node in ast.walk(tree) if isinstance(node, kind))
