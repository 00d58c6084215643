"""Jobs and their messages."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from libsafe_nb.local import causes, queue
from libsafe_nb.local.answers import first_time
from libsafe_nb.local.ask import Ask, Page, Problem, number, page, text
from libsafe_nb.local.database import now

STATUSES = ("QUEUED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")
ENDED = ("COMPLETED", "FAILED", "CANCELLED")
HOSTS = ("platform", "own")
"""Whose workers run what is called below a job."""
MAX_MESSAGE = 1_000_000
"""Characters of one message."""


def job_create(ask: Ask) -> dict[str, Any]:
    fields = ask.fields()
    container = ask.container(number(fields.get("container_id"), name="container_id"))
    parent = fields.get("parent_id")
    if parent is not None:
        parent = _find(ask, number(parent, name="parent_id"))["id"]
    job = ask.db.insert(
        "job",
        container_id=container["id"],
        user_id=ask.user.id,
        function_id=_optional(fields, "function_id"),
        function_key=_optional(fields, "function_key"),
        name=_optional(fields, "name"),
        parent_id=parent,
        hosts=_hosts(fields.get("hosts", HOSTS[0])),
        status="QUEUED",
        date_create=now(),
    )
    for file in fields.get("file_ids") or []:
        row = ask.file(number(file, name="file_ids"))
        ask.db.execute("INSERT OR IGNORE INTO job_file VALUES (?, ?)", (job, row["id"]))
    return _by_id(ask, job)


def job_list(ask: Ask) -> Page:
    limit = ask.limit()
    # The unary `+` has the rows walked by id: an index of containers would have each page sort all of theirs.
    conditions, values = ["id > ?"], [ask.after_id()]
    if not ask.user.root:
        conditions.append("+container_id IN (SELECT container_id FROM access WHERE user_id = ?)")
        values.append(ask.user.id)
    clause = " AND ".join(conditions)
    bound: list[Any] = list(values)
    if "status" in ask.query:
        clause += " AND status = ?"
        bound.append(_status(ask.query["status"]))
    if "container_id" in ask.query:
        clause += " AND +container_id = ?"
        bound.append(ask.container(number(ask.query["container_id"], name="container_id"))["id"])
    rows = ask.db.all(
        f"SELECT * FROM job WHERE {clause} ORDER BY id LIMIT ?",  # noqa: S608 - constants
        [*bound, limit + 1],
    )
    return page(rows, limit, lambda row: row["id"], shape)


def job_get(ask: Ask) -> dict[str, Any]:
    return shape(_find(ask, ask.id("job")))


def job_key(ask: Ask) -> str:
    """
    The key that signs what the job writes (`causes`), for those who may work in its container. By a call of its own: the
    answer of `job_get` is what functions print.
    """
    return causes.write_key(ask.db, _find(ask, ask.id("job"))["id"])


def job_update(ask: Ask) -> dict[str, Any]:
    """
    Any of status, progress, result and hosts. A job that has ended keeps its status; the same one again is fine.

    `hosts` is for the topmost job of a workflow: with `own` what is called below it is run by workers that name it alone.
    """
    job = _find(ask, ask.id("job"))
    fields = ask.fields()
    changes: dict[str, Any] = {}
    if fields.get("status") is not None:
        changes |= _moved(job, _status(fields["status"]))
    if fields.get("progress") is not None:
        progress = fields["progress"]
        if isinstance(progress, bool) or not isinstance(progress, (int, float)) or not 0 <= progress <= 1:
            raise Problem(400, f"progress: expected a number from 0 to 1, got {str(progress)[:50]!r}")
        changes["progress"] = float(progress)
    if "hosts" in fields:
        changes["hosts"] = _hosts(fields["hosts"])
    if "result" in fields:
        changes["result"] = json.dumps(fields["result"], ensure_ascii=False)
    if changes:
        columns = ", ".join(f"{name} = ?" for name in changes)
        ask.db.execute(f"UPDATE job SET {columns} WHERE id = ?", [*changes.values(), job["id"]])  # noqa: S608 - our names
    if "hosts" in changes:
        queue.rehost(ask.db, job["id"])
    if changes.get("status") in ENDED:
        queue.job_ended(ask.db, job["id"], time.time())
    return _by_id(ask, job["id"])


def _moved(job: sqlite3.Row, status: str) -> dict[str, Any]:
    if job["status"] == status:
        return {}
    if job["status"] in ENDED:
        raise Problem(409, f"job {job['id']} has ended as {job['status']} and cannot become {status}")
    changes: dict[str, Any] = {"status": status}
    if status != "QUEUED" and job["date_start"] is None:
        changes["date_start"] = now()
    if status in ENDED:
        changes["date_end"] = now()
    return changes


def job_messages(ask: Ask) -> Page:
    job = _find(ask, ask.id("job"))
    limit = ask.limit()
    rows = ask.db.all(
        "SELECT * FROM message WHERE job_id = ? AND id > ? ORDER BY id LIMIT ?",
        (job["id"], ask.after_id(), limit + 1),
    )
    return page(rows, limit, lambda row: row["id"], _message_shape)


def job_message(ask: Ask) -> dict[str, Any]:
    return _write(ask, _find(ask, ask.id("job")), ask.fields())


def bulk_message(ask: Ask) -> list[Any]:
    """All or none. An item whose `idempotency_key` was seen before is left out of what is written, not of the answer."""
    job = _find(ask, ask.id("job"))
    messages = ask.fields().get("messages")
    if not isinstance(messages, list):
        raise Problem(400, "messages: expected a list")
    call = f"POST /api/job/{job['id']}/message"
    return [first_time(ask, item, call, lambda each: _write(ask, job, each)) for item in messages]


def _write(ask: Ask, job: sqlite3.Row, fields: Any) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise Problem(400, "a message must be an object with type and message")
    file = fields.get("file_id")
    if file is not None:
        file = ask.file(number(file, name="file_id"))["id"]
    message = ask.db.insert(
        "message",
        job_id=job["id"],
        type=text(fields.get("type") or "INFO", "type", most=32).upper(),
        message=text(fields.get("message"), "message", most=MAX_MESSAGE, empty=True),
        file_id=file,
        date_create=now(),
    )
    return _message_shape(ask.db.one("SELECT * FROM message WHERE id = ?", (message,)))


def _find(ask: Ask, job_id: int) -> sqlite3.Row:
    row: sqlite3.Row | None = ask.db.one("SELECT * FROM job WHERE id = ?", (job_id,))
    if row is None:
        raise Problem(404, f"there is no job {job_id}")
    if not ask.may(row["container_id"]):
        raise Problem(403, f"job {job_id} belongs to a container that is not yours to work in")
    return row


def _by_id(ask: Ask, job_id: int) -> dict[str, Any]:
    return shape(ask.db.one("SELECT * FROM job WHERE id = ?", (job_id,)))


def _status(value: Any) -> str:
    if value not in STATUSES:
        raise Problem(400, f"status: expected one of {', '.join(STATUSES)}, got {str(value)[:50]!r}")
    return str(value)


def _hosts(value: Any) -> str:
    if value not in HOSTS:
        raise Problem(400, f"hosts: expected one of {', '.join(HOSTS)}, got {str(value)[:50]!r}")
    return str(value)


def _optional(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return None if value is None else text(value, name, empty=True)


def shape(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "container_id": str(row["container_id"]),
        "user_id": str(row["user_id"]),
        "function_id": row["function_id"],
        "function_key": row["function_key"],
        "name": row["name"],
        "parent_id": None if row["parent_id"] is None else str(row["parent_id"]),
        "status": row["status"],
        "progress": row["progress"],
        "hosts": row["hosts"],
        "call_id": None if row["call_id"] is None else str(row["call_id"]),
        "result": None if row["result"] is None else json.loads(row["result"]),
        "date_create": row["date_create"],
        "date_start": row["date_start"],
        "date_end": row["date_end"],
    }


def _message_shape(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "job_id": str(row["job_id"]),
        "type": row["type"],
        "message": row["message"],
        "file_id": None if row["file_id"] is None else str(row["file_id"]),
        "date_create": row["date_create"],
    }
