"""`%libsafe files` and `%libsafe job`: what the platform knows, as a table."""

from __future__ import annotations

import contextlib
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from libsafe_nb.connection import connect
from libsafe_nb.errors import UsageError
from libsafe_nb.interactive import place, views
from libsafe_nb.interactive.payload import current_job
from libsafe_nb.plan import DEFAULT_CONTAINER

MOST = 1000
"""Rows of a table: a saved notebook should not hold the list of a million files."""

EVIDENCE = "/provenance/"

last_run: str | None = None
"""The job of the last `%libsafe run`."""


def files(pattern: str | None, *, container: str | None) -> None:
    """
    Raises
    ------
    PlatformError
        No such container, or the platform is away.
    """
    from IPython.display import display

    where = container or place.container() or DEFAULT_CONTAINER
    with contextlib.closing(connect()) as connection:
        fitting = (each for each in connection.client.files(where) if _fits(each, pattern))
        found = list(islice(fitting, MOST + 1))
    display(views.Files(where, pattern, found[:MOST], more=len(found) > MOST))


def _fits(row: Any, pattern: str | None) -> bool:
    path = row["fullpath"]
    if row.get("type") == "FOLDER":
        return False
    if pattern is None:
        return not path.startswith(EVIDENCE)
    if "/" in pattern:
        return fnmatchcase(path, f"/{pattern.lstrip('/')}")
    return fnmatchcase(path.rpartition("/")[2], pattern) and not path.startswith(EVIDENCE)


def job(id: str | None) -> None:
    """
    Raises
    ------
    UsageError
        No job is named, and this session has none.
    """
    from IPython.display import display

    wanted = id or current_job() or last_run
    if wanted is None:
        raise UsageError(
            "this session has no job yet: libsafe_nb.payload() and %libsafe run make one; name another: %libsafe job ID"
        )
    if not (wanted.isascii() and wanted.isdigit()):
        raise UsageError(f"job: expected a number, got {wanted[:40]!r}")
    with contextlib.closing(connect()) as connection:
        found = connection.client.job(wanted)
        told = list(islice(connection.client.messages(wanted), MOST))
    display(views.Job(found, told))
