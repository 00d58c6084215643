"""Several digests of one stream in one reading, each on a thread of its own."""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import BinaryIO

from libsafe_nb.errors import UsageError

BLOCK = 8 * 1024 * 1024
"""Bytes a read: large enough that hashlib's release of the interpreter lock pays, small enough to stay in memory."""

_AHEAD = 4


def digest(stream: BinaryIO, *names: str) -> dict[str, str]:
    """
    Read `stream` from where it stands to its end and return each digest in hex.

    Reading overlaps hashing, and the digests overlap each other, so the time is that of the slowest of them, not
    of their sum. At most 7 blocks of 8 MiB are in memory. The stream is left open, at its end.

    Parameters
    ----------
    names
        Algorithms that `hashlib` knows, such as `md5`, `sha1`, `sha256`; the keys of the result.

    Raises
    ------
    UsageError
        An algorithm is unknown, or its digest has no fixed length. Nothing was read.

    Examples
    --------
    >>> import io
    >>> digest(io.BytesIO(b"hello"), "md5")
    {'md5': '5d41402abc4b2a76b9719d911017c592'}
    """
    hashes = {name: _new(name) for name in names}
    block = stream.read(BLOCK)
    if len(block) < BLOCK:
        # Not worth threads: most files of a container are this small.
        while block:
            for each in hashes.values():
                each.update(block)
            block = stream.read(BLOCK)
        return {name: each.hexdigest() for name, each in hashes.items()}
    feeds: list[queue.Queue[bytes | None]] = [queue.Queue(_AHEAD) for _ in hashes]
    threads = [
        threading.Thread(target=_consume, args=(feed, each), name=f"digest-{name}", daemon=True)
        for feed, (name, each) in zip(feeds, hashes.items(), strict=True)
    ]
    for thread in threads:
        thread.start()
    try:
        while block:
            for feed in feeds:
                feed.put(block)
            block = stream.read(BLOCK)
    finally:
        for feed in feeds:
            feed.put(None)
        for thread in threads:
            thread.join()
    return {name: each.hexdigest() for name, each in hashes.items()}


def _new(name: str) -> hashlib._Hash:
    try:
        # Fixity, not security: md5 must also work where the system forbids it for security.
        found = hashlib.new(name, usedforsecurity=False)
    except (ValueError, TypeError) as exc:
        known = ", ".join(sorted(hashlib.algorithms_guaranteed))
        raise UsageError(f"{name!r}: expected the name of a digest ({known})") from exc
    if found.digest_size == 0:
        raise UsageError(f"{name!r}: expected a digest of a fixed length, found one without")
    return found


def _consume(feed: queue.Queue[bytes | None], into: hashlib._Hash) -> None:
    while (block := feed.get()) is not None:
        into.update(block)
