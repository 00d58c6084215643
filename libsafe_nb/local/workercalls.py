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
from libsafe_nb.local.queue import Claimer
from libsafe_nb.local.queuecalls import LONGEST_WAIT, SELECT, UNREACHABLE, by_id, seconds, shape

LOOK_SECONDS = 1.0
"""Between two looks for a worker that waits for a call: what becomes due by the clock rings no bell."""
MAX_SLOTS = 10_000
FIRST = 0.02
"""Seconds that those have who wait for a call before another worker is asked for."""
LONGEST_LEASE = 3600.0


async def call_claim(ask: Ask) -> dict[str, Any] | None:
    """
    A call for `owner`, leased for `lease` seconds; waits up to `wait` seconds for one, then answers null.

    A worker of a workflow's own host names the workflow's job as `root`, and its `host` (with which `owner` begins) with its
    `slots`; it is given calls of that workflow alone, which others are not given.
    """
    functions.need_operator(ask)
    fields = ask.fields()
    by = _claimer(fields, text(fields.get("owner"), "owner", most=200))
    lease = seconds(fields, "lease", 60, LONGEST_LEASE)
    deadline = time.monotonic() + seconds(fields, "wait", 0, LONGEST_WAIT)
    while True:
        ended = False
        if queue.work_waits(ask.db, by, time.time()) or _holds(ask, by.owner):
            with ask.db.transaction():
                row = queue.claim(ask.db, by, lease, time.time())
                ended = row is not None and _out_of_reach(ask, row)
                if row is not None and not ended:
                    return _order(ask, row)
            if ended:
                # The next one, at once: many may wait in such a container.
                continue
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        await ask.db.bell.wait_for_work(min(left, LOOK_SECONDS))
        # A worker that has ended meanwhile must not be given what came.
        if await ask.request.is_disconnected():
            return None


def _claimer(fields: dict[str, Any], owner: str) -> Claimer:
    if fields.get("root") is None:
        return Claimer(owner)
    root, host = number(fields["root"], name="root"), text(fields.get("host"), "host", most=100)
    slots = fields.get("slots", 1)
    if isinstance(slots, bool) or not isinstance(slots, int) or not 1 <= slots <= MAX_SLOTS:
        raise Problem(400, f"slots: expected a number from 1 to {MAX_SLOTS}, got {str(slots)[:50]!r}")
    return Claimer(owner, root, host, slots)


async def host_look(ask: Ask) -> dict[str, Any]:
    """
    For a host of the workflow `root` that has `alive` workers: whether to `hire` another one, as a call waits that it would be
    given, and whether the workflow is `open`; waits up to `wait` seconds until one is to be hired. `died`: the names of
    workers of this workflow that are dead, or what these begin with; what they held is free at once.
    """
    functions.need_operator(ask)
    fields = ask.fields()
    by = _claimer(fields, "")
    if not by.root:
        raise Problem(400, "root: expected the id of a workflow's job")
    alive = number(fields.get("alive", 0), name="alive")
    for name in fields.get("died") or []:
        queue.worker_died(ask.db, text(name, "died", most=200), by.root)
    deadline = time.monotonic() + seconds(fields, "wait", 0, LONGEST_WAIT)
    while True:
        told = {"hire": _room(ask, by, alive), "open": _open(ask, by.root)}
        left = deadline - time.monotonic()
        if told["hire"] or not told["open"] or left <= 0:
            return told
        await ask.db.bell.wait_for_work(left)
        # A worker that waits for a call takes it first.
        await asyncio.sleep(FIRST)


def _room(ask: Ask, by: Claimer, alive: int) -> bool:
    """Whether another worker would have work. One whose call waits for calls of its own is none of the host's places."""
    return alive < by.slots + queue.holding(ask.db, by.root, by.host) and queue.work_waits(
        ask.db, by, time.time()
    )


def _open(ask: Ask, root: int) -> bool:
    job = ask.db.one("SELECT status FROM job WHERE id = ?", (root,))
    return job is not None and job["status"] in ("QUEUED", "RUNNING")


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


def _order(ask: Ask, row: sqlite3.Row) -> dict[str, Any]:
    """What a worker needs to run a call: the payload without keys, and which version."""
    function = ask.db.one("SELECT * FROM function WHERE id = ?", (row["function_id"],))
    version = functions.version_of(ask.db, function["id"], row["ran"])
    return {
        **by_id(ask, row["id"]),
        "timeout": row["timeout"] if row["timeout"] is not None else function["timeout"],
        "parent": _parent(ask, row),
        "job_status": ask.db.one("SELECT status FROM job WHERE id = ?", (row["job_id"],))[0],
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
    owner, lease = text(fields.get("owner"), "owner", most=200), seconds(fields, "lease", 60, LONGEST_LEASE)
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
        queue.let_go(ask.db, call, time.time() + seconds(fields, "delay", 30, LONGEST_LEASE))
    elif status in ("failed", queue.ERRORED):
        message = text(fields.get("message"), "message", most=10_000)
        queue.end_job(ask.db, call["job_id"], "FAILED", status, message, time.time())
    else:
        raise Problem(400, f"status: expected failed or errored, got {str(status)[:50]!r}")
    return by_id(ask, call["id"])
