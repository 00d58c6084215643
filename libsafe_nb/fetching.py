"""
The bytes of one stored object, fetched in order: GET after GET, each of a bounded range, each of the same version.

A GET asks for a window and not for all the rest. SeaweedFS needs half the processor time for windows of 16 MiB, as it
reads ahead on its own account; one that is broken off wastes little; and a window that was read to its end gives its
connection back.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from libsafe_nb.errors import ObjectChanged, StorageUnreachable
from libsafe_nb.patience import BUDGET, Patience

MIB = 1024 * 1024

FIRST = 8 * MIB
"""Bytes of the first window: more than most files of a container have."""

LEAST = MIB
"""Bytes of the first window after a seek; each that follows in order is twice the last, up to `MOST`."""

MOST = 16 * MIB

SMALL = 64 * 1024
"""Least bytes fetched at once; an object that is no longer is fetched whole and kept."""

CAREFUL = 256 * 1024
"""Most bytes taken at once for the rest of a block whose connection has dropped."""


@dataclass(frozen=True)
class Opened:
    """
    One GET: its body of the bytes from `start` to before `end`, and what the headers told of the whole object, if its
    sha256 too.
    """

    body: Any
    start: int
    end: int
    size: int
    etag: str
    version_id: str | None
    sha256: str | None = None


class Broken(Exception):
    """The body ended early or its connection dropped; the reason is the cause."""


@dataclass(frozen=True)
class Source:
    """
    Where a stream's bytes come from.

    `open(start, length, etag, stop)` opens a GET of at most so many bytes, on the condition of an etag (None:
    whichever there is), and is no longer repeated once `stop` is set. `take` reads up to n bytes of a body and raises
    `Broken` where the connection dropped. `budget` is for how many seconds a connection that drops is taken up again
    while next to nothing is gained.
    """

    name: str
    open: Callable[[int, int, str | None, threading.Event], Opened]
    take: Callable[[Any, int], bytes]
    budget: float = BUDGET


class Fetcher:
    """
    Reads an object on from one place. For one thread; `stop` may be called by any.

    Attributes
    ----------
    at
        Where the next byte comes from.
    open
        Whether a GET is open, so that reading on costs no new one.
    """

    def __init__(
        self, source: Source, pinned: Opened, at: int, *, opened: Opened | None = None, window: int = LEAST
    ) -> None:
        self.at = at
        self._source, self._pinned = source, pinned
        self._opened = opened
        self._window = window
        self._stop = threading.Event()

    @property
    def open(self) -> bool:
        return self._opened is not None

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def fetch(self, wanted: int) -> bytes:
        """
        `wanted` bytes, which the object has; fewer only once it is stopped.

        A connection that drops is taken up again where it ended.

        Raises
        ------
        ObjectChanged
            Another version took the object's place, or it was deleted.
        StorageUnreachable
            The connection dropped again and again.
        """
        parts: list[bytes] = []
        left = wanted
        most = wanted
        patience: Patience | None = None
        while left and not self.stopped:
            opened = self._opened or self._open(left)
            if self.stopped:
                # Meanwhile, when there was nothing to wake yet.
                break
            reason: BaseException | None = None
            try:
                part = self._source.take(opened.body, min(left, most, opened.end - self.at))
            except Broken as exc:
                part, reason = b"", exc.__cause__
            if part:
                parts.append(part)
                left -= len(part)
                self.at += len(part)
                # A few bytes at each new connection are no progress.
                patience = None if len(part) >= SMALL else patience
                if self.at == opened.end:
                    self.close()
                    self._window = min(self._window * 2, MOST)
                continue
            self.close()
            if self.stopped:
                break
            # A reset takes with it what of this `take` had arrived: smaller ones, so that each connection gains some.
            most = CAREFUL
            patience = patience or Patience(self._source.budget)
            patience.tries += 1
            pause = patience.pause()
            if pause is None:
                raise self._given_up(patience) from reason
            self._stop.wait(pause)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def stop(self) -> None:
        """Wake the thread that fetches, also when it waits for the network; it fetches no more."""
        self._stop.set()
        opened = self._opened
        if opened is not None:
            shut_down(opened.body)

    def close(self) -> None:
        """End the GET; one that was read to its end gives its connection back to the pool."""
        opened, self._opened = self._opened, None
        if opened is not None:
            close_body(opened.body)

    def forget(self) -> None:
        """In a forked child: the connection is the parent's, and must not be ended here."""
        self._opened = None

    def _open(self, wanted: int) -> Opened:
        size = self._pinned.size
        length = min(max(self._window, wanted), size - self.at)
        # Rather a window that is a little longer than one more for a few bytes.
        length = size - self.at if size - self.at - length < SMALL else length
        opened = self._source.open(self.at, length, self._pinned.etag, self._stop)
        self._opened = opened
        if (opened.etag, opened.size) != (self._pinned.etag, size):
            # A server that ignores If-Match.
            self.close()
            raise ObjectChanged(
                f"{self._source.name}: expected the object that was opened (etag {self._pinned.etag}), found {opened.etag}",
                key=self._source.name,
            )
        return opened

    def _given_up(self, patience: Patience) -> StorageUnreachable:
        what = f"the connection dropped {patience.tries} times in {self._source.budget:g} s"
        where = f"at byte {self.at} of {self._pinned.size}"
        return StorageUnreachable(f"{self._source.name}: {what} {where}", key=self._source.name)


def close_body(body: Any) -> None:
    """Close a body; one that was read to its end gives its connection back to the pool."""
    if body is not None:
        with contextlib.suppress(Exception):
            body.close()


def shut_down(body: Any) -> None:
    """Wake a thread that waits for bytes of `body`: closing does not, and could wait for that thread itself."""
    # botocore keeps urllib3's response here; without it the thread ends at its next bytes or time-out.
    raw = getattr(body, "_raw_stream", None)
    if raw is not None and hasattr(raw, "shutdown"):
        with contextlib.suppress(Exception):
            raw.shutdown()
