"""
A container as a tree of files and folders, with what a person does to them.

A folder is what paths have in common, or an object whose key ends with a slash. Nothing is ever lost: what is replaced
or removed stays as a version. Evidence is only read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from libsafe_nb.errors import (
    AccessDenied,
    NotFound,
    ObjectChanged,
    ObjectNotFound,
    PlatformError,
    PreconditionFailed,
    UsageError,
)
from libsafe_nb.objects import ObjectInfo, ObjectVersion, Stored

if TYPE_CHECKING:
    from libsafe_nb.connection import Connection
    from libsafe_nb.objectstream import ObjectStream

EVIDENCE = "provenance"

READ_ONLY = "ReadOnly"
"""Code of the `AccessDenied` about evidence, which no credentials open for writing."""

AT_ONCE = 8
"""Objects that are copied or deleted at once when a folder is."""

MOST_SHOWN = 50_000
"""Entries of one folder that are shown: no browser shows more."""

VERSIONS = 100
"""Versions of a file that are told, the newest."""


@dataclass(frozen=True)
class Entry:
    """A file, or a folder (`info` is None)."""

    path: str
    info: ObjectInfo | None

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


class NotSaved(PreconditionFailed):
    """
    Someone else has changed or deleted the file.

    `held` is the etag that was expected, `beside` path and etag of the copy that holds what was to be saved.
    """

    held: str = ""
    beside: tuple[str, str] = ("", "")


def is_evidence(path: str) -> bool:
    return path == EVIDENCE or path.startswith(f"{EVIDENCE}/")


def refuse_evidence(*paths: str) -> None:
    """
    Raises
    ------
    AccessDenied
        One of the paths is that of evidence.
    """
    for path in paths:
        if is_evidence(path):
            raise AccessDenied(
                f"{path}: what runs left under {EVIDENCE}/ can be read and is never changed, moved or deleted; copy what you "
                "need to another folder",
                code=READ_ONLY,
            )


class Tree:
    """The files of one container. Paths have no slash at their ends; `""` is the container itself."""

    def __init__(self, connection: Connection, container: str) -> None:
        self.connection = connection
        self._client, self._storage = connection.client, connection.storage
        self._container = container

    # Looking

    def file(self, path: str) -> ObjectInfo | None:
        if not path:
            return None
        try:
            return self._storage.head(self._container, path)
        except ObjectNotFound:
            return None

    def is_folder(self, path: str) -> bool:
        if not path:
            return True
        self._storage.key(self._container, path)
        return any(True for _ in self._storage.list(self._container, f"{path}/", page=1))

    def look(self, path: str) -> Entry:
        """
        Raises
        ------
        ObjectNotFound
            There is neither a file nor a folder.
        """
        info = self.file(path)
        if info is None and not self.is_folder(path):
            raise ObjectNotFound(f"{path}: there is no such file or folder in container {self._container}")
        return Entry(path, info)

    def entries(self, folder: str) -> list[Entry]:
        """Files and folders in a folder; at most `MOST_SHOWN` of them."""
        below = f"{folder}/" if folder else ""
        found = islice(self._storage.folder(self._container, folder), MOST_SHOWN)
        return [
            Entry(below + each, None) if isinstance(each, str) else Entry(each.path, each) for each in found
        ]

    def read(self, path: str, *, most: int) -> tuple[ObjectInfo, bytes]:
        """
        A file of at most `most` bytes, and which version of it was read.

        Raises
        ------
        UsageError
            It is larger.
        """
        info = self._storage.head(self._container, path)
        if info.size > most:
            raise UsageError(
                f"{path}: expected at most {most // 2**20} MiB to open, found {info.size // 2**20} MiB; download it "
                "instead"
            )
        with self._storage.open(self._container, path, version_id=info.version_id) as stream:
            data = stream.read()
            if stream.etag != info.etag:
                raise ObjectChanged(f"{path}: was replaced while it was opened; open it again", key=path)
        return info, data

    def open(self, path: str) -> ObjectStream:
        """The version of a file that is stored now, to be read piece by piece; the caller's to close."""
        info = self._storage.head(self._container, path)
        return self._storage.open(self._container, path, version_id=info.version_id)

    def versions(self, path: str) -> list[ObjectVersion]:
        """
        The newest versions of a file, the oldest of them first, deletions left out.

        Raises
        ------
        ObjectNotFound
            There is none.
        """
        page = islice(self._storage.versions(self._container, path), 1000)
        found = [each for each in page if each.path == path and not each.deleted]
        if not found:
            raise ObjectNotFound(f"{path}: there is no such file in container {self._container}")
        return found[:VERSIONS][::-1]

    # Changing

    def save(
        self,
        path: str,
        source: bytes | IO[bytes],
        *,
        replaces: str | None,
        beside: tuple[str, str] | None = None,
    ) -> ObjectInfo:
        """
        Store a file in the place of the version whose etag is `replaces`; None: of the current one, if any; "": of none.

        Parameters
        ----------
        source
            A stream is seekable, at its start.
        beside
            Path and etag of the copy in which an earlier try was kept.

        Raises
        ------
        NotSaved
            Someone else has replaced or deleted that version. What was to be saved is kept as a file beside it.
        """
        refuse_evidence(path)
        current = self.file(path)
        if current is None and not replaces and self.is_folder(path):
            raise UsageError(f"{path}: expected a file, found a folder")
        expected = (current.etag if current is not None else "") if replaces is None else replaces
        try:
            if current is None and replaces:
                raise PreconditionFailed(f"{path}: is gone")
            stored = self._store(path, source, if_none_match=not expected, if_match=expected or None)
        except (PreconditionFailed, ObjectNotFound) as exc:
            where = self._keep_beside(path, source, beside)
            raise NotSaved(
                f"{path} was changed in the container since it was opened here, so it was not overwritten. Both are "
                f"kept: theirs as {path}, yours as {where[0]}. Open it anew to go on with theirs",
                held=expected,
                beside=where,
            ) from exc
        return self._as_stored(stored)

    def _store(self, path: str, source: bytes | IO[bytes], **conditions: Any) -> Stored:
        if isinstance(source, bytes):
            return self._storage.put(self._container, path, source, **conditions)
        source.seek(0)
        return self._storage.upload(self._container, path, cast(BinaryIO, source), **conditions)

    def _keep_beside(
        self, path: str, source: bytes | IO[bytes], before: tuple[str, str] | None
    ) -> tuple[str, str]:
        if before is not None:
            with contextlib.suppress(PreconditionFailed, ObjectNotFound):
                return before[0], self._store(before[0], source, if_match=before[1]).etag
        place = PurePosixPath(path)
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        target = str(place.with_name(f"{place.stem}.conflict-{moment}{place.suffix}"))
        return target, self._store(target, source, if_none_match=True).etag

    def _as_stored(self, stored: Stored) -> ObjectInfo:
        """What a save left, with the storage's own time where it is still the current one."""
        found = self.file(stored.path)
        if found is not None and found.etag == stored.etag:
            return found
        return ObjectInfo(
            stored.container, stored.path, stored.size, stored.etag, datetime.now(UTC), stored.version_id
        )

    def make_folder(self, path: str) -> None:
        refuse_evidence(path)
        if self.file(path) is not None:
            raise UsageError(f"{path}: expected a folder, found a file")
        self._storage.make_folder(self._container, path)

    def copy(self, path: str, target: str) -> None:
        """
        Copy a file, or a folder with all that is in it.

        Raises
        ------
        PreconditionFailed
            There is something at `target`. Nothing is left of the copy.
        """
        refuse_evidence(target)
        if f"{target}/".startswith(f"{path}/"):
            raise UsageError(f"{path or '/'}: cannot be copied into itself")
        entry = self.look(path)
        self._refuse_taken(entry, target)
        if entry.info is not None:
            self._storage.copy(self._container, path, target, source=entry.info, if_none_match=True)
            return
        self._copy_all(list(self._below(path)), path, target)

    def move(self, path: str, target: str) -> None:
        """
        Move a file, or a folder with all that is in it: copied, then deleted softly, so it has new ids there.

        Raises
        ------
        PreconditionFailed
            There is something at `target`: nothing is moved. Or something was changed meanwhile: that one stays,
            beside the copy of what it was.
        """
        refuse_evidence(path, target)
        if not path or not target or f"{target}/".startswith(f"{path}/"):
            raise UsageError(f"{path or '/'}: cannot be moved to {target or '/'}")
        entry = self.look(path)
        self._refuse_taken(entry, target)
        if entry.info is not None:
            self._storage.copy(self._container, path, target, source=entry.info, if_none_match=True)
            changed = self._delete_all([entry.info])
        else:
            found = list(self._below(path))
            self._copy_all(found, path, target)
            changed = self._delete_all(found)
        self._keep_folder(path)
        if changed:
            raise PreconditionFailed(
                f"{changed[0]}: was changed by someone else while it was moved, so it stays where it was; what it was "
                f"before is at the new place"
            )

    def remove(self, path: str) -> None:
        """
        Delete softly a file, or a folder with all that is in it.

        The platform is asked to; what it leaves, or where it knows no such call, is deleted over S3, which leaves all
        versions. What is changed or made in a folder after this began is not deleted.
        """
        refuse_evidence(path)
        if not path:
            raise UsageError("the container itself cannot be deleted here")
        entry = self.look(path)
        found = [entry.info] if entry.info is not None else list(self._below(path))
        self._remove_by_platform(path, "FILE" if entry.info is not None else "FOLDER")
        self._delete_all(found)
        self._keep_folder(path)

    def restore(self, path: str, version_id: str) -> str:
        """Make an older version the current one, as a new version with its bytes; gives its etag."""
        refuse_evidence(path)
        info = self._storage.head(self._container, path, version_id=version_id)
        current = self.file(path)
        if current is not None and current.version_id == info.version_id:
            return current.etag
        self._storage.copy(self._container, path, path, source=info)
        return self._storage.head(self._container, path).etag

    def _refuse_taken(self, entry: Entry, target: str) -> None:
        if self.file(target) is not None or self.is_folder(target):
            raise PreconditionFailed(f"{target}: there is a file or folder of this name already")

    def _below(self, folder: str) -> Iterator[ObjectInfo]:
        return self._storage.list(self._container, f"{folder}/")

    def _copy_all(self, found: list[ObjectInfo], folder: str, target: str) -> None:
        def copy(info: ObjectInfo) -> str:
            place = target + info.path[len(folder) :]
            if place.endswith("/"):
                self._storage.make_folder(self._container, place)
            else:
                self._storage.copy(self._container, info.path, place, source=info, if_none_match=True)
            return place

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="copy") as pool:
            waiting = [pool.submit(copy, each) for each in found]
        failed = next((each.exception() for each in waiting if each.exception()), None)
        if failed is not None:
            for each in waiting:
                if not each.exception():
                    self._delete(each.result(), None)
            raise failed

    def _delete_all(self, found: Iterable[ObjectInfo]) -> list[str]:
        """Delete what is still as it was found; gives the paths of what is not."""

        def delete(info: ObjectInfo) -> str | None:
            try:
                self._delete(info.path, info.etag)
            except PreconditionFailed:
                return info.path
            return None

        return [each for each in _at_once(delete, found) if each is not None]

    def _delete(self, path: str, etag: str | None) -> None:
        if path.endswith("/"):
            self._storage.remove_folder(self._container, path)
        elif etag is None or self._storage.exists(self._container, path):
            # A delete of what is gone would leave one more delete marker.
            self._storage.delete(self._container, path, if_match=etag)

    def _remove_by_platform(self, path: str, kind: str) -> None:
        try:
            row = self._client.file_by_path(self._container, path)
            if row.get("type") == kind:
                self._client.delete_file(row["id"])
        except NotFound:
            return
        except PlatformError as exc:
            if exc.status not in (405, 501):
                raise

    def _keep_folder(self, path: str) -> None:
        """A folder does not go with the last file in it, before the eyes of who has it open."""
        folder = path.rpartition("/")[0]
        if folder and not self.is_folder(folder):
            self._storage.make_folder(self._container, folder)


def _at_once(work: Callable[[ObjectInfo], Any], found: Iterable[ObjectInfo]) -> list[Any]:
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="delete") as pool:
        return list(pool.map(work, found))
