"""
Who may what in S3: access keys, their users' containers, and files that are off-line, read from the platform's rows.

Read-only and cached until the database changes (`PRAGMA data_version`, a few microseconds), so a revoked key, a new
container or a grant acts on the next request, also while the platform process is down.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from libsafe_nb.local.database import read_only


class Grants:
    def __init__(self, database: Path) -> None:
        self._connection: sqlite3.Connection = read_only(database)
        self._version = -1
        self._containers: dict[str, frozenset[str]] = {}
        self._offline = False

    def close(self) -> None:
        self._connection.close()

    def containers(self, access_key: str) -> frozenset[str] | None:
        """The containers of the key's user; None when the key is unknown or revoked."""
        self._refresh()
        if access_key not in self._containers:
            found = self._read(access_key)
            if found is None:
                # Not kept: any number of unknown keys could be tried.
                return None
            self._containers[access_key] = found
        return self._containers[access_key]

    def readable(self, container: str, path: str) -> bool:
        """Whether the file's storage class is on-line; a path that nobody knows yet is."""
        self._refresh()
        if not self._offline:
            return True
        row = self._connection.execute(
            "SELECT c.online FROM file f JOIN storage_class c ON c.id = f.storage_class_id"
            " WHERE f.container_id = ? AND f.path = ? AND f.type = 'FILE'",
            (int(container), path),
        ).fetchone()
        return row is None or bool(row[0])

    def _refresh(self) -> None:
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._version = version
            self._containers.clear()
            moved = "SELECT EXISTS (SELECT 1 FROM file WHERE storage_class_id <> '1')"
            self._offline = bool(self._connection.execute(moved).fetchone()[0])

    def _read(self, access_key: str) -> frozenset[str] | None:
        user = self._connection.execute(
            "SELECT id FROM user WHERE s3_access_key = ?", (access_key,)
        ).fetchone()
        if user is None:
            return None
        rows = self._connection.execute("SELECT container_id FROM access WHERE user_id = ?", (user[0],))
        return frozenset(str(row[0]) for row in rows)
