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

from libsafe_nb import board, doctor, errors, publishing
from libsafe_nb.cli import cli
from libsafe_nb.functions import Functions


@pytest.fixture
def command(platform, monkeypatch):
    for name, value in variables(platform.settings).items():
        monkeypatch.setenv(name, value)

    def command(*arguments, code=0):
        done = CliRunner().invoke(cli, [str(each) for each in arguments])
        # `main` makes the exit code of an error of ours.
        ours = done.exception.exit_code if isinstance(done.exception, errors.LibsafeError) else done.exit_code
        assert ours == code, (done.output, done.exception)
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


@pytest.mark.parametrize(
    "arguments",
    [
        "functions show nosuch",
        "functions show ../x",
        "functions call nosuch",
        "functions call KEY --container 99999999",
        "functions call KEY --container x",
        "functions call KEY --file /nope",
        "functions call KEY --file 99999999",
        "functions call KEY --version 77",
        "functions call KEY --param nonsense=4",
        "functions call KEY --param size=x",
        "functions call KEY --param size=\udcff",
        "functions call KEY --param token=hunter2-SECRET-abcdef123456",
        "functions cancel 99999999",
        "functions cancel x",
        "functions requeue 99999999",
        "functions rollback KEY 77",
        "functions set KEY --backoff 99999",
        "functions watch --json",
        "trigger add KEY minute",
        "trigger add KEY cron --container 1 --schedule 0_0_30_2_x",
        "trigger add KEY file_created --path (",
        "trigger add KEY file_created --size-min 5 --size-max 1",
        "trigger add KEY on_demand --param token=hunter2-SECRET-abcdef123456",
        "trigger add nosuch minute --container 1",
        "trigger remove 99999999",
        "trigger list nosuch",
        "publish PATH --key ../x",
        "publish PATH --key UPPER",
    ],
)
def test_what_is_not_there_or_not_taken_is_bad_usage(command, taker, arguments):
    key, path = taker
    words = [{"KEY": key, "PATH": path}.get(word, word) for word in arguments.split()]
    command(*words, code=2)


@pytest.fixture(scope="module")
def taker(platform, connection, tmp_path_factory):
    """A paused function that takes a size and a secret, and its file."""
    path = write_function(
        tmp_path_factory.mktemp("taker") / "taker.ipynb",
        "print(1)",
        parameters="json_sample = {}\nsize: int = 1\ntoken: 'Secret' = ''",
    )
    key = publishing.publish(path, settings=platform.settings)["key"]
    Functions(connection.client).update(key, paused=True)
    return key, path


def test_a_disabled_function_is_bad_usage_and_a_full_queue_is_told_at_once(
    command, key, container, functions
):
    functions.update(key, paused=True, queue_limit=1)
    made = json.loads(command("functions", "call", key, "--container", container, "--json"))
    assert (made["status"], made["function"], made["params"], made["file_ids"]) == ("queued", key, {}, [])
    done = CliRunner().invoke(cli, ["functions", "call", key, "--container", container])
    assert (type(done.exception), done.exception.exit_code) == (errors.Unreachable, 3)
    assert "HTTP 429: 1 calls" in str(done.exception)
    command("functions", "cancel", made["id"])
    command("functions", "disable", key)
    command("functions", "call", key, "--container", container, code=2)


@pytest.mark.parametrize(
    ("cell", "settings", "code"),
    [
        ("raise ValueError('no')", {}, 1),
        ("import time\ntime.sleep(600)", {"timeout": 1}, 4),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", {"attempts": 1}, 3),
    ],
    ids=["failed", "timeout", "dead"],
)
def test_waiting_ends_as_a_run_would(command, publish, functions, container, cell, settings, code):
    key = publish(cell)
    functions.update(key, **settings)
    said = command("functions", "call", key, "--container", container, "--wait", "--json", code=code)
    found = json.loads(said)
    assert (found["status"], found["attempts"]) == ("dead" if code == 3 else "failed", 1)
    if code == 3:
        assert found["id"] in {each["id"] for each in json.loads(command("functions", "dead", "--json"))}


def test_what_is_refused_at_its_start_is_bad_usage(command, key, functions, container, tmp_path, monkeypatch):
    functions.update(key, paused=True)
    made = functions.call(key, container=container, params={"size": "7"})
    path = write_function(tmp_path / "f.ipynb", "1", parameters="json_sample = {}\nsize: list = []")
    command("publish", path, "--key", key)
    functions.update(key, paused=False)
    monkeypatch.setattr(Functions, "call", lambda *_, **__: made)
    command("functions", "call", key, "--wait", code=2)


def test_views_as_json(command, key):
    [found] = json.loads(command("functions", "versions", key, "--json"))
    assert (found["number"], found["current"]) == (1, True)
    seen = json.loads(command("functions", "watch", "--once", "--json"))
    assert set(seen) == {"queue", "functions", "running", "failures", "trouble"}
    assert json.loads(command("trigger", "list", key, "--json")) == []


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
    assert re.search(rf"{key} +paused +v1 +1 +0 +0", shown), shown
    assert re.match(r"\d+ queued   \d+ running   0 events waiting\n\d+ completed", shown)


def seen(**about):
    counts = dict.fromkeys(
        ("queued", "running", "completed", "failed", "cancelled", "dead", "pruned", "events"), 0
    )
    queue = {**counts, "paused": False, "trouble": [], **about.pop("queue", {})}
    empty = {"functions": [], "running": [], "failures": [], "trouble": []}
    return board.Look(about.pop("at", 0.0), queue, **{**empty, **about})


def shown(look, width, rate=None):
    text = io.StringIO()
    Console(file=text, width=width).print(board.render(look, rate))
    return text.getvalue()


NAME = "hash-files-of-the-whole-archive-of-the-harbour"
BUSY = {
    "queue": {"running": 10, "paused": True},
    "functions": [
        {
            "key": f"f-{n:02}",
            "version": 1,
            "enabled": n > 1,
            "paused": False,
            "queued": n == 15,
            "running": 0,
            "dead": 0,
        }
        for n in range(20)
    ],
    "running": [
        {
            "function": NAME,
            "trigger": {"type": "metadata_created"},
            "job_id": "123456",
            "container_id": "1234",
            "files": 10_000,
            "job": {"progress": 1.0, "date_start": "2026-11-26 07:00:00.000001"},
        }
    ],
    "failures": [
        {
            "date_end": "2026-11-26 07:00:00.123",
            "job_id": "123456",
            "function": NAME,
            "error": "[bold]x[/] " * 40 + "\nmore",
        }
    ],
    "trouble": ["no worker comes up"],
}


@pytest.mark.parametrize("width", [80, 120])
def test_the_view_keeps_each_row_on_one_line(width):
    lines = shown(seen(**BUSY), width, 3.2).splitlines()

    assert max(map(len, lines)) <= width
    assert lines[1] == "PAUSED: nothing is started until `functions resume`"
    assert lines[2].endswith("0 dead   3 a minute")
    assert lines[3] == "! no worker comes up"
    table = lines[5:]
    assert table[2].split()[:2] == ["f-15", "enabled"]
    assert table[3].split()[:2] == ["f-00", "disabled"]
    assert "and 8 more: functions list" in lines
    [running] = [line for line in lines if "metadata_created" in line]
    assert re.search(r"123456 +1234 +10000 +100% +\S", running)
    assert "and 9 more: functions calls --status running" in lines
    failed = lines[-1]
    assert re.match(r"2026-11-26 07:00:00  123456  hash-files-of-the-whole…  \[bold\]x", failed)
    assert failed.rstrip().endswith("…")


def test_a_view_of_nothing_says_so():
    lines = shown(seen(), 80).split("\n")
    assert [line for line in lines if line][2:] == [
        "no functions are published",
        "nothing runs",
        "nothing failed",
    ]


def test_where_there_is_no_terminal_the_view_comes_once(command):
    assert "queued" in command("functions", "watch").splitlines()[0]


def test_what_does_not_work_is_told_by_the_doctor(connection, monkeypatch):
    class Platform:
        def health(self):
            return {"trouble": ["workers"]}

        def call(self, name):
            assert name == "queue_get"
            return {"trouble": ["no worker comes up"]}

    [found] = doctor._trouble(Platform())
    assert (found.ok, found.found) == (False, "no worker comes up")
    assert doctor._trouble(connection.client) == []


def test_how_long_calls_are_kept(command):
    assert command("functions", "keep").startswith("30 days  100000 calls  ")
    try:
        assert command("functions", "keep", "--days", 7, "--calls", 500).startswith("7 days  500 calls  ")
    finally:
        command("functions", "keep", "--days", 30, "--calls", 100_000)


def test_rates_are_those_of_the_last_minute():
    rates = board.Rates()
    assert rates.add(seen(at=0.0, queue={"completed": 100})) is None
    # Calls that were removed are counted on.
    assert rates.add(seen(at=30.0, queue={"completed": 60, "pruned": 50})) == 20
    assert rates.add(seen(at=90.0, queue={"completed": 140})) == 30
    assert rates.add(seen(at=91.0, queue={"completed": 1})) == 0
