"""
The platform's rows: one SQLite file, one writer.

Write-ahead log with `synchronous=FULL`: a commit that was answered survives a power loss (3,700 inserts a second
were measured so, which is ample; NORMAL may lose the last ones). The platform process alone writes; the S3 side and
long queries open it read-only.
"""

from __future__ import annotations

import contextlib
import datetime
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libsafe_nb.local import queuetables
from libsafe_nb.local.bell import Bell

VERSION = 3
"""Of the schema; kept in `user_version`."""

MIGRATIONS = {2: queuetables.TABLES, 3: queuetables.WORKFLOWS}
"""What brings the rows of the version before to this one; a new file gets `SCHEMA` and then all of them."""

SCHEMA = """
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE user (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  root INTEGER NOT NULL DEFAULT 0,
  key_sha256 TEXT UNIQUE,
  key_active INTEGER NOT NULL DEFAULT 1,
  s3_access_key TEXT UNIQUE,
  date_create TEXT NOT NULL
);

CREATE TABLE container (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  description TEXT NOT NULL DEFAULT '',
  owner_id INTEGER NOT NULL REFERENCES user(id),
  fields TEXT NOT NULL DEFAULT '{}',  -- what the form said besides: schemas, templates, workflows we do not know
  date_create TEXT NOT NULL
);
CREATE TABLE access (
  user_id INTEGER NOT NULL REFERENCES user(id),
  container_id INTEGER NOT NULL REFERENCES container(id),
  PRIMARY KEY (user_id, container_id)
) WITHOUT ROWID;
CREATE TABLE container_metadata (
  owner_id INTEGER NOT NULL REFERENCES container(id),
  iecode TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (owner_id, iecode)
) WITHOUT ROWID;

CREATE TABLE storage_class (id TEXT PRIMARY KEY, name TEXT NOT NULL, online INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO storage_class VALUES ('1', 'STANDARD', 1), ('2', 'ARCHIVE', 0);

CREATE TABLE file (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  container_id INTEGER NOT NULL REFERENCES container(id),
  parent INTEGER REFERENCES file(id),
  path TEXT NOT NULL,        -- within the container, no leading slash
  filename TEXT NOT NULL,
  type TEXT NOT NULL,        -- FILE or FOLDER; S3 lets both have one path
  size INTEGER NOT NULL DEFAULT 0,
  structure TEXT,
  format TEXT,
  mime TEXT,
  date_create TEXT NOT NULL,
  date_update TEXT NOT NULL,
  deleted INTEGER NOT NULL DEFAULT 0,
  storage_class_id TEXT NOT NULL DEFAULT '1',
  version_id TEXT,           -- of the object; null for folders and imported rows
  etag TEXT,
  seen INTEGER NOT NULL DEFAULT 0  -- nanoseconds: the store's time of the change that this row shows
);
CREATE UNIQUE INDEX file_path ON file (container_id, path, type);
CREATE INDEX file_parent ON file (parent);
CREATE INDEX file_moved ON file (storage_class_id) WHERE storage_class_id <> '1';
CREATE TABLE hash (
  file_id INTEGER NOT NULL REFERENCES file(id),
  algorithm TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (file_id, algorithm)
) WITHOUT ROWID;
CREATE TABLE file_metadata (
  owner_id INTEGER NOT NULL REFERENCES file(id),
  iecode TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (owner_id, iecode)
) WITHOUT ROWID;
CREATE INDEX file_metadata_iecode ON file_metadata (iecode);

CREATE TABLE tag (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT NOT NULL,
  user_id INTEGER NOT NULL REFERENCES user(id),
  date_create TEXT NOT NULL
);
CREATE TABLE file_tag (
  file_id INTEGER NOT NULL REFERENCES file(id),
  tag_id INTEGER NOT NULL REFERENCES tag(id) ON DELETE CASCADE,
  PRIMARY KEY (file_id, tag_id)
) WITHOUT ROWID;

CREATE TABLE job (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  container_id INTEGER NOT NULL REFERENCES container(id),
  user_id INTEGER NOT NULL REFERENCES user(id),
  function_id TEXT,
  function_key TEXT,
  name TEXT,
  parent_id INTEGER REFERENCES job(id),
  status TEXT NOT NULL,
  progress REAL,
  result TEXT,
  date_create TEXT NOT NULL,
  date_start TEXT,
  date_end TEXT
);
CREATE INDEX job_container ON job (container_id, status);
CREATE TABLE job_file (
  job_id INTEGER NOT NULL REFERENCES job(id),
  file_id INTEGER NOT NULL REFERENCES file(id),
  PRIMARY KEY (job_id, file_id)
) WITHOUT ROWID;
CREATE TABLE message (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  job_id INTEGER NOT NULL REFERENCES job(id),
  type TEXT NOT NULL,
  message TEXT NOT NULL,
  file_id INTEGER REFERENCES file(id),
  date_create TEXT NOT NULL
);
CREATE INDEX message_job ON message (job_id, id);

CREATE TABLE answer (  -- what was answered to a write that carried an idempotency key
  user_id INTEGER NOT NULL,
  call TEXT NOT NULL,
  key TEXT NOT NULL,
  status INTEGER NOT NULL,
  body BLOB NOT NULL,
  date_create TEXT NOT NULL,
  PRIMARY KEY (user_id, call, key)
);
CREATE INDEX answer_date ON answer (date_create);

CREATE TABLE upload (  -- files whose chunks may still come; bytes that are not stored yet lie in the spool
  container_id INTEGER NOT NULL REFERENCES container(id),
  path TEXT NOT NULL,
  chunks INTEGER NOT NULL,
  size INTEGER NOT NULL,
  last_start INTEGER NOT NULL,  -- where the last chunk begins, for it to be sent again
  stored INTEGER NOT NULL,      -- bytes already in the object
  version_id TEXT,              -- of the object that holds them
  mime TEXT NOT NULL,
  spool TEXT NOT NULL,
  PRIMARY KEY (container_id, path)
) WITHOUT ROWID;
"""


class Database:
    """
    The writer's connection.

    Used by the event loop's thread alone: rows are short work (10 µs), and one thread needs no lock between
    a read and the write that follows from it.

    Parameters
    ----------
    secret
        What `causes.py` signs with; it is not stored. By default another one each time.

    Attributes
    ----------
    bell
        Rung by `queue`, for those who wait for a call to come or to end.
    """

    def __init__(self, path: Path, secret: bytes | None = None) -> None:
        self.path = path
        self.secret = secret or secrets.token_bytes(32)
        self.bell = Bell()
        fresh = not path.exists()
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        self.connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
            self.connection.execute(f"PRAGMA {pragma}")
        if fresh or not self.one("PRAGMA user_version")[0]:
            self._script(SCHEMA, 1)
        for version, sql in MIGRATIONS.items():
            if self.one("PRAGMA user_version")[0] < version:
                self._script(sql, version)

    def _script(self, sql: str, version: int) -> None:
        self.connection.executescript(f"BEGIN IMMEDIATE;{sql}PRAGMA user_version={version};COMMIT;")

    def close(self) -> None:
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing of it; durable when the block ends. Never across an `await`."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield self.connection
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def execute(self, sql: str, values: Any = ()) -> sqlite3.Cursor:
        return self.connection.execute(sql, values)

    def one(self, sql: str, values: Any = ()) -> Any:
        """The first row (by name or position), or None."""
        return self.connection.execute(sql, values).fetchone()

    def all(self, sql: str, values: Any = ()) -> list[Any]:
        return self.connection.execute(sql, values).fetchall()

    def insert(self, table: str, **columns: Any) -> int:
        """Insert one row and return its id; column names come from our own code only."""
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        row = self.connection.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})",  # noqa: S608 - names from our code, values bound
            list(columns.values()),
        ).lastrowid
        assert row is not None  # an INSERT of one row has one
        return row

    def fact(self, name: str) -> str | None:
        row = self.one("SELECT value FROM fact WHERE name = ?", (name,))
        return None if row is None else str(row[0])

    def set_fact(self, name: str, value: str) -> None:
        self.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write, for another thread or process than the writer's."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA busy_timeout=5000")
    return connection


def now() -> str:
    """The time as the platform writes it: `2021-06-08 11:01:00.089657`, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def date_of(nanoseconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(nanoseconds // 1_000_000_000, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.") + f"{nanoseconds % 1_000_000_000 // 1000:06d}"
