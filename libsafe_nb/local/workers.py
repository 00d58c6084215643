"""
The platform's workers: processes that run calls, started while there is work, ended with the platform.

A worker (`worker.py`) knows the runner; the platform knows only how to hire one (`hiring.py`). However the platform ends, the
workers end, and with them their kernels.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from pathlib import Path
from typing import IO

from libsafe_nb.hiring import Hiring
from libsafe_nb.local import firing, queue, schedule
from libsafe_nb.local.database import Database

log = logging.getLogger(__name__)

TICK = 0.1
"""Seconds between two looks for events to gather, clocks that are due and calls that wait."""
SHARE = 0.01
"""Seconds of one look that making calls of events may take; more than one call's time only if that one is long."""
AFTER_TROUBLE = 1.0
_OURS = ("LIBSAFE_URL", "LIBSAFE_KEY_", "LIBSAFE_S3_")
"""Of the environment: addresses and keys, which a worker reads from `platform.json`."""

PLATFORM = queue.Claimer("")
"""Any worker of the platform's own."""


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
        self._trouble = trouble
        self._most = most or len(os.sched_getaffinity(0))
        self._begun = self._stopped = False
        self._hiring = Hiring(
            [str(root)],
            folder=root,
            environment={name: value for name, value in os.environ.items() if not name.startswith(_OURS)},
            log=log,
            place=root / "log" / "workers.log",
            trouble=self._told,
            died=self._died,
        )

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
        room = self._most + queue.holding(self._db)
        # One whose call waits for calls of its own is none of the `most`.
        if len(self._hiring) < room and self._hiring.ready and queue.work_waits(self._db, PLATFORM, at):
            self._hiring.hire()
        return 0

    def _reap(self, at: float) -> int:
        self._hiring.reap()
        return 0

    def _died(self, pid: int) -> None:
        queue.worker_died(self._db, f"{pid}/")

    def _told(self, trouble: str | None) -> None:
        if trouble is None:
            self._trouble.pop("workers", None)
        else:
            self._trouble["workers"] = trouble
            log.warning(trouble)

    def stop(self) -> None:
        """End them at once: what they ran is finished by the next platform's workers."""
        self._stopped = True
        self._hiring.stop()
