"""
One record's folder against itself: its sums, and what the record, its notebook (notebookcheck.py) and the environment
say of each other.

Pure: the bytes of the files in, checks out. Whoever changes one file and makes `SHA256SUMS` anew is found here where
another file tells the same thing; where none does, the chain tells (`chaincheck.py`).
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

from libsafe_nb import environment, evidence, notebookcheck, record
from libsafe_nb.checks import Check, differs, short
from libsafe_nb.execution import CAUSES, CELL_STATUSES

RECORD, NOTEBOOK, MESSAGES = "record.json", "executed.ipynb", "messages.jsonl"

STATUSES = ("completed", "failed", "errored", "timeout", "cancelled")
BAD = frozenset({"failed", "timed-out", "interrupted", "killed", "running"})
"""States of a cell with which no run is completed."""

NEEDED = ("schema", "id", "job", "container", "function", "started", "ended", "status", "error")
"""Fields of every record, also of one that a recovery wrote for a lost machine."""

_SUM = re.compile(r"([0-9a-f]{64})  ([^/\x00-\x1f]+)")
_ROUNDING = timedelta(milliseconds=1)
"""The record writes milliseconds, the engine microseconds."""

Body = Mapping[str, Any]


def check(folder: str, files: Mapping[str, bytes]) -> Iterator[Check]:
    """All checks of one record; `folder` is its path with a trailing slash, empty where only the folder is at hand."""
    body = parsed(files.get(RECORD))
    yield from _sums(folder, files, lost=is_lost(body))
    if RECORD not in files:
        yield Check("record", "missing", folder + RECORD, "the record is not there")
        return
    problem = _record_problem(files[RECORD], body)
    yield _told("record", folder + RECORD, problem)
    if not isinstance(body, dict) or any(name not in body for name in NEEDED):
        return
    yield from _each(folder + RECORD, body, (("status", _status), ("times", _times)))
    if folder:
        yield _told("place", folder, guarded(_place, folder, body))
    if is_lost(body):
        return
    yield from _each(folder + RECORD, body, (("payload", _payload),))
    yield from _named(folder, files, body)
    node = parsed(files.get(NOTEBOOK))
    if NOTEBOOK in files:
        for name, ask in notebookcheck.ASKS.items():
            yield _told(name, folder + NOTEBOOK, guarded(ask, body, node))
    if environment.FILE in files:
        data = files[environment.FILE]
        yield _told("environment", folder + environment.FILE, guarded(_environment, body, data))


def parsed(data: bytes | None) -> Any:
    """The JSON in `data`, or None."""
    try:
        return json.loads(data) if data is not None else None
    except (ValueError, RecursionError):
        return None


def is_lost(body: Any) -> bool:
    """Whether a recovery wrote the record for a machine that was lost: it has few fields and no notebook."""
    return isinstance(body, dict) and body.get("cause") == "machine-lost"


def moment(text: Any) -> datetime:
    """
    Raises
    ------
    ValueError
        It is no time with an offset.
    """
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text} has no offset from UTC")
    return found


def _told(name: str, place: str, problem: str | None) -> Check:
    return Check(name, "changed" if problem else "ok", place, problem or "")


def guarded(ask: Callable[..., str | None], *arguments: Any) -> str | None:
    """What `ask` says; what is not of the shape that it reads was not written by us."""
    try:
        return ask(*arguments)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as exc:
        return f"is not of the expected shape ({type(exc).__name__}: {str(exc)[:120]})"


def _each(
    place: str, body: Body, asks: Sequence[tuple[str, Callable[[Body], str | None]]]
) -> Iterator[Check]:
    for name, ask in asks:
        yield _told(name, place, guarded(ask, body))


# The files -------------------------------------------------------------------------------------------------------


def _sums(folder: str, files: Mapping[str, bytes], *, lost: bool) -> Iterator[Check]:
    """`SHA256SUMS` tells every file of the folder, and no other (GNU coreutils, sha256sum; RFC 8493 2.1.3)."""
    place = folder + evidence.SUMS
    if evidence.SUMS not in files:
        if not lost:
            yield Check("sums", "missing", place, "there are no sums")
        return
    told: dict[str, str] = {}
    for line in files[evidence.SUMS].decode("utf-8", "replace").split("\n")[:-1]:
        found = _SUM.fullmatch(line)
        if found is None or found[2] in told:
            yield Check(
                "sums", "changed", place, f"expected `DIGEST  NAME`, each name once, found {line[:80]!r}"
            )
        else:
            told[found[2]] = found[1]
    if not files[evidence.SUMS].endswith(b"\n"):
        yield Check("sums", "changed", place, "the last line has no end")
    for name in sorted(told.keys() | files.keys() - {evidence.SUMS}):
        if name not in files:
            yield Check("sums", "missing", folder + name, "it is in SHA256SUMS, and not in the folder")
        elif name not in told:
            yield Check("sums", "changed", folder + name, "it is in the folder, and not in SHA256SUMS")
        else:
            yield _told("sums", folder + name, differs("sha256", told[name], record.digest(files[name])))


def _named(folder: str, files: Mapping[str, bytes], body: Body) -> Iterator[Check]:
    """The files that the record names by their digests."""
    named = {
        NOTEBOOK: ("notebook", (body.get("notebook") or {}).get("sha256")),
        MESSAGES: ("messages", body.get("messages_sha256")),
        environment.FILE: ("environment", (body.get("env") or {}).get("packages_sha256")),
    }
    for file, (name, told) in named.items():
        if file not in files:
            yield Check(name, "missing", folder + file, "the record names it, and it is not there")
        else:
            found = record.digest(files[file])
            yield _told(name, folder + file, differs("the record's digest of it", told, found))
    if NOTEBOOK in files:
        size = (body.get("notebook") or {}).get("size")
        yield _told("notebook", folder + NOTEBOOK, differs("size", size, len(files[NOTEBOOK])))


def _record_problem(data: bytes, body: Any) -> str | None:
    """It is canonical JSON (RFC 8785) of the record's schema."""
    if not isinstance(body, dict):
        return "is no JSON object"
    try:
        same = record.canonical(body) == data
    except (ValueError, TypeError, RecursionError):
        same = False
    if not same:
        return "is not canonical JSON (RFC 8785), in which records are written"
    lacking = [name for name in NEEDED if name not in body]
    if lacking:
        return f"lacks {', '.join(lacking)}"
    if body["schema"] != record.SCHEMA:
        return f"schema: expected {record.SCHEMA!r}, found {short(body['schema'])}"
    return _schema_problem(body)


def _schema_problem(body: Any) -> str | None:
    validator = _validator()
    if validator is None:
        return None
    for error in validator.iter_errors(body):
        where = "/".join(map(str, error.absolute_path)) or "the record"
        return f"{where}: {error.message[:200]}"
    return None


@functools.cache
def _validator() -> Any:
    """Of `data/record.schema.json`."""
    # A dependency of nbformat; imported here since it takes a while.
    import jsonschema  # type: ignore[import-untyped] # it ships no types

    place = importlib.resources.files("libsafe_nb") / "data" / "record.schema.json"
    if not place.is_file():
        return None
    schema = json.loads(place.read_bytes())
    return jsonschema.validators.validator_for(schema)(schema)


# The record alone ------------------------------------------------------------------------------------------------


def _status(body: Body) -> str | None:
    """A status is never implied, and an error goes with a run that is not completed (evidence.md 5)."""
    status, error, cells = body["status"], body["error"], body.get("cells") or []
    if status not in STATUSES:
        return f"status: expected one of {', '.join(STATUSES)}, found {short(status)}"
    if body.get("cause") is not None and body["cause"] not in CAUSES:
        return f"cause: {short(body['cause'])} is none that is known"
    states = [cell["status"] for cell in cells]
    unknown = sorted(set(states) - set(CELL_STATUSES))
    if unknown:
        return f"cells: {unknown[0]!r} is no state of a cell"
    if status == "completed":
        bad = next((each for each in cells if each["status"] in BAD), None)
        if bad is not None:
            return f"the run is completed, and its cell {bad['cell_id']} {bad['status']}"
        if error is not None:
            return "the run is completed, and has an error"
        if body.get("job_result") is False:
            return "the run is completed, and its function told the job that it failed"
        if "not-run" in states and "exited" not in states:
            return "the run is completed, and a cell was not run though none had ended the run"
    elif error is None and body.get("job_result") is not False and body.get("cause") is None:
        return f"the run is {status}, and there is no error"
    elif body.get("cause") == "call-failed":
        if all(each.get("status") == "completed" for each in body.get("calls") or ()):
            return "the run ended for a call that did not complete, and all its calls completed"
    elif status == "failed" and "failed" not in states and body.get("job_result") is not False:
        return "the run is failed, and no cell of it failed"
    return _order(cells)


def _order(cells: Sequence[Body]) -> str | None:
    """After the cell that stopped the run none was run."""
    stopped: str | None = None
    for cell in cells:
        if stopped is not None and cell["status"] not in ("not-run", "skipped"):
            return f"the run stopped at cell {stopped}, and cell {cell['cell_id']} is {cell['status']}"
        if stopped is None and cell["status"] in BAD | {"exited", "not-run"}:
            stopped = cell["cell_id"]
    return None


def _times(body: Body) -> str | None:
    """The run's start, its cells one after the other, and its end are in order."""
    last, what = moment(body["started"]), "the run's start"
    for cell in body.get("cells") or []:
        for name in ("started", "ended"):
            if cell[name] is None:
                continue
            at = moment(cell[name])
            if at + _ROUNDING < last:
                return f"cell {cell['cell_id']} {name} {cell[name]}, before {what}"
            last, what = at, f"cell {cell['cell_id']} {name}"
    if body["ended"] is None:
        return None if is_lost(body) else "the run has no end"
    if moment(body["ended"]) + _ROUNDING < last:
        return f"the run ended {body['ended']}, before {what}"
    return None


def _place(folder: str, body: Body) -> str | None:
    """The folder is named after function, start and job (contract 5)."""
    function = body["function"]
    name = function.get("key") or PurePosixPath(str(function.get("name") or "function")).stem
    named = evidence.folder(function=name, started=moment(body["started"]), job=str(body["job"]["id"]))
    expected = f"{named}-lost/" if is_lost(body) else f"{named}/"
    return differs("the folder of the record's function, start and job", expected, folder)


def _payload(body: Body) -> str | None:
    """The payload's digest, and what the record repeats of it."""
    payload = body["payload"]
    data = payload["function_data"]
    inputs = {each["id"] for each in body["inputs"]}
    problems = (
        differs("payload_sha256", body["payload_sha256"], record.digest(record.canonical(payload))),
        differs("the payload's job", body["job"]["id"], data["job"]["id"]),
        differs("the payload's container", body["container"]["id"], data["container"]["id"]),
        differs("the payload's user", body["agent"]["user"]["id"], (data.get("user") or {}).get("id")),
        differs("inputs without an outcome", [], sorted(inputs - {each["id"] for each in body["files"]})),
    )
    return next(filter(None, problems), None)


def _environment(body: Body, data: bytes) -> str | None:
    """The environment's file, its own digest, and what the record repeats of it."""
    found, sha256 = _surroundings(data)
    told = body["env"]
    problems = (
        differs("the environment's digest", found["digest"], sha256),
        differs("the record's digest of the environment", told["digest"], found["digest"]),
        differs("Python", told["python"], (found["python"] or {}).get("version")),
        differs("platform", told["platform"], found["platform"]),
        differs("image", told["image_digest"], found["image"]),
        differs("variables", body["env_vars"], found["env_vars"]),
    )
    return next(filter(None, problems), None)


@functools.lru_cache(maxsize=8)
def _surroundings(data: bytes) -> tuple[Any, str]:
    """An environment and its digest; a container's records mostly share a few, and digests of 200 packages cost."""
    found = json.loads(data)
    return found, environment.digest(found)
