"""The queue's rows, by a clock of the test's own: leases, attempts, order, limits, settling."""

import datetime
import json
import sqlite3
import time

import pytest

from libsafe_nb.local import firing, queue, queuetables, schedule
from libsafe_nb.local.database import SCHEMA, VERSION, Database, now

from .rows import fire, new_file, order, trigger


def status(db, call):
    return queue.find(db, call)["status"]


def end(db, call, status, result=None, at=0.0):
    """The end of the call's job, as `job_update` writes it."""
    job = queue.find(db, call)["job_id"]
    db.execute("UPDATE job SET status = ?, result = ? WHERE id = ?", (status, json.dumps(result), job))
    queue.job_ended(db, job, at)


ERRORED = {"status": "errored", "error": {"type": "KernelDied", "message": "it died", "cell_id": None}}


OLD_ROWS = """
INSERT INTO user VALUES (1, 'x', 0, NULL, 1, NULL, '');
INSERT INTO container VALUES (3, 'c', '', 1, '{}', '');
INSERT INTO access VALUES (1, 3);
INSERT INTO file (id, container_id, path, filename, type, date_create, date_update)
  VALUES (40, 3, 'a', 'a', 'FILE', '', ''), (41, 3, 'b', 'b', 'FILE', '', '');
INSERT INTO job VALUES (9, 3, 1, NULL, 'k', 'n', NULL, 'COMPLETED', 1, '{}', '', '', '');
INSERT INTO job_file VALUES (9, 40);
INSERT INTO message VALUES (1, 9, 'INFO', 'said', 40, '');
"""
ROWS_OF_2 = """
INSERT INTO function (id, key, version, date_create) VALUES (2, 'f', 1, '');
INSERT INTO function_version VALUES (2, 1, '', 'notebook', 'f.ipynb', 'f', '', '[]', 1, '');
INSERT INTO function_trigger (id, function_id, type, container_id, batch_files, date_create)
  VALUES (5, 2, 'file_created', 3, 2, '');
INSERT INTO event (trigger_id, container_id, file_id, ancestors, at) VALUES (5, 3, 40, '[]', 1), (5, 3, 41, '[]', 2);
INSERT INTO call (function_id, trigger, container_id, user_id, files, params, status, job_id, date_create)
  VALUES (2, '{}', 3, 1, '{}', '{}', 'dead', 9, ''), (2, '{}', 3, 1, '{"ids": []}', '{}', 'queued', 9, '');
"""


@pytest.mark.parametrize("version", [1, 2])
def test_a_root_of_a_version_before_is_brought_to_this_one_with_its_rows(tmp_path, version):
    path = tmp_path / "old.sqlite3"
    old = sqlite3.connect(path)
    old.executescript(SCHEMA + OLD_ROWS + (queuetables.TABLES + ROWS_OF_2 if version == 2 else ""))
    before = {
        name: old.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall()
        for (name,) in old.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        )
    }
    old.executescript(f"PRAGMA user_version={version};")
    old.close()
    database = Database(path)

    assert database.one("PRAGMA user_version")[0] == VERSION
    for name, rows in before.items():
        assert [tuple(each)[: len(row)] for each, row in zip(database.all(f"SELECT * FROM {name} ORDER BY 1"), rows, strict=True)] == rows  # fmt: skip
    assert database.all("PRAGMA foreign_key_check") == []
    if version == 2:
        assert {tuple(each) for each in database.all("SELECT status, calls FROM tally")} == {("dead", 1), ("queued", 1)}  # fmt: skip
        assert firing.gather(database, 3.0) == 1
        assert queue.claim(database, "w", 60, 3.0)["id"] == 2
    database.close()


def test_a_call_has_a_job_and_ends_with_it(db, function):
    call = queue.make(db, order(function()))
    claimed = queue.claim(db, "w", 60, 100.0)
    end(db, call, "COMPLETED")

    assert (claimed["id"], claimed["attempts"], claimed["ran"]) == (call, 1, 1)
    assert status(db, call) == "completed"
    assert queue.claim(db, "w", 60, 101.0) is None


@pytest.mark.parametrize(
    ("job", "result", "expected"),
    [
        ("FAILED", {"status": "failed"}, "failed"),
        ("FAILED", {"status": "timeout"}, "failed"),
        ("FAILED", None, "failed"),
        ("CANCELLED", None, "cancelled"),
        ("FAILED", ERRORED, "queued"),
    ],
)
def test_only_what_could_not_be_executed_is_tried_again(db, function, job, result, expected):
    call = queue.make(db, order(function()))
    queue.claim(db, "w", 60, 0.0)
    end(db, call, job, result)

    assert status(db, call) == expected


def test_attempts_come_later_and_later_with_jobs_of_their_own_and_then_it_is_dead(db, function):
    call = queue.make(db, order(function(attempts=3, backoff=10)))
    jobs = set()
    for at, next_at in ((0.0, 10.0), (10.0, 30.0), (30.0, None)):
        claimed = queue.claim(db, "w", 60, at)
        jobs.add(claimed["job_id"])
        end(db, call, "FAILED", ERRORED, at=at)
        if next_at is not None:
            assert queue.claim(db, "w", 60, next_at - 0.1) is None

    assert len(jobs) == 3
    assert status(db, call) == "dead"
    assert queue.find(db, call)["error"] == "KernelDied: it died"
    queue.requeue(db, queue.find(db, call), 40.0)
    assert queue.claim(db, "w", 60, 40.0)["attempts"] == 1


def test_a_worker_that_dies_before_the_run_began_is_one_attempt_and_no_more_are_counted_than_allowed(
    db, function
):
    call = queue.make(db, order(function(attempts=2, backoff=0)))
    queue.claim(db, "a", 1, 0.0)
    taken_up = queue.claim(db, "b", 1, 2.0)
    assert (taken_up["status"], taken_up["attempts"]) == ("running", 2)
    assert queue.claim(db, "c", 1, 4.0) is None
    found = queue.find(db, call)
    assert (found["status"], found["attempts"]) == ("dead", 2)


def test_the_end_of_an_earlier_attempts_job_changes_nothing(db, function):
    call = queue.make(db, order(function()))
    first = queue.claim(db, "w", 60, 0.0)["job_id"]
    end(db, call, "FAILED", ERRORED)
    queue.job_ended(db, first, 1.0)

    assert status(db, call) == "queued"
    assert queue.find(db, call)["attempts"] == 1


def test_a_lost_answer_is_given_again_and_an_ended_lease_to_another(db, function):
    call = queue.make(db, order(function()))
    queue.claim(db, "w", 60, 0.0)

    assert queue.claim(db, "w", 60, 1.0)["id"] == call
    assert queue.claim(db, "x", 60, 60.0) is None
    assert queue.claim(db, "x", 60, 61.5)["id"] == call
    assert not queue.renew(db, queue.find(db, call), "w", 60, 62.0)
    assert queue.renew(db, queue.find(db, call), "x", 60, 62.0)


def test_a_call_that_kills_its_workers_before_it_begins_is_given_up(db, function):
    call = queue.make(db, order(function(attempts=2, backoff=0)))
    for at in (0.0, 10.0, 20.0):
        queue.claim(db, f"w{at}", 5, at)

    assert status(db, call) == "dead"


def test_what_the_platforms_own_end_broke_off_does_not_count(db, function):
    call = queue.make(db, order(function(attempts=1, backoff=1000)))
    for at in (0.0, 1.0, 2.0):
        job = queue.claim(db, "w", 60, at)["job_id"]
        db.execute("UPDATE job SET status = 'RUNNING' WHERE id = ?", (job,))
        queue.abandon_leases(db)
        queue.claim(db, "next", 60, at)
        end(db, call, "FAILED", ERRORED, at=at)
        assert status(db, call) == "queued"
        assert queue.find(db, call)["not_before"] <= at


def test_priority_comes_first_then_age(db, function):
    one, other = function("one"), function("other")
    late = queue.make(db, order(one))
    urgent = queue.make(db, order(other, priority=5))
    last = queue.make(db, order(one))

    assert [queue.claim(db, f"w{n}", 60, 0.0)["id"] for n in range(3)] == [urgent, late, last]


def test_no_more_run_at_once_than_function_and_container_allow(db, function):
    narrow, wide = function("narrow", concurrency=1), function("wide", container_concurrency=3)
    for made in (narrow, narrow, wide, wide, wide):
        queue.make(db, order(made))
    claimed = [queue.claim(db, f"w{n}", 60, 0.0) for n in range(5)]

    assert [each["function_id"] for each in claimed if each] == [narrow, wide, wide]


@pytest.mark.parametrize("how", ["function paused", "function disabled", "queue paused"])
def test_what_is_paused_or_disabled_waits(db, function, how):
    made = function()
    call = queue.make(db, order(made))
    if how == "queue paused":
        db.set_fact(queue.PAUSED, "1")
    else:
        change = "paused = 1" if how == "function paused" else "enabled = 0"
        db.execute(f"UPDATE function SET {change}")

    assert queue.claim(db, "w", 60, 0.0) is None
    assert not queue.work_waits(db, 0.0)
    db.set_fact(queue.PAUSED, "")
    db.execute("UPDATE function SET paused = 0, enabled = 1")
    assert queue.claim(db, "w", 60, 0.0)["id"] == call


def test_a_clock_fires_once_for_all_that_it_missed_and_not_while_one_waits(db, function):
    made = function()
    day = 86_400.0
    trigger(db, made, type="minute", next_due=day)

    assert schedule.fire_due(db, day - 1) == 0
    assert schedule.fire_due(db, day + 7200) == 1
    assert schedule.fire_due(db, day + 7200) == 0
    assert schedule.fire_due(db, day + 7261) == 0
    queue.claim(db, "w", 60, day + 7261)
    assert schedule.fire_due(db, day + 7321) == 1
    assert db.one("SELECT next_due FROM function_trigger")[0] == day + 7380


def test_schedules():
    assert schedule.after("hour", None, 1.0) == 3600.0
    assert schedule.after("day", None, 1.0) == 86_400.0
    assert schedule.after("cron", "30 2 * * *", 1.0) == 2.5 * 3600
    for wrong in ("every day", "61 * * * *", "0 0 31 2 *"):
        with pytest.raises(ValueError, match=r"\S"):
            schedule.after("cron", wrong, 1.0)


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({}, True),
        ({"path_regex": r"^/in/.*\.txt$"}, True),
        ({"path_regex": r"^/out/"}, False),
        ({"name_regex": r"^a\."}, True),
        ({"name_regex": r"^in"}, False),
        ({"mime": "text/*"}, True),
        ({"mime": "image/*"}, False),
        ({"size_min": 5, "size_max": 5}, True),
        ({"size_min": 6}, False),
        ({"size_max": 4}, False),
        ({"container_id": None}, True),
    ],
)
def test_filters(db, function, filters, fits):
    trigger(db, function(), type="file_created", **filters)
    fire(db, new_file(db, "in/a.txt"))

    assert len(db.all("SELECT * FROM event")) == fits


def test_evidence_fires_nothing(db, function):
    trigger(db, function(), type="file_created")
    fire(db, new_file(db, "provenance/f/1/record.json"))

    assert db.all("SELECT * FROM event") == []


def test_events_are_gathered_when_enough_have_come_or_the_first_has_waited(db, function):
    trigger(db, function(), type="file_created", batch_files=2, batch_seconds=50, params='{"a": 1}')
    for name in ("a", "b", "c"):
        fire(db, new_file(db, name))
    at = db.one("SELECT max(at) FROM event")[0]

    assert firing.gather(db, at) == 1
    assert firing.gather(db, at) == 0
    assert firing.gather(db, at + 51) == 1
    found = [json.loads(row["files"])["paths"] for row in db.all("SELECT files FROM call ORDER BY id")]
    assert found == [["/a", "/b"], ["/c"]]
    assert db.one("SELECT params FROM call")[0] == '{"a": 1}'
    assert db.all("SELECT * FROM event") == []


def test_a_job_does_not_start_its_own_function_and_a_loop_of_two_is_stopped_and_told(db, function):
    one, two = function("one"), function("two")
    trigger(db, one, type="file_updated")
    trigger(db, two, type="file_updated")
    file = new_file(db, "a")

    queue.make(db, order(one))
    first = queue.claim(db, "w", 60, 0.0)["job_id"]
    fire(db, file, "file_updated", first)
    [event] = db.all("SELECT * FROM event")
    assert json.loads(event["ancestors"]) == [one]
    firing.gather(db, event["at"] + 10)
    second = queue.claim(db, "x", 60, 0.0)
    assert second["function_id"] == two
    for _ in range(2):
        fire(db, file, "file_updated", second["job_id"])

    assert db.all("SELECT * FROM event") == []
    assert db.all("SELECT * FROM message WHERE job_id = ?", (first,)) == []
    [told] = db.all("SELECT * FROM message WHERE job_id = ?", (second["job_id"],))
    assert told["type"] == "WARNING"
    assert told["message"].startswith("a loop was stopped: this job's write would start one again")


# Faults of clocks and workers -------------------------------------------------------------------------------------


def begun(db, call):
    db.execute("UPDATE job SET status = 'RUNNING' WHERE id = ?", (queue.find(db, call)["job_id"],))


def renewed(db, call, owner, at, job=None):
    return queue.renew(db, queue.find(db, call), owner, 60, at, job)


def test_a_worker_that_was_stopped_for_longer_than_its_lease_goes_on_and_no_second_run_begins(db, function):
    call = queue.make(db, order(function()))
    job = queue.claim(db, "stopped", 60, 0.0)["job_id"]
    begun(db, call)
    # Another finds the job running, and lets go.
    assert queue.claim(db, "other", 60, 100.0)["job_id"] == job
    assert renewed(db, call, "stopped", 100.5, job)
    assert queue.find(db, call)["lease_owner"] == "other"
    queue.let_go(db, queue.find(db, call), 102.0)

    assert renewed(db, call, "stopped", 101.0, job)
    assert queue.find(db, call)["lease_owner"] == "stopped"
    assert queue.claim(db, "other", 60, 103.0) is None
    assert queue.find(db, call)["attempts"] == 1


def test_a_worker_that_was_stopped_before_its_run_began_leaves_it_to_the_other(db, function):
    call = queue.make(db, order(function()))
    job = queue.claim(db, "stopped", 60, 0.0)["job_id"]
    queue.claim(db, "other", 60, 100.0)

    assert not renewed(db, call, "stopped", 101.0, job)
    assert renewed(db, call, "other", 101.0, job)


def test_a_worker_whose_run_was_finished_by_another_does_not_go_on(db, function):
    call = queue.make(db, order(function(backoff=0)))
    job = queue.claim(db, "stopped", 60, 0.0)["job_id"]
    begun(db, call)
    queue.claim(db, "other", 60, 100.0)
    end(db, call, "FAILED", ERRORED, at=101.0)
    assert not renewed(db, call, "stopped", 102.0, job)
    again = queue.claim(db, "other", 60, 103.0)
    begun(db, call)

    assert again["job_id"] != job
    assert not renewed(db, call, "stopped", 104.0, job)
    assert renewed(db, call, "other", 104.0, again["job_id"])


def test_a_clock_that_is_set_back_or_forth_gives_no_call_to_two(db, function):
    call = queue.make(db, order(function()))
    job = queue.claim(db, "w", 60, 10_000.0)["job_id"]
    begun(db, call)

    assert queue.claim(db, "x", 60, 5_000.0) is None
    assert renewed(db, call, "w", 5_000.0, job)
    assert queue.claim(db, "x", 60, 50_000.0)["id"] == call
    queue.let_go(db, queue.find(db, call), 50_002.0)
    assert renewed(db, call, "w", 50_001.0, job)


@pytest.mark.parametrize("state", ["queued", "running", "between attempts"])
def test_a_call_is_cancelled_in_any_state_and_stays_so(db, function, state):
    call = queue.make(db, order(function(backoff=0)))
    if state != "queued":
        queue.claim(db, "w", 60, 0.0)
    if state == "between attempts":
        end(db, call, "FAILED", ERRORED)
    job = queue.find(db, call)["job_id"]
    queue.end_job(db, job, "CANCELLED", "cancelled", "the call was cancelled", 1.0)

    assert status(db, call) == "cancelled"
    assert not renewed(db, call, "w", 2.0, job)
    # What the worker tells afterwards of its run's end changes nothing.
    queue.end_job(db, job, "FAILED", "errored", "late", 3.0)
    assert status(db, call) == "cancelled"
    assert db.one("SELECT status FROM job WHERE id = ?", (job,))[0] == "CANCELLED"
    assert queue.claim(db, "x", 60, 9999.0) is None


def test_a_pause_outlives_a_restart(tmp_path, db, function):
    made = function()
    queue.make(db, order(made))
    db.set_fact(queue.PAUSED, "1")
    again = Database(db.path)

    assert queue.claim(again, "w", 60, 0.0) is None
    again.set_fact(queue.PAUSED, "")
    assert queue.claim(again, "w", 60, 0.0) is not None
    again.close()


# Schedules --------------------------------------------------------------------------------------------------------


def seconds(text):
    return datetime.datetime.fromisoformat(text + "+00:00").timestamp()


@pytest.mark.parametrize(
    ("given", "after", "expected"),
    [
        ("0 0 29 2 *", "2026-11-26T12:00:00", "2028-02-29T00:00:00"),
        ("0 0 29 2 *", "2096-02-29T00:00:00", "2104-02-29T00:00:00"),
        ("59 23 31 12 *", "2026-12-31T23:59:00", "2027-12-31T23:59:00"),
        # Where clocks are put forward and back that day.
        ("30 2 * * *", "2026-03-29T01:59:59", "2026-03-29T02:30:00"),
        ("30 2 * * *", "2026-10-25T00:00:00", "2026-10-25T02:30:00"),
        ("30 2 * * *", "2026-10-25T02:30:00", "2026-10-26T02:30:00"),
        ("*/15 * * * 1-5", "2026-11-27T23:50:00", "2026-11-30T00:00:00"),
    ],
)
def test_schedules_are_of_utc_whatever_the_machines_zone(given, after, expected, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Madrid")
    time.tzset()
    try:
        assert schedule.after("cron", given, seconds(after)) == seconds(expected)
        assert schedule.after("cron", given, seconds(after) + 0.5) == seconds(expected)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("given", ["* * * *", "0 * * * * *", "@daily", "", "0 0 1 1 * 2030"])
def test_a_schedule_has_five_fields(given):
    with pytest.raises(ValueError, match=r"\S"):
        schedule.after("cron", given, 1.0)


@pytest.mark.parametrize("type", ["minute", "hour", "day", "cron"])
def test_clocks_fire_once_over_restarts_and_catch_up_once(tmp_path, db, function, type):
    """Each restart opens the rows anew; the time is given."""
    period = {"minute": 60.0, "hour": 3600.0, "day": 86_400.0, "cron": 86_400.0}[type]
    given = "0 0 * * *" if type == "cron" else None
    at = seconds("2026-11-27T00:00:00")
    made = trigger(db, function(), type=type, schedule=given, next_due=schedule.after(type, given, at - 1))

    def restarted(moment):
        again = Database(db.path)
        count = schedule.fire_due(again, moment)
        # What was made is done before the next.
        while (call := queue.claim(again, "w", 60, moment)) is not None:
            queue.end_job(again, call["job_id"], "COMPLETED", "completed", "", moment)
        due = again.one("SELECT next_due FROM function_trigger")[0]
        again.close()
        return count, due

    assert restarted(at - 0.1) == (0, at)
    assert restarted(at) == (1, at + period)
    assert restarted(at) == (0, at + period)
    assert restarted(at + period - 0.1) == (0, at + period)
    # Down over three of its times and a half.
    assert restarted(at + 3.5 * period) == (1, at + 4 * period)
    assert restarted(at + 3.5 * period) == (0, at + 4 * period)
    told = [json.loads(row["trigger"]) for row in db.all("SELECT trigger FROM call")]
    assert told == [{"id": str(made), "type": type, "regex": ""}] * 2


def test_a_clock_that_is_set_back_by_days_stops_neither_events_nor_the_clock(db, function):
    made = function()
    trigger(db, made, type="file_created", batch_seconds=3600)
    for type, given in (("minute", None), ("hour", None), ("day", None), ("cron", "0 0 1 1 *")):
        due = schedule.after(type, given, time.time())
        trigger(db, made, type=type, schedule=given, next_due=due)
    fire(db, new_file(db, "a"))
    at = time.time() - 3 * 86_400

    assert schedule.fire_due(db, at) == 0
    due = [
        row[0] - at for row in db.all("SELECT next_due FROM function_trigger WHERE type <> 'file_created'")
    ]
    assert 0 < due[0] <= 60
    assert 0 < due[1] <= 3600
    assert 0 < due[2] <= 86_400
    assert firing.gather(db, time.time()) == 0
    assert firing.gather(db, at) == 1


def test_a_clock_without_a_further_time_and_one_in_a_container_of_others_fire_nothing(db, function):
    made = function()
    never = trigger(db, made, type="cron", schedule="0 0 30 2 *", next_due=5.0)
    trigger(db, made, type="hour", next_due=5.0)
    db.execute("DELETE FROM access")

    assert schedule.fire_due(db, 10.0) == 0
    found = db.one("SELECT enabled, next_due, error FROM function_trigger WHERE id = ?", (never,))
    assert (found["enabled"], found["next_due"]) == (0, None)
    assert "its schedule names no further time" in found["error"]
    assert schedule.fire_due(db, 10.0) == 0


def test_a_call_of_100_000_files_is_made_tried_again_and_found(db, function):
    made = function(backoff=0)
    with db.transaction():
        ids = [new_file(db, f"{'deep/' * 20}{number}") for number in range(100_000)]
        call = queue.make(db, order(made, file_ids=ids, file_paths=["/x" * 60] * len(ids)))
    first = queue.claim(db, "w", 60, 0.0)
    with db.transaction():
        end(db, call, "FAILED", ERRORED)

    assert len(json.loads(first["files"])["ids"]) == 100_000
    again = queue.claim(db, "w", 60, 1.0)
    assert again["job_id"] != first["job_id"]
    assert db.one("SELECT count(*) FROM job_file WHERE job_id = ?", (again["job_id"],))[0] == 100_000


# Calls of calls -------------------------------------------------------------------------------------------------------


def child(db, parent, function, **more):
    """A call that a running call asks for."""
    row = queue.find(db, parent)
    return queue.make(db, order(function, parent_job=row["job_id"], depth=row["depth"] + 1, **more))


def claims(db, count=20):
    """What so many workers get, each of which goes on."""
    found = (queue.claim(db, f"w{n}-{db.one('SELECT count(*) FROM call')[0]}", 60, 0.0) for n in range(count))
    return [each["id"] for each in found if each]


def test_a_chain_of_sixteen_ends_with_one_slot_and_a_concurrency_of_one(db, function):
    db.set_fact(queue.SLOTS, "1")
    same = function(concurrency=1, container_concurrency=1)
    chain = [queue.make(db, order(same))]
    queue.make(db, order(same))
    for _ in range(16):
        assert claims(db) == chain[-1:]
        chain.append(child(db, chain[-1], same))
    assert claims(db) == chain[-1:]
    assert (queue.holding(db), queue.work_waits(db, 0.0)) == (16, False)
    for each in reversed(chain):
        end(db, each, "COMPLETED")

    assert queue.holding(db) == 0
    assert len(claims(db)) == 1


def test_however_many_wait_for_their_own_no_more_run_at_a_depth_than_there_are_slots(db, function):
    """Also where nothing goes on, as their children are paused."""
    db.set_fact(queue.SLOTS, "2")
    parent, paused = function("parent", container_concurrency=100), function("child", paused=1)
    for _ in range(10):
        queue.make(db, order(parent))
    running = []
    while found := claims(db):
        running += found
        for each in found:
            child(db, each, paused)

    assert len(running) == 2
    db.execute("UPDATE function SET paused = 0")
    assert [queue.find(db, each)["function_id"] for each in claims(db)] == [paused, paused]


def test_who_waits_for_another_function_that_waits_for_its_own_does_not_hold_it_up(db, function):
    """A calls B while another B calls A, each one at a time."""
    one, two = function("a", concurrency=1), function("b", concurrency=1)
    a, b = queue.make(db, order(one)), queue.make(db, order(two))
    assert sorted(claims(db)) == [a, b]
    below = [child(db, a, two), child(db, b, one)]

    assert sorted(claims(db)) == below


def test_one_at_a_time_holds_for_calls_of_one_depth_while_they_wait(db, function):
    alone, other = function("alone", concurrency=1), function("other")
    first, second = queue.make(db, order(alone)), queue.make(db, order(alone))
    assert claims(db) == [first]
    called = child(db, first, other)
    assert claims(db) == [called]
    end(db, called, "COMPLETED")
    end(db, first, "COMPLETED")

    assert claims(db) == [second]


def test_what_a_call_waits_for_comes_before_what_is_older(db, function):
    db.set_fact(queue.SLOTS, "1")
    one, two = function("one"), function("two")
    parent = queue.make(db, order(one))
    claims(db)
    queue.make(db, order(one, depth=1))
    called = child(db, parent, two)

    assert claims(db) == [called]


@pytest.mark.parametrize("how", ["CANCELLED", "COMPLETED", "FAILED"])
def test_only_a_cancelled_call_takes_all_below_it_along(db, function, how):
    made = function()
    top = queue.make(db, order(made))
    claims(db)
    ended = child(db, top, made)
    waits = child(db, top, made)
    claims(db)
    below = child(db, ended, made)
    claims(db)
    end(db, ended, "COMPLETED")
    end(db, top, how)
    others = queue.make(db, order(made))

    expected = "cancelled" if how == "CANCELLED" else "running"
    assert [status(db, each) for each in (waits, below)] == [expected, expected]
    assert (status(db, ended), status(db, others)) == ("completed", "queued")


def test_a_cancelled_call_takes_along_what_an_earlier_attempt_of_it_asked_for(db, function):
    made = function(backoff=0)
    top = queue.make(db, order(made))
    claims(db)
    below = child(db, top, made)
    claims(db)
    end(db, top, "FAILED", ERRORED)
    assert status(db, below) == "running"
    queue.end_job(db, queue.find(db, top)["job_id"], "CANCELLED", "cancelled", "by hand", 0.0)

    assert status(db, below) == "cancelled"
    said = db.one("SELECT message FROM message WHERE job_id = ?", (queue.find(db, below)["job_id"],))[0]
    assert said.endswith("which led to it, was cancelled")


def test_what_a_job_without_a_call_asked_for_is_cancelled_with_it(db, function):
    job = db.insert("job", container_id=1, user_id=1, status="RUNNING", date_create=now())
    called = queue.make(db, order(function(), parent_job=job))
    db.execute("UPDATE job SET status = 'CANCELLED' WHERE id = ?", (job,))
    queue.job_ended(db, job, 0.0)

    assert status(db, called) == "cancelled"


def test_a_run_whose_evidence_waits_takes_no_workers_place(db, function):
    db.set_fact(queue.SLOTS, "1")
    made = function()
    first, second = queue.make(db, order(made)), queue.make(db, order(made))
    assert claims(db) == [first]
    queue.let_go(db, queue.find(db, first), 30.0)

    assert claims(db) == [second]


def test_a_paused_queue_lets_that_end_which_runs_with_what_it_waits_for(db, function):
    one, two = function("one"), function("two")
    top = queue.make(db, order(one))
    claims(db)
    begun(db, top)
    db.set_fact(queue.PAUSED, "1")
    queue.make(db, order(two, priority=9))
    below = child(db, top, two)

    assert claims(db) == [below]
    end(db, below, "COMPLETED")
    end(db, top, "COMPLETED")
    assert claims(db) == []
    assert not queue.work_waits(db, 0.0)


def test_nobody_waits_for_a_call_of_a_function_that_was_disabled(db, function):
    one, two = function("one"), function("two", backoff=0)
    top = queue.make(db, order(one))
    claims(db)
    begun(db, top)
    waits, alone, tried = child(db, top, two), queue.make(db, order(two)), child(db, top, two, priority=1)
    assert queue.claim(db, "w", 60, 0.0)["id"] == tried
    db.execute("UPDATE function SET enabled = 0 WHERE id = ?", (two,))
    queue.disabled(db, db.one("SELECT * FROM function WHERE id = ?", (two,)), 0.0)
    end(db, tried, "FAILED", ERRORED)

    assert [status(db, each) for each in (waits, alone, tried)] == ["failed", "queued", "dead"]
    assert "two was disabled while this call" in queue.find(db, waits)["error"]
