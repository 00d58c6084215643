"""What `serve` counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager


class Meters:
    """
    Parameters
    ----------
    admitted
        Asked for the number of calls that run or wait, whenever somebody looks.
    """

    def __init__(self, admitted: Callable[[], int]) -> None:
        # An extra.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry: CollectorRegistry = CollectorRegistry()
        self._calls = Counter(
            "libsafe_nb_calls",
            "Calls by function and HTTP status.",
            ["function", "code"],
            registry=self._registry,
        )
        self._took = Histogram(
            "libsafe_nb_run_seconds",
            "Length of runs by function and outcome.",
            ["function", "status"],
            buckets=(1, 2, 5, 10, 30, 60, 300, 1800, 7200),
            registry=self._registry,
        )
        self._running = Gauge("libsafe_nb_running", "Calls that run.", registry=self._registry)
        held = Gauge("libsafe_nb_admitted", "Calls that run or wait for a place.", registry=self._registry)
        held.set_function(admitted)

    def called(self, function: str, status: int) -> None:
        """`function` is the name of one that is served, else empty: callers make no labels."""
        self._calls.labels(function, status).inc()

    def took(self, function: str, status: str, seconds: float) -> None:
        self._took.labels(function, status).observe(seconds)

    def running(self) -> AbstractContextManager[None]:
        return self._running.track_inprogress()

    def text(self) -> tuple[bytes, str]:
        """All of it, and its content type."""
        from prometheus_client import generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST

        return generate_latest(self._registry), CONTENT_TYPE_LATEST
