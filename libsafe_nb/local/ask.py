"""
One authenticated REST call, as the functions that answer calls see it; and how they say no.

A plain function answers from the rows alone and runs inside one transaction; a coroutine may also go to the store.
Both return what becomes `result`, or a `Page`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb.local.database import Database

if TYPE_CHECKING:
    from starlette.requests import Request

    from libsafe_nb.local.indexer import Indexer
    from libsafe_nb.local.keyring import Keyring
    from libsafe_nb.local.objects import Objects
    from libsafe_nb.local.uploads import Uploads

LIMIT = 1000
MAX_LIMIT = 10_000
MAX_ID = 2**63 - 1
MAX_DEPTH = 90
"""Levels of a function's parameters; a payload, in which they stand, has 100 at most."""


class Problem(Exception):
    """The call is refused: an HTTP status, and the sentence that becomes `msg`."""

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


@dataclass(frozen=True)
class User:
    id: int
    name: str
    root: bool
    key_active: bool
    s3_access_key: str | None


@dataclass(frozen=True)
class Page:
    """Some rows of a list, and the cursor of the next ones (None: these were the last)."""

    result: list[Any]
    next: str | None


@dataclass(frozen=True)
class Platform:
    """What the running platform consists of."""

    database: Database
    objects: Objects
    indexer: Indexer
    keyring: Keyring
    uploads: Uploads
    refresh_settings: Callable[[], None]
    functions: Path
    """Folder of the published functions' bytes."""
    trouble: dict[str, str] = field(default_factory=dict)
    """What does not work at present, by the part of the platform; each a sentence."""


@dataclass(frozen=True)
class Ask:
    """
    Attributes
    ----------
    path
        The values of the path's braces.
    query
        The query string's.
    body
        The JSON body; `{}` when there is none.
    request
        For the calls that read their body themselves.
    """

    platform: Platform
    user: User
    path: dict[str, str]
    query: dict[str, str]
    body: Any
    request: Request = field(repr=False)

    @property
    def db(self) -> Database:
        return self.platform.database

    @property
    def job(self) -> int | None:
        """The job whose call this is, as the header `X-Libsafe-Job` says; None for one that the user may not name."""
        said = self.request.headers.get("x-libsafe-job", "")
        if not (said.isascii() and said.isdecimal() and len(said) < 19):
            return None
        row = self.db.one("SELECT id, container_id FROM job WHERE id = ?", (int(said),))
        return row["id"] if row is not None and self.may(row["container_id"]) else None

    def id(self, name: str) -> int:
        """An id of the path; one that is no number names nothing."""
        return number(self.path[name]) if self.path[name].isdecimal() else _nothing(name, self.path[name])

    def fields(self) -> dict[str, Any]:
        """The body as an object."""
        if not isinstance(self.body, dict):
            raise Problem(400, "the body must be a JSON object")
        return self.body

    def container(self, container_id: int) -> sqlite3.Row:
        """A container that the user may work in; 404 when there is none, 403 when it is another's."""
        row: sqlite3.Row | None = self.db.one("SELECT * FROM container WHERE id = ?", (container_id,))
        if row is None:
            raise Problem(404, f"there is no container {container_id}")
        if not self.may(container_id):
            raise Problem(403, f"container {container_id} is not yours to work in")
        return row

    def may(self, container_id: int) -> bool:
        if self.user.root:
            return True
        found = self.db.one(
            "SELECT 1 FROM access WHERE user_id = ? AND container_id = ?", (self.user.id, container_id)
        )
        return found is not None

    def file(self, file_id: int) -> sqlite3.Row:
        row: sqlite3.Row | None = self.db.one("SELECT * FROM file WHERE id = ?", (file_id,))
        if row is None:
            raise Problem(404, f"there is no file {file_id}")
        if not self.may(row["container_id"]):
            raise Problem(403, f"file {file_id} lies in a container that is not yours to work in")
        return row

    def limit(self) -> int:
        given = self._paging("limit")
        limit = LIMIT if given is None else number(given, name="limit")
        if not 1 <= limit <= MAX_LIMIT:
            raise Problem(400, f"limit: expected a number from 1 to {MAX_LIMIT}, got {limit}")
        return limit

    def after(self) -> str | None:
        """The cursor of the page before, as that page gave it."""
        found = self._paging("after")
        return None if found in (None, "") else str(found)

    def _paging(self, name: str) -> Any:
        """In the body where the call has one, else in the query."""
        found = self.body.get(name) if isinstance(self.body, dict) else None
        return self.query.get(name) if found is None else found

    def after_id(self) -> int:
        cursor = self.after()
        return 0 if cursor is None else number(cursor, name="after")

    def need_root(self) -> None:
        if not self.user.root:
            raise Problem(403, "this needs the root key")


def number(value: Any, *, name: str = "id") -> int:
    """An id as the API's users write it: a number or its digits."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_ID:
        raise Problem(400, f"{name}: expected an id, got {value!r}"[:200])
    return value


def text(value: Any, name: str, *, most: int = 4096, empty: bool = False) -> str:
    """A string of bounded length that SQLite and JSON can hold."""
    if not isinstance(value, str) or (not empty and not value.strip()) or len(value) > most:
        wanted = f"a string of at most {most} characters" if empty else f"a string of 1 to {most} characters"
        raise Problem(400, f"{name}: expected {wanted}, got {_short(value)}")
    if "\x00" in value or any(0xD800 <= ord(letter) <= 0xDFFF for letter in value):
        raise Problem(400, f"{name}: holds a character that is none")
    return value


def params(value: Any) -> dict[str, Any]:
    """A function's parameters: an object that a payload can hold; None stands for no parameters."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Problem(400, f"params: expected an object, got {_short(value)}")
    if _deeper(value, MAX_DEPTH):
        raise Problem(400, f"params: expected at most {MAX_DEPTH} levels, got more")
    plain(value, "params")
    return value


def plain(value: Any, name: str) -> Any:
    """What SQLite and JSON can hold, at whatever depth."""
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as exc:
        raise Problem(400, f"{name}: hold a number beyond a double, or half a surrogate pair") from exc
    return value


def _deeper(value: Any, most: int) -> bool:
    """Whether objects and lists lie within each other more than so many levels deep."""
    level = [value]
    for _ in range(most):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
    return bool(level)


def page(rows: list[Any], limit: int, cursor: Callable[[Any], Any], shape: Callable[[Any], Any]) -> Page:
    """A page of `limit` rows from a query that asked for one more."""
    more = len(rows) > limit
    rows = rows[:limit]
    return Page([shape(row) for row in rows], str(cursor(rows[-1])) if more else None)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{type(value).__name__} of {len(shown)} characters"


def _nothing(name: str, value: str) -> int:
    raise Problem(404, f"there is no {name} {value[:50]!r}")
