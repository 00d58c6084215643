"""
The platform's workers: processes that run calls, started while there is work, ended with the platform.

A worker is `python -m libsafe_nb.worker`, which knows the runner; the platform knows only its name. Its life hangs on a
pipe that the platform holds open: however the platform ends, the workers end, and with them their kernels.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from libsafe_nb.local import firing, queue, schedule
from libsafe_nb.local.database import Database

TICK = 0.1
"""Seconds between two looks for events to gather, clocks that are due and calls that wait."""
QUICK_DEATH = 5.0
"""A worker that ended by a fault sooner than that, in seconds, will not do better at once; the next waits as long."""
_OURS = ("LIBSAFE_URL", "LIBSAFE_KEY_", "LIBSAFE_S3_")
"""Of the environment: addresses and keys, which a worker reads from `platform.json`."""


class Workers:
    """
    Parameters: `most` is how many run at once; by default one for each processor that we may use. Those come on top
    whose calls wait for calls of their own (`queue`): at most as many again for each depth of calls.
    """

    def __init__(self, root: Path, database: Database, log: IO[bytes], most: int | None = None) -> None:
        self._root = root
        self._db = database
        self._log = log
        self._most = most or len(os.sched_getaffinity(0))
        self._alive: dict[subprocess.Popen[bytes], float] = {}
        self._not_before = 0.0
        self._stopped = False
        self._lifeline, self._ours = os.pipe()

    async def run(self) -> None:
        """For ever: make calls of what has happened and of what is due, and have as many workers as there is work."""
        shutil.rmtree(self._root / "work", ignore_errors=True)
        with self._db.transaction():
            queue.abandon_leases(self._db)
            self._db.set_fact(queue.SLOTS, str(self._most))
        while not self._stopped:
            at = time.time()
            firing.gather(self._db, at)
            schedule.fire_due(self._db, at)
            self._reap()
            if self._room() and time.monotonic() >= self._not_before and queue.work_waits(self._db, at):
                self._start()
            await asyncio.sleep(TICK)

    def _room(self) -> bool:
        """Whether another worker may be started. One whose call waits for calls of its own is none of the `most`."""
        return len(self._alive) < self._most or len(self._alive) < self._most + queue.holding(self._db)

    def _start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        process = subprocess.Popen(  # our own program
            [sys.executable, "-m", "libsafe_nb.worker", str(self._root), str(self._lifeline)],
            cwd=self._root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(self._lifeline,),
            start_new_session=True,
        )
        self._alive[process] = time.monotonic()
        # The next is for work that this one does not take.
        self._not_before = time.monotonic() + 0.5

    def _reap(self) -> None:
        for process, started in list(self._alive.items()):
            code = process.poll()
            if code is None:
                continue
            del self._alive[process]
            queue.worker_died(self._db, process.pid)
            if code and time.monotonic() - started < QUICK_DEATH:
                self._not_before = time.monotonic() + QUICK_DEATH

    def stop(self) -> None:
        """End them at once: what they ran is finished by the next platform's workers."""
        self._stopped = True
        for process in self._alive:
            process.kill()
        for process in self._alive:
            process.wait()
        self._alive.clear()
        for end in (self._lifeline, self._ours):
            os.close(end)
