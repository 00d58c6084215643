"""
A Dask cluster as an executor (extra `dask`): its scheduler is told names only, and may forget all of them.

When the scheduler goes, what was submitted fails with `BrokenExecutor`, and the next `submit` waits until it, or another at
the same address, is there again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from typing import Any

from libsafe_nb.errors import ExecutionError, UsageError
from libsafe_nb.patience import Patience

REMEDY = "pip install 'libsafe-nb[dask]'"
CONNECTS = 10.0
"""Seconds of one try to reach the scheduler."""
BUDGET = 600.0
"""Seconds in which a scheduler that went away is waited for."""
LONGEST = 15.0
"""Seconds between two tries at most."""
SLICE = 0.2
_SET_BY_DASK = frozenset(
    {
        "MALLOC_TRIM_THRESHOLD_",
        "MKL_NUM_THREADS",
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "PYTHONHASHSEED",
        "__DASK_PARENT_PID",
    }
)


class Cluster(Executor):
    """
    The workers of one Dask cluster.

    Parameters
    ----------
    address
        Of the scheduler, such as `tcp://head:8786`; `local` starts a cluster on this machine, that ends with this.
    workers
        Processes of the local one, each with one thread; one a core by default.
    cancel
        A function and its argument, called in each worker by `interrupt`.
    budget
        Seconds in which `submit` waits for a scheduler that went away.
    check
        Called again and again meanwhile; what it raises ends the waiting.

    Raises
    ------
    UsageError
        Dask is not installed, or there is nobody at the address.
    """

    def __init__(
        self,
        address: str,
        *,
        workers: int | None = None,
        cancel: tuple[Callable[[str], None], str],
        budget: float = BUDGET,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        try:
            # Imported here: a second, for those who use it.
            import distributed
        except ImportError as exc:
            raise UsageError(f"--dask: Dask is not installed; {REMEDY}") from exc
        self._distributed = distributed
        self._cancel, self._budget, self._check = cancel, budget, check
        self._own: Any = None
        self._environment = dict(os.environ)
        if address == "local":
            self._own = distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                # Without a dashboard it would still be the known port, which another cluster may have.
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                silence_logs=50,
            )
            self._restore_environment()
            address = self._own.scheduler_address
        self.address = address
        self._client: Any = None
        try:
            self._connect(CONNECTS)
        except (OSError, ValueError) as exc:
            self.shutdown()
            raise UsageError(
                f"--dask {address}: expected a Dask scheduler there, found none ({_said(exc)})"
            ) from exc

    def _connect(self, seconds: float) -> None:
        self._client = self._distributed.Client(self.address, timeout=seconds, set_as_default=False)

    def _connected(self) -> Any:
        """The client, once the scheduler is there."""
        patience = Patience(self._budget)
        while self._client is None or self._client.status != "running":
            patience.tries += 1
            if self._client is None or self._client.status == "closed":
                self._drop()
                # Nobody there, or nobody yet.
                with contextlib.suppress(OSError):
                    self._connect(CONNECTS)
                    continue
            pause = patience.pause(most=LONGEST)
            if pause is None:
                raise ExecutionError(
                    f"{self.address}: expected the Dask scheduler back, found none within {patience.spent()}"
                )
            self._wait(pause)
        return self._client

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._check()
            time.sleep(min(left, SLICE))

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close(timeout=1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        outer: Future[Any] = Future()
        outer.set_running_or_notify_cancel()
        # A key of its own: the same unit may be submitted again.
        key = f"{getattr(fn, '__name__', 'task')}-{uuid.uuid4().hex}"
        try:
            inner = self._connected().submit(fn, *args, key=key, pure=False, **kwargs)
        except ExecutionError:
            raise
        except Exception as exc:
            # It went away at this moment.
            outer.set_exception(BrokenExecutor(f"the Dask scheduler is away: {_said(exc)}"))
            return outer
        inner.add_done_callback(partial(_ended, outer))
        return outer

    def most(self) -> int:
        """How many tasks the workers that are there now do at once."""
        with contextlib.suppress(Exception):
            if self._client is not None and self._client.status == "running":
                return sum(self._client.nthreads().values())
        return 1

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Have each worker end what it runs; with SIGKILL it is left to go on."""
        if number == signal.SIGKILL or self._client is None:
            return
        call, argument = self._cancel
        with contextlib.suppress(Exception):
            self._client.run(call, argument, on_error="ignore")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._drop()
        own, self._own = self._own, None
        if own is not None:
            own.close()
            self._restore_environment()

    def _restore_environment(self) -> None:
        """Dask sets variables in this process for those that it starts, also for each that it starts again."""
        for name in _SET_BY_DASK & os.environ.keys():
            if name in self._environment:
                os.environ[name] = self._environment[name]
            else:
                del os.environ[name]


def _ended(outer: Future[Any], inner: Any) -> None:
    """What became of a task, as the standard library tells it."""
    try:
        outer.set_result(inner.result())
    except Exception as exc:
        if type(exc).__module__.startswith(("distributed", "asyncio", "concurrent", "tornado")) or isinstance(
            exc, OSError
        ):
            outer.set_exception(BrokenExecutor(_said(exc)))
        else:
            outer.set_exception(exc)
    except BaseException as exc:
        # Cancelled, as the scheduler that knew of it is gone.
        outer.set_exception(BrokenExecutor(_said(exc)))


def _said(exc: BaseException) -> str:
    return (str(exc).splitlines() or [""])[0][:200] or type(exc).__name__
