"""
A workflow's own workers: the calls of one run, and what these call, are run by processes of this run or of a Dask cluster.

The platform's queue stays the one that schedules (`local/queue.py`): the run's job says `hosts: own`, and only workers that name
it are given what is called below it. A host has as many workers as it has places, and one more for each call that waits for
calls of its own; it asks the platform, which answers when one more is needed. A host that dies takes its workers with it, and
what they were at is given to others.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from concurrent.futures import BrokenExecutor, Future
from typing import TYPE_CHECKING, Any

from libsafe_nb import settings as settings_
from libsafe_nb.connection import connect
from libsafe_nb.errors import LibsafeError, NotFound, SettingsError, UsageError
from libsafe_nb.functions import Functions
from libsafe_nb.hiring import Hiring

if TYPE_CHECKING:
    from libsafe_nb.connection import Connection

WAIT = 0.5
"""Seconds of one question to the platform; how late a worker's death is noticed."""
AGAIN = 1.0
"""Seconds until a platform that is away, or a cluster without a free worker, is asked again."""
BUDGET = 10.0
"""Seconds of one such question with its repetitions."""
PATIENCE = 20.0
"""Seconds in which workers finish what they are at when the run has ended: calls that were cancelled, above all."""


class Hosts:
    """
    What runs the calls of one workflow, from `begin` to the end of the `with` block.

    Parameters
    ----------
    workers
        Calls that run at once in processes of this one; with `dask="local"` the workers of that cluster.
    dask
        Address of a Dask scheduler, or `local`.

    Raises
    ------
    UsageError
        A number below 1; no Dask, or nobody at its address.
    """

    def __init__(self, connection: Connection, workers: int | None, dask: str | None) -> None:
        if workers is not None and workers < 1:
            raise UsageError(f"--workers: expected a number from 1, got {workers}")
        self._connection, self._workers, self._dask = connection, workers, dask
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._own: Connection | None = None
        self._cluster: Any = None
        self._job = self._made = ""
        self._said: set[str] = set()
        # A cluster may have hosts of several workflows: this one's names begin so.
        self._group = uuid.uuid4().hex
        if dask is not None:
            from libsafe_nb.cluster import Cluster

            self._cluster = Cluster(dask, workers=workers, cancel=(dismiss, self._group), budget=BUDGET)

    @property
    def wanted(self) -> bool:
        """Whether the workflow has hosts of its own."""
        return self._workers is not None or self._dask is not None

    def begin(self, job: str) -> None:
        """
        Before the first call of this job's run.

        Raises
        ------
        Forbidden
            The run's key is not one with which calls can be claimed.
        """
        if not self.wanted:
            return
        self._job = job
        Functions(self._connection.client).host(job, f"{self._group}/", 1)
        told: Any = self._connection.client.call("job_update", job=job, json={"hosts": "own"})
        self._made = told["date_create"]
        self._own = self._connection.within(BUDGET)
        what = self._on_a_cluster if self._cluster is not None else self._here
        self._thread = threading.Thread(target=what, name="hosts", daemon=True)
        self._thread.start()

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(PATIENCE + BUDGET)
        if self._cluster is not None:
            self._cluster.shutdown()
        if self._own is not None:
            self._own.close()

    def _here(self) -> None:
        assert self._own is not None
        platform = self._own.platform_file
        name = f"{self._group}/"
        host = Host(self._own, self._job, name, self._workers or 1, platform, self._say)
        before = None
        while not self._ended.is_set():
            try:
                host.serve(self._ended, before=before)
                return
            except OSError as exc:
                # The disk is full, or no descriptor is left: the calls are this run's own, and nobody else runs them.
                self._say(f"nothing runs the calls: {exc}")
                before = name
                self._ended.wait(10 * AGAIN)

    def _on_a_cluster(self) -> None:
        """A host for each of the cluster's workers, started again when its worker was lost."""
        assert self._own is not None
        functions = Functions(self._own.client)
        platform = self._own.platform_file if self._dask == "local" else None
        lodged: dict[Future[Any], str] = {}
        while not self._ended.wait(AGAIN / 4):
            for future in [each for each in lodged if each.done()]:
                self._lost(functions, lodged.pop(future), future)
            try:
                while len(lodged) < self._cluster.most() and not self._ended.is_set():
                    name = f"{self._group}-{uuid.uuid4().hex[:8]}"
                    lodged[self._cluster.submit(lodge, self._job, self._made, name, platform)] = name
            except LibsafeError as exc:
                # It is waited for as long as the run is.
                self._say(f"nothing runs the calls: {exc}")
        # They see by the job that it is over.
        deadline = time.monotonic() + PATIENCE
        while lodged and time.monotonic() < deadline:
            lodged = {future: name for future, name in lodged.items() if not future.done()}
            time.sleep(0.05)
        self._cluster.interrupt()

    def _lost(self, functions: Functions, name: str, future: Future[Any]) -> None:
        exc = future.exception()
        if exc is not None and not isinstance(exc, BrokenExecutor):
            # It says why nothing can be run there; another try may be elsewhere.
            self._say(f"a worker of the cluster cannot run calls: {exc}")
            self._ended.wait(AGAIN)
        with contextlib.suppress(LibsafeError):
            functions.host(self._job, f"{name}.", 1, died=[f"{name}."])

    def _say(self, trouble: str | None) -> None:
        """Once each: who is in trouble is asked again for as long as the run lasts."""
        if trouble is not None and trouble not in self._said and self._own is not None:
            self._said.add(trouble)
            with contextlib.suppress(LibsafeError):
                self._own.client.message(self._job, trouble, type="WARNING")


class Host:
    """
    The workers of one workflow in one place.

    Parameters
    ----------
    name
        Ends in a slash; what the names of its workers begin with.
    slots
        How many calls run at once, those left out that wait for calls of their own.
    platform
        Path of the `platform.json` that its workers use; by default the settings of their environment count.
    """

    def __init__(
        self, connection: Connection, job: str, name: str, slots: int, platform: str | None, say: Any
    ) -> None:
        self._functions = Functions(connection.client)
        self._job, self._name, self._slots = job, name, slots
        self._home = connection.settings.home
        words = ["--job", job, "--host", name, "--slots", str(slots), "--home", str(self._home)]
        self._words = [*words, *(["--platform", platform] if platform else [])]
        self._say = say
        self._dead: list[str] = []

    def serve(self, ended: threading.Event, *, before: str | None = None) -> None:
        """
        Have workers while there is work, until the workflow is over or `ended` is set; returns when they have ended.

        `before` is what the names of an earlier host in this place begin with, whose workers are dead.
        """
        self._dead += [before] if before else []
        folder = self._home / "log"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = folder / "workers.log"
        with place.open("ab") as log:
            hiring = Hiring(
                self._words,
                folder=self._home,
                environment=os.environ,
                log=log,
                place=place,
                trouble=self._say,
                died=lambda pid: self._dead.append(f"{self._name}{pid}/"),
            )
            try:
                hiring.prepare()
                while not ended.is_set():
                    hiring.reap()
                    if not self._look(hiring, ended):
                        break
            finally:
                hiring.stop(PATIENCE)

    def _look(self, hiring: Hiring, ended: threading.Event) -> bool:
        """Whether the workflow goes on."""
        dead, self._dead = self._dead, []
        # Until the next may be started, who asks for one would be answered at once.
        alive = len(hiring) if hiring.ready else MANY
        try:
            told = self._functions.host(
                self._job, self._name, self._slots, alive=alive, died=dead, wait=WAIT if hiring.ready else 0
            )
        except LibsafeError:
            self._dead = [*dead, *self._dead]
            ended.wait(AGAIN)
            return True
        if told["hire"]:
            hiring.hire()
        elif not hiring.ready:
            ended.wait(0.05)
        return bool(told["open"])


MANY = 1_000_000
"""As many workers as no host has: nothing is to be hired."""

_LODGED: dict[threading.Event, str] = {}
"""The hosts of this process, with their names."""


def lodge(job: str, made: str, name: str, platform: str | None) -> None:
    """
    Be a host of a workflow, in a process of a cluster, until the workflow is over.

    Where the platform is, and with which keys, this process's own settings say, or those of `platform`. The cluster may start
    it again elsewhere when this process is lost, under the same name.

    Parameters
    ----------
    made
        When the job was created, as its platform says: there may be a job of the same number on another one.

    Raises
    ------
    SettingsError
        This process knows no platform, or not the run's.
    Forbidden
        Its key is not one with which calls can be claimed.
    """
    settings = settings_.of_worker(platform)
    ended = threading.Event()
    _LODGED[ended] = name
    try:
        with contextlib.closing(connect(settings=settings)) as first:
            connection = first.within(BUDGET)
            with contextlib.closing(connection):
                _see_job(connection, job, made)
                Functions(connection.client).host(job, f"{name}/", 1)

                def say(trouble: str | None) -> None:
                    if trouble is not None:
                        with contextlib.suppress(LibsafeError):
                            connection.client.message(job, trouble, type="WARNING")

                own = f"{name}.{uuid.uuid4().hex[:8]}/"
                Host(connection, job, own, 1, platform, say).serve(ended, before=f"{name}.")
    finally:
        del _LODGED[ended]


def _see_job(connection: Connection, job: str, made: str) -> None:
    with contextlib.suppress(NotFound):
        if connection.client.job(job)["date_create"] == made:
            return
    raise SettingsError(
        f"{connection.settings.url}: expected the platform of the run, with its job {job}, found another one; {settings_.WORKERS_NEED}"
    )


def dismiss(group: str) -> None:
    """End the hosts of this process whose names begin so; returns at once."""
    for ended, name in list(_LODGED.items()):
        if name.startswith(group):
            ended.set()
