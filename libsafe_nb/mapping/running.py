"""A map from its options to its end: where it runs, what interrupts it, and how it is taken up again."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from libsafe_nb import underway
from libsafe_nb.connection import Connection, connect
from libsafe_nb.crew import Crew, default_size
from libsafe_nb.errors import RunCancelled, UsageError
from libsafe_nb.interrupts import Interrupts
from libsafe_nb.mapping.choosing import Chosen
from libsafe_nb.mapping.course import Course, View, resume, settle, unfinished
from libsafe_nb.mapping.ledger import Ledger
from libsafe_nb.settings import Settings

IN_FLIGHT = 2
"""Units that are submitted for each worker: one that it is at, and one that it begins without waiting."""


def default_workers() -> int:
    """Half as many again as cores: of a small run's time a third and more is waiting for a storage or a kernel."""
    cores = default_size()
    return cores + (cores + 1) // 2


class Hands(Protocol):
    """An executor of ours."""

    def most(self) -> int:
        """How many workers it has now."""

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """End what runs; with SIGKILL at once."""


def run(
    notebook: str | Path | None,
    *,
    container: str,
    each: int = 100,
    workers: int | None = None,
    dask: str | None = None,
    resumed: str | None = None,
    params: Mapping[str, Any] | None = None,
    chosen: Chosen | None = None,
    retries: int = 2,
    timeout: float | None = None,
    settings: Settings | None = None,
    show: Callable[[View], None] = lambda view: None,
    hint: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """
    Run one function over many files of a container, in batches, and record the result of each file once.

    Parameters
    ----------
    notebook
        A local path or `libsafe://CONTAINER/path.ipynb`; None only with `resumed`.
    each
        Files of a batch, which is one run.
    workers
        Processes on this machine, `default_workers()` by default; with `dask="local"` those of its cluster, one a core.
    dask
        Address of a Dask scheduler (`tcp://…`), or `local`.
    resumed
        The name of a map that is to be taken up; empty for the last one of this notebook that is not finished.
    settings
        By default the configured platform. Workers find it by their own settings, or by the `platform.json` that these
        were read from; keys are not sent to them.
    show
        Called with how the map stands, whenever that changes.
    hint
        Called with a sentence for the user.

    Returns
    -------
    dict
        What `map --json` prints.

    Raises
    ------
    UsageError
        Nothing was started: the notebook, its parameters, the container or a name is wrong.
    RunCancelled
        Interrupted; the map can be resumed, and its parent job stays open.
    LibsafeError
        The platform or the workers are away; the map can be resumed.
    """
    begun = time.monotonic()
    with Interrupts() as interrupts, contextlib.closing(connect(settings=settings)) as connection:
        if resumed is None:
            if notebook is None:
                raise UsageError("expected a NOTEBOOK, got none")
            _tell_unfinished(connection, container, notebook, hint)
            ledger = settle(
                connection,
                notebook,
                container=container,
                params=params or {},
                each=each,
                chosen=chosen or Chosen(),
                retries=retries,
                timeout=timeout,
            )
        else:
            ledger = resume(connection, container, _chosen_map(connection, container, notebook, resumed))
        platform = connection.platform_file if dask in (None, "local") else None
        with _hands(dask, workers, ledger, interrupts.check) as hands:
            course = Course(
                connection,
                ledger,
                hands,
                most=lambda: IN_FLIGHT * hands.most(),
                platform=platform,
                fresh=resumed is None,
                show=show,
                check=interrupts.check,
            )
            show(course.view)
            # Whatever it comes upon, be it a library's own call, might take the exception for one of its own.
            interrupts.hold()
            try:
                told = course.travel()
            except RunCancelled as exc:
                _interrupt(hands)
                course.say_interrupted()
                raise RunCancelled(
                    f"map {ledger.plan.map}: interrupted; libsafe-nb map --resume {ledger.plan.map}"
                    f" --container {container} goes on with it",
                    exit_code=exc.exit_code,
                ) from exc
            except BaseException:
                hands.interrupt()
                raise
        return _result(told, course, time.monotonic() - begun)


def _tell_unfinished(
    connection: Connection, container: str, notebook: str | Path, hint: Callable[[str], None]
) -> None:
    found = next(unfinished(connection, container, notebook), None)
    if found is not None:
        hint(
            f"map {found} of this notebook is not finished; --resume goes on with it. This is a new one,"
            " over all files"
        )


def _chosen_map(connection: Connection, container: str, notebook: str | Path | None, name: str) -> str:
    if name:
        return name
    found = next(unfinished(connection, container, notebook), None)
    if found is None:
        of = "" if notebook is None else f" of {notebook} as it is now"
        raise UsageError(f"container {container}: expected a map{of} that is not finished, found none")
    return found


@contextlib.contextmanager
def _hands(dask: str | None, workers: int | None, ledger: Ledger, check: Callable[[], None]) -> Iterator[Any]:
    if dask is None:
        crew = Crew(workers or default_workers())
        try:
            yield crew
        finally:
            crew.shutdown(wait=True, cancel_futures=True)
        return
    from libsafe_nb.cluster import Cluster

    cluster = Cluster(dask, workers=workers, cancel=(underway.cancel, ledger.plan.map), check=check)
    try:
        yield cluster
    finally:
        cluster.shutdown(wait=True, cancel_futures=True)


def _interrupt(hands: Hands) -> None:
    """Have what runs cancelled, and wait for its evidence; at the second signal it is killed, and left to a recovery."""
    try:
        hands.interrupt()
        hands.shutdown(wait=True, cancel_futures=True)  # type: ignore[attr-defined]
    except RunCancelled:
        hands.interrupt(signal.SIGKILL)


def _result(told: dict[str, Any], course: Course, seconds: float) -> dict[str, Any]:
    plan = course.ledger.plan
    status = status_of(course.counts.files)
    return {
        "map": plan.map,
        "job": course.view.job,
        "container": plan.container,
        "status": status,
        "outcome": "COMPLETED" if status == "completed" else "FAILED",
        "files": told["files"],
        "batches": plan.batches,
        "runs": course.counts.runs,
        "failed_csv": told["failed_csv"],
        "seconds": round(seconds, 3),
    }


def status_of(files: Mapping[str, int]) -> str:
    """That of the whole: the worst of its files, what could not be executed before what ran out of time or failed."""
    return next((each for each in ("errored", "timeout", "failed") if files.get(each)), "completed")
