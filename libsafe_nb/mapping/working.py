"""
A worker's side of a map: one unit, in whatever process an executor runs it.

The task names the map, its container and the unit. Where the platform is, and with which keys, the worker's own settings
say; what the task is about lies in the container.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from libsafe_nb import lease, plan, recover, underway
from libsafe_nb import settings as settings_
from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import LibsafeError, NotFound, ObjectNotFound, SettingsError, UsageError
from libsafe_nb.mapping import units
from libsafe_nb.mapping.layout import Shelf
from libsafe_nb.mapping.ledger import Claim, Ledger, Result
from libsafe_nb.mapping.units import Unit
from libsafe_nb.models import Parent
from libsafe_nb.payloads import Payload
from libsafe_nb.settings import Settings

BEGINS = 180.0
"""Seconds within which a claim's run leaves its start record; else it is taken for one that never will."""

MOST = 5
"""How often a unit is begun without an end before it counts as errored: what ends its worker each time is taken apart."""

HELD = "held"
"""What a task says of a unit that another is at, or that cannot be ended now: ask again later."""

ENDED = ("completed", "failed", "errored", "timeout")
AWAY = "platform-unreachable"


@dataclass(frozen=True)
class Told:
    """
    What a task tells of its unit.

    Attributes
    ----------
    status
        The run's, or `held`.
    files
        How many the unit has.
    pieces
        Names of the units that take its place.
    """

    unit: str
    status: str
    files: int
    pieces: tuple[str, ...] = ()


def work(map: str, container: str, unit: str, platform: str | None = None) -> Told:
    """
    Run one unit of a map and record how it ended, unless that was done.

    Parameters
    ----------
    platform
        Path of the `platform.json` to be used; by default the settings of this process count.

    Raises
    ------
    LibsafeError
        Nothing can be run here: the settings, the platform or the storage do not allow it. The unit is as it was.
    """
    try:
        return bench(map, container, platform).work(unit)
    except LibsafeError:
        # What is away now may be back at another address.
        with _BENCHES:
            _bench.cache_clear()
        raise


_BENCHES = threading.Lock()


def bench(map: str, container: str, platform: str | None) -> Bench:
    """This process's bench for a map; one is kept, and with it its connections."""
    with _BENCHES:
        return _bench(map, container, platform)


@lru_cache(maxsize=2)
def _bench(map: str, container: str, platform: str | None) -> Bench:
    return Bench(connect(settings=settings_.of_worker(platform)), map, container)


class Bench:
    """What a process keeps between the units of one map: connections, the plan, the notebook as it was read."""

    def __init__(self, connection: Connection, map: str, container: str) -> None:
        self.connection = connection
        self.settings: Settings = connection.settings
        self.shelf = Shelf(connection.storage, container, map)
        self.plan = self.shelf.plan()
        self.ledger = Ledger(self.shelf, self.plan)
        self.function = plan.parse(self.shelf.notebook(self.plan), self.plan.notebook)
        found = self.shelf.get("job.json")
        self.parent = Parent(job=str(found["job"])) if found else None

    def work(self, name: str) -> Told:
        """One unit; see `work`."""
        unit = self.ledger.unit(name)
        run = str(uuid.uuid4())
        # A unit that nobody has begun needs no look at anything.
        if self.ledger.claim(name, 0, run) is None:
            found = self._before(unit)
            if not isinstance(found, int):
                return found
            if self.ledger.claim(name, found, run) is None:
                return self._held(unit)
        return self._run(unit, run)

    def _held(self, unit: Unit) -> Told:
        return Told(unit.name, HELD, len(unit.files))

    def _told(self, result: Result) -> Told:
        return Told(
            result.unit.name,
            result.status,
            len(result.unit.files),
            tuple(each.name for each in result.pieces),
        )

    # What was begun before

    def _before(self, unit: Unit) -> Told | int:
        """What has become of a unit that was begun before; the number of the next attempt where nothing has."""
        ended = self.ledger.result(unit.name)
        if ended is not None:
            return self._told(ended)
        claim = self.ledger.last_claim(unit.name)
        if claim is None:
            return 0
        found = self._job_of(claim)
        if found is None:
            return self._held(unit)
        if found.get("status") in ENDED and (found.get("error") or {}).get("type") != "RunnerDied":
            return self._end(unit, found)
        if claim.attempt + 1 >= MOST:
            message = f"begun {MOST} times, and not ended: its worker ended each time"
            error = {"type": "WorkerDied", "message": message, "cell_id": None}
            return self._end(unit, {**found, "status": "errored", "error": error})
        return claim.attempt + 1

    def _job_of(self, claim: Claim) -> Mapping[str, Any] | None:
        """
        How the run of a claim ended, as its job tells it; empty where there is nothing to be told; None while it goes on.

        What it left on this machine is finished first (`recover.py`).
        """
        if claim.here:
            folder = self.settings.home / "runs" / claim.run
            if folder.exists():
                for _ in recover.recover([claim.run], settings=self.settings, lost=False):
                    pass
                if folder.exists():
                    return None
        started = self._started(claim.run)
        if started is not None:
            return self._of_started(claim, started)
        if claim.here and (not claim.process.alive or self._given_up(claim)):
            return {}
        age = self.connection.storage.age(self.plan.container, self.shelf.path(claim.path))
        return None if age < BEGINS else {}

    def _started(self, run: str) -> dict[str, Any] | None:
        """A run's start record."""
        with contextlib.suppress(ObjectNotFound):
            found: dict[str, Any] = json.loads(
                self.connection.storage.get(self.plan.container, lease.path(run))
            )
            return found
        return None

    def _of_started(self, claim: Claim, started: Mapping[str, Any]) -> Mapping[str, Any] | None:
        try:
            job = self.connection.client.job(str(started["job"]))
        except NotFound:
            return {}
        if job["status"] in ("COMPLETED", "FAILED", "CANCELLED"):
            return job.get("result") or {"status": "errored", "job": job["id"]}
        if claim.here:
            return {} if not claim.process.alive or self._given_up(claim) else None
        over = lease.over(self.connection, self.plan.container, claim.run, dict(started))
        return {"job": job["id"]} if over else None

    def _given_up(self, claim: Claim) -> bool:
        """Whether this very process began it, and is not at it any more."""
        return claim.process.pid == os.getpid() and not underway.is_under_way(claim.run)

    # The run

    def _run(self, unit: Unit, run: str) -> Told:
        payload = Payload.manual(container=self.plan.container, params=self.plan.params)
        try:
            done = underway.carry(
                self.plan.map,
                payload.replace(file_ids=unit.files),
                self.function,
                timeout=self.plan.timeout,
                connection=self.connection,
                parent=self.parent,
                queued=True,
                identity=run,
            )
        except UsageError as exc:
            if isinstance(exc, SettingsError):
                raise
            # Of these files, and it will be so another time: the platform does not know one any more.
            error = {"type": type(exc).__name__, "message": str(exc), "cell_id": None}
            return self._end(unit, {"status": "errored", "error": error})
        pending = done.evidence is None and done.cause != "secrets"
        if pending or done.status not in ENDED or done.cause == AWAY:
            return self._held(unit)
        return self._end(unit, done.to_json())

    def _end(self, unit: Unit, found: Mapping[str, Any]) -> Told:
        """Record how the unit ended."""
        status, job = str(found["status"]), found.get("job")
        named = self._named(job) if job and status != units.COMPLETED and len(unit.files) > 1 else set()
        result = Result(
            unit=unit,
            status=status,
            job=job,
            run=found.get("run"),
            evidence=found.get("evidence"),
            error=found.get("error"),
            pieces=units.pieces(unit, status, named, retries=self.plan.retries),
        )
        return self._told(self.ledger.end(result))

    def _named(self, job: str) -> set[str]:
        """Files that the function named in its errors."""
        with contextlib.suppress(NotFound):
            return {
                str(each["file_id"])
                for each in self.connection.client.messages(job)
                if each["type"] == "ERROR" and each.get("file_id")
            }
        return set()
