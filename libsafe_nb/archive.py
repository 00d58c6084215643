"""
Evidence as it lies: in a container over S3, or in a copy of one on this disk.

    a record's folder      …/provenance/{function}/{time}-job{job}/, or that folder alone
    a tree of them         a container, its provenance folder, or a part of it

Paths are those of the container (`provenance/…`), whatever place on a disk a copy has.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, cast

from libsafe_nb import chain, evidence
from libsafe_nb.errors import ObjectNotFound, UsageError

if TYPE_CHECKING:
    from libsafe_nb.connection import Connection
    from libsafe_nb.settings import Settings
    from libsafe_nb.storage import Storage

ALL = "provenance/"
"""All evidence of a container."""


class Archive(Protocol):
    """
    Attributes
    ----------
    place
        For people: an address or a path.
    start
        The path below which was asked for: a record's folder, `provenance/`, or empty where a record's folder was copied
        by itself.
    """

    place: str
    start: str

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Path and size of what there is, by path."""

    def folders(self, prefix: str) -> Iterator[str]:
        """Names of the folders in a folder, whose path ends with a slash."""

    def read(self, path: str, *, version: str | None = None) -> bytes:
        """
        Raises
        ------
        ObjectNotFound
        """

    def open(self, path: str, *, version: str | None = None) -> BinaryIO:
        """
        For files of any size.

        Raises
        ------
        ObjectNotFound
        """

    def close(self) -> None:
        """Let go of what was opened for it."""

    def deleted(self, prefix: str) -> Iterator[str]:
        """Paths that were there and are deleted, as far as that can be known: versions tell, folders do not."""


class Folder:
    """A copy on this disk: of a container, of its `provenance` folder, or of one record's folder."""

    def __init__(self, path: Path) -> None:
        self.place = str(path)
        path = path.resolve()
        parts = path.parts
        if "provenance" in parts:
            # The last one: a copy may lie in a folder of that name.
            at = len(parts) - 1 - parts[::-1].index("provenance")
            self._root = Path(*parts[:at])
            self.start = "/".join(parts[at:]) + "/"
        else:
            # A lone copy of one record's folder, or a container's, of which only this part is evidence.
            self._root, self.start = path, ALL if (path / ALL).is_dir() else ""
            self.place = str(Path(self.place, self.start))

    def path(self, path: str) -> Path:
        """Where a path of the container is on this disk."""
        return self._root / path

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        top = self._root / prefix
        if top.is_dir():
            yield from self._walk(top)

    def _walk(self, folder: Path) -> Iterator[tuple[str, int]]:
        """One folder after the other, so that the names of one alone are held."""
        for name in sorted(os.listdir(folder)):  # noqa: PTH208 - names need a third of what paths do
            path = folder / name
            found = path.lstat()
            if stat.S_ISDIR(found.st_mode):
                yield from self._walk(path)
            elif stat.S_ISREG(found.st_mode):
                yield path.relative_to(self._root).as_posix(), found.st_size

    def folders(self, prefix: str) -> Iterator[str]:
        top = self._root / prefix
        found = os.scandir(top) if top.is_dir() else ()
        yield from sorted(each.name for each in found if each.is_dir(follow_symlinks=False))

    def read(self, path: str, *, version: str | None = None) -> bytes:
        with self.open(path, version=version) as file:
            return file.read()

    def open(self, path: str, *, version: str | None = None) -> BinaryIO:
        if version is not None:
            raise ObjectNotFound(f"{self.place}: {path}: a copy on a disk has no versions")
        place = self._root / path
        if ".." in PurePosixPath(path).parts or PurePosixPath(path).is_absolute() or not place.is_file():
            raise ObjectNotFound(f"{self.place}: {path}: there is no such file")
        return place.open("rb")

    def deleted(self, prefix: str) -> Iterator[str]:
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


class Container:
    """A container in a storage; `connection` is to its platform, where there is one to ask, and is closed with it."""

    def __init__(
        self, storage: Storage, container: str, start: str = ALL, *, connection: Connection | None = None
    ) -> None:
        self.place = f"libsafe://{container}/{start}"
        self.start = start
        self.storage, self.container, self.connection = storage, container, connection

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        for each in self.storage.list(self.container, prefix):
            yield each.path, each.size

    def folders(self, prefix: str) -> Iterator[str]:
        for each in self.storage.folder(self.container, prefix):
            if isinstance(each, str):
                yield each

    def read(self, path: str, *, version: str | None = None) -> bytes:
        return self.storage.get(self.container, path, version_id=version)

    def open(self, path: str, *, version: str | None = None) -> BinaryIO:
        return cast(BinaryIO, self.storage.open(self.container, path, version_id=version))

    def deleted(self, prefix: str) -> Iterator[str]:
        for each in self.storage.versions(self.container, prefix):
            if each.deleted and each.latest:
                yield each.path

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


def local(path: Path) -> Folder:
    """
    Raises
    ------
    UsageError
        There is no such folder.
    """
    if not path.is_dir():
        raise UsageError(
            f"{path}: expected a folder of evidence, found {'a file' if path.exists() else 'nothing'}"
        )
    return Folder(path)


def records(archive: Archive) -> Iterator[str]:
    """
    The folders below `archive.start` that hold a record, each with a trailing slash, by path.

    A folder that holds `SHA256SUMS` but no record any more is one as well.
    """
    last = None
    for path, _ in archive.list(archive.start):
        folder, _, name = path.rpartition("/")
        if name in ("record.json", "SHA256SUMS") and folder != last:
            last = folder
            yield f"{folder}/" if folder else ""


def one(archive: Archive) -> str:
    """
    The one record's folder that was asked for, with a trailing slash.

    Raises
    ------
    UsageError
        There is none, or are several.
    """
    folders = list(islice(records(archive), 2))
    if len(folders) != 1:
        found = "several" if folders else "none"
        raise UsageError(f"{archive.place}: expected the folder of one run's evidence, found {found}")
    return folders[0]


def record(archive: Archive) -> dict[str, Any]:
    """
    The record of the one run that was asked for.

    Raises
    ------
    UsageError
        There is none, or are several, or it is no record.
    """
    folder = one(archive)
    try:
        found = json.loads(archive.read(f"{folder}record.json"))
    except (ValueError, ObjectNotFound) as exc:
        raise UsageError(f"{archive.place}: its record.json cannot be read ({exc})") from exc
    if not isinstance(found, dict):
        raise UsageError(f"{archive.place}: its record.json is no JSON object")
    return found


def beside(archive: Archive, home: str, address: object) -> tuple[Archive, str] | None:
    """
    The evidence at an address, as a record of container `home` in the archive names it: where it lies, and its folder.

    None where that is not at hand: of a copy on a disk only the container that was copied, and only as a whole. Another
    container shares the archive's connection, which is closed with that one.
    """
    place = evidence.place_of(address)
    if place is None:
        return None
    container, folder = place
    if isinstance(archive, Container):
        here = container == archive.container
        if here:
            return archive, folder
        return Container(archive.storage, container, connection=archive.connection), folder
    return (archive, folder) if container == home and archive.start else None


def links(archive: Archive) -> Iterator[tuple[int, bytes]]:
    """The links of the container's chain, by number; nothing where no chain is at hand."""
    with contextlib.suppress(ObjectNotFound):
        for path, _ in archive.list(f"{chain.FOLDER}/"):
            seq = chain.number(path)
            if seq is not None:
                yield seq, archive.read(path)


def at(place: str, *, settings: Settings | None = None) -> Folder | Container:
    """
    What a person names: a container's id, a `libsafe://` address in it, or a folder on this disk.

    Raises
    ------
    UsageError
        It is none of these.
    """
    found = re.fullmatch(r"(?:libsafe://)?(\d{1,18})(?:/(.*))?", place, re.ASCII)
    if place.startswith("libsafe://") and not found:
        raise UsageError(f"{place}: expected libsafe://CONTAINER/path")
    if found is None or (not place.startswith("libsafe://") and found[2] is not None):
        return local(Path(place))
    start = (found[2] or "").strip("/")
    if start and not f"{start}/".startswith(ALL):
        raise UsageError(f"{place}: expected libsafe://CONTAINER or libsafe://CONTAINER/{ALL}…")
    # Imported here: a copy on a disk needs neither requests nor boto3.
    from libsafe_nb.connection import connect

    connection = connect(settings=settings)
    return Container(connection.storage, found[1], f"{start}/" if start else ALL, connection=connection)
