"""
Which job wrote an object, if one did: the mark in its metadata, believed if the job's key made it for this very place.

Each job has a key of its own, made of a secret of the platform's that is in memory only, which `GET /job/{job}/key` gives to those who may work in the job's
container. A mark counts for what was stored until shortly after its job's end, by the store's time of the write and not
by that at which it is read: what was stored while the platform was down is judged the same. Anything else is a write of
nobody that is known.
"""

from __future__ import annotations

import hashlib
import hmac

from libsafe_nb import marks
from libsafe_nb.local.database import Database, date_of

AFTER_END = 60.0
"""Seconds after a job's end in which its writes are still its own: a kernel that is cancelled ends a moment later."""


def write_key(db: Database, job: int) -> str:
    """The key that signs the job's marks."""
    return hmac.new(db.secret, f"job {job}".encode(), hashlib.sha256).hexdigest()


def mark(db: Database, job: int, container: int, path: str) -> str:
    return marks.mark(str(job), str(container), path, write_key(db, job))


def job_of(db: Database, said: str | None, container: int, path: str, at: int) -> int | None:
    """The job whose write at this time (the store's, in nanoseconds) it was, as the mark says; None for nobody's."""
    named = marks.job_of(said)
    if said is None or named is None:
        return None
    row = db.one("SELECT id, date_end FROM job WHERE id = ?", (int(named),))
    if row is None or not hmac.compare_digest(said.encode(), mark(db, row["id"], container, path).encode()):
        return None
    if row["date_end"] is not None and date_of(at - int(AFTER_END * 1e9)) > row["date_end"]:
        return None
    return int(row["id"])
