"""
Verification of evidence: is what lies there what the runs left, and is all of it there?

    a record's folder     against itself (recordcheck.py), and its crate and PREMIS against the record (crosscheck.py)
    a container           each record, its start record, its link; the chain, and a head of it kept elsewhere
                          (chaincheck.py); inputs and outputs, in the versions that the records name
    a tree of runs        also what they called, and what both say of each other (deepcheck.py)

Offline on a copy, or over S3. No kernel is started, nothing is written, and the memory that is used grows with
neither the number nor the size of the records; with what is not as recorded, up to `checks.KEPT` of it. What each check means: docs/verification.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import heapq
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import archive as archives
from libsafe_nb import chain as chains
from libsafe_nb import chaincheck, crosscheck, record, recordcheck, signing, timestamping
from libsafe_nb.archive import ALL, Archive, Container, Folder
from libsafe_nb.chaincheck import Chain, Head
from libsafe_nb.checks import FOLDER, Check, Report
from libsafe_nb.deepcheck import Tree
from libsafe_nb.errors import ObjectNotFound, PlatformError, UsageError
from libsafe_nb.spilled import Spilled
from libsafe_nb.witnesscheck import Trust

if TYPE_CHECKING:
    from libsafe_nb.settings import Settings

ASKED = 20
"""Of so many jobs, the latest, the messages are read for the chain's head."""

NO_TRUST = Trust()
_BLOCK = 1024 * 1024
_HEAD = re.compile(r"chain: ([1-9][0-9]{0,7}) ([0-9a-f]{64})")

Given = Head | Mapping[str, Any] | None


def verify(
    evidence: str | Path | Archive,
    *,
    head: Given = None,
    files: bool = True,
    deep: bool = False,
    keys: Sequence[str | Path] = (),
    tsa_certs: Sequence[str | Path] = (),
    settings: Settings | None = None,
    seen: Callable[[Check], None] | None = None,
) -> Report:
    """
    Check evidence; the report keeps what is not as recorded, and counts the rest.

    Parameters
    ----------
    evidence
        A folder: a record's, a `provenance` folder or a container's copy; or a container: its id, or
        `libsafe://CONTAINER[/provenance/…]`.
    head
        `{"seq": …, "sha256": …}` of a link, as it was told outside the container. Without it the messages of the
        container's jobs are asked, where there is a platform.
    files
        Read the inputs and outputs again.
    deep
        Check all that the runs called as well, wherever it lies, and that caller and called say the same of each other.
    keys
        Files of Ed25519 public keys (PEM). Each link's signature must be by one of them; a link without one is
        `missing`, unless no link up to it has any. Without keys signatures are `not-checked`.
    tsa_certs
        Files of certificates (PEM) to which those of time-stamp authorities must lead. Without any, time stamps are
        compared with their links, and are `not-checked`.
    seen
        Called with each check as it is made.

    Raises
    ------
    UsageError
        There is no such folder, or the address is none; a file of `keys` or `tsa_certs` holds none.
    LibsafeError
        The platform or its storage did not answer.
    """
    trust = Trust(
        tuple(signing.public_key(each) for each in keys),
        tuple(root for each in tsa_certs for root in timestamping.roots(each)),
    )

    def told(archive: Archive) -> Iterator[Check]:
        for each in check(archive, head=_head(head), files=files, deep=deep, trust=trust):
            if seen is not None:
                seen(each)
            yield each

    if not isinstance(evidence, (str, Path)):
        return Report.of(evidence.place, told(evidence))
    with contextlib.closing(archives.at(str(evidence), settings=settings)) as found:
        return Report.of(found.place, told(found))


def check(
    archive: Archive,
    *,
    head: Head | None = None,
    files: bool = True,
    deep: bool = False,
    trust: Trust = NO_TRUST,
) -> Iterator[Check]:
    """All checks, record by record, as they are made."""
    chain = Chain()
    tree = _tree(archive, chain, files=files, trust=trust) if deep else None
    yield from chain.read(archive, trust=trust)
    if not chain.digests and _is_lone(archive):
        checks = _folder(archive, head, trust)
        yield from checks if tree is None else tree.node(archive, archive.start, _read(archive), checks)
        return
    runs = Spilled()
    jobs: deque[str] = deque(maxlen=ASKED)
    found = False
    for folder in archives.records(archive):
        found = True
        contents = _contents(archive, folder)
        body = recordcheck.parsed(contents.get(recordcheck.RECORD))
        checks = _record(archive, chain, folder, contents, body, files=files)
        yield from checks if tree is None else tree.node(archive, folder, body, checks)
        if isinstance(body, dict):
            yield from _known_once(runs, folder, body)
            jobs.append(_job(body))
    yield from chain.rest(archive.start)
    if archive.start in ("", ALL):
        yield from chaincheck.check_unfinished(archive, runs)
        for gone in archive.deleted(ALL):
            if not gone.startswith((f"{chains.FOLDER}/", chaincheck.STARTED)):
                yield Check("record", "missing", gone, "the file was deleted")
    elif not found:
        yield Check("record", "missing", archive.start, "there is no evidence here")
    if not found and not chain.digests:
        yield Check("record", "missing", archive.place, "there is no evidence here")
    yield from chain.check_heads([head] if head else _heads(archive, jobs))
    if tree is not None:
        yield from tree.rest()
        for where, other in tree.others:
            for each in other.check_heads(_heads(where, ())):
                yield dataclasses.replace(each, place=tree.place(where, each.place))


def _tree(archive: Archive, chain: Chain, *, files: bool, trust: Trust) -> Tree:
    """What the records call: in other containers as well, each against its own chain."""
    return Tree(
        archive,
        chain,
        opened=lambda other, where: other.read(where, trust=trust),
        checked=lambda where, other, folder, contents, body: _record(
            where, other, folder, contents, body, files=files
        ),
    )


def _read(archive: Archive) -> Any:
    """The record of a folder alone."""
    with contextlib.suppress(ObjectNotFound):
        return recordcheck.parsed(archive.read(f"{archive.start}{recordcheck.RECORD}"))
    return None


def _record(
    archive: Archive,
    chain: Chain,
    folder: str,
    contents: Mapping[str, bytes],
    body: Any,
    *,
    files: bool,
) -> Iterator[Check]:
    yield from recordcheck.check(folder, contents)
    yield from chain.check_record(folder, contents)
    if isinstance(body, dict):
        yield from crosscheck.check(folder, contents, body)
        yield chaincheck.check_start(archive, folder, body)
        yield from _files(archive, folder, body, read=files)


def _folder(archive: Archive, head: Head | None, trust: Trust) -> Iterator[Check]:
    """A record's folder away from its container."""
    contents = _contents(archive, archive.start)
    yield from recordcheck.check("", contents)
    body = recordcheck.parsed(contents.get(recordcheck.RECORD))
    if isinstance(body, dict):
        yield from crosscheck.check("", contents, body)
    detail = "checked as a folder: its chain, its start record, its inputs and outputs are not at hand"
    yield Check(FOLDER, "not-checked", archive.place, detail)
    if head is not None:
        yield Check(
            "head", "not-checked", archive.place, "a head was given, and there is no chain to compare it with"
        )
    for name, given in (("signature", trust.keys), ("timestamp", trust.roots)):
        if given:
            yield Check(
                name, "not-checked", archive.place, "there is no chain, and it is links that have one"
            )


def _is_lone(archive: Archive) -> bool:
    """Whether it is one record's folder on a disk."""
    return isinstance(archive, Folder) and next(archives.records(archive), None) == archive.start


def _contents(archive: Archive, folder: str) -> dict[str, bytes]:
    """The files of a record's folder, in memory: what a notebook may show is limited (`execution.Limits`)."""
    return {path.removeprefix(folder): archive.read(path) for path, _ in archive.list(folder)}


def _known_once(runs: Spilled, folder: str, body: Mapping[str, Any]) -> Iterator[Check]:
    run = chaincheck.run_of(body)
    if run in runs:
        yield Check("record", "changed", folder, f"another record is of run {run} too")
    runs.add(run)


def _job(body: Mapping[str, Any]) -> str:
    job = body.get("job")
    return str(job.get("id")) if isinstance(job, dict) else ""


# Inputs and outputs ---------------------------------------------------------------------------------------------


def _files(archive: Archive, folder: str, body: Mapping[str, Any], *, read: bool) -> Iterator[Check]:
    """
    Inputs and outputs whose digest the record knows.

    In a container the version that the record names must be those bytes. Without versions the file at its path may be
    a later one, so only equal bytes say something. What a replay did not write is nowhere, and what belongs to another
    container is not here: a file of the same path is another file.
    """
    home = record.section(body, "container").get("id")
    for name in ("inputs", "outputs"):
        for entry in record.entries(body, name):
            if not entry.get("sha256") or not entry.get("path"):
                continue
            if entry.get("stubbed") and body.get("replay_of"):
                continue
            place = str(entry["path"]).lstrip("/")
            if entry.get("container") not in (None, home):
                yield Check(
                    name,
                    "not-checked",
                    place,
                    f"it belongs to container {entry['container']}, not to this one",
                )
            elif not read:
                yield Check(
                    name, "not-checked", place, f"{folder}record.json names it, and files are not read"
                )
            else:
                yield _file(archive, name, place, entry)


def _file(archive: Archive, name: str, place: str, entry: Mapping[str, Any]) -> Check:
    version = entry.get("version_id") if isinstance(archive, Container) else None
    try:
        sha256, size = _digest(archive, place, version)
    except ObjectNotFound:
        what = f"its version {version} is gone" if version else "it is not at its path"
        return Check(name, "not-checked", place, f"{what}, so it cannot be compared with the record")
    if (sha256, size) == (entry["sha256"], entry.get("size")):
        return Check(name, "ok", place)
    found = (
        f"the record says {entry.get('size')} bytes, sha256 {entry['sha256']}, found {size} bytes, {sha256}"
    )
    if version:
        return Check(name, "changed", place, f"version {version}: {found}")
    return Check(name, "not-checked", place, f"{found}; without versions that may be a later content of it")


def _digest(archive: Archive, path: str, version: str | None) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with archive.open(path, version=version) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


# Where it lies, and what is told of it elsewhere ------------------------------------------------------------------


def _head(given: Given) -> Head | None:
    if given is None or isinstance(given, Head):
        return given
    try:
        return Head(int(given["seq"]), str(given["sha256"]))
    except (KeyError, TypeError, ValueError):
        raise UsageError(f"head: expected {{'seq': …, 'sha256': …}}, found {given!r}") from None


def _heads(archive: Archive, jobs: Sequence[str]) -> Iterable[Head]:
    """
    What the container's latest jobs were told of the chain; nothing where there is no platform to ask.

    Also the jobs that no record names are asked: those of records that were cut off.
    """
    if not isinstance(archive, Container) or archive.connection is None:
        return
    client = archive.connection.client

    asked = dict.fromkeys(each for each in jobs if each)
    with contextlib.suppress(PlatformError):
        listed = (each["id"] for each in client.jobs(container=archive.container))
        asked.update(dict.fromkeys(sorted(heapq.nlargest(ASKED, listed, key=_number), key=_number)))
    for job in asked:
        with contextlib.suppress(PlatformError):
            for message in client.messages(job):
                found = _HEAD.fullmatch(message["message"])
                if found:
                    yield Head(int(found[1]), found[2], f"job {job}")


def _number(job: str) -> tuple[int, str]:
    return len(job), job
