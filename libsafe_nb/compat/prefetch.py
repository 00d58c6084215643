"""
The bytes of the next small files of a loop, fetched while the function is at this one.

A function that opens file after file of `request.Files` will open the next. Its bytes are asked for a moment earlier,
and are those of one version all the same. They are not given out once they are older than `FRESH`, nor after anything
was written: a function reads what it wrote.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from libsafe_nb.smallobjects import SmallObjects

if TYPE_CHECKING:
    from libsafe_nb.fetching import Opened
    from libsafe_nb.storage import Storage

LIMIT = 256 * 1024
"""Bytes of a file that is fetched beforehand; a larger one is better read as a stream."""

AHEAD = 8
"""Files fetched beforehand: 2 MiB at most."""

THREADS = 4

FRESH = 2.0
"""Seconds after which what was fetched beforehand is not given out any more."""

STREAK = 2
"""Files opened one after the other, from which on the next are fetched."""


class Prefetch:
    """
    For one session. Thread-safe enough: at worst something is fetched twice.

    Parameters
    ----------
    pinned
        Ids of files that a replay reads in an older version, which are left alone.
    """

    def __init__(self, pinned: Mapping[str, Any]) -> None:
        self._pinned = pinned
        self._process = os.getpid()
        self._streak = 0
        self._at = ""
        self._coming: dict[tuple[str, str], tuple[float, Future[Opened | None]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._objects: SmallObjects | None = None

    def handing_out(
        self, row: Mapping[str, Any], following: Sequence[Mapping[str, Any]], storage: Any
    ) -> None:
        """The loop has come to the file `row`; `storage` gives the storage when it is needed."""
        self._at = str(row["id"])
        if self._streak >= STREAK and self._process == os.getpid():
            for each in following[:AHEAD]:
                self._ask(each, storage)

    def opened(self, file_id: str) -> None:
        """The function opens a file."""
        self._streak = self._streak + 1 if file_id == self._at else 0

    def take(self, container: str, path: str) -> Opened | None:
        """What was fetched of a file, once; None where it is to be asked for."""
        if self._process != os.getpid():
            return None
        began, coming = self._coming.pop((container, path), (0.0, None))
        if coming is None:
            return None
        found = coming.result()
        return found if time.monotonic() - began < FRESH else None

    def forget(self) -> None:
        """Something was written, or is about to be."""
        self._coming = {}

    def close(self) -> None:
        self.forget()
        pool, self._pool = self._pool, None
        if pool is not None and self._process == os.getpid():
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, row: Mapping[str, Any], storage: Any) -> None:
        path = str(row.get("fullpath") or "")
        where = (str(row.get("container_id") or ""), path)
        size = row.get("size")
        if (
            where in self._coming
            or row.get("type") != "FILE"
            or row.get("deleted")
            or str(row["id"]) in self._pinned
        ):
            return
        if not isinstance(size, int) or size > LIMIT or row.get("online") is False or not path.strip("/"):
            return
        if self._pool is None or self._objects is None:
            place: Storage = storage()
            self._objects = SmallObjects(place)
            self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="prefetch")
        if len(self._coming) > 4 * AHEAD:
            # Of a loop that was left, or jumped.
            self.forget()
        began = time.monotonic()
        self._coming[where] = (began, self._pool.submit(self._objects.get, *where, LIMIT))
