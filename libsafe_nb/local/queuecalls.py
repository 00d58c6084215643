"""The REST calls about the queue: calls on demand, what waits and what ran. What workers ask is in `workercalls`."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

from libsafe_nb.local import files, firing, functions, pruning, queue
from libsafe_nb.local.accounts import reachable
from libsafe_nb.local.ask import Ask, Page, Problem, number, page, params, text
from libsafe_nb.local.paths import key_problem
from libsafe_nb.shapes import ON_DEMAND

MAX_FILES = 100_000
"""Of one call on demand."""
MAX_PATHS = 8_000_000
"""Characters of their paths together: each may need six bytes in the payload, which may have 64 MiB."""
LONGEST_WAIT = 20.0
"""Seconds that one look at calls waits for the end of one of them."""
MAX_LOOKS = 100
"""Paths that the store is asked for before a call is made."""
MAX_DEPTH = 32
"""How deep functions may call each other."""
RETRY_AFTER = 5
UNREACHABLE = "the platform's own user, as whom functions run, may not work there"
SELECT = "SELECT c.*, f.key FROM call c JOIN function f ON f.id = c.function_id"


# On demand -----------------------------------------------------------------------------------------------------------


def call_create(ask: Ask) -> dict[str, Any]:
    """
    Queue one call: `container_id`, and perhaps `file_ids`, `paths` (a folder stands for all in it), `params`,
    `version`, `priority`, `timeout` (seconds of one execution), `attempts` (in all; both: as the function says) and `run` (that
    of the job that asks). 429 when too many of this user wait already.

    Parameters are held against the version that is asked for, or current now; the worker does so again at the start.
    """
    function, fields = functions.asked(ask), ask.fields()
    if not function["enabled"]:
        raise Problem(409, f"function {function['key']} is disabled")
    container = ask.container(number(fields.get("container_id"), name="container_id"))["id"]
    if not reachable(ask.db, container):
        raise Problem(403, f"container {container}: {UNREACHABLE}")
    waiting = queue.waiting(ask.db, function["id"], ask.user.id, function["queue_limit"])
    if waiting >= function["queue_limit"]:
        raise Problem(
            429,
            f"{waiting} calls of {function['key']} by user {ask.user.id} wait already; try again later",
            retry_after=RETRY_AFTER,
        )
    version = fields.get("version")
    if version is not None:
        version = functions.version_of(ask.db, function["id"], number(version, name="version"))["number"]
    lineage, depth = firing.ancestry(ask.db, ask.job), _depth(ask)
    chosen = _files(ask, container, fields)
    trigger = _on_demand(ask, function["id"], container)
    given = _params(trigger, fields)
    current = functions.version_of(ask.db, function["id"], version or function["version"])
    functions.check_params(function, current, given)
    call = queue.make(
        ask.db,
        queue.Order(
            function["id"],
            container,
            ask.user.id,
            {"id": str(trigger["id"]) if trigger else "0", "type": ON_DEMAND, "regex": ""},
            trigger_id=trigger["id"] if trigger else None,
            file_ids=list(chosen),
            file_paths=list(chosen.values()),
            params=given,
            version=version,
            priority=_priority(ask, fields.get("priority", 0)),
            ancestors=json.dumps(lineage),
            depth=depth,
            cause_job=ask.job,
            parent_job=ask.job,
            parent_run=_run(fields) if ask.job is not None else None,
            root_job=queue.root_of(ask.db, ask.job),
            timeout=functions.setting(fields, "timeout"),
            attempts_most=functions.setting(fields, "attempts"),
        ),
    )
    return by_id(ask, call)


def call_preview(ask: Ask) -> dict[str, Any]:
    """
    What `call_create` would make of the same fields: `version` with its `sha256`, `kind` and `name`, `params` with those of the
    function's trigger, and `files` in order with their versions, as the rows know them.
    """
    function, fields = functions.asked(ask), ask.fields()
    if not function["enabled"]:
        raise Problem(409, f"function {function['key']} is disabled")
    container = ask.container(number(fields.get("container_id"), name="container_id"))["id"]
    version = fields.get("version")
    wanted = function["version"] if version is None else number(version, name="version")
    about = functions.version_of(ask.db, function["id"], wanted)
    given = _params(_on_demand(ask, function["id"], container), fields)
    functions.check_params(function, about, given)
    ids = json.dumps(list(_files(ask, container, fields)))
    rows = ask.db.all(
        "SELECT file.id, file.path, version_id, size FROM json_each(?) chosen JOIN file ON file.id = chosen.value ORDER BY chosen.key",
        (ids,),
    )
    return {
        "version": about["number"],
        **{name: about[name] for name in ("sha256", "kind", "name")},
        "params": given,
        "files": [
            {
                "id": str(row["id"]),
                "fullpath": "/" + row["path"],
                "size": row["size"],
                "version_id": row["version_id"],
            }
            for row in rows
        ],
    }


def _on_demand(ask: Ask, function: int, container: int) -> sqlite3.Row | None:
    """The trigger through which a function is called on demand in a container, if it has one."""
    row: sqlite3.Row | None = ask.db.one(
        "SELECT * FROM function_trigger WHERE function_id = ? AND type = ? AND enabled"
        " AND (container_id IS NULL OR container_id = ?) ORDER BY id LIMIT 1",
        (function, ON_DEMAND, container),
    )
    return row


def _params(trigger: sqlite3.Row | None, fields: dict[str, Any]) -> dict[str, Any]:
    """Those of the trigger, and what is given above them."""
    return {**(json.loads(trigger["params"]) if trigger else {}), **params(fields.get("params"))}


async def prepare(ask: Ask) -> None:
    """Files that were stored a moment ago and are chosen by a path, or by a folder's: the store is asked."""
    fields = ask.fields()
    paths, container = fields.get("paths"), fields.get("container_id")
    if not isinstance(paths, list) or not str(container).isdecimal() or not ask.may(int(str(container))):
        return
    for each in paths[:MAX_LOOKS]:
        path = each.strip("/") if isinstance(each, str) else None
        if path is None or (path and key_problem(path)):
            continue
        row = files.find(ask.db, int(str(container)), path) if path else None
        # While the S3 server restarts, what the rows say is the best there is.
        with contextlib.suppress(Exception):
            if path and row is None:
                await ask.platform.indexer.look(int(str(container)), path)
            if row is None or row["type"] == "FOLDER":
                await ask.platform.indexer.look_below(int(str(container)), path)


def _depth(ask: Ask) -> int:
    row = None if ask.job is None else ask.db.one("SELECT call_id, status FROM job WHERE id = ?", (ask.job,))
    if row is not None and row["status"] == "CANCELLED":
        raise Problem(
            409, f"job {ask.job} was cancelled, and so would be what it calls; this one is not started"
        )
    call = queue.find(ask.db, row["call_id"]) if row is not None and row["call_id"] is not None else None
    depth = 0 if call is None else call["depth"] + 1
    if depth > MAX_DEPTH:
        raise Problem(409, f"functions call each other {MAX_DEPTH} deep already; this one is not started")
    return depth


def _run(fields: dict[str, Any]) -> str | None:
    given = fields.get("run")
    return None if given is None else text(given, "run", most=36)


def _priority(ask: Ask, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -100 <= value <= 100:
        raise Problem(400, f"priority: expected a number from -100 to 100, got {str(value)[:50]!r}")
    if value > 0 and not functions.is_operator(ask):
        raise Problem(
            403,
            "priority: above 0 is for the platform's own user (or the root key), who may let calls pass others",
        )
    return value


def _files(ask: Ask, container: int, fields: dict[str, Any]) -> dict[int, str]:
    """The chosen files' paths by id, in the given order."""
    found: dict[int, str] = {}
    size = 0
    for row in _chosen(ask, container, fields):
        size += len(row["path"]) if row["id"] not in found else 0
        found[row["id"]] = "/" + row["path"]
        if len(found) > MAX_FILES:
            raise Problem(413, f"a call takes {MAX_FILES} files at most; make several")
        if size > MAX_PATHS:
            raise Problem(413, f"the paths of a call have {MAX_PATHS} characters at most; make several")
    return found


def _chosen(ask: Ask, container: int, fields: dict[str, Any]) -> Iterator[sqlite3.Row]:
    for row in [*_by_ids(ask, container, _list(fields, "file_ids")), *_by_paths(ask, container, fields)]:
        if row["type"] == "FOLDER":
            yield from _below(ask, container, row["path"])
        else:
            yield row


def _list(fields: dict[str, Any], name: str) -> list[Any]:
    given = fields.get(name) or []
    if not isinstance(given, list):
        raise Problem(400, f"{name}: expected a list")
    return given


def _by_ids(ask: Ask, container: int, given: list[Any]) -> Iterator[sqlite3.Row]:
    """In one question: they may be 100,000."""
    ids = [number(each, name="file_ids") for each in given]
    rows = ask.db.all(
        "SELECT id, container_id, path, type FROM file WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(ids),),
    )
    known = {row["id"]: row for row in rows}
    for each in ids:
        row = known.get(each) or ask.file(each)
        if row["container_id"] != container:
            # One of a container that is not the user's is refused in other words.
            raise Problem(400, f"file_ids: file {ask.file(each)['id']} is not in container {container}")
        yield row


def _by_paths(ask: Ask, container: int, fields: dict[str, Any]) -> Iterator[sqlite3.Row]:
    for each in _list(fields, "paths"):
        path = text(each, "paths").strip("/")
        if not path:
            yield from _below(ask, container, "")
            continue
        row = files.find(ask.db, container, path)
        if row is None or row["deleted"]:
            raise Problem(404, f"container {container} has no file or folder {path}")
        yield row


def _below(ask: Ask, container: int, path: str) -> list[sqlite3.Row]:
    low, high = files.below(path) if path else ("", "\U0010ffff")
    return ask.db.all(
        "SELECT id, path, type FROM file WHERE container_id = ? AND path >= ? AND path < ? AND type = 'FILE'"
        " AND NOT deleted AND path NOT GLOB 'provenance/*' ORDER BY path LIMIT ?",
        (container, low, high, MAX_FILES + 1),
    )


def call_list(ask: Ask) -> Page:
    """By `status`, `function` and `container_id`; the newest first with `order=newest`."""
    limit = ask.limit()
    newest = ask.query.get("order") == "newest"
    conditions, values = ["c.id > ?"], [ask.after_id()]
    if newest:
        conditions = ["c.id < ?"]
        values = [ask.after_id() or 2**62]
    bound: list[Any] = list(values)
    if not ask.user.root:
        conditions.append("c.container_id IN (SELECT container_id FROM access WHERE user_id = ?)")
        bound.append(ask.user.id)
    if "status" in ask.query:
        if ask.query["status"] not in queue.STATUSES:
            raise Problem(
                400, f"status: expected one of {', '.join(queue.STATUSES)}, got {ask.query['status'][:50]!r}"
            )
        conditions.append("c.status = ?")
        bound.append(ask.query["status"])
    if "function" in ask.query:
        conditions.append("c.function_id = ?")
        bound.append(functions.by_key(ask.db, ask.query["function"])["id"])
    if "container_id" in ask.query:
        conditions.append("c.container_id = ?")
        bound.append(ask.container(number(ask.query["container_id"], name="container_id"))["id"])
    rows = ask.db.all(
        f"{SELECT} WHERE {' AND '.join(conditions)} ORDER BY c.id {'DESC' if newest else 'ASC'} LIMIT ?",
        [*bound, limit + 1],
    )
    return page(rows, limit, lambda row: row["id"], shape)


def call_get(ask: Ask) -> dict[str, Any]:
    """With the ids of its files, its parameters and its version's sha256, which a list leaves out."""
    row = find(ask)
    version = ask.db.one(
        "SELECT sha256 FROM function_version WHERE function_id = ? AND number = ?",
        (row["function_id"], row["ran"] if row["ran"] is not None else row["version"]),
    )
    return {
        **shape(row),
        "sha256": None if version is None else version["sha256"],
        "file_ids": json.loads(row["files"])["ids"],
        "params": json.loads(row["params"]),
    }


async def call_look(ask: Ask) -> list[dict[str, Any]]:
    """
    Many calls at once, by `ids`: each with its version's sha256 and its `job`, as far as who asked for it needs it. `ended`: only
    those that have ended; `wait`: up to so many seconds until one of them has, or until another question says `hurry` with the
    name that this one has as its `question`. What is unknown, or in a container that is not
    the user's, is left out.
    """
    fields = ask.fields()
    ids = [number(each, name="ids") for each in _list(fields, "ids")]
    if len(ids) > MAX_FILES:
        raise Problem(413, f"ids: expected at most {MAX_FILES}, got {len(ids)}")
    bell, question = ask.db.bell, _question(ask, "question")
    hurried = _question(ask, "hurry")
    if hurried is not None:
        bell.hurry(hurried)
    deadline = time.monotonic() + seconds(fields, "wait", 0, LONGEST_WAIT)
    while (left := deadline - time.monotonic()) > 0 and not _any_ended(ask, ids):
        if bell.is_hurried(question) or await ask.request.is_disconnected():
            break
        await bell.wait_for_end(ids, min(left, 5.0), question)
    rows = ask.db.all(
        f"{_LOOK} WHERE ? OR c.status NOT IN ('queued', 'running')",
        (json.dumps(ids), not fields.get("ended")),
    )
    return [_looked_at(ask, row) for row in rows if ask.may(row["container_id"])]


def _question(ask: Ask, name: str) -> str | None:
    """A name of a question, among those of the user."""
    given = ask.fields().get(name)
    return None if given is None else f"{ask.user.id}/{text(given, name, most=64)}"


_LOOK = (
    "SELECT c.*, f.key, v.sha256, j.status AS job_status, j.progress, j.result, j.date_start, j.date_end AS job_end"
    " FROM json_each(?) asked CROSS JOIN call c ON c.id = asked.value JOIN function f ON f.id = c.function_id"
    " JOIN job j ON j.id = c.job_id LEFT JOIN function_version v"
    " ON v.function_id = c.function_id AND v.number = coalesce(c.ran, c.version)"
)


def _any_ended(ask: Ask, ids: list[int]) -> bool:
    found = ask.db.one(
        "SELECT 1 FROM json_each(?) asked CROSS JOIN call c ON c.id = asked.value"
        " WHERE c.status NOT IN ('queued', 'running') LIMIT 1",
        (json.dumps(ids),),
    )
    return found is not None


def _looked_at(ask: Ask, row: sqlite3.Row) -> dict[str, Any]:
    result = json.loads(row["result"]) if row["result"] else None
    place = None
    if row["status"] in queue.ENDED and not (isinstance(result, dict) and result.get("evidence")):
        # Of a job that was ended before its run had: the run says it in a message, when it has come so far.
        said = ask.db.one(
            "SELECT message FROM message WHERE job_id = ? AND message LIKE 'evidence: %' ORDER BY id LIMIT 1",
            (row["job_id"],),
        )
        place = said["message"].removeprefix("evidence: ") if said is not None else None
    return {
        **shape(row),
        "sha256": row["sha256"],
        "job": {
            "status": row["job_status"],
            "progress": row["progress"],
            "result": result,
            "evidence": place,
            "date_start": row["date_start"],
            "date_end": row["job_end"],
        },
    }


def seconds(fields: dict[str, Any], name: str, default: float, most: float) -> float:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise Problem(400, f"{name}: expected seconds from 0 to {most:g}, got {str(value)[:50]!r}")
    return float(value)


def call_update(ask: Ask) -> dict[str, Any]:
    """
    `priority`; or `status: "cancelled"`: one that waits never runs, one that runs is told within seconds; or `adopt`, with the id
    of a run of the job that asks: the call is that job's from now on, as the one that had asked for it was interrupted.
    """
    call, fields = find(ask), ask.fields()
    if "adopt" in fields:
        if ask.job is None:
            raise Problem(400, "adopt: expected to be asked by a job")
        if not queue.adopt(ask.db, call, ask.job, text(fields["adopt"], "adopt", most=36)):
            raise Problem(409, f"call {call['id']} has ended, or the job that asked for it has not")
    if "priority" in fields:
        ask.db.execute(
            "UPDATE call SET priority = ? WHERE id = ?", (_priority(ask, fields["priority"]), call["id"])
        )
    if "status" in fields:
        if fields["status"] != "cancelled":
            raise Problem(400, f"status: expected cancelled, got {str(fields['status'])[:50]!r}")
        if call["status"] in queue.ENDED and call["status"] != "cancelled":
            raise Problem(409, f"call {call['id']} has ended as {call['status']}")
        if call["status"] not in queue.ENDED:
            queue.end_job(
                ask.db, call["job_id"], "CANCELLED", "cancelled", "the call was cancelled", time.time()
            )
    return by_id(ask, call["id"])


def call_requeue(ask: Ask) -> dict[str, Any]:
    """Once more, with a new job and all its attempts: one that is dead, failed or cancelled."""
    functions.need_operator(ask)
    call = find(ask)
    if call["status"] not in ("dead", "failed", "cancelled"):
        raise Problem(
            409,
            f"call {call['id']} is {call['status']}; only one that is dead, failed or cancelled is queued again",
        )
    queue.requeue(ask.db, call, time.time())
    return by_id(ask, call["id"])


# The queue as a whole ------------------------------------------------------------------------------------------------


def queue_get(ask: Ask) -> dict[str, Any]:
    """
    How many calls are in each state, how many events wait to become calls, whether the queue is paused, what is kept of
    ended calls, and what does not work.
    """
    counts = dict(ask.db.all("SELECT status, sum(calls) FROM tally GROUP BY status"))
    oldest = ask.db.one("SELECT date_create FROM call WHERE status = 'queued' ORDER BY id LIMIT 1")
    days, most = pruning.kept(ask.db)
    return {
        **{status: counts.get(status, 0) for status in (*queue.STATUSES, "pruned")},
        "events": ask.db.one("SELECT coalesce(sum(waiting), 0) FROM batch")[0],
        "oldest_queued": oldest["date_create"] if oldest else None,
        "paused": bool(ask.db.fact(queue.PAUSED)),
        pruning.DAYS_FACT: days,
        pruning.CALLS_FACT: most,
        "trouble": list(ask.platform.trouble.values()),
    }


def queue_update(ask: Ask) -> dict[str, Any]:
    """
    `paused`: no further call is started; what runs ends, what comes waits. `keep_days` and `keep_calls`: for how long, and
    how many, ended calls are kept.
    """
    functions.need_operator(ask)
    fields = ask.fields()
    paused, bounds = fields.get("paused"), {pruning.DAYS_FACT: 36_500, pruning.CALLS_FACT: 10_000_000}
    if "paused" in fields or not fields.keys() & bounds.keys():
        if not isinstance(paused, bool):
            raise Problem(400, f"paused: expected true or false, got {str(paused)[:50]!r}")
        ask.db.set_fact(queue.PAUSED, "1" if paused else "")
    for name, most in bounds.items():
        if name in fields:
            value = fields[name]
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise Problem(400, f"{name}: expected a number from 1 to {most}, got {str(value)[:50]!r}")
            ask.db.set_fact(name, str(value))
    return queue_get(ask)


# Shown --------------------------------------------------------------------------------------------------------------


def find(ask: Ask) -> sqlite3.Row:
    row: sqlite3.Row | None = ask.db.one(f"{SELECT} WHERE c.id = ?", (ask.id("call"),))
    if row is None:
        raise Problem(404, f"there is no call {ask.path['call']}")
    if not ask.may(row["container_id"]):
        raise Problem(403, f"call {row['id']} belongs to a container that is not yours to work in")
    return row


def by_id(ask: Ask, call: int) -> dict[str, Any]:
    return shape(ask.db.one(f"{SELECT} WHERE c.id = ?", (call,)))


def shape(row: sqlite3.Row) -> dict[str, Any]:
    chosen = json.loads(row["files"])
    return {
        "id": str(row["id"]),
        "function": row["key"],
        "status": row["status"],
        "job_id": str(row["job_id"]),
        "container_id": str(row["container_id"]),
        "user_id": str(row["user_id"]),
        "trigger": json.loads(row["trigger"]),
        "files": len(chosen["ids"]),
        "version": row["ran"] if row["ran"] is not None else row["version"],
        "attempts": row["attempts"],
        "worker": row["lease_owner"],
        "priority": row["priority"],
        "not_before": row["not_before"],
        "cause_job_id": None if row["cause_job"] is None else str(row["cause_job"]),
        "root_job_id": None if row["root_job"] is None else str(row["root_job"]),
        "timeout": row["timeout"],
        "attempts_most": row["attempts_most"],
        "parent_job_id": None if row["parent_job"] is None else str(row["parent_job"]),
        "error": row["error"],
        "date_create": row["date_create"],
        "date_end": row["date_end"],
    }
