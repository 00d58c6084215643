"""The docs are tested facts: commands, settings and links that they name exist, and those that exist are named."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import libsafe_nb
from libsafe_nb import endpoints, settings
from libsafe_nb.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(group, prefix=""):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("command", list(commands(cli)))
def test_every_command_is_in_the_reference(command):
    assert f"`{command}" in (ROOT / "docs" / "reference.md").read_text()


@pytest.mark.parametrize("name", settings.NAMES)
def test_every_setting_is_in_the_reference(name):
    assert f"`{name}`" in (ROOT / "docs" / "reference.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_modules_named_in_the_journey_exist():
    page = (ROOT / "docs" / "journey-of-a-run.md").read_text()

    for name in re.findall(r"`(\w+\.py)`", page):
        assert (ROOT / "libsafe_nb" / name).exists(), name


def test_the_table_of_calls_is_the_one_in_the_code():
    page = (ROOT / "docs" / "platform.md").read_text()
    start = page.index("-->\n") + 4

    assert page[start : page.index("<!-- end -->")] == endpoints.table()


def test_every_public_name_is_on_the_page_about_python():
    page = (ROOT / "docs" / "api.md").read_text()

    for name in set(libsafe_nb.__all__) - {"load_ipython_extension", "unload_ipython_extension"}:
        assert f"::: libsafe_nb.{name}" in page


def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = ["mkdocs", "build", "--strict", "--quiet", "-f", ROOT / ".ci" / "mkdocs.yml", "-d", tmp_path]
    subprocess.run(
        [sys.executable, "-m", *command], check=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )

    assert "libsafe_nb.run" in (tmp_path / "api" / "index.html").read_text()
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=[\"']?([^\"' >]+)", page.read_text())
        loaded += re.findall(r"<link[^>]* rel=[\"']?stylesheet[^>]* href=[\"']?([^\"' >]+)", page.read_text())
        assert not [each for each in loaded if each.startswith(("http", "//"))], page
