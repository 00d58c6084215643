"""The REST calls about triggers: which happenings, in which files or at which times, start a function."""

from __future__ import annotations

import json
import sqlite3
import time
from typing import Any

from libsafe_nb.local import expressions, schedule
from libsafe_nb.local.ask import Ask, Page, Problem, number, page, params, text
from libsafe_nb.local.database import now
from libsafe_nb.local.firing import LONGEST_BATCH
from libsafe_nb.local.functions import by_key, check_params, is_operator, need_operator, version_of
from libsafe_nb.shapes import CLOCK_TRIGGERS, FILE_TRIGGERS, TRIGGERS

FILTERS = ("path_regex", "name_regex", "mime", "size_min", "size_max")
_SELECT = "SELECT t.*, f.key FROM function_trigger t JOIN function f ON f.id = t.function_id"


def trigger_create(ask: Ask) -> dict[str, Any]:
    need_operator(ask)
    fields = ask.fields()
    kind = fields.get("type")
    if kind not in TRIGGERS:
        raise Problem(400, f"type: expected one of {', '.join(TRIGGERS)}, got {str(kind)[:50]!r}")
    function = by_key(ask.db, text(fields.get("function"), "function", most=100))
    if not function["listed"]:
        raise Problem(
            400, f"function: {function['key']} was made for calls by path; publish the notebook for a trigger"
        )
    container = fields.get("container_id")
    if container is not None:
        container = ask.container(number(container, name="container_id"))["id"]
    elif kind in CLOCK_TRIGGERS:
        raise Problem(
            400, f"container_id: a trigger of type {kind} needs the container that its jobs belong to"
        )
    given = params(fields.get("params"))
    check_params(function, version_of(ask.db, function["id"], function["version"]), given)
    filters = _filters(fields, kind)
    trigger = ask.db.insert(
        "function_trigger",
        function_id=function["id"],
        type=kind,
        container_id=container,
        **filters,
        **_times(fields, kind),
        params=json.dumps(given, ensure_ascii=False),
        date_create=now(),
    )
    return shape(_by_id(ask, trigger))


def _filters(fields: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind not in FILE_TRIGGERS:
        for name in (*FILTERS, "batch_files", "batch_seconds"):
            if fields.get(name) is not None:
                raise Problem(400, f"{name}: a trigger of type {kind} has no files to choose from")
        return {}
    found: dict[str, Any] = {}
    for name in ("path_regex", "name_regex"):
        if fields.get(name):
            found[name] = text(fields[name], name, most=1000)
            try:
                expressions.check(found[name])
            except ValueError as exc:
                raise Problem(
                    400, f"{name}: expected a regular expression, got {found[name][:100]!r} ({exc})"
                ) from exc
    if fields.get("mime"):
        found["mime"] = text(fields["mime"], "mime", most=255).lower()
    for name in ("size_min", "size_max"):
        if fields.get(name) is not None:
            found[name] = number(fields[name], name=name)
    if found.get("size_min", 0) > found.get("size_max", found.get("size_min", 0)):
        raise Problem(
            400,
            f"size_min: expected at most size_max, {found['size_max']}, got {found['size_min']}: no file is so",
        )
    found["batch_files"] = _bounded(fields, "batch_files", 100, 1, 10_000)
    found["batch_seconds"] = _bounded(fields, "batch_seconds", 1, 0, LONGEST_BATCH)
    return found


def _bounded(fields: dict[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = fields.get(name)
    if value is None:
        return default
    whole = name == "batch_files"
    if (
        isinstance(value, bool)
        or not isinstance(value, int if whole else (int, float))
        or not least <= value <= most
    ):
        raise Problem(400, f"{name}: expected a number from {least:g} to {most:g}, got {str(value)[:50]!r}")
    return float(value) if not whole else value


def _times(fields: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind not in CLOCK_TRIGGERS:
        if fields.get("schedule") is not None:
            raise Problem(400, f"schedule: a trigger of type {kind} has none; only one of type cron does")
        return {}
    given = text(fields.get("schedule"), "schedule", most=200) if kind == "cron" else None
    if kind != "cron" and fields.get("schedule") is not None:
        raise Problem(400, f"schedule: that of type {kind} is fixed; give one with type cron")
    try:
        return {"schedule": given, "next_due": schedule.after(kind, given, time.time())}
    except ValueError as exc:
        raise Problem(400, f"schedule: expected five fields as of cron, got {given!r} ({exc})") from exc


def trigger_list(ask: Ask) -> Page:
    """Those of any container, and of the containers that the user may work in."""
    limit = ask.limit()
    clause, values = "t.id > ?", [ask.after_id()]
    if not is_operator(ask):
        clause += (
            " AND (t.container_id IS NULL OR t.container_id IN"
            " (SELECT container_id FROM access WHERE user_id = ?))"
        )
        values.append(ask.user.id)
    if "function" in ask.query:
        clause += " AND t.function_id = ?"
        values.append(by_key(ask.db, ask.query["function"])["id"])
    rows = ask.db.all(
        f"{_SELECT} WHERE {clause} ORDER BY t.id LIMIT ?",
        (*values, limit + 1),
    )
    return page(rows, limit, lambda row: row["id"], lambda row: _shown(ask, row))


def trigger_get(ask: Ask) -> dict[str, Any]:
    row = _by_id(ask, ask.id("trigger"))
    if not is_operator(ask) and row["container_id"] is not None:
        ask.container(row["container_id"])
    return _shown(ask, row)


def _shown(ask: Ask, row: sqlite3.Row) -> dict[str, Any]:
    """Of a trigger of any container, others than the operators see that it is there, and not what it looks for."""
    found = shape(row)
    if row["container_id"] is None and not is_operator(ask):
        hidden = (*FILTERS, "params", "error")
        return {name: None if name in hidden else value for name, value in found.items()}
    return found


def trigger_update(ask: Ask) -> dict[str, Any]:
    """
    `enabled`. A clock trigger that is enabled again counts from now: what it missed meanwhile was not wanted; and why the
    platform itself disabled one is forgotten.
    """
    need_operator(ask)
    row = _by_id(ask, ask.id("trigger"))
    enabled = ask.fields().get("enabled")
    if not isinstance(enabled, bool):
        raise Problem(400, f"enabled: expected true or false, got {str(enabled)[:50]!r}")
    due = row["next_due"]
    if enabled and not row["enabled"] and row["type"] in CLOCK_TRIGGERS:
        due = schedule.after(row["type"], row["schedule"], time.time())
    ask.db.execute(
        "UPDATE function_trigger SET enabled = ?, next_due = ?, error = ? WHERE id = ?",
        (enabled, due, None if enabled else row["error"], row["id"]),
    )
    return shape(_by_id(ask, row["id"]))


def trigger_delete(ask: Ask) -> dict[str, Any]:
    """With the events that wait for a call of it; calls that were made stay."""
    need_operator(ask)
    row = _by_id(ask, ask.id("trigger"))
    ask.db.execute("DELETE FROM function_trigger WHERE id = ?", (row["id"],))
    return shape(row)


def _by_id(ask: Ask, trigger: int) -> sqlite3.Row:
    row: sqlite3.Row | None = ask.db.one(f"{_SELECT} WHERE t.id = ?", (trigger,))
    if row is None:
        raise Problem(404, f"there is no trigger {trigger}")
    return row


def shape(row: sqlite3.Row) -> dict[str, Any]:
    columns = ("type", *FILTERS, "schedule", "batch_files", "batch_seconds", "next_due", "date_create")
    return {
        "id": str(row["id"]),
        "function": row["key"],
        "container_id": None if row["container_id"] is None else str(row["container_id"]),
        "enabled": bool(row["enabled"]),
        "error": row["error"],
        **{name: row[name] for name in columns},
        "params": json.loads(row["params"]),
    }
