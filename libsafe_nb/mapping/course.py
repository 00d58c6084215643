"""
The coordinator of a map: it submits what has not ended, until all has.

It keeps nothing that is not in the container, so that it can be killed at any instant, and run twice.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libsafe_nb import check, plan, record, supplied
from libsafe_nb.asking import refuse_keys
from libsafe_nb.connection import Connection
from libsafe_nb.errors import (
    ExecutionError,
    LibsafeError,
    NotebookError,
    PlatformError,
    RunCancelled,
    UsageError,
)
from libsafe_nb.inflight import flow
from libsafe_nb.mapping import layout, report, working
from libsafe_nb.mapping.choosing import Chosen, in_batches
from libsafe_nb.mapping.counts import Counts, open_units
from libsafe_nb.mapping.layout import Map, Shelf
from libsafe_nb.mapping.ledger import Ledger
from libsafe_nb.mapping.working import Told

AGAIN = 1.0
"""Seconds until a unit that another holds is asked for again; twice as many each time, up to `LATEST`."""
LATEST = 30.0
TELL_EVERY = 5.0
"""Seconds between two notes of the progress in the parent job."""
IN_VAIN = 8
"""Tasks that end without a word, one after the other, until the map is given up for now: no worker gets anything done."""


def settle(
    connection: Connection,
    notebook: str | Path,
    *,
    container: str,
    params: Mapping[str, Any],
    each: int,
    chosen: Chosen,
    retries: int,
    timeout: float | None,
    seen: Callable[[int], None] = lambda count: None,
) -> Ledger:
    """
    Write the plan of a new map; from then on it can be resumed.

    Raises
    ------
    UsageError
        The notebook, a parameter or an expression is wrong, a key stands in them, or no file fits. Nothing was started.
    """
    chosen.check()
    plan.check_target(connection, container, "")
    source = read(connection, notebook)
    name = Path(str(notebook)).name
    secrets = check.configured_secrets()
    found = check.check_source(source, name=name, secrets=secrets, codes=check.KEYS)
    if found:
        raise NotebookError(
            f"{found[0]}. A map keeps the notebook in its container, so nothing was started", notebook=name
        )
    function = plan.parse(source, name)
    refuse_keys(secrets, name, params)
    plan.bind(function, None, params)
    for parameter in function.parameters.values():
        if parameter.secret:
            # One that is not to be had here need not be lacking where the workers are, but mostly is.
            supplied.of_parameter(parameter.name)
    settled = Map(
        map=layout.new_name(),
        container=container,
        notebook=name,
        notebook_sha256=record.digest(source),
        params=dict(params),
        each=each,
        retries=retries,
        timeout=timeout,
        batches=0,
        files=0,
        created=record.timestamp(datetime.now(UTC)),
        chosen=chosen.told(),
    )
    shelf = Shelf(connection.storage, container, settled.map)
    files = in_batches(connection.client, container, chosen, each, seen)
    first = next(files, None)
    if first is None:
        raise UsageError(f"container {container}: expected files for the map, found none that fits")

    def all_of_them() -> Iterator[list[str]]:
        yield first
        yield from files

    return Ledger(shelf, shelf.settle(settled, source, all_of_them()))


def read(connection: Connection, notebook: str | Path) -> bytes:
    """The bytes of a notebook, local or `libsafe://…`."""
    if plan.is_remote(notebook):
        return plan.read_remote(connection, str(notebook))
    return plan.read_bytes(Path(notebook))


def unfinished(connection: Connection, container: str, notebook: str | Path | None) -> Iterator[str]:
    """The maps of a container that are not finished, the newest first; of this notebook, by its bytes, if one is given."""
    sha256 = None if notebook is None else record.digest(read(connection, notebook))
    for name in layout.maps(connection.storage, container):
        shelf = Shelf(connection.storage, container, name)
        found = shelf.get("plan.json")
        if found is None or sha256 not in (None, found.get("notebook_sha256")):
            continue
        if not connection.storage.exists(container, shelf.path("finished.json")):
            yield name


def resume(connection: Connection, container: str, map: str) -> Ledger:
    """
    The ledger of a map that was begun before.

    Raises
    ------
    UsageError
        There is none of that name.
    """
    shelf = Shelf(connection.storage, container, map)
    return Ledger(shelf, shelf.plan())


@dataclass
class View:
    """How a map stands, for whoever shows it."""

    plan: Map
    job: str
    counts: Counts
    under_way: int = 0
    resumed: int = 0
    """Files that had ended before this process took the map up."""


class Course:
    """
    One coordinator's work on a map.

    Parameters
    ----------
    platform
        Path of the `platform.json` that workers are to use; None: what their own settings say.
    most
        How many units may be submitted at once.
    show
        Called with the view as things change.
    check
        Called again and again; raises `RunCancelled` to end it.
    """

    def __init__(
        self,
        connection: Connection,
        ledger: Ledger,
        executor: Executor,
        *,
        most: Callable[[], int],
        platform: str | None = None,
        fresh: bool = False,
        show: Callable[[View], None] = lambda view: None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.connection, self.ledger, self.executor = connection, ledger, executor
        self.counts = Counts()
        self._most, self._platform, self._show, self._check = most, platform, show, check
        self._units = open_units(ledger, self.counts, fresh=fresh)
        self._pieces: deque[str] = deque()
        self._held: list[tuple[float, str]] = []
        self._delays: dict[str, float] = {}
        self._in_vain = 0
        self._told_at = time.monotonic()
        self.view = View(ledger.plan, self._job(), self.counts)

    def _job(self) -> str:
        """The parent job; one that was asked for before is asked for again under its key."""
        shelf, plan = self.ledger.shelf, self.ledger.plan
        found = shelf.get("job.json")
        if found is None:
            made = self.connection.client.create_job(
                plan.container, name=f"map {plan.notebook}", idempotency_key=f"{plan.map}-job"
            )
            shelf.leave("job.json", {"job": made["id"], "map": plan.map})
            found = shelf.get("job.json")
            text = f"map {plan.map}: {plan.files} files in {plan.batches} batches; what it keeps lies in {shelf.address('')}"
            self.connection.client.message(found["job"], text, idempotency_key=f"{plan.map}-message-begin")
        job = str(found["job"])
        if self.connection.client.job(job)["status"] == "QUEUED":
            self.connection.client.update_job(job, status="RUNNING", idempotency_key=f"{plan.map}-running")
        return job

    def travel(self) -> dict[str, Any]:
        """
        Run all that has not ended; what `report.close` tells.

        Raises
        ------
        LibsafeError
            No worker can do anything now. What has ended stays so, and the map can be resumed.
        """
        flowing = flow(
            self._submit, self._more, most=self._most, waits=lambda: bool(self._held), tick=self._tick
        )
        for name, future in flowing:
            self.view.under_way -= 1
            try:
                self._took(future.result())
            except BrokenExecutor as exc:
                # Its worker died; the unit's claim says so to the next one.
                self._lost(name, ExecutionError(f"unit {name}: its worker ended ({exc})"))
            except LibsafeError as exc:
                self._lost(name, exc)
            self._show(self.view)
        return report.close(self.connection, self.ledger, self.view.job, self.counts)

    def _submit(self, unit: str) -> Future[Any]:
        self.view.under_way += 1
        plan = self.ledger.plan
        more = () if self._platform is None else (self._platform,)
        return self.executor.submit(working.work, plan.map, plan.container, unit, *more)

    def _more(self) -> str | None:
        self._check()
        if self._pieces:
            return self._pieces.popleft()
        now = time.monotonic()
        for at, each in enumerate(self._held):
            if each[0] <= now:
                return self._held.pop(at)[1]
        return next(self._units, None)

    def _took(self, told: Told) -> None:
        if told.status == working.HELD:
            self._hold(told.unit)
            return
        self._in_vain = 0
        self._delays.pop(told.unit, None)
        for each in told.pieces:
            self.counts.opened(each)
        self._pieces.extend(told.pieces)
        self.counts.ended(told.unit, told.status, told.files, len(told.pieces))

    def _hold(self, unit: str) -> None:
        delay = self._delays.get(unit, AGAIN)
        self._delays[unit] = min(delay * 2, LATEST)
        self._held.append((time.monotonic() + delay, unit))

    def _lost(self, unit: str, exc: LibsafeError) -> None:
        self._in_vain += 1
        if self._in_vain >= IN_VAIN:
            raise exc
        self._hold(unit)

    def _tick(self) -> None:
        self._check()
        now = time.monotonic()
        if now - self._told_at < TELL_EVERY:
            return
        self._told_at = now
        self._show(self.view)
        progress = self.counts.done / max(1, self.ledger.plan.files)
        with contextlib.suppress(PlatformError):
            job = self.connection.client.update_job(self.view.job, progress=progress)
            if job.get("status") == "CANCELLED":
                raise RunCancelled(f"map {self.ledger.plan.map}: its job {self.view.job} was cancelled")

    def say_interrupted(self) -> None:
        """Tell the parent job, which stays open, that the map was left and how it is taken up."""
        with contextlib.suppress(LibsafeError), contextlib.closing(self.connection.within(5)) as own:
            text = f"interrupted; it goes on with: libsafe-nb map --resume {self.ledger.plan.map} --container {self.ledger.plan.container}"
            own.client.message(self.view.job, text, type="WARNING")
