"""
The fork server, `python -m libsafe_nb.forkserver CONTROL`: has imported what a kernel needs, and forks one a request.

CONTROL is a socket of its owner's. A message there carries the open files of a `Birth`; the child reads the rest itself.
This process has one thread, no zmq context and no event loop, holds nothing of any run, and learns no secret: what it
knows is what it was started with (`heritage.start_environment`). It tells how each kernel ended, on the kernel's line.

It ends when its owner does (with the last kernel, which ends with its own runner), or after `IDLE` seconds of nothing.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import os
import selectors
import socket
import sys
import time
from pathlib import Path

from libsafe_nb import newborn, runkernel
from libsafe_nb.birth import Birth, tell

IDLE = 600.0

FIRST = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "IPython.utils.wildcard",
    "ctypes",
    "faulthandler",
    "ipykernel.kernelapp",
    "libsafe_nb.compat.keys",
    "libsafe_nb.interactive.magics",
    "libsafe_nb.streams",
    "pdb",
    "tornado.locks",
    "tornado.platform.asyncio",
    "tornado.queues",
)
"""Imported before the first kernel is forked: what each imports by itself until its first cell."""

LATER = ("libsafe_nb.compat.standin", "libsafe_nb.compat.writing")
"""The rest of the stand-in, imported when the first kernel has ended; nothing but ours and Python's own comes with it."""


class ForkServer:
    def __init__(self, control: socket.socket) -> None:
        self._control: socket.socket | None = control
        # Not epoll: a child that closed its files would share that with us.
        self._selector = selectors.PollSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._lines: dict[int, tuple[int, socket.socket]] = {}
        self._later = list(LATER)

    def serve(self) -> Birth | None:
        """
        Serve until there is nobody to serve; None then.

        In each child it returns as well, with what the child came with.
        """
        quiet = time.monotonic()
        while self._control is not None or self._lines:
            ready = self._selector.select(10.0)
            if ready or self._lines:
                quiet = time.monotonic()
            elif time.monotonic() - quiet > IDLE:
                return None
            for each, _ in ready:
                if each.fd in self._lines:
                    self._ended(each.fd)
                else:
                    birth = self._asked()
                    if birth is not None:
                        return birth
        return None

    def _asked(self) -> Birth | None:
        """Fork for one message of the owner's; the child's part is returned, in the child."""
        assert self._control is not None
        files = array.array("i")
        data, ancillary, _, _ = self._control.recvmsg(
            16, socket.CMSG_SPACE(3 * files.itemsize), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(content[: len(content) - len(content) % files.itemsize])
        if not data:
            self._selector.unregister(self._control)
            self._control.close()
            self._control = None
        if len(files) != 3:
            for each in files:
                os.close(each)
            return None
        birth = Birth(socket.socket(fileno=files[0]), files[1], files[2])
        # Another thread would be missing in the child, with the locks it holds.
        threads = sum(1 for _ in Path("/proc/self/task").iterdir())
        pid = os.fork() if threads == 1 else -1
        if pid == 0:
            self._leave()
            return birth
        os.close(birth.guard)
        os.close(birth.errors)
        if pid < 0:
            with contextlib.suppress(OSError):
                tell(birth.line, error=f"the fork server has {threads} threads")
            birth.line.close()
            return None
        watched = os.pidfd_open(pid)
        self._lines[watched] = (pid, birth.line)
        self._selector.register(watched, selectors.EVENT_READ)
        return None

    def _ended(self, watched: int) -> None:
        """Tell how a kernel ended."""
        self._selector.unregister(watched)
        os.close(watched)
        pid, line = self._lines.pop(watched)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):
            tell(line, code=os.waitstatus_to_exitcode(status))
        line.close()
        if self._later and not self._lines:
            load(self._later)
            self._later.clear()

    def _leave(self) -> None:
        """Let go, in a child, of what is the server's."""
        self._selector.close()
        if self._control is not None:
            self._control.close()
        for watched, (_, line) in self._lines.items():
            os.close(watched)
            line.close()
        self._lines.clear()


def load(modules: tuple[str, ...] | list[str]) -> None:
    """Import what there is of these modules, and have it shared with the children, not copied."""
    for name in modules:
        # Another version of a library may keep things elsewhere; the kernel then imports it itself.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def main() -> None:
    runkernel.leave_the_folder()
    gc.disable()
    control = socket.socket(fileno=int(sys.argv[1]))
    load(FIRST)
    birth = ForkServer(control).serve()
    if birth is None:
        # Nothing here is worth taking apart.
        os._exit(0)
    newborn.begin(birth)
    runkernel.run()


if __name__ == "__main__":
    main()
