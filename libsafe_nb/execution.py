"""
One execution of a notebook: what is asked of the engine (`Execution`, `Limits`) and what came of it (`Outcome`).

Plain data and the way to cancel; importing it costs nothing. The engine (`engine.py`) takes an `Execution` through
papermill and always leaves an `Outcome` in it, whatever happened.

Words
-----
Status of a run: `completed`, `failed` (the function's matter), `errored` (it could not be run to its end), `timeout`,
`cancelled`. Status of a cell: see `CELL_STATUSES`. A cause is one machine word: see `CAUSES`.
"""

from __future__ import annotations

import signal as signals
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    # For the signatures only: nbformat takes longer to import than all of this.
    from nbformat import NotebookNode

MIB = 1024 * 1024

RunStatus = Literal["completed", "failed", "errored", "timeout", "cancelled"]
CellStatus = Literal[
    "not-run",
    "running",
    "completed",
    "expected-error",
    "exited",
    "skipped",
    "failed",
    "timed-out",
    "interrupted",
    "killed",
]

CELL_STATUSES = {
    "not-run": "the run ended before it; nothing of it was executed",
    "running": "only in a notebook saved during a run: it had begun",
    "completed": "it ended without an error",
    "expected-error": "it raised, and is tagged raises-exception; the run went on",
    "exited": "it called sys.exit(0) or exit(): the run ended there, completed",
    "skipped": "it is tagged skip-execution",
    "failed": "it raised, or called sys.exit with something else than 0",
    "timed-out": "a deadline passed while it ran",
    "interrupted": "the run was cancelled while it ran, and it obeyed the interrupt",
    "killed": "the kernel died, or was killed, while it ran",
}

CAUSES = {
    "cell-error": "a cell raised",
    "exit-nonzero": "a cell called sys.exit with something else than 0",
    "exit-zero": "a cell called sys.exit(0); later cells were not run",
    "kernel-start": "the kernel did not start, or did not answer in time",
    "kernel-died": "the kernel's process ended by itself or by somebody else's signal",
    "kernel-hung": "the kernel's heartbeat stopped",
    "cpu-limit": "the kernel used more CPU time than `Limits.cpu`",
    "cell-timeout": "a cell ran longer than `Limits.cell_timeout`",
    "run-timeout": "the run lasted longer than `Limits.timeout`",
    "interrupted": "SIGINT",
    "terminated": "SIGTERM",
    "cancelled": "`Execution.cancel()`",
    "after-parameters": "the silent step after the parameters failed",
    "save": "the executed notebook could not be written",
    "platform-unreachable": "the platform or its storage did not answer within the time that a call has",
    "runner-died": "the runner's process ended before it could say how the run went",
    "machine-lost": "nothing was heard of the run's machine since its lease ended",
    "call-failed": "a call whose `on_failure` is stop did not complete",
    "secrets": "the record still held a key after it was redacted, and was not stored",
    "internal": "an error in the engine itself",
}


@dataclass(frozen=True)
class Limits:
    """
    How much a run may store and take; times in seconds, sizes in bytes, None for no limit.

    Attributes
    ----------
    cell_output, notebook_output
        What one cell and the whole notebook may store: text by its UTF-8 size, images and other binary data by their
        decoded size. Over it, head and tail are kept, and a marker tells how much was cut.
    cell_timeout, timeout
        Longest time for a cell, and for the run with its kernel's start.
    startup_timeout
        Longest time until the kernel answers.
    hung
        A kernel whose heartbeat is silent for so long is killed. The heartbeat answers from a thread of its own that
        needs no interpreter lock, so long computations do not silence it; a stopped process does.
    interrupt_grace
        Time between the interrupt and the kill, when a deadline passed or the run was cancelled.
    shutdown_grace
        Time that the kernel's `atexit` functions have after the last cell.
    memory
        Address space of the kernel's process and of each child (RLIMIT_AS). A Python kernel reserves about 1 GiB of
        it at rest, more than it uses.
    cpu
        CPU seconds of the kernel's process and of each child (RLIMIT_CPU).
    """

    cell_output: int = 10 * MIB
    notebook_output: int = 100 * MIB
    cell_timeout: float | None = None
    timeout: float | None = None
    startup_timeout: float = 60
    hung: float | None = 60
    interrupt_grace: float = 3
    shutdown_grace: float = 3
    memory: int | None = None
    cpu: float | None = None


class OutputFilter(Protocol):
    """
    Sees every output before it is kept, saved or shown; used by one run, from one thread at a time.

    Text of streams comes in pieces as the kernel sent them. What might be the beginning of something to be filtered
    may be held back: it is given out by a later `segments`, or by `end_cell`.
    """

    def segments(self, cell_id: str, name: str, text: str) -> list[tuple[str, str]]:
        """Return what may be kept now, as (name, text) in order; `name` is `stdout` or `stderr`."""

    def output(self, cell_id: str, output: NotebookNode) -> NotebookNode | None:
        """Return a rich output or error as it may be kept, or None to drop it. It may be changed in place."""

    def end_cell(self, cell_id: str) -> list[tuple[str, str]]:
        """
        Give out what was held back, as (name, text).

        Called at the end of a cell and before each rich output, so that the order stays.
        """

    def text(self, text: str) -> str:
        """Return any other text, such as the last words of a kernel that died."""


@dataclass(frozen=True)
class CellState:
    """
    What is known of one code cell; `started` and `ended` are ISO 8601 times in UTC.

    `index` counts all cells of the executed notebook from 0. `cause` is a word of `CAUSES`, or None.
    """

    cell_id: str
    index: int
    status: CellStatus = "not-run"
    cause: str | None = None
    started: str | None = None
    ended: str | None = None


@dataclass(frozen=True)
class Outcome:
    """
    What came of an execution.

    Attributes
    ----------
    error
        `{"type", "message", "cell_id"}` or None; `cell_id` is None where no cell is at fault.
    cells
        The code cells in their order.
    kernel
        `name`, `language`, `language_version`, `implementation`, `pid`, as far as known.
    truncated
        One entry for each cell of which output was cut: `{"cell_id", "kept", "cut", "streams": {name: {"bytes",
        "sha256"}}}`, sizes in bytes, the digest that of the whole.
    """

    status: RunStatus
    cause: str | None = None
    error: dict[str, str | None] | None = None
    cells: tuple[CellState, ...] = ()
    started: str = ""
    ended: str = ""
    kernel: dict[str, Any] = field(default_factory=dict)
    truncated: tuple[dict[str, Any], ...] = ()


@dataclass(eq=False)
class Execution:
    """
    One run's plan, given to papermill as `execution=`; for one use.

    Attributes
    ----------
    save_to
        Where the engine keeps the notebook, atomically. None: papermill's output path.
    cwd
        The kernel's working directory; this process keeps its own. None: that of this process.
    env
        The kernel's complete environment. None: that of this process without what begins with `LIBSAFE_`.
        `PWD` and `IPYTHONDIR` are set besides.
    kernel_name
        None: papermill's choice, the notebook's kernelspec.
    after_parameters
        Gives the source that is executed silently after the parameters (after the injected cell, else the
        `parameters` cell, else before the first code cell). Called once, just then. The notebook never shows it; an
        error in it ends the run as errored.
    output_filter
        Sees every output before the first save.
    on_cell
        Called at the start and the end of each code cell, in the thread that executes.
    on_kernel
        Called with the kernel's pid, which leads its process group, as soon as it is started.
    extension
        IPython extension that a Python kernel loads at its start, or None. A kernel that cannot load it does not
        start.
    at_end
        Called when no cell runs any more, with the status so far; may wait, as for what the function
        called. Answers the status that it has become, its cause and its error, or None where nothing changed.
    platform
        Folder of a local platform, whose fork server may be asked for the kernel.
    outcome
        Set at the end, always, before papermill returns or raises.
    notebook
        Set at the beginning: the notebook that is executed, in place. What could not be saved is still here.
    """

    limits: Limits = field(default_factory=Limits)
    save_to: Path | None = None
    cwd: Path | None = None
    env: Mapping[str, str] | None = field(default=None, repr=False)
    kernel_name: str | None = None
    after_parameters: Callable[[], str] | None = None
    output_filter: OutputFilter | None = None
    on_cell: Callable[[CellState], None] | None = None
    on_kernel: Callable[[int], None] | None = None
    extension: str | None = "libsafe_nb"
    at_end: Callable[[RunStatus], tuple[RunStatus, str, dict[str, str | None]] | None] | None = None
    platform: Path | None = None
    outcome: Outcome | None = field(default=None, init=False)
    notebook: NotebookNode | None = field(default=None, init=False, repr=False)
    _cancelled: Cancellation | None = field(default=None, init=False, repr=False)
    _again: bool = field(default=False, init=False, repr=False)
    _wake: Callable[[], None] | None = field(default=None, init=False, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def cancel(self, reason: str = "cancelled", signal: int | None = None) -> None:
        """
        End the run: interrupt its kernel, wait `Limits.interrupt_grace`, then kill its whole process group.

        Returns at once; safe from any thread and from a signal handler. Before the run began, no cell is run. After
        its end it does nothing. A second call does not wait for the grace.

        Parameters
        ----------
        reason
            A sentence's worth for the record.
        signal
            The signal that asked for it: SIGINT is told as `interrupted`, SIGTERM as `terminated`.
        """
        # A signal handler runs in the main thread between two steps of whatever that does, this function included:
        # hence the re-entrant lock.
        with self._lock:
            if self._cancelled is None:
                self._cancelled = Cancellation(reason, signal)
            else:
                self._again = True
            wake = self._wake
        if wake is not None:
            wake()

    @property
    def cancellation(self) -> Cancellation | None:
        """Why the run is being cancelled, or None."""
        return self._cancelled

    @property
    def cancelled_again(self) -> bool:
        """Whether the grace is over because somebody asked twice."""
        return self._again

    def watch(self, wake: Callable[[], None] | None) -> None:
        """Have `wake` called, from any thread, whenever the run is cancelled; None to stop. For the engine."""
        with self._lock:
            self._wake = wake


@dataclass(frozen=True)
class Cancellation:
    reason: str
    signal: int | None = None

    @property
    def cause(self) -> str:
        named = {signals.SIGINT: "interrupted", signals.SIGTERM: "terminated"}
        return named.get(signals.Signals(self.signal), "terminated") if self.signal else "cancelled"
