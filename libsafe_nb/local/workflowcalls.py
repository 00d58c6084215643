"""
The REST call about a workflow: a run and all that it called, however far down, as it is now.

Whoever looks again asks for what is new or has changed since, so a look costs by what happens and not by what there is.
"""

from __future__ import annotations

import datetime
import json
import sqlite3
from typing import Any

from libsafe_nb.local.ask import Ask, Problem, number, text
from libsafe_nb.local.database import now

MOST = 5_000
"""Calls of one answer that were not told before."""
OVERLAP = 2
"""Seconds that are told twice: what ends while an answer is made must not fall between two."""

# By the indexes of parents and of jobs: no row of a call is read for it, whose files may be many.
BELOW = """
WITH RECURSIVE below(id, caller) AS (
  SELECT id, NULL FROM call WHERE parent_job IN (SELECT id FROM job WHERE id = :job OR call_id = :call)
  UNION SELECT c.id, b.id FROM below b JOIN job j ON j.call_id = b.id JOIN call c ON c.parent_job = j.id
)"""
# What runs may have got on. What waits changes where it is queued once more, and only then has a time before which it is not
# to start.
CHANGED = """
  SELECT id FROM call WHERE status = 'running'
  UNION ALL SELECT id FROM call WHERE status = 'queued' AND not_before > 0
  UNION ALL SELECT id FROM call INDEXED BY call_ended
    WHERE status IN ('completed', 'failed', 'cancelled') AND date_end >= :since
  UNION ALL SELECT id FROM call WHERE status = 'dead' AND date_end >= :since"""
COLUMNS = """
c.id, c.status, c.attempts, c.error AS told, f.key, j.id AS job_id, j.container_id, j.name, j.function_key, j.progress,
  j.status AS job_status, j.date_create, j.date_start, j.date_end, j.result"""
JOINED = "JOIN job j ON j.id = c.job_id JOIN function f ON f.id = c.function_id"


def workflow_get(ask: Ask) -> dict[str, Any]:
    """
    `root` and `calls`, each with its `caller` (null: the root), in the order in which they were asked for.

    The root is `job`, the job of `run`, or the latest job of `function`; without any of these the newest job that runs and
    is no part of another. With `after` and `since` of an answer it tells calls that are new, run, or have ended since that
    one; `more` says that there are further new ones, to be asked for at once.
    """
    after, moment = ask.after_id(), now()
    since = text(ask.query["since"], "since", most=40) if "since" in ask.query else ""
    job = _chosen(ask)
    bound: dict[str, Any] = {"job": job["id"], "call": job["call_id"], "after": after, "since": since}
    mine = ""
    if not ask.user.root:
        mine = " AND c.container_id IN (SELECT container_id FROM access WHERE user_id = :user)"
        bound["user"] = ask.user.id
    ask_for = f"{BELOW} SELECT b.caller, {COLUMNS} FROM below b CROSS JOIN call c ON c.id = b.id {JOINED}"  # noqa: S608 - constants
    changed = (
        ask.db.all(f"{ask_for} WHERE b.id <= :after AND b.id IN ({CHANGED}){mine} ORDER BY b.id", bound)
        if after
        else []
    )
    fresh = ask.db.all(
        f"{ask_for} WHERE b.id > :after{mine} ORDER BY b.id LIMIT :most", {**bound, "most": MOST + 1}
    )
    more, fresh = len(fresh) > MOST, fresh[:MOST]
    return {
        "root": _root(ask, job),
        "calls": [{"caller": _id(row["caller"]), **_shape(row)} for row in [*changed, *fresh]],
        "more": more,
        "after": str(fresh[-1]["id"] if fresh else after),
        "since": _before(moment),
        "now": moment,
    }


def _chosen(ask: Ask) -> sqlite3.Row:
    names = [name for name in ("job", "run", "function") if name in ask.query]
    if len(names) > 1:
        raise Problem(400, f"workflow: expected one of job, run and function, got {' and '.join(names)}")
    if not names:
        row = _newest(ask, "status = 'RUNNING' AND parent_id IS NULL")
        missing = "no job runs that is no part of another"
    elif names == ["job"]:
        row = ask.db.one("SELECT * FROM job WHERE id = ?", (number(ask.query["job"], name="job"),))
        missing = f"there is no job {ask.query['job']}"
    elif names == ["function"]:
        wanted = text(ask.query["function"], "function", most=300)
        row = _newest(ask, "(function_key = ? OR name = ?)", wanted, wanted)
        missing = f"there is no job of {wanted}"
    else:
        wanted = text(ask.query["run"], "run", most=36)
        # While it runs, its calls alone tell of whom they are.
        parent = ask.db.one("SELECT max(parent_job) FROM call WHERE parent_run = ?", (wanted,))[0]
        row = (
            _newest(ask, "instr(result, ?) AND json_extract(result, '$.run') = ?", wanted, wanted)
            if parent is None
            else ask.db.one("SELECT * FROM job WHERE id = ?", (parent,))
        )
        missing = f"there is no job of a run {wanted} that has ended or made a call"
    if row is None:
        raise Problem(404, missing)
    if not ask.may(row["container_id"]):
        raise Problem(403, f"job {row['id']} belongs to a container that is not yours to work in")
    found: sqlite3.Row = row
    return found


def _newest(ask: Ask, condition: str, *values: str) -> sqlite3.Row | None:
    mine, user = "", []
    if not ask.user.root:
        mine, user = (
            " AND +container_id IN (SELECT container_id FROM access WHERE user_id = ?)",
            [ask.user.id],
        )
    row: sqlite3.Row | None = ask.db.one(
        f"SELECT * FROM job WHERE {condition}{mine} ORDER BY id DESC LIMIT 1",  # noqa: S608 - constants
        [*values, *user],
    )
    return row


def _root(ask: Ask, job: sqlite3.Row) -> dict[str, Any]:
    """The call of the job, which may be at another attempt by now, or the job alone."""
    row = None
    if job["call_id"] is not None:
        row = ask.db.one(f"SELECT {COLUMNS} FROM call c {JOINED} WHERE c.id = ?", (job["call_id"],))  # noqa: S608 - constants
    if row is None:
        row = ask.db.one(
            "SELECT NULL AS id, lower(status) AS status, 0 AS attempts, NULL AS told, NULL AS key, id AS job_id,"
            " container_id, name, function_key, progress, status AS job_status, date_create, date_start, date_end, result"
            " FROM job WHERE id = ?",
            (job["id"],),
        )
    return {"caller": None, **_shape(row)}


def _shape(row: sqlite3.Row) -> dict[str, Any]:
    result = json.loads(row["result"]) if row["result"] else None
    result = result if isinstance(result, dict) else {}
    error = result.get("error")
    if row["told"] is None and isinstance(error, dict):
        told = f"{error.get('type')}: {error.get('message')}"[:2000]
    else:
        told = row["told"]
    return {
        "id": _id(row["id"]),
        "function": row["key"] or row["function_key"] or row["name"] or f"job {row['job_id']}",
        "status": row["status"],
        "outcome": _text(result.get("status")),
        "job_id": str(row["job_id"]),
        "container_id": str(row["container_id"]),
        "attempts": row["attempts"],
        "progress": row["progress"],
        "error": told,
        "run": _text(result.get("run")),
        "evidence": _text(result.get("evidence")),
        "date_create": row["date_create"],
        "date_start": row["date_start"],
        "date_end": row["date_end"],
    }


def _id(value: int | None) -> str | None:
    return None if value is None else str(value)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _before(moment: str) -> str:
    earlier = datetime.datetime.fromisoformat(moment) - datetime.timedelta(seconds=OVERLAP)
    return earlier.isoformat(" ", "microseconds")
