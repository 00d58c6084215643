"""
One stored object as a seekable file, read without downloading it whole.

One GET stays open and is read on from; a seek that is no small skip forward ends it and the next read opens
another with `Range`. Once reading is plainly sequential a thread reads ahead, so that fetching overlaps what the
reader does with the bytes. Every GET carries `If-Match` with the etag seen at opening: a stream never mixes two
versions of an object.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from libsafe_nb.errors import ObjectChanged, StorageUnreachable
from libsafe_nb.patience import BUDGET, Patience

BLOCK = 8 * 1024 * 1024
"""Bytes a block of the read-ahead. The vendor's sample reads as much at a time, so no byte is copied."""

AHEAD = 2
"""Blocks fetched and not yet asked for; with the one in hand and the one on its way, 32 MiB at most."""

SEQUENTIAL = 1024 * 1024
"""Bytes read in order from one place before the read-ahead starts; a look at a header does not."""

SMALL = 64 * 1024
"""Least bytes fetched at once; an object that is no longer is fetched whole and kept."""

CAREFUL = 256 * 1024
"""Most bytes taken at once for the rest of a block whose connection has dropped."""

SKIP = 1024 * 1024
"""A seek forward by at most this many bytes is read through; a new GET costs about as much."""


@dataclass(frozen=True)
class Opened:
    """One open GET: its body from `start` on, and what the headers told of the whole object, if its sha256 too."""

    body: Any
    start: int
    size: int
    etag: str
    version_id: str | None
    sha256: str | None = None


class Broken(Exception):
    """The body ended early or its connection dropped; the reason is the cause."""


class Observer(Protocol):
    """Is told what a stream handed out; the stand-in learns from it which bytes a function has read."""

    def delivered(self, at: int, data: bytes) -> None: ...

    def ended(self) -> None:
        """The stream was closed; nothing more will be read."""


@dataclass(frozen=True)
class Source:
    """
    Where a stream's bytes come from.

    `open` opens a GET at an offset, on the condition of an etag (None: whichever there is). `take` reads up to n
    bytes of a body and raises `Broken` where the connection dropped. `budget` is for how many seconds a connection
    that drops is taken up again while next to nothing is gained.
    """

    name: str
    open: Callable[[int, str | None], Opened]
    take: Callable[[Any, int], bytes]
    budget: float = BUDGET

    def fetch(
        self, body: Any, at: int, wanted: int, pinned: Opened, *, stopped: Callable[[], bool] = lambda: False
    ) -> tuple[Any, bytes]:
        """
        `wanted` bytes from `at`, read on from `body` or from a new GET; the body to read on from comes first.

        A connection that drops is taken up again where it ended, unless `stopped` says to stop: then there are
        fewer bytes.
        """
        parts: list[bytes] = []
        found = 0
        patience: Patience | None = None
        most = wanted
        while found < wanted:
            if body is None:
                body = self._reopen(at + found, pinned)
            reason: BaseException | None = None
            try:
                part = self.take(body, min(wanted - found, most))
            except Broken as exc:
                part, reason = b"", exc.__cause__
            if part:
                parts.append(part)
                found += len(part)
                # A few bytes at each new connection are no progress.
                patience = None if len(part) >= SMALL else patience
                continue
            close_body(body)
            body = None
            if stopped():
                break
            # A reset takes with it what of this `take` had arrived: smaller ones, so that each connection gains some.
            most = CAREFUL
            patience = patience or Patience(self.budget)
            patience.tries += 1
            pause = patience.pause()
            if pause is None:
                what = f"the connection dropped {patience.tries} times in {self.budget:g} s"
                where = f"at byte {at + found} of {pinned.size}"
                raise StorageUnreachable(f"{self.name}: {what} {where}", key=self.name) from reason
            time.sleep(pause)
        return body, parts[0] if len(parts) == 1 else b"".join(parts)

    def _reopen(self, at: int, pinned: Opened) -> Any:
        opened = self.open(at, pinned.etag)
        if (opened.etag, opened.size) != (pinned.etag, pinned.size):
            # A server that ignores If-Match.
            close_body(opened.body)
            raise ObjectChanged(
                f"{self.name}: expected the object that was opened (etag {pinned.etag}), found {opened.etag}",
                key=self.name,
            )
        return opened.body


class ObjectStream(io.RawIOBase):
    """
    A stored object, opened for reading. Made by `Storage.open`.

    Like a file from `open(path, "rb")`, `read(n)` returns n bytes unless the object ends. Use it from one thread
    at a time. At most 40 MiB are held, whatever the object's size. Close it, or use `with`; one that is forgotten
    closes itself when it is collected.

    Attributes
    ----------
    size
        Bytes of the whole object.
    etag, version_id
        Of the version that was opened; `version_id` is None in a bucket without versions.
    sha256
        Stored with the object by whoever put it, not computed here; None if it was not.

    Raises
    ------
    ObjectChanged
        From a read: the object was replaced or deleted since it was opened.
    StorageUnreachable
        From a read: the connection dropped and could not be taken up again.
    """

    def __init__(self, source: Source, *, observer: Observer | None = None) -> None:
        super().__init__()
        # Set before anything can fail: io closes also what was collected half made.
        self._body: Any = None
        self._ahead: _ReadAhead | None = None
        self._observer: Observer | None = None
        self.name = source.name
        self._source = source
        self._pinned = source.open(0, None)
        self.size, self.etag, self.version_id = self._pinned.size, self._pinned.etag, self._pinned.version_id
        self.sha256 = self._pinned.sha256
        self._body, self._body_at = self._pinned.body, 0
        self._observer = observer
        self._position = 0
        self._buffer = memoryview(b"")
        self._buffer_at = 0
        self._in_order = 0
        self._whole: bytes | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"at {self._position}"
        return f"<ObjectStream {self.name!r}, {self.size} bytes, {state}>"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; costs nothing until the next read. A place past the end is allowed and reads as empty."""
        self._check()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}.get(whence)
        if base is None:
            raise ValueError(f"whence: expected 0, 1 or 2, got {whence!r}")
        if base + offset < 0:
            raise ValueError(f"seek to {base + offset}: expected a place that is not before the start")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        self._check()
        left = max(self.size - self._position, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        at = self._position
        data = self._read(wanted) if wanted else b""
        if self._observer is not None:
            self._observer.delivered(at, data)
        return data

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, target: Any, /) -> int:
        with memoryview(target).cast("B") as view:
            found = self.read(len(view))
            view[: len(found)] = found
        return len(found)

    def peek(self, size: int = 1, /) -> bytes:
        """Some bytes at the position, without moving; with it `readline` and iteration by line are quick."""
        self._check()
        at = self._position
        if at >= self.size:
            return b""
        found = self._read(min(SMALL, self.size - at))
        if self._whole is None:
            self._buffer = memoryview(found + bytes(self._buffer)) if self._buffer else memoryview(found)
            self._buffer_at = at
        self._position = at
        return found

    def close(self) -> None:
        if not self.closed:
            self._release()
            if self._observer is not None:
                self._observer.ended()
        super().close()

    def _check(self) -> None:
        if self.closed:
            raise ValueError(f"{self.name}: read of a closed stream")

    def _read(self, wanted: int) -> bytes:
        """Exactly `wanted` bytes from the position, which are there, and move past them."""
        if self.size <= SMALL:
            return self._read_small(wanted)
        part = self._next(wanted)
        if len(part) == wanted:
            return part
        parts, found = [part], len(part)
        while found < wanted:
            part = self._next(wanted - found)
            parts.append(part)
            found += len(part)
        return b"".join(parts)

    def _read_small(self, wanted: int) -> bytes:
        if self._whole is None:
            body, self._body = self._body, None
            body, self._whole = self._source.fetch(body, 0, self.size, self._pinned)
            close_body(body)
        at = self._position
        self._position += wanted
        return self._whole[at : self._position]

    def _next(self, wanted: int) -> bytes:
        """At least one byte from the position, at most `wanted`, and move past them."""
        self._align()
        if not self._buffer:
            self._fill(wanted)
        if len(self._buffer) <= wanted:
            # `obj` is the block under the view: where the view is all of it, nothing is copied.
            block = self._buffer.obj
            found = (
                block if isinstance(block, bytes) and len(block) == len(self._buffer) else bytes(self._buffer)
            )
            self._buffer = memoryview(b"")
        else:
            found = bytes(self._buffer[:wanted])
            self._buffer = self._buffer[wanted:]
        self._position += len(found)
        self._buffer_at = self._position
        self._in_order += len(found)
        return found

    def _align(self) -> None:
        """Bring what is buffered and open to the position: skip forward, or let it go."""
        skip = self._position - self._buffer_at
        if skip == 0:
            return
        self._in_order = 0
        if 0 < skip <= len(self._buffer):
            self._buffer = self._buffer[skip:]
        elif 0 < skip <= SKIP + len(self._buffer) and (self._body is not None or self._ahead is not None):
            skip -= len(self._buffer)
            self._buffer = memoryview(b"")
            while skip:
                self._fill(skip)
                cut = min(skip, len(self._buffer))
                self._buffer, skip = self._buffer[cut:], skip - cut
        else:
            self._buffer = memoryview(b"")
            self._release()
            self._body_at = self._position
        self._buffer_at = self._position

    def _fill(self, wanted: int) -> None:
        """Fetch the next bytes into the buffer, which is empty: from the read-ahead, or from the body itself."""
        left = self.size - self._body_at
        if self._ahead is None and self._in_order >= SEQUENTIAL and left > SMALL:
            body, self._body = self._body, None
            self._ahead = _ReadAhead(self._source, self._pinned, body, self._body_at)
        try:
            if self._ahead is not None:
                block = self._ahead.get()
            else:
                body, self._body = self._body, None
                wanted = min(max(min(wanted, BLOCK), SMALL), left)
                self._body, block = self._source.fetch(body, self._body_at, wanted, self._pinned)
        except BaseException:
            # What was read stays read; the next read opens the object anew at its place.
            self._release()
            raise
        self._body_at += len(block)
        self._buffer = memoryview(block)
        if self._body_at >= self.size:
            # All is fetched: the connection goes back now, not when the stream is closed, if it ever is.
            self._release()

    def _release(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.stop()
        body, self._body = self._body, None
        close_body(body)


class _ReadAhead:
    """
    Fetches blocks on a thread, `AHEAD` of them at most.

    The thread holds this object and the source, never the stream: a forgotten stream must be collected.
    """

    def __init__(self, source: Source, pinned: Opened, body: Any, at: int) -> None:
        self._blocks: deque[bytes] = deque()
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._stopped = False
        self._body = body
        self._thread = threading.Thread(
            target=self._work, args=(source, pinned, at), name="read-ahead", daemon=True
        )
        self._thread.start()

    def get(self) -> bytes:
        """The next block; waits for it."""
        with self._changed:
            while not self._blocks and self._error is None:
                self._changed.wait()
            if self._blocks:
                self._changed.notify_all()
                return self._blocks.popleft()
            assert self._error is not None
            raise self._error

    def stop(self) -> None:
        """End the thread, also when it waits for the network, and close its connection."""
        with self._changed:
            self._stopped = True
            self._blocks.clear()
            self._changed.notify_all()
        shut_down(self._body)
        # The collector may close a forgotten stream on this very thread.
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=10)

    def _work(self, source: Source, pinned: Opened, at: int) -> None:
        try:
            while at < pinned.size:
                with self._changed:
                    while len(self._blocks) >= AHEAD and not self._stopped:
                        self._changed.wait()
                    if self._stopped:
                        return
                wanted = min(BLOCK, pinned.size - at)
                self._body, block = source.fetch(
                    self._body, at, wanted, pinned, stopped=lambda: self._stopped
                )
                at += len(block)
                with self._changed:
                    if self._stopped:
                        return
                    self._blocks.append(block)
                    self._changed.notify_all()
                # Not held through the next fetch: one block less in memory.
                del block
        except BaseException as exc:
            with self._changed:
                self._error = exc
                self._changed.notify_all()
        finally:
            body, self._body = self._body, None
            close_body(body)


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
