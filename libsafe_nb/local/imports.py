"""Rows in bulk: files that lie in a storage already are registered without looking at them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from libsafe_nb.local import files
from libsafe_nb.local.ask import MAX_ID, Ask, Problem
from libsafe_nb.local.database import Database, now
from libsafe_nb.local.paths import key_problem

IMPORT_ROWS = 2000
"""Rows of an import in one transaction: some 40 ms, in which others wait."""
MAX_LINE = 64 * 1024
KNOWN_FOLDERS = 10_000
"""Folders whose ids are remembered from one batch to the next."""


async def container_import(ask: Ask) -> dict[str, Any]:
    """
    Register files by JSON lines `{"path", "size", "mime"?, "etag"?, "date"?}`; for their owner or root.

    In transactions of 2,000 rows, so others are not kept waiting; after a failure repeat the whole: rows that are there
    are set to what is said, not doubled.
    """
    container = ask.container(ask.id("container"))
    if container["owner_id"] != ask.user.id:
        ask.need_root()
    count = 0
    batch: list[dict[str, Any]] = []
    waiting = b""
    folders: dict[str, int | None] = {}
    async for data in ask.request.stream():
        *lines, waiting = (waiting + data).split(b"\n")
        if len(waiting) > MAX_LINE:
            raise Problem(413, f"line {count + len(batch) + 1}: longer than 64 KiB")
        for line in lines:
            if line.strip():
                batch.append(_import_row(line, count + len(batch) + 1))
            if len(batch) == IMPORT_ROWS:
                count += take(ask.db, container["id"], batch, folders)
                batch = []
                await asyncio.sleep(0)
    if waiting.strip():
        batch.append(_import_row(waiting, count + len(batch) + 1))
    count += take(ask.db, container["id"], batch, folders)
    return {"imported": count}


def _import_row(line: bytes, at: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        path, size = row["path"].strip("/"), row["size"]
        date = row.get("date") or now()
        good = isinstance(size, int) and 0 <= size <= MAX_ID and isinstance(date, str)
    except (ValueError, KeyError, TypeError, AttributeError):
        good = False
    if not good:
        raise Problem(400, f"row {at}: expected an object with path (a string) and size (bytes)")
    problem = key_problem(path)
    if problem or path.endswith("/"):
        raise Problem(400, f"row {at}: the path {path[:200]!r} cannot be: {problem}")
    mime, etag = row.get("mime"), row.get("etag")
    return {"path": path, "size": size, "mime": mime, "etag": etag, "date": date}


def take(db: Database, container: int, rows: list[dict[str, Any]], folders: dict[str, int | None]) -> int:
    """Register files, all or none, and answer how many; `folders` are ids of folders that are known already, by path."""
    if len(folders) > KNOWN_FOLDERS:
        folders.clear()
    with db.transaction():
        values = []
        for row in rows:
            folder, _, name = row["path"].rpartition("/")
            if folder not in folders:
                folders[folder] = files.make_folder(db, container, folder)
            mime = files.mime_of(name, row["mime"])
            date = row["date"]
            values.append(
                (container, folders[folder], row["path"], name, row["size"], mime, row["etag"], date, date)
            )
        db.connection.executemany(
            "INSERT INTO file (container_id, parent, path, filename, type, size, mime, etag, date_create, date_update)"
            " VALUES (?, ?, ?, ?, 'FILE', ?, ?, ?, ?, ?) ON CONFLICT (container_id, path, type) DO UPDATE"
            " SET size = excluded.size, mime = excluded.mime, etag = excluded.etag, date_update = excluded.date_update"
            " WHERE version_id IS NULL",
            values,
        )
    return len(rows)
