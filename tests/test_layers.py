"""Imports point down: the layers of docs/journey-of-a-run.md are a tested fact."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import libsafe_nb
from libsafe_nb import door
from libsafe_nb.cli import cli

PACKAGE = Path(libsafe_nb.__file__).parent
HEAVY = ("papermill", "boto3", "requests", "nbformat", "starlette", "rich")


PAGE = Path(__file__).parent.parent / "docs" / "journey-of-a-run.md"
LAYERS = {
    int(number): set(re.findall("`(.+?)`", names))
    for number, names in re.findall(
        r"^\| (\d) \| [^`]* \| (`.*`) \|$", PAGE.read_text().partition("## Layers")[2], re.M
    )
}
RANK = {name: rank for rank, names in LAYERS.items() for name in names}


def imports(path):
    """The modules of ours that a module needs when it runs, by their first name; not those for the type checker."""
    found = set()

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.ImportFrom) and (child.module or "").startswith("libsafe_nb"):
                names = [f"{child.module}.{each.name}" for each in child.names]
                found.update(name.split(".")[1] for name in names)
            visit(child)

    visit(ast.parse(path.read_text()))
    return found & set(RANK)


def test_every_module_has_its_layer():
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}

    assert names - {"data"} == set(RANK)


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_imports_point_down(path):
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if name == "data":
        return
    upward = {each for each in imports(path) if RANK[each] > RANK[name]}

    assert not upward or name == "__init__"


def test_no_two_modules_need_each_other():
    needs = {
        name: set().union(
            *(
                imports(path)
                for path in [PACKAGE / f"{name}.py", *(PACKAGE / name).rglob("*.py")]
                if path.exists()
            )
        )
        - {name}
        for name in RANK
    }
    below = dict(needs)
    while below:
        free = {name for name, wanted in below.items() if not wanted & set(below)}
        assert free, f"a circle among {sorted(below)}"
        below = {name: wanted for name, wanted in below.items() if name not in free}


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("libsafe_nb"):
            names |= {f"{node.module}.{each.name}" for each in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {each.name for each in node.names}
    return {name.split(".")[1] for name in names if name.startswith("libsafe_nb.")}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_only_the_top_knows_the_runner(path):
    if path.relative_to(PACKAGE).parts[0].removesuffix(".py") not in LAYERS[5] | {"runner"}:
        assert "runner" not in imported(path)


@pytest.mark.parametrize("path", sorted((PACKAGE / "local").rglob("*.py")), ids=lambda path: path.name)
def test_the_local_platform_shares_no_parsing_with_the_client(path):
    assert not imported(path) & {"client", "storage", "transport", "compat", "payloads"}


def test_a_command_does_not_pay_for_what_jupyterlab_brings(tmp_path):
    (tmp_path / "f.ipynb").write_text('{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}')
    code = (
        "import sys\nfrom libsafe_nb.cli import main\n"
        f"try: main(['check', {str(tmp_path / 'f.ipynb')!r}])\nexcept SystemExit: pass\n"
        "print([name for name in ('jsonschema', 'lark') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "['jsonschema']"


def helped():
    yield ["--help"]
    for name in cli.list_commands(None):
        yield [name, "--help"]


@pytest.mark.parametrize("arguments", list(helped()), ids=" ".join)
def test_help_imports_nothing_heavy(arguments):
    found = imported_by(arguments)

    assert not found & {*HEAVY, "asyncio", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "traceback"}
    ours = {name for name in found if name.startswith("libsafe_nb.")}
    assert {name.split(".")[1] for name in ours} <= {"cli", "errors", "shapes", "spared"}
    if len(arguments) > 1:
        # The command's own module, and what all commands share.
        assert len(ours) <= 7


def test_a_call_from_another_language_imports_what_it_takes_to_knock():
    found = imported_by(["job", "log", "hello"])

    assert {name for name in found if name.startswith("libsafe_nb.")} == {
        *("libsafe_nb.spared", "libsafe_nb.cli", "libsafe_nb.cli.job", "libsafe_nb.cli.types"),
        *("libsafe_nb.door", "libsafe_nb.errors"),
    }
    assert not found & {*HEAVY, "tempfile", "shutil", "asyncio", "ssl", "subprocess"}


def imported_by(arguments):
    """All modules of a process that ran a command; the command of a run finds nobody behind its door."""
    code = (
        "import sys\nfrom libsafe_nb.cli import cli\n"
        f"try: cli.main({arguments!r}, standalone_mode=False)\nexcept Exception: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    environment = {**os.environ, door.VARIABLE: "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    return set(done.stderr.split())
