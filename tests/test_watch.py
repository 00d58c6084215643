"""`watch`: a run and all that it called, as it goes on."""

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import uuid

import pytest
from conftest import write_function
from engine_runs import wait_for
from environs import variables
from rich.console import Console

from libsafe_nb import errors, following, publishing
from libsafe_nb.client import Client
from libsafe_nb.following import Following, named
from libsafe_nb.functions import Functions

WAIT = "import pathlib, time\nwhile not pathlib.Path({gate!r}).exists():\n    time.sleep(0.05)"
PARENT = """
import libsafe_nb
calls = [libsafe_nb.call(key) for key in {keys!r}]
assert [each.result().status for each in calls] == ["completed", "completed"]
"""


@pytest.fixture(scope="module")
def publish(platform, tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")

    def publish(cell, name):
        key = f"{name}-{uuid.uuid4().hex[:8]}"
        return publishing.publish(write_function(folder / f"{key}.ipynb", cell), settings=platform.settings)[
            "key"
        ]

    return publish


@pytest.fixture
def parent(connection, container):
    """A job that runs, and its functions: what they are called is queued below it."""
    job = connection.client.create_job(container, name="by-hand.ipynb")["id"]
    connection.client.update_job(job, status="RUNNING")
    yield job, Functions(Client(connection.settings.url, connection.settings.key_user, job=job))
    if connection.client.job(job)["status"] == "RUNNING":
        connection.client.update_job(job, status="CANCELLED")


@pytest.fixture
def paused(publish, functions):
    key = publish("print(1)", "paused")
    functions.update(key, paused=True)
    return key


def program(platform, *arguments, **options):
    command = [sys.executable, "-m", "libsafe_nb", "watch", *map(str, arguments)]
    environment = {
        **os.environ,
        **variables(platform.settings),
        "COLUMNS": "150",
        "LINES": "30",
        "TERM": "xterm",
    }
    return subprocess.Popen(command, env=environment, **options)


class Terminal:
    """What a program wrote to a terminal of its own."""

    def __init__(self, platform, *arguments):
        self.master, slave = pty.openpty()
        self.text = ""
        self.process = program(platform, *arguments, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)

    def shows(self, pattern, seconds=60):
        return wait_for(lambda: self._read() and re.search(pattern, self.text), seconds, pattern)

    def _read(self):
        # It ends with an error where nobody holds the other side.
        with contextlib.suppress(OSError):
            os.set_blocking(self.master, False)
            while data := os.read(self.master, 65536):
                self.text += data.decode()
        return True

    def end(self, seconds=60):
        # A terminal that nobody reads takes no more.
        wait_for(lambda: self._read() and self.process.poll() is not None, seconds, "its end")
        self._read()
        os.close(self.master)
        return self.process.returncode


def test_a_workflow_is_watched_on_a_terminal_as_lines_and_as_json(
    platform, publish, functions, container, tmp_path
):
    gate = tmp_path / "gate"
    quick, slow = publish("print(1)", "quick"), publish(WAIT.format(gate=str(gate)), "slow")
    key = publish(PARENT.format(keys=[quick, slow]), "parent")
    call = functions.call(key, container=container)
    terminal = Terminal(platform, key, "--every", 0.2)
    plain = [
        program(platform, call["job_id"], *more, stdout=subprocess.PIPE, text=True)
        for more in ([], ["--json"])
    ]
    try:
        terminal.shows(rf"└─ {slow}  ▸ running.*job \d+\s+2 calls: 1 running, 1 completed")
    finally:
        gate.touch()

    assert terminal.end() == 0
    evidence = functions.job(call["job_id"])["result"]["evidence"]
    told, objects = (each.communicate(timeout=60)[0].splitlines() for each in plain)
    assert [each.returncode for each in plain] == [0, 0]

    # What stays on the terminal is the tree at the end.
    last = terminal.text[terminal.text.rindex(f"{key}  ✓ completed") :].replace("\r", "")
    assert re.fullmatch(
        rf"{key}  ✓ completed  [^\n]*job {call['job_id']}  libsafe://\S+\n├─ {quick}  ✓ completed  [^\n]*\n"
        rf"└─ {slow}  ✓ completed  [^\n]*\n2 calls: 2 completed\nevidence  {evidence}\n.*",
        last,
        re.DOTALL,
    ), last

    assert all(re.match(r"\d\d:\d\d:\d\d  \S+  . (queued|running|completed)", line) for line in told[:-1]), (
        told
    )
    assert told[-1] == f"evidence  {evidence}"
    assert (
        f"{slow}  ✓ completed" in told[-2] or f"{key}  ✓ completed" in told[-2] or f"{quick}  ✓" in told[-2]
    )

    changes = [json.loads(line) for line in objects]
    assert changes[0]["kind"] == "run"
    ends = {each["function"]: each for each in changes}
    assert {name: each["status"] for name, each in ends.items()} == dict.fromkeys(
        (key, quick, slow), "completed"
    )
    assert ends[key]["evidence"] == evidence
    assert ends[slow]["caller"] is None
    assert ends[slow]["seconds"] > 0


def test_the_end_is_the_verdict_and_ctrl_c_leaves_the_run_alone(platform, connection, parent):
    job, _ = parent
    terminal = Terminal(platform, job)
    terminal.shows(r"by-hand.ipynb  ▸ running.*\s+no calls so far")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    assert f"it goes on: libsafe-nb watch {job}" in terminal.text
    assert connection.client.job(job)["status"] == "RUNNING"

    connection.client.update_job(job, status="FAILED", result={"status": "timeout"})
    done = program(platform, job, stdout=subprocess.PIPE, text=True)
    assert "◷ ran out of time" in done.communicate(timeout=60)[0]
    assert done.returncode == 4


def test_many_calls_are_counted_and_one_look_is_one_question(parent, functions, paused, publish, container):
    job, ours = parent
    other = publish("print(1)", "other")
    functions.update(other, paused=True)
    calls = [ours.call(paused, container=container)["id"] for _ in range(45)]
    single = ours.call(other, container=container)["id"]
    asked = []

    class Counted(Functions):
        def workflow(self, **of):
            asked.append(of)
            return super().workflow(**of)

    found = Following(Counted(functions._client), {"job": job})
    assert len(found.look()) == 47
    assert len(asked) == 1
    shown = following.fitting(found.nodes(), 30)
    assert shown[1:3] == [
        f"├─ {paused} ×45  45 queued",
        f"└─ {other}  … queued  job {found.calls[single]['job_id']}",
    ]

    # Nothing has changed, and nothing is told; then what has.
    assert found.look() == []
    functions.cancel(calls[0])
    [row] = found.look()
    assert (row["id"], row["status"]) == (calls[0], "cancelled")
    functions.requeue(calls[0])
    [row] = found.look()
    assert (row["id"], row["status"]) == (calls[0], "queued")
    assert found.look() == []
    assert len(asked) == 5

    # What a clock that was set back has left untold is found by the end at the latest.
    functions.cancel(calls[1])
    found._next["since"] = "2999"
    assert found.look() == []
    functions._client.update_job(job, status="CANCELLED")
    ended = found.look()
    assert len(ended) == 47
    assert found.summary() == "46 calls: 46 cancelled"
    assert (found.ended, found.exit_code) == (True, 130)


def test_what_ended_untold_is_asked_for(parent, functions, publish, container, tmp_path):
    gate = tmp_path / "gate"
    job, ours = parent
    call = ours.call(publish(WAIT.format(gate=str(gate)), "slow"), container=container)["id"]
    found = Following(functions, {"job": job})
    try:
        wait_for(lambda: found.look() and found.calls[call]["status"] == "running", 60, "its start")
    finally:
        gate.touch()
    wait_for(lambda: functions.get_call(call)["status"] == "completed", 60, "its end")
    found._next["since"] = "2999"
    found.look()

    assert found.calls[call]["status"] == "completed"


def test_calls_of_calls_stand_below_them_and_attempts_are_one(
    parent, functions, paused, container, connection
):
    job, ours = parent
    first = ours.call(paused, container=container)
    below = Functions(Client(connection.settings.url, connection.settings.key_user, job=first["job_id"]))
    second = below.call(paused, container=container)
    # Ended without having been executed: the next attempt has another job.
    result = {"status": "errored", "error": {"type": "KernelDied", "message": "it died", "cell_id": None}}
    connection.client.update_job(first["job_id"], status="RUNNING")
    connection.client.update_job(first["job_id"], status="FAILED", result=result)
    found = Following(functions, {"job": job})
    found.look()

    assert {id: each["caller"] for id, each in found.calls.items()} == {
        first["id"]: None,
        second["id"]: first["id"],
    }
    again = found.calls[first["id"]]
    assert (again["status"], again["error"]) == ("queued", "KernelDied: it died")
    assert again["job_id"] != first["job_id"]
    assert [line[:6] for line in following.fitting(found.nodes(), 30)[1:]] == ["└─ pau", "   └─ "]

    # Of whichever attempt, and from the middle.
    middle = Following(functions, {"job": first["job_id"]})
    middle.look()
    assert (middle.root["job_id"], list(middle.calls)) == (again["job_id"], [second["id"]])


def test_which_run_is_meant(parent, functions, paused, container, connection, platform):
    job, ours = parent
    made = ours.call(paused, container=container, run=(run := str(uuid.uuid4())))
    for name, wanted in {
        job: job,
        run: job,
        f"libsafe://{container}/provenance/by-hand/20261126T103000000Z-job{job}/": job,
        paused: made["job_id"],
        "elsewhere/by-hand.ipynb": job,
    }.items():
        assert functions.workflow(**named(name))["root"]["job_id"] == wanted, name
    # Other tests' jobs may run beside it.
    assert functions.workflow()["root"]["status"] == "running"
    ended = connection.client.create_job(container)["id"]
    connection.client.update_job(ended, status="COMPLETED", result={"run": (run := str(uuid.uuid4()))})
    assert functions.workflow(run=run)["root"]["job_id"] == ended

    for of in ({"job": "99999999"}, {"run": str(uuid.uuid4())}, {"function": "nosuch"}):
        with pytest.raises(errors.NotFound, match="there is no job"):
            functions.workflow(**of)
    with pytest.raises(errors.PlatformError, match="one of job, run and function, got job and run"):
        functions.workflow(job=job, run=run)
    done = program(platform, "nosuch", stderr=subprocess.PIPE, text=True)
    assert "there is no job of nosuch" in done.communicate(timeout=60)[1]
    assert done.returncode == 2


def test_what_is_anothers_is_not_told(parent, functions, paused, container, connection, platform):
    job, ours = parent
    root = Client(platform.settings.url, platform.settings.key_root)
    key = root.create_user("watcher")["key"]
    stranger = Functions(Client(platform.settings.url, key))
    ours.call(paused, container=container)
    with pytest.raises(errors.Forbidden, match=f"job {job} belongs to a container"):
        stranger.workflow(job=job)
    with pytest.raises(errors.NotFound, match="no job runs"):
        stranger.workflow()
    mine = stranger._client.create_container("mine")["id"]
    connection.client.grant(container, stranger._client.me()["id"])
    assert len(stranger.workflow(job=job)["calls"]) == 1
    assert mine


def test_a_tree_fits_the_terminal():
    row = dict.fromkeys(("outcome", "error", "run", "evidence", "progress", "date_end"))
    row |= {"container_id": "1", "attempts": 1, "date_create": "", "date_start": "2026-11-26 10:00:00.000000"}
    found = Following(None, {})
    found.now = "2026-11-26 10:00:10.000000"
    found.root = {**row, "id": None, "caller": None, "function": "all", "status": "running", "job_id": "1"}
    for number in range(1, 401):
        status = "failed" if number % 50 == 0 else "running" if 100 < number < 110 else "queued"
        about = {"function": f"f{number % 4}", "status": status, "job_id": str(number), "progress": 0.5}
        found.calls[str(number)] = {**row, "id": str(number), "caller": None, **about}
    tall, low = (following.fitting(found.nodes(), most) for most in (60, 10))

    assert tall[1].endswith("f1 ×100  3 running, 97 queued")
    assert sum("✗ failed" in line for line in tall) == 8
    assert sum("▸ running 50%  10.0 s" in line for line in tall) == 9
    # What failed comes first.
    assert "✗" in tall[5]
    assert len(low) <= 10
    assert "and" in following.fitting(found.nodes(), 4)[-1]
    text = io.StringIO()
    Console(file=text, width=60).print(following._text(tall))
    assert max(map(len, text.getvalue().splitlines())) <= 60
