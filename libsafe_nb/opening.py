"""What lies in a container as a copy on this disk, to look at or to work on; a copy that was changed is never overwritten."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from libsafe_nb import archive
from libsafe_nb.connection import connect
from libsafe_nb.errors import ObjectNotFound, UsageError
from libsafe_nb.papermill_io import split

if TYPE_CHECKING:
    from libsafe_nb.settings import Settings
    from libsafe_nb.storage import Storage

REPORT = "report.html"
BLOCK = 8 * 1024 * 1024


@dataclass(frozen=True)
class Copy:
    """
    A file of a container on this disk.

    Attributes
    ----------
    created
        False where the very same bytes were there already.
    """

    path: Path
    version_id: str | None
    size: int
    created: bool


def is_evidence(place: str) -> bool:
    """Whether an address or path names the folder of a run's evidence, rather than a file."""
    if place.startswith("libsafe://"):
        return bool(re.search(r"/provenance/.*(/|-job\d+)$", place))
    return Path(place).is_dir()


def copy(address: str, folder: Path, *, settings: Settings | None = None) -> Copy:
    """
    Copy `libsafe://CONTAINER/path` into a folder, under its own name.

    Raises
    ------
    UsageError
        There is no such file, or another one of this name is in the folder.
    """
    container, path = split(address)
    connection = connect(settings=settings)
    try:
        return _copy(connection.storage, container, path, folder / local_name(PurePosixPath(path).name))
    finally:
        connection.close()


def report(place: str, folder: Path, *, settings: Settings | None = None) -> Path:
    """
    The report of a run's evidence: of a local folder the file in it, of a container's a copy, named after the run.

    Raises
    ------
    UsageError
        It is no evidence of one run, or has no report.
    """
    found = archive.at(place, settings=settings)
    try:
        run = archive.one(found)
        if isinstance(found, archive.Container):
            # provenance/FUNCTION/TIME-jobID/
            name = "-".join(run.strip("/").split("/")[-2:]) + ".html"
            return _copy(found.storage, found.container, run + REPORT, folder / local_name(name)).path
        # Of a lone copy `run` is empty; the folder of a container's may lie deeper than the one that was named.
        at = next(
            (each for each in (Path(place) / REPORT, *Path(place).rglob(REPORT)) if each.is_file()), None
        )
        if at is None:
            raise UsageError(f"{place}: expected a {REPORT}, found none")
        return at
    finally:
        found.close()


def local_name(name: str) -> str:
    """
    A file's name as it is safe on this disk: in sight, no option, no control character, and not too long.

    >>> local_name("-é\\n..ipynb")
    'é_..ipynb'
    """
    safe = "".join(each if each.isprintable() and each not in "\\\\/:" else "_" for each in name).lstrip(".-")
    suffix = PurePosixPath(safe).suffix
    if len(safe.encode()) > 200:
        safe = safe.encode()[: 200 - len(suffix.encode())].decode(errors="ignore") + suffix
    return safe or "file"


def _copy(storage: Storage, container: str, path: str, target: Path) -> Copy:
    address = f"libsafe://{container}/{path.removeprefix('/')}"
    try:
        if target.exists():
            return _same(storage, container, path, target, address)
        # The place is taken first, so that a file that appears meanwhile is not lost.
        target.touch(exist_ok=False)
        try:
            found = storage.download(container, path, target)
        except BaseException:
            target.unlink()
            raise
    except ObjectNotFound as exc:
        raise UsageError(f"{address}: there is no such file") from exc
    except OSError as exc:
        raise UsageError(f"{target}: cannot be written ({exc.strerror or exc})") from exc
    return Copy(target, found.version_id, found.size, created=True)


def _same(storage: Storage, container: str, path: str, target: Path, address: str) -> Copy:
    """The copy that is there, if it is one."""
    with storage.open(container, path) as stream, target.open("rb") as file:
        here, there = hashlib.sha256(), hashlib.sha256()
        while block := file.read(BLOCK):
            here.update(block)
        if file.tell() == stream.size:
            while block := stream.read(BLOCK):
                there.update(block)
        if file.tell() != stream.size or here.digest() != there.digest():
            raise UsageError(
                f"{target}: there is another file already, which is not version {stream.version_id} of {address}; "
                "move it away, or choose another folder with --to"
            )
        return Copy(target, stream.version_id, stream.size, created=False)
