"""
The journal of one run: what has been done, written down before the next step begins.

A folder a run under `$LIBSAFE_NB_HOME/runs/`; `journal.jsonl` in it, one JSON object a line, each fsynced.
The runner holds `lock` (flock) as long as it lives, so a journal whose lock is free belongs to a dead runner.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class Journal:
    """
    The journal in `folder`, opened by the one process that may write it.

    Raises
    ------
    BlockingIOError
        Another living process holds it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise
        self._file = os.open(
            folder / "journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def write(self, step: str, **facts: Any) -> None:
        """Append one step and force it to the disk; on return it survives a crash."""
        line = json.dumps({"step": step, **facts}, ensure_ascii=False, default=str).encode() + b"\n"
        os.write(self._file, line)
        os.fsync(self._file)

    def close(self) -> None:
        """Give the journal up; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            os.close(self._lock)
            self._file = self._lock = -1
