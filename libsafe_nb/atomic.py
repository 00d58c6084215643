"""
Writing a file so that at every instant its old or its new content is there, whole.

The bytes go to a temporary file beside the target, are forced to disk and then renamed over it. Whoever is killed in
between leaves the old content, and at worst a hidden temporary file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path


def write_bytes(path: str | Path, data: bytes, mode: int | None = 0o600) -> None:
    """
    Replace the content of `path`, or create it; the folder must exist.

    The file gets `mode`; with None it keeps the one it has, or gets what the process's umask leaves of 0666.

    A symbolic link is followed, so that the file it names is replaced and not the link. What is not a regular file
    (`/dev/null`, a named pipe) cannot be replaced and is written in place.

    Raises
    ------
    OSError
        The folder is missing or the disk full, for instance. The old content is untouched then.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        target.write_bytes(data)
        return
    if mode is None and target.exists():
        mode = stat.S_IMODE(target.stat().st_mode)
    temporary = target.parent / f".{target.name[:100]}.{secrets.token_hex(8)}.tmp"
    try:
        handle = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666 if mode is None else 0o600
        )
        with open(handle, "wb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def write_text(path: str | Path, text: str, mode: int | None = 0o600) -> None:
    """Like `write_bytes`, for text in UTF-8 with its line ends as they are."""
    write_bytes(path, text.encode("utf-8"), mode)


def sync_folder(folder: Path) -> None:
    """Force a rename in the folder to disk. Some network file systems refuse it: the content is whole all the same."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
