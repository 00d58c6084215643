"""The run's record: `record.json`, made from plain data. Pure: no disk, no network."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

SCHEMA = "libsafe-nb-record/1"


def canonical(data: Any) -> bytes:
    """RFC 8785 canonical JSON, the form that is hashed and stored."""
    import rfc8785

    return rfc8785.dumps(data)


def plain(data: Any) -> Any:
    """
    `data` as values that canonical JSON can hold.

    Integers beyond 2**53 - 1 become strings (RFC 8785 3.2.2.3: they are no IEEE doubles), half characters a
    question mark, and what is no JSON value its text.
    """
    if isinstance(data, Mapping):
        return {str(name): plain(value) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    if isinstance(data, str):
        return data.encode("utf-8", "replace").decode()
    if isinstance(data, bool) or data is None:
        return data
    if isinstance(data, int):
        return data if abs(data) < 2**53 else str(data)
    if isinstance(data, float) and math.isfinite(data):
        return data
    return str(data)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def timestamp(moment: datetime) -> str:
    """`2026-11-23T07:08:10.866+00:00`: UTC, milliseconds, the only form that RO-Crate's validator takes."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def inputs(events: Iterable[Mapping[str, Any]], files: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The run's files as they stood at its start, each with how much of it the function read."""
    found = {
        str(file["id"]): {
            "id": str(file["id"]),
            "path": file.get("fullpath"),
            "version_id": file.get("version_id"),
            "size": file.get("size"),
            "sha256": None,
            "read": "none",
        }
        for file in files
    }
    for event in events:
        if event.get("kind") != "read":
            continue
        entry = found.setdefault(
            str(event["file_id"]),
            {"id": str(event["file_id"]), "path": event.get("path"), "sha256": None, "read": "none"},
        )
        entry["version_id"], entry["size"] = event.get("version_id"), event.get("size")
        if event.get("complete"):
            entry["read"], entry["sha256"] = "full", event.get("sha256")
        elif event.get("bytes") and entry["read"] == "none":
            entry["read"] = "partial"
    return list(found.values())


def outputs(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the function wrote to the container, through the stand-in."""
    names = ("path", "version_id", "size", "sha256")
    return [{name: event.get(name) for name in names} for event in events if event.get("kind") == "write"]


def platform_writes(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Changes to what the platform knows of a file or container: hashes, descriptors, tags, deletions."""
    kinds = {"hash", "metadata", "tag", "delete"}
    return [dict(event) for event in events if event.get("kind") in kinds]


def files(events: Iterable[Mapping[str, Any]], ids: Iterable[str]) -> list[dict[str, Any]]:
    """
    Per-file outcomes: `failure` where a message of type ERROR names the file, `skipped` where nothing was done to it.
    """
    outcome: dict[str, dict[str, Any]] = {
        each: {"id": each, "outcome": "skipped", "detail": []} for each in ids
    }
    for event in events:
        target = event.get("file_id") or (event.get("id") if event.get("target") == "file" else None)
        if target is None:
            continue
        entry = outcome.setdefault(str(target), {"id": str(target), "outcome": "skipped", "detail": []})
        if event.get("kind") == "message" and event.get("type") == "ERROR":
            entry["outcome"] = "failure"
            entry["detail"].append(event.get("message"))
        elif entry["outcome"] == "skipped":
            entry["outcome"] = "success"
    return list(outcome.values())


NOT_CAPTURED = [
    "network reads and writes past the libnova library",
    "files the kernel wrote outside the container",
    "non-Python libraries",
]
