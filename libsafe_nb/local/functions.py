"""
The REST calls about functions: published in versions that never change, one of them current.

Functions run with the keys of the platform's own user, so that user and root alone publish and set them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import sqlite3
import time
from pathlib import PurePosixPath
from typing import Any

from libsafe_nb import declared
from libsafe_nb.errors import LocalPlatformError, ParameterError
from libsafe_nb.local import published, queue
from libsafe_nb.local.accounts import DEFAULT_USER
from libsafe_nb.local.ask import Ask, Page, Problem, number, page, plain, text
from libsafe_nb.local.database import Database, now

MAX_NAME = 200
"""Bytes of a published file's name: a worker writes it under this name, and file systems take 255, temporary endings and all."""
KINDS = ("notebook", "handler")
BY_PATH = "by-path."
"""How the keys of functions begin that are called by a path: they are in no list, and have no triggers."""
KEY = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
SETTINGS: dict[str, tuple[type, float, float]] = {
    "concurrency": (int, 1, 1000),
    "container_concurrency": (int, 1, 1000),
    "attempts": (int, 1, 100),
    "backoff": (float, 0, 3600),
    "timeout": (float, 0.001, 30 * 86400),
    "queue_limit": (int, 1, 1_000_000),
}
"""What may be set on a function: its type, least and most."""
MAY_BE_NONE = ("concurrency", "timeout")
_SELECT = (
    "SELECT f.*, v.sha256, v.kind, v.name, v.title, v.description, v.parameters, v.date_create AS date_publish,"
    " coalesce((SELECT calls FROM tally WHERE function_id = f.id AND status = 'queued'), 0) AS queued,"
    " coalesce((SELECT calls FROM tally WHERE function_id = f.id AND status = 'running'), 0) AS running,"
    " coalesce((SELECT calls FROM tally WHERE function_id = f.id AND status = 'dead'), 0) AS dead"
    " FROM function f JOIN function_version v ON v.function_id = f.id AND v.number = f.version"
)


def function_publish(ask: Ask) -> dict[str, Any]:
    """
    A new version, which becomes the current one. The bytes of the current version again, read the same way, make none:
    name, title, description and parameters are then what was told last.

    With `listed: false` it is a function for calls by path, whose key begins with `by-path.`: bytes of any of its versions make
    none, and that version is the current one again.
    """
    need_operator(ask)
    fields = ask.fields()
    key = text(fields.get("key"), "key", most=100)
    if not KEY.fullmatch(key):
        raise Problem(400, f"key: expected lower-case letters, digits, '.', '_' and '-', got {key[:100]!r}")
    listed = fields.get("listed", True)
    if not isinstance(listed, bool):
        raise Problem(400, f"listed: expected true or false, got {str(listed)[:50]!r}")
    if key.startswith(BY_PATH) is listed:
        raise Problem(
            400, f"key: one that begins with {BY_PATH} is for functions that are not listed, got {key!r}"
        )
    data = _content(fields.get("content"))
    kind = fields.get("kind")
    if kind not in KINDS:
        raise Problem(400, f"kind: expected one of {', '.join(KINDS)}, got {str(kind)[:50]!r}")
    name = text(fields.get("name"), "name", most=200)
    if "/" in name or name in (".", "..") or not name.isprintable():
        raise Problem(400, f"name: expected a file's name, got {name!r}")
    if len(name.encode()) > MAX_NAME:
        raise Problem(400, f"name: expected at most {MAX_NAME} bytes, got {len(name.encode())}: {name[:50]}…")
    parameters = fields.get("parameters") or []
    if not isinstance(parameters, list) or not all(isinstance(each, dict) for each in parameters):
        raise Problem(400, "parameters: expected a list of objects")
    if any(each.get("secret") and each.get("default") is not None for each in parameters):
        raise Problem(400, "parameters: a secret has no default: it would be stored and shown")
    told = {
        "title": text(fields.get("title") or key, "title", most=1000),
        "description": text(fields.get("description") or "", "description", most=100_000, empty=True),
        "parameters": json.dumps(plain(parameters, "parameters"), ensure_ascii=False),
    }
    try:
        sha256 = published.keep(ask.platform.functions, data)
    except OSError as exc:
        raise LocalPlatformError(f"the function cannot be stored ({exc.strerror})") from exc
    _new_version(ask, key, sha256, kind, name, told)
    return shape(by_key(ask.db, key))


def _content(given: Any) -> bytes:
    if not isinstance(given, str):
        raise Problem(400, "content: expected the file's bytes in base64")
    try:
        data = base64.b64decode(given, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise Problem(400, f"content: expected base64, got something else ({exc})") from exc
    if len(data) > published.MAX_BYTES:
        raise Problem(413, f"content: expected at most {published.MAX_BYTES} bytes, got {len(data)}")
    return data


def _new_version(ask: Ask, key: str, sha256: str, kind: str, name: str, told: dict[str, str]) -> None:
    db = ask.db
    row = db.one("SELECT * FROM function WHERE key = ?", (key,))
    listed = not key.startswith(BY_PATH)
    function = (
        row["id"] if row else db.insert("function", key=key, version=1, listed=int(listed), date_create=now())
    )
    new = {"sha256": sha256, "kind": kind, "name": name, **told}
    if row is not None:
        # The name's extension says how the bytes are read.
        same = (sha256, kind, PurePosixPath(name).suffix)
        before = db.all(
            "SELECT * FROM function_version WHERE function_id = ? AND sha256 = ? AND (number = ? OR NOT ?)"
            " ORDER BY number DESC",
            (function, sha256, row["version"], listed),
        )
        for each in before:
            if same == (each["sha256"], each["kind"], PurePosixPath(each["name"]).suffix):
                db.execute(
                    "UPDATE function_version SET name = ?, title = ?, description = ?, parameters = ?"
                    " WHERE function_id = ? AND number = ?",
                    (name, told["title"], told["description"], told["parameters"], function, each["number"]),
                )
                db.execute("UPDATE function SET version = ? WHERE id = ?", (each["number"], function))
                return
    last = db.one("SELECT max(number) FROM function_version WHERE function_id = ?", (function,))[0]
    db.insert(
        "function_version",
        function_id=function,
        number=(last or 0) + 1,
        user_id=ask.user.id,
        date_create=now(),
        **new,
    )
    db.execute("UPDATE function SET version = ? WHERE id = ?", ((last or 0) + 1, function))


def function_list(ask: Ask) -> Page:
    """With `all=true` those too that were made for calls by path."""
    limit = ask.limit()
    rows = ask.db.all(
        f"{_SELECT} WHERE f.id > ? AND (f.listed OR ?) ORDER BY f.id LIMIT ?",
        (ask.after_id(), ask.query.get("all") == "true", limit + 1),
    )
    return page(rows, limit, lambda row: row["id"], shape)


def function_get(ask: Ask) -> dict[str, Any]:
    return shape(asked(ask))


def function_update(ask: Ask) -> dict[str, Any]:
    """Any of `enabled`, `paused`, `version` (an existing number: going back, or forth) and the settings."""
    need_operator(ask)
    function, fields = asked(ask), ask.fields()
    changes: dict[str, Any] = {}
    for name in ("enabled", "paused"):
        if name in fields:
            if not isinstance(fields[name], bool):
                raise Problem(400, f"{name}: expected true or false, got {str(fields[name])[:50]!r}")
            changes[name] = fields[name]
    if "version" in fields:
        changes["version"] = version_of(ask.db, function["id"], number(fields["version"], name="version"))[
            "number"
        ]
    for name, (kind, least, most) in SETTINGS.items():
        if name in fields:
            changes[name] = _setting(name, fields[name], kind, least, most)
    for name, value in changes.items():
        ask.db.execute(f"UPDATE function SET {name} = ? WHERE id = ?", (value, function["id"]))  # noqa: S608 - our names
    if changes.get("enabled") is False:
        queue.disabled(ask.db, function, time.time())
    return shape(by_key(ask.db, function["key"]))


def _setting(name: str, value: Any, kind: type, least: float, most: float) -> Any:
    if value is None and name in MAY_BE_NONE:
        return None
    right = isinstance(value, int) if kind is int else isinstance(value, (int, float))
    if isinstance(value, bool) or not right or not least <= value <= most:
        raise Problem(400, f"{name}: expected a number from {least:g} to {most:g}, got {str(value)[:50]!r}")
    return kind(value)


def setting(fields: dict[str, Any], name: str) -> Any:
    """What a call says in place of its function; None where it does not."""
    return None if fields.get(name) is None else _setting(name, fields[name], *SETTINGS[name])


def function_versions(ask: Ask) -> list[dict[str, Any]]:
    """Newest first."""
    function = asked(ask)
    rows = ask.db.all(
        "SELECT * FROM function_version WHERE function_id = ? ORDER BY number DESC", (function["id"],)
    )
    return [{**version_shape(row), "current": row["number"] == function["version"]} for row in rows]


def function_content(ask: Ask) -> dict[str, Any]:
    """
    The bytes of one version in base64, after they were compared with their digest. For operators: who may call a function
    need not know how it works.
    """
    need_operator(ask)
    row = version_of(ask.db, asked(ask)["id"], number(ask.path["number"], name="version"))
    try:
        data = published.read(ask.platform.functions, row["sha256"])
    except published.Changed as exc:
        # Not a 503, which a worker would repeat for a minute while other calls wait.
        raise Problem(409, str(exc)) from exc
    return {**version_shape(row), "content": base64.b64encode(data).decode()}


# For the other calls --------------------------------------------------------------------------------------------


def is_operator(ask: Ask) -> bool:
    return ask.user.root or ask.user.id == DEFAULT_USER


def need_operator(ask: Ask) -> None:
    if not is_operator(ask):
        raise Problem(
            403,
            "functions run with the keys of the platform's own user, who alone sets them and sees their code (or the root key)",
        )


def asked(ask: Ask) -> sqlite3.Row:
    """The function of the path, by its key."""
    return by_key(ask.db, ask.path["function"])


def by_key(db: Database, key: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.one(f"{_SELECT} WHERE f.key = ?", (key,))
    if row is None:
        raise Problem(404, f"there is no function {key[:100]!r}")
    return row


def version_of(db: Database, function: int, wanted: int) -> sqlite3.Row:
    row: sqlite3.Row | None = db.one(
        "SELECT * FROM function_version WHERE function_id = ? AND number = ?", (function, wanted)
    )
    if row is None:
        raise Problem(404, f"the function has no version {wanted}")
    return row


def check_params(function: sqlite3.Row, version: sqlite3.Row, given: dict[str, Any]) -> None:
    """400 for parameters that the version does not take, or that must not be stored."""
    told, handler = json.loads(version["parameters"]), version["kind"] == "handler"
    try:
        declared.check_queued(function["key"], told, given, handler=handler)
    except ParameterError as exc:
        raise Problem(400, str(exc)) from exc


def version_shape(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "number": row["number"],
        "sha256": row["sha256"],
        "kind": row["kind"],
        "name": row["name"],
        "title": row["title"],
        "description": row["description"],
        "parameters": json.loads(row["parameters"]),
        "user_id": str(row["user_id"]),
        "date_create": row["date_create"],
    }


def shape(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "key": row["key"],
        "version": row["version"],
        "enabled": bool(row["enabled"]),
        "paused": bool(row["paused"]),
        "listed": bool(row["listed"]),
        **{name: row[name] for name in ("sha256", "kind", "name", "title", "description")},
        "parameters": json.loads(row["parameters"]),
        **{name: row[name] for name in SETTINGS},
        **{name: row[name] for name in ("queued", "running", "dead")},
        "date_create": row["date_create"],
        "date_publish": row["date_publish"],
    }
