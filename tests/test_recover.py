"""What an interrupted run left behind is brought to its end: real processes killed, real evidence, real jobs."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner
from engine_runs import wait_for
from test_run import START, command_environment

import libsafe_nb
from libsafe_nb import chain, closing, deliveries, desk, errors, evidence, lease, recover, runner, witness
from libsafe_nb.cli import cli
from libsafe_nb.connection import connect
from libsafe_nb.journal import Journal
from libsafe_nb.record import timestamp
from libsafe_nb.storage import Storage

SLEEP = "print('half done', 'and some words more ' * 9, flush=True)\nrequest.log('in the cell')\nimport time; time.sleep(600)"


@pytest.fixture
def settings(platform, tmp_path):
    """The platform's, with a home of the test's own, so that it recovers its own runs only."""
    return dataclasses.replace(platform.settings, home=tmp_path / "state")


@pytest.fixture
def start(platform, settings, container):
    """Starts the real program on a notebook; what is left of it is killed at the end."""
    started = []

    def start(path, *options):
        environ = {**command_environment(platform), "LIBSAFE_NB_HOME": str(settings.home)}
        command = [sys.executable, "-m", "libsafe_nb", "run", str(path), "--container", container, *options]
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for each in started:
        each.kill()
        each.communicate()


@pytest.fixture(autouse=True)
def sockets(monkeypatch):
    """Where sockets and rescued notebooks go: machines that are lost here leave theirs. Short, as a socket's path must be."""
    with tempfile.TemporaryDirectory(prefix="lsnb-t-", dir="/tmp") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def recovered(settings, **options):
    return list(recover.recover(settings=settings, lost=False, **options))


def jobs_of(connection, container):
    return list(connection.client.jobs(container=container))


def said(connection, container):
    return [
        each["message"]
        for job in jobs_of(connection, container)
        for each in connection.client.messages(job["id"])
    ]


def printed(settings):
    node = json.loads(next(settings.home.glob("runs/*/executed.ipynb")).read_bytes())
    return json.dumps([cell.get("outputs") for cell in node["cells"]])


def record_of(connection, container, found):
    prefix = found.evidence.removeprefix(f"libsafe://{container}/")
    return json.loads(connection.storage.get(container, prefix + "record.json"))


def messages_of(connection, container, found):
    prefix = found.evidence.removeprefix(f"libsafe://{container}/")
    lines = connection.storage.get(container, prefix + "messages.jsonl").splitlines()
    return [json.loads(line)["message"] for line in lines]


def notebook_of(connection, container, found):
    prefix = found.evidence.removeprefix(f"libsafe://{container}/")
    return nbformat.reads(connection.storage.get(container, prefix + "executed.ipynb").decode(), 4)


def test_a_killed_runners_job_ends_with_its_evidence(
    start, notebook, settings, connection, container, sockets
):
    process = start(notebook("print('first')", START + SLEEP, "print('third')"))
    wait_for(lambda: "in the cell" in said(connection, container), 60, "the second cell")
    # The notebook is saved every two seconds.
    # The filter holds back the last characters, as a key could begin with them; hence the words.
    wait_for(lambda: "half done" in printed(settings), 30, "a save")
    process.kill()
    process.wait()

    (found,) = recovered(settings)
    (job,) = jobs_of(connection, container)
    record = record_of(connection, container, found)
    cells = notebook_of(connection, container, found).cells

    assert (found.status, job["status"]) == ("errored", "FAILED")
    assert (record["status"], record["cause"], record["error"]["type"]) == (
        "errored",
        "runner-died",
        "RunnerDied",
    )
    assert [each["status"] for each in record["cells"]] == [
        "completed",
        "completed",
        "completed",
        "killed",
        "not-run",
    ]
    assert [each.metadata.papermill.status for each in cells][-2:] == ["failed", "pending"]
    assert record["recovered"]["reason"] == "its runner ended while it ran"
    assert record["ended"] <= record["recovered"]["at"]
    assert record["error"]["cell_id"] == record["cells"][-2]["cell_id"]
    assert messages_of(connection, container, found) == ["in the cell"]
    assert cells[-2].outputs[0].text.startswith("half done")
    assert not list((settings.home / "runs").iterdir())
    assert not list(sockets.iterdir())
    assert recovered(settings) == []


def test_the_next_run_finishes_it(start, notebook, settings, connection, container, run):
    process = start(notebook(START + SLEEP))
    wait_for(lambda: "in the cell" in said(connection, container), 60, "the cell")
    process.kill()
    process.wait()

    libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert sorted(each["status"] for each in jobs_of(connection, container)) == ["COMPLETED", "FAILED"]


def test_a_living_run_is_left_alone(start, notebook, settings, connection, container):
    process = start(notebook(START + "request.log('in the cell')\nimport time; time.sleep(6)"), "--json")
    wait_for(lambda: "in the cell" in said(connection, container), 60, "the cell")

    assert recovered(settings) == []
    assert json.loads(process.communicate(timeout=60)[0])["status"] == "completed"


def test_the_command_says_what_it_did(start, notebook, settings, connection, container, platform):
    process = start(notebook(START + SLEEP))
    wait_for(lambda: "in the cell" in said(connection, container), 60, "the cell")
    process.kill()
    process.wait()
    environ = {**command_environment(platform), "LIBSAFE_NB_HOME": str(settings.home)}

    def command(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "libsafe_nb", "recover", *arguments],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )

    first, second, unknown = command("--json"), command(), command("no-such-run")

    # The tests share the platform: what others left there may wait.
    told = json.loads(first.stdout)
    (found,) = (each for each in told if each["container"] == container)
    assert found["status"] == "errored"
    assert first.returncode == (3 if any(each["status"] == "waiting" for each in told) else 0)
    assert found["run"] not in second.stdout
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)


def test_the_command_says_that_there_is_nothing(monkeypatch, tmp_path):
    for name in [each for each in os.environ if each.startswith("LIBSAFE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LIBSAFE_NB_HOME", str(tmp_path))
    done = CliRunner().invoke(cli, ["recover"])

    assert (done.exit_code, done.output) == (0, "nothing to recover\n")


# Each step of the end -------------------------------------------------------------------------------------------


class Stop(BaseException):
    """Stands for the death of the process: nothing of ours catches it."""


STEPS = [
    *("begun", "sockets", "job", "started", "kernel"),
    *("executed", "frozen", "stored", "linking", "linked", "told"),
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_death_at_any_step_of_the_journal_is_recovered(
    step, when, notebook, settings, connection, container, monkeypatch, sockets
):
    """The runner ends right before, or right after, it writes a step down."""
    write = Journal.write
    armed = [True]

    def deadly(self, name, **facts):
        if name == step and armed[0]:
            armed[0] = False
            if when == "after":
                write(self, name, **facts)
            os._exit(9)
        write(self, name, **facts)

    pid = os.fork()
    if not pid:
        try:
            monkeypatch.setattr(Journal, "write", deadly)
            libsafe_nb.run(
                None, notebook(START + "request.log('said once')"), container=container, settings=settings
            )
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    found = recovered(settings)
    jobs = jobs_of(connection, container)
    messages = Counter(each["message"] for job in jobs for each in connection.client.messages(job["id"]))
    records = [
        each
        for each in connection.storage.list(container, "provenance/")
        if each.path.endswith("record.json")
    ]
    began = not (step == "begun" and when == "before")

    assert all(each.done for each in found)
    assert len(jobs) == len(records) == (1 if began else 0)
    assert {each["status"] for each in jobs} <= {"COMPLETED", "FAILED"}
    assert max(messages.values(), default=1) == 1
    if step in STEPS[5:] and (step, when) != ("executed", "before"):
        assert [each["status"] for each in jobs] == ["COMPLETED"]
        assert messages["said once"] == 1
    assert not list((settings.home / "runs").iterdir())
    if (step, when) != ("sockets", "before"):
        assert not list(sockets.iterdir())
    assert recovered(settings) == []
    if began:
        report = libsafe_nb.verify(container, settings=settings)
        assert report.exit_code == 0, "\n".join(map(str, report.checks))


def test_two_recoveries_at_once_do_it_once(start, notebook, settings, connection, container):
    processes = [start(notebook(START + SLEEP, name=f"f{number}.ipynb")) for number in range(3)]
    wait_for(lambda: said(connection, container).count("in the cell") == 3, 90, "three cells")
    for each in processes:
        each.kill()
        each.wait()
    found = []
    threads = [threading.Thread(target=lambda: found.extend(recovered(settings))) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    recovered(settings)

    assert len({each.run for each in found}) == 3
    assert Counter(each["status"] for each in jobs_of(connection, container)) == {"FAILED": 3}
    assert sum(each.startswith("evidence: ") for each in said(connection, container)) == 3
    versions = Counter(each.path for each in connection.storage.versions(container, "provenance/"))
    assert set(versions.values()) == {1}


# Outages --------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_storage(monkeypatch):
    """The storage takes no evidence until it is told to."""
    away = [True]
    put = Storage.put

    def refuse(self, container, path, data, **options):
        if away[0] and path.endswith("record.json"):
            raise errors.StorageUnreachable("the storage is away")
        return put(self, container, path, data, **options)

    monkeypatch.setattr(Storage, "put", refuse)
    return away


@pytest.mark.parametrize(
    ("cell", "status"), [("1", "COMPLETED"), ("1/0", "FAILED"), (START + "request.job_end(False)", "FAILED")]
)
def test_what_could_not_be_stored_is_delivered_with_its_true_verdict(
    cell, status, notebook, settings, connection, container, no_storage
):
    done = libsafe_nb.run(None, notebook(cell), container=container, settings=settings)
    frozen = {
        path.name: path.read_bytes() for path in (settings.home / "runs" / done.run / "evidence").iterdir()
    }
    (waiting,) = recovered(settings)
    assert (done.exit_code, done.evidence, waiting.status) == (3, None, "waiting")
    assert connection.client.job(done.job)["status"] == "RUNNING"

    no_storage[0] = False
    (found,) = recovered(settings)
    prefix = found.evidence.removeprefix(f"libsafe://{container}/")

    assert connection.client.job(done.job)["status"] == status
    assert {name: connection.storage.get(container, prefix + name) for name in frozen} == frozen
    assert said(connection, container).count(f"evidence: {found.evidence}") == 1
    assert sum(each.startswith(closing.PENDING) for each in said(connection, container)) == 1


def test_abandoning_ends_the_job_and_keeps_what_there_is(
    notebook, settings, connection, container, no_storage
):
    done = libsafe_nb.run(None, notebook("1"), container=container, settings=settings)
    (found,) = recovered(settings, runs=[done.run], abandon=True)

    assert (found.status, connection.client.job(done.job)["status"]) == ("abandoned", "FAILED")
    assert (settings.home / "abandoned" / done.run / "evidence" / "record.json").exists()
    assert recovered(settings) == []


def test_frozen_evidence_that_was_changed_is_not_stored(
    notebook, settings, connection, container, no_storage
):
    done = libsafe_nb.run(None, notebook("1"), container=container, settings=settings)
    with (settings.home / "runs" / done.run / "evidence" / "record.json").open("ab") as file:
        file.write(b" ")
    no_storage[0] = False
    (found,) = recovered(settings)

    assert found.status == "waiting"
    assert "expected the bytes that were frozen" in found.message
    assert connection.client.job(done.job)["status"] == "RUNNING"


def test_messages_of_an_outage_come_later_and_in_order(
    notebook, settings, connection, container, monkeypatch
):
    """The function goes on although nobody takes its messages, and none is lost or told twice."""
    from libsafe_nb.client import Client

    monkeypatch.setattr(deliveries, "AWAY", 0.0)
    monkeypatch.setattr(deliveries, "LINGER", 0.0)
    message, many, calls = Client.message, Client.message_many, []

    def flaky(send):
        def sent(self, job, what, **options):
            calls.append(what)
            if "message" in str(what) and len(calls) % 3:
                raise errors.Unreachable("the platform is away")
            return send(self, job, what, **options)

        return sent

    monkeypatch.setattr(Client, "message", flaky(message))
    monkeypatch.setattr(Client, "message_many", flaky(many))
    cell = START + "for n in range(20): request.log(f'message {n}')"
    done = libsafe_nb.run(None, notebook(cell), container=container, settings=settings)

    if done.exit_code == 3:
        monkeypatch.setattr(Client, "message", message)
        monkeypatch.setattr(Client, "message_many", many)
        recovered(settings)
    told = [each for each in said(connection, container) if each.startswith("message")]
    assert told == [f"message {n}" for n in range(20)]
    assert connection.client.job(done.job)["status"] == "COMPLETED"


def test_a_message_with_half_a_character_stops_nothing(notebook, settings, connection, container):
    """As `os.fsdecode` makes of a file name that is not UTF-8."""
    cell = START + "request.log('file \\udce9.txt')\nrequest.log('the next')"
    done = libsafe_nb.run(None, notebook(cell), container=container, settings=settings)

    assert done.status == "completed"
    assert connection.client.job(done.job)["status"] == "COMPLETED"
    assert said(connection, container)[:2] == ["file ?.txt", "the next"]


def test_a_function_whose_platform_went_away_is_errored_not_failed(notebook, settings, connection, container):
    cell = START + (
        "from libsafe_nb.errors import Unreachable\n"
        "raise Unreachable(f\"GET {json_sample['api']['url']}/file/1: no answer in 9 tries and 60 s\")"
    )
    done = libsafe_nb.run(None, notebook(cell), container=container, settings=settings)

    assert (done.status, done.cause, done.exit_code) == ("errored", "platform-unreachable", 3)
    assert connection.client.job(done.job)["status"] == "FAILED"
    assert done.evidence


def test_an_authors_own_unreachable_is_a_failure(notebook, settings, container):
    cell = "class Unreachable(Exception): pass\nraise Unreachable('http://example.org')"
    done = libsafe_nb.run(None, notebook(cell), container=container, settings=settings)

    assert (done.status, done.exit_code) == ("failed", 1)


# A full disk, a folder that is gone -----------------------------------------------------------------------------


def test_a_run_whose_folder_vanishes_is_recorded_from_memory(notebook, settings, connection, container):
    cell = START + (
        "request.log('side effect')\n"
        "import os, shutil, pathlib\n"
        "shutil.rmtree(pathlib.Path.cwd().parent)\nprint('gone')"
    )
    done = libsafe_nb.run(None, notebook(cell), container=container, settings=settings)

    assert (done.status, done.cause, done.exit_code) == ("errored", "save", 3)
    assert connection.client.job(done.job)["status"] == "FAILED"
    assert "could not be written" in done.error["message"]
    assert any("could not be written" in each for each in said(connection, container))
    assert messages_of(connection, container, done) == ["side effect"]
    assert notebook_of(connection, container, done).cells[-1].outputs[0].text == "gone\n"


# Lost machines --------------------------------------------------------------------------------------------------


@pytest.fixture
def lost(start, notebook, settings, connection, container, monkeypatch):
    """A run whose machine is gone: its process is dead, and there is no folder of it here. No job is left open."""
    process = start(notebook(START + SLEEP))
    wait_for(lambda: "in the cell" in said(connection, container), 60, "the cell")
    process.kill()
    process.wait()
    (folder,) = (settings.home / "runs").iterdir()
    folder.rename(settings.home / "elsewhere")
    yield settings.home / "elsewhere", folder
    monkeypatch.undo()
    for job in jobs_of(connection, container):
        if job["status"] in closing.OPEN:
            connection.client.update_job(job["id"], status="FAILED")


def lost_ones(settings, container):
    return [each for each in recover.recover(settings=settings) if each.container == container]


def test_a_lost_machines_run_ends_when_its_lease_has_ended(
    lost, settings, connection, container, monkeypatch
):
    assert lost_ones(settings, container) == []
    assert jobs_of(connection, container)[0]["status"] == "RUNNING"

    monkeypatch.setattr(Storage, "age", lambda self, container, path: lease.FIRST + 1.0)
    (found,) = lost_ones(settings, container)
    record = record_of(connection, container, found)

    assert jobs_of(connection, container)[0]["status"] == "FAILED"
    assert (record["status"], record["cause"], record["ended"]) == ("errored", "machine-lost", None)
    assert lost_ones(settings, container) == []

    # The machine comes back.
    lost[0].rename(lost[1])
    (again,) = recovered(settings)
    assert again.status == "errored"
    assert again.evidence != found.evidence
    assert record_of(connection, container, again)["cause"] == "runner-died"


@pytest.mark.parametrize("start_record", ["there", "gone"])
def test_a_lost_run_is_linked_once_though_its_clock_was_ahead(
    start_record, settings, connection, container, monkeypatch
):
    """The first recovery ends after it linked its record; the second one finds the link."""
    job = connection.client.create_job(container, name="f")["id"]
    run = "11111111-2222-4333-8444-555555555555"
    started = {
        "run": run,
        "job": job,
        "host": "h",
        "started": timestamp(datetime.now(UTC) + timedelta(hours=2)),
        "lease_seconds": 1,
    }
    connection.storage.put(container, lease.path(run), json.dumps(started).encode())
    monkeypatch.setattr(Storage, "age", lambda self, container, path: 1e9)
    kind = type(connection.client)

    def away(self, *arguments, **options):
        raise errors.Unreachable("the platform is away")

    with monkeypatch.context() as patch:
        patch.setattr(kind, "update_job", away)
        assert [each.status for each in lost_ones(settings, container)] == ["waiting"]
    if start_record == "gone":
        head = Storage.head

        def gone(self, container, path, **options):
            if path == lease.path(run):
                raise errors.ObjectNotFound(path)
            return head(self, container, path, **options)

        monkeypatch.setattr(Storage, "head", gone)
    assert [each.status for each in lost_ones(settings, container)] == ["errored"]
    links = [each.path for each in connection.storage.list(container, f"{chain.FOLDER}/")]

    assert links == [chain.path(1)]


def test_a_renewed_lease_counts(lost, settings, connection, container, monkeypatch):
    run = lost[1].name
    lease.renew(connect(settings=settings), container, run, 1)
    ages = {lease.path(run): 5000.0, lease.path(run, 1): 2 * lease.FIRST - 1.0}
    monkeypatch.setattr(Storage, "age", lambda self, container, path: ages.get(path, 0.0))
    assert lost_ones(settings, container) == []

    ages[lease.path(run, 1)] += 2
    assert len(lost_ones(settings, container)) == 1


def test_evidence_that_waits_on_a_machine_keeps_its_job_open(
    lost, settings, connection, container, monkeypatch
):
    (job,) = jobs_of(connection, container)
    connection.client.message(job["id"], f"{closing.PENDING} another-host: no storage")
    monkeypatch.setattr(Storage, "age", lambda self, container, path: 1e9)
    (found,) = lost_ones(settings, container)

    assert (found.status, connection.client.job(job["id"])["status"]) == ("waiting", "RUNNING")


def test_a_run_renews_its_lease_while_it_lasts(notebook, settings, connection, container, monkeypatch):
    monkeypatch.setattr(lease, "AWAKE_EVERY", 0.2)
    monkeypatch.setattr(lease, "FIRST", 2)
    done = libsafe_nb.run(
        None, notebook("import time; time.sleep(5)"), container=container, settings=settings
    )
    stored = [each.path for each in connection.storage.list(container, "provenance/started/")]

    # A slow machine takes longer and renews it once more.
    assert {lease.path(done.run), lease.path(done.run, 1), lease.path(done.run, 2)} <= set(stored)
    assert connection.storage.age(container, lease.path(done.run)) >= 5


# Runs that go on in a thread ------------------------------------------------------------------------------------


def test_a_run_in_the_background_is_waited_for(notebook, settings, connection, container):
    begun = libsafe_nb.run(
        None, notebook("import time; time.sleep(2)"), container=container, settings=settings, wait=False
    )
    assert begun.status == "running"
    with pytest.raises(TimeoutError):
        begun.wait(0.1)

    assert begun.wait(60).status == "completed"
    assert connection.client.job(begun.job)["status"] == "COMPLETED"
    assert begun.to_json()["outcome"] == "COMPLETED"


def test_a_run_is_cancelled(notebook, settings, connection, container):
    begun = libsafe_nb.run(None, notebook(START + SLEEP), container=container, settings=settings, wait=False)
    wait_for(lambda: "in the cell" in said(connection, container), 60, "the cell")
    asked = time.monotonic()
    begun.cancel("by a test")
    begun.wait(60)

    assert time.monotonic() - asked < 10
    assert (begun.status, begun.cause, begun.exit_code) == ("cancelled", "cancelled", 130)
    assert connection.client.job(begun.job)["status"] == "CANCELLED"
    assert record_of(connection, container, begun)["cells"][-1]["status"] == "interrupted"
    with pytest.raises(errors.RunCancelled):
        begun.raise_for_failure()


def test_cancelled_from_its_own_start_no_cell_runs(notebook, settings, connection, container):
    done = libsafe_nb.run(
        None, notebook("1"), container=container, settings=settings, on_start=lambda run: run.cancel()
    )

    assert done.status == "cancelled"
    assert {each["status"] for each in record_of(connection, container, done)["cells"]} == {"not-run"}


def test_a_run_that_could_not_start_has_evidence(notebook, settings, connection, container, monkeypatch):
    def refuse(*arguments, **options):
        raise errors.AccessDenied("access denied")

    monkeypatch.setattr(lease, "path", refuse)
    done = libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert (done.status, done.exit_code) == ("errored", 3)
    assert connection.client.job(done.job)["status"] == "FAILED"
    assert record_of(connection, container, done)["error"]["message"].startswith("the run could not start")
    assert {each["status"] for each in record_of(connection, container, done)["cells"]} == {"not-run"}


def test_an_error_of_a_listener_is_raised_when_the_run_is_closed(notebook, settings, connection, container):
    def listen(state):
        raise KeyError("a fault of the caller's")

    with pytest.raises(KeyError, match="a fault"):
        libsafe_nb.run(None, notebook("1"), container=container, settings=settings, on_cell=listen)

    assert [each["status"] for each in jobs_of(connection, container)] == ["FAILED"]
    assert not list((settings.home / "runs").iterdir())


def test_a_folder_that_cannot_be_written_starts_nothing(notebook, settings, connection, container):
    (settings.home).mkdir(parents=True)
    (settings.home / "runs").write_text("a file where the folder should be")
    with pytest.raises(errors.ExecutionError, match="nothing was started"):
        libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert jobs_of(connection, container) == []


def test_a_torn_last_line_of_a_journal_costs_that_line_only(tmp_path):
    with Journal.create(tmp_path / "a") as journal:
        journal.write("begun", pid=1)
    with (tmp_path / "a" / "journal.jsonl").open("ab") as file:
        file.write(b'{"step": "jo')
    with Journal(tmp_path / "a") as journal:
        assert [each["step"] for each in journal.steps] == ["begun"]
        journal.write("job", job="7")
    with Journal(tmp_path / "a") as journal:
        assert [each["step"] for each in journal.steps] == ["begun", "job"]


def test_evidence_folders_of_one_job_are_apart_by_time():
    from datetime import UTC, datetime

    names = {
        evidence.folder(function="f", started=datetime(2026, 1, 1, 0, 0, 0, micro, tzinfo=UTC), job="1")
        for micro in (0, 1000)
    }
    assert len(names) == 2


def test_a_signal_before_the_first_cell_leaves_no_open_job(start, notebook, connection, container):
    process = start(notebook("1"), "--json")
    wait_for(lambda: jobs_of(connection, container), 60, "the job")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

    assert process.returncode == 143
    assert [each["status"] for each in jobs_of(connection, container)] == ["CANCELLED"]


def test_a_signal_before_the_first_cell_breaks_no_import(
    notebook, settings, connection, container, monkeypatch
):
    """An exception while Python holds a module's lock would leave it held: who stores the evidence waited for ever."""
    opened = runner.Door

    def signalled(*arguments, **options):
        class Finder:
            def find_spec(self, *_):
                signal.raise_signal(signal.SIGTERM)

        sys.meta_path.insert(0, Finder())
        try:
            importlib.import_module("not_there_at_all")
        except ModuleNotFoundError:
            survived.append(True)
        finally:
            del sys.meta_path[0]
        return opened(*arguments, **options)

    survived = []
    monkeypatch.setattr(runner, "Door", signalled)
    done = libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert survived
    assert (done.status, done.exit_code) == ("cancelled", 143)
    assert [each["status"] for each in jobs_of(connection, container)] == ["CANCELLED"]


def test_a_signal_in_an_outage_ends_the_run_within_seconds(served_alone, notebook, tmp_path, connection):
    """The platform is away for good while a message waits; the run says where its evidence is, and ends."""
    settings, begin = served_alone
    process, server = begin(
        notebook(START + "request.log('in the cell')\nimport time; time.sleep(2)\nrequest.log('lost')")
    )
    server.signal(signal.SIGKILL)
    time.sleep(4)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)

    assert time.monotonic() - sent < 5 * 12
    assert "evidence pending on" in (json.loads(out)["error"]["message"] if out else err)
    (folder,) = (settings.home / "runs").iterdir()
    assert (folder / "evidence" / "record.json").exists()


@pytest.fixture
def served_alone(tmp_path, home):
    """A platform of the test's own, and a run on it that has said its first words."""
    from libsafe_nb import local
    from libsafe_nb.local.root import Root

    with local.serve(tmp_path / "platform") as served:
        settings = dataclasses.replace(served.settings, home=tmp_path / "state")
        client = connect(settings=settings).client
        container = client.create_container("alone")["id"]

        def begin(path):
            environ = {**command_environment(served), "LIBSAFE_NB_HOME": str(settings.home)}
            command = [
                sys.executable,
                "-m",
                "libsafe_nb",
                "run",
                str(path),
                "--container",
                container,
                "--json",
            ]
            process = subprocess.Popen(
                command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            wait_for(
                lambda: [each for job in client.jobs() for each in client.messages(job["id"])], 60, "the cell"
            )
            return process, Root(served.root).running()

        yield settings, begin
        # Where the test killed the platform its S3 side would end by itself, but not at once.
        local.stop(served.root)


# What is not as it should be ------------------------------------------------------------------------------------


def test_a_run_that_cannot_be_read_keeps_no_other_from_its_end(
    notebook, settings, connection, container, no_storage
):
    broken, whole = (
        libsafe_nb.run(None, notebook("1"), container=container, settings=settings) for _ in range(2)
    )
    journal = settings.home / "runs" / broken.run / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"digests"', '"something else"'))
    no_storage[0] = False
    found = {each.run: each for each in recovered(settings)}

    assert found[whole.run].status == "completed"
    assert found[broken.run].status == "waiting"
    assert "KeyError" in found[broken.run].message
    assert libsafe_nb.run(None, notebook("1"), container=container, settings=settings).status == "completed"
    (abandoned,) = recovered(settings, abandon=True)
    assert (abandoned.status, connection.client.job(broken.job)["status"]) == ("abandoned", "FAILED")


def test_an_abandoned_run_whose_platform_is_away_keeps_no_other_from_its_end(
    notebook, settings, connection, container, no_storage, monkeypatch
):
    first, second = (
        libsafe_nb.run(None, notebook("1"), container=container, settings=settings) for _ in range(2)
    )
    connected = recover._connect

    def away(facts, settings):
        if facts.run == first.run:
            raise errors.Unreachable("nobody answers")
        return connected(facts, settings)

    monkeypatch.setattr(recover, "_connect", away)
    found = {each.run: each.status for each in recovered(settings, abandon=True)}

    assert found == {first.run: "waiting", second.run: "abandoned"}


def test_a_run_without_its_facts_is_told(notebook, settings, connection, container, no_storage):
    done = libsafe_nb.run(None, notebook("1"), container=container, settings=settings)
    (settings.home / "runs" / done.run / "facts.json").write_text("{")
    (found,) = recovered(settings)

    assert (found.run, found.job, found.status) == (done.run, done.job, "waiting")
    assert "facts.json" in found.message
    # Set aside, it is to the platform a run whose machine is lost.
    assert recovered(settings, abandon=True)[0].status == "abandoned"
    assert recovered(settings) == []


@pytest.mark.parametrize("name", ["..", ".", "", "a/b"])
def test_what_is_no_run_is_bad_usage(name, settings):
    (settings.home / "runs" / "a" / "b").mkdir(parents=True)
    with pytest.raises(errors.UsageError, match="found none"):
        recovered(settings, runs=[name])


def test_a_signal_while_others_are_recovered_starts_nothing(
    notebook, settings, connection, container, no_storage, monkeypatch
):
    libsafe_nb.run(None, notebook("1"), container=container, settings=settings)
    finish = recover._finish

    def signalled(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return finish(*arguments)

    monkeypatch.setattr(recover, "_finish", signalled)
    with pytest.raises(errors.RunCancelled):
        libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert len(jobs_of(connection, container)) == 1


def test_a_lost_machines_job_that_had_not_started_is_ended(
    lost, settings, connection, container, monkeypatch
):
    """Its machine went away between the start record and the job's RUNNING."""
    rows = connection.client.jobs
    monkeypatch.setattr(
        type(connection.client),
        "jobs",
        lambda self, **options: (
            {**each, "status": "QUEUED"}
            for each in (rows(container=container) if options.get("status") == "QUEUED" else ())
            if each["status"] == "RUNNING"
        ),
    )
    monkeypatch.setattr(Storage, "age", lambda self, container, path: lease.FIRST + 1.0)

    assert [each.status for each in lost_ones(settings, container)] == ["errored"]


def test_a_start_record_that_makes_no_sense_keeps_no_other_from_its_end(
    lost, settings, connection, container, monkeypatch
):
    (job,) = jobs_of(connection, container)
    for number, body in enumerate(({"started": None}, {"function": "f"}, {"lease_seconds": "x"})):
        run = f"00000000-{number}"
        whole = {"run": run, "job": job["id"], "started": "2026-01-01T00:00:00.000+00:00", "lease_seconds": 1}
        connection.storage.put(container, lease.path(run), json.dumps({**whole, **body}).encode())
    monkeypatch.setattr(Storage, "age", lambda self, container, path: 1e9)
    found = {each.run: each.status for each in lost_ones(settings, container)}

    assert found[lost[1].name] in ("errored", "nothing")
    assert found["00000000-0"] == found["00000000-1"] == "waiting"
    assert connection.client.job(job["id"])["status"] == "FAILED"


def test_a_run_of_another_machine_that_shares_the_folder_is_left_to_it_until_its_lease_ends(
    start, notebook, settings, connection, container, monkeypatch
):
    """Not every shared file system carries locks from one machine to the other."""
    process = start(notebook(START + SLEEP))
    wait_for(lambda: "in the cell" in said(connection, container), 60, "the cell")
    process.kill()
    process.wait()
    (folder,) = (settings.home / "runs").iterdir()
    for name, old, new in (
        ("journal.jsonl", '"boot": "', '"boot": "another-'),
        ("facts.json", '"host": "', '"host": "another-'),
    ):
        path = folder / name
        path.write_text(path.read_text().replace(old, new))

    (found,) = recovered(settings)
    assert (found.status, jobs_of(connection, container)[0]["status"]) == ("waiting", "RUNNING")
    assert "another-" in found.message
    monkeypatch.setattr(Storage, "age", lambda self, container, path: lease.FIRST + 1.0)
    assert [each.status for each in recovered(settings)] == ["errored"]
    assert jobs_of(connection, container)[0]["status"] == "FAILED"


def test_a_step_after_one_that_was_written_by_half_is_read(tmp_path, monkeypatch):
    """The disk was full for a moment."""
    write = os.write
    with Journal.create(tmp_path / "a") as journal:
        journal.write("begun", pid=1)

        def full(descriptor, data):
            if len(data) > 8:
                return write(descriptor, data[:8])
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(OSError, match="No space"):
                journal.write("started")
        journal.write("executed")
    with Journal(tmp_path / "a") as journal:
        assert [each["step"] for each in journal.steps] == ["begun", "executed"]


def test_opening_a_torn_journal_changes_nothing(tmp_path):
    """When it was last written is the last sign of life of the run."""
    with Journal.create(tmp_path / "a") as journal:
        journal.write("begun", pid=1)
    path = tmp_path / "a" / "journal.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": "jo')
    os.utime(path, (1, 1))
    with Journal(tmp_path / "a"):
        assert path.stat().st_mtime == 1


@pytest.mark.parametrize("ends", ["released", "killed"])
def test_a_process_that_the_runner_forked_does_not_hold_its_journal(tmp_path, ends):
    forked, go = os.pipe(), os.pipe()
    runner = os.fork()
    if not runner:
        journal = Journal.create(tmp_path / "a")
        child = os.fork()
        if not child:
            os.write(forked[1], str(os.getpid()).encode())
            time.sleep(600)
        if ends == "released":
            journal.close()
            os.write(go[1], b"x")
            time.sleep(600)
        os.write(go[1], b"x")
        os._exit(9)
    child = int(os.read(forked[0], 20))
    try:
        os.read(go[0], 1)
        if ends == "killed":
            os.waitpid(runner, 0)
        with Journal(tmp_path / "a") as journal:
            taken = journal.folder
        state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    finally:
        os.kill(child, signal.SIGKILL)
        if ends == "released":
            os.kill(runner, signal.SIGKILL)
            os.waitpid(runner, 0)

    # A lock that is held is a BlockingIOError.
    assert taken == tmp_path / "a"
    assert state in "SR", "the forked process lived while the journal was taken"


def test_nobody_else_sees_which_runs_there_are(tmp_path):
    Journal.create(tmp_path / "state" / "runs" / "a").close()

    assert (tmp_path / "state" / "runs").stat().st_mode & 0o777 == 0o700


# What a run leaves in the caller's hand -------------------------------------------------------------------------


def test_a_run_that_has_ended_holds_nothing_but_its_facts(notebook, settings, container):
    """Neither its notebook nor its connections: a program may keep thousands."""
    kept, open_files = [], []
    for _ in range(4):
        kept.append(libsafe_nb.run(None, notebook("1"), container=container, settings=settings))
        open_files.append(len(list(Path("/proc/self/fd").iterdir())))

    assert len(set(open_files[1:])) == 1
    assert dataclasses.asdict(kept[0])["status"] == "completed"


def test_who_sees_that_a_background_run_has_ended_sees_all_of_it(notebook, settings, container):
    begun = libsafe_nb.run(None, notebook("1"), container=container, settings=settings, wait=False)
    order = []

    class Watched(type(begun)):
        def __setattr__(self, name, value):
            order.append(name)
            super().__setattr__(name, value)

    begun.__class__ = Watched
    begun.wait(60)
    begun.cancel()
    assert begun.wait().status == "completed"
    assert max(order.index(name) for name in ("evidence", "seconds", "exit_code")) < order.index("status")


# Between the job's creation and the first cell ------------------------------------------------------------------


def test_a_job_whose_id_cannot_be_written_down_is_ended_all_the_same(
    notebook, settings, connection, container, monkeypatch
):
    """The disk is full; on a platform that knows no idempotency keys no recovery could find the job."""
    write = Journal.write

    def full(self, step, **facts):
        if step != "begun":
            raise OSError(28, "No space left on device")
        write(self, step, **facts)

    monkeypatch.setattr(Journal, "write", full)
    done = libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert (done.status, done.exit_code) == ("errored", 3)
    assert [each["status"] for each in jobs_of(connection, container)] == ["FAILED"]
    assert "No space left" in record_of(connection, container, done)["error"]["message"]


def test_without_a_place_for_the_runs_socket_nothing_is_started(
    notebook, settings, connection, container, monkeypatch
):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.tempfile, "mkdtemp", full)
    with pytest.raises(errors.ExecutionError, match="nothing was started"):
        libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert jobs_of(connection, container) == []
    assert not list((settings.home / "runs").iterdir())


def test_a_folder_that_vanishes_before_the_first_cell_leaves_no_open_job(
    notebook, settings, connection, container, monkeypatch
):
    create = type(connection.client).create_job

    def vanish(self, *arguments, **options):
        shutil.rmtree(settings.home / "runs")
        return create(self, *arguments, **options)

    monkeypatch.setattr(type(connection.client), "create_job", vanish)
    done = libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert (done.status, done.exit_code) == ("errored", 3)
    assert [each["status"] for each in jobs_of(connection, container)] == ["FAILED"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_after_the_job_was_made_leaves_no_open_job(
    number, notebook, settings, connection, container, monkeypatch
):
    def signalled(*arguments, **options):
        signal.raise_signal(number)
        return desk.Desk(*arguments, **options)

    monkeypatch.setattr(runner, "Desk", signalled)
    done = libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert (done.status, done.exit_code) == ("cancelled", 128 + number)
    assert [each["status"] for each in jobs_of(connection, container)] == ["CANCELLED"]


def test_a_start_does_not_wait_long_for_the_evidence_of_others(
    notebook, settings, connection, container, no_storage, monkeypatch
):
    libsafe_nb.run(None, notebook("1"), container=container, settings=settings)
    budgets, put = [], Storage.put

    def watched(self, container, path, data, **options):
        budgets.append(self.budget)
        return put(self, container, path, data, **options)

    monkeypatch.setattr(Storage, "put", watched)
    recover.quietly(connect(settings=settings), witness.NOBODY)

    assert budgets
    assert max(budgets) <= recover.PATIENCE


def test_a_recovery_is_no_sign_of_life(notebook, settings, connection, container, monkeypatch):
    """Of a run that came no further than asking for its job."""
    create = type(connection.client).create_job

    def away(self, *arguments, **options):
        create(self, *arguments, **options)
        raise errors.Unreachable("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(type(connection.client), "create_job", away)
        with pytest.raises(errors.Unreachable):
            libsafe_nb.run(None, notebook("1"), container=container, settings=settings)
    time.sleep(1.5)
    (found,) = recovered(settings)
    record = record_of(connection, container, found)

    assert len(jobs_of(connection, container)) == 1
    assert record["ended"] < record["recovered"]["at"][:19]


@pytest.mark.parametrize("step", ["executed", None])
def test_a_recovered_runs_end_is_not_before_its_cells(
    step, notebook, settings, connection, container, monkeypatch
):
    """The last sign of life is the time of a file, which may be seconds behind: a network's file system has its own clock."""
    write = Journal.write

    def deadly(self, name, **facts):
        if name == "executed":
            if step == name:
                write(self, name, **facts)
            raise Stop
        write(self, name, **facts)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", deadly)
        with pytest.raises(Stop):
            libsafe_nb.run(None, notebook("1", "2"), container=container, settings=settings)
    (folder,) = (settings.home / "runs").iterdir()
    for path in folder.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    (found,) = recovered(settings)
    record = record_of(connection, container, found)
    report = libsafe_nb.verify(found.evidence, settings=settings)

    assert record["recovered"]
    assert record["cells"][-1]["ended"][:23] <= record["ended"][:23]
    assert not [each for each in report.checks if each.name == "times"]


LONG = "raise ValueError('x y ' * 500_000)"
SCRAPS = "import scrapbook as sb\nsb.glue('big', ['abc def'] * 200_000)"


@pytest.mark.parametrize(("cell", "status"), [(LONG, "FAILED"), (SCRAPS, "COMPLETED")])
def test_what_is_too_long_to_be_told_does_not_keep_the_job_open(
    cell, status, notebook, settings, connection, container
):
    """The local platform takes a million characters; of others nothing is known."""
    done = libsafe_nb.run(None, notebook(cell), container=container, settings=settings)

    assert connection.client.job(done.job)["status"] == status
    assert done.evidence
    assert max(map(len, said(connection, container))) < 20_000
    assert said(connection, container)[-2] == f"evidence: {done.evidence}"
    assert not list((settings.home / "runs").iterdir())


def test_a_result_that_the_platform_refuses_does_not_keep_the_job_open(
    notebook, settings, connection, container, monkeypatch
):
    kind = type(connection.client)
    update = kind.update_job

    def refuse(self, job, *, result=None, **options):
        if result is not None:
            raise errors.PlatformError("too large", status=413)
        return update(self, job, **options)

    monkeypatch.setattr(kind, "update_job", refuse)
    done = libsafe_nb.run(None, notebook("1"), container=container, settings=settings)

    assert (done.exit_code, connection.client.job(done.job)["status"]) == (0, "COMPLETED")
