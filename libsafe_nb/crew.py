"""
Processes that work side by side, each of which is replaced when it dies.

The standard library's pool ends as a whole when one of its processes does, and the work of the others with it. Here each is
a pool of its own, so that only what the dead one was at has to be done again.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import connection, forkserver
from typing import Any

from libsafe_nb import spared

Task = tuple["Future[Any]", Callable[[], Any]]


_method = "spawn"


def ready(module: str) -> None:
    """
    Have the members of crews forked, from now on, from a process that has imported `module`; it starts at once.

    For programs of our own: what that process has imported a user's program may not want, and it is one for the whole
    program. Without it, and elsewhere than on Linux, members are spawned, and each imports what it needs.
    """
    global _method
    if sys.platform == "linux":
        _method = "forkserver"
        multiprocessing.get_context(_method).set_forkserver_preload([module])
        forkserver.ensure_running()


def default_size() -> int:
    """One process a core that this one may use."""
    return len(os.sched_getaffinity(0))


class Crew(Executor):
    """
    `size` processes, started when they are needed (`ready` says how).

    What a process was at when it died fails with `BrokenExecutor`. Signals of the terminal do not reach them:
    `interrupt` does. They end at once when this process does.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.RLock()
        self._waiting: deque[Task] = deque()
        self._idle = [_Member() for _ in range(size)]
        self._members = list(self._idle)
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        outer: Future[Any] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the crew was shut down")
            self._waiting.append((outer, partial(_task, fn, *args, **kwargs)))
        self._feed()
        return outer

    def _feed(self) -> None:
        with self._lock:
            while self._idle and self._waiting:
                outer, task = self._waiting.popleft()
                if not outer.set_running_or_notify_cancel():
                    continue
                member = self._idle.pop()
                member.submit(task).add_done_callback(partial(self._ended, member, outer))

    def _ended(self, member: _Member, outer: Future[Any], inner: Future[Any]) -> None:
        if inner.cancelled():
            exc: BaseException | None = BrokenExecutor("the crew was shut down")
        else:
            exc = inner.exception()
        with self._lock:
            if isinstance(exc, BrokenExecutor):
                member.replace()
            self._idle.append(member)
        self._feed()
        if exc is None:
            outer.set_result(inner.result())
        else:
            outer.set_exception(exc)

    def most(self) -> int:
        """How many processes there are, or will be."""
        return self.size

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Send a signal to each process: what it runs is cancelled by the first SIGINT; SIGKILL ends it there and then."""
        with self._lock:
            for member in self._members:
                member.signal(number)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._lock:
            self._closed = True
            dropped = list(self._waiting) if cancel_futures else []
            if cancel_futures:
                self._waiting.clear()
        for outer, _ in dropped:
            outer.cancel()
            outer.set_running_or_notify_cancel()
        for member in self._members:
            member.shutdown(wait=wait)


class _Member:
    """One process; a new one after `replace`."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._pid: Future[int] | None = None

    def submit(self, task: Callable[[], Any]) -> Future[Any]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context(_method),
                initializer=begin,
                # What it was forked from knows that of an earlier time.
                initargs=(dict(os.environ),),
            )
            self._pid = self._pool.submit(os.getpid)
        try:
            return self._pool.submit(task)
        except BrokenExecutor as exc:
            # It died while it had nothing to do.
            failed: Future[Any] = Future()
            failed.set_exception(exc)
            return failed

    def replace(self) -> None:
        pool, self._pool, self._pid = self._pool, None, None
        if pool is not None:
            # Not waited for: this is called by the pool's own thread.
            pool.shutdown(wait=False)

    def signal(self, number: int) -> None:
        if self._pid is not None:
            # One that is just starting gets it when it has: its first task has ended by then.
            self._pid.add_done_callback(partial(_send, number))

    def shutdown(self, *, wait: bool) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=wait)


def _send(number: int, pid: Future[int]) -> None:
    if not pid.cancelled() and pid.exception() is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid.result(), number)


def begin(environ: Mapping[str, str]) -> None:
    """The first thing that a process of the crew does; `environ` is that of the process whose crew it is."""
    os.environ.clear()
    os.environ.update(environ)
    spared.spare(*spared.JSONSCHEMA, *spared.PAPERMILL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, name="parent", daemon=True).start()
    # Of a group of its own: Ctrl-C is for the parent, which passes it on once.
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    # A function, as what is ignored would be ignored by kernels as well.
    signal.signal(signal.SIGINT, _interrupt)


_interrupted = False
_listeners: list[Callable[[], None]] = []


def interrupted() -> bool:
    """Whether this process is of a crew that was interrupted: it begins nothing more."""
    return _interrupted


def on_interrupt(call: Callable[[], None]) -> None:
    """Have `call` called, in a process of a crew, when that is interrupted; it must return at once."""
    _listeners.append(call)


def _interrupt(number: int, frame: Any) -> None:
    global _interrupted
    _interrupted = True
    for call in _listeners:
        call()


def _task(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if _interrupted:
        raise BrokenExecutor("the crew was interrupted")
    return fn(*args, **kwargs)
