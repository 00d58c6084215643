"""Local files, and folders with all that lies in them, which are to be stored: each file, and its path in the container."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from libsafe_nb.errors import UsageError


def laid_out(paths: Iterable[Path]) -> dict[str, Path]:
    """
    The files by the paths in the container that they get: `/{name}`, those of a folder `/{folder}/{path within it}`.

    A folder's files come in the order of their paths. A link in it stands for the file that it leads to, which has to lie in
    the folder too.

    Raises
    ------
    UsageError
        One cannot be read, has no plain name, or has the name of another one; or a folder holds no file, a link to a folder or
        a link to what lies outside of it.
    """
    found: dict[str, Path] = {}
    given: dict[str, Path] = {}
    for path in paths:
        top = _top(path)
        if top in given:
            raise UsageError(f"{path}: {given[top]} has the same name; both would be stored as /{top}")
        given[top] = path
        for name, file in _within(path, top):
            if not os.access(file, os.R_OK):
                raise UsageError(f"{file}: cannot be read")
            if "\\" in name or not name.isprintable() or name.split("/")[1] == "provenance":
                raise UsageError(f"{str(file)!r}: expected a plain name, got {name[1:]!r}")
            found[name] = file
    return found


def _top(path: Path) -> str:
    # A folder may be given as `.` or `..`, which is no name.
    return path.name if path.name not in ("", "..") else path.resolve().name


def _within(path: Path, top: str) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield f"/{top}", path
        return
    if not path.is_dir():
        raise UsageError(f"{path}: expected a file or a folder, found nothing")
    files = sorted(_files(path), key=lambda file: PurePosixPath(file.relative_to(path)).parts)
    if not files:
        raise UsageError(f"{path}: expected files in the folder, found none")
    for file in files:
        yield f"/{top}/{file.relative_to(path).as_posix()}", file


def _files(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename}: cannot be read ({error.strerror or error})") from error

    whole = folder.resolve()
    for place, folders, names in os.walk(folder, onerror=refuse):
        for name in folders:
            linked = Path(place, name)
            if linked.is_symlink():
                raise UsageError(
                    f"{linked}: expected a file or a folder, found a link to the folder {linked.resolve()}"
                )
        for name in names:
            file = Path(place, name)
            if not file.is_file():
                raise UsageError(f"{file}: expected a file, found none that could be read")
            target = file.resolve()
            if file.is_symlink() and not target.is_relative_to(whole):
                raise UsageError(
                    f"{file}: expected a file in {folder}, found a link to {target}, which lies outside of it"
                )
            yield file
