"""A run's progress by cell, on a terminal; silent in a pipe."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libsafe_nb.execution import CellState


class Progress:
    """One line that names the cell at work; removed at the end."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        self._name, self._quiet = name, quiet
        self._done = 0

    def __enter__(self) -> Progress:
        if not self._quiet:
            # Imported here: only a terminal needs it.
            from rich.console import Console

            self._status = Console(stderr=True).status(f"{self._name}: starting")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not self._quiet:
            self._status.stop()

    def on_cell(self, state: CellState) -> None:
        """Called by the engine at the start and at the end of each cell."""
        if self._quiet:
            return
        if state.ended:
            self._done += 1
        else:
            self._status.update(f"{self._name}: cell {state.index + 1}, {self._done} done")
