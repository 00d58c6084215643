"""Imports point down: the layers of docs/journey-of-a-run.md are a tested fact."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import libsafe_nb

PACKAGE = Path(libsafe_nb.__file__).parent
HEAVY = ("papermill", "boto3", "requests", "nbformat", "starlette", "rich")


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
    if path.relative_to(PACKAGE).parts[0] not in {"cli.py", "__init__.py", "runner.py"}:
        assert "runner" not in imported(path)


@pytest.mark.parametrize("path", sorted((PACKAGE / "local").rglob("*.py")), ids=lambda path: path.name)
def test_the_local_platform_shares_no_parsing_with_the_client(path):
    assert not imported(path) & {"client", "storage", "transport", "compat", "payload"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["local", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom libsafe_nb.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr.strip() == "[]"
