"""
`%libsafe run`: the notebook as it was last saved, run as anywhere, and shown while it runs.

The run goes on in a thread: the kernel's main thread waits, draws, and takes the stop button.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.getipython import get_ipython
from IPython.display import display

from libsafe_nb import errors, runner
from libsafe_nb.connection import connect
from libsafe_nb.interactive import look, place, views
from libsafe_nb.models import Run
from libsafe_nb.notebook import read
from libsafe_nb.papermill_io import split
from libsafe_nb.progress import Progress

if TYPE_CHECKING:
    from libsafe_nb.connection import Connection
    from libsafe_nb.execution import CellState

EVERY = 0.25
"""Seconds between two looks at the run."""


def run(
    notebook: str | None,
    *,
    container: str | None,
    files: Sequence[str],
    uploads: Sequence[str],
    params: Sequence[str],
    timeout: float | None,
) -> None:
    """
    Run a notebook and display what came of it.

    Raises
    ------
    IPython.core.error.UsageError
        The run was cancelled by the stop button: cells that wait behind this one must not go on.
    LibsafeError
        As `libsafe_nb.run`.
    """
    given = dict(_pair(each) for each in params)
    with contextlib.closing(connect()) as connection, contextlib.ExitStack() as pending:
        opened = place.opened(connection, _namespace(), notebook)
        shown = _Shown(opened)
        in_terminal = not shown.in_kernel and sys.stderr.isatty()
        line = pending.enter_context(Progress(opened.name, quiet=not in_terminal))

        def on_cell(state: CellState) -> None:
            shown.on_cell(state)
            line.on_cell(state)

        under_way = runner.run(
            None,
            opened.name,
            container=container or place.container(),
            files=files,
            uploads=uploads,
            params=given,
            timeout=timeout,
            wait=False,
            on_cell=on_cell,
        )
        try:
            stopped = _follow(under_way, shown)
        finally:
            pending.close()
            look.last_run = under_way.job
            if under_way.status != "running":
                # Also where its evidence is not stored, which is raised: a saved notebook must not say RUNNING.
                shown.end(_result(connection, opened, under_way))
    if stopped:
        raise UsageError(f"stopped: job {under_way.job} is {under_way.status}")


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise errors.UsageError(f"--param {text!r}: expected NAME=VALUE")
    return name, value


def _namespace() -> dict[str, Any]:
    shell = get_ipython()
    return dict(shell.user_ns) if shell is not None else {}


def _follow(under_way: Run, shown: _Shown) -> bool:
    """Wait for the end; whether the stop button was pressed. Pressed again, it leaves the run to end by itself."""
    stopped = False
    while True:
        try:
            shown.draw(under_way)
            with contextlib.suppress(TimeoutError):
                under_way.wait(EVERY)
                return stopped
        except KeyboardInterrupt:
            if stopped:
                raise UsageError(
                    f"job {under_way.job} ends without this cell; %libsafe job {under_way.job} shows it"
                ) from None
            stopped = True
            under_way.cancel("by the stop button")


class _Shown:
    """One place in the cell's output: progress first, the result in the end; in a terminal the result alone."""

    def __init__(self, opened: place.Opened) -> None:
        self._opened = opened
        self._done, self._drawn = 0, ""
        self._began = time.monotonic()
        self.in_kernel = getattr(get_ipython(), "kernel", None) is not None
        self._handle: Any = None

    def on_cell(self, state: CellState) -> None:
        """Called in the run's thread, which must not draw: a kernel's output belongs to the thread of the cell."""
        if state.ended:
            self._done += 1

    def draw(self, under_way: Run) -> None:
        if not self.in_kernel:
            return
        seconds = int(time.monotonic() - self._began)
        now = views.Progress(self._opened, under_way.job, self._done, seconds)
        if repr(now) != self._drawn:
            self._put(now)
            self._drawn = repr(now)

    def end(self, result: views.Result) -> None:
        self._put(result)

    def _put(self, view: Any) -> None:
        if self._handle is None:
            self._handle = display(view, display_id=True)
        else:
            self._handle.update(view)


def _result(connection: Connection, opened: place.Opened, ended: Run) -> views.Result:
    """The run with what the platform knows of it; an outage at the end hides the run's own outcome from nobody."""
    messages, cell = [], None
    with contextlib.suppress(errors.LibsafeError):
        messages = list(islice(connection.client.messages(ended.job), look.MOST))
        cell = _failing(connection, ended)
    link = None
    if ended.evidence is not None and place.container() is not None:
        link = opened.relative(*split(f"{ended.evidence}report.html"))
    return views.Result(opened, ended, messages, cell, link)


def _failing(connection: Connection, ended: Run) -> tuple[int, str] | None:
    """The number, from 1, and the source of the cell that failed, as they stand in the evidence."""
    wanted = (ended.error or {}).get("cell_id")
    if not wanted or ended.evidence is None:
        return None
    name = f"{ended.evidence}executed.ipynb"
    node = read(connection.storage.get(*split(name)), name=name)
    # As the author counts them: without the one that was injected.
    own = (cell for cell in node.cells if "injected-parameters" not in cell.metadata.get("tags", []))
    for number, cell in enumerate(own, start=1):
        if cell.get("id") == wanted:
            return number, str(cell.source)
    return None
