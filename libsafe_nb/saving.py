"""
Saving the notebook during its execution: whole at every instant, seldom, and never an older state over a newer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nbformat import NotebookNode

from libsafe_nb import atomic

SAVE_EVERY = 2.0
"""Seconds between two saves of a run to a local file."""


class Saver:
    """
    Keeps a notebook at one place.

    A save in the middle is made at most every `every` seconds, and so seldom that saving takes no more than a tenth
    of the time; None for none in the middle. A save that fails in the middle is tried again with the next one; the
    run goes on, because its effects on the platform cannot be undone.
    """

    def __init__(self, write: Callable[[str], None], *, every: float | None = SAVE_EVERY) -> None:
        self._write = write
        self._every = every
        self._last = -1e9
        self._took = 0.0
        self.failure: Exception | None = None

    @property
    def due(self) -> bool:
        if self._every is None:
            return False
        return time.monotonic() - self._last >= max(self._every, 10 * self._took)

    def try_save(self, nb: NotebookNode) -> None:
        """Save, and keep an error in `failure`."""
        try:
            self.save(nb)
        except Exception as exc:  # whatever a papermill destination raises
            self.failure = exc

    def save(self, nb: NotebookNode) -> None:
        """Save now, or raise what the destination raises."""
        begun = time.monotonic()
        try:
            self._write(text(nb))
            self.failure = None
        finally:
            self._last = time.monotonic()
            self._took = self._last - begun


def text(nb: NotebookNode) -> str:
    """Return a notebook as its file's text; not validated, because that takes longer than the rest."""
    import nbformat.v4

    return str(nbformat.v4.writes(nb))


def encode(notebook: str) -> bytes:
    """Return the bytes of a notebook's file; half characters, which UTF-8 cannot hold, become question marks."""
    return notebook.encode("utf-8", errors="replace")


def to_file(path: Path, mode: int | None = None) -> Callable[[str], None]:
    """Return what writes a notebook's text to `path` atomically."""

    def write(notebook: str) -> None:
        atomic.write_bytes(path, encode(notebook), mode)

    return write
