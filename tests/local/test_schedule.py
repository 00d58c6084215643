"""Clocks and schedules, by a time of the test's own."""

import datetime
import json
import time

import pytest

from libsafe_nb.local import firing, queue, schedule
from libsafe_nb.local.database import Database

from .rows import fire, new_file, trigger


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
        while (call := queue.claim(again, queue.Claimer("w"), 60, moment)) is not None:
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
