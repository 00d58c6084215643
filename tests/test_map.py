"""`libsafe-nb map` on processes of its own: batches, what is taken apart, interruptions, resumption."""

import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import maps
import pytest
from engine_runs import marked_processes, nothing_left, wait_for
from environs import variables

from libsafe_nb import crew
from libsafe_nb.errors import RunCancelled, SecretFound, UsageError
from libsafe_nb.mapping import layout, running, working
from libsafe_nb.mapping.choosing import Chosen
from libsafe_nb.mapping.ledger import Claim, Result
from libsafe_nb.mapping.units import Unit
from libsafe_nb.processes import ProcessId


@pytest.fixture
def run_map(platform, container):
    def run_map(path, **options):
        options.setdefault("workers", 2)
        return running.run(path, container=container, settings=platform.settings, **options)

    return run_map


@pytest.fixture
def program(platform, container):
    """Starts `libsafe-nb map` over the test's container."""
    started = []

    def program(*words):
        environ = {**os.environ, **variables(platform.settings)}
        command = [
            sys.executable,
            "-m",
            "libsafe_nb",
            "map",
            *map(str, words),
            "--container",
            container,
            "--json",
        ]
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield program
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def done(connection, container):
    """Names of units that have ended, of the container's only map."""
    for name in layout.maps(connection.storage, container):
        return list(layout.Shelf(connection.storage, container, name).names("done"))
    return []


def plan_is_there(connection, container):
    """The name of the container's map, once it has a job."""
    for name in layout.maps(connection.storage, container):
        if connection.storage.exists(container, f"{layout.FOLDER}/{name}/job.json"):
            return name
    return None


def members(pid):
    """Processes that do a coordinator's units: forked from one that it has started."""
    parents = {}
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                parent = int((each / "stat").read_text().rpartition(")")[2].split()[1])
                words = (each / "cmdline").read_text()
            except OSError:
                continue
            if "multiprocessing.forkserver" in words:
                parents[int(each.name)] = parent
    return [each for each, parent in parents.items() if parents.get(parent) == pid]


def test_every_file_has_its_result_and_failures_are_told_alone(run_map, connection, container, tmp_path):
    ids = maps.files(connection, container, *[f"{n}.txt" for n in range(9)], "bad.txt", "die.txt", "=bad.txt")
    seen = []
    told = run_map(
        maps.function(tmp_path / "f.ipynb"),
        each=4,
        retries=1,
        show=lambda view: seen.append(view.counts.done),
    )

    found = maps.results(connection, container, told["map"])
    by_path = {path: found[file] for path, file in ids.items()}
    assert {path for path, each in by_path.items() if each.status == "failed"} == {"/bad.txt", "/=bad.txt"}
    assert by_path["/die.txt"].status == "errored"
    assert by_path["/die.txt"].unit.tries == 1
    assert (told["status"], told["outcome"], told["batches"]) == ("errored", "FAILED", 3)
    assert told["files"] == {"total": 12, "completed": 9, "failed": 2, "errored": 1}
    assert seen[-1] == 12
    table = connection.storage.get(container, told["failed_csv"].removeprefix(f"libsafe://{container}/"))
    rows = {row["path"]: row for row in csv.DictReader(io.StringIO(table.decode()))}
    assert set(rows) == {"/bad.txt", "/die.txt", "/=bad.txt"}
    assert rows["/die.txt"]["status"] == "errored"
    assert rows["/die.txt"]["error"].startswith("cell ")
    assert rows["/bad.txt"]["job"] == by_path["/bad.txt"].job
    assert rows["/bad.txt"]["evidence"] == by_path["/bad.txt"].evidence
    record = maps.told(connection, container, by_path["/0.txt"])
    plan = maps.ledger(connection, container, told["map"]).plan
    assert record["parent"] == {"job": told["job"], "run": None, "function": None}
    assert record["function"]["notebook_sha256"] == plan.notebook_sha256
    assert [each["message"] for each in connection.client.messages(told["job"])][-1].startswith(
        "9 of 12 files"
    )


def test_only_files_that_fit_are_taken(run_map, connection, container, tmp_path):
    ids = maps.files(connection, container, "a/1.txt", "a/2.csv", "b/3.txt")
    told = run_map(maps.function(tmp_path / "f.ipynb"), chosen=Chosen(path_regex="^/a/", name_regex="txt$"))

    assert set(maps.results(connection, container, told["map"])) == {ids["/a/1.txt"]}


def test_the_program_tells_by_its_exit_code_and_one_object(program, connection, container, tmp_path):
    maps.files(connection, container, "1.txt", "2.txt", "bad.txt")
    process = program(maps.function(tmp_path / "f.ipynb"), "--each", 3, "--workers", 1)
    out, err = process.communicate(timeout=120)

    assert (process.returncode, err) == (1, "")
    assert json.loads(out)["files"] == {"total": 3, "completed": 2, "failed": 1}


@pytest.mark.parametrize("at", [2, *(pytest.param(at, marks=pytest.mark.slow) for at in (0, 1, 3, 4, 5))])
def test_a_coordinator_is_killed_and_the_map_goes_on(
    at, program, connection, container, tmp_path, monkeypatch
):
    """Its workers end with it; what ended before is not run again."""
    maps.files(connection, container, *[f"{n}.txt" for n in range(12)])
    path = maps.function(tmp_path / "f.ipynb")
    with nothing_left(monkeypatch) as mark:
        process = program(path, "--each", 2, "--workers", 2)
        wait_for(lambda: plan_is_there(connection, container), 60, "the plan")
        wait_for(lambda: len(done(connection, container)) >= at, 60, "some batches")
        process.kill()
        process.communicate()
        wait_for(lambda: not marked_processes(mark), 10, "the end of the workers")
        before = done(connection, container)
        again = program("--resume", path, "--workers", 2)
        out, err = again.communicate(timeout=120)

        assert (again.returncode, err) == (0, "")
    told = json.loads(out)
    assert len(maps.results(connection, container, told["map"])) == 12
    assert (told["files"]["completed"], told["runs"]) == (12, 6)
    claims = list(maps.ledger(connection, container, told["map"]).shelf.names("claims"))
    assert not [name for name in claims if name.partition(".")[0] in before and name.endswith(".001")]


def test_a_worker_is_killed_and_another_takes_its_batch(program, connection, container, tmp_path):
    maps.files(connection, container, *[f"{n}.txt" for n in range(10)])
    process = program(maps.function(tmp_path / "f.ipynb"), "--each", 1, "--workers", 2)
    wait_for(lambda: len(done(connection, container)) >= 2, 60, "some batches")
    os.kill(members(process.pid)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=120)

    assert (process.returncode, err) == (0, "")
    assert len(maps.results(connection, container, json.loads(out)["map"])) == 10


def test_ctrl_c_cancels_what_runs_and_leaves_nothing_behind(
    program, connection, container, tmp_path, monkeypatch
):
    maps.files(connection, container, "1.txt", "2.txt", "3.txt")
    go = tmp_path / "go"
    slow = maps.function(
        tmp_path / "f.ipynb", f"import os, time\nif not os.path.exists({str(go)!r}): time.sleep(600)"
    )
    with nothing_left(monkeypatch):
        process = program(slow, "--each", 1, "--workers", 2)
        wait_for(
            lambda: sum(1 for _ in connection.storage.list(container, "provenance/started/")) >= 2,
            60,
            "two runs",
        )
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)

        assert (process.returncode, out) == (130, "")
        assert "--resume" in err
    jobs = {job["status"] for job in connection.client.jobs(container=container) if job["parent_id"]}
    assert jobs == {"CANCELLED"}
    go.touch()
    again = program(slow, "--resume")
    out, err = again.communicate(timeout=120)
    assert (again.returncode, err) == (0, "")
    assert len(maps.results(connection, container, json.loads(out)["map"])) == 3


def test_an_interruption_is_heard_also_where_every_error_is_passed_over(
    run_map, connection, container, tmp_path, monkeypatch
):
    """As Dask's own calls are looked after: the exception that the signal raised was lost there, and the map went on."""
    maps.files(connection, container, "1.txt")
    sent = []

    def most(hands):
        with contextlib.suppress(Exception):
            if not sent:
                sent.append(True)
                signal.raise_signal(signal.SIGINT)
        return hands.size

    monkeypatch.setattr(crew.Crew, "most", most)
    with pytest.raises(RunCancelled, match="--resume"):
        run_map(maps.function(tmp_path / "f.ipynb"))

    assert done(connection, container) == []


def test_a_map_that_is_not_finished_is_told_of_and_not_continued(
    program, run_map, connection, container, tmp_path
):
    maps.files(connection, container, "1.txt")
    path = maps.function(tmp_path / "f.ipynb", "import time; time.sleep(600)")
    process = program(path)
    name = wait_for(lambda: plan_is_there(connection, container), 60, "the plan")
    process.kill()
    process.communicate()
    hints = []
    with pytest.raises(UsageError, match="none that fits"):
        run_map(path, chosen=Chosen(name_regex="nothing"), hint=hints.append)
    assert name in hints[0]
    other = maps.function(tmp_path / "other.ipynb")
    with pytest.raises(UsageError, match="expected a map of"):
        run_map(other, resumed="")


@pytest.fixture
def bench(connection, platform, container, tmp_path):
    """A bench of this process on a map of one batch of one file, which nobody has begun."""
    from libsafe_nb.mapping.course import settle

    maps.files(connection, container, "1.txt")
    book = settle(
        connection,
        maps.function(tmp_path / "f.ipynb"),
        container=container,
        params={},
        each=1,
        chosen=Chosen(),
        retries=0,
        timeout=None,
    )
    job = connection.client.create_job(container)["id"]
    book.shelf.put("job.json", {"job": job})
    return working.Bench(connection, book.plan.map, container)


DEAD = ProcessId(2**22, 1, "another boot")
UNIT = "00000000"


def claimed(
    bench, attempt, monkeypatch, *, process=DEAD, host="elsewhere", run="11111111-1111-4111-8111-111111111111"
):
    claim = Claim(UNIT, attempt, run, host, process)
    body = {
        "unit": UNIT,
        "attempt": attempt,
        "run": run,
        "host": host,
        "process": process.as_dict(),
        "at": "",
    }
    bench.shelf.put(claim.path, body)
    return claim


def test_what_another_machine_has_just_claimed_is_left_to_it(bench, monkeypatch):
    claimed(bench, 0, monkeypatch)

    assert bench.work(UNIT).status == working.HELD
    assert bench.ledger.result(UNIT) is None


def test_a_claim_that_leads_to_no_run_is_taken_over_in_time(bench, monkeypatch):
    claimed(bench, 0, monkeypatch)
    monkeypatch.setattr(working, "BEGINS", 0.0)

    assert bench.work(UNIT).status == "completed"
    assert bench.ledger.last_claim(UNIT).attempt == 1


def test_a_unit_whose_worker_dies_each_time_is_given_up(bench, monkeypatch):
    monkeypatch.setattr(working, "BEGINS", 0.0)
    for attempt in range(working.MOST):
        claimed(bench, attempt, monkeypatch)

    assert bench.work(UNIT).status == "errored"
    assert bench.ledger.result(UNIT).error["type"] == "WorkerDied"


def test_a_run_that_ended_is_not_run_again_although_nobody_recorded_it(
    bench, connection, container, monkeypatch
):
    """The worker died between the end of its job and the result."""
    monkeypatch.setattr(bench.ledger, "end", lambda result: result)
    assert bench.work(UNIT).status == "completed"
    monkeypatch.undo()
    jobs = list(connection.client.jobs(container=container))

    assert bench.work(UNIT).status == "completed"
    assert list(connection.client.jobs(container=container)) == jobs
    result = bench.ledger.result(UNIT)
    assert result.job == jobs[-1]["id"]
    assert result.evidence.startswith("libsafe://")


def test_the_first_result_stands(bench):
    unit = bench.ledger.unit(UNIT)
    first = Result(unit, "failed", "1", "r", None, None, (Unit(f"{UNIT}.0", unit.files, 1),))

    assert bench.ledger.end(first) == first
    assert bench.ledger.end(Result(unit, "completed", "2", "s", None, None)) == first
    told = bench.work(UNIT)
    assert (told.status, told.pieces) == ("failed", (f"{UNIT}.0",))
    assert bench.work(f"{UNIT}.0").status == "completed"


def test_a_notebook_or_parameter_with_a_key_is_refused_before_anything_is_stored(
    run_map, platform, connection, container, tmp_path, monkeypatch
):
    for name, value in variables(platform.settings).items():
        monkeypatch.setenv(name, value)
    maps.files(connection, container, "1.txt")
    with pytest.raises(UsageError, match="LSN001"):
        run_map(maps.function(tmp_path / "f.ipynb", f"key = {platform.settings.key_user!r}"))
    with pytest.raises(SecretFound):
        run_map(maps.function(tmp_path / "g.ipynb"), params={"x": platform.settings.key_user})
    assert list(layout.maps(connection.storage, container)) == []


def test_a_cancelled_job_ends_the_map(run_map, connection, container, tmp_path, monkeypatch):
    from libsafe_nb.mapping import course

    monkeypatch.setattr(course, "TELL_EVERY", 0.0)
    maps.files(connection, container, "1.txt")

    def show(view):
        if view.under_way:
            connection.client.update_job(view.job, status="CANCELLED")

    with pytest.raises(RunCancelled, match="--resume"):
        run_map(maps.function(tmp_path / "f.ipynb", "import time; time.sleep(600)"), show=show)
