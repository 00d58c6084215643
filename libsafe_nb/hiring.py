"""
Workers by need: processes that run calls, had by whoever hires them, for a platform or for one workflow.

They are forked from one process (`nursery.py`) that has imported what they need, so one more costs hundredths of a second and
little memory. Their life, and that process's, hangs on a pipe that this process holds open: however it ends, they end, and with
them their kernels. Nothing of the user's program is imported in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

QUICK_DEATH = 5.0
"""A worker that ended by a fault sooner than that, in seconds, will not do better at once: the next waits as long."""
LONGEST_WAIT = 60.0
"""For a further worker, in seconds, when one after the other ended so: each time twice as long up to this."""
APART = 0.25
"""Seconds between two starts: the next is for work that the one before does not take."""
IDLE = 30.0
"""Seconds without a worker after which the process that they are forked from ends."""


@dataclass
class _Worker:
    started: float
    pid: int | None = None


class Hiring:
    """
    For one thread.

    Parameters
    ----------
    arguments
        Of each worker's command line.
    folder
        Where they work.
    trouble
        Told why no worker comes up, and None when one does.
    died
        Told the pid of each worker that has ended.
    place
        Where the log lies, for the sentence about trouble.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        log: IO[bytes],
        place: Path,
        trouble: Callable[[str | None], None],
        died: Callable[[int], None],
    ) -> None:
        self._arguments, self._folder, self._environment = list(arguments), folder, dict(environment)
        self._log, self._place = log, place
        self._tell, self._died = trouble, died
        self._alive: dict[int, _Worker] = {}
        self._number = 0
        self._not_before = 0.0
        self._deaths = 0
        """Workers that ended by a fault soon after their start, one after the other."""
        self._idle_since = time.monotonic()
        self._nursery: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._lifeline, self._ours = os.pipe()

    def __len__(self) -> int:
        """How many there are, those that are starting included."""
        return len(self._alive)

    @property
    def ready(self) -> bool:
        """Whether another may be started by now."""
        return time.monotonic() >= self._not_before

    def prepare(self) -> None:
        """Have what workers need imported by the time that the first one is hired."""
        with contextlib.suppress(OSError):
            self._line = self._line or self._open()

    def hire(self) -> None:
        """Start another one."""
        try:
            line = self._line or self._open()
            self._number += 1
            line.send(json.dumps({"worker": self._number, "arguments": self._arguments}).encode())
        except OSError as exc:
            # No memory, no process, no descriptor is left; or the process that they come from has ended just now.
            self._failed(f"the last could not be started ({exc.strerror or exc})")
            return
        self._alive[self._number] = _Worker(time.monotonic())
        self._not_before = time.monotonic() + APART

    def _open(self) -> socket.socket:
        line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._nursery = subprocess.Popen(  # our own program
                    [
                        *(sys.executable, "-m", "libsafe_nb.nursery"),
                        *(str(theirs.fileno()), str(self._lifeline)),
                    ],
                    cwd=self._folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=(theirs.fileno(), self._lifeline),
                    start_new_session=True,
                )
        except BaseException:
            line.close()
            raise
        line.setblocking(False)
        self._line = line
        return line

    def reap(self) -> None:
        """See which have ended."""
        for told in self._told():
            worker = self._alive.get(told["worker"])
            if worker is None:
                continue
            if "pid" in told:
                worker.pid = told["pid"]
            else:
                self._ended(told["worker"], worker, told["code"])
        now = time.monotonic()
        if self._alive:
            self._idle_since = now
            if any(now - each.started >= QUICK_DEATH for each in self._alive.values()):
                self._fine()
        elif self._line is not None and now - self._idle_since >= IDLE:
            self._close()

    def _told(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while self._line is not None:
            try:
                data = self._line.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                # It has ended, and whoever it bore is nobody's.
                code = self._close() or 1
                found += [{"worker": number, "code": code} for number in self._alive]
                break
            found.append(json.loads(data))
        return found

    def _ended(self, number: int, worker: _Worker, code: int) -> None:
        del self._alive[number]
        if worker.pid is not None:
            self._died(worker.pid)
        if code and time.monotonic() - worker.started < QUICK_DEATH:
            self._failed(f"the last with exit code {code}; {self._place} says why")
        elif not code:
            self._fine()

    def _failed(self, how: str) -> None:
        """One more that did not come up: the next has to wait."""
        self._deaths += 1
        wait = min(QUICK_DEATH * 2 ** (self._deaths - 1), LONGEST_WAIT)
        self._not_before = time.monotonic() + wait
        self._tell(
            f"no worker comes up: {self._deaths} ended at once, {how}; the next is started in {wait:.0f} s"
        )

    def _fine(self) -> None:
        if self._deaths:
            self._deaths = 0
            self._tell(None)

    def _signal(self, number: int) -> None:
        for worker in self._alive.values():
            if worker.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, number)

    def _close(self) -> int | None:
        """End the process that workers are forked from, and those that it bore."""
        line, self._line = self._line, None
        if line is not None:
            line.close()
        self._signal(signal.SIGKILL)
        nursery, self._nursery = self._nursery, None
        if nursery is None:
            return None
        nursery.kill()
        return nursery.wait()

    def stop(self, patience: float = 0.0) -> None:
        """
        End them: those that have nothing to do at once, and what still runs after so many seconds is killed, and left to a
        recovery.
        """
        deadline = time.monotonic() + patience
        while self._alive and time.monotonic() < deadline:
            self._signal(signal.SIGTERM)
            time.sleep(0.05)
            self.reap()
        self._close()
        self._alive.clear()
        for end in (self._lifeline, self._ours):
            os.close(end)
