"""
Evidence on its way into the container: frozen on disk first, then stored once, file by file, never overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from libsafe_nb import atomic, record

if TYPE_CHECKING:
    from libsafe_nb.storage import Storage

TYPES = {
    ".ipynb": "application/x-ipynb+json",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".html": "text/html; charset=utf-8",
    ".xml": "application/xml",
    ".md": "text/markdown; charset=utf-8",
    ".tsr": "application/timestamp-reply",
    "": "text/plain; charset=utf-8",
}


AT_ONCE = 4
"""Files that are forced to the disk, or stored, at once: most of the time goes by in waiting for a disk."""

SUMS = "SHA256SUMS"
"""The last file of a run's evidence: the digests of all others, for `sha256sum -c SHA256SUMS`."""


def sums(files: Mapping[str, bytes]) -> bytes:
    """`SHA256SUMS` of `files`, in the format of GNU coreutils' sha256sum: digest, two spaces, name, line feed."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files)).encode()


def folder(*, function: str, started: datetime, job: str) -> str:
    """`provenance/{function}/{YYYYMMDDTHHMMSSmmmZ}-job{job}` (contract 5)."""
    moment = started.astimezone(UTC)
    stamp = moment.strftime("%Y%m%dT%H%M%S") + f"{moment.microsecond // 1000:03d}Z"
    return f"provenance/{slug(function)}/{stamp}-job{job}"


_ADDRESS = re.compile(r"libsafe://([0-9]{1,18})/(provenance/(?!\.+/)[^/]+/(?!\.+/)[^/]+/)", re.ASCII)


def place_of(address: object) -> tuple[str, str] | None:
    """Container and folder, with a trailing slash, of a run's evidence by its address; None of anything else."""
    found = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    return (found[1], found[2]) if found else None


def slug(name: str) -> str:
    """A function's name as one path segment: letters, digits, dot, dash and underscore, at most 80 characters."""
    clean = re.sub(r"[^A-Za-z0-9._-]+", "-", record.name_of(name)).strip("-.")[:80]
    return clean or "function"


def freeze(target: Path, files: Mapping[str, bytes]) -> None:
    """
    Write all evidence files into `target` and force them to the disk, before the first is stored.

    What is stored later, also by `recover`, is exactly these bytes.
    """
    target.mkdir(mode=0o700, exist_ok=True)
    with contextlib.ExitStack() as opened:
        descriptors = []
        for name, data in files.items():
            descriptor = os.open(target / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            opened.callback(os.close, descriptor)
            descriptors.append(descriptor)
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(data)
        # At once, and after all are written: the disk then takes several in one go.
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="freeze") as pool:
            list(pool.map(os.fsync, descriptors))
    atomic.sync_folder(target)


def store(storage: Storage, container: str, prefix: str, files: Mapping[str, bytes]) -> None:
    """
    Store the evidence, the last file after all others; one that is there already with our bytes counts as done.

    Raises
    ------
    StorageError
        Another object stands at that place, or the storage did not take it.
    """

    def put(name: str) -> None:
        put_once(storage, container, f"{prefix}/{name}", files[name])

    *first, last = files
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="evidence") as pool:
        for done in [pool.submit(put, name) for name in first]:
            done.result()
    put(last)


def put_once(storage: Storage, container: str, path: str, data: bytes) -> None:
    """
    Put `data` at `path` unless something is there; equal bytes there are as good as our own.

    Raises
    ------
    PreconditionFailed
        Other bytes are stored there.
    """
    kind = TYPES.get(Path(path).suffix, "application/octet-stream")
    storage.put(container, path, data, if_none_match=True, content_type=kind)
