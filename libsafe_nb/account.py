"""
The truth about an execution, as the notebook's own metadata tells it.

Ours is `metadata.libsafe_nb` of the notebook and of each code cell (schema `libsafe-nb-execution/1`); papermill's keys
beside it are kept true as well, in the four words it knows: a cell that died, timed out or was interrupted is
`failed`, one that was skipped or never reached is `pending`. Other keys there are left alone. Touches no disk.
"""

from __future__ import annotations

import datetime
import time
from dataclasses import replace
from typing import Any

from nbformat import NotebookNode

from libsafe_nb.execution import CellState, CellStatus, Outcome, RunStatus

SCHEMA = "libsafe-nb-execution/1"
KEY = "libsafe_nb"

_PAPERMILL = {
    "not-run": "pending",
    "running": "running",
    "completed": "completed",
    "expected-error": "completed",
    "exited": "completed",
    "skipped": "pending",
    "failed": "failed",
    "timed-out": "failed",
    "interrupted": "failed",
    "killed": "failed",
}


def now() -> str:
    """Return the time as ISO 8601 in UTC, with microseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def cell_id(cell: NotebookNode, index: int) -> str:
    """Return the cell's id; notebooks before format 4.5 have none, there it is the index."""
    return str(cell.get("id") or index)


class Account:
    """Writes down what happens to `nb` while it happens; `version` is the engine's."""

    def __init__(self, nb: NotebookNode, version: str) -> None:
        self.nb = nb
        self.started = now()
        self.kernel: dict[str, Any] = {}
        self.truncated: dict[str, dict[str, Any]] = {}
        self._version = version
        self._clock = time.monotonic()
        self._cell_clock = self._clock
        self._states: dict[int, CellState] = {}
        self._error: dict[str, str | None] | None = None

    @property
    def cells(self) -> tuple[CellState, ...]:
        return tuple(self._states.values())

    def start(self) -> None:
        """Forget what an earlier execution left in the notebook: outputs, counts and states."""
        self.nb.metadata.pop("widgets", None)
        self._papermill(self.nb, start_time=self.started, end_time=None, duration=None, exception=None)
        for index, cell in enumerate(self.nb.cells):
            self._papermill(
                cell, exception=None, start_time=None, end_time=None, duration=None, status="pending"
            )
            if cell.cell_type == "code":
                cell.execution_count = None
                cell.outputs = []
                cell.metadata.pop("execution", None)
                self._write(CellState(cell_id(cell, index), index))
        self._whole("running")

    def kernel_is(self, **facts: Any) -> None:
        """Note what is known of the kernel; saved with the next save, so that also a killed run names its kernel."""
        self.kernel.update(facts)
        self.nb.metadata[KEY]["kernel"] = NotebookNode(self.kernel)

    def cell_started(self, index: int) -> CellState:
        self._cell_clock = time.monotonic()
        state = replace(self._states[index], status="running", started=now())
        self._write(state)
        self._papermill(
            self.nb.cells[index], status="running", start_time=state.started, end_time=None, exception=False
        )
        return state

    def cell_ended(self, index: int, status: CellStatus, cause: str | None = None) -> CellState:
        """Set a cell's end, also of one that was never started (`skipped`)."""
        state = replace(self._states[index], status=status, cause=cause)
        if state.started:
            state = replace(state, ended=now())
        self._write(state)
        failed = _PAPERMILL[status] == "failed"
        self._papermill(
            self.nb.cells[index],
            status=_PAPERMILL[status],
            exception=failed if state.started else None,
            end_time=state.ended,
            duration=time.monotonic() - self._cell_clock if state.ended else None,
        )
        return state

    def passed(self, index: int) -> None:
        """Mark a cell that has nothing to execute (text, or empty code) as papermill does."""
        moment = now()
        self._papermill(
            self.nb.cells[index],
            status="completed",
            exception=False,
            start_time=moment,
            end_time=moment,
            duration=0.0,
        )
        if index in self._states:
            self._write(replace(self._states[index], status="completed", started=moment, ended=moment))

    def cut(self, index: int, facts: dict[str, Any] | None) -> None:
        """Note that output of a cell was cut (or, with None, that nothing is missing any more)."""
        place = cell_id(self.nb.cells[index], index)
        if facts is None:
            self.truncated.pop(place, None)
        else:
            self.truncated[place] = {"cell_id": place, **facts}

    def end(
        self, status: RunStatus, cause: str | None = None, error: dict[str, str | None] | None = None
    ) -> Outcome:
        """Set the end of the whole; cells that still run are told `killed`: nobody waits for them any more."""
        for state in self.cells:
            if state.status == "running":
                self.cell_ended(state.index, "killed", cause)
        ended = now()
        self._error = error
        self._papermill(
            self.nb,
            end_time=ended,
            duration=time.monotonic() - self._clock,
            exception=None if status == "completed" else True,
        )
        self._whole(status, cause, ended)
        return Outcome(
            status=status,
            cause=cause,
            error=error,
            cells=self.cells,
            started=self.started,
            ended=ended,
            kernel=dict(self.kernel),
            truncated=tuple(self.truncated.values()),
        )

    def _whole(self, status: str, cause: str | None = None, ended: str | None = None) -> None:
        kept = self.nb.metadata.get(KEY)
        self.nb.metadata[KEY] = NotebookNode(
            {
                **(kept if isinstance(kept, dict) else {}),
                "schema": SCHEMA,
                "version": self._version,
                "status": status,
                "cause": cause,
                "error": self._error,
                "started": self.started,
                "ended": ended,
                "kernel": NotebookNode(self.kernel),
                "cells": NotebookNode({state.cell_id: _told(state) for state in self.cells}),
                "truncated": list(self.truncated.values()),
            }
        )

    def _write(self, state: CellState) -> None:
        self._states[state.index] = state
        metadata = self.nb.cells[state.index].metadata
        kept = metadata.get(KEY)
        metadata[KEY] = NotebookNode({**(kept if isinstance(kept, dict) else {}), **_told(state)})
        whole = self.nb.metadata.get(KEY)
        if isinstance(whole, dict) and "cells" in whole:
            whole["cells"][state.cell_id] = _told(state)

    def _papermill(self, node: NotebookNode, **values: Any) -> None:
        if not isinstance(node.metadata.get("papermill"), dict):
            node.metadata["papermill"] = NotebookNode()
        node.metadata["papermill"].update(values)


def _told(state: CellState) -> NotebookNode:
    return NotebookNode(
        index=state.index, status=state.status, cause=state.cause, started=state.started, ended=state.ended
    )
