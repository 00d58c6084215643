"""The docs are tested facts: commands, settings and links that they name exist, and those that exist are named."""

import re
from pathlib import Path

import click
import pytest

from libsafe_nb import endpoints, settings
from libsafe_nb.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(group, prefix=""):
    for name, command in group.commands.items():
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
