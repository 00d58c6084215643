"""
Keeps the rows true to the store: follows its event stream, looks up what that is late with, and compares all when in
doubt.

The position in the stream is written with the rows it led to, in one transaction. While the S3 server has not been
started anew, the stream is continued from there, however long the platform was away. After a new start of the S3
server its last events may be lost with its memory, so everything is compared with a full listing, in the background.
A stream that seems to run may still leave events out for a minute or more: what the front let through and the stream
did not tell in `LATE_SECONDS` is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from libsafe_nb.local import causes, events, files, weed
from libsafe_nb.local.database import Database
from libsafe_nb.local.files import Content
from libsafe_nb.local.objects import Objects
from libsafe_nb.local.writes import Reader, Write

log = logging.getLogger(__name__)

OVERLAP_SECONDS = 2.0
"""How far before the last position the stream is asked for again; rows that show something later stay."""
PIPE_BYTES = 1024 * 1024
PAGES_BELOW = 20
"""Of 1,000 objects each, of a folder that somebody chose."""
LOOKS_AT_ONCE = 8
LATE_SECONDS = 3.0
"""For the stream to tell what the front let through; it takes some hundredths, and more while it catches up."""
LATE_AT_ONCE = 1000
MOST_AWAITED = 100_000
"""Writes of which the stream has told nothing yet (15 MB); of more, everything is compared."""
RETRY_SECONDS = 0.3
"""Between two runs of the program that prints the stream: it ends when the S3 server does."""


class Ids:
    """A set of rows' ids, which are counted from 1 on: a bit for each up to the highest, 122 KiB for a million."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> None:
        byte, bit = divmod(number, 8)
        if byte >= len(self._bits):
            self._bits.extend(bytes(max(1024, byte + 1 - len(self._bits))))
        self._bits[byte] |= 1 << bit

    def __contains__(self, number: int) -> bool:
        byte, bit = divmod(number, 8)
        return byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)


class Indexer:
    """
    Parameters
    ----------
    server
        Tells which start of the S3 server answers now and on which ports; None while it is down.
    trouble
        Where it is told that rows cannot be written.
    writes
        The file in which the front says what it let through.
    """

    def __init__(
        self,
        database: Database,
        objects: Objects,
        bucket: str,
        server: Callable[[], tuple[str, weed.WeedPorts] | None],
        stderr: IO[bytes],
        trouble: dict[str, str],
        writes: Path,
    ) -> None:
        self._db = database
        self._objects = objects
        self._bucket = bucket
        self._server = server
        self._stderr = stderr
        self._trouble = trouble
        self._to_look: set[tuple[int, str]] = set()
        self._writes = Reader(writes)
        self._awaited: deque[Write] = deque()
        self._heard = time.monotonic()
        self._process: subprocess.Popen[bytes] | None = None
        self.asked: dict[tuple[int, str], int | None] = {}
        """
        Files that are being deleted or restored over REST, and for which job: a delete marker does not say whose it is,
        and what comes back says who once wrote it.
        """
        self.compared: str | None = None
        """The start of the S3 server with whose full listing the rows were last compared."""

    # The stream.

    async def follow(self) -> None:
        """Follow the stream for ever, over restarts of the S3 server and of the program that prints it."""
        comparing: asyncio.Task[None] | None = None
        if self._db.fact("position") is None:
            # The beginning of everything: what comes after it is not missed, whenever we are stopped.
            with self._db.transaction():
                self._db.set_fact("position", str(time.time_ns()))
        try:
            while True:
                server = self._server()
                if server is None:
                    await asyncio.sleep(0.05)
                    continue
                name, ports = server
                if self._db.fact("server") != name and (comparing is None or comparing.done()):
                    comparing = asyncio.ensure_future(self._compare_once(name))
                try:
                    await self._tail(ports)
                except (OSError, ValueError):
                    pass
                except sqlite3.OperationalError as exc:
                    # Nothing was written, so the stream is read again from there.
                    if "index" not in self._trouble:
                        log.exception("what the store tells cannot be written down; trying again")
                    self._trouble["index"] = f"what the store tells cannot be written down ({exc})"
                    await asyncio.sleep(2)
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            if comparing is not None:
                comparing.cancel()

    async def _tail(self, ports: weed.WeedPorts) -> None:
        """Read one run of the stream until it ends."""
        position = int(self._db.fact("position") or 0)
        seconds = (time.time_ns() - position) / 1e9 + OVERLAP_SECONDS
        process = weed.start(
            weed.tail_command(ports, self._bucket, seconds),
            folder=self._db.path.parent,
            log=self._stderr,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None  # asked for just above
        reader = asyncio.StreamReader(limit=PIPE_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stdout
        )
        stream = events.EventReader(self._bucket, position)
        self._process = process
        try:
            while data := await reader.read(PIPE_BYTES):
                self._heard = time.monotonic()
                self._apply(stream, stream.feed(data))
                if self._to_look:
                    await self._look_at_missing()
        finally:
            self._process = None
            transport.close()
            process.kill()
            process.wait()

    def _apply(self, stream: events.EventReader, changes: list[events.Change]) -> None:
        if not changes and str(stream.position) == self._db.fact("position"):
            return
        with self._db.transaction():
            containers = (
                {row[0] for row in self._db.execute("SELECT id FROM container")} if changes else set()
            )
            for change in changes:
                if change.container in containers and change.path.strip("/"):
                    self._apply_one(change)
            self._db.set_fact("position", str(stream.position))
        self._trouble.pop("index", None)

    def _apply_one(self, change: events.Change) -> None:
        match change:
            case events.Stored():
                job = self._cause(change.container, change.path, change.version_id, change.mark, change.at)
                content = Content(change.size, change.etag, change.mime, change.version_id, change.at, job)
                files.store(self._db, change.container, change.path, content)
                if change.mime is None:
                    self._to_look.add((change.container, change.path))
            case events.Deleted():
                place = (change.container, change.path)
                files.mark_deleted(self._db, *place, at=change.at, job=self.asked.get(place))
            case events.FolderMade():
                files.make_folder(self._db, change.container, change.path.strip("/"), at=change.at)
            case events.FolderRemoved():
                files.remove_folder(self._db, change.container, change.path.strip("/"), at=change.at)

    async def _look_at_missing(self) -> None:
        """Ask for the content types that the stream told too long ago."""
        places, self._to_look = self._to_look, set()
        for container, path in places:
            with contextlib.suppress(Exception):
                await self.look(container, path)

    # What the stream is late with.

    async def mind(self) -> None:
        """For ever: look up what the front let through and the stream does not tell, and begin the stream anew then."""
        since = int(self._db.fact("position") or 0)
        try:
            while True:
                await asyncio.sleep(1)
                try:
                    self._awaited.extend(each for each in self._writes.read() if each[0] >= since)
                    await self._look_at_late()
                    self._trouble.pop("late", None)
                except Exception as exc:
                    # The S3 server is away, or the disk is full: what is awaited still is.
                    if "late" not in self._trouble:
                        log.exception(
                            "what the store's stream is late with cannot be looked up; trying again"
                        )
                    self._trouble["late"] = (
                        f"writes that the store did not tell of cannot be looked up ({exc})"
                    )
        finally:
            self._writes.close()

    async def _look_at_late(self) -> None:
        if len(self._awaited) > MOST_AWAITED:
            await self.compare()
            self._awaited.clear()
        late = self._late()
        rows = {place: self._row(*place) for _, place in late}
        untold = {place for at, place in late if _before(rows[place], at)}
        await self._look_at(sorted(untold))
        for _ in late:
            self._awaited.popleft()
        missed = [place for place in untold if _state(self._row(*place)) != _state(rows[place])]
        if missed and self._process is not None:
            log.warning("the store's stream did not tell of %d writes; it is begun anew", len(missed))
            self._process.kill()

    def _late(self) -> list[Write]:
        """Of the writes of which the stream had the time to tell, and is past them or tells nothing at all, the oldest."""
        position = int(self._db.fact("position") or 0)
        moving = time.monotonic() - self._heard < LATE_SECONDS
        last = time.time_ns() - int(LATE_SECONDS * 1e9)
        if moving:
            last = min(last, position)
        oldest = itertools.islice(self._awaited, LATE_AT_ONCE)
        return list(itertools.takewhile(lambda each: each[0] <= last, oldest))

    def _row(self, container: int, path: str) -> sqlite3.Row | None:
        return files.find(self._db, container, path, folder=False)

    # Single objects.

    async def look(self, container: int, path: str) -> None:
        """
        Make the row of one path true now, without waiting for the stream.

        What the store says is at least as new as every event before the question, so those are skipped then.
        """
        if not path or path.endswith("/"):
            return
        asked = time.time_ns()
        head = await asyncio.to_thread(self._objects.head, f"{container}/{path}")
        with self._db.transaction():
            if head is not None:
                # The store's time of the write has whole seconds, and that of the question may be long after it.
                job = self._cause(container, path, head.version_id, head.mark, head.written)
                content = Content(head.size, head.etag, head.mime, head.version_id, asked, job)
                files.store(self._db, container, path, content)
            else:
                self._not_there(container, path, asked)

    def _cause(self, container: int, path: str, version: str | None, mark: str | None, at: int) -> int | None:
        """The job whose doing it is that this version is the latest."""
        if (container, path) in self.asked:
            return self.asked[container, path]
        row = files.find(self._db, container, path, folder=False) if mark else None
        if row is not None and row["deleted"] and row["version_id"] == version:
            # Somebody took the delete marker off; who wrote the version is another matter.
            return None
        return causes.job_of(self._db, mark, container, path, at)

    def _not_there(self, container: int, path: str, asked: int) -> None:
        # Imported rows have no object, and are not deleted for it.
        row = files.find(self._db, container, path, folder=False)
        if row is not None and row["version_id"] is not None and not row["deleted"]:
            place = (container, path)
            files.mark_deleted(self._db, *place, at=asked, job=self.asked.get(place))

    async def look_below(self, container: int, folder: str) -> None:
        """
        Have the rows of a folder be as the store is now, for who chose it: the stream may tell a moment later. Of more than
        `PAGES_BELOW` thousand objects the first; `folder` is empty for the whole container.
        """
        prefix = f"{container}/{folder}/" if folder else f"{container}/"
        token = None
        for _ in range(PAGES_BELOW):
            page, token = await asyncio.to_thread(self._objects.page, token, prefix)
            await self._look_at(self._differing(page, Ids()))
            if token is None:
                return

    # Everything.

    async def _compare_once(self, name: str) -> None:
        while True:
            try:
                await self.compare()
                break
            except Exception:
                # The S3 server may have died meanwhile; its next start is compared instead.
                log.exception("comparing the rows with the store failed; trying again")
                await asyncio.sleep(2)
        with self._db.transaction():
            self._db.set_fact("server", name)
        self.compared = name

    async def compare(self) -> None:
        """Compare every object with its row, and every row with its object; memory is that of a bit for each row."""
        began = time.time_ns()
        there = Ids()
        token, more = None, True
        while more:
            page, token = await asyncio.to_thread(self._objects.page, token)
            more = token is not None
            differing = self._differing(page, there)
            await self._look_at(differing)
            for container, path in differing:
                row = files.find(self._db, container, path, folder=False)
                if row is not None:
                    there.add(row["id"])
        await self._delete_missing(there, began)

    async def _look_at(self, places: list[tuple[int, str]]) -> None:
        for start in range(0, len(places), LOOKS_AT_ONCE):
            await asyncio.gather(*(self.look(*place) for place in places[start : start + LOOKS_AT_ONCE]))

    def _differing(self, page: list[tuple[str, int, str]], there: Ids) -> list[tuple[int, str]]:
        """Objects of a listing whose rows are absent or differ; notes the ids of the others."""
        containers = {row[0] for row in self._db.execute("SELECT id FROM container")}
        differing: list[tuple[int, str]] = []
        for key, size, etag in page:
            head, _, path = key.partition("/")
            if not head.isdecimal() or int(head) not in containers or not path.strip("/"):
                continue
            container = int(head)
            if path.endswith("/"):
                # Not one that was deleted over REST: that leaves the marker in the store.
                if files.find(self._db, container, path.strip("/"), folder=True) is None:
                    with self._db.transaction():
                        files.make_folder(self._db, container, path.strip("/"))
                continue
            row = files.find(self._db, container, path, folder=False)
            if row is not None and not row["deleted"] and (row["size"], row["etag"]) == (size, etag):
                there.add(row["id"])
            else:
                differing.append((container, path))
        return differing

    async def _delete_missing(self, there: Ids, began: int) -> None:
        last = 0
        while True:
            rows: list[Any] = self._db.all(
                "SELECT id, container_id, path, seen FROM file WHERE id > ? AND type = 'FILE' AND NOT deleted"
                " AND version_id IS NOT NULL ORDER BY id LIMIT 1000",
                (last,),
            )
            if not rows:
                return
            last = rows[-1]["id"]
            for row in rows:
                if row["id"] not in there and row["seen"] < began:
                    # Asked once more: it may have been stored while the listing went on.
                    await self.look(row["container_id"], row["path"])


def _before(row: sqlite3.Row | None, at: int) -> bool:
    """Whether a file's row shows nothing of this time (nanoseconds) or later."""
    return row is None or row["seen"] < at


def _state(row: sqlite3.Row | None) -> tuple[str | None, bool] | None:
    return None if row is None else (row["version_id"], bool(row["deleted"]))
