"""
Idempotency: what was answered to a write that carried an `Idempotency-Key`.

Kept with the write in one transaction, per user and call, for `KEPT_DAYS`; a repeat gets the first answer and
writes nothing. Items of bulk calls may carry a key of their own, `idempotency_key`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

from libsafe_nb.local.ask import Ask, Problem, text
from libsafe_nb.local.database import Database, now

KEPT_DAYS = 8
MAX_KEY = 255


def earlier(db: Database, user: int, call: str, key: str) -> tuple[int, bytes] | None:
    """Status and body of the first answer, if there was one."""
    row = db.one(
        "SELECT status, body FROM answer WHERE user_id = ? AND call = ? AND key = ?", (user, call, key)
    )
    return None if row is None else (row["status"], row["body"])


def keep(db: Database, user: int, call: str, key: str, status: int, body: bytes) -> None:
    db.execute(
        "INSERT OR IGNORE INTO answer VALUES (?, ?, ?, ?, ?, ?)", (user, call, key, status, body, now())
    )


def forget_old(db: Database) -> int:
    """Some of the answers that are too old; how many they were."""
    limit = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=KEPT_DAYS)
    with db.transaction():
        return db.execute(
            "DELETE FROM answer WHERE rowid IN (SELECT rowid FROM answer WHERE date_create < ? LIMIT 500)",
            (limit.strftime("%Y-%m-%d %H:%M:%S.%f"),),
        ).rowcount


def header_key(value: str | None) -> str | None:
    """The request's key; None when it has none."""
    if value is None or not value.strip():
        return None
    if len(value) > MAX_KEY:
        raise Problem(400, f"Idempotency-Key: expected at most {MAX_KEY} characters, got {len(value)}")
    return value.strip()


def first_time(ask: Ask, item: Any, call: str, write: Callable[[Any], Any]) -> Any:
    """
    Write one item of a bulk call, or answer as when its `idempotency_key` was first seen.

    `call` is the single call that does the same (`POST /api/job/5/message`): one key acts once in either.
    """
    key = item.get("idempotency_key") if isinstance(item, dict) else None
    if key is None:
        return write(item)
    key = text(key, "idempotency_key", most=MAX_KEY)
    before = earlier(ask.db, ask.user.id, call, key)
    if before is not None:
        return json.loads(before[1])["result"]
    result = write(item)
    envelope = {"success": True, "result": result}
    # Half characters can be written in escapes only.
    keep(ask.db, ask.user.id, call, key, 200, json.dumps(envelope).encode())
    return result
