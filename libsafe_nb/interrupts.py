"""SIGINT and SIGTERM during a run: each part of it ends in the way that leaves the job and the evidence whole."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

from libsafe_nb.errors import RunCancelled

if TYPE_CHECKING:
    from libsafe_nb.execution import Execution


class Interrupts:
    """
    Takes both signals for the length of a run, in the main thread; elsewhere none arrive and it does nothing.
    Nor does it with `active` False.

    At first a signal raises `RunCancelled` wherever it comes. After `hold` the first one waits for `check` and the second
    raises: an exception between any two steps can break what others need, such as the lock of an `import` that the
    threads which store the evidence would wait for. While cells run a signal cancels the execution. Afterwards the
    first one waits for the evidence, and the second ends the program at once.

    Attributes
    ----------
    execution
        Set when the kernel is about to start; `check` comes after it.
    finishing
        Set when the last cell has ended.
    """

    def __init__(self, *, active: bool = True) -> None:
        self.execution: Execution | None = None
        self.finishing = False
        self._holding = False
        self._waiting: int | None = None
        self._seen = False
        self._before = {}
        if active and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def __enter__(self) -> Interrupts:
        for number in self._before:
            signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def hold(self) -> None:
        """There is a job from now on: a signal waits for `check`."""
        self._holding = True

    @property
    def seen(self) -> bool:
        """Whether a signal came while the run was being finished."""
        return self._seen

    def check(self) -> None:
        """Raise `RunCancelled` if a signal waits."""
        if self._waiting is not None:
            raise _cancelled(self._waiting)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.finishing:
            if self._seen:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self._seen = True
        elif self.execution is not None:
            self.execution.cancel(f"by {signal.Signals(number).name}", number)
        elif self._holding and self._waiting is None:
            self._waiting = number
        else:
            self._seen = self._holding
            raise _cancelled(number)


def _cancelled(number: int) -> RunCancelled:
    name = signal.Signals(number).name
    return RunCancelled(f"ended by {name} before the first cell", exit_code=128 + number)
