"""
The process that workers are forked from (`python -m libsafe_nb.nursery LINE LIFELINE`), which has imported what they need.

    it is told     {"worker": 1, "arguments": […]}      one datagram each, on the socket LINE
    and answers    {"worker": 1, "pid": 4711}           it was born
                   {"worker": 1, "code": 0}             it has ended

It has one thread and no connection, so what is forked is whole. It ends when the other side of its line does; workers see for
themselves that LIFELINE has ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import traceback
from typing import NoReturn

from libsafe_nb import worker
from libsafe_nb.mapping import warm

__all__ = ["main", "warm"]

LOOK = 1000
"""Milliseconds between two looks for children that ended, in case a signal came just before the wait."""


def main(line: socket.socket, lifeline: int) -> None:
    children: dict[int, int] = {}
    wake, theirs = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    watch = select.poll()
    watch.register(line, select.POLLIN)
    watch.register(wake, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in watch.poll(LOOK)}
        if wake in ready:
            os.read(wake, 4096)
        for pid, code in _ended(children):
            _tell(line, {"worker": children.pop(pid), "code": code})
        if line.fileno() not in ready:
            continue
        data = line.recv(65536)
        if not data:
            return
        asked = json.loads(data)
        try:
            pid = os.fork()
        except OSError:
            # No process or memory is left: those that are there go on.
            traceback.print_exc()
            _tell(line, {"worker": asked["worker"], "code": 1})
            continue
        if pid == 0:
            signal.set_wakeup_fd(-1)
            line.close()
            os.close(wake)
            os.close(theirs)
            _be(asked["arguments"], lifeline)
        children[pid] = asked["worker"]
        _tell(line, {"worker": asked["worker"], "pid": pid})


def _ended(children: dict[int, int]) -> list[tuple[int, int]]:
    found = []
    for pid in children:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


def _tell(line: socket.socket, what: dict[str, int]) -> None:
    try:
        line.send(json.dumps(what).encode())
    except OSError:
        sys.exit(0)


def _be(arguments: list[str], lifeline: int) -> NoReturn:
    """A worker, in the child."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        code = worker.main([*arguments, str(lifeline)])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
