"""Calls that running calls ask for, in the queue's rows: whom they hold up, and what ends with what."""

import pytest

from libsafe_nb.local import queue
from libsafe_nb.local.database import now

from .rows import ERRORED, begun, child, claims, end, order, status


def test_a_chain_of_sixteen_ends_with_one_slot_and_a_concurrency_of_one(db, function):
    db.set_fact(queue.SLOTS, "1")
    same = function(concurrency=1, container_concurrency=1)
    chain = [queue.make(db, order(same))]
    queue.make(db, order(same))
    for _ in range(16):
        assert claims(db) == chain[-1:]
        chain.append(child(db, chain[-1], same))
    assert claims(db) == chain[-1:]
    assert (queue.holding(db), queue.work_waits(db, queue.Claimer("w"), 0.0)) == (16, False)
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
    assert not queue.work_waits(db, queue.Claimer("w"), 0.0)


def test_nobody_waits_for_a_call_of_a_function_that_was_disabled(db, function):
    one, two = function("one"), function("two", backoff=0)
    top = queue.make(db, order(one))
    claims(db)
    begun(db, top)
    waits, alone, tried = child(db, top, two), queue.make(db, order(two)), child(db, top, two, priority=1)
    assert queue.claim(db, queue.Claimer("w"), 60, 0.0)["id"] == tried
    db.execute("UPDATE function SET enabled = 0 WHERE id = ?", (two,))
    queue.disabled(db, db.one("SELECT * FROM function WHERE id = ?", (two,)), 0.0)
    end(db, tried, "FAILED", ERRORED)

    assert [status(db, each) for each in (waits, alone, tried)] == ["failed", "queued", "dead"]
    assert "two was disabled while this call" in queue.find(db, waits)["error"]
