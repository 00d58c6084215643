"""
Kernels from a fork server: asked for here, in the runner's process.

A process that runs notebooks has its first kernel forked by a server of its own, which imports for it what that kernel
would have imported by itself; every later one is there in a blink. `fork` gives None where a kernel must be started the
ordinary way: for another key (`heritage.py`) than a server may have, on a system without what is needed, or when the
server does not answer. Nothing but time is lost then.

A running local platform has a server for all processes of its user; one's own is for where there is none, or
one of another key. `LIBSAFE_NB_FORK=0` turns all of it off. A process that runs one notebook and ends says so (`once`),
and starts no server.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from libsafe_nb import heritage
from libsafe_nb.birth import Request
from libsafe_nb.forkservers import ForkedProcess, Guest, Owned, Server

SWITCH = "LIBSAFE_NB_FORK"

MOST = 2
"""Servers that a process keeps at most, each for kernels of another key; one is some 40 MB."""

_servers: dict[str, Owned] = {}
_leaving: list[Owned] = []
"""Those that were let go and wait for their last kernel."""

_lock = threading.Lock()
_once = False


def enabled() -> bool:
    """Whether kernels may be forked: the system has what it takes, and nobody turned it off."""
    return not turned_off() and sys.platform == "linux" and hasattr(os, "pidfd_open")


def turned_off() -> bool:
    return os.environ.get(SWITCH) == "0"


def serves(platform: Path, env: Mapping[str, str]) -> bool:
    """Whether the local platform in this folder has a server for kernels with this environment."""
    key = heritage.key(env, ())
    guest = Guest.at(platform, key) if key is not None else None
    if guest is not None:
        guest.close()
    return guest is not None


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Say that this process runs one notebook only, for which a server of its own would come too late."""
    global _once
    before, _once = _once, True
    try:
        yield
    finally:
        _once = before


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
    try:
        request = _request(argv, folder, cwd, env, limits)
    except OSError:
        return None
    try:
        return server.bear(request, guard, errors)
    except (OSError, ValueError):
        if isinstance(server, Owned):
            _dismiss(key, server)
        return None


def prepare(env: Mapping[str, str], platform: Path | None = None) -> None:
    """Have a server start, if there is none, while its kernel's runner still has other things to do; some 5 ms."""
    key = heritage.key(env, ()) if enabled() else None
    if key is None:
        return
    server = _server(key, (), env, platform)
    if isinstance(server, Guest):
        server.close()


def _request(
    argv: list[str],
    folder: Path,
    cwd: Path | None,
    env: Mapping[str, str],
    limits: Mapping[int, tuple[int, int]],
) -> Request:
    """A kernel like this process in what it inherits otherwise."""
    own = {number: resource.getrlimit(number) for number in _LIMITS}
    return Request(
        argv=argv,
        env=dict(env),
        cwd=str(cwd or Path.cwd()),
        folder=str(folder),
        umask=heritage.umask(),
        limits={str(number): limit for number, limit in {**own, **limits}.items()},
        blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        ignored=heritage.ignored(),
        processors=sorted(os.sched_getaffinity(0)),
    )


_LIMITS = tuple(value for name, value in sorted(vars(resource).items()) if name.startswith("RLIMIT_"))


def _server(
    key: str, options: tuple[str, ...], env: Mapping[str, str], platform: Path | None
) -> Server | None:
    """
    The server of this key: this process's, else the platform's, else one that is started.

    None where none may be, or can be, started.
    """
    guest = None
    if platform is not None and key not in _servers:
        guest = Guest.at(platform, key)
    with _lock:
        _leaving[:] = [each for each in _leaving if each.alive]
        found = _servers.get(key)
        if found is not None and not found.alive:
            _let_go(key)
            found = None
        if found is not None:
            found.used = time.monotonic()
            if guest is not None:
                guest.close()
            return found
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
    """End a server that does not answer, unless it was let go meanwhile; the kernels it bore go on."""
    with _lock:
        if _servers.get(key) is server:
            server.kill()
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


atexit.register(close)
os.register_at_fork(after_in_child=_forget)
