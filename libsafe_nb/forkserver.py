"""
The fork server, `python -m libsafe_nb.forkserver CONTROL [LISTENER KEY]`: has imported what a kernel needs, and forks one
a request.

CONTROL is a socket of its owner's. A message there carries the open files of a `Birth`; the child reads the rest itself.
Others of the same user may connect to LISTENER, are told KEY (`heritage.py`), and ask in the same way.
This process has one thread, no zmq context and no event loop, holds nothing of any run, and learns no secret: what it
knows is what it was started with (`heritage.start_environment`). It tells how each kernel ended, on the kernel's line.

It ends when its owner does (with the last kernel, which ends with its own runner); one without a LISTENER also after
`IDLE` seconds of nothing.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import os
import platform
import selectors
import signal
import socket
import struct
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


_PEER = struct.Struct("3i")
"""unix(7), SO_PEERCRED: pid, user, group."""


class ForkServer:
    def __init__(self, control: socket.socket, listener: socket.socket | None = None, key: str = "") -> None:
        self._control: socket.socket | None = control
        self._listener = listener
        self._key = key
        self._guests: set[socket.socket] = set()
        # Not epoll: a child that closed its files would share that with us.
        self._selector = selectors.PollSelector()
        self._selector.register(control, selectors.EVENT_READ)
        if listener is not None:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
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
            if ready or self._lines or self._listener is not None:
                quiet = time.monotonic()
            elif time.monotonic() - quiet > IDLE:
                return None
            for each, _ in ready:
                if each.fd in self._lines:
                    self._ended(each.fd)
                elif each.fileobj is self._listener:
                    self._admit()
                elif isinstance(each.fileobj, socket.socket):
                    birth = self._asked(each.fileobj)
                    if birth is not None:
                        return birth
        return None

    def _admit(self) -> None:
        """Let somebody in who has connected, if it is the same user, and say which kernels there are."""
        assert self._listener is not None
        try:
            guest, _ = self._listener.accept()
        except OSError:
            return
        told = guest.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        try:
            if _PEER.unpack(told)[1] != os.geteuid():
                raise PermissionError
            guest.setblocking(False)
            guest.sendall(self._key.encode())
        except OSError:
            guest.close()
            return
        self._guests.add(guest)
        self._selector.register(guest, selectors.EVENT_READ)

    def _dismiss(self, asking: socket.socket) -> None:
        """Somebody has left; with the owner, nobody else is let in."""
        gone = {asking}
        if asking is self._control:
            gone |= self._guests | ({self._listener} if self._listener is not None else set())
            self._control = self._listener = None
        self._guests -= gone
        for each in gone:
            self._selector.unregister(each)
            each.close()

    def _asked(self, asking: socket.socket) -> Birth | None:
        """Fork for one message; the child's part is returned, in the child."""
        files = array.array("i")
        try:
            data, ancillary, _, _ = asking.recvmsg(
                16, socket.CMSG_SPACE(3 * files.itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except OSError:
            data, ancillary = b"", []
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(content[: len(content) - len(content) % files.itemsize])
        if not data:
            self._dismiss(asking)
        try:
            line = socket.socket(fileno=files[0])
        except (IndexError, OSError):
            line = None
        if line is None or len(files) != 3:
            for each in files[0 if line is None else 1 :]:
                os.close(each)
            if line is not None:
                # Of a message whose files do not fit, the first ones arrive.
                with line, contextlib.suppress(OSError):
                    tell(line, error=f"expected 3 open files, received {len(files)}")
            return None
        return self._fork(Birth(line, files[1], files[2]))

    def _fork(self, birth: Birth) -> Birth | None:
        """Fork; what the child comes with is returned there."""
        pid = watched = -1
        try:
            # Another thread would be missing in the child, with the locks it holds.
            threads = sum(1 for _ in Path("/proc/self/task").iterdir())
            if threads != 1:
                raise RuntimeError(f"the fork server has {threads} threads")
            pid = os.fork()
            watched = os.pidfd_open(pid) if pid else -1
        except (OSError, RuntimeError) as exc:
            # Too many processes or open files: this kernel is to be started elsewhere, and the others go on.
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            with contextlib.suppress(OSError):
                tell(birth.line, error=str(exc))
        if pid == 0:
            self._leave()
            return birth
        os.close(birth.guard)
        os.close(birth.errors)
        if watched < 0:
            birth.line.close()
            return None
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
        if self._later and not self._lines and self._control is not None:
            # Kept by Python for all children: what each kernel tells of its system.
            platform.platform()
            load(self._later)
            self._later.clear()

    def _leave(self) -> None:
        """Let go, in a child, of what is the server's."""
        self._selector.close()
        for each in (self._control, self._listener, *self._guests):
            if each is not None:
                each.close()
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
    # Ignored, the system would not tell how a kernel ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control = socket.socket(fileno=int(sys.argv[1]))
    listener, key = (socket.socket(fileno=int(sys.argv[2])), sys.argv[3]) if len(sys.argv) > 2 else (None, "")
    load(FIRST)
    birth = ForkServer(control, listener, key).serve()
    if birth is None:
        # Nothing here is worth taking apart.
        os._exit(0)
    newborn.begin(birth)
    runkernel.run()


if __name__ == "__main__":
    main()
