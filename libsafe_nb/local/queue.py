"""
The queue's rows: calls that are made, given to workers, settled, tried again or given up.

    queued ─ claim ─▶ running ─┬─▶ completed · failed · cancelled      as its job ended
       ▲                       └─▶ errored ─┬─▶ queued, later, with a new job
       └──── requeue ──── dead ◀────────────┘   dead after the function's number of attempts

A call has a job from the beginning, made in one transaction with it, and a new one for each further attempt, since a job
that has ended stays ended. How a call ends is read off the job's end, in the transaction that ends it: who ends the job
(the worker, a recovery, a user who cancels) need not know of calls. A run that was not executed says so in the job's
result, and that alone is tried again; a function that failed has its answer.

A call may make calls of its own and wait for them; it then holds its process, and must not hold up what it waits for.
So of the calls that run only these count against a limit when one of some depth is to start: those that wait for none of
their own, and those of that depth or deeper. Whoever waits then waits for something deeper, and the deepest can always
start. At each depth no more run than the limit says, so there are at most (limit x depths) processes in all.

Of a workflow whose job says `hosts: own` the calls, and what these call, are a pool of their own: only workers that name its
job are given them, and each of its hosts has a limit of its own, counted in the same way. Other calls are the platform's.

Times are seconds since 1970, and given: nothing here looks at a clock.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from libsafe_nb.local.database import Database, now

WAITING, RUNNING = "queued", "running"
ENDED = ("completed", "failed", "cancelled", "dead")
STATUSES = (WAITING, RUNNING, *ENDED)
LONGEST_BACKOFF = 3600.0
PAUSED = "queue_paused"
"""The fact that says that the whole queue is paused."""
SLOTS = "queue_slots"
"""The fact that says how many calls run at once, those left out that wait for calls of their own."""

ERRORED = "errored"
JOB_ENDS = {"COMPLETED": "completed", "CANCELLED": "cancelled"}


@dataclass(frozen=True)
class Order:
    """
    A call to be made.

    Attributes
    ----------
    trigger
        As the payload tells it: `id`, `type`, `regex`.
    ancestors
        The functions whose jobs led to it, each once, the oldest first.
    parent_job, parent_run
        Whose function asked for it.
    root_job
        The job of the topmost caller.
    timeout, attempts_most
        Seconds of one execution, and how often it is tried; None: as the function says.
    """

    function: int
    container: int
    user: int
    trigger: dict[str, str]
    trigger_id: int | None = None
    file_ids: Sequence[int] = ()
    file_paths: Sequence[str] = ()
    params: dict[str, Any] = field(default_factory=dict)
    version: int | None = None
    priority: int = 0
    ancestors: str = "[]"
    depth: int = 0
    cause_job: int | None = None
    parent_job: int | None = None
    parent_run: str | None = None
    root_job: int | None = None
    timeout: float | None = None
    attempts_most: int | None = None


@dataclass(frozen=True)
class Claimer:
    """
    Who asks for a call.

    Attributes
    ----------
    owner
        The worker's name, by which it holds a lease.
    root
        The job whose workflow it works for; 0: it is one of the platform's.
    host
        Of the workers of a workflow: what the names of those of one host begin with.
    slots
        How many calls run at once on that host, those left out that wait for calls of their own.
    """

    owner: str
    root: int = 0
    host: str = ""
    slots: int = 0


def make(db: Database, order: Order) -> int:
    """A call with its job, QUEUED; within the caller's transaction."""
    call = db.insert(
        "call",
        function_id=order.function,
        trigger_id=order.trigger_id,
        trigger=json.dumps(order.trigger),
        container_id=order.container,
        user_id=order.user,
        files=json.dumps({"ids": [str(each) for each in order.file_ids], "paths": list(order.file_paths)}),
        params=json.dumps(order.params, ensure_ascii=False),
        version=order.version,
        status=WAITING,
        job_id=_job(db, order.function, order.container, order.user, order.parent_job),
        priority=order.priority,
        ancestors=order.ancestors,
        depth=order.depth,
        cause_job=order.cause_job,
        parent_job=order.parent_job,
        parent_run=order.parent_run,
        root_job=order.root_job,
        pool=pool_of(db, order.root_job),
        timeout=order.timeout,
        attempts_most=order.attempts_most,
        date_create=now(),
    )
    _link(db, call, order.file_ids)
    db.bell.work()
    return call


def root_of(db: Database, job: int | None) -> int | None:
    """The job of the topmost caller of what this job calls."""
    row = None if job is None else db.one("SELECT call_id FROM job WHERE id = ?", (job,))
    call = None if row is None or row["call_id"] is None else find(db, row["call_id"])
    return job if call is None or call["root_job"] is None else int(call["root_job"])


def pool_of(db: Database, root: int | None) -> int:
    """Whose workers run what is called below a job: its own, or the platform's (0), which go on with what it leaves."""
    own = "SELECT 1 FROM job WHERE id = ? AND hosts = 'own' AND status IN ('QUEUED', 'RUNNING')"
    return 0 if root is None or db.one(own, (root,)) is None else root


def rehost(db: Database, root: int) -> None:
    """Have the open calls of a workflow run where its job now says."""
    db.execute(
        "UPDATE call SET pool = ? WHERE root_job = ? AND status IN ('queued', 'running')",
        (pool_of(db, root), root),
    )
    db.bell.work()


def reroot(db: Database, call: sqlite3.Row, job: int) -> None:
    """Have a call that another job took over, and the open ones below it, be of that job's workflow."""
    root = root_of(db, job)
    ids = [call["id"], *(each["id"] for each in _open_below(db, call["job_id"], call["id"]))]
    db.execute(
        "UPDATE call SET root_job = ?, pool = ? WHERE id IN (SELECT value FROM json_each(?))",
        (root, pool_of(db, root), json.dumps(ids)),
    )
    db.bell.work()


def _job(db: Database, function: int, container: int, user: int, parent: int | None) -> int:
    about = db.one(
        "SELECT f.key, v.title FROM function f JOIN function_version v"
        " ON v.function_id = f.id AND v.number = f.version WHERE f.id = ?",
        (function,),
    )
    return db.insert(
        "job",
        container_id=container,
        user_id=user,
        function_id=str(function),
        function_key=about["key"],
        name=about["title"],
        parent_id=parent,
        status="QUEUED",
        date_create=now(),
    )


def _link(db: Database, call: int, file_ids: Sequence[int]) -> None:
    job = db.one("SELECT job_id FROM call WHERE id = ?", (call,))[0]
    db.execute("UPDATE job SET call_id = ? WHERE id = ?", (call, job))
    # One statement: a call may have 100,000 of them.
    db.execute(
        "INSERT OR IGNORE INTO job_file SELECT ?, value FROM json_each(?)", (job, json.dumps(list(file_ids)))
    )


def waiting(db: Database, function: int, user: int, most: int) -> int:
    """How many calls of a function wait that this user made, or that events made in the user's name; counted up to `most`."""
    count: int = db.one(
        "SELECT count(*) FROM (SELECT 1 FROM call WHERE status = 'queued' AND function_id = ? AND user_id = ? LIMIT ?)",
        (function, user, most),
    )[0]
    return count


def find(db: Database, call: int) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.one("SELECT * FROM call WHERE id = ?", (call,))
    return row


# Giving out ----------------------------------------------------------------------------------------------------------


def claim(db: Database, by: Claimer, lease: float, at: float) -> sqlite3.Row | None:
    """
    A call for this worker, leased until `at + lease`: its own if it holds one (the answer was lost), one whose lease
    has ended, or the next that waits and may run.
    """
    owner = by.owner
    held = db.one("SELECT * FROM call WHERE status = ? AND lease_owner = ?", (RUNNING, owner))
    if held is not None:
        return _leased(db, held, owner, lease, at)
    left = _left(db, by, at)
    if left is not None:
        return _taken_up(db, left, owner, lease, at)
    row = _next(db, by, at)
    if row is None:
        return None
    version = row["version"]
    if version is None:
        version = db.one("SELECT version FROM function WHERE id = ?", (row["function_id"],))[0]
    db.execute(
        "UPDATE call SET status = ?, attempts = attempts + 1, ran = ?, error = NULL WHERE id = ?",
        (RUNNING, version, row["id"]),
    )
    return _leased(db, row, owner, lease, at)


def _left(db: Database, by: Claimer, at: float) -> sqlite3.Row | None:
    """A call whose lease has ended."""
    row: sqlite3.Row | None = db.one(
        "SELECT * FROM call WHERE status = ? AND pool = ? AND lease_until <= ? ORDER BY id LIMIT 1",
        (RUNNING, by.root, at),
    )
    return row


def _taken_up(db: Database, row: sqlite3.Row, owner: str, lease: float, at: float) -> sqlite3.Row | None:
    """A call whose worker died. One that has not even begun its run counts as an attempt: it may be what kills them."""
    begun = _job_status(db, row) != "QUEUED"
    if not begun:
        if row["attempts"] >= _attempts(row, _function(db, row)):
            end_job(db, row["job_id"], "FAILED", ERRORED, "the worker died before the run began", at)
            return None
        db.execute("UPDATE call SET attempts = attempts + 1 WHERE id = ?", (row["id"],))
    return _leased(db, row, owner, lease, at)


def _leased(db: Database, row: sqlite3.Row, owner: str, lease: float, at: float) -> sqlite3.Row | None:
    db.execute(
        "UPDATE call SET lease_owner = ?, lease_until = ? WHERE id = ?", (owner, at + lease, row["id"])
    )
    return find(db, row["id"])


def _next(db: Database, by: Claimer, at: float) -> sqlite3.Row | None:
    """
    Of all functions that may run another one: the call of the highest priority, then one that another call asked for,
    then the oldest.
    """
    # What runs is to come to its end, and so is what it waits for.
    paused = bool(db.fact(PAUSED))
    running = db.all(
        "SELECT function_id, container_id, depth, lease_owner, pool, EXISTS (SELECT 1 FROM call o WHERE o.parent_job = c.job_id"
        " AND o.status IN ('queued', 'running')) AS waits FROM call c WHERE status = ?",
        (RUNNING,),
    )
    slots = by.slots if by.root else int(db.fact(SLOTS) or 0)
    best: sqlite3.Row | None = None
    for function in db.all(
        "SELECT * FROM function f WHERE enabled AND NOT paused"
        " AND EXISTS (SELECT 1 FROM call WHERE status = ? AND function_id = f.id AND pool = ?)",
        (WAITING, by.root),
    ):
        for depth in _depths(db, function["id"], by.root):
            counted = [each for each in running if not each["waits"] or each["depth"] >= depth]
            if slots and sum(_takes_a_place(each, by) for each in counted) >= slots:
                continue
            found = _first(db, function, depth, counted, at, paused, by.root)
            if found is not None and (best is None or _rank(found) < _rank(best)):
                best = found
    return best


def _takes_a_place(running: sqlite3.Row, by: Claimer) -> bool:
    """Whether a call runs where this one would: one that no worker holds, as its evidence waits to be stored, does not."""
    owner = running["lease_owner"]
    return owner is not None and running["pool"] == by.root and owner.startswith(by.host)


def _depths(db: Database, function: int, pool: int) -> Iterator[int]:
    """At which depths calls of a function wait; each is found by the index, however many calls there are."""
    depth = -1
    while True:
        depth = db.one(
            "SELECT min(depth) FROM call WHERE status = ? AND function_id = ? AND pool = ? AND depth > ?",
            (WAITING, function, pool, depth),
        )[0]
        if depth is None:
            return
        yield depth


def _first(
    db: Database,
    function: sqlite3.Row,
    depth: int,
    counted: Sequence[sqlite3.Row],
    at: float,
    paused: bool,
    pool: int,
) -> sqlite3.Row | None:
    """The function's next call of a depth, if those that run leave room for one; of a paused queue, one that a job waits for."""
    same = sum(each["function_id"] == function["id"] for each in counted)
    if function["concurrency"] is not None and same >= function["concurrency"]:
        return None
    # Who brings workers for one workflow has said how many run at once.
    busy = Counter(each["container_id"] for each in counted) if not pool else {}
    full = [each for each, count in busy.items() if count >= function["container_concurrency"]]
    if not _any_may(db, function["id"], pool, full, at):
        return None
    marks = ", ".join("?" * len(full))
    asked = (
        "INDEXED BY call_asked WHERE parent_job IS NOT NULL"
        " AND EXISTS (SELECT 1 FROM job WHERE job.id = parent_job AND job.status = 'RUNNING') AND"
    )
    found: sqlite3.Row | None = db.one(
        f"SELECT * FROM call {asked if paused else 'INDEXED BY call_queue WHERE'} status = 'queued'"  # noqa: S608 - marks only
        f" AND function_id = ? AND pool = ? AND depth = ? AND not_before <= ? AND container_id NOT IN ({marks})"
        " ORDER BY priority DESC, id LIMIT 1",
        (function["id"], pool, depth, at, *full),
    )
    return found


def _any_may(db: Database, function: int, pool: int, full: Sequence[int], at: float) -> bool:
    """
    Whether it is worth looking: not where all calls of a function are for later, or all in containers that are full.
    Each question is answered from an index, however many calls wait.
    """
    due = db.one(
        "SELECT 1 FROM call WHERE status = 'queued' AND function_id = ? AND pool = ? AND not_before <= ? LIMIT 1",
        (function, pool, at),
    )
    container = -1
    while due is not None and full:
        row = db.one(
            "SELECT container_id FROM call WHERE status = 'queued' AND function_id = ? AND pool = ? AND container_id > ?"
            " ORDER BY container_id LIMIT 1",
            (function, pool, container),
        )
        if row is None:
            return False
        container = row["container_id"]
        if container not in full:
            break
    return due is not None


def _rank(row: sqlite3.Row) -> tuple[int, bool, int]:
    return -row["priority"], row["parent_job"] is None, row["id"]


def holding(db: Database, root: int = 0, host: str = "") -> int:
    """How many calls run that wait for calls of their own: each holds a process, of the platform's or of a workflow's host."""
    count: int = db.one(
        "SELECT count(*) FROM call c WHERE status = ? AND pool = ? AND substr(coalesce(lease_owner, ''), 1, ?) = ? AND EXISTS"
        " (SELECT 1 FROM call o WHERE o.parent_job = c.job_id AND o.status IN ('queued', 'running'))",
        (RUNNING, root, len(host), host),
    )[0]
    return count


def work_waits(db: Database, by: Claimer, at: float) -> bool:
    """Whether a claim would be answered with a call."""
    return _left(db, by, at) is not None or _next(db, by, at) is not None


def renew(
    db: Database, call: sqlite3.Row, owner: str, lease: float, at: float, job: int | None = None
) -> bool:
    """
    Whether the worker is to go on with the call's `job`; False when the call was cancelled, or is another's by now.

    A worker that was stopped for longer than its lease, or whose clock was set forward, has lost it. Whoever was given the
    call meanwhile found its job running, and let go of it: then the worker has it back, and not a second run.
    """
    if call["status"] != RUNNING:
        return False
    if call["lease_owner"] != owner:
        begun = job == call["job_id"] and _job_status(db, call) == "RUNNING"
        if begun and call["lease_owner"] is None:
            _leased(db, call, owner, lease, at)
        return begun
    # A lease is only written anew when half of it is over: most renewals write nothing.
    if call["lease_until"] - at < lease / 2:
        db.execute("UPDATE call SET lease_until = ? WHERE id = ?", (at + lease, call["id"]))
    return True


def adopt(db: Database, call: sqlite3.Row, job: int, run: str) -> bool:
    """
    Have an open call belong to another job than the one that asked for it and has ended: whoever waits for it then is known to
    wait, and cancelling that job reaches it. Whether that could be done.
    """
    if call["parent_job"] == job:
        return True
    before = db.one("SELECT status FROM job WHERE id = ?", (call["parent_job"],))
    if call["status"] in ENDED or before is None or before["status"] in ("QUEUED", "RUNNING"):
        return False
    db.execute("UPDATE call SET parent_job = ?, parent_run = ? WHERE id = ?", (job, run, call["id"]))
    reroot(db, call, job)
    return True


def let_go(db: Database, call: sqlite3.Row, at: float) -> None:
    """The worker is done with a run whose job is still open, as its evidence waits: taken up again at this time."""
    db.execute("UPDATE call SET lease_owner = NULL, lease_until = ? WHERE id = ?", (at, call["id"]))
    db.bell.work()


def worker_died(db: Database, name: str, root: int = 0) -> None:
    """What workers held whose names begin so, of the platform or of a workflow, is free at once: they are known to be dead."""
    db.execute(
        "UPDATE call SET lease_owner = NULL, lease_until = 0"
        " WHERE status = ? AND pool = ? AND substr(lease_owner, 1, ?) = ?",
        (RUNNING, root, len(name), name),
    )
    db.bell.work()


def abandon_leases(db: Database) -> None:
    """
    At the platform's start: the workers of the one before died with it, which was no fault of their calls. Those of a
    workflow's own hosts may live.
    """
    db.execute(
        "UPDATE call SET lease_owner = NULL, lease_until = 0, attempts = max(0, attempts - 1)"
        " WHERE status = ? AND pool = 0",
        (RUNNING,),
    )


# Settling ------------------------------------------------------------------------------------------------------------


def job_ended(db: Database, job: int, at: float) -> None:
    """
    Settle the call whose job has just ended; nothing for a job that is no call's, or no more.

    Of a job that was cancelled all that it asked for is cancelled too, and what that asked for.
    """
    row = db.one("SELECT call_id, status, result FROM job WHERE id = ?", (job,))
    if row["status"] == "CANCELLED":
        for each in _open_below(db, job, row["call_id"]):
            end_job(
                db, each["job_id"], "CANCELLED", "cancelled", f"job {job}, which led to it, was cancelled", at
            )
    if db.one("SELECT 1 FROM call WHERE root_job = ? AND status IN ('queued', 'running') LIMIT 1", (job,)):
        # Its workers end with it; what it leaves goes on.
        rehost(db, job)
    call = find(db, row["call_id"]) if row["call_id"] is not None else None
    if call is None or call["job_id"] != job or call["status"] in ENDED:
        return
    result = json.loads(row["result"]) if row["result"] else {}
    result = result if isinstance(result, dict) else {}
    status, error = JOB_ENDS.get(row["status"], "failed"), _sentence(result)
    if status == "failed" and result.get("status") == ERRORED:
        _errored(db, call, error, at)
        return
    _end(db, call, status, error if status != "completed" else None)


def _open_below(db: Database, job: int, call: int | None) -> list[sqlite3.Row]:
    """Calls that wait or run and were asked for by a job, by other attempts of its call, or by what these asked for."""
    return db.all(
        "WITH RECURSIVE below(id) AS (SELECT id FROM call WHERE parent_job = ?"
        " UNION SELECT c.id FROM call c JOIN job j ON j.id = c.parent_job WHERE j.call_id = ?"
        " UNION SELECT c.id FROM below b JOIN job j ON j.call_id = b.id JOIN call c ON c.parent_job = j.id)"
        " SELECT call.* FROM below CROSS JOIN call ON call.id = below.id WHERE call.status IN ('queued', 'running') ORDER BY call.id",
        (job, call),
    )


def _sentence(result: dict[str, Any]) -> str | None:
    error = result.get("error")
    if not isinstance(error, dict):
        return None
    return f"{error.get('type')}: {error.get('message')}"[:2000]


def _errored(db: Database, call: sqlite3.Row, error: str | None, at: float) -> None:
    function = _function(db, call)
    # A disabled function's calls wait; one that another call waits for must not.
    if call["attempts"] >= _attempts(call, function) or (
        call["parent_job"] is not None and not function["enabled"]
    ):
        _end(db, call, "dead", error)
        return
    # An attempt that the platform itself broke off is not counted, and need not wait.
    wait = function["backoff"] * 2 ** (call["attempts"] - 1) if call["attempts"] else 0.0
    again(db, call, at + min(wait, LONGEST_BACKOFF), error)


def again(db: Database, call: sqlite3.Row, not_before: float, error: str | None = None) -> None:
    """Back into the queue, with a new job."""
    db.execute(
        "UPDATE call SET status = ?, job_id = ?, not_before = ?, lease_owner = NULL, lease_until = NULL, error = ?,"
        " date_end = NULL WHERE id = ?",
        (
            WAITING,
            _job(db, call["function_id"], call["container_id"], call["user_id"], call["job_id"]),
            not_before,
            error,
            call["id"],
        ),
    )
    _link(db, call["id"], [int(each) for each in json.loads(call["files"])["ids"]])
    db.bell.work()


def requeue(db: Database, call: sqlite3.Row, at: float) -> None:
    """A call that has ended, once more, with all its attempts."""
    again(db, call, at)
    # The run whose workers were to run it may have ended.
    db.execute(
        "UPDATE call SET attempts = 0, pool = ? WHERE id = ?", (pool_of(db, call["root_job"]), call["id"])
    )


def _end(db: Database, call: sqlite3.Row, status: str, error: str | None) -> None:
    db.execute(
        "UPDATE call SET status = ?, error = ?, lease_owner = NULL, lease_until = NULL, date_end = ? WHERE id = ?",
        (status, error, now(), call["id"]),
    )
    db.bell.ended(call["id"])


def disabled(db: Database, function: sqlite3.Row, at: float) -> None:
    """End the calls of a disabled function that others asked for and may wait for."""
    for row in db.all(
        "SELECT job_id FROM call INDEXED BY call_asked"
        " WHERE status = 'queued' AND parent_job IS NOT NULL AND function_id = ?",
        (function["id"],),
    ):
        message = f"function {function['key']} was disabled while this call of it waited"
        end_job(db, row["job_id"], "FAILED", "failed", message, at)


def end_job(db: Database, job: int, status: str, outcome: str, message: str, at: float) -> None:
    """End a job on its call's behalf, with a message that says why, and settle the call."""
    moment = now()
    result = {"status": outcome, "error": {"type": "Queue", "message": message, "cell_id": None}}
    kind = "INFO" if status == "CANCELLED" else "ERROR"
    db.insert("message", job_id=job, type=kind, message=message, date_create=moment)
    db.execute(
        "UPDATE job SET status = ?, result = ?, date_start = coalesce(date_start, ?), date_end = ?"
        " WHERE id = ? AND status IN ('QUEUED', 'RUNNING')",
        (status, json.dumps(result), moment, moment, job),
    )
    job_ended(db, job, at)


def _job_status(db: Database, call: sqlite3.Row) -> str:
    return str(db.one("SELECT status FROM job WHERE id = ?", (call["job_id"],))[0])


def _attempts(call: sqlite3.Row, function: sqlite3.Row) -> int:
    """How often a call is tried."""
    most = call["attempts_most"]
    return int(function["attempts"] if most is None else most)


def _function(db: Database, call: sqlite3.Row) -> sqlite3.Row:
    row: sqlite3.Row = db.one("SELECT * FROM function WHERE id = ?", (call["function_id"],))
    return row
