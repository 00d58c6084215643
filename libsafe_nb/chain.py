"""
The chain of a container's records: `provenance/chain/{seq:08d}.json`, one link a record, each with the digest of the
link before it. A record that is changed, taken out, put in or moved breaks it; the digest of the last link also goes to
the job's messages, outside the container, so that an end cut off or a chain made anew is seen as well.

A link is the commit of a run's evidence. Its number is the highest that was ever taken + 1, never the first free: a
link that was deleted leaves a hole. (On a versioned bucket a conditional put succeeds again after a deletion, so the
versions are looked at, not the objects.) Two runs at once are told apart by the conditional put; who loses tries the
next number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from libsafe_nb import evidence, record
from libsafe_nb.errors import AccessDenied, ObjectNotFound, PreconditionFailed

if TYPE_CHECKING:
    from datetime import datetime

    from libsafe_nb.storage import Storage

FOLDER = "provenance/chain"
ENVELOPE, STAMP = ".dsse.json", ".tsr"
"""How the names of a link's signature and time stamp end, in the place of `.json`."""
PAGE = 100
"""Objects that are looked at in one request, to find the last link."""

_NUMBER = re.compile(r"(\d{8})\..+")


@dataclass(frozen=True)
class Link:
    """A link's number and the sha256 of its bytes."""

    seq: int
    sha256: str

    @property
    def head(self) -> str:
        """As it stands in the job's messages."""
        return f"chain: {self.seq} {self.sha256}"


@dataclass(frozen=True)
class End:
    """Where a chain ends: the highest number ever taken, 0 for none, and the sha256 of that link if anything is left of it."""

    seq: int
    sha256: str | None


def path(seq: int) -> str:
    return f"{FOLDER}/{seq:08d}.json"


def envelope(seq: int) -> str:
    """Where a link's signature lies (`signing.py`)."""
    return f"{FOLDER}/{seq:08d}{ENVELOPE}"


def stamp(seq: int) -> str:
    """Where a link's time stamp lies (`timestamping.py`)."""
    return f"{FOLDER}/{seq:08d}{STAMP}"


def number(path: str) -> int | None:
    """The number in a link's path; None where it is no link's."""
    name = path.removeprefix(f"{FOLDER}/")
    digits = name.removesuffix(".json")
    return int(digits) if name == f"{digits}.json" and len(digits) == 8 and digits.isdecimal() else None


def content(seq: int, prev: str | None, *, run: str, prefix: str, files: Mapping[str, bytes]) -> bytes:
    """The bytes of a link (contract 5), canonical; `prev` is None for the first."""
    body = {
        "seq": seq,
        "prev": prev,
        "record": f"{prefix}/record.json",
        "record_sha256": record.digest(files["record.json"]),
        "sums_sha256": record.digest(files[evidence.SUMS]),
        "run": run,
    }
    return record.canonical(body)


def link(
    storage: Storage,
    container: str,
    *,
    run: str,
    prefix: str,
    files: Mapping[str, bytes],
    last: End | None = None,
    tried: Iterable[Mapping[str, Any]] = (),
    trying: Callable[[int, str], None] = lambda seq, sha256: None,
) -> Link:
    """
    Put the run's link at the end of the container's chain, once.

    Parameters
    ----------
    last
        Where the chain ended a moment ago; looked for if it is not given. One that is out of date costs a try.
    tried
        What `trying` was told when this was begun before, as `seq` and `sha256`: one of these may have been stored.
    trying
        Called before each try, with what must outlive this process.

    Raises
    ------
    StorageError
        The storage did not answer, or refused.
    """
    for each in tried:
        if _digest_of(storage, container, each["seq"]) == each["sha256"]:
            return Link(each["seq"], each["sha256"])
    last = last or end(storage, container)
    while True:
        data = content(last.seq + 1, last.sha256, run=run, prefix=prefix, files=files)
        found = Link(last.seq + 1, record.digest(data))
        trying(found.seq, found.sha256)
        try:
            evidence.put_once(storage, container, path(found.seq), data)
        except PreconditionFailed:
            # Another run's record took this number just now, and is what ours comes after, or others behind it.
            last = end(storage, container, least=found.seq)
        else:
            return found


def end(storage: Storage, container: str, *, least: int = 0) -> End:
    """Where the container's chain ends now; `least` is a number that is known to be taken."""
    seq = max(least, highest(storage, container))
    return End(seq, _last_digest(storage, container, seq) if seq else None)


def linked_since(storage: Storage, container: str, run: str, moment: datetime | None) -> Link | None:
    """
    The run's link, if it has one.

    Links that were stored before `moment` are not read. It must be a time of the storage's own clock, such as that at
    which the run's start record was stored, since the host's may be another; None reads all.
    """
    for each in storage.list(container, f"{FOLDER}/"):
        seq = number(each.path)
        if seq is None or (moment is not None and each.last_modified < moment):
            continue
        data = storage.get(container, each.path)
        if json.loads(data).get("run") == run:
            return Link(seq, record.digest(data))
    return None


def highest(storage: Storage, container: str) -> int:
    """The highest number ever taken in the container's chain, also by a link that was deleted; 0 where there is none."""
    low = step = 0
    # A page after `low + step`: doubled as long as there is one, halved where there is none.
    while True:
        names = _page(storage, container, low + step)
        # Beside a link lie its signature and time stamp, under its number.
        numbers = [int(found[1]) for name in names if (found := _NUMBER.fullmatch(name))]
        if numbers:
            low = numbers[-1]
            if len(names) < PAGE:
                return low
            step = max(PAGE, step * 2)
        elif step == 0:
            return low
        else:
            step = step // 2 if step > PAGE else 0


def _page(storage: Storage, container: str, after: int) -> list[str]:
    """Names in the chain's folder behind number `after`, at most `PAGE`, by name."""
    folder, last = f"{FOLDER}/", path(after)
    try:
        found = [
            each.path for each in islice(storage.versions(container, folder, after=last, page=PAGE), PAGE)
        ]
    except AccessDenied:
        # Who may not list versions sees what is there now.
        found = [each.path for each in islice(storage.list(container, folder, after=last, page=PAGE), PAGE)]
    return [each.removeprefix(folder) for each in found]


def _digest_of(storage: Storage, container: str, seq: int) -> str | None:
    try:
        return record.digest(storage.get(container, path(seq)))
    except ObjectNotFound:
        return None


def _last_digest(storage: Storage, container: str, seq: int) -> str | None:
    """The digest of a link's bytes; of one that was deleted, by its version; None where nothing is left of it."""
    found = _digest_of(storage, container, seq)
    if found is not None:
        return found
    for each in storage.versions(container, path(seq)):
        if not each.deleted:
            return record.digest(storage.get(container, path(seq), version_id=each.version_id))
    return None
