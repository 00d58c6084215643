"""What the tests of maps share: a container of small files, and what must be true of a map that is finished."""

from __future__ import annotations

import json
from collections import Counter

from conftest import REQUEST, write_function
from engine_runs import wait_for

from libsafe_nb.mapping.counts import Counts, open_units
from libsafe_nb.mapping.layout import Shelf
from libsafe_nb.mapping.ledger import Ledger

EACH_FILE = (
    REQUEST
    + """
import os, time
from libnova.common.api import JobMessage
ok = True
for file in request.Files:
    if "die" in file.fullpath:
        os._exit(1)
    if "bad" in file.fullpath:
        ok = False
        request.log("is bad", JobMessage.JobMessageType.ERROR, file.id)
    request.log("looked at", JobMessage.JobMessageType.INFO, file.id)
request.job_end(ok)
"""
)
"""A function that fails for files that are named bad, saying which, and whose kernel dies of one that is named die."""


def function(path, source=EACH_FILE):
    return write_function(path, source)


def files(connection, container, *names):
    """Store small files, and wait until the platform lists them; their ids by path."""
    for name in names:
        connection.storage.put(container, name, name.encode())

    def listed():
        found = {
            row["fullpath"]: row["id"]
            for row in connection.client.files(container)
            if row["type"] != "FOLDER"
        }
        return found if {f"/{name}" for name in names} <= set(found) else None

    return wait_for(listed, 60, "the listing")


def ledger(connection, container, map):
    shelf = Shelf(connection.storage, container, map)
    return Ledger(shelf, shelf.plan())


def results(connection, container, map):
    """The results of a finished map, by file, after a look at each of its promises."""
    book = ledger(connection, container, map)
    counts = Counts()
    assert list(open_units(book, counts, fresh=False)) == []
    found = {}
    for name in book.shelf.names("done"):
        result = book.result(name)
        assert result.unit == book.unit(name)
        if not result.pieces:
            for file in result.unit.files:
                assert file not in found
                found[file] = result
    planned = [
        file
        for first in book.shelf.names("batches")
        for batch in book.shelf.chunk(book.plan, int(first))[1]
        for file in batch
    ]
    assert sorted(found) == sorted(planned)
    assert len(planned) == book.plan.files
    assert counts.files == Counter(found[file].status for file in planned)
    jobs = {job["id"]: job for job in connection.client.jobs(container=container)}
    parent = str(book.shelf.get("job.json")["job"])
    assert {job["status"] for job in jobs.values()} <= {"COMPLETED", "FAILED", "CANCELLED"}
    assert jobs[parent]["status"] == ("COMPLETED" if set(counts.files) == {"completed"} else "FAILED")
    for result in found.values():
        if result.status == "completed":
            assert jobs[result.job]["status"] == "COMPLETED"
            assert jobs[result.job]["parent_id"] == parent
    versions = Counter(each.path for each in connection.storage.versions(container, "provenance/"))
    assert set(versions.values()) == {1}
    return found


def told(connection, container, result):
    """The record of a result's run."""
    prefix = result.evidence.removeprefix(f"libsafe://{container}/")
    return json.loads(connection.storage.get(container, f"{prefix}record.json"))
