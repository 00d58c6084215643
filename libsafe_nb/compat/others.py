"""
Who else may change what a function reads: another process of the function, or a client of its own.

What was fetched before they did is not what is there now. Python tells of both by audit events (PEP 578), which are
listened to from `watch` on; what neither `os.fork`, a program's start nor `http.client` is part of goes unnoticed.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

STARTS = frozenset({"os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen"})

READS = (b"GET ", b"HEAD ")

processes = 0
"""How often another process began."""

changes = 0
"""How often something was sent that is no GET or HEAD."""

_ours: set[int] = set()
_watching = False


def watch() -> None:
    global _watching
    if not _watching:
        _watching = True
        sys.addaudithook(_heard)


def begun() -> tuple[int, str]:
    """
    Another value once another process began.

    Of a process that `multiprocessing` spawns no event tells; it numbers all that it makes.
    """
    numbers = getattr(sys.modules.get("multiprocessing.process"), "_process_counter", "count(1)")
    return processes, str(numbers)


def is_ours() -> None:
    """What this thread sends changes nothing."""
    _ours.add(threading.get_ident())


def has_begun() -> None:
    """Another process began, or something else that may write from now on."""
    global processes
    processes += 1


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    global changes
    if event == "http.client.send":
        sent = arguments[1]
        if threading.get_ident() not in _ours and not (isinstance(sent, bytes) and sent.startswith(READS)):
            changes += 1
    elif event in STARTS:
        has_begun()


os.register_at_fork(after_in_parent=has_begun)
