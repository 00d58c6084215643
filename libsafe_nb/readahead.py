"""Blocks of one stored object, fetched on threads before they are asked for."""

from __future__ import annotations

import contextlib
import threading

from libsafe_nb import courtesy
from libsafe_nb.fetching import MIB, Fetcher, Opened, Source

BLOCK = 8 * MIB
"""Bytes a block. The vendor's sample reads as much at a time, so no byte is copied."""

AHEAD = 2
"""Blocks that are on their way or here, and not yet asked for; each connection beyond the first adds one."""

ENDS_WITHIN = 1.0
"""Seconds that closing waits for the threads; they are daemons, and hold nothing that others wait for."""


class ReadAhead:
    """
    Fetches the blocks from a place on, in order, and holds `AHEAD` of them at most.

    The threads hold this object and the source, never the stream: a forgotten stream must be collected.

    Parameters
    ----------
    fetcher
        Reads on from the place; one connection goes on with it.
    connections
        Each beyond the first has a thread and GETs of its own, a block each: where a request takes long to be
        answered, their waiting overlaps.
    """

    def __init__(self, source: Source, pinned: Opened, fetcher: Fetcher, *, connections: int = 1) -> None:
        self._changed = threading.Condition()
        self._size = pinned.size
        self._wanted = self._next = fetcher.at
        self._most = AHEAD + connections - 1
        self._here: dict[int, bytes | BaseException] = {}
        self._stopped = False
        if connections > 1:
            fetcher.close()
        self._fetchers = [
            fetcher if connections == 1 else Fetcher(source, pinned, fetcher.at, window=BLOCK)
            for _ in range(connections)
        ]
        self._threads = [
            threading.Thread(target=self._work, args=(each,), name="read-ahead", daemon=True)
            for each in self._fetchers
        ]
        for thread in self._threads:
            thread.start()

    @property
    def here(self) -> int:
        """Blocks that have arrived and are not yet asked for."""
        return len(self._here)

    @property
    def ended(self) -> bool:
        """Whether all blocks were given out."""
        return self._wanted >= self._size

    def get(self) -> bytes:
        """
        The next block; waits for it. Empty once this was stopped.

        Raises
        ------
        StorageError
            What fetching this block raised; the blocks before it were given out.
        """
        with self._changed:
            while self._wanted not in self._here and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return b""
            found = self._here.pop(self._wanted)
            if isinstance(found, BaseException):
                raise found
            self._wanted += len(found)
            self._changed.notify_all()
            return found

    def stop(self) -> None:
        """End the threads, also those that wait for the network, and whoever waits in `get`."""
        with self._changed:
            self._stopped = True
            self._here.clear()
            self._changed.notify_all()
        for each in self._fetchers:
            each.stop()
        for thread in self._threads:
            # The collector may close a forgotten stream on this very thread.
            if thread is not threading.current_thread():
                thread.join(ENDS_WITHIN)

    def forget(self) -> None:
        """In a forked child: there are no threads, and the connections are the parent's."""
        for each in self._fetchers:
            each.forget()

    def _work(self, fetcher: Fetcher) -> None:
        courtesy.thread(courtesy.READING)
        with contextlib.closing(fetcher):
            while (at := self._claim()) is not None:
                try:
                    if fetcher.at != at:
                        fetcher.close()
                        fetcher.at = at
                    found: bytes | BaseException = fetcher.fetch(min(BLOCK, self._size - at))
                except BaseException as exc:
                    found = exc
                with self._changed:
                    if self._stopped:
                        return
                    self._here[at] = found
                    self._changed.notify_all()
                if isinstance(found, BaseException):
                    return
                # Not held through the next fetch: one block less in memory.
                del found

    def _claim(self) -> int | None:
        """Where the next block begins, once there is room for it; None when this thread is done."""
        with self._changed:
            while not self._stopped and self._next - self._wanted >= self._most * BLOCK:
                self._changed.wait()
            if self._stopped or self._next >= self._size:
                return None
            at, self._next = self._next, self._next + BLOCK
            return at
