"""A platform that runs for years: what is pruned, what stays, and that no look at the queue reads all of it."""

import asyncio
import contextlib
import errno
import os
import re
import time

import pytest

from libsafe_nb.local import firing, housekeeping, logs, pruning, queue, schedule
from libsafe_nb.local.root import Root
from libsafe_nb.local.workers import Workers

from .rows import fire, new_file, order, trigger

DAY = 86_400.0
AT = 1_800_000_000.0


def ended(db, function, status, age, at=AT):
    """A call with a job and a message, which ended `age` seconds ago."""
    call = queue.make(db, order(function))
    job = queue.find(db, call)["job_id"]
    db.insert("message", job_id=job, type="INFO", message="x", date_create="")
    db.execute(
        "UPDATE call SET status = ?, date_end = ? WHERE id = ?", (status, pruning._date(at - age), call)
    )
    return call


def prune(db, at=AT):
    total = 0
    while done := pruning.prune_calls(db, at):
        assert done <= pruning.AT_ONCE
        total += done
    return total


def left(db):
    return {row["id"] for row in db.all("SELECT id FROM call")}


def test_old_calls_go_and_dead_ones_and_jobs_stay(db, function):
    made = function()
    old = {ended(db, made, status, 31 * DAY) for status in ("completed", "failed", "cancelled")}
    stay = {ended(db, made, "dead", 1000 * DAY), ended(db, made, "completed", 29 * DAY)}
    stay.add(queue.make(db, order(made)))
    jobs = len(db.all("SELECT id FROM job"))

    assert prune(db) == 3
    assert left(db) == stay
    assert len(db.all("SELECT id FROM job")) == jobs
    assert len(db.all("SELECT id FROM message")) == 5
    assert {row[0] for row in db.all("SELECT call_id FROM job")} == {None, *stay}
    assert not old & left(db)
    counts = dict(db.all("SELECT status, calls FROM tally"))
    assert {name: count for name, count in counts.items() if count} == {
        "completed": 1,
        "dead": 1,
        "queued": 1,
        "pruned": 3,
    }


def test_beyond_the_number_the_oldest_go_but_none_that_somebody_may_still_ask_for(db, function):
    made = function()
    db.set_fact(pruning.CALLS_FACT, "100")
    calls = [ended(db, made, "completed", 2 * DAY - number) for number in range(450)]
    young = [ended(db, made, "completed", 60) for _ in range(200)]

    assert prune(db) == 450
    assert left(db) == set(young)
    assert prune(db, AT + 2 * DAY) == 100
    assert left(db) == set(young[100:])
    assert calls


def test_bytes_that_no_version_names_go_when_they_are_old(db, function, tmp_path):
    function()
    for name, age in (("0" * 64, 7200), ("1" * 64, 7200), ("2" * 64, 10), ("3.part", 7200)):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (time.time() - age,) * 2)

    assert pruning.prune_bytes(db, tmp_path) == 2
    assert {path.name[0] for path in tmp_path.iterdir() if not path.name.startswith("rows")} == {"0", "2"}
    assert pruning.prune_bytes(db, tmp_path / "none") == 0


def test_a_log_keeps_its_end_and_its_writer_goes_on(tmp_path):
    path = tmp_path / "workers.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old" * 100)
        assert not logs.bound(path, 300)
        writer.write(b"new")
        assert logs.bound(path, 300)
        writer.write(b"later")

    assert path.read_bytes() == b"later"
    assert (tmp_path / "workers.old.log").read_bytes() == (b"old" * 100 + b"new")[-300:]


def test_a_round_does_it_all_and_a_failing_one_is_told_and_tried_again(db, function, tmp_path, monkeypatch):
    made, root = function(), Root(tmp_path / "root")
    root.create()
    ended(db, made, "completed", 31 * DAY, time.time())
    (root.logs / "workers.log").write_bytes(b"x" * (logs.LOG_BYTES + 1))
    db.execute("INSERT INTO answer VALUES (1, 'c', 'k', 200, 'b', '2000-01-01')")
    asyncio.run(housekeeping.one_round(root, db))

    assert left(db) == set()
    assert (root.logs / "workers.log").stat().st_size == 0
    assert db.all("SELECT * FROM answer") == []

    monkeypatch.setattr(housekeeping, "PERIOD", 0.01)
    trouble = {}

    async def some_rounds():
        task = asyncio.ensure_future(housekeeping.keep_house(root, db, trouble))
        monkeypatch.setattr(root.logs.__class__, "glob", lambda *_: 1 / 0)
        await until(lambda: trouble)
        assert "division by zero" in trouble["housekeeping"]
        monkeypatch.undo()
        await until(lambda: not trouble)
        task.cancel()

    asyncio.run(some_rounds())


async def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# The queue's look -------------------------------------------------------------------------------------------------


def test_no_look_reads_all_events_or_all_calls(db, function):
    """Every statement of a look, of a claim and of the counts is answered from an index."""
    made = function(concurrency=3)
    trigger(db, made, type="file_created", batch_seconds=3600)
    trigger(db, made, type="minute", next_due=AT + 60)
    fire(db, new_file(db, "a"))
    call = queue.make(db, order(made))
    ended(db, made, "completed", 0)
    said = set()
    db.connection.set_trace_callback(said.add)
    firing.gather(db, 0.0)
    schedule.fire_due(db, AT)
    queue.work_waits(db, queue.Claimer("w"), AT)
    queue.claim(db, queue.Claimer("w"), 60, AT)
    asked = queue.make(db, order(made, parent_job=queue.find(db, call)["job_id"]))
    db.set_fact(queue.PAUSED, "1")
    queue.work_waits(db, queue.Claimer("w"), AT)
    queue.disabled(db, db.one("SELECT * FROM function WHERE id = ?", (made,)), AT)
    queue.worker_died(db, "w")
    firing.gather(db, AT * 2)
    pruning.prune_calls(db, AT)
    db.connection.set_trace_callback(None)
    said |= {
        "SELECT status, sum(calls) FROM tally GROUP BY status",
        "SELECT date_create FROM call WHERE status = 'queued' ORDER BY id LIMIT 1",
        "SELECT c.* FROM call c WHERE c.id < 9 AND c.status = 'failed' ORDER BY c.id DESC LIMIT 5",
        "SELECT c.* FROM call c WHERE c.id < 9 AND c.function_id = 1 ORDER BY c.id DESC LIMIT 5",
    }
    # It failed, and was pruned.
    assert queue.find(db, asked) is None
    assert len(said) > 20
    for statement in said:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            for step in db.all(f"EXPLAIN QUERY PLAN {statement}"):
                whole = re.match(r"SCAN (call|event|job|c|e|file)\b", step["detail"])
                assert not whole, (statement, step["detail"])
                assert "ORDER BY" not in step["detail"], (statement, step["detail"])


def test_the_counts_are_true_whatever_happens(db, function):
    made, other = function("one"), function("two")
    for each in (made, other):
        trigger(db, each, type="file_created", batch_files=3, batch_seconds=5)

    def true():
        calls = db.all("SELECT function_id, status, count(*) FROM call GROUP BY 1, 2")
        counted = db.all("SELECT * FROM tally WHERE calls <> 0 AND status <> 'pruned'")
        assert sorted(map(tuple, calls)) == sorted(map(tuple, counted))
        events = db.all("SELECT trigger_id, container_id, ancestors, count(*) FROM event GROUP BY 1, 2, 3")
        batches = db.all("SELECT trigger_id, container_id, ancestors, waiting FROM batch")
        assert sorted(map(tuple, events)) == sorted(map(tuple, batches))

    for number in range(10):
        fire(db, new_file(db, f"{number}"))
        true()
    at = time.time()
    assert firing.gather(db, at) == 6
    true()
    assert firing.gather(db, at + 6) == 2
    true()
    first = queue.claim(db, queue.Claimer("w"), 60, AT)
    true()
    queue.end_job(db, first["job_id"], "FAILED", "errored", "x", AT)
    true()
    queue.end_job(db, queue.find(db, first["id"])["job_id"], "CANCELLED", "cancelled", "x", AT)
    true()
    queue.requeue(db, queue.find(db, first["id"]), AT)
    true()
    fire(db, new_file(db, "last"))
    db.execute("DELETE FROM function_trigger")
    true()
    assert db.all("SELECT * FROM batch") == []


def test_a_look_makes_some_calls_and_leaves_the_rest_for_the_next_in_turn(db, function):
    many, few = function("many"), function("few")
    trigger(db, many, type="file_created", batch_files=1)
    trigger(db, few, type="file_deleted", batch_files=5, batch_seconds=0)
    for number in range(20):
        fire(db, new_file(db, f"{number}"))
    fire(db, new_file(db, "x"), "file_deleted")
    at = time.time()
    looks = 0
    while firing.gather(db, at, 0.0001):
        looks += 1
        if looks == 3:
            # Its turn comes before those of a burst that is not at its end.
            assert db.one("SELECT count(*) FROM call WHERE function_id = ?", (few,))[0] == 1

    assert looks >= 5
    assert db.one("SELECT count(*) FROM call")[0] == 21


def test_an_event_of_a_file_that_nobody_knows_any_more_holds_nothing_up(db, function):
    trigger(db, function(), type="file_created", batch_files=2, batch_seconds=0)
    for name in "abc":
        fire(db, new_file(db, name))
    db.execute("DELETE FROM file WHERE path IN ('a', 'b')")

    assert firing.gather(db, time.time()) == 1
    assert db.all("SELECT * FROM event") == []


# Workers ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(db, root, trouble, **more):
    with (root.logs / "workers.log").open("ab") as log:
        workers = Workers(root.path, db, log, trouble, **more)
        try:
            yield workers
        finally:
            workers.stop()


@pytest.fixture
def root(tmp_path):
    made = Root(tmp_path / "platform")
    made.create()
    return made


def test_a_full_disk_ends_no_look_for_good(db, function, root, monkeypatch):
    """SQLite's own word for it: the file may grow no further, and then again."""
    monkeypatch.setattr("libsafe_nb.local.workers.AFTER_TROUBLE", 0.05)
    made = function(paused=1)
    trigger(db, made, type="file_created", batch_files=500, batch_seconds=0)
    for number in range(500):
        fire(db, new_file(db, f"{'long' * 50}/{number}"))
    db.execute(f"PRAGMA max_page_count = {db.one('PRAGMA page_count')[0]}")
    trouble = {}

    async def run():
        with running(db, root, trouble) as workers:
            task = asyncio.ensure_future(workers.run())
            await until(lambda: trouble)
            assert "database or disk is full" in trouble["queue"]
            assert db.one("SELECT count(*) FROM event")[0] == 500
            db.execute("PRAGMA max_page_count = 1000000")
            await until(lambda: not trouble and db.one("SELECT count(*) FROM call")[0])
            workers._stopped = True
            await task

    asyncio.run(run())
    assert db.all("SELECT * FROM event") == []


def test_a_step_that_fails_keeps_none_of_the_others(db, function, root, monkeypatch):
    trigger(db, function(paused=1), type="minute", next_due=5.0)
    monkeypatch.setattr(firing, "gather", lambda *_: 1 / 0)
    with running(db, root, {}) as workers, pytest.raises(ZeroDivisionError):
        workers._look(time.time())

    assert len(left(db)) == 1


def test_workers_that_cannot_start_are_told_of_and_come_less_and_less_often(db, function, root, monkeypatch):
    """An environment that is broken: the worker's own import fails."""
    for name, value in (
        ("hiring.QUICK_DEATH", 5.0),
        ("hiring.LONGEST_WAIT", 0.4),
        ("local.workers.TICK", 0.02),
    ):
        monkeypatch.setattr(f"libsafe_nb.{name}", value)
    (root.path / "broken" / "libsafe_nb").mkdir(parents=True)
    (root.path / "broken" / "libsafe_nb" / "__init__.py").write_text("raise ImportError('no such thing')")
    monkeypatch.setenv("PYTHONPATH", str(root.path / "broken"))
    queue.make(db, order(function()))
    trouble = {}

    async def run():
        with running(db, root, trouble, most=1) as workers:
            task = asyncio.ensure_future(workers.run())
            await until(lambda: "2 ended at once" in trouble.get("workers", ""), 30)
            assert "exit code 1" in trouble["workers"]
            assert "workers.log says why" in trouble["workers"]
            workers._stopped = True
            await task

    asyncio.run(run())
    assert b"no such thing" in (root.logs / "workers.log").read_bytes()
    assert db.one("SELECT status FROM call")[0] == "queued"


def test_a_machine_without_room_for_a_process_keeps_the_platform_and_what_waits(
    db, function, root, monkeypatch
):
    for name, value in (("hiring.QUICK_DEATH", 0.2), ("local.workers.TICK", 0.02)):
        monkeypatch.setattr(f"libsafe_nb.{name}", value)

    def none(*_, **__):
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr("libsafe_nb.hiring.subprocess.Popen", none)
    made = function()
    queue.make(db, order(made))
    trouble = {}

    async def run():
        with running(db, root, trouble, most=1) as workers:
            task = asyncio.ensure_future(workers.run())
            await until(lambda: "2 ended at once" in trouble.get("workers", ""), 30)
            assert "could not be started (Resource temporarily unavailable)" in trouble["workers"]
            assert "queue" not in trouble
            workers._stopped = True
            await task

    asyncio.run(run())
    assert db.one("SELECT status FROM call")[0] == "queued"
