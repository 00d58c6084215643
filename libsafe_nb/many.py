"""`libsafe_nb.run_many`: one notebook for many payloads, on any executor of the standard library's kind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import lru_cache
from pathlib import Path
from typing import Any

from libsafe_nb import declared, plan, underway
from libsafe_nb import settings as settings_
from libsafe_nb.connection import connect
from libsafe_nb.crew import Crew, default_size
from libsafe_nb.errors import ExecutionError, LibsafeError, UsageError
from libsafe_nb.inflight import flow
from libsafe_nb.models import Run
from libsafe_nb.notebook import FunctionNotebook
from libsafe_nb.payloads import Payload
from libsafe_nb.secrets import SAMPLE_KEY

Given = Payload | str | bytes | Mapping[str, Any]


def run_many(
    payloads: Iterable[Given],
    notebook: str | Path,
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    in_flight: int | None = None,
    timeout: float | None = None,
    on_result: Callable[[Run], None] | None = None,
) -> Iterator[Run]:
    """
    Run one function notebook for each payload; yields the runs in the order in which they end.

    Each is a run as by `libsafe_nb.run`, with its job and evidence. One that fails stops no other: what could not even begin
    (a bad payload, a platform that is away, a worker that died) comes as a run with status `errored`, its error and its exit
    code. Nothing starts before the first one is asked for. Leave the iteration, or interrupt it, and what runs is cancelled.

    Parameters
    ----------
    payloads
        Taken one by one as there is room, so a generator of a million will do. Keys do not go to the workers, which find
        the platform by their own settings; those in a payload must be of that same platform.
    notebook
        A local path, which is read once, here; or `libsafe://CONTAINER/path.ipynb`.
    executor
        Any `concurrent.futures.Executor`; it is left open, and what runs in it cannot be cancelled from here. By default
        processes of our own, which keep what a run needs for the next one. (They are spawned: a program's top level then
        wants `if __name__ == "__main__":`.)
    workers
        How many of our own processes; one a core by default.
    in_flight
        How many payloads are with the executor at most; by default twice the workers, or 2 of an executor of yours for each
        of its `_max_workers`, where it tells them.
    timeout
        Seconds that each run may take.
    on_result
        Called with each run before it is yielded.

    Yields
    ------
    Run
        `Run.number` is the payload's place, from 0.

    Raises
    ------
    UsageError
        The notebook cannot be read. What is wrong with one payload is told in its run.
    """
    name = str(notebook)
    source = _read(name)
    function = plan.parse(source, name)
    own = Crew(workers or default_size()) if executor is None else None
    hands = own or executor
    assert hands is not None
    size = own.size if own else int(getattr(executor, "_max_workers", 0) or default_size())
    orders = enumerate(payloads)
    under_way: set[Future[Any]] = set()

    def submit(order: tuple[int, Given]) -> Future[Any]:
        try:
            future = hands.submit(one, source, name, _without_keys(order[1], function), timeout)
        except LibsafeError as exc:
            future = Future()
            future.set_result(_not_begun(exc))
        under_way.add(future)
        return future

    try:
        for order, future in flow(submit, lambda: next(orders, None), most=lambda: in_flight or 2 * size):
            under_way.discard(future)
            run = _outcome(future)
            run.number = order[0]
            if on_result is not None:
                on_result(run)
            yield run
    except BaseException:
        for future in under_way:
            future.cancel()
        if own is not None:
            own.interrupt()
        raise
    finally:
        if own is not None:
            own.shutdown(wait=True, cancel_futures=True)


def _read(name: str) -> bytes:
    if not plan.is_remote(name):
        return plan.read_bytes(Path(name))
    with contextlib.closing(connect()) as connection:
        return plan.read_remote(connection, name)


def one(source: bytes, name: str, payload: Mapping[str, Any], timeout: float | None) -> Run:
    """A worker's side: one payload, whose run is returned whatever becomes of it."""
    try:
        return underway.carry("run_many", payload, _parsed(source, name), timeout=timeout)
    except LibsafeError as exc:
        return _not_begun(exc)


_parsed = lru_cache(maxsize=2)(plan.parse)
"""Read once in a process, for all its runs."""


def _outcome(future: Future[Any]) -> Run:
    try:
        found = future.result()
    except BrokenExecutor as exc:
        return _not_begun(ExecutionError(f"its worker ended before it could tell how the run went ({exc})"))
    assert isinstance(found, Run)
    return found


def _not_begun(exc: LibsafeError) -> Run:
    error = {"type": type(exc).__name__, "message": str(exc), "cell_id": None}
    return Run("", "", "", status="errored", error=error, exit_code=exc.exit_code)


def _without_keys(given: Given, function: FunctionNotebook) -> dict[str, Any]:
    """
    What may be pickled: no key of the platform, and no secret.

    Raises
    ------
    UsageError
        It is no payload, or has a key of another platform, or a secret parameter's value, which comes from where the
        worker's machine keeps it.
    """
    payload = given if isinstance(given, Payload) else Payload.parse(given)
    key = payload.api.get("key_user")
    if isinstance(key, str) and key not in ("", SAMPLE_KEY):
        found = settings_.known()
        if found is None or (found.url, found.key_user) != (_url(payload), key):
            raise UsageError(
                "api: the payload brings a key of its own, which is not sent to workers; set LIBSAFE_URL and LIBSAFE_KEY_USER"
                " for them in its place"
            )
    plainly = [name for name, value in payload.params.items() if isinstance(value, str) and value]
    declared.refuse_secrets(function.name, function.parameters, plainly)
    return payload.replace(api={}).to_dict()


def _url(payload: Payload) -> str | None:
    url = payload.api.get("url")
    return settings_.normalise_url(url) if isinstance(url, str) and url else None
