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

    Before the kernel starts a signal raises `RunCancelled`; while cells run it cancels the execution; afterwards the
    first signal waits for the evidence, and the second ends the program at once.

    Attributes
    ----------
    execution
        Set when the kernel is about to start.
    finishing
        Set when the last cell has ended.
    """

    def __init__(self) -> None:
        self.execution: Execution | None = None
        self.finishing = False
        self._seen = False
        self._before = {}
        if threading.current_thread() is threading.main_thread():
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

    def _take(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.finishing:
            if self._seen:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self._seen = True
        elif self.execution is not None:
            self.execution.cancel(f"by {name}", number)
        else:
            raise RunCancelled(f"ended by {name} before the first cell", exit_code=128 + number)
