"""The end of a map: the files that did not complete, in a table; the parent job, told and closed."""

from __future__ import annotations

import contextlib
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from libsafe_nb.connection import Connection
from libsafe_nb.errors import Conflict, PlatformError, PreconditionFailed
from libsafe_nb.mapping.counts import Counts
from libsafe_nb.mapping.ledger import Ledger, Result
from libsafe_nb.models import describe

TABLE = "failed.csv"
COLUMNS = ("file_id", "path", "status", "error", "job", "evidence")
LONGEST = 1000
"""Characters of an error in the table."""


def close(connection: Connection, ledger: Ledger, job: str, counts: Counts) -> dict[str, Any]:
    """Store the table if it has rows, close the parent job and leave the counts; each step may be repeated."""
    shelf, plan = ledger.shelf, ledger.plan
    table = None
    if counts.not_completed:
        _store(connection, ledger)
        table = shelf.address(TABLE)
    told = {
        "map": plan.map,
        "files": {"total": plan.files, **counts.files},
        "batches": plan.batches,
        "failed_csv": table,
    }
    text = f"{counts.files.get('completed', 0)} of {plan.files} files completed, in {plan.batches} batches"
    if table is not None:
        text += f"; the others are in {table}"
    connection.client.message(
        job, text, type="ERROR" if table else "INFO", idempotency_key=f"{plan.map}-message-end"
    )
    status = "FAILED" if table else "COMPLETED"
    with contextlib.suppress(Conflict):
        # Somebody has ended it otherwise; what there is to be told is in the container.
        connection.client.update_job(
            job, status=status, progress=1.0, result=told, idempotency_key=f"{plan.map}-end"
        )
    shelf.leave("finished.json", told)
    return told


def _store(connection: Connection, ledger: Ledger) -> None:
    """The table, by way of a file, as it may be long."""
    shelf = ledger.shelf
    with tempfile.TemporaryDirectory(prefix="libsafe-map-") as folder:
        path = Path(folder) / TABLE
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for result in failures(ledger):
                for each in result.unit.files:
                    error = describe(result.error)[:LONGEST]
                    place = _path(connection, each)
                    row = (each, place, result.status, error, result.job or "", result.evidence or "")
                    rows.writerow([_plain(value) for value in row])
        # One that another coordinator stored tells of the same results.
        with contextlib.suppress(PreconditionFailed):
            connection.storage.upload(
                shelf.container, shelf.path(TABLE), path, if_none_match=True, content_type="text/csv"
            )


def failures(ledger: Ledger) -> Iterator[Result]:
    """The results that stand and are not `completed`, in the order of their batches."""
    for name in ledger.shelf.names("apart"):
        result = ledger.result(name)
        if result is not None and not result.pieces and not result.plain:
            yield result


def _path(connection: Connection, file: str) -> str:
    try:
        return str(connection.client.file(file).get("fullpath", ""))
    except PlatformError:
        # It is gone, or may not be seen any more.
        return ""


def _plain(value: str) -> str:
    """As a spreadsheet shows it, and does not compute it: a file's name may begin with `=`."""
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
