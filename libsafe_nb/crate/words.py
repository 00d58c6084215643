"""What crate and README both say of a record. A record may hold anything: what is not as expected is told as it is, or not."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from libsafe_nb import record
from libsafe_nb.record import entries, section

WORDS = {
    "completed": "It ran to its end.",
    "failed": "The function failed.",
    "errored": "The run could not be executed to its end; that says nothing of the function.",
    "timeout": "The run was stopped since it took longer than it was allowed to.",
    "cancelled": "The run was cancelled.",
}


def as_text(value: Any) -> str:
    return "" if value is None else str(value)


def title_of(function: Mapping[str, Any]) -> str:
    told = (function.get(name) for name in ("title", "key", "name"))
    return next((as_text(each) for each in told if each), "function")


def as_json(value: Any) -> str:
    return record.canonical(record.plain(value)).decode()


def as_moment(value: Any) -> str | None:
    """A time as `record.timestamp` writes it; a cell's or a message's may have microseconds."""
    try:
        return record.timestamp(datetime.fromisoformat(as_text(value)))
    except ValueError:
        return None


def redacted(body: Mapping[str, Any]) -> int:
    return sum(each.get("count") or 0 for each in entries(body, "redactions"))


def change_of(write: Mapping[str, Any]) -> dict[str, Any]:
    """One of the record's `platform_writes` as name and value."""
    kind = as_text(write.get("kind"))
    if kind == "hash":
        return {"name": f"hash {as_text(write.get('algorithm'))}", "value": as_text(write.get("value"))}
    told = {
        name: value for name, value in write.items() if name not in ("kind", "at", "target", "file_id", "id")
    }
    return {"name": kind, "value": as_json(told)}


def error_of(body: Mapping[str, Any]) -> str | None:
    """Why a run is no success, never empty; None of one that is."""
    status = as_text(body.get("status"))
    if status == "completed":
        return None
    error = section(body, "error")
    told = [as_text(error.get(name)) for name in ("type", "message") if error.get(name)]
    if told:
        return ": ".join(told)
    if body.get("job_result") is False:
        return "The function ended its job as failed."
    cause = as_text(body.get("cause"))
    return WORDS.get(status, f"The run's status is {status or 'unknown'}.") + (
        f" Cause: {cause}." if cause else ""
    )
