"""The REST calls about files and folders."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

from starlette.datastructures import UploadFile

from libsafe_nb.local import files, search
from libsafe_nb.local.ask import Ask, Page, Problem, number, page, text
from libsafe_nb.local.database import Database, now, read_only
from libsafe_nb.local.paths import key_problem

MAX_NOTEBOOK = 64 * 1024 * 1024
INSIDE = 1000
"""Files of a folder that are deleted or restored at a time; as many as the store deletes in one request."""


# One container's files.


async def file_upload(ask: Ask) -> dict[str, Any]:
    """Multipart form: `file`, `fileName`, `chunkIndex`, and perhaps `path` (a folder) and `totalChunks`."""
    container = ask.container(ask.id("container"))["id"]
    async with ask.request.form(max_files=1, max_fields=50) as form:
        part = form.get("file")
        if not isinstance(part, UploadFile):
            raise Problem(400, "file: expected a file part of this name in a multipart form")
        name = text(form.get("fileName"), "fileName")
        index = _count(form.get("chunkIndex"), "chunkIndex", least=0)
        total = None if "totalChunks" not in form else _count(form["totalChunks"], "totalChunks", least=1)
        folder = text(form.get("path") or "", "path", empty=True)
        path = _path(f"{folder.strip('/')}/{name.strip('/')}")
        await ask.platform.uploads.take(
            container, path, index, total, part.content_type, part.file, job=ask.job
        )
    row = files.find(ask.db, container, path, folder=False)
    if row is None:
        # More chunks are announced: there is no object yet.
        return {"id": None, "container_id": str(container), "path": path, "chunkIndex": index}
    return files.by_id(ask.db, row["id"])


async def file_by_path(ask: Ask) -> dict[str, Any]:
    """Asks the store as well, so that what was stored a moment ago is found, with its newest size and version."""
    container = ask.container(ask.id("container"))["id"]
    path = _path(ask.path["path"])
    await _refresh(ask, container, path)
    row = files.find(ask.db, container, path)
    if row is not None and row["deleted"] and row["type"] == "FILE":
        row = files.find(ask.db, container, path, folder=True) or row
    if row is None or row["deleted"]:
        raise Problem(404, f"container {container} has no file or folder {path}")
    return files.by_id(ask.db, row["id"])


async def _refresh(ask: Ask, container: int, path: str) -> None:
    await ask.platform.uploads.flush(container, path)
    # While the S3 server restarts, what the rows say is the best there is.
    with contextlib.suppress(Exception):
        await ask.platform.indexer.look(container, path)


def folder_create(ask: Ask) -> dict[str, Any]:
    container = ask.container(ask.id("container"))["id"]
    path = _path(text(ask.fields().get("path"), "path"))
    row = files.find(ask.db, container, path, folder=True)
    if row is not None and not row["deleted"]:
        raise Problem(409, f"container {container} has a folder {path} already")
    folder = files.make_folder(ask.db, container, path)
    assert folder is not None  # only the empty path is none
    return files.by_id(ask.db, folder)


def file_list(ask: Ask) -> Page:
    """
    Files and folders in their paths' order, deleted ones left out.

    `type` (FILE or FOLDER), `parent` (a folder's id, or `root`), `prefix` (of paths) and `deleted=1` narrow it down.
    """
    container = ask.container(ask.id("container"))["id"]
    limit = ask.limit()
    conditions = ["container_id = :container", "file.deleted = :deleted"]
    values: dict[str, Any] = {"container": container, "limit": limit + 1}
    values["deleted"] = int(ask.query.get("deleted") in ("1", "true"))
    after = ask.after()
    if after is not None:
        path, _, kind = after.rpartition("|")
        values |= {"path": path, "kind": kind}
        conditions.append("(path, type) > (:path, :kind)")
    if "type" in ask.query:
        values["type"] = ask.query["type"].upper()
        conditions.append("type = :type")
    if "prefix" in ask.query:
        values["prefix"] = ask.query["prefix"].lstrip("/")
        values["end"] = values["prefix"] + "\U0010ffff"
        conditions.append("path >= :prefix AND path < :end")
    if "parent" in ask.query:
        root = ask.query["parent"] in ("root", "")
        values["parent"] = None if root else number(ask.query["parent"], name="parent")
        conditions.append("parent IS :parent")
    clause = " AND ".join(conditions)
    rows = ask.db.all(f"{files.SELECT} WHERE {clause} ORDER BY path, type LIMIT :limit", values)
    return page(rows, limit, lambda row: f"{row['path']}|{row['type']}", files.shape)


async def notebook_open(ask: Ask) -> dict[str, Any]:
    """The file's row with the notebook itself as `content`; 403 for a user without S3 credentials (the vendor's rule)."""
    if ask.user.s3_access_key is None and not ask.user.root:
        raise Problem(
            403, "opening a notebook needs an active API key and S3 credentials; you have no S3 credentials"
        )
    found = await file_by_path(ask)
    if found["type"] != "FILE" or not found["path"].endswith(".ipynb"):
        raise Problem(400, f"{found['path']}: is not a notebook")
    if not found["online"]:
        raise Problem(409, f"{found['path']}: is off-line and cannot be read")
    if found["size"] > MAX_NOTEBOOK:
        raise Problem(413, f"{found['path']}: is larger than 64 MiB")
    if found["version_id"] is None:
        raise Problem(404, f"{found['path']}: was imported without its content")
    key = f"{found['container_id']}/{found['path']}"
    content = await asyncio.to_thread(ask.platform.objects.read, key, version_id=found["version_id"])
    with ask.db.transaction():
        files.tell(ask.db, "file_read", int(found["id"]), ask.job)
    try:
        return {**found, "content": json.loads(content)}
    except ValueError as exc:
        raise Problem(409, f"{found['path']}: is not JSON, so it is no notebook") from exc


# One file.


def file_get(ask: Ask) -> dict[str, Any]:
    return files.by_id(ask.db, ask.file(ask.id("file"))["id"])


async def file_delete(ask: Ask) -> dict[str, Any]:
    """
    Soft-delete: a delete marker in the store. A folder goes with all that is in it.

    By the thousand, the folder itself at last; after a failure the call is repeated for the rest.
    """
    row = ask.file(ask.id("file"))
    # Before the call: what somebody stores under the same key right after it is not deleted.
    began = time.time_ns()
    if row["type"] == "FOLDER":
        for inside in _inside(ask.db, row, deleted=False):
            await _delete(ask, inside, began)
    await _delete(ask, [row], began)
    return files.by_id(ask.db, row["id"])


async def _delete(ask: Ask, rows: list[sqlite3.Row], began: int) -> None:
    keys = [f"{each['container_id']}/{each['path']}" for each in rows if each["version_id"] is not None]
    with _asked(ask, [(each["container_id"], each["path"]) for each in rows]):
        if keys:
            await asyncio.to_thread(ask.platform.objects.delete, keys)
        with ask.db.transaction():
            for each in rows:
                _mark_deleted(ask, each["id"], began)


def _mark_deleted(ask: Ask, file: int, began: int) -> None:
    row = ask.db.one("SELECT deleted, seen FROM file WHERE id = ?", (file,))
    if row["seen"] > began:
        return
    ask.db.execute(
        "UPDATE file SET deleted = 1, date_update = ?, seen = ? WHERE id = ?", (now(), began, file)
    )
    # The store's stream may have told it already.
    if not row["deleted"]:
        files.tell(ask.db, "file_deleted", file, ask.job)


async def file_restore(ask: Ask) -> dict[str, Any]:
    """Undo a soft-delete: the content is there again. 409 when no version of it is left."""
    row = ask.file(ask.id("file"))
    inside = _inside(ask.db, row, deleted=True) if row["type"] == "FOLDER" else ()
    for each in chain([row], chain.from_iterable(inside)):
        place = (each["container_id"], each["path"])
        if each["version_id"] is not None:
            with _asked(ask, [place]):
                if await asyncio.to_thread(ask.platform.objects.restore, f"{place[0]}/{place[1]}") is None:
                    raise Problem(409, f"{each['path']}: every version of it has been removed from the store")
                await ask.platform.indexer.look(*place)
        else:
            # A folder, or an imported row, which never had an object.
            with ask.db.transaction():
                files.make_folder(ask.db, place[0], each["path"].rpartition("/")[0])
                ask.db.execute(
                    "UPDATE file SET deleted = 0, date_update = ? WHERE id = ?", (now(), each["id"])
                )
    return files.by_id(ask.db, row["id"])


@contextlib.contextmanager
def _asked(ask: Ask, places: list[tuple[int, str]]) -> Iterator[None]:
    """What the store tells of these files meanwhile is the doing of the job that asks, or of none."""
    asked = ask.platform.indexer.asked
    asked.update(dict.fromkeys(places, ask.job))
    try:
        yield
    finally:
        for place in places:
            asked.pop(place, None)


def _inside(db: Database, folder: sqlite3.Row, *, deleted: bool) -> Iterator[list[sqlite3.Row]]:
    """What lies in a folder, at whatever depth, by path, `INSIDE` rows at a time."""
    path, high = files.below(folder["path"])
    kind = ""
    while True:
        rows = db.all(
            "SELECT id, container_id, path, type, version_id FROM file WHERE container_id = ? AND (path, type) > (?, ?)"
            " AND path < ? AND deleted = ? ORDER BY path, type LIMIT ?",
            (folder["container_id"], path, kind, high, deleted, INSIDE),
        )
        if not rows:
            return
        yield rows
        path, kind = rows[-1]["path"], rows[-1]["type"]


async def file_versions(ask: Ask) -> list[dict[str, Any]]:
    row = ask.file(ask.id("file"))
    found = await asyncio.to_thread(ask.platform.objects.versions, f"{row['container_id']}/{row['path']}")
    return [
        {
            "version_id": version.version_id,
            "size": version.size,
            "etag": version.etag,
            "latest": version.latest,
            "deleted": int(version.deleted),
            "date_create": version.date,
        }
        for version in found
    ]


def file_storage_class(ask: Ask) -> dict[str, Any]:
    """`storage_class_id`: 1 is on-line, 2 off-line; others are stored as they are and count as on-line."""
    row = ask.file(ask.id("file"))
    given = ask.fields().get("storage_class_id")
    wanted = str(given) if isinstance(given, int) else text(given, "storage_class_id", most=64)
    ask.db.execute("UPDATE file SET storage_class_id = ? WHERE id = ?", (wanted, row["id"]))
    return files.by_id(ask.db, row["id"])


# Many files.


async def file_search(ask: Ask) -> Page:
    """In a thread with a connection of its own: a search may look at every row."""
    limit = ask.limit()
    sql, bound = search.query(
        ask.fields().get("conditions", []),
        user=None if ask.user.root else ask.user.id,
        after=ask.after_id(),
        limit=limit + 1,
    )

    def run() -> list[Any]:
        with contextlib.closing(read_only(ask.db.path)) as connection:
            return connection.execute(sql, bound).fetchall()

    return page(await asyncio.to_thread(run), limit, lambda row: row["id"], files.shape)


def _path(value: str) -> str:
    """A path within a container, without slashes at its ends."""
    path = value.strip("/")
    problem = key_problem(path)
    if problem:
        raise Problem(400, f"the path {path[:200]!r} cannot be: {problem}")
    return path


def _count(value: Any, name: str, *, least: int) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and least <= int(value) < 10_000_000:
        return int(value)
    raise Problem(400, f"{name}: expected a number from {least} on, got {str(value)[:50]!r}")
