"""The platform's logs: each a file and the one before it, of a bounded size."""

from __future__ import annotations

from pathlib import Path

LOG_BYTES = 5_000_000


def bound(path: Path, most: int = LOG_BYTES) -> bool:
    """
    Move the end of a log that has grown beyond `most` bytes to `NAME.old.log`, and empty it; whether that was done.

    Its writers need not know: they append. What one writes between the copy and the emptying is lost.
    """
    if not path.exists() or path.stat().st_size <= most:
        return False
    with path.open("r+b") as log:
        log.seek(-most, 2)
        path.with_suffix(".old.log").write_bytes(log.read(most))
        log.truncate(0)
    return True
