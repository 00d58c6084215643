"""
The platform's workers: processes that run calls, started while there is work, ended with the platform.

A worker is `python -m libsafe_nb.worker`, which knows the runner; the platform knows only its name. Its life hangs on a
pipe that the platform holds open: however the platform ends, the workers end, and with them their kernels.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from libsafe_nb.local import firing, queue, schedule
from libsafe_nb.local.database import Database

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks for events to gather, clocks that are due and calls that wait."""
SHARE = 0.01
"""Seconds of one look that making calls of events may take; more than one call's time only if that one is long."""
AFTER_TROUBLE = 1.0
QUICK_DEATH = 5.0
"""A worker that ended by a fault sooner than that, in seconds, will not do better at once: the next waits as long."""
LONGEST_WAIT = 60.0
"""For a further worker, in seconds, when one after the other ended so: each time twice as long up to this."""
_OURS = ("LIBSAFE_URL", "LIBSAFE_KEY_", "LIBSAFE_S3_")
"""Of the environment: addresses and keys, which a worker reads from `platform.json`."""


class Workers:
    """
    Parameters
    ----------
    trouble
        Where it is told, as `queue` and `workers`, that calls cannot be made or run.
    most
        How many run at once; by default one for each processor that we may use. Those come on top whose calls wait for
        calls of their own (`queue`): at most as many again for each depth of calls.
    """

    def __init__(
        self, root: Path, database: Database, log: IO[bytes], trouble: dict[str, str], most: int | None = None
    ) -> None:
        self._root = root
        self._db = database
        self._log = log
        self._trouble = trouble
        self._most = most or len(os.sched_getaffinity(0))
        self._alive: dict[subprocess.Popen[bytes], float] = {}
        self._not_before = 0.0
        self._died = 0
        """Workers that ended by a fault soon after their start, one after the other."""
        self._begun = self._stopped = False
        self._lifeline, self._ours = os.pipe()

    async def run(self) -> None:
        """
        For ever: make calls of what has happened and of what is due, and have as many workers as there is work.

        What goes wrong, as when the disk is full, is logged, told in `trouble`, and tried again: each step is a transaction.
        """
        while not self._stopped:
            try:
                made = self._look(time.time())
                self._trouble.pop("queue", None)
            except Exception as exc:
                if "queue" not in self._trouble:
                    log.exception("a look at the queue failed; trying again")
                self._trouble["queue"] = f"events and calls wait: {type(exc).__name__}: {exc}"
                await asyncio.sleep(AFTER_TROUBLE)
                continue
            # While there is more to gather, others get their turn in between.
            await asyncio.sleep(TICK if not made else TICK / 10)

    def _look(self, at: float) -> int:
        """One look; answers how many calls were made."""
        if not self._begun:
            shutil.rmtree(self._root / "work", ignore_errors=True)
            with self._db.transaction():
                queue.abandon_leases(self._db)
                self._db.set_fact(queue.SLOTS, str(self._most))
            self._begun = True
        made, failed = 0, None
        for step in (self._reap, self._gather, self._fire, self._hire):
            # One that fails keeps none of the others.
            try:
                made += step(at)
            except Exception as exc:
                failed = exc
        if failed is not None:
            raise failed
        return made

    def _gather(self, at: float) -> int:
        return firing.gather(self._db, at, SHARE)

    def _fire(self, at: float) -> int:
        return schedule.fire_due(self._db, at)

    def _hire(self, at: float) -> int:
        if (
            self._room()
            and time.monotonic() >= self._not_before
            and queue.work_waits(self._db, queue.Claimer(""), at)
        ):
            try:
                self._start()
            except OSError as exc:
                # No memory, no process, no descriptor is left.
                self._failed(f"the last could not be started ({exc.strerror or exc})")
        return 0

    def _room(self) -> bool:
        """Whether another worker may be started. One whose call waits for calls of its own is none of the `most`."""
        return len(self._alive) < self._most + queue.holding(self._db)

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

    def _reap(self, at: float) -> int:
        moment = time.monotonic()
        for process, started in list(self._alive.items()):
            code = process.poll()
            if code is None:
                if moment - started >= QUICK_DEATH:
                    self._fine()
                continue
            queue.worker_died(self._db, f"{process.pid}/")
            del self._alive[process]
            if code and moment - started < QUICK_DEATH:
                self._failed(f"the last with exit code {code}; {self._root / 'log' / 'workers.log'} says why")
            elif not code:
                self._fine()
        return 0

    def _failed(self, how: str) -> None:
        """One more that did not come up: the next has to wait."""
        self._died += 1
        wait = min(QUICK_DEATH * 2 ** (self._died - 1), LONGEST_WAIT)
        self._not_before = time.monotonic() + wait
        self._trouble["workers"] = (
            f"no worker comes up: {self._died} ended at once, {how}; the next is started in {wait:.0f} s"
        )
        log.warning(self._trouble["workers"])

    def _fine(self) -> None:
        self._died = 0
        self._trouble.pop("workers", None)

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
