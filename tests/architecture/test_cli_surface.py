"""Every option of every command, listed in cli_surface.txt, so that none appears, moves or vanishes unseen.

Run this file to write the list anew: `.venv/bin/python tests/architecture/test_cli_surface.py`
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from itertools import pairwise
from pathlib import Path

import pytest

from leanformer.cli import COMMANDS, main

LIST = Path(__file__).with_name("cli_surface.txt")


def surface() -> str:
    """One line for each argument of each command: its name, its type, its default."""
    return "".join(f"{name} {_line(field)}\n" for name, cls in COMMANDS.items() for field in dataclasses.fields(cls))


def _line(field: dataclasses.Field) -> str:
    default = "required" if field.default is dataclasses.MISSING else f"= {field.default!r}"
    return f"{_flag(field)}: {field.type} {default}"


def _flag(field: dataclasses.Field) -> str:
    name = field.name.rstrip("_")  # from_ is --from, which is no name in Python
    return name.upper() if "tyro.conf.Positional" in str(field.type) else "--" + name.replace("_", "-")


def test_the_options_of_all_commands_are_the_listed_ones():
    assert surface() == LIST.read_text(), (
        "the command line changed; new knobs belong into recipes. If the change is meant, run "
        "`.venv/bin/python tests/architecture/test_cli_surface.py` and add a line to CHANGELOG.md"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_its_options(name, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert not end.value.code
    printed = capsys.readouterr().out
    flags = [_flag(field) for field in dataclasses.fields(COMMANDS[name])]
    assert all(flag in printed for flag in flags if flag.startswith("--"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_explained(name):
    tree = ast.parse(inspect.getsource(COMMANDS[name]))
    body = tree.body[0].body  # type: ignore[attr-defined]
    for field, following in pairwise(body):
        if isinstance(field, ast.AnnAssign):
            explained = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            assert explained, f"{name}: {ast.unparse(field)} has no docstring below it"


if __name__ == "__main__":
    LIST.write_text(surface())
