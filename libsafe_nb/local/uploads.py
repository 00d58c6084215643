"""
Uploads over REST: chunks in the order of their `chunkIndex`, put together and stored as one object.

Nothing in the API says how many chunks there will be (platform.md 1.2), so chunk 0 is stored at once, as the usual
whole file; the following ones are gathered in the spool and stored as a new version when no more have come for
`QUIET_SECONDS`, when the file is looked up, or at once with the chunk that `totalChunks` (if given) makes the last.
A chunk that was answered is on disk, so it also survives a crash.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

from libsafe_nb.local import causes, files
from libsafe_nb.local.ask import Problem
from libsafe_nb.local.database import Database
from libsafe_nb.local.files import Content
from libsafe_nb.local.objects import Objects

log = logging.getLogger(__name__)

QUIET_SECONDS = 1.0
MAX_GAPS = 3
"""An upload whose chunks come slowly waits this many of its own gaps, so that it is not stored after each."""

Place = tuple[int, str]


class Uploads:
    def __init__(self, database: Database, objects: Objects, spool: Path) -> None:
        self._db = database
        self._objects = objects
        self._spool = spool
        self._locks: dict[Place, asyncio.Lock] = {}
        self._due: dict[Place, float] = {}
        self._came: dict[Place, float] = {}
        self._jobs: dict[Place, int | None] = {}
        self._waiting = asyncio.Event()
        self._resume()

    def _resume(self) -> None:
        """Take up what a crash left: chunks that were answered and not stored. The rest of the spool is litter."""
        rows = self._db.all("SELECT container_id, path, spool FROM upload WHERE stored < size")
        for row in rows:
            self._due[row["container_id"], row["path"]] = 0.0
            self._waiting.set()
        wanted = {row["spool"] for row in rows}
        for path in self._spool.iterdir():
            if path.name not in wanted:
                path.unlink()

    async def take(
        self,
        container: int,
        path: str,
        index: int,
        total: int | None,
        mime: str | None,
        chunk: IO[bytes],
        *,
        job: int | None = None,
    ) -> None:
        """
        Take one chunk; durable when this returns. `job` is whose write it is.

        Raises
        ------
        Problem
            409 when the chunk is not the next one (nor the last one again).
        """
        place = (container, path)
        async with self._alone(place):
            self._jobs[place] = job
            if index == 0:
                await self._begin(place, total, mime, chunk)
            else:
                await self._append(place, index, total, chunk)

    async def flush(self, container: int, path: str) -> None:
        """Store what has come for this path so far, if anything has."""
        place = (container, path)
        if place in self._due:
            async with self._alone(place):
                await self._store(place)

    async def run(self) -> None:
        """Store what has become due, for ever."""
        while True:
            await self._waiting.wait()
            await asyncio.sleep(0.1)
            for place in [each for each, when in self._due.items() if when <= time.monotonic()]:
                try:
                    async with self._alone(place):
                        # A chunk that came while we waited has moved the time.
                        if self._due.get(place, time.monotonic() + 1) <= time.monotonic():
                            await self._store(place)
                except Exception:
                    log.exception("%s: could not be stored; trying again", place)
                    self._due[place] = time.monotonic() + 5
            if not self._due:
                self._waiting.clear()

    async def drain(self) -> None:
        """Store everything that is waiting: the platform is about to stop."""
        for place in list(self._due):
            await self.flush(*place)

    @asynccontextmanager
    async def _alone(self, place: Place) -> AsyncIterator[None]:
        lock = self._locks.setdefault(place, asyncio.Lock())
        async with lock:
            yield
        if not lock.locked() and place not in self._due:
            self._locks.pop(place, None)
            self._jobs.pop(place, None)

    def _row(self, place: Place) -> Any:
        return self._db.one("SELECT * FROM upload WHERE container_id = ? AND path = ?", place)

    async def _begin(self, place: Place, total: int | None, mime: str | None, chunk: IO[bytes]) -> None:
        """Chunk 0 starts anew: what came before for this name is forgotten."""
        container, path = place
        before = self._row(place)
        if before is not None:
            (self._spool / before["spool"]).unlink(missing_ok=True)
        self._due.pop(place, None)
        size = chunk.seek(0, os.SEEK_END)
        chunk.seek(0)
        said = files.mime_of(path, mime)
        name = f"upload-{container}-{time.time_ns()}"
        version = None
        if total is not None and total > 1:
            await asyncio.to_thread(_write_at, self._spool / name, 0, chunk)
        else:
            version = await self._put(place, chunk, said)
        with self._db.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO upload VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (container, path, 1, size, 0, 0 if version is None else size, version, said, name),
            )
        if version is None:
            self._schedule(place)

    async def _append(self, place: Place, index: int, total: int | None, chunk: IO[bytes]) -> None:
        row = self._row(place)
        expected = 0 if row is None else row["chunks"]
        if index not in (expected, expected - 1):
            raise Problem(409, f"chunkIndex: expected {expected} for {place[1]}, got {index}")
        start = row["size"] if index == expected else row["last_start"]
        spool = self._spool / row["spool"]
        if not spool.exists():
            await asyncio.to_thread(self._fetch, place, row["version_id"], spool)
        size = await asyncio.to_thread(_write_at, spool, start, chunk)
        with self._db.transaction():
            self._db.execute(
                "UPDATE upload SET chunks = ?, size = ?, last_start = ?, stored = min(stored, ?)"
                " WHERE container_id = ? AND path = ?",
                (index + 1, size, start, start, *place),
            )
        self._schedule(place)
        if total is not None and index == total - 1:
            await self._store(place)

    def _fetch(self, place: Place, version: str | None, spool: Path) -> None:
        """The first chunk went straight to the store; get it back to go on from it."""
        fresh = spool.with_suffix(".new")
        with fresh.open("wb") as target:
            self._objects.copy_into(f"{place[0]}/{place[1]}", target, version_id=version)
        fresh.replace(spool)

    def _schedule(self, place: Place) -> None:
        now = time.monotonic()
        gap = now - self._came.get(place, now)
        self._came[place] = now
        self._due[place] = now + max(QUIET_SECONDS, MAX_GAPS * gap)
        self._waiting.set()

    async def _store(self, place: Place) -> None:
        """Store the chunks at hand as the object's new version; they stay in the spool for those that may follow."""
        row = self._row(place)
        if row is not None and row["stored"] < row["size"]:
            with (self._spool / row["spool"]).open("rb") as source:
                version = await self._put(place, source, row["mime"])
            with self._db.transaction():
                self._db.execute(
                    "UPDATE upload SET stored = size, version_id = ? WHERE container_id = ? AND path = ?",
                    (version, *place),
                )
            # The store has the bytes now, and gives them back if another chunk comes.
            (self._spool / row["spool"]).unlink(missing_ok=True)
        self._due.pop(place, None)
        self._came.pop(place, None)

    async def _put(self, place: Place, source: IO[bytes], mime: str) -> str | None:
        container, path = place
        # Before the call: a change by somebody else right after it must count as later.
        began = time.time_ns()
        job = self._jobs.get(place)
        mark = None if job is None else causes.mark(self._db, job, container, path)
        head = await asyncio.to_thread(self._objects.put, f"{container}/{path}", source, mime, mark)
        with self._db.transaction():
            content = Content(head.size, head.etag, head.mime, head.version_id, began, job)
            files.store(self._db, container, path, content)
        return head.version_id


def _write_at(path: Path, start: int, chunk: IO[bytes]) -> int:
    """Write a chunk where it belongs, cut off what followed, and wait for the disk; answers the file's size."""
    with path.open("r+b" if path.exists() else "w+b") as target:
        target.truncate(start)
        target.seek(start)
        chunk.seek(0)
        shutil.copyfileobj(chunk, target, 1024 * 1024)
        target.flush()
        os.fsync(target.fileno())
        return target.tell()
