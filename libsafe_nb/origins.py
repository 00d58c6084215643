"""
Which earlier runs wrote what a called run has read, looked up at its end.

The storage says of each version whose write it was (`marks.py`), the platform where that job's evidence lies, and only
what the record there names among its outputs counts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from libsafe_nb import evidence, marks, record
from libsafe_nb.errors import LibsafeError, StorageUnreachable, Unreachable

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.storage import Storage

LOOKED_AT = 200
"""Versions of which the storage is asked who wrote them; one question each, of a few milliseconds."""

Version = tuple[str, str, str]
"""Container, path without leading slash, version."""


def used(
    events: Iterable[Mapping[str, Any]], *, job: str, client: Client, storage: Storage
) -> Iterator[dict[str, Any]]:
    """
    The runs whose outputs were read, as `linkage.used` takes them. What cannot be asked now is not told.

    Parameters
    ----------
    job
        The run's own: what it wrote itself is not used.
    """
    read: dict[str, set[Version]] = {}
    # Nobody waits for who is away, once for each version.
    with contextlib.suppress(Unreachable, StorageUnreachable):
        for version in _read(events):
            with _passing_over(LibsafeError):
                writer = _writer(storage, version)
                if writer and writer != job:
                    read.setdefault(writer, set()).add(version)
        for writer, versions in read.items():
            # What is not of the shape that we write was not written by us.
            with _passing_over(LibsafeError, ValueError, KeyError, TypeError, AttributeError):
                found = _run(client, storage, writer, versions)
                if found is not None:
                    yield found


@contextlib.contextmanager
def _passing_over(*kinds: type[Exception]) -> Iterator[None]:
    """As `suppress`, but for who is away."""
    try:
        yield
    except (Unreachable, StorageUnreachable):
        raise
    except kinds:
        pass


def _read(events: Iterable[Mapping[str, Any]]) -> list[Version]:
    found = {
        (str(event["container"]), str(event["path"]).lstrip("/"), str(event["version_id"])): None
        for event in events
        if event.get("kind") == "read"
        and (event.get("bytes") or event.get("complete"))
        and all(event.get(name) for name in ("container", "path", "version_id"))
    }
    return list(found)[:LOOKED_AT]


def _writer(storage: Storage, version: Version) -> str | None:
    """The job in the mark of a version, believed only as far as its record agrees."""
    container, path, version_id = version
    told = {
        name.lower(): value
        for name, value in storage.head(container, path, version_id=version_id).metadata.items()
    }
    job = str(told.get(marks.NAME, "")).partition(":")[0]
    return job if job.isascii() and job.isdecimal() and len(job) < 19 else None


def _run(client: Client, storage: Storage, job: str, versions: set[Version]) -> dict[str, Any] | None:
    result = client.job(job)["result"]
    address = result.get("evidence") if isinstance(result, dict) else None
    place = evidence.place_of(address)
    if place is None:
        return None
    container, folder = place
    data = storage.get(container, f"{folder}record.json")
    body = json.loads(data)
    wrote = {
        (
            str(each.get("container") or container),
            str(each.get("path")).lstrip("/"),
            str(each.get("version_id")),
        )
        for each in record.entries(body, "outputs")
    }
    count = len(versions & wrote)
    if not count:
        return None
    function = record.section(body, "function")
    return {
        "kind": "used",
        "run": str(body["id"]).removeprefix("urn:uuid:"),
        "job": job,
        "function": function.get("key") or function.get("name"),
        "evidence": address,
        "record_sha256": record.digest(data),
        "files": count,
    }
