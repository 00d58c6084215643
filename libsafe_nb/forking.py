"""
Kernels from a fork server: asked for here, in the runner's process.

A process that runs notebooks has its first kernel forked by a server of its own, which imports for it what that kernel
would have imported by itself; every later one is there in a blink. `fork` gives None where a kernel must be started the
ordinary way: for another key (`heritage.py`) than a server may have, on a system without what is needed, or when the
server does not answer. Nothing but time is lost then.

A running local platform has a server for all processes of its user (`SOCKET`); one's own is for where there is none, or
one of another key. `LIBSAFE_NB_FORK=0` turns all of it off. A process that runs one notebook and ends says so (`once`),
and starts no server.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from libsafe_nb import heritage
from libsafe_nb.birth import Request, hear

SWITCH = "LIBSAFE_NB_FORK"

ANSWERS_WITHIN = 15.0
"""Seconds that a server has to bear a kernel, its own start included; a tenth of a second or two is usual."""

TELLS_WITHIN = 2.0
"""Seconds that a server has to tell how a kernel ended, which it does at once."""

MOST = 2
"""Servers that a process keeps at most, each for kernels of another key; one is some 40 MB."""

_servers: dict[str, Owned] = {}
_leaving: list[Owned] = []
"""Those that were let go and wait for their last kernel."""

_lock = threading.Lock()
_once = False

SOCKET = "kernels.sock"
"""In the folder of a local platform: where its server listens."""

GREETS_WITHIN = 1.0
"""Seconds that a platform's server has to answer; one that is just starting needs a few tenths."""


def enabled() -> bool:
    """Whether kernels may be forked: the system has what it takes, and nobody turned it off."""
    return os.environ.get(SWITCH) != "0" and sys.platform == "linux" and hasattr(os, "pidfd_open")


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Say that this process runs one notebook only, for which a server of its own would come too late."""
    global _once
    before, _once = _once, True
    try:
        yield
    finally:
        _once = before


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


def fork(
    argv: list[str],
    options: tuple[str, ...],
    folder: Path,
    cwd: Path | None,
    env: Mapping[str, str],
    limits: Mapping[int, tuple[int, int]],
    guard: int,
    errors: int,
    platform: Path | None = None,
) -> ForkedProcess | None:
    """
    Have a kernel forked, or return None where it must be started the ordinary way.

    Parameters
    ----------
    argv, options
        The command of an ordinary start, and in it the options of the interpreter.
    limits
        Besides this process's own, by their number.
    guard, errors
        What the child is to have: the end of the guard's pipe that is read, and that of the pipe for its stderr that is
        written.
    platform
        Folder of a local platform, whose server may be asked.
    """
    if not enabled():
        return None
    key = heritage.key(env, options)
    if key is None:
        return None
    server = _server(key, options, env, platform)
    if server is None:
        return None
    own = {number: resource.getrlimit(number) for number in _LIMITS}
    request = Request(
        argv=argv,
        env=dict(env),
        cwd=str(cwd or Path.cwd()),
        folder=str(folder),
        umask=heritage.umask(),
        limits={str(number): limit for number, limit in {**own, **limits}.items()},
        processors=sorted(os.sched_getaffinity(0)),
    )
    try:
        return server.bear(request, guard, errors)
    except (OSError, ValueError):
        if isinstance(server, Owned):
            _dismiss(key, server)
        return None


_LIMITS = tuple(value for name, value in sorted(vars(resource).items()) if name.startswith("RLIMIT_"))


class Server:
    """A fork server that listens to `control`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

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
            line.sendall(b"!")
        except BaseException:
            line.close()
            raise
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

    def close(self) -> None:
        """Let it end, with its last kernel."""
        self._control.close()

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


def _server(
    key: str, options: tuple[str, ...], env: Mapping[str, str], platform: Path | None
) -> Server | None:
    """
    The server of this key: this process's, else the platform's, else one that is started.

    None where none may be, or can be, started.
    """
    with _lock:
        _leaving[:] = [each for each in _leaving if each.alive]
        found = _servers.get(key)
        if found is not None and found.alive:
            found.used = time.monotonic()
            return found
        if found is not None:
            _let_go(key)
        guest = Guest.at(platform, key) if platform is not None else None
        if guest is not None or _once:
            return guest
        while len(_servers) >= MOST:
            _let_go(min(_servers, key=lambda each: _servers[each].used))
        try:
            made = _servers[key] = Owned(key, options, env)
        except OSError:
            return None
        return made


def _let_go(key: str) -> None:
    server = _servers.pop(key)
    server.close()
    _leaving.append(server)


def _dismiss(key: str, server: Owned) -> None:
    """End a server that does not answer; the kernels it bore go on."""
    server.kill()
    with _lock:
        if _servers.get(key) is server:
            _let_go(key)


def close() -> None:
    """End the servers of this process; the next kernel has a new one started."""
    with _lock:
        for key in list(_servers):
            _let_go(key)
        ended = list(_leaving)
    for server in ended:
        server.wait(1.0)


def _forget() -> None:
    """A process that this one forked has no servers: those are its parent's."""
    global _lock
    _lock = threading.Lock()
    for server in [*_servers.values(), *_leaving]:
        server.forget()
    _servers.clear()
    _leaving.clear()


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


atexit.register(close)
os.register_at_fork(after_in_child=_forget)
