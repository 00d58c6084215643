"""
Which interrupted run a workflow's run goes on from.

    provenance/workflows/{digest}/{number}.json    put by a run that is about to make its first call; see `fingerprint.of_workflow`

A run was interrupted if it ended without a verdict of its own: killed, its kernel or machine lost, the platform away (status
`errored`). The next run of the same workflow takes its calls over: it makes each of them under the key under which that run
did, so the platform's queue answers with the call that is there. One that failed, was cancelled, timed out or completed has
its verdict, and the next run begins anew. So does one beside a run that still goes on.

A call that the queue attempts again is known by its job: the job before it is that of the attempt that was interrupted.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from libsafe_nb import evidence, marks, record
from libsafe_nb.errors import LibsafeError, ObjectNotFound, PreconditionFailed, Unreachable

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.shapes import Job
    from libsafe_nb.storage import Storage

FOLDER = "provenance/workflows"
SCHEMA = "libsafe-nb-lineage/1"
NEWEST = 20
"""Earlier runs of a workflow that are looked at, the newest first."""
ATTEMPTS = 100
"""Attempts of one call that are followed, which is more than a function may have."""
DEEP = 4000
"""How many jobs above one are looked at; functions call each other 32 deep, and each attempt of a call has a job."""
OPEN = ("QUEUED", "RUNNING")

Finish = Callable[[str], None]
"""Finishes an interrupted run of this machine, by its id, if it is one."""


@dataclass(frozen=True)
class Lineage:
    """
    A chain of interrupted runs of one workflow, and the run that goes on.

    Attributes
    ----------
    name
        The id of the first of them, by which the keys of calls begin; of a queued call `job-` and the job of its first attempt.
    runs
        The interrupted ones: their ids by their jobs, the latest last. Empty for a run that begins anew.
    job
        That of the run that goes on.
    """

    name: str
    job: str
    runs: Mapping[str, str] = field(default_factory=dict)

    @property
    def event(self) -> dict[str, Any] | None:
        """What the run's record is told (`linkage.resumes`); None for one that begins anew."""
        if not self.runs:
            return None
        job, run = list(self.runs.items())[-1]
        return {"kind": "resumes", "run": run, "job": job, "lineage": self.name}


def of_queued(client: Client, *, job: str) -> Lineage:
    """The lineage of a call's run, by the jobs of the attempts before it."""
    runs: dict[str, str] = {}
    last, current = job, client.job(job)
    for _ in range(ATTEMPTS):
        before = current.get("parent_id")
        if before is None:
            break
        parent = client.job(before)
        if parent.get("call_id") != current.get("call_id") or not interrupted(parent):
            break
        runs = {str(before): _run_of(parent) or "", **runs}
        last, current = str(before), parent
    return Lineage(f"job-{last}", job, runs)


def of_workflow(
    client: Client,
    storage: Storage,
    *,
    digest: str,
    container: str,
    run: str,
    job: str,
    finish: Finish,
    fresh: bool = False,
) -> Lineage:
    """
    The lineage of a run that nobody called, which is noted in the container for the next one.

    Parameters
    ----------
    digest
        The workflow's, of `fingerprint.of_workflow`.
    fresh
        Begin anew, also after an interrupted run; the next run goes on from this one.
    """
    folder = f"{FOLDER}/{digest}/"
    while True:
        entries = list(_entries(storage, container, folder))
        found = Lineage(run, job)
        if not fresh:
            found = _taken_over(client, entries, found, finish)
        number = entries[0][0] + 1 if entries else 1
        body = {"schema": SCHEMA, "run": run, "job": job, "lineage": found.name}
        try:
            evidence.put_once(storage, container, f"{folder}{number:06d}.json", record.canonical(body))
        except PreconditionFailed:
            # Another run of it began in this moment, and may have taken the same one over.
            continue
        return found


def _entries(storage: Storage, container: str, folder: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The runs that were noted, by their numbers, the newest first."""
    paths = [each.path for each in storage.list(container, folder)]
    names = [(path, path.removeprefix(folder).removesuffix(".json")) for path in paths]
    numbered = sorted(((int(name), path) for path, name in names if name.isdecimal()), reverse=True)
    for number, path in numbered[:NEWEST]:
        body: Any = {}
        with contextlib.suppress(ObjectNotFound, ValueError, RecursionError):
            body = json.loads(storage.get(container, path))
        # Who may write to the container may have put anything there; the number is taken all the same.
        known = isinstance(body, dict) and body.get("schema") == SCHEMA
        yield (
            number,
            body if known and all(isinstance(body.get(n), str) for n in ("run", "job", "lineage")) else {},
        )


def _taken_over(
    client: Client, entries: list[tuple[int, dict[str, Any]]], anew: Lineage, finish: Finish
) -> Lineage:
    """The latest chain that was interrupted and that no later run has taken over; `anew` where there is none."""
    held: set[str] = set()
    for position, (_, entry) in enumerate(entries):
        if not entry:
            continue
        try:
            job = client.job(entry["job"])
            if job["status"] in OPEN:
                finish(entry["run"])
                job = client.job(entry["job"])
        except Unreachable:
            raise
        except LibsafeError:
            # Gone, or not ours to see.
            continue
        if job["status"] in OPEN or entry["lineage"] in held:
            held.add(entry["lineage"])
            continue
        if not interrupted(job) or _run_of(job) != entry["run"]:
            break
        chain = [each for _, each in entries[position:] if each and each["lineage"] == entry["lineage"]]
        return Lineage(entry["lineage"], anew.job, {each["job"]: each["run"] for each in reversed(chain)})
    return anew


def interrupted(job: Job) -> bool:
    """Whether a job has ended without a verdict: it could not be executed to its end."""
    result = job.get("result")
    return job["status"] not in OPEN and isinstance(result, dict) and result.get("status") == "errored"


def _run_of(job: Job) -> str | None:
    result = job.get("result")
    found = result.get("run") if isinstance(result, dict) else None
    return found if isinstance(found, str) else None


# Files that were written meanwhile ------------------------------------------------------------------------------------


def changed_by_others(
    client: Client, storage: Storage, lineage: Lineage, body: Mapping[str, Any]
) -> str | None:
    """
    A file that a call has read, by its record, and that is another by now, though no call of the workflow wrote it; None where
    there is none. What its calls wrote since is no change: those are not made again either.
    """
    home = str(record.section(body, "container").get("id"))
    for each in record.entries(body, "inputs"):
        path, version = str(each.get("path")).lstrip("/"), each.get("version_id")
        if not version:
            continue
        try:
            found = storage.head(str(each.get("container") or home), path)
        except ObjectNotFound:
            # Taken away, by whomever: what was made of it is what there is.
            continue
        told = {name.lower(): value for name, value in found.metadata.items()}
        same = found.version_id == version or (each.get("sha256") and told.get("sha256") == each["sha256"])
        if not same and not _own(client, lineage, told.get(marks.NAME)):
            return f"/{path}"
    return None


def _own(client: Client, lineage: Lineage, mark: str | None) -> bool:
    """Whether a version was written by a call of the lineage, or by one of its interrupted runs; a mark is taken at its word."""
    told = (mark or "").partition(":")[0]
    job = told if told.isascii() and told.isdecimal() and len(told) < 19 else None
    if job == lineage.job:
        # This very run has written it, before it came to the call.
        return False
    for _ in range(DEEP):
        if job is None:
            return False
        if job == lineage.job or job in lineage.runs:
            return True
        try:
            job = client.job(job).get("parent_id")
        except Unreachable:
            raise
        except LibsafeError:
            return False
    return False
