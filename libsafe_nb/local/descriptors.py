"""Metadata of containers and files: descriptors, each an IECODE with its list of values."""

from __future__ import annotations

import json
from typing import Any

from libsafe_nb.local.ask import Problem, text
from libsafe_nb.local.database import Database

CONTAINER = "container_metadata"
FILE = "file_metadata"
"""The tables."""

ACTIONS = ("replace", "add", "remove")


def read(db: Database, table: str, owner: int) -> list[dict[str, Any]] | None:
    """`[{"iecode", "value": […]}]` in the IECODEs' order; None when there is none."""
    rows = db.all(
        f"SELECT iecode, value FROM {table} WHERE owner_id = ? ORDER BY iecode",  # noqa: S608 - one of two constants
        (owner,),
    )
    return [{"iecode": row["iecode"], "value": json.loads(row["value"])} for row in rows] or None


def write(db: Database, table: str, owner: int, metadata: Any) -> None:
    """
    Apply `[{"iecode", "value", "action"?}]`.

    `replace` (the default) sets the values, none or null clears them; `add` appends those that are not there yet;
    `remove` takes the given ones away, or all when no value is given. The last two repeat without harm.
    """
    if not isinstance(metadata, list):
        raise Problem(400, "metadata: expected a list of descriptors")
    for at, item in enumerate(metadata):
        _write_one(db, table, owner, item, f"metadata[{at}]")


def _write_one(db: Database, table: str, owner: int, item: Any, place: str) -> None:
    if not isinstance(item, dict):
        raise Problem(400, f"{place}: expected an object with iecode and value")
    iecode = text(item.get("iecode"), f"{place}.iecode", most=255)
    action = item.get("action") or "replace"
    if action not in ACTIONS:
        raise Problem(400, f"{place}.action: expected one of {', '.join(ACTIONS)}, got {str(action)[:50]!r}")
    if "value" not in item and action != "remove":
        raise Problem(400, f"{place}.value: is missing")
    value = item.get("value")
    values = value if isinstance(value, list) else [] if value is None else [value]
    row = db.one(
        f"SELECT value FROM {table} WHERE owner_id = ? AND iecode = ?",  # noqa: S608 - one of two constants
        (owner, iecode),
    )
    before = json.loads(row["value"]) if row else []
    if action == "add":
        values = before + [each for each in values if each not in before]
    elif action == "remove":
        values = [each for each in before if each not in values] if values else []
    if values:
        db.execute(
            f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)",  # noqa: S608 - one of two constants
            (owner, iecode, json.dumps(values, ensure_ascii=False)),
        )
    else:
        db.execute(f"DELETE FROM {table} WHERE owner_id = ? AND iecode = ?", (owner, iecode))  # noqa: S608
