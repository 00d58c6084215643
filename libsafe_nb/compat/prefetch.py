"""
What a loop over files will ask for next, fetched while the function is at this file: the bytes of small ones, metadata.

A function that opens file after file of `request.Files`, or asks for the metadata of one after the other, will do so
with the next. It is asked a moment earlier: `FRESH` at most, and not before anything that the function itself wrote,
nor once it has started another process, which may write (`others.py`). One that writes at each file is left alone: all
would be fetched in vain. Where fetching fails nothing is given out: the function's own call then meets what is wrong,
and tells it.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from libsafe_nb.compat import others
from libsafe_nb.errors import LibsafeError

if TYPE_CHECKING:
    from libsafe_nb.compat.session import Session
    from libsafe_nb.fetching import Opened
    from libsafe_nb.shapes import Descriptor
    from libsafe_nb.smallobjects import SmallObjects

LIMIT = 256 * 1024
"""Bytes of a file that is fetched beforehand; a larger one is better read as a stream."""

FILES = 8
"""Files whose bytes are fetched beforehand: 2 MiB at most."""

AHEAD = 48
"""Files whose metadata is fetched beforehand, half of them a call."""

THREADS = 4

WAIT = 1.0
"""Seconds that the function waits for what is on its way, before it asks by itself."""

FRESH = 2.0
"""Seconds after which what was fetched beforehand is not given out any more."""

STREAK = 2
"""Files asked for one after the other, from which on the next are fetched."""


class Workers:
    """Threads that the end of the process does not wait for, as it does for those of a `ThreadPoolExecutor`."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        for _ in range(number):
            threading.Thread(target=self._work, name="prefetch", daemon=True).start()

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def do() -> None:
            try:
                future.set_result(work(*arguments))
            except BaseException as exc:
                future.set_exception(exc)

        self._waiting.put(do)
        return future

    def close(self) -> None:
        """Each ends after what it is at."""
        for _ in range(self._number):
            self._waiting.put(None)

    def _work(self) -> None:
        others.is_ours()
        while (do := self._waiting.get()) is not None:
            do()


class Prefetch:
    """For one session. Used by several threads, it may fetch something twice."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._process = os.getpid()
        self._processes, self._changes = others.begun(), others.changes
        self._at = ""
        self._streaks = dict.fromkeys(("bytes", "metadata"), 0)
        self._bytes: dict[tuple[str, str], tuple[float, Future[Opened | None]]] = {}
        self._metadata: dict[str, tuple[float, Future[dict[str, list[Descriptor] | None]]]] = {}
        self._many = True
        self._pool: Workers | None = None
        self._objects: SmallObjects | None = None

    def handing_out(self, row: Mapping[str, Any], following: Sequence[Mapping[str, Any]]) -> None:
        """The loop has come to the file `row`."""
        others.watch()
        self._see_others()
        self._at = str(row["id"])
        if self._streaks["bytes"] >= STREAK and self._alone:
            for each in following[:FILES]:
                self._fetch_bytes(each)
        if self._streaks["metadata"] >= STREAK and self._alone and self._many:
            self._fetch_metadata(following)

    def opening(self, file_id: str, container: str, path: str) -> Opened | None:
        """What was fetched of a file that the function opens, once; None where it is to be asked for."""
        self._see_others()
        self._streaks["bytes"] = self._streaks["bytes"] + 1 if file_id == self._at else 0
        found: Opened | None = self._take(self._bytes.pop((container, path), None))
        return found

    def metadata(self, file_id: str) -> tuple[bool, list[Descriptor] | None]:
        """Whether the file's metadata was fetched, and the metadata."""
        self._see_others()
        self._streaks["metadata"] = self._streaks["metadata"] + 1 if file_id == self._at else 0
        found = self._take(self._metadata.pop(file_id, None))
        return (True, found[file_id]) if found is not None and file_id in found else (False, None)

    def forget(self) -> None:
        """Something was written, or is about to be."""
        self._bytes, self._metadata = {}, {}
        self._streaks = dict.fromkeys(self._streaks, 0)

    def forget_metadata(self, file_id: str) -> None:
        """This file's alone is about to be written."""
        self._metadata.pop(file_id, None)

    def close(self) -> None:
        self.forget()
        pool, self._pool = self._pool, None
        if pool is not None and self._process == os.getpid():
            pool.close()

    @property
    def _alone(self) -> bool:
        """Whether this is the only process of the function, as far as is known."""
        attached = self._session.attached
        shared = others.begun() != self._processes or (attached is not None and attached.shared)
        return self._process == os.getpid() and not shared

    def _see_others(self) -> None:
        """Forget what was there before something was sent past the stand-in."""
        if self._changes != others.changes:
            self._changes = others.changes
            self.forget()

    def _take(self, coming: tuple[float, Future[Any]] | None) -> Any:
        if coming is None or not self._alone:
            return None
        began, future = coming
        with contextlib.suppress(Exception):
            found = future.result(WAIT)
            return found if time.monotonic() - began < FRESH else None
        # Whatever it is, it will not be better with the next ones.
        self._streaks = dict.fromkeys(self._streaks, 0)
        return None

    def _fetch_bytes(self, row: Mapping[str, Any]) -> None:
        where = (str(row.get("container_id") or ""), str(row.get("fullpath") or ""))
        size, attached = row.get("size"), self._session.attached
        if where in self._bytes or row.get("type") != "FILE" or row.get("deleted") or not where[1].strip("/"):
            return
        if not isinstance(size, int) or size > LIMIT or row.get("online") is False:
            return
        if attached is not None and str(row["id"]) in attached.pins:
            # A replay reads another version.
            return
        if self._objects is None:
            # Imported here: most functions read no file in a loop.
            from libsafe_nb.smallobjects import SmallObjects

            self._objects = SmallObjects(self._session.storage)
        if len(self._bytes) > 4 * FILES:
            # Of a loop that was left.
            self._bytes = {}
        self._bytes[where] = self._submit(self._objects.get, *where, LIMIT)

    def _fetch_metadata(self, following: Sequence[Mapping[str, Any]]) -> None:
        wanted = [str(row["id"]) for row in following if not row.get("deleted")]
        wanted = [each for each in wanted if each not in self._metadata]
        if len(wanted) < min(AHEAD // 2, len(following)):
            return
        if (attached := self._session.attached) is not None:
            # What the run has yet to send of a file is not there yet.
            wanted = [each for each in wanted if f"file {each}" not in attached.given]
        if len(self._metadata) > 4 * AHEAD:
            self._metadata = {}
        coming = self._submit(self._metadata_of, wanted)
        self._metadata.update(dict.fromkeys(wanted, coming))

    def _metadata_of(self, ids: list[str]) -> dict[str, list[Descriptor] | None]:
        try:
            return self._session.client.metadata_of_many(ids)
        except LibsafeError:
            # The call is ours: a platform without it is asked file by file.
            self._many = False
            return {}

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> tuple[float, Future[Any]]:
        if self._pool is None:
            self._pool = Workers(THREADS)
        return time.monotonic(), self._pool.submit(work, *arguments)
