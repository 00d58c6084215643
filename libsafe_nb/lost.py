"""
Runs whose whole machine is lost, known by their start records in the containers.

Once its lease has ended a run's job is closed as FAILED, with a record that says so, under a name of its own: should the machine
come back, it can still store the evidence. Safe to repeat, and to do at once from any number of machines.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from libsafe_nb import chain, closing, dossier, evidence, lease, record
from libsafe_nb import settings as settings_
from libsafe_nb import witness as witnesses
from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import LibsafeError, ObjectNotFound, PlatformError, sentence
from libsafe_nb.journal import folders
from libsafe_nb.models import Recovered
from libsafe_nb.settings import Settings
from libsafe_nb.witness import Witness


def end(connection: Connection, container: str, job: str) -> bool:
    """
    End one job whose run's machine is lost, as `recover` does for all; False while that cannot be said, or it is one of
    this machine's.
    """
    created = connection.client.job(job)["date_create"]
    witness = witnesses.load(connection.settings)
    here = {each.name for each in folders(connection.settings.home)}
    found = [
        _end(connection, container, started, witness)
        for started in _start_records(connection, container, {job: created})
        if started["run"] not in here and lease.over(connection, container, started["run"], started)
    ]
    return any(each.done for each in found)


def recover(settings: Settings | None, witness: Witness) -> Iterator[Recovered]:
    """End the jobs of runs of which nothing was heard since their lease ended."""
    found = settings or settings_.known()
    if found is None:
        return
    connection = connect(settings=found)
    open_jobs: dict[str, dict[str, str]] = {}
    try:
        for status in closing.OPEN:
            for job in connection.client.jobs(status=status):
                open_jobs.setdefault(job["container_id"], {})[job["id"]] = job["date_create"]
    except PlatformError as exc:
        if exc.status not in (400, 404, 405, 501):
            raise
        # The call is unverified: without it runs of lost machines cannot be looked for.
        yield Recovered("", "", "", "nothing", None, f"the platform does not list its open jobs ({exc})")
    for container, jobs in open_jobs.items():
        try:
            records = list(_start_records(connection, container, jobs))
        except LibsafeError as exc:
            yield Recovered("", "", container, "waiting", None, str(exc))
            continue
        for started in records:
            if started["run"] in {each.name for each in folders(found.home)}:
                # It is this machine's, and was dealt with or is under way.
                continue
            try:
                if lease.over(connection, container, started["run"], started):
                    yield _end(connection, container, started, witness)
            except Exception as exc:
                # Also one that makes no sense: whoever may write to the container may have put it there.
                message = sentence(exc)
                yield Recovered(started["run"], str(started["job"]), container, "waiting", None, message)


def _start_records(connection: Connection, container: str, jobs: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The start records of the container's open jobs. None was stored before the first of these jobs was created."""
    earliest = datetime.fromisoformat(min(jobs.values())).replace(tzinfo=UTC).timestamp() - 3600
    for each in connection.storage.list(container, lease.FOLDER + "/"):
        if each.last_modified.timestamp() < earliest or each.path.count(".") != 1:
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found = json.loads(connection.storage.get(container, each.path))
            if str(found["job"]) in jobs and lease.path(found["run"]) == each.path:
                yield found


def _start_stored(connection: Connection, container: str, run: str) -> datetime | None:
    """When the run's start record was stored, by the storage's clock; None where it is not there any more."""
    with contextlib.suppress(ObjectNotFound):
        return connection.storage.head(container, lease.path(run)).last_modified
    return None


def _end(connection: Connection, container: str, started: dict[str, Any], witness: Witness) -> Recovered:
    """Store a record that says what is known, and close the job as FAILED, unless its evidence only waits."""
    run, job = str(started["run"]), str(started["job"])
    client = connection.client
    waiting = [
        each["message"] for each in client.messages(job) if each["message"].startswith(closing.PENDING)
    ]
    if waiting:
        return Recovered(run, job, container, "waiting", None, waiting[-1])
    text = f"nothing was heard of {started.get('host')}, which ran it, since its lease ended"
    function = started.get("function") or {}
    name = function.get("key") or Path(str(function.get("name") or "function")).stem
    begun = datetime.fromisoformat(started["started"])
    prefix = evidence.folder(function=name, started=begun, job=job) + "-lost"
    body = record.lost({**started, "container": container}, text)
    files = dossier.complete(body, {}, node=None, messages=[], environment=None)
    evidence.store(connection.storage, container, prefix, files)
    # Another machine may have come this far before.
    stored = _start_stored(connection, container, run)
    link = chain.linked_since(connection.storage, container, run, stored) or chain.link(
        connection.storage, container, run=run, prefix=prefix, files=files
    )
    warnings = (
        witness.sign(connection.storage, container, link, prefix=prefix, files=files),
        witness.stamp(connection.storage, container, link),
    )
    place = f"libsafe://{container}/{prefix}/"
    client.message(job, text, type="ERROR", idempotency_key=closing.key(run, "message-error"))
    client.message(job, f"evidence: {place}", idempotency_key=closing.key(run, "message-lost"))
    for step, warning in zip(("signature", "time-stamp"), warnings, strict=True):
        if warning:
            key = closing.key(run, f"message-{step}")
            client.message(job, warning, type="WARNING", idempotency_key=key)
    client.message(job, link.head, idempotency_key=closing.key(run, "message-chain"))
    if client.job(job)["status"] in closing.OPEN:
        result = {
            "run": run,
            "job": job,
            "container": container,
            "status": "errored",
            "error": body["error"],
            "evidence": place,
        }
        client.update_job(job, status="FAILED", result=result, idempotency_key=closing.key(run, "end"))
    return Recovered(run, job, container, "errored", place, text)
