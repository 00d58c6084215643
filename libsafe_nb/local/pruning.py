"""
What is let go of, so that a platform that runs for years does not grow by what nobody asks for any more.

Calls that ended go when they are old or too many; those that are dead stay until somebody decides. Jobs stay for good, with
their messages and files: they are the history, and evidence refers to them. Each step is short: the platform's loop waits.
"""

from __future__ import annotations

import datetime
import time
from pathlib import Path

from libsafe_nb.local.database import Database

KEEP_DAYS, KEEP_CALLS = 30, 100_000
"""What is kept of ended calls where nothing else is set: for so long, and so many."""
DAYS_FACT, CALLS_FACT = "keep_days", "keep_calls"
YOUNG = 3600.0
"""Seconds for which a call is kept in any case: who waits for its end still asks for it."""
AT_ONCE = 100
_ENDED = "status IN ('completed', 'failed', 'cancelled')"


def kept(db: Database) -> tuple[int, int]:
    """For how many days ended calls are kept, and how many."""
    return int(db.fact(DAYS_FACT) or KEEP_DAYS), int(db.fact(CALLS_FACT) or KEEP_CALLS)


def prune_calls(db: Database, at: float) -> int:
    """
    Remove some of the calls that ended too long ago, or before the last so many; answers how many.

    What was removed is still counted, as `pruned`; the jobs lose the call's id only.
    """
    days, most = kept(db)
    ended = db.one(f"SELECT coalesce(sum(calls), 0) FROM tally WHERE {_ENDED}")[0]  # noqa: S608 - constants
    # Of those beyond the number only what is not young, of the others only what is old.
    too_many = min(AT_ONCE, ended - most)
    before, limit = (_date(at - YOUNG), too_many) if too_many > 0 else (_date(at - days * 86_400), AT_ONCE)
    rows = db.all(
        f"SELECT id FROM call INDEXED BY call_ended WHERE {_ENDED} AND date_end < ? ORDER BY date_end, id LIMIT ?",  # noqa: S608
        (before, limit),
    )
    if rows:
        ids = [(row["id"],) for row in rows]
        with db.transaction():
            db.connection.executemany("UPDATE job SET call_id = NULL WHERE call_id = ?", ids)
            db.connection.executemany("DELETE FROM call WHERE id = ?", ids)
    return len(rows)


def _date(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def prune_bytes(db: Database, folder: Path) -> int:
    """Remove bytes that no version names, as a kill while publishing leaves them; answers how many files."""
    if not folder.exists():
        return 0
    named = {row[0] for row in db.execute("SELECT sha256 FROM function_version")}
    gone = [
        path
        for path in folder.iterdir()
        if path.name not in named and path.stat().st_mtime < time.time() - YOUNG
    ]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)
