"""`publish`, `functions` and `trigger` on the command line, and the live view."""

import io
import json
import re
import uuid

import pytest
from click.testing import CliRunner
from conftest import write_function
from environs import variables
from rich.console import Console

from libsafe_nb import board
from libsafe_nb.cli import cli
from libsafe_nb.functions import Functions


@pytest.fixture
def command(platform, monkeypatch):
    for name, value in variables(platform.settings).items():
        monkeypatch.setenv(name, value)

    def command(*arguments, code=0):
        done = CliRunner().invoke(cli, [str(each) for each in arguments])
        assert done.exit_code == code, (done.output, done.exception)
        return done.output

    return command


@pytest.fixture
def key(command, tmp_path):
    key = f"c-{uuid.uuid4().hex[:8]}"
    path = write_function(
        tmp_path / "Some Name.ipynb", "print(size)", parameters="json_sample = {}\nsize: int = 1"
    )
    assert command("publish", path, "--key", key).startswith(f"{key}  version 1  sha256 ")
    return key


def test_published_under_a_key_made_of_the_name(command, tmp_path):
    path = write_function(tmp_path / "Some Näme (2).ipynb", "print(1)")

    assert json.loads(command("publish", path, "--json"))["key"] == "some-n-me-2"


def test_called_and_waited_for(command, key, container):
    said = command("functions", "call", key, "--container", container, "--param", "size=7", "--wait")

    assert re.match(rf"call \d+  {key}  COMPLETED  job \d+", said)
    assert f"{key}  COMPLETED" in command("functions", "calls", "--function", key)
    assert json.loads(command("functions", "calls", "--function", key, "--json"))[0]["status"] == "completed"


def test_versions_back_and_settings(command, key, tmp_path):
    path = write_function(tmp_path / "f.ipynb", "print(2)")
    command("publish", path, "--key", key)

    assert [line.split()[0] for line in command("functions", "versions", key).splitlines()] == ["*", "1"]
    assert f"{key}  version 1" in command("functions", "rollback", key, 1)
    found = json.loads(command("functions", "set", key, "--attempts", 5, "--timeout", 60, "--concurrency", 1))
    assert (found["attempts"], found["timeout"], found["concurrency"]) == (5, 60, 1)
    found = json.loads(command("functions", "set", key, "--timeout", 0, "--concurrency", 0))
    assert (found["timeout"], found["concurrency"]) == (None, None)
    command("functions", "disable", key)
    assert f"{key}  v1  disabled" in command("functions", "list")
    command("functions", "enable", key)
    assert json.loads(command("functions", "show", key))["parameters"][0]["name"] == "size"


def test_what_waits_is_cancelled_and_queued_again(command, key, container):
    command("functions", "pause", key)
    call = command("functions", "call", key, "--container", container).split()[1]
    assert "CANCELLED" in command("functions", "cancel", call)
    assert "QUEUED" in command("functions", "requeue", call)
    command("functions", "drain", key)
    assert "CANCELLED" in command("functions", "cancel", call)
    command("functions", "resume", key)
    command("functions", "dead")
    assert "QUEUED" not in command("functions", "calls", "--function", key)


def test_triggers(command, key, container):
    said = command("trigger", "add", key, "file_created", "--container", container, "--path", r"\.tif$")
    trigger = said.split()[1]

    assert said == f"trigger {trigger}  {key}  file_created  container {container}  path_regex=\\.tif$\n"
    command("trigger", "disable", trigger)
    assert "disabled" in command("trigger", "list", key)
    command("trigger", "enable", trigger)
    command("trigger", "remove", trigger)
    assert command("trigger", "list", key) == ""


@pytest.mark.parametrize("arguments", [["functions", "set", "x"], ["functions", "requeue"]])
def test_nothing_said_is_bad_usage(command, arguments):
    done = CliRunner().invoke(cli, arguments)
    assert done.exception.exit_code == 2


def test_the_live_view_shows_what_there_is(command, key, container, connection):
    command("functions", "pause", key)
    call = command("functions", "call", key, "--container", container).split()[1]
    text = io.StringIO()
    board.watch(Functions(connection.client), once=True, console=Console(file=text, width=160))
    command("functions", "cancel", call)

    shown = text.getvalue()
    assert re.search(rf"{key}\s+│ 1\s+│ paused\s+│ 1\s+│ 0\s+│ 0", shown), shown
    for word in ("running job", "last failure", "a minute"):
        assert word in shown


def test_rates_are_those_of_the_last_minute():
    def seen(at, count):
        queue = {"completed": count, "failed": 0, "dead": 0, "cancelled": 0}
        return board.Look(at, queue, [], [], [])

    rates = board.Rates()
    assert rates.add(seen(0.0, 100)) is None
    assert rates.add(seen(30.0, 110)) == 20
    assert rates.add(seen(90.0, 140)) == 30
