"""
The lease of a run: how long others must wait before they may say that its machine is lost.

`provenance/started/{run}.json` says for how many seconds from its storing the run may be silent. A run that goes on
renews it with `provenance/started/{run}.{n}.json`, each for twice as long as the one before: nothing under
`provenance/` is ever overwritten, and a run of a day leaves eight such objects. Who waits for a lost run waits about as
long again as it had run.

The age of a lease is read from the storage's own clock, so that no machine's matters.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from libsafe_nb import evidence, record
from libsafe_nb.connection import KNOCK, Connection
from libsafe_nb.errors import LibsafeError
from libsafe_nb.facts import Facts
from libsafe_nb.storage import Storage

FIRST = 600
"""Seconds of the first lease."""

AWAKE_EVERY = 60.0
"""Seconds between signs of life to a local platform, which ends when it has been idle for ten minutes."""

FOLDER = "provenance/started"


def path(run: str, number: int = 0) -> str:
    return f"{FOLDER}/{run}.{number}.json" if number else f"{FOLDER}/{run}.json"


def seconds(number: int) -> int:
    return FIRST << number


def begin(storage: Storage, facts: Facts, job: str, pid: int) -> None:
    """
    The start record of a run, put once: told again with the same `pid`, the runner's, it is the same.

    Raises
    ------
    PreconditionFailed
        Another one is stored there.
    """
    function = facts.record["function"]
    body = {
        "schema": "libsafe-nb-started/1",
        "run": facts.run,
        "job": job,
        "container": facts.container,
        "function": {name: function[name] for name in ("key", "name", "notebook_sha256")},
        "started": facts.started,
        "host": facts.host,
        "pid": pid,
        "lease_seconds": FIRST,
    }
    evidence.put_once(storage, facts.container, path(facts.run), record.canonical(body))


@contextlib.contextmanager
def kept(connection: Connection, container: str, run: str) -> Iterator[None]:
    """Renew the lease, and keep the local platform from ending, during a long cell that asks nothing of it."""
    ended = threading.Event()

    def keep() -> None:
        number, since = 0, time.monotonic()
        while not ended.wait(AWAKE_EVERY):
            with contextlib.suppress(LibsafeError), contextlib.closing(connection.within(KNOCK)) as own:
                # Not `health`: anybody may ask that, so the platform does not take it for work.
                own.client.me()
            if time.monotonic() - since < seconds(number) / 2:
                continue
            with contextlib.suppress(LibsafeError):
                renew(connection, container, run, number + 1)
                number, since = number + 1, time.monotonic()

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # A renewal that waits for a storage that is away keeps nobody waiting.
        thread.join(5)


def renew(connection: Connection, container: str, run: str, number: int) -> None:
    body = {"schema": "libsafe-nb-lease/1", "run": run, "lease_seconds": seconds(number)}
    evidence.put_once(connection.storage, container, path(run, number), record.canonical(body))


def over(connection: Connection, container: str, run: str, started: dict[str, Any]) -> bool:
    """
    Whether nothing was heard of a run since its lease ended; `started` is its start record.

    A start record without a lease is of an older version, and its lease never ends.
    """
    lease, number = started.get("lease_seconds"), 0
    if not isinstance(lease, int):
        return False
    while connection.storage.exists(container, path(run, number + 1)):
        number += 1
        lease = seconds(number)
    return connection.storage.age(container, path(run, number)) > lease
