"""
What a forked process does to be as good as a new one. Lives in the fork server and in the kernels it bears.

Session and guard, files, directory, limits, environment, and what each process draws or remembers for itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import importlib.util
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from libsafe_nb import heritage
from libsafe_nb.birth import GUARD, Birth, Request, tell

_PR_SET_MM, _PR_SET_MM_MAP = 35, 14


def begin(birth: Birth) -> None:
    """
    Become what the runner asks for; return when the runner knows of it.

    What goes wrong is told to the runner, which then starts a kernel the ordinary way, and ends this process.
    """
    line = birth.line
    try:
        request = Request.receive(line)
        _begin(request, birth)
        tell(line, pid=os.getpid())
        # Until it holds a descriptor of this process, the runner has no more than a number.
        if not line.recv(1):
            raise ConnectionError("the runner has given up")
        line.close()
    except Exception as exc:
        with contextlib.suppress(OSError):
            tell(line, error=f"{type(exc).__name__}: {exc}")
        if os.getpgrp() == os.getpid():
            # With the guard, if it was started.
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _begin(request: Request, birth: Birth) -> None:
    _only({0, 1, 2, birth.line.fileno(), birth.guard, birth.errors})
    os.setsid()
    _start_guard(request, birth.guard)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (birth.errors, 1), (birth.errors, 2)):
        os.dup2(source, target)
    for done in (null, birth.errors, birth.guard):
        os.close(done)
    os.umask(request.umask)
    _ignore(request.ignored)
    signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)
    os.sched_setaffinity(0, request.processors)
    os.chdir(request.cwd)
    for name, limit in request.limits.items():
        if resource.getrlimit(int(name)) != tuple(limit):
            resource.setrlimit(int(name), (limit[0], limit[1]))
    _take_environment(request)
    _forget()


def _only(own: set[int]) -> None:
    """Close every file that is not this process's own."""
    for each in list(Path("/proc/self/fd").iterdir()):
        if int(each.name) not in own:
            # That of the list itself is closed by now.
            with contextlib.suppress(OSError):
                os.close(int(each.name))


def _start_guard(request: Request, pipe: int) -> None:
    guard = os.posix_spawn(
        "/bin/sh",
        ["/bin/sh", "-c", f"leader={os.getpid()}{GUARD}", "kernel", request.folder],
        request.env,
        file_actions=[(os.POSIX_SPAWN_DUP2, pipe, 0)],
    )
    _, status = os.waitpid(guard, 0)
    if status != 0:
        raise ChildProcessError(f"the guard of the kernel did not start: status {status}")


def _ignore(numbers: list[int]) -> None:
    """Ignore these signals and no others, as Python would have found it at its start."""
    for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, *heritage.PYTHONS_OWN}:
        if each in numbers:
            signal.signal(each, signal.SIG_IGN)
        elif signal.getsignal(each) == signal.SIG_IGN:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)


def _take_environment(request: Request) -> None:
    env = dict(request.env)
    # As the shell of an ordinary start does.
    known = Path(env.get("PWD", ""))
    if not (known.is_absolute() and known.exists() and known.samefile(".")):
        env["PWD"] = str(Path.cwd())
    _look_like(request.argv, env)
    # Python itself sets it at its start where the locale is C, and here it started with the same locale.
    coerced = {name: os.environ[name] for name in ("LC_CTYPE",) if name in os.environ}
    os.environ.clear()
    os.environ.update(env | coerced)
    time.tzset()


def _look_like(argv: list[str], env: dict[str, str]) -> None:
    """Show command and environment to those who look from outside (`ps`, `/proc/PID/environ`), where Linux lets one."""
    sys.orig_argv[:] = argv
    sys.argv[:] = ["", *argv[argv.index("-m") + 2 :]]
    command = b"".join(os.fsencode(each) + b"\0" for each in argv)
    environment = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items())
    with contextlib.suppress(OSError, ValueError, AttributeError):
        _show(command, environment)


def _show(command: bytes, environment: bytes) -> None:
    """prctl(2), PR_SET_MM_MAP: all that Linux knows of this process's memory, with another place for these two."""
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.sbrk.restype = ctypes.c_void_p
    shown = ctypes.create_string_buffer(command + environment, len(command) + len(environment))
    start = ctypes.addressof(shown)
    middle = start + len(command)
    # Numbered as in proc(5), from 1; what stands before the name is gone.
    fields = {number: int(stat[number - 3]) for number in (26, 27, 28, 45, 46, 47)}
    numbers = [fields[26], fields[27], fields[45], fields[46], fields[47], libc.sbrk(0), fields[28]]
    memory = _MemoryMap(*numbers, start, middle, middle, start + len(shown), None, 0, 0xFFFFFFFF)
    if libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.byref(memory), ctypes.sizeof(memory), 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_MM_MAP")
    # It is read whenever somebody looks, so it stays for good.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(shown))


class _MemoryMap(ctypes.Structure):
    _fields_ = [
        *(
            (name, ctypes.c_uint64)
            for name in (
                *("start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack"),
                *("arg_start", "arg_end", "env_start", "env_end"),
            )
        ),
        ("auxv", ctypes.c_void_p),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]


def _forget() -> None:
    """
    Draw anew what each process draws for itself, and forget what was found of the file system.

    `random` does so by itself. What cannot be drawn anew is the seed of `hash(str)`: all kernels of a server have one.
    """
    # As the system knows this process by; Python asks when a thread starts, and this one did not start here.
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]
    tempfile.tempdir = None
    drawn = sys.modules.get("multiprocessing.process")
    if drawn is not None:
        drawn.current_process().authkey = os.urandom(32)
    clock = sys.modules.get("uuid")
    if clock is not None:
        clock._last_timestamp = None  # type: ignore[attr-defined]
    importlib.invalidate_caches()
    gc.enable()
