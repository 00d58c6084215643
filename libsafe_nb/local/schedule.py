"""
Clock triggers: when they are due, and firing them once.

Firing moves `next_due` in the transaction that makes the call, so no restart fires twice. Times are UTC.
"""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime

from libsafe_nb.local import queue
from libsafe_nb.local.accounts import DEFAULT_USER, reachable
from libsafe_nb.local.database import Database, now

FIXED = {"minute": "* * * * *", "hour": "0 * * * *", "day": "0 0 * * *"}
SET_BACK = " OR ".join(
    f"(t.type = '{kind}' AND t.next_due > ? + {seconds})"
    for kind, seconds in {"minute": 60, "hour": 3600, "day": 86_400}.items()
)
"""Further ahead than it can be, unless the machine's clock was set back meanwhile."""


def after(kind: str, given: str | None, at: float) -> float:
    """
    The first time after `at` that the schedule names.

    Raises
    ------
    ValueError
        It is no schedule, or names a day that never comes.
    """
    expression = FIXED.get(kind) or given or ""
    if len(expression.split()) != 5:
        # The library would take a sixth as seconds.
        raise ValueError(f"it has {len(expression.split())}")
    # Imported here: a platform without clock triggers starts without it.
    from cronsim import CronSim, CronSimError

    try:
        return next(CronSim(expression, datetime.fromtimestamp(at, UTC))).timestamp()
    except (CronSimError, StopIteration) as exc:
        raise ValueError(str(exc) or "it names no time") from exc


def fire_due(db: Database, at: float) -> int:
    """
    Fire what is due; answers how many calls were made.

    One call for any number of times that were missed, and none while the one before still waits: a function that checks
    something every minute has no use for a hundred checks at once. None either in a container in which the platform's own
    user may not work.
    """
    due = db.all(
        "SELECT t.*, f.enabled AS wanted FROM function_trigger t JOIN function f ON f.id = t.function_id"  # noqa: S608 - constants
        f" WHERE t.enabled AND (t.next_due <= ? OR {SET_BACK})",
        (at, at, at, at),
    )
    made = 0
    for row in due:
        with db.transaction():
            _set_next(db, row, at)
            if row["next_due"] > at:
                continue
            waits = db.one("SELECT 1 FROM call WHERE trigger_id = ? AND status = 'queued'", (row["id"],))
            if row["wanted"] and waits is None and reachable(db, row["container_id"]):
                made += 1
                queue.make(
                    db,
                    queue.Order(
                        row["function_id"],
                        row["container_id"],
                        DEFAULT_USER,
                        {"id": str(row["id"]), "type": row["type"], "regex": ""},
                        trigger_id=row["id"],
                        params=json.loads(row["params"]),
                    ),
                )
    return made


def _set_next(db: Database, row: sqlite3.Row, at: float) -> None:
    """When it is due next. One that never is again is disabled, and says so."""
    try:
        due = after(row["type"], row["schedule"], at)
    except ValueError as exc:
        db.execute(
            "UPDATE function_trigger SET enabled = 0, next_due = NULL, error = ? WHERE id = ?",
            (f"disabled at {now()[:19]}: its schedule names no further time ({exc})", row["id"]),
        )
    else:
        db.execute("UPDATE function_trigger SET next_due = ? WHERE id = ?", (due, row["id"]))
