"""Files on their way from a browser, which sends large ones in chunks: each waits on disk until it is whole."""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import IO

from tornado import web

MOST = 16
"""Files on their way at once."""
LARGEST = 1 << 40
"""Bytes of one file; AWS S3 takes no larger one than 5 TiB."""
FORGOTTEN = 600.0
"""Seconds after which a file of which no more came gives way to others."""
LAST = -1
"""The number of a file's last chunk, as Jupyter's clients count: 1, 2, … and then this."""


@dataclass
class Arrival:
    """`replaces` is the etag of what was stored there when the first chunk came; "": nothing was."""

    replaces: str
    # Without a name on disk: nothing is left of it when the Lab is killed.
    file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    chunks: int = 0
    touched: float = field(default_factory=time.monotonic)


class Arrivals:
    """Keyed by who sends and what. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str], Arrival] = {}

    def take(self, key: tuple[str, str], number: int, data: bytes, *, replaces: str) -> Arrival | None:
        """
        Keep one chunk; the whole file, the caller's to close, when it was the last one.

        `replaces` counts with the first chunk.

        Raises
        ------
        tornado.web.HTTPError
            400: the chunk is not the next one. 413: the file is too large. 429: too many are on their way.
        """
        with self._lock:
            arrival = self._next(key, number, replaces)
            arrival.chunks += 1
            arrival.touched = time.monotonic()
            arrival.file.write(data)
            if arrival.file.tell() > LARGEST:
                self._drop(key)
                raise web.HTTPError(413, f"{key[1]}: expected a file of at most {LARGEST} bytes, found more")
            if number != LAST:
                return None
            del self._waiting[key]
            return arrival

    def _next(self, key: tuple[str, str], number: int, replaces: str) -> Arrival:
        if number == 1:
            self._drop(key)
            for each in [
                each for each, a in self._waiting.items() if a.touched < time.monotonic() - FORGOTTEN
            ]:
                self._drop(each)
            if len(self._waiting) >= MOST:
                raise web.HTTPError(429, f"{key[1]}: {MOST} files are on their way already; try again later")
            self._waiting[key] = Arrival(replaces)
        arrival = self._waiting.get(key)
        if arrival is None or number not in (LAST, arrival.chunks + 1):
            found = 0 if arrival is None else arrival.chunks
            raise web.HTTPError(
                400,
                f"{key[1]}: expected chunk {found + 1} or the last one, found chunk {number}; send it anew",
            )
        return arrival

    def _drop(self, key: tuple[str, str]) -> None:
        arrival = self._waiting.pop(key, None)
        if arrival is not None:
            arrival.file.close()
