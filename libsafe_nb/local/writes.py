"""
What the front let through that changes an object: a file of lines `[nanoseconds, "CONTAINER/PATH"]`.

The store's event stream should tell each of them, and now and then, under load, it does not for a minute or more. The
S3 side writes the lines, the platform reads them and looks up what the stream is late with. A line is no promise: the
S3 server may have refused the request. A crash may lose the last lines; the stream is still read.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import IO

Write = tuple[int, tuple[int, str]]
"""When (nanoseconds), and which container's path."""
MOST_BYTES = 1024 * 1024
"""Of one file; then a new one is begun, and whoever has the old one open reads it to its end."""


class Writer:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []

    def note(self, container: str, path: str) -> None:
        """Before the last byte of the request goes to the store, so that its event is never older than the line."""
        self._lines.append(json.dumps([time.time_ns(), f"{container}/{path}"]) + "\n")

    def flush(self) -> None:
        """
        Write what was noted since; nothing when there is nothing.

        Raises
        ------
        OSError
            It cannot be written, and is forgotten: the stream tells nearly all of it.
        """
        lines, self._lines = self._lines, []
        if not lines:
            return
        if self._path.exists() and self._path.stat().st_size > MOST_BYTES:
            self._path.unlink()
        with self._path.open("a") as file:
            file.write("".join(lines))


class Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._rest = ""

    def read(self) -> list[Write]:
        """What was written since the last call (at first, all that is there), oldest first; no markers of folders."""
        found = self._read_on()
        if self._replaced():
            self.close()
            found += self._read_on()
        return found

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._rest = None, ""

    def _read_on(self) -> list[Write]:
        if self._file is None:
            if not self._path.exists():
                return []
            self._file = self._path.open()
        *lines, self._rest = (self._rest + self._file.read()).split("\n")
        return [found for line in lines if (found := _write(line)) is not None]

    def _replaced(self) -> bool:
        if self._file is None:
            return False
        try:
            return self._path.stat().st_ino != os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False


def _write(line: str) -> Write | None:
    """None of a folder's marker, and of a line that a killed writer left in the middle."""
    try:
        at, key = json.loads(line)
        container, _, path = key.partition("/")
        return None if path.endswith("/") else (int(at), (int(container), path))
    except (ValueError, TypeError, AttributeError):
        return None
