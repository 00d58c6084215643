"""What a function has read of one file: how many bytes, and their digest if it read all of them in order."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from typing import Any

from libsafe_nb import courtesy
from libsafe_nb.compat.session import Attached

LARGE = 1024 * 1024
"""A read of this many bytes or more is hashed on a thread, beside the author's own work."""


class Reading:
    """
    Observes one stream and tells the run: an intent when it was opened, a `read` when it is over.

    `complete` means that every byte was handed out in order, once from the start; only then `sha256` is known.
    A second reading from the start counts when the first was broken off, as when a header is looked at first.
    """

    def __init__(self, attached: Attached, *, container: str, file_id: str, path: str) -> None:
        self._attached = attached
        self._event: dict[str, Any] = {
            "kind": "read",
            "container": container,
            "file_id": file_id,
            "path": path,
        }
        self._size = -1
        self._bytes = 0
        self._next = 0
        self._digest: _Digest | None = _Digest()
        self._told = False
        self._process = os.getpid()

    def opened(self, size: int, etag: str, version_id: str | None) -> None:
        self._size = size
        self._event.update(version_id=version_id, etag=etag, size=size)
        self._attached.readings.add(self)
        self._attached.tell({"kind": "intent", "effect": dict(self._event)})

    def delivered(self, at: int, data: bytes) -> None:
        if self._told:
            return
        if self._process != os.getpid():
            self._forked()
        self._bytes += len(data)
        if at == 0 and self._next:
            self._restart()
        if self._digest is not None and at == self._next:
            self._digest.update(data)
            self._next += len(data)
            if self._next == self._size:
                self._tell(self._digest.hexdigest())
        elif data:
            self._drop()

    def ended(self) -> None:
        if self._process != os.getpid():
            self._forked()
        if not self._told:
            self._drop()
            self._tell(None)

    def _restart(self) -> None:
        self._drop()
        self._digest, self._next = _Digest(), 0

    def _forked(self) -> None:
        """In a forked child: it tells what it reads itself, and the digest's thread is not here."""
        self._process = os.getpid()
        self._digest, self._bytes = None, 0

    def _drop(self) -> None:
        digest, self._digest = self._digest, None
        if digest is not None:
            digest.stop()

    def _tell(self, sha256: str | None) -> None:
        self._told = True
        self._attached.readings.discard(self)
        complete = sha256 is not None
        self._attached.tell({**self._event, "bytes": self._bytes, "sha256": sha256, "complete": complete})


class _Digest:
    """A sha256 that moves to a thread of its own once it is given large blocks; holds 2 blocks at most, one of them at work."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._feed: queue.Queue[bytes | None] | None = None
        self._thread: threading.Thread | None = None

    def update(self, data: bytes) -> None:
        if self._feed is None and len(data) >= LARGE:
            self._feed = queue.Queue(1)
            self._thread = threading.Thread(
                target=_consume, args=(self._feed, self._hash), name="read-digest", daemon=True
            )
            self._thread.start()
        if self._feed is None:
            self._hash.update(data)
        else:
            self._feed.put(data)

    def hexdigest(self) -> str:
        self.stop()
        return self._hash.hexdigest()

    def stop(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None and self._thread is not None:
            feed.put(None)
            self._thread.join()


def _consume(feed: queue.Queue[bytes | None], into: hashlib._Hash) -> None:
    courtesy.thread(courtesy.RECORDING)
    while (data := feed.get()) is not None:
        into.update(data)
