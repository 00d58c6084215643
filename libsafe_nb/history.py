"""
What happened in a container: its runs, and all that was ever done to one file, as the records tell it.

    runs(archive)          a `Row` for each record, oldest first, then those that began and left none
    of_file(archive, …)    a `Deed` for each thing done to a file, oldest first

Records are read one at a time; of each the run's id is noted on the disk, to know which run left none, and of what it
called the ids until those runs are met. They are believed here; `verify` is what checks them. What cannot be read is told
as a row of its own, never skipped.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import heapq
import json
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from libsafe_nb import flow, record
from libsafe_nb.archive import ALL, Archive, records
from libsafe_nb.errors import ObjectNotFound
from libsafe_nb.spilled import Spilled

BEGUN = re.compile(r"provenance/started/([0-9a-f-]{36})\.json")


@dataclass(frozen=True)
class Row:
    """
    One run.

    Attributes
    ----------
    status
        The record's; `begun` where there is no record (it still runs, or its machine was lost), `unreadable` where
        the evidence holds no record that can be read: `problem` says why.
    ok, failed, skipped
        Files by outcome.
    evidence
        Its address, or its path in a copy.
    folder
        The same within the container.
    replay_of
        The address or path of the record that this run repeated; None for all other runs.
    workflow
        Of a run that another one called `function`, `job` and `run` of the caller; and where its caller's record is here as
        well the `number` of the call and the caller's `evidence`, else None for each.
    """

    started: str
    function: str
    status: str
    evidence: str
    folder: str
    run: str = ""
    container: str = ""
    ended: str = ""
    version: str = ""
    code: str = ""
    job: str = ""
    ok: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float | None = None
    replay_of: str | None = None
    problem: str | None = None
    workflow: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        del found["folder"]
        return {**found, "files": {name: found.pop(name) for name in ("ok", "failed", "skipped")}}


@dataclass(frozen=True)
class Deed:
    """
    One thing that a run did to a file.

    Attributes
    ----------
    what
        `read`, `read in part`, `written`, `hash set`, `metadata set`, `tag added`, `tag removed`, `deleted`, `restored`,
        `failed`, `skipped`; `handled` where the record says only that it succeeded.
    digests
        Of the version that was read or written, or the hash that was set, by algorithm.
    stubbed
        A replay noted it and did not do it.
    """

    at: str
    what: str
    run: Row
    file: str | None = None
    path: str | None = None
    version_id: str | None = None
    size: int | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""
    stubbed: bool = False

    def to_json(self) -> dict[str, Any]:
        shown = {
            each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "run"
        }
        named = ("run", "job", "function", "version", "code", "evidence", "replay_of", "workflow")
        return {**shown, **{name: getattr(self.run, name) for name in named}}


def runs(archive: Archive) -> Iterator[Row]:
    """All runs below `archive.start`, oldest first; at last those that began and left no record."""
    seen = Spilled()
    for row, _ in _read(archive):
        seen.add(row.run)
        yield row
    if archive.start in ("", ALL):
        yield from _begun(archive, seen)


def of_file(archive: Archive, file: str) -> Iterator[Deed]:
    """
    All that was done to a file, oldest first.

    `file` is an id, or a path. The records link the two: by its id, what was written to any path that it ever had is
    found; by a path, all that was done to whatever file stood there, also under its other names.
    """
    ids, paths = _names(archive, file)
    for row, body in _read(archive):
        yield from _deeds(row, body, ids, paths)


# The records ----------------------------------------------------------------------------------------------------


def _read(archive: Archive) -> Iterator[tuple[Row, Mapping[str, Any]]]:
    """Each run and its record, oldest first; an empty record where it cannot be read."""
    calls: dict[str, tuple[int, str]] = {}
    for folder in _folders(archive):
        place = f"{archive.place.rstrip('/')}/{folder.removeprefix(archive.start)}"
        try:
            body = json.loads(archive.read(f"{folder}record.json"))
            row = _step(_row(body, folder, place), body, calls)
        except ObjectNotFound:
            yield _unreadable(folder, place, "there is no record.json"), {}
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as exc:
            yield _unreadable(folder, place, f"record.json is no record ({type(exc).__name__}: {exc})"), {}
        else:
            yield row, body


def _step(row: Row, body: Mapping[str, Any], calls: dict[str, tuple[int, str]]) -> Row:
    """
    The row with whose step it was. A caller begins before what it calls, so its record was read before.

    `calls` are those of which no run was met yet, by their runs.
    """
    for node in flow.calls_of(body):
        if node.run and node.number and not (node.reused or node.stubbed):
            calls[node.run] = (node.number, row.evidence)
    parent = record.section(body, "parent")
    if not parent:
        return row
    number, evidence = calls.pop(row.run, (None, None))
    told = {name: _text(parent.get(name)) for name in ("function", "job", "run")}
    return dataclasses.replace(row, workflow={**told, "number": number, "evidence": evidence})


def _folders(archive: Archive) -> Iterator[str]:
    """
    Folders with evidence by the time in their names, which is that of the run's start.

    Within a function the listing is in that order already, so the functions' listings are merged and none is held.
    """
    start = archive.start or ALL
    parts = [_below(archive, f"{ALL}{top}/") for top in archive.folders(ALL)] if start == ALL else [archive]
    return heapq.merge(*map(records, parts), key=lambda folder: folder.rstrip("/").rpartition("/")[2])


def _below(archive: Archive, start: str) -> Archive:
    part = copy.copy(archive)
    part.start = start
    return part


def _row(body: Mapping[str, Any], folder: str, place: str) -> Row:
    function, outcomes = body["function"], [str(each.get("outcome")) for each in body.get("files") or ()]
    origin = body.get("replay_of")
    return Row(
        run=str(body["id"]).removeprefix("urn:uuid:"),
        container=str(body["container"]["id"]),
        started=str(body["started"]),
        ended=str(body.get("ended") or ""),
        function=str(function.get("title") or function.get("key") or function.get("name")),
        version=str(function.get("version") or ""),
        code=str(function.get("code_sha256") or "")[:12],
        status=str(body["status"]),
        job=str(body["job"]["id"]),
        ok=outcomes.count("success"),
        failed=outcomes.count("failure"),
        skipped=outcomes.count("skipped"),
        seconds=_seconds(body),
        evidence=place,
        folder=folder,
        replay_of=str(origin.get("record")) if isinstance(origin, Mapping) else None,
    )


def _seconds(body: Mapping[str, Any]) -> float | None:
    with contextlib.suppress(ValueError, TypeError):
        first, last = (datetime.fromisoformat(str(body.get(name))) for name in ("started", "ended"))
        return round((last - first).total_seconds(), 3)
    return None


def _unreadable(folder: str, place: str, problem: str) -> Row:
    """A run of which only the folder tells: function, time and job stand in its name."""
    found = re.search(r"([^/]+)/(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)(\d{3})Z-job([^/]*)/$", folder)
    function, *parts, job = found.groups() if found else (folder, "")
    started = "{}-{}-{}T{}:{}:{}.{}+00:00".format(*parts) if found else ""
    return Row(
        started=started,
        function=function,
        job=job,
        status="unreadable",
        evidence=place,
        folder=folder,
        problem=problem,
    )


def _begun(archive: Archive, seen: Container[str]) -> Iterator[Row]:
    """Runs that were announced before their first cell and have no record."""
    rows = Spilled()
    for path, _ in archive.list(f"{ALL}started/"):
        found = BEGUN.fullmatch(path)
        if found is None or found[1] in seen:
            continue
        place = f"{archive.place.rstrip('/')}/{path.removeprefix(archive.start)}"
        known: Any = {}
        with contextlib.suppress(ObjectNotFound, ValueError):
            known = json.loads(archive.read(path))
        known = known if isinstance(known, dict) else {}
        function = known.get("function") if isinstance(known.get("function"), dict) else {}
        row = Row(
            run=found[1],
            container=str(known.get("container") or ""),
            started=str(known.get("started") or ""),
            function=str(function.get("key") or function.get("name") or ""),
            status="begun",
            job=str(known.get("job") or ""),
            evidence=place,
            folder=path,
            problem="no record: it is running, or its machine was lost",
        )
        rows[f"{row.started} {path}"] = vars(row)
    yield from (Row(**each) for each in rows.values())


# One file -------------------------------------------------------------------------------------------------------


def _names(archive: Archive, file: str) -> tuple[set[str], set[str]]:
    """The ids and paths that a file is known by: from its id all its paths, from a path the ids that stood there."""
    by_id = file.isascii() and file.isdigit()
    ids, paths = ({file}, set()) if by_id else (set(), {_plain(file)})
    for _, body in _read(archive):
        for entry in (*record.entries(body, "inputs"), *record.entries(body, "files")):
            # A path of another container is none of this one's.
            elsewhere = entry.get("container") not in (None, _container(body))
            if not entry.get("id") or not entry.get("path") or elsewhere:
                continue
            if by_id and str(entry["id"]) == file:
                paths.add(_plain(entry["path"]))
            elif not by_id and _plain(entry["path"]) in paths:
                ids.add(str(entry["id"]))
    return ids, paths


def _container(body: Mapping[str, Any]) -> Any:
    return record.section(body, "container").get("id")


def _plain(path: Any) -> str:
    return str(path).strip("/")


def _deeds(row: Row, body: Mapping[str, Any], ids: set[str], paths: set[str]) -> Iterator[Deed]:
    """In the order of what a run does: it reads, writes, tells the platform, and then its outcome is known."""

    def meant(entry: Mapping[str, Any], file: Any) -> bool:
        return str(file) in ids if file else bool(entry.get("path")) and _plain(entry["path"]) in paths

    done = 0
    for entry in record.entries(body, "inputs"):
        if meant(entry, entry.get("id")) and entry.get("read") != "none":
            done += 1
            yield _bytes(row, entry, "read" if entry.get("read") == "full" else "read in part")
    for entry in record.entries(body, "outputs"):
        # A function may write to another container, where a file of the same path is another file.
        if meant(entry, None) and entry.get("container") in (None, row.container):
            done += 1
            yield _bytes(row, entry, "written")
    for entry in record.entries(body, "platform_writes"):
        target = entry.get("file_id") or (entry.get("id") if entry.get("target") == "file" else None)
        if target and meant(entry, target):
            done += 1
            yield _write(row, entry, str(target))
    for entry in record.entries(body, "files"):
        if meant(entry, entry.get("id")):
            yield from _outcome(row, entry, done)


def _bytes(row: Row, entry: Mapping[str, Any], what: str) -> Deed:
    return Deed(
        at=row.started,
        what=what,
        run=row,
        file=_text(entry.get("id")),
        path=_text(entry.get("path")),
        version_id=_text(entry.get("version_id")),
        size=entry.get("size") if isinstance(entry.get("size"), int) else None,
        digests={"sha256": str(entry["sha256"])} if entry.get("sha256") else {},
        stubbed=entry.get("stubbed") is True,
    )


_WORDS = {
    ("hash", None): "hash set",
    ("metadata", None): "metadata set",
    ("tag", "add"): "tag added",
    ("tag", "remove"): "tag removed",
    ("delete", "delete"): "deleted",
    ("delete", "restore"): "restored",
}


def _write(row: Row, entry: Mapping[str, Any], file: str) -> Deed:
    kind, action = str(entry.get("kind")), _text(entry.get("action"))
    digests = {str(entry.get("algorithm")): str(entry.get("value"))} if kind == "hash" else {}
    codes = entry.get("iecodes")
    return Deed(
        at=str(entry.get("at") or row.started),
        what=_WORDS.get((kind, action), kind),
        run=row,
        file=file,
        digests=digests,
        detail=", ".join(map(str, codes)) if isinstance(codes, list) else _text(entry.get("tag")) or "",
        stubbed=entry.get("stubbed") is True,
    )


def _outcome(row: Row, entry: Mapping[str, Any], done: int) -> Iterator[Deed]:
    """What the record says of the file as a whole, where that is more than what was told already."""
    outcome = entry.get("outcome")
    what = {"failure": "failed", "skipped": "skipped"}.get(str(outcome))
    if what is None and not done:
        what = "handled"
    if what is not None:
        details = entry.get("detail")
        yield Deed(
            at=row.ended or row.started,
            what=what,
            run=row,
            file=_text(entry.get("id")),
            path=_text(entry.get("path")),
            detail="; ".join(map(str, details)) if isinstance(details, list) else "",
        )


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
