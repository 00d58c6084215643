"""
A container's records against its chain (contract 5), the chain against a head kept elsewhere, and start records.

What can be told without the outside head: a record or a link that was changed, taken out of the middle, put in or
moved. With it also a tail that was cut off, and a chain that was made anew.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from libsafe_nb import chain, evidence, record
from libsafe_nb.archive import Archive, links
from libsafe_nb.checks import Check, differs
from libsafe_nb.errors import ObjectNotFound
from libsafe_nb.spilled import Spilled
from libsafe_nb.witnesscheck import Beside, Trust

FIELDS = {"seq", "prev", "record", "record_sha256", "sums_sha256", "run"}
STARTED = "provenance/started/"


@dataclass(frozen=True)
class Head:
    """A link as it was told outside the container: its number, the sha256 of its bytes, and who told."""

    seq: int
    sha256: str
    source: str = "given"


@dataclass
class Chain:
    """
    The links of a container: `read` them once, then ask for each record.

    What is held of them lies on the disk: memory does not grow with their number.
    """

    links: Spilled = field(default_factory=Spilled)
    """By the record's path. What is still here when all records were looked at has no record."""
    digests: Spilled = field(default_factory=Spilled)
    """By the link's path."""

    def read(self, archive: Archive, *, trust: Trust) -> Iterator[Check]:
        """Each link is well-formed, follows the one before it, and is the only one of its record."""
        expected, prev = 1, None
        beside = Beside(archive, trust)
        runs = Spilled()
        for seq, data in links(archive):
            place = chain.path(seq)
            while expected < seq:
                yield Check(
                    "chain", "missing", chain.path(expected), f"link {expected} is not there, link {seq} is"
                )
                expected, prev = expected + 1, None
            body = _parsed(data)
            problem = _problem(seq, body, data)
            well = body if problem is None else None
            if problem is None and body is not None:
                # After a hole only the hole is told: it is what the next link names.
                if body["prev"] != prev and (prev is not None or seq == 1):
                    problem = f"prev: expected {prev}, the link before it, found {body['prev']}"
                elif (other := self.links.get(body["record"])) is not None:
                    problem = f"{body['record']} has another link, {other['seq']}"
                elif (number := runs.get(body["run"])) is not None:
                    problem = f"run {body['run']} has another link, {number}"
                self.links.setdefault(body["record"], body)
                runs.setdefault(body["run"], seq)
            self.digests[place] = prev = record.digest(data)
            expected = seq + 1
            yield Check("chain", "changed" if problem else "ok", place, problem or "")
            yield from beside.check(seq, data, well)
        deleted = Spilled(archive.deleted(f"{chain.FOLDER}/"))
        for gone in deleted:
            if chain.number(gone) is not None:
                yield Check("chain", "missing", gone, "the link was deleted")
        yield from beside.rest(self.digests, deleted)

    def read_link(self, archive: Archive, seq: int) -> Iterator[Check]:
        """One link alone, for `check_record` of its record: it is well-formed, and the link after it, if there is one, names it."""
        place = chain.path(seq)
        data = archive.read(place)
        body = _parsed(data)
        problem = _problem(seq, body, data)
        if problem is None and body is not None:
            self.links.setdefault(body["record"], body)
            with contextlib.suppress(ObjectNotFound):
                after = _parsed(archive.read(chain.path(seq + 1))) or {}
                problem = differs("prev of the link after it", record.digest(data), after.get("prev"))
        yield Check("chain", "changed" if problem else "ok", place, problem or "")

    def check_record(self, folder: str, files: Mapping[str, bytes]) -> Iterator[Check]:
        """The record and its sums are those of its link."""
        place = folder + "record.json"
        body = self.links.pop(place, None)
        if body is None:
            yield Check("link", "missing", folder, "no link of the chain names this record")
            return
        for name, key in (("record.json", "record_sha256"), (evidence.SUMS, "sums_sha256")):
            if name in files:
                found = record.digest(files[name])
                same = found == body[key]
                detail = "" if same else f"link {body['seq']} says {body[key]}, found {found}"
                yield Check("link", "ok" if same else "changed", folder + name, detail)
        found_id = (_parsed(files.get("record.json", b"")) or {}).get("id")
        same = found_id == f"urn:uuid:{body['run']}"
        detail = "" if same else f"link {body['seq']} is of run {body['run']}, the record of {found_id}"
        yield Check("link", "ok" if same else "changed", place, detail)

    def rest(self, start: str) -> Iterator[Check]:
        """Links below `start` whose record was not met."""
        for place, body in self.links.items():
            if place.startswith(start):
                yield Check("link", "missing", place, f"link {body['seq']} names it, and it is not there")

    def check_heads(self, heads: Iterable[Head]) -> Iterator[Check]:
        """The chain holds what was told of it elsewhere; of several tellings all that differ are told."""
        told = False
        for head in heads:
            told = True
            place = chain.path(head.seq)
            found = self.digests.get(place)
            if found is None:
                yield Check("head", "missing", place, f"{head.source}: the chain reached link {head.seq}")
            elif found != head.sha256:
                detail = f"{head.source}: the link was {head.sha256}, found {found}"
                yield Check("head", "changed", place, detail)
            else:
                yield Check("head", "ok", place)
        if not told:
            detail = "nothing outside the container tells the chain's head: a tail cut off, or a chain made anew, is not seen"
            yield Check("head", "not-checked", chain.FOLDER, detail)


def check_start(archive: Archive, folder: str, body: Mapping[str, Any]) -> Check:
    """
    The start record, put before cell 1, says what the record says of its start.

    "Contemporaneous records of actions" (ISO 16363 4.2.10): a record without one may have been made later.
    """
    run = run_of(body)
    place = f"{STARTED}{run}.json"
    try:
        started = _parsed(archive.read(place))
    except ObjectNotFound:
        return Check("start", "missing", place, f"{folder}record.json has no start record")
    if started is None:
        return Check("start", "changed", place, "it is no JSON object")
    expected = {
        "run": run,
        "job": record.section(body, "job").get("id"),
        "container": record.section(body, "container").get("id"),
        "started": body.get("started"),
    }
    function, of_record = record.section(started, "function"), record.section(body, "function")
    for name, value in expected.items():
        if str(started.get(name)) != str(value):
            return Check(
                "start", "changed", place, f"{name}: the record says {value}, found {started.get(name)}"
            )
    for name in ("key", "name", "notebook_sha256"):
        if function.get(name) != of_record.get(name):
            detail = f"function.{name}: the record says {of_record.get(name)}, found {function.get(name)}"
            return Check("start", "changed", place, detail)
    return Check("start", "ok", place)


def check_unfinished(archive: Archive, runs: Container[str]) -> Iterator[Check]:
    """Start records of runs without a record. `provenance/started/{run}.{n}.json` only renews one."""
    for place, _ in archive.list(STARTED):
        name = place.removeprefix(STARTED).removesuffix(".json")
        if "." not in name and name not in runs:
            detail = f"run {name} began, and there is no record of it: it still runs, waits for `recover`, or its record was taken away"
            yield Check("start", "missing", place, detail)
    for place in archive.deleted(STARTED):
        yield Check("start", "missing", place, "the start record was deleted")


def run_of(body: Mapping[str, Any]) -> str:
    return str(body.get("id")).removeprefix("urn:uuid:")


def _parsed(data: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _problem(seq: int, body: dict[str, Any] | None, data: bytes) -> str | None:
    if body is None or set(body) != FIELDS:
        return f"expected an object of {', '.join(sorted(FIELDS))}"
    if body["seq"] != seq:
        return f"seq: expected {seq}, as it is named, found {body['seq']}"
    texts = [body[name] for name in FIELDS - {"seq", "prev"}]
    if not all(isinstance(each, str) for each in texts) or not isinstance(body["prev"], (str, type(None))):
        return "expected texts"
    try:
        same = record.canonical(body) == data
    except (ValueError, TypeError):
        same = False
    return None if same else "is not canonical JSON (RFC 8785)"
