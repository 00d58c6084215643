"""
Runs in a worker's process that can be ended from outside: by a signal to a member of a crew, or by another thread.

An interruption that comes before a run's kernel has started is remembered, and ends the run when it does.
"""

from __future__ import annotations

import uuid
from typing import Any

from libsafe_nb import crew, runner
from libsafe_nb.models import Run

REASON = "the whole of which this run is a part was interrupted"

_RUNS: dict[str, _Entry] = {}
"""By the run's id."""


class _Entry:
    def __init__(self, group: str) -> None:
        self.group, self.cancelled = group, False
        self.run: Run | None = None

    def cancel(self) -> None:
        self.cancelled = True
        if self.run is not None:
            self.run.cancel(REASON)

    def began(self, run: Run) -> None:
        self.run = run
        if self.cancelled:
            run.cancel(REASON)


def carry(group: str, *what: Any, identity: str | None = None, **options: Any) -> Run:
    """A run as by `runner.run`, that `cancel` ends, and the interruption of a crew; returns when it has ended."""
    identity = identity or str(uuid.uuid4())
    entry = _RUNS[identity] = _Entry(group)
    try:
        if crew.interrupted():
            entry.cancel()
        # In a thread of its own: signals come to this one, which waits.
        return runner.run(*what, identity=identity, on_start=entry.began, wait=False, **options).wait()
    finally:
        del _RUNS[identity]


def is_under_way(run: str) -> bool:
    """Whether a run of this process goes on."""
    return run in _RUNS


def cancel(group: str | None = None) -> None:
    """End the runs of a group, or all; returns at once."""
    for entry in list(_RUNS.values()):
        if group in (None, entry.group):
            entry.cancel()


crew.on_interrupt(cancel)
