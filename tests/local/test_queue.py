"""The queue's rows, by a clock of the test's own: leases, attempts, order, limits, settling."""

import json
import sqlite3

import pytest

from libsafe_nb.local import firing, queue, schedule
from libsafe_nb.local.database import SCHEMA, VERSION, Database

from .rows import ERRORED, begun, end, fire, new_file, new_function, order, status, trigger

OLD_ROWS = """
INSERT INTO user VALUES (1, 'x', 0, NULL, 1, NULL, '');
INSERT INTO container VALUES (1, 'c', '', 1, '{}', '');
INSERT INTO access VALUES (1, 1);
INSERT INTO file (id, container_id, path, filename, type, date_create, date_update)
  VALUES (40, 1, 'a', 'a', 'FILE', '', ''), (41, 1, 'b', 'b', 'FILE', '', '');
INSERT INTO job VALUES (9, 1, 1, NULL, 'k', 'n', NULL, 'COMPLETED', 1, '{}', '', '', '');
INSERT INTO job_file VALUES (9, 40);
INSERT INTO message VALUES (1, 9, 'INFO', 'said', 40, '');
"""


def test_a_root_of_the_version_before_is_brought_to_this_one_with_its_rows(tmp_path):
    path = tmp_path / "old.sqlite3"
    old = sqlite3.connect(path)
    old.executescript(f"{SCHEMA}{OLD_ROWS}PRAGMA user_version=1;")
    names = old.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
    before = {name: old.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for (name,) in names}
    old.close()
    database = Database(path)

    assert database.one("PRAGMA user_version")[0] == VERSION
    assert before["job"]
    assert before["message"]
    for name, rows in before.items():
        found = database.all(f"SELECT * FROM {name} ORDER BY 1")
        assert [tuple(each)[: len(row)] for each, row in zip(found, rows, strict=True)] == rows
    assert database.all("PRAGMA foreign_key_check") == []
    made = queue.make(database, order(new_function(database)))
    assert queue.claim(database, queue.Claimer("w"), 60, 3.0)["id"] == made
    database.close()


def test_what_is_queued_again_is_run_by_whoever_is_there(db, function):
    """The workers of its workflow may have ended with it."""
    root = queue.find(db, queue.make(db, order(function())))["job_id"]
    db.execute("UPDATE job SET hosts = 'own', status = 'RUNNING' WHERE id = ?", (root,))
    call = queue.make(db, order(function(key="g"), parent_job=root, root_job=root))
    assert queue.find(db, call)["pool"] == root
    end(db, call, "FAILED", {"status": "failed"})
    db.execute("UPDATE job SET status = 'COMPLETED' WHERE id = ?", (root,))
    queue.requeue(db, queue.find(db, call), 0.0)

    assert (queue.find(db, call)["pool"], status(db, call)) == (0, "queued")


def test_a_call_has_a_job_and_ends_with_it(db, function):
    call = queue.make(db, order(function()))
    claimed = queue.claim(db, queue.Claimer("w"), 60, 100.0)
    end(db, call, "COMPLETED")

    assert (claimed["id"], claimed["attempts"], claimed["ran"]) == (call, 1, 1)
    assert status(db, call) == "completed"
    assert queue.claim(db, queue.Claimer("w"), 60, 101.0) is None


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
    queue.claim(db, queue.Claimer("w"), 60, 0.0)
    end(db, call, job, result)

    assert status(db, call) == expected


def test_attempts_come_later_and_later_with_jobs_of_their_own_and_then_it_is_dead(db, function):
    call = queue.make(db, order(function(attempts=3, backoff=10)))
    jobs = set()
    for at, next_at in ((0.0, 10.0), (10.0, 30.0), (30.0, None)):
        claimed = queue.claim(db, queue.Claimer("w"), 60, at)
        jobs.add(claimed["job_id"])
        end(db, call, "FAILED", ERRORED, at=at)
        if next_at is not None:
            assert queue.claim(db, queue.Claimer("w"), 60, next_at - 0.1) is None

    assert len(jobs) == 3
    assert status(db, call) == "dead"
    assert queue.find(db, call)["error"] == "KernelDied: it died"
    queue.requeue(db, queue.find(db, call), 40.0)
    assert queue.claim(db, queue.Claimer("w"), 60, 40.0)["attempts"] == 1


def test_a_worker_that_dies_before_the_run_began_is_one_attempt_and_no_more_are_counted_than_allowed(
    db, function
):
    call = queue.make(db, order(function(attempts=2, backoff=0)))
    queue.claim(db, queue.Claimer("a"), 1, 0.0)
    taken_up = queue.claim(db, queue.Claimer("b"), 1, 2.0)
    assert (taken_up["status"], taken_up["attempts"]) == ("running", 2)
    assert queue.claim(db, queue.Claimer("c"), 1, 4.0) is None
    found = queue.find(db, call)
    assert (found["status"], found["attempts"]) == ("dead", 2)


def test_the_end_of_an_earlier_attempts_job_changes_nothing(db, function):
    call = queue.make(db, order(function()))
    first = queue.claim(db, queue.Claimer("w"), 60, 0.0)["job_id"]
    end(db, call, "FAILED", ERRORED)
    queue.job_ended(db, first, 1.0)

    assert status(db, call) == "queued"
    assert queue.find(db, call)["attempts"] == 1


def test_a_lost_answer_is_given_again_and_an_ended_lease_to_another(db, function):
    call = queue.make(db, order(function()))
    queue.claim(db, queue.Claimer("w"), 60, 0.0)

    assert queue.claim(db, queue.Claimer("w"), 60, 1.0)["id"] == call
    assert queue.claim(db, queue.Claimer("x"), 60, 60.0) is None
    assert queue.claim(db, queue.Claimer("x"), 60, 61.5)["id"] == call
    assert not queue.renew(db, queue.find(db, call), "w", 60, 62.0)
    assert queue.renew(db, queue.find(db, call), "x", 60, 62.0)


def test_a_call_that_kills_its_workers_before_it_begins_is_given_up(db, function):
    call = queue.make(db, order(function(attempts=2, backoff=0)))
    for at in (0.0, 10.0, 20.0):
        queue.claim(db, queue.Claimer(f"w{at}"), 5, at)

    assert status(db, call) == "dead"


def test_what_the_platforms_own_end_broke_off_does_not_count(db, function):
    call = queue.make(db, order(function(attempts=1, backoff=1000)))
    for at in (0.0, 1.0, 2.0):
        job = queue.claim(db, queue.Claimer("w"), 60, at)["job_id"]
        db.execute("UPDATE job SET status = 'RUNNING' WHERE id = ?", (job,))
        queue.abandon_leases(db)
        queue.claim(db, queue.Claimer("next"), 60, at)
        end(db, call, "FAILED", ERRORED, at=at)
        assert status(db, call) == "queued"
        assert queue.find(db, call)["not_before"] <= at


def test_priority_comes_first_then_age(db, function):
    one, other = function("one"), function("other")
    late = queue.make(db, order(one))
    urgent = queue.make(db, order(other, priority=5))
    last = queue.make(db, order(one))

    assert [queue.claim(db, queue.Claimer(f"w{n}"), 60, 0.0)["id"] for n in range(3)] == [urgent, late, last]


def test_no_more_run_at_once_than_function_and_container_allow(db, function):
    narrow, wide = function("narrow", concurrency=1), function("wide", container_concurrency=3)
    for made in (narrow, narrow, wide, wide, wide):
        queue.make(db, order(made))
    claimed = [queue.claim(db, queue.Claimer(f"w{n}"), 60, 0.0) for n in range(5)]

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

    assert queue.claim(db, queue.Claimer("w"), 60, 0.0) is None
    assert not queue.work_waits(db, queue.Claimer("w"), 0.0)
    db.set_fact(queue.PAUSED, "")
    db.execute("UPDATE function SET paused = 0, enabled = 1")
    assert queue.claim(db, queue.Claimer("w"), 60, 0.0)["id"] == call


def test_a_clock_fires_once_for_all_that_it_missed_and_not_while_one_waits(db, function):
    made = function()
    day = 86_400.0
    trigger(db, made, type="minute", next_due=day)

    assert schedule.fire_due(db, day - 1) == 0
    assert schedule.fire_due(db, day + 7200) == 1
    assert schedule.fire_due(db, day + 7200) == 0
    assert schedule.fire_due(db, day + 7261) == 0
    queue.claim(db, queue.Claimer("w"), 60, day + 7261)
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
    first = queue.claim(db, queue.Claimer("w"), 60, 0.0)["job_id"]
    fire(db, file, "file_updated", first)
    [event] = db.all("SELECT * FROM event")
    assert json.loads(event["ancestors"]) == [one]
    firing.gather(db, event["at"] + 10)
    second = queue.claim(db, queue.Claimer("x"), 60, 0.0)
    assert second["function_id"] == two
    for _ in range(2):
        fire(db, file, "file_updated", second["job_id"])

    assert db.all("SELECT * FROM event") == []
    assert db.all("SELECT * FROM message WHERE job_id = ?", (first,)) == []
    [told] = db.all("SELECT * FROM message WHERE job_id = ?", (second["job_id"],))
    assert told["type"] == "WARNING"
    assert told["message"].startswith("a loop was stopped: this job's write would start one again")


# Faults of clocks and workers -------------------------------------------------------------------------------------


def renewed(db, call, owner, at, job=None):
    return queue.renew(db, queue.find(db, call), owner, 60, at, job)


def test_a_worker_that_was_stopped_for_longer_than_its_lease_goes_on_and_no_second_run_begins(db, function):
    call = queue.make(db, order(function()))
    job = queue.claim(db, queue.Claimer("stopped"), 60, 0.0)["job_id"]
    begun(db, call)
    # Another finds the job running, and lets go.
    assert queue.claim(db, queue.Claimer("other"), 60, 100.0)["job_id"] == job
    assert renewed(db, call, "stopped", 100.5, job)
    assert queue.find(db, call)["lease_owner"] == "other"
    queue.let_go(db, queue.find(db, call), 102.0)

    assert renewed(db, call, "stopped", 101.0, job)
    assert queue.find(db, call)["lease_owner"] == "stopped"
    assert queue.claim(db, queue.Claimer("other"), 60, 103.0) is None
    assert queue.find(db, call)["attempts"] == 1


def test_a_worker_that_was_stopped_before_its_run_began_leaves_it_to_the_other(db, function):
    call = queue.make(db, order(function()))
    job = queue.claim(db, queue.Claimer("stopped"), 60, 0.0)["job_id"]
    queue.claim(db, queue.Claimer("other"), 60, 100.0)

    assert not renewed(db, call, "stopped", 101.0, job)
    assert renewed(db, call, "other", 101.0, job)


def test_a_worker_whose_run_was_finished_by_another_does_not_go_on(db, function):
    call = queue.make(db, order(function(backoff=0)))
    job = queue.claim(db, queue.Claimer("stopped"), 60, 0.0)["job_id"]
    begun(db, call)
    queue.claim(db, queue.Claimer("other"), 60, 100.0)
    end(db, call, "FAILED", ERRORED, at=101.0)
    assert not renewed(db, call, "stopped", 102.0, job)
    again = queue.claim(db, queue.Claimer("other"), 60, 103.0)
    begun(db, call)

    assert again["job_id"] != job
    assert not renewed(db, call, "stopped", 104.0, job)
    assert renewed(db, call, "other", 104.0, again["job_id"])


def test_a_clock_that_is_set_back_or_forth_gives_no_call_to_two(db, function):
    call = queue.make(db, order(function()))
    job = queue.claim(db, queue.Claimer("w"), 60, 10_000.0)["job_id"]
    begun(db, call)

    assert queue.claim(db, queue.Claimer("x"), 60, 5_000.0) is None
    assert renewed(db, call, "w", 5_000.0, job)
    assert queue.claim(db, queue.Claimer("x"), 60, 50_000.0)["id"] == call
    queue.let_go(db, queue.find(db, call), 50_002.0)
    assert renewed(db, call, "w", 50_001.0, job)


@pytest.mark.parametrize("state", ["queued", "running", "between attempts"])
def test_a_call_is_cancelled_in_any_state_and_stays_so(db, function, state):
    call = queue.make(db, order(function(backoff=0)))
    if state != "queued":
        queue.claim(db, queue.Claimer("w"), 60, 0.0)
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
    assert queue.claim(db, queue.Claimer("x"), 60, 9999.0) is None


def test_a_pause_outlives_a_restart(tmp_path, db, function):
    made = function()
    queue.make(db, order(made))
    db.set_fact(queue.PAUSED, "1")
    again = Database(db.path)

    assert queue.claim(again, queue.Claimer("w"), 60, 0.0) is None
    again.set_fact(queue.PAUSED, "")
    assert queue.claim(again, queue.Claimer("w"), 60, 0.0) is not None
    again.close()


def test_a_call_of_100_000_files_is_made_tried_again_and_found(db, function):
    made = function(backoff=0)
    with db.transaction():
        ids = [new_file(db, f"{'deep/' * 20}{number}") for number in range(100_000)]
        call = queue.make(db, order(made, file_ids=ids, file_paths=["/x" * 60] * len(ids)))
    first = queue.claim(db, queue.Claimer("w"), 60, 0.0)
    with db.transaction():
        end(db, call, "FAILED", ERRORED)

    assert len(json.loads(first["files"])["ids"]) == 100_000
    again = queue.claim(db, queue.Claimer("w"), 60, 1.0)
    assert again["job_id"] != first["job_id"]
    assert db.one("SELECT count(*) FROM job_file WHERE job_id = ?", (again["job_id"],))[0] == 100_000
