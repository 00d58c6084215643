"""The REST calls of workers: a call with a lease, a sign of life, and being done with one that did not run."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from typing import Any

from libsafe_nb.local import functions, queue
from libsafe_nb.local.accounts import reachable
from libsafe_nb.local.ask import Ask, Problem, number, text
from libsafe_nb.local.queuecalls import SELECT, UNREACHABLE, by_id, shape

LOOK_SECONDS = 0.25
"""Between two looks for a worker that waits for a call."""
LONGEST_WAIT = 20.0
LONGEST_LEASE = 3600.0


async def call_claim(ask: Ask) -> dict[str, Any] | None:
    """A call for `owner`, leased for `lease` seconds; waits up to `wait` seconds for one, then answers null."""
    functions.need_operator(ask)
    fields = ask.fields()
    owner = text(fields.get("owner"), "owner", most=200)
    lease = _seconds(fields, "lease", 60, LONGEST_LEASE)
    deadline = time.monotonic() + _seconds(fields, "wait", 0, LONGEST_WAIT)
    while True:
        ended = False
        if queue.work_waits(ask.db, time.time()) or _holds(ask, owner):
            with ask.db.transaction():
                row = queue.claim(ask.db, owner, lease, time.time())
                ended = row is not None and _out_of_reach(ask, row)
                if row is not None and not ended:
                    return _order(ask, row)
            if ended:
                # The next one, at once: many may wait in such a container.
                continue
        if time.monotonic() >= deadline or await ask.request.is_disconnected():
            return None
        await asyncio.sleep(LOOK_SECONDS)


def _out_of_reach(ask: Ask, row: sqlite3.Row) -> bool:
    """
    End a call that has not begun and whose container functions may not work in any more, since it was made. One whose run
    has begun is given out: what is left of it waits on the worker's disk.
    """
    status = ask.db.one("SELECT status FROM job WHERE id = ?", (row["job_id"],))[0]
    if status != "QUEUED" or reachable(ask.db, row["container_id"]):
        return False
    sentence = f"container {row['container_id']}: {UNREACHABLE}"
    queue.end_job(ask.db, row["job_id"], "FAILED", "failed", sentence, time.time())
    return True


def _held(ask: Ask) -> sqlite3.Row:
    """The call of the path: a worker is done with what it holds, also where it may not work any more."""
    functions.need_operator(ask)
    row: sqlite3.Row | None = ask.db.one(f"{SELECT} WHERE c.id = ?", (ask.id("call"),))
    if row is None:
        raise Problem(404, f"there is no call {ask.path['call']}")
    return row


def _holds(ask: Ask, owner: str) -> bool:
    found = ask.db.one("SELECT 1 FROM call WHERE status = ? AND lease_owner = ?", (queue.RUNNING, owner))
    return found is not None


def _seconds(fields: dict[str, Any], name: str, default: float, most: float) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise Problem(400, f"{name}: expected seconds from 0 to {most:g}, got {str(value)[:50]!r}")
    return float(value)


def _order(ask: Ask, row: sqlite3.Row) -> dict[str, Any]:
    """What a worker needs to run a call: the payload without keys, and which version."""
    function = ask.db.one("SELECT * FROM function WHERE id = ?", (row["function_id"],))
    version = functions.version_of(ask.db, function["id"], row["ran"])
    return {
        **by_id(ask, row["id"]),
        "timeout": function["timeout"],
        "parent": _parent(ask, row),
        "published": {
            "id": str(function["id"]),
            "key": function["key"],
            "version": version["number"],
            "sha256": version["sha256"],
            "kind": version["kind"],
            "name": version["name"],
            "parameters": json.loads(version["parameters"]),
        },
        "payload": {
            "function_data": {
                "container": {"id": str(row["container_id"])},
                "user": {"id": str(row["user_id"])},
                "files": json.loads(row["files"]),
                "job": {"id": str(row["job_id"])},
                "trigger": json.loads(row["trigger"]),
                "function": {"id": str(function["id"]), "key": function["key"]},
            },
            "function_params": json.loads(row["params"]),
        },
    }


def _parent(ask: Ask, row: sqlite3.Row) -> dict[str, Any] | None:
    """Whose function asked for it: job, run (where it said so) and the function's key."""
    if row["parent_job"] is None:
        return None
    job = ask.db.one("SELECT function_key FROM job WHERE id = ?", (row["parent_job"],))
    return {"job": str(row["parent_job"]), "run": row["parent_run"], "function": job["function_key"]}


def call_renew(ask: Ask) -> dict[str, Any]:
    """
    Keep a lease; `go_on` is false when the call was cancelled or given to another. `job_id` is that of the run that goes on,
    which gets a lease back that only its time has ended. `progress` goes to the job.
    """
    call, fields = _held(ask), ask.fields()
    owner, lease = text(fields.get("owner"), "owner", most=200), _seconds(fields, "lease", 60, LONGEST_LEASE)
    job = fields.get("job_id")
    go_on = queue.renew(
        ask.db, call, owner, lease, time.time(), None if job is None else number(job, name="job_id")
    )
    progress = fields.get("progress")
    if go_on and isinstance(progress, (int, float)) and 0 <= progress <= 1:
        ask.db.execute("UPDATE job SET progress = ? WHERE id = ?", (float(progress), call["job_id"]))
    return {"go_on": go_on}


def call_release(ask: Ask) -> dict[str, Any]:
    """
    A worker is done with a call whose job is still open.

    With `status` (`failed` or `errored`) and `message` it is settled so, if its run did not begin. Else, and without, its
    evidence waits to be stored, and it is taken up again after `delay` seconds.
    """
    call, fields = _held(ask), ask.fields()
    if call["status"] != queue.RUNNING or call["lease_owner"] != text(fields.get("owner"), "owner", most=200):
        return shape(call)
    status = fields.get("status")
    job = ask.db.one("SELECT status FROM job WHERE id = ?", (call["job_id"],))[0]
    if status is None or job != "QUEUED":
        queue.let_go(ask.db, call, time.time() + _seconds(fields, "delay", 30, LONGEST_LEASE))
    elif status in ("failed", queue.ERRORED):
        message = text(fields.get("message"), "message", most=10_000)
        queue.end_job(ask.db, call["job_id"], "FAILED", status, message, time.time())
    else:
        raise Problem(400, f"status: expected failed or errored, got {str(status)[:50]!r}")
    return by_id(ask, call["id"])
