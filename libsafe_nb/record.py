"""The run's record: `record.json`, made from plain data. Pure: no disk, no network."""

from __future__ import annotations

import hashlib
import json
import math
import mimetypes
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

SCHEMA = "libsafe-nb-record/1"
BY_PATH = "by-path."
"""How the key begins under which the platform has a function that was called by its path."""


def name_of(key: str) -> str:
    """The name by which people know a function of this key: of one that was called by its path, its file's."""
    return key.removeprefix(BY_PATH)


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


def urn(run: Any, *name: str) -> str:
    """
    An identifier for something of a run, the same each time: a UUID of version 5 (RFC 9562 5.5); without a name the run's.

    `run` is the record's `id`. One that is no UUID, as whoever may write to the container may have put there, has one
    of its own too.
    """
    try:
        own = uuid.UUID(str(run))
    except ValueError:
        own = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(str(run)))
    # As JSON two names differ wherever their parts do, and half characters are no obstacle.
    return (uuid.uuid5(own, json.dumps(name)) if name else own).urn


ADDED = frozenset({"injected-parameters", "papermill-error-cell-tag"})
"""Tags of cells that papermill adds to a notebook: they are not the author's."""


def source(cell: Mapping[str, Any]) -> str:
    """A cell's source as one text; notebook files hold it as a list of lines or as a string."""
    found = cell["source"]
    return found if isinstance(found, str) else "".join(found)


def code_hash(cells: Iterable[Mapping[str, Any]]) -> str:
    """SHA-256 of the author's code: `[[cell id, source], …]` as canonical JSON, so outputs and formatting do not change it."""
    code = [
        [cell["id"], source(cell)]
        for cell in cells
        if cell["cell_type"] == "code" and not ADDED & set(cell.get("metadata", {}).get("tags", ()))
    ]
    return digest(canonical(code))


def timestamp(moment: datetime) -> str:
    """`2026-11-23T07:08:10.866+00:00`: UTC, milliseconds, the only form that RO-Crate's validator takes."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def section(body: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a record; empty where there is none, or what is no object."""
    found = body.get(name)
    return found if isinstance(found, Mapping) else {}


def entries(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """The objects in a list of a record; none where there is no list."""
    found = body.get(name)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, (list, tuple)) else []


def inputs(
    events: Iterable[Mapping[str, Any]], files: Iterable[Mapping[str, Any]], container: str
) -> list[dict[str, Any]]:
    """
    The run's files as they stood at its start, each with how much of it the function read.

    A file of another container than the run's has the `container` that it was read from.
    """
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
        if event.get("container") not in (None, container):
            entry["container"] = event["container"]
        if event.get("complete"):
            entry["read"], entry["sha256"] = "full", event.get("sha256")
        elif event.get("bytes") and entry["read"] == "none":
            entry["read"] = "partial"
    return list(found.values())


def outputs(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    What the function wrote to the container, through the stand-in, and what the search for keys in it told.

    `secrets_allowed` stands there where the author had a file with a key in it stored, `stubbed` where a replay did not
    store it.
    """
    names = ("container", "path", "version_id", "size", "sha256", "scan")
    found = []
    for event in events:
        if event.get("kind") == "write":
            kind = mimetypes.guess_type(str(event.get("path")))[0]
            found.append({**{name: event.get(name) for name in names}, "format": kind})
            if event.get("secrets_allowed"):
                found[-1]["secrets_allowed"] = True
            if event.get("stubbed"):
                found[-1]["stubbed"] = True
    return found


def platform_writes(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Changes to what the platform knows of a file or container: hashes, descriptors, tags, deletions."""
    kinds = {"hash", "metadata", "tag", "delete"}
    return [dict(event) for event in events if event.get("kind") in kinds]


def calls(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """
    What the function called, in order: each call as it was last known of.

    `status` is `asked` where no answer of the platform is known: then it may have been made or not. `used_runs` is what
    the called run's own record says that it used; `linkage.calls` makes numbers of calls of them.
    """
    names = (
        "call",
        "function",
        "version",
        "sha256",
        "container",
        "job",
        "files",
        "params",
        "status",
        "run",
        "started",
        "ended",
        "evidence",
        "error",
        "attempts",
        "record_sha256",
        "code_sha256",
        "inputs",
        "outputs",
        "used",
        "used_runs",
        "after",
        "reused",
        "fingerprint",
        "not_reused",
        "resumed",
    )
    found: dict[str, dict[str, Any]] = {}
    for event in events:
        if event.get("kind") == "child" and "key" in event:
            key = str(event["key"])
            entry = found.setdefault(key, {**dict.fromkeys(names), "number": _number(key, len(found) + 1)})
            entry.update({name: event[name] for name in names if name in event})
            if event.get("stubbed"):
                entry["stubbed"] = True
    return list(found.values())


def _number(key: str, position: int) -> int:
    """That of a call's key, `{run}/call-{number}`: threads may have been asked in another order than they were noted."""
    told = key.rpartition("/call-")[2]
    return int(told) if told.isascii() and told.isdecimal() and len(told) < 10 else position


def scraps(node: Mapping[str, Any]) -> dict[str, Any]:
    """Values that a notebook glued with scrapbook, by name, read from the MIME bundles of its outputs."""
    found: dict[str, Any] = {}
    for cell in node["cells"]:
        for output in cell.get("outputs", []):
            for kind, scrap in output.get("data", {}).items():
                # One MIME type an encoder: application/scrapbook.scrap.json+json, …text+json, ….
                if (
                    kind.startswith("application/scrapbook.scrap.")
                    and isinstance(scrap, dict)
                    and "name" in scrap
                ):
                    found[str(scrap["name"])] = scrap.get("data")
    return found


def files(
    events: Iterable[Mapping[str, Any]], known: Iterable[Mapping[str, Any]], effects: Iterable[str]
) -> list[dict[str, Any]]:
    """
    Per-file outcomes: `failure` where a message of type ERROR names the file, `skipped` where nothing was done to it.

    `event_types` are the PREMIS event types that the function declares it does to a file (`effects`).
    """
    outcome: dict[str, dict[str, Any]] = {}
    types = list(effects)

    def entry_of(file_id: str, path: Any) -> dict[str, Any]:
        fresh = {"id": file_id, "path": path, "outcome": "skipped", "event_types": types, "detail": []}
        return outcome.setdefault(file_id, fresh)

    for each in known:
        entry_of(str(each["id"]), each.get("fullpath"))
    for event in events:
        target = event.get("file_id") or (event.get("id") if event.get("target") == "file" else None)
        if target is None:
            continue
        entry = entry_of(str(target), event.get("path"))
        if event.get("kind") == "message" and event.get("type") == "ERROR":
            entry["outcome"] = "failure"
            entry["detail"].append(event.get("message"))
        elif entry["outcome"] == "skipped":
            entry["outcome"] = "success"
    return list(outcome.values())


def messages(events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the function said to the job, in order: `at`, `type`, `message`, `file_id`."""
    said = (event for event in events if event.get("kind") == "message")
    return [{name: event.get(name) for name in ("at", "type", "message", "file_id")} for event in said]


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """JSON lines, each canonical."""
    return b"".join(canonical(row) + b"\n" for row in rows)


def lost(started: Mapping[str, Any], message: str) -> dict[str, Any]:
    """
    The record of a run whose machine was lost, which is all that its start record tells; nobody saw how it ended.

    `message` says why it is taken for lost.
    """
    function = section(started, "function")
    return {
        "schema": SCHEMA,
        "id": f"urn:uuid:{started['run']}",
        "job": {"id": str(started["job"])},
        "container": {"id": str(started["container"])},
        "function": {name: function.get(name) for name in ("key", "name", "notebook_sha256")},
        "started": started["started"],
        "ended": None,
        "status": "errored",
        "cause": "machine-lost",
        "error": {"type": "MachineLost", "message": message, "cell_id": None},
        "not_captured": [*NOT_CAPTURED, "everything after the start record"],
    }


NOT_CAPTURED = [
    "network reads and writes past the libnova library",
    "files the kernel wrote outside the container",
    "non-Python libraries",
]

RIGHT = "user-permission:run-function"
"""Under what authority a run acted: the platform let the user's key create or take its job."""


def license_of(container: str) -> str:
    """The record's own licence: it is part of the container, and nobody here may grant more than its owner does."""
    return f"the terms of container {container} apply"
