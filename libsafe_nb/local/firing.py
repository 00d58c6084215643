"""
Events: what happened to a file, matched with the triggers, in the transaction that changes the file's row.

So an event is as durable as what it tells of, and as often: a change that the store's stream tells again changes no row
and is no event. Events wait as rows until they are gathered into calls.

A job's own writes do not start its function again: each carries the job's id, as metadata of the object or a header of
the REST call, and the job knows which functions led to it.
"""

from __future__ import annotations

import fnmatch
import json
import logging
import math
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from libsafe_nb.local import expressions, queue
from libsafe_nb.local.accounts import DEFAULT_USER, reachable
from libsafe_nb.local.database import Database, now

OURS = "provenance/"
"""What lies there is the evidence of runs, and starts nothing."""

LONGEST_BATCH = 3600.0
"""Seconds for which events may be gathered."""

File = Mapping[str, Any] | sqlite3.Row

log = logging.getLogger(__name__)


def fire(db: Database, kind: str, file: File, job: int | None) -> None:
    """
    Note an event for each trigger that it fits; within the caller's transaction.

    Parameters
    ----------
    file
        Its row: `id`, `container_id`, `path`, `filename`, `mime`, `size`.
    job
        Whose write it is; None for nobody's that is known.
    """
    rows = db.all(
        "SELECT t.* FROM function_trigger t JOIN function f ON f.id = t.function_id AND f.enabled"
        " WHERE t.type = ? AND t.enabled AND (t.container_id IS NULL OR t.container_id = ?)",
        (kind, file["container_id"]),
    )
    if not rows or file["path"].startswith(OURS) or not reachable(db, file["container_id"]):
        return
    lineage: list[int] | None = None
    for trigger in rows:
        try:
            if not _fits(trigger, file):
                continue
        except (TimeoutError, ValueError) as exc:
            _disable(db, trigger, file, str(exc))
            continue
        if lineage is None:
            lineage = ancestry(db, job)
        if trigger["function_id"] in lineage:
            if trigger["function_id"] != lineage[-1]:
                _warn(db, job, trigger)
            continue
        _note(db, trigger, file, json.dumps(lineage), job, time.time())


def _note(
    db: Database, trigger: sqlite3.Row, file: File, ancestors: str, job: int | None, moment: float
) -> None:
    """One event more, and when the batch that it belongs to is due."""
    place = (trigger["id"], file["container_id"], ancestors)
    db.execute(
        "INSERT INTO event (trigger_id, container_id, ancestors, file_id, cause_job, at) VALUES (?, ?, ?, ?, ?, ?)",
        (*place, file["id"], job, moment),
    )
    most = trigger["batch_files"]
    first = moment if most == 1 else moment + trigger["batch_seconds"]
    db.execute(
        "INSERT INTO batch VALUES (?, ?, ?, 1, ?) ON CONFLICT (trigger_id, container_id, ancestors) DO UPDATE"
        " SET waiting = waiting + 1, due = CASE WHEN waiting + 1 >= ? THEN min(due, ?) ELSE due END",
        (*place, first, most, moment),
    )


def _disable(db: Database, trigger: sqlite3.Row, file: File, why: str) -> None:
    """A trigger whose expression takes too long fires no more, and says at which file: it would hold everything up."""
    path = "/" + file["path"]
    # Its end tells more.
    path = path if len(path) <= 100 else "…" + path[-100:]
    error = f"disabled at {now()[:19]}: its expression {why} in {path!r} of container {file['container_id']}; that file and later ones started nothing"
    db.execute("UPDATE function_trigger SET enabled = 0, error = ? WHERE id = ?", (error, trigger["id"]))
    log.warning("trigger %s: %s", trigger["id"], error)


def _fits(trigger: sqlite3.Row, file: File) -> bool:
    if trigger["path_regex"] and not expressions.found(trigger["path_regex"], "/" + file["path"]):
        return False
    if trigger["name_regex"] and not expressions.found(trigger["name_regex"], file["filename"]):
        return False
    if trigger["mime"] and not fnmatch.fnmatchcase((file["mime"] or "").lower(), trigger["mime"]):
        return False
    if trigger["size_min"] is not None and file["size"] < trigger["size_min"]:
        return False
    return trigger["size_max"] is None or file["size"] <= trigger["size_max"]


def ancestry(db: Database, job: int | None) -> list[int]:
    """The functions that led to what this job does, the oldest first and its own last."""
    row = None if job is None else db.one("SELECT call_id, function_key FROM job WHERE id = ?", (job,))
    if row is None:
        return []
    call = queue.find(db, row["call_id"]) if row["call_id"] is not None else None
    if call is not None:
        before = [each for each in json.loads(call["ancestors"]) if each != call["function_id"]]
        return [*before, call["function_id"]]
    # A run by hand of a notebook that is published as well.
    known = db.one("SELECT id FROM function WHERE key = ?", (row["function_key"],))
    return [] if known is None else [known["id"]]


def _warn(db: Database, job: int | None, trigger: sqlite3.Row) -> None:
    """Tell the causing job, once, that a loop was stopped."""
    key = db.one("SELECT key FROM function WHERE id = ?", (trigger["function_id"],))["key"]
    message = (
        f"a loop was stopped: this job's write would start {key} again (trigger {trigger['id']}, {trigger['type']}),"
        " which is one of the functions that led to it"
    )
    told = db.one("SELECT 1 FROM message WHERE job_id = ? AND message = ?", (job, message))
    if told is None:
        db.insert("message", job_id=job, type="WARNING", message=message, date_create=now())


def gather(db: Database, at: float, seconds: float = math.inf) -> int:
    """
    Make calls of the events that wait: of each trigger and container, when enough have come or the first has waited long
    enough. Answers how many calls were made; they are one transaction with the events that they take.

    Events of different causes are not mixed: one call's functions would count as the ancestors of all its files. What has
    been due for longest comes first. When `seconds` are over no further call is begun; what is due stays so.
    """
    if _due(db, at) is None:
        return 0
    made = 0
    deadline = time.monotonic() + seconds
    with db.transaction():
        while (batch := _due(db, at)) is not None:
            made += _call(db, batch, at)
            if time.monotonic() >= deadline:
                break
    return made


def _due(db: Database, at: float) -> sqlite3.Row | None:
    """What has been due for longest; also what is so far ahead that the clock must have been set back meanwhile."""
    select = "SELECT b.*, t.batch_files, t.batch_seconds FROM batch b JOIN function_trigger t ON t.id = b.trigger_id"
    row: sqlite3.Row | None = db.one(f"{select} WHERE b.due <= ? ORDER BY b.due LIMIT 1", (at,))
    return row or db.one(f"{select} WHERE b.due > ? ORDER BY b.due LIMIT 1", (at + LONGEST_BATCH + 60,))


def _call(db: Database, batch: sqlite3.Row, at: float) -> int:
    """A call of the batch's first events; 0 when none of their files is known any more."""
    place = (batch["trigger_id"], batch["container_id"], batch["ancestors"])
    events = db.all(
        "SELECT e.id, e.file_id, e.cause_job, f.path FROM event e LEFT JOIN file f ON f.id = e.file_id"
        " WHERE e.trigger_id = ? AND e.container_id = ? AND e.ancestors = ? ORDER BY e.id LIMIT ?",
        (*place, batch["batch_files"]),
    )
    _taken(db, batch, place, events, at)
    # A file that changed twice is handled once, as it stands.
    paths = {each["file_id"]: "/" + each["path"] for each in events if each["path"] is not None}
    if not paths:
        return 0
    trigger = db.one("SELECT * FROM function_trigger WHERE id = ?", (batch["trigger_id"],))
    cause = max((each["cause_job"] for each in events if each["cause_job"] is not None), default=None)
    queue.make(
        db,
        queue.Order(
            trigger["function_id"],
            batch["container_id"],
            DEFAULT_USER,
            {
                "id": str(trigger["id"]),
                "type": trigger["type"],
                "regex": trigger["path_regex"] or trigger["name_regex"] or "",
            },
            trigger_id=trigger["id"],
            file_ids=list(paths),
            file_paths=list(paths.values()),
            params=json.loads(trigger["params"]),
            ancestors=batch["ancestors"],
            depth=len(json.loads(batch["ancestors"])),
            cause_job=cause,
        ),
    )
    return 1


def _taken(
    db: Database, batch: sqlite3.Row, place: tuple[int, int, str], events: list[sqlite3.Row], at: float
) -> None:
    """The events leave their batch; what is left of it is due by its own first one."""
    where = "trigger_id = ? AND container_id = ? AND ancestors = ?"
    last = events[-1]["id"] if events else 0
    db.execute(f"DELETE FROM event WHERE {where} AND id <= ?", (*place, last))  # noqa: S608 - constants
    left = db.one(f"SELECT at FROM event WHERE {where} ORDER BY id LIMIT 1", place)  # noqa: S608
    if left is None:
        db.execute(f"DELETE FROM batch WHERE {where}", place)  # noqa: S608
        return
    waiting = batch["waiting"] - len(events)
    due = at if waiting >= batch["batch_files"] else left["at"] + batch["batch_seconds"]
    db.execute(f"UPDATE batch SET waiting = ?, due = ? WHERE {where}", (waiting, due, *place))  # noqa: S608
