"""
The truth about an execution, as the notebook's own metadata tells it.

Ours is `metadata.libsafe_nb` of the notebook and of each code cell (schema `libsafe-nb-execution/1`); papermill's keys
beside it are kept true as well, in the four words it knows: a cell that died, timed out or was interrupted is
`failed`, one that was skipped or never reached is `pending`. Other keys there are left alone. Touches no disk.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable
from dataclasses import replace
from importlib import metadata
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


def latest(times: Iterable[str], cells: Iterable[CellState]) -> str:
    """The latest of `times` and of the starts and ends of `cells`."""
    of_cells = (moment for cell in cells for moment in (cell.started, cell.ended) if moment)
    return max((*times, *of_cells), key=datetime.datetime.fromisoformat)


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
        self._last_sign: str | None = None
        self._states: dict[int, CellState] = {}
        self._error: dict[str, str | None] | None = None

    @classmethod
    def resume(cls, nb: NotebookNode, version: str, *, told: Iterable[CellState], last_sign: str) -> Account:
        """
        Take up what a dead runner had written down in `nb`, to be ended with `end`.

        Parameters
        ----------
        told
            Starts and ends of cells in their order, of which the last may be newer than the last save of `nb`.
        last_sign
            ISO 8601 time at which the runner last gave a sign of life. Nobody saw the end: what was running is told
            to have ended then, or at the latest time that is told of a cell: the clock of the files on which
            `last_sign` rests may be coarser.
        """
        account = cls(nb, version)
        whole = nb.metadata.get(KEY)
        if not isinstance(whole, dict) or whole.get("schema") != SCHEMA or "cells" not in whole:
            # Nothing of this run was saved yet.
            account.start()
        else:
            account.started = whole["started"]
            account.kernel = dict(whole.get("kernel") or {})
            account.truncated = {each["cell_id"]: dict(each) for each in whole.get("truncated") or []}
            for index, cell in enumerate(nb.cells):
                saved = cell.metadata.get(KEY) if cell.cell_type == "code" else None
                if isinstance(saved, dict) and "status" in saved:
                    account._states[index] = CellState(
                        cell_id(cell, index),
                        index,
                        saved["status"],
                        saved.get("cause"),
                        saved.get("started"),
                        saved.get("ended"),
                    )
        for state in told:
            if state.index in account._states:
                account._write(state)
                account._papermill(
                    nb.cells[state.index],
                    status=_PAPERMILL[state.status],
                    exception=_PAPERMILL[state.status] == "failed" if state.started else None,
                    start_time=state.started,
                    end_time=state.ended,
                )
        account._last_sign = latest((last_sign, account.started), account.cells)
        return account

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
            state = replace(state, ended=self._now())
        self._write(state)
        failed = _PAPERMILL[status] == "failed"
        self._papermill(
            self.nb.cells[index],
            status=_PAPERMILL[status],
            exception=failed if state.started else None,
            end_time=state.ended,
            duration=self._since(state.started, self._cell_clock) if state.ended else None,
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
        ended = self._now()
        self._error = error
        self._papermill(
            self.nb,
            end_time=ended,
            duration=self._since(self.started, self._clock),
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

    def _now(self) -> str:
        return self._last_sign or now()

    def _since(self, started: str | None, clock: float) -> float:
        """Seconds; by the clock that does not jump, unless it was another process's."""
        if self._last_sign is None or started is None:
            return time.monotonic() - clock
        begun, ended = (datetime.datetime.fromisoformat(each) for each in (started, self._last_sign))
        return max(0.0, (ended - begun).total_seconds())

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
        told = self.nb.cells[state.index].metadata
        kept = told.get(KEY)
        told[KEY] = NotebookNode({**(kept if isinstance(kept, dict) else {}), **_told(state)})
        whole = self.nb.metadata.get(KEY)
        if isinstance(whole, dict) and "cells" in whole:
            whole["cells"][state.cell_id] = _told(state)

    def _papermill(self, node: NotebookNode, **values: Any) -> None:
        if not isinstance(node.metadata.get("papermill"), dict):
            node.metadata["papermill"] = NotebookNode()
        node.metadata["papermill"].update(values)


def ended_before_it_began(
    nb: NotebookNode, *, status: RunStatus, cause: str, error: dict[str, str | None]
) -> Outcome:
    """Write into `nb` that none of its cells was executed, and why; the outcome that says the same."""
    account = Account(nb, metadata.version("libsafe-nb"))
    account.start()
    return account.end(status, cause, error)


def _told(state: CellState) -> NotebookNode:
    return NotebookNode(
        index=state.index, status=state.status, cause=state.cause, started=state.started, ended=state.ended
    )
