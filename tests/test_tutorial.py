"""The tutorial can be followed: each of its cells does what the page says."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PAGE = Path(__file__).parent.parent / "docs" / "tutorial.ipynb"


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """The cells as they come out for a newcomer: an empty folder, an empty home."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    for name in [each for each in os.environ if each.startswith(("LIBSAFE_", "PYTEST_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    node = nbformat.read(PAGE, as_version=4)
    try:
        NotebookClient(
            node, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(here)}}
        ).execute()
        yield [printed(cell) for cell in node.cells if cell.cell_type == "code"]
    finally:
        subprocess.run(
            [sys.executable, "-m", "libsafe_nb", "local", "stop"], check=False, capture_output=True
        )


def printed(cell):
    return "".join(each.get("text", "") for each in cell.outputs)


def test_it_can_be_followed(followed):
    _doctor, _files, templates, first, _text, checked, kept, bad, _test, tested = followed

    assert "per_file" in templates
    assert "COMPLETED" in first
    assert "COMPLETED" in checked
    assert "letter.txt" in kept
    assert "FAILED" in bad
    assert "exit code 1" in bad
    assert "1 passed" in tested


def test_the_page_shows_what_came_out():
    """Made by `python .ci/tutorial.py`, which keeps the outputs and the times."""
    node = nbformat.read(PAGE, as_version=4)

    assert all(cell.execution_count for cell in node.cells if cell.cell_type == "code")
    assert "| **all of it** |" in node.cells[-1].source
