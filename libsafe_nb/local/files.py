"""Rows of files and folders: finding them, keeping them true to the store, showing them."""

from __future__ import annotations

import json
import mimetypes
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

from libsafe_nb.local import firing
from libsafe_nb.local.database import Database, date_of, now

OCTETS = "application/octet-stream"
_UNSAID = {"", OCTETS, "binary/octet-stream", "text/plain; charset=utf-8"}
"""Content types of clients that gave none: the usual stop-gaps, and what the S3 server guesses from text."""


@dataclass(frozen=True)
class Content:
    """What a file holds. `at` is the store's time in nanoseconds at which this was true."""

    size: int
    etag: str | None
    mime: str | None
    version_id: str | None
    at: int
    job: int | None = None
    """Whose write it was, if it was a job's."""


def mime_of(path: str, said: str | None) -> str:
    """The object's content type, else the one of its name's extension."""
    if said is None or said in _UNSAID:
        return mimetypes.guess_type(path)[0] or said or OCTETS
    return said


def find(db: Database, container: int, path: str, *, folder: bool | None = None) -> sqlite3.Row | None:
    """A row by its path, deleted ones included; a file before a folder of the same path."""
    kind = "" if folder is None else "AND type = 'FOLDER'" if folder else "AND type = 'FILE'"
    row: sqlite3.Row | None = db.one(
        f"SELECT * FROM file WHERE container_id = ? AND path = ? {kind} ORDER BY type LIMIT 1",  # noqa: S608 - constants
        (container, path),
    )
    return row


def make_folder(db: Database, container: int, path: str, *, at: int | None = None) -> int | None:
    """
    The folder's id, made (or brought back) with those above it; None for the container itself.

    `at` is the store's time in nanoseconds of what asks for it: a folder removed later than that stays removed.
    """
    if not path:
        return None
    at = time.time_ns() if at is None else at
    row = find(db, container, path, folder=True)
    if row is not None and (not row["deleted"] or row["seen"] > at):
        return int(row["id"])
    above, _, name = path.rpartition("/")
    parent = make_folder(db, container, above, at=at)
    if row is not None:
        db.execute(
            "UPDATE file SET deleted = 0, date_update = ?, seen = ? WHERE id = ?", (now(), at, row["id"])
        )
        return int(row["id"])
    return db.insert(
        "file",
        container_id=container,
        parent=parent,
        path=path,
        filename=name,
        type="FOLDER",
        date_create=date_of(at),
        date_update=date_of(at),
        seen=at,
    )


def store(db: Database, container: int, path: str, content: Content) -> int:
    """
    Make a file's row show this content, unless it shows something later.

    Hashes that were stored for other bytes are dropped; metadata and tags stay with the file. Triggers are told.
    """
    row = find(db, container, path, folder=False)
    mime = mime_of(path, content.mime)
    date = date_of(content.at)
    if row is None:
        folder, _, name = path.rpartition("/")
        made = db.insert(
            "file",
            container_id=container,
            parent=make_folder(db, container, folder),
            path=path,
            filename=name,
            type="FILE",
            size=content.size,
            mime=mime,
            date_create=date,
            date_update=date,
            version_id=content.version_id,
            etag=content.etag,
            seen=content.at,
        )
        tell(db, "file_created", made, content.job)
        return made
    if row["seen"] > content.at:
        return int(row["id"])
    same_bytes = (row["etag"], row["size"]) == (content.etag, content.size)
    same_version = row["version_id"] == content.version_id and not row["deleted"]
    if content.mime is None and same_bytes:
        mime = row["mime"]
    db.execute(
        "UPDATE file SET size = ?, mime = ?, version_id = ?, etag = ?, seen = ?, deleted = 0, date_update = ?"
        " WHERE id = ?",
        (
            content.size,
            mime,
            content.version_id,
            content.etag,
            content.at,
            row["date_update"] if same_version else date,
            row["id"],
        ),
    )
    if not same_bytes:
        db.execute("DELETE FROM hash WHERE file_id = ?", (row["id"],))
    if row["deleted"]:
        make_folder(db, container, path.rpartition("/")[0])
    if not same_version:
        tell(db, "file_created" if row["deleted"] else "file_updated", row["id"], content.job)
    return int(row["id"])


def mark_deleted(db: Database, container: int, path: str, *, at: int, job: int | None = None) -> None:
    """Soft-delete a file's row, unless it is deleted already or shows something later. Triggers are told."""
    row = find(db, container, path, folder=False)
    if row is None or row["deleted"] or row["seen"] > at:
        return
    db.execute(
        "UPDATE file SET deleted = 1, date_update = ?, seen = ? WHERE id = ?", (date_of(at), at, row["id"])
    )
    tell(db, "file_deleted", row["id"], job)


def tell(db: Database, kind: str, file_id: int, job: int | None) -> None:
    """Tell the triggers what happened to a file; folders tell nothing."""
    row = db.one(
        "SELECT id, container_id, path, filename, mime, size, type FROM file WHERE id = ?", (file_id,)
    )
    if row["type"] == "FILE":
        firing.fire(db, kind, row, job)


def remove_folder(db: Database, container: int, path: str, *, at: int) -> None:
    """Soft-delete a folder's row, if nothing that is not deleted lies in it and it was not made later."""
    db.execute(
        "UPDATE file SET deleted = 1, date_update = ?, seen = ? WHERE container_id = ? AND path = ?"
        " AND type = 'FOLDER' AND seen <= ? AND NOT EXISTS (SELECT 1 FROM file inner_file WHERE inner_file.parent = file.id AND NOT inner_file.deleted)",
        (date_of(at), at, container, path, at),
    )


def below(path: str) -> tuple[str, str]:
    """Bounds of all paths inside a folder: `low <= path < high` (the character after the slash is the zero)."""
    return path + "/", path + "0"


SELECT = (
    "SELECT file.*, class.online,"
    " (SELECT json_group_object(algorithm, value) FROM hash WHERE file_id = file.id) AS hashes,"
    " (SELECT json_group_array(CAST(tag_id AS TEXT)) FROM file_tag WHERE file_id = file.id) AS tags"
    " FROM file LEFT JOIN storage_class class ON class.id = file.storage_class_id"
)
"""The columns that `shape` needs; a condition follows."""


def by_id(db: Database, file_id: int) -> dict[str, Any]:
    return shape(db.one(f"{SELECT} WHERE file.id = ?", (file_id,)))


def shape(row: sqlite3.Row) -> dict[str, Any]:
    """The file object of the API. `path` has no leading slash, as look-ups by path want it; `fullpath` has one."""
    return {
        "id": str(row["id"]),
        "container_id": str(row["container_id"]),
        "parent": None if row["parent"] is None else str(row["parent"]),
        "filename": row["filename"],
        "name": row["filename"],
        "fullpath": "/" + row["path"],
        "path": row["path"],
        "deleted": row["deleted"],
        "size": row["size"],
        "type": row["type"],
        "structure": row["structure"],
        "format": row["format"],
        "mime": row["mime"],
        "date_create": row["date_create"],
        "date_update": row["date_update"],
        "storage_class_id": row["storage_class_id"],
        # A class that we do not know is stored as it was given, and says nothing about being off-line.
        "online": row["online"] is None or bool(row["online"]),
        "version_id": row["version_id"],
        "etag": row["etag"],
        "hashes": json.loads(row["hashes"]),
        "tags": json.loads(row["tags"]),
    }
