"""The bytes of published functions: each once, in a file named by its digest, checked at every read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from libsafe_nb import atomic
from libsafe_nb.errors import LocalPlatformError

MAX_BYTES = 32 * 1024 * 1024
"""Of one version; with its third for base64 it fits the bound of a request's body."""


class Changed(LocalPlatformError):
    """The bytes on the disk are not those that were published: no repetition makes them so."""


def keep(folder: Path, data: bytes) -> str:
    """Store the bytes if they are not there yet, durably, and answer their SHA-256."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / sha256
    if not path.exists() or path.read_bytes() != data:
        folder.mkdir(mode=0o700, exist_ok=True)
        atomic.write_bytes(path, data)
    return sha256


def read(folder: Path, sha256: str) -> bytes:
    """
    Raises
    ------
    LocalPlatformError
        The file cannot be read.
    Changed
        Its bytes are not those that were published.
    """
    path = folder / sha256
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise LocalPlatformError(f"{path}: the published function cannot be read ({exc.strerror})") from exc
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise Changed(
            f"{path}: expected the bytes that were published (sha256 {sha256[:12]}…), found others ({found[:12]}…)"
        )
    return data
