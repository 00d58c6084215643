"""
Fork servers as those who ask them see them: one's own (`Owned`), a local platform's (`Guest`), and the process that one bore.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from libsafe_nb import heritage
from libsafe_nb.birth import Request, hear

ANSWERS_WITHIN = 15.0
"""Seconds that a server has to bear a kernel, its own start included; a tenth of a second or two is usual."""

TELLS_WITHIN = 2.0
"""Seconds that a server has to tell how a kernel ended, which it does at once."""

SOCKET = "kernels.sock"
"""In the folder of a local platform: where its server listens."""

GREETS_WITHIN = 1.0
"""Seconds that a platform's server has to answer; one that is just starting needs a few tenths."""


class ForkedProcess:
    """A kernel's process that is not our child; what `subprocess.Popen` tells of one that is."""

    def __init__(self, pid: int, line: socket.socket) -> None:
        """`line` is the server's, on which it tells the exit code."""
        self.pid = pid
        self._line = line
        self._ends = os.pidfd_open(pid)
        self._code: int | None = None
        self._asked = False

    def poll(self) -> int | None:
        """Its exit code, None while it lives, and for ever where the server ended before it."""
        if not self._asked and self._gone(0):
            self._asked = True
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._line.settimeout(TELLS_WITHIN)
                self._code = int(hear(self._line)["code"])
            self._line.close()
            os.close(self._ends)
        return self._code

    def wait(self) -> int | None:
        """Wait for its end."""
        if not self._asked:
            self._gone(None)
        return self.poll()

    def _gone(self, seconds: float | None) -> bool:
        watch = select.poll()
        watch.register(self._ends, select.POLLIN)
        return bool(watch.poll(None if seconds is None else seconds * 1000))


class Server:
    """A fork server that listens to `control`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def close(self) -> None:
        """Leave it. One that is this process's ends then, with its last kernel."""
        self._control.close()

    def bear(self, request: Request, guard: int, errors: int) -> ForkedProcess | None:
        """None where this one kernel cannot be as it is asked for; raises `OSError` where the server is not to be used again."""
        line, theirs = socket.socketpair()
        try:
            line.settimeout(ANSWERS_WITHIN)
            with theirs:
                files = array.array("i", [theirs.fileno(), guard, errors])
                self._control.sendmsg([b"fork"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            request.send(line)
            answer = hear(line)
            if "pid" not in answer:
                line.close()
                return None
            found = ForkedProcess(answer["pid"], line)
        except ConnectionError:
            # It had no room for the files, or has ended: that is seen where the next one is asked for.
            line.close()
            return None
        except BaseException:
            line.close()
            raise
        # Where it is gone by now, it is found dead.
        with contextlib.suppress(OSError):
            line.sendall(b"!")
        return found


class Guest(Server):
    """A local platform's server, for one kernel."""

    @classmethod
    def at(cls, folder: Path, key: str) -> Guest | None:
        """None where none answers, or it has other kernels."""
        try:
            control = _connect(folder)
        except OSError:
            return None
        try:
            control.settimeout(GREETS_WITHIN)
            if control.recv(len(key)) == key.encode():
                return cls(control)
        except OSError:
            pass
        control.close()
        return None

    def bear(self, request: Request, guard: int, errors: int) -> ForkedProcess | None:
        with self._control:
            return super().bear(request, guard, errors)


class Owned(Server):
    """
    A fork server of this process, which ends with it.

    With a `listener` it serves other processes of this user as well.
    """

    def __init__(
        self,
        key: str,
        options: tuple[str, ...],
        env: Mapping[str, str],
        listener: socket.socket | None = None,
    ) -> None:
        self.key = key
        self.used = time.monotonic()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Of a server that is stopped the queue is full at some time.
        control.settimeout(ANSWERS_WITHIN)
        super().__init__(control)
        files = [theirs.fileno(), *([listener.fileno()] if listener is not None else [])]
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, *options, "-m", "libsafe_nb.forkserver", *map(str, files)),
                    *([key] if listener is not None else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=heritage.start_environment(env),
                pass_fds=files,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._control.close()

    def wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def forget(self) -> None:
        """In a child that this process forked: it is not the child's."""
        self._control.close()
        self._process.returncode = 0


def listen(folder: Path) -> socket.socket:
    """A socket of this user's alone, at `SOCKET` in a folder that only this process serves; `OSError` where it cannot be."""
    (folder / SOCKET).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with _near(folder) as path:
            listener.bind(path)
        (folder / SOCKET).chmod(0o600)
        listener.listen(64)
    except BaseException:
        listener.close()
        raise
    return listener


def _connect(folder: Path) -> socket.socket:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        control.settimeout(GREETS_WITHIN)
        with _near(folder) as path:
            control.connect(path)
    except BaseException:
        control.close()
        raise
    return control


@contextlib.contextmanager
def _near(folder: Path) -> Iterator[str]:
    """A short path to the socket of a folder: a socket's is at most 107 bytes long, a folder's may be longer."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
