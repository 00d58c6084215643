"""
One stored object as a seekable file, read without downloading it whole.

What is read in order comes from GETs that are read on from (`fetching.py`); a seek that is no small skip forward ends
the open one, and the next read opens another with `Range`. Once reading is plainly sequential a thread reads ahead
(`readahead.py`), so that fetching overlaps what the reader does with the bytes. Every GET carries `If-Match` with the
etag seen at opening: a stream never mixes two versions of an object.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from libsafe_nb.fetching import FIRST, MIB, SMALL, Fetcher, Opened, Source
from libsafe_nb.readahead import BLOCK, ENDS_WITHIN, ReadAhead

SEQUENTIAL = MIB
"""Bytes read in order from one place before the read-ahead starts; a look at a header does not."""

SKIP = MIB
"""A seek forward by at most this many bytes is read through; a new GET costs about as much."""


class Observer(Protocol):
    """Is told what a stream handed out; the stand-in learns from it which bytes a function has read."""

    def delivered(self, at: int, data: bytes) -> None: ...

    def ended(self) -> None:
        """The stream was closed; nothing more will be read."""


class ObjectStream(io.RawIOBase):
    """
    A stored object, opened for reading. Made by `Storage.open`.

    Like a file from `open(path, "rb")`, `read(n)` returns n bytes unless the object ends. At most 32 MiB are held,
    whatever the object's size, and 8 MiB more for each connection beyond the first. Threads take turns at it, and
    share its position. A forked process reads on by itself, from where it stood. Close it, or use `with`; one that is
    forgotten closes itself when it is collected.

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
        From a read: the connection dropped and could not be taken up again. The position has not moved, and another
        read tries again.
    ValueError
        From a read: it is closed, or another thread closed it meanwhile.
    """

    def __init__(
        self,
        source: Source,
        *,
        observer: Observer | None = None,
        connections: int = 1,
        ready: Opened | None = None,
    ) -> None:
        super().__init__()
        # Set before anything can fail: io closes also what was collected half made.
        self._fetcher: Fetcher | None = None
        self._ahead: ReadAhead | None = None
        self._observer: Observer | None = None
        self._lock = threading.RLock()
        self._process = os.getpid()
        self.name = source.name
        self._source, self._connections = source, connections
        self._pinned = opened = ready or source.open(0, FIRST, None, threading.Event())
        self.size, self.etag, self.version_id = opened.size, opened.etag, opened.version_id
        self.sha256 = opened.sha256
        self._fetcher = Fetcher(source, opened, 0, opened=opened, window=FIRST)
        self._observer = observer
        self._position = 0
        self._buffer = memoryview(b"")
        self._buffer_at = 0
        self._in_order = 0
        self._whole: bytes | None = None
        if not self.size:
            self._release()

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
        with self._turn():
            base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}.get(whence)
            if base is None:
                raise ValueError(f"whence: expected 0, 1 or 2, got {whence!r}")
            if base + offset < 0:
                raise ValueError(f"seek to {base + offset}: expected a place that is not before the start")
            self._position = base + offset
            return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        with self._turn():
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
        with self._turn():
            at = self._position
            if at >= self.size:
                return b""
            found = self._read(min(SMALL, self.size - at))
            if self._whole is None:
                self._buffer = memoryview(found + bytes(self._buffer)) if self._buffer else memoryview(found)
                self._buffer_at = at
            self._position = at
            return found

    def readline(self, size: int | None = -1, /) -> bytes:
        # io's own asks for a look and a read, between which another thread could move.
        with self._turn():
            return super().readline(-1 if size is None else size)

    def close(self) -> None:
        """End what is under way and give the connection back; a read of another thread ends, with `ValueError`."""
        if self.closed:
            return
        super().close()
        if self._process != os.getpid():
            self._forked()
        # Before the lock, which that read holds while it waits for the network.
        for each in (self._ahead, self._fetcher):
            if each is not None:
                each.stop()
        if self._lock.acquire(timeout=ENDS_WITHIN):
            try:
                self._release()
            finally:
                self._lock.release()
        if self._observer is not None:
            self._observer.ended()

    def _check(self) -> None:
        if self.closed:
            raise ValueError(f"{self.name}: read of a closed stream")

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One thread at a time, in the process that the connections belong to; what fails has not moved."""
        if self._process != os.getpid():
            self._forked()
        with self._lock:
            self._check()
            at = self._position
            try:
                yield
            except BaseException:
                # What came before the error was not handed out.
                self._position = at
                raise

    def _forked(self) -> None:
        """
        In a forked child: let go of what is the parent's, without ending it. Its threads are not here, and a thread
        that held the lock will not give it back.
        """
        self._process, self._lock = os.getpid(), threading.RLock()
        for each in (self._ahead, self._fetcher):
            if each is not None:
                each.forget()
        self._ahead = None
        self._buffer, self._buffer_at = memoryview(b""), self._position
        self._fetcher = Fetcher(self._source, self._pinned, self._position)

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
            assert self._fetcher is not None
            if self._fetcher.at:
                # What came before an error is not kept.
                self._release()
                self._fetcher = Fetcher(self._source, self._pinned, 0)
            self._whole = self._expect(self._fetcher.fetch(self.size))
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
        elif 0 < skip <= SKIP + len(self._buffer) and (
            self._ahead is not None or (self._fetcher is not None and self._fetcher.open)
        ):
            skip -= len(self._buffer)
            self._buffer = memoryview(b"")
            while skip:
                self._fill(skip)
                cut = min(skip, len(self._buffer))
                self._buffer, skip = self._buffer[cut:], skip - cut
        else:
            self._buffer = memoryview(b"")
            self._release()
            self._fetcher = Fetcher(self._source, self._pinned, self._position)
        self._buffer_at = self._position

    def _fill(self, wanted: int) -> None:
        """Fetch the next bytes into the buffer, which is empty: from the read-ahead, or from the GET itself."""
        at = self._buffer_at
        try:
            if self._ahead is None:
                if self._fetcher is None:
                    self._fetcher = Fetcher(self._source, self._pinned, at)
                left = self.size - self._fetcher.at
                # Who begins with a large read, or asks for all, will go on.
                begun = self._in_order >= SEQUENTIAL or (at == 0 and wanted >= SEQUENTIAL)
                if begun and left > max(min(wanted, BLOCK), SMALL):
                    self._ahead = ReadAhead(
                        self._source, self._pinned, self._fetcher, connections=self._connections
                    )
                    self._fetcher = None
            if self._ahead is not None:
                block = self._expect(self._ahead.get())
                ended = self._ahead.ended
            else:
                assert self._fetcher is not None
                block = self._expect(
                    self._fetcher.fetch(min(max(min(wanted, BLOCK), SMALL), self.size - self._fetcher.at))
                )
                ended = self._fetcher.at >= self.size
        except BaseException:
            # The next read opens the object anew at its place.
            self._release()
            raise
        self._buffer = memoryview(block)
        if ended:
            # All is fetched: the connection goes back now, not when the stream is closed, if it ever is.
            self._release()

    def _expect(self, data: bytes) -> bytes:
        """Fewer bytes than were asked for come only where another thread closed the stream."""
        self._check()
        return data

    def _release(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.stop()
        fetcher, self._fetcher = self._fetcher, None
        if fetcher is not None:
            fetcher.close()
