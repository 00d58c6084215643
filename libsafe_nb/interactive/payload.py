"""
The payload of an interactive session: a job of its own, and keys that are used but not shown.

The job is made QUEUED and is the author's to begin and to end, with `job_init` and `job_end`. One that has not ended
when the kernel ends is closed as CANCELLED: nobody is left who could end it, and RUNNING would be untrue.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libsafe_nb.compat import session
from libsafe_nb.compat.outbox import ENDED
from libsafe_nb.connection import KNOCK, Connection, connect
from libsafe_nb.door import VARIABLE
from libsafe_nb.errors import LibsafeError, NotFound, UsageError
from libsafe_nb.interactive import place
from libsafe_nb.lease import AWAKE_EVERY
from libsafe_nb.patience import BUDGET
from libsafe_nb.payloads import Payload
from libsafe_nb.plan import DEFAULT_CONTAINER, check_target, find_files
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.secrets import Secret
from libsafe_nb.settings import LAB_CONTAINER, Settings

LAST_WORDS = 2.0
"""Seconds for each call at the kernel's end: Jupyter kills a kernel that takes five."""


class Key(str):
    """A key: the text itself to all that uses it, and hidden where a cell shows what it holds."""

    __slots__ = ()

    def __repr__(self) -> str:
        # A template for `check` and the Lab, which refuse to save what looks like a key.
        return "<a key, not shown>"


def payload(
    *,
    container: str | None = None,
    files: Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """
    The payload of this interactive session, as the vendor's page writes it: no keys need be pasted.

    The platform is found as `libsafe_nb.run` finds it. The job is made at the first call, and is the same for each
    further call for that container until it has ended; if it has not when the kernel ends, it is closed as CANCELLED.
    Keys in the result are hidden where it is shown or printed, and given where it is used, `json.dumps` included.

    Inside a run it is the run's own payload, whatever is asked for here. A cell that is executed before the payload is
    injected, such as the parameters cell, gets an empty dictionary that is filled in the next moment.

    Parameters
    ----------
    container
        By default that of `LIBSAFE_NB_CONTAINER`, which `libsafe-nb lab` sets; else the local platform's default
        container.
    files
        Ids or paths (with a leading slash) of files in the container.
    params
        The `function_params`.

    Raises
    ------
    UsageError
        No such container or file; a platform is configured and no container is named; or this is a process that a
        cell of a run has started.
    SettingsError, PlatformError, LocalPlatformError
        As `libsafe_nb.run`.
    """
    if os.environ.get(VARIABLE):
        return _of_the_run()
    names = [files] if isinstance(files, str) else [str(each) for each in files or ()]
    with contextlib.closing(connect()) as connection:
        where = _container(connection, container)
        check_target(connection, where, "")
        made = Payload.manual(container=where, params=params)
        found = find_files(connection, made, names, [])
        made = made.replace(
            api=_api(connection.settings),
            job=_job(connection, where).id,
            file_ids=[each["id"] for each in found],
            file_paths=[each["fullpath"] for each in found],
        )
    told = made.to_dict()
    told["api"] = {name: value if name == "url" else Key(value) for name, value in told["api"].items()}
    return told


def _of_the_run() -> dict[str, Any]:
    from IPython.core.getipython import get_ipython

    found = session.injected()
    if not found and get_ipython() is None:
        raise UsageError(
            "a process that a cell has started is given no payload; hand it over what it needs of the cell's own"
        )
    return found


def current_job() -> str | None:
    """The id of the job that this session asked for last; None before it asked for any."""
    return _asked[-1].id if _asked else None


def for_call(container: str | None) -> tuple[Connection, str, SecretSet]:
    """
    Who asks for a call from this session, as the job that it asked for last if it did; in which container; and the keys.

    Raises
    ------
    UsageError
        A platform is configured and no container is named.
    SettingsError, PlatformError, LocalPlatformError
        As `libsafe_nb.run`.
    """
    with contextlib.closing(connect()) as connection:
        mine = _asked[-1] if _asked and _asked[-1].settings.url == connection.settings.url else None
        where = _container(connection, container or (mine.container if mine else None))
        secrets = SecretSet(Secret(name, value) for name, value in connection.secrets().items())
        return connection.within(BUDGET, job=mine.id if mine else None), where, secrets


def _container(connection: Connection, given: str | None) -> str:
    found = given or place.container()
    if found is None and connection.settings.source in ("environment", "config.toml"):
        raise UsageError(
            f"{connection.settings.url}: expected the container to work in, got none; name it, as in "
            f"libsafe_nb.payload(container='12'), or set {LAB_CONTAINER}"
        )
    return str(found or DEFAULT_CONTAINER)


def _api(settings: Settings) -> dict[str, str]:
    return {
        "url": settings.url or "",
        "key_user": settings.key_user or "",
        "key_root": settings.key_root or "",
    }


# The job --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """A job of this session."""

    id: str
    container: str
    settings: Settings
    process: int

    def is_open(self, connection: Connection) -> bool:
        try:
            return connection.client.job(self.id)["status"] not in ENDED
        except NotFound:
            return False

    def close(self) -> None:
        """Say that it was left open; whoever ended it meanwhile was right."""
        # Imported here: it must not wait for requests when nothing was asked for.
        from libsafe_nb.client import Client

        with Client.of(self.settings, budget=LAST_WORDS) as client:
            if client.job(self.id)["status"] not in ENDED:
                text = "the interactive session ended before its function had ended this job"
                client.message(self.id, text, type="WARNING")
                client.update_job(self.id, status="CANCELLED")


_asked: list[_Job] = []
"""The session's jobs, that of the last question last."""

_asking = threading.Lock()


def _job(connection: Connection, container: str) -> _Job:
    """The session's job in a container: the one that is still open, else a new one."""
    with _asking:
        for each in _asked:
            mine = (each.settings.url, each.container, each.process)
            if mine == (connection.settings.url, container, os.getpid()) and each.is_open(connection):
                _asked.remove(each)
                _asked.append(each)
                return each
        made = connection.client.create_job(container, name=place.title())
        job = _Job(made["id"], container, connection.settings, os.getpid())
        if not _asked:
            atexit.register(_leave)
        _asked.append(job)
    if connection.platform_file is not None:
        threading.Thread(target=_keep_awake, args=(job,), name=f"job-{job.id}", daemon=True).start()
    return job


def _leave() -> None:
    """At the end of the process: jobs that are still open are closed. Not those of the process it was forked from."""
    for each in _asked:
        if each.process == os.getpid():
            with contextlib.suppress(LibsafeError, OSError):
                each.close()


def _keep_awake(job: _Job) -> None:
    """A local platform ends when nobody asked it anything for ten minutes; while the job is open somebody thinks."""
    from libsafe_nb.client import Client

    ended = threading.Event()
    while not ended.wait(AWAKE_EVERY):
        with contextlib.suppress(LibsafeError), Client.of(job.settings, budget=KNOCK) as client:
            if client.job(job.id)["status"] in ENDED:
                ended.set()
