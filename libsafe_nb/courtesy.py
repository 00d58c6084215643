"""
Who goes first where all want the processor: the function's own work, before what reads, serves and records for it.

A function that reads and computes does both at once, on cores that it shares with us. Served at its own priority it was
put off its core 3,000 times in 3 s, and had 0.79 of the speed that it has from memory, though each block was there early
enough. None of this slows anything on a machine that has a core to spare.
"""

from __future__ import annotations

import contextlib
import os
import threading

SERVING = 5
"""Niceness of what serves the bytes: a third of the processor time of a function that wants as much."""

READING = 5
"""Of the thread that reads ahead in the function's process; it is two blocks ahead."""

RECORDING = 10
"""Of the thread there that computes the record's own digest; it may be two blocks behind."""


def process(niceness: int) -> None:
    """Have others go before this process, which is the first of its session, and those that it starts."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))
    with contextlib.suppress(OSError):
        # sched(7), autogroup: where it is on, the sessions share the cores, and only this counts between them.
        # By system calls alone: this runs between fork and exec as well.
        descriptor = os.open("/proc/self/autogroup", os.O_WRONLY)
        try:
            os.write(descriptor, str(niceness).encode())
        finally:
            os.close(descriptor)


def thread(niceness: int) -> None:
    """Have others go before this thread alone, where the system can tell it apart (Linux: setpriority(2))."""
    with contextlib.suppress(OSError, AttributeError):
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, max(niceness, os.getpriority(os.PRIO_PROCESS, own)))
