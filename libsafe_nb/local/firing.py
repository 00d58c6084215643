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
import re
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from libsafe_nb.local import queue
from libsafe_nb.local.accounts import DEFAULT_USER
from libsafe_nb.local.database import Database, now

FILE_TYPES = (
    "file_created",
    "file_read",
    "file_updated",
    "file_deleted",
    "metadata_created",
    "metadata_updated",
    "metadata_deleted",
)
OURS = "provenance/"
"""What lies there is the evidence of runs, and starts nothing."""

File = Mapping[str, Any] | sqlite3.Row


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
    if not rows or file["path"].startswith(OURS) or not _reachable(db, file["container_id"]):
        return
    lineage: list[int] | None = None
    for trigger in rows:
        if not _fits(trigger, file):
            continue
        if lineage is None:
            lineage = ancestry(db, job)
        if trigger["function_id"] in lineage:
            if trigger["function_id"] != lineage[-1]:
                _warn(db, job, trigger)
            continue
        db.insert(
            "event",
            trigger_id=trigger["id"],
            container_id=file["container_id"],
            file_id=file["id"],
            ancestors=json.dumps(lineage),
            cause_job=job,
            at=time.time(),
        )


def _reachable(db: Database, container: int) -> bool:
    """Functions run as the platform's own user, so they see that user's containers only."""
    found = db.one("SELECT 1 FROM access WHERE user_id = ? AND container_id = ?", (DEFAULT_USER, container))
    return found is not None


def _fits(trigger: sqlite3.Row, file: File) -> bool:
    if trigger["path_regex"] and not re.search(trigger["path_regex"], "/" + file["path"]):
        return False
    if trigger["name_regex"] and not re.search(trigger["name_regex"], file["filename"]):
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


def gather(db: Database, at: float) -> int:
    """
    Make calls of the events that wait: of each trigger and container, when enough have come or the first has waited long
    enough. Answers how many calls were made; each is one transaction with the events that it takes.

    Events of different causes are not mixed: one call's functions would count as the ancestors of all its files.
    """
    made = 0
    for group in db.all(
        "SELECT e.trigger_id, e.container_id, e.ancestors, count(*) AS waiting, min(e.at) AS first,"
        " t.batch_files, t.batch_seconds FROM event e JOIN function_trigger t ON t.id = e.trigger_id"
        " GROUP BY e.trigger_id, e.container_id, e.ancestors"
    ):
        waiting = group["waiting"]
        while waiting >= group["batch_files"] or (
            waiting > 0 and group["first"] + group["batch_seconds"] <= at
        ):
            with db.transaction():
                _call(db, group)
            made += 1
            waiting -= group["batch_files"]
    return made


def _call(db: Database, group: sqlite3.Row) -> None:
    events = db.all(
        "SELECT e.id, e.file_id, e.cause_job, f.path FROM event e JOIN file f ON f.id = e.file_id"
        " WHERE e.trigger_id = ? AND e.container_id = ? AND e.ancestors = ? ORDER BY e.id LIMIT ?",
        (group["trigger_id"], group["container_id"], group["ancestors"], group["batch_files"]),
    )
    trigger = db.one("SELECT * FROM function_trigger WHERE id = ?", (group["trigger_id"],))
    # A file that changed twice is handled once, as it stands.
    paths = {each["file_id"]: "/" + each["path"] for each in events}
    cause = max((each["cause_job"] for each in events if each["cause_job"] is not None), default=None)
    queue.make(
        db,
        queue.Order(
            trigger["function_id"],
            group["container_id"],
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
            ancestors=group["ancestors"],
            depth=len(json.loads(group["ancestors"])),
            cause_job=cause,
        ),
    )
    db.connection.executemany("DELETE FROM event WHERE id = ?", [(each["id"],) for each in events])
