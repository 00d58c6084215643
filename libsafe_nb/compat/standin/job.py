"""Jobs. Ours: the vendor's page imports `Job` and works on it through `Request`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from libsafe_nb.compat import session
from libsafe_nb.compat.item import Item, id_of

__all__ = ["get", "get_messages", "get_status", "set_progress", "set_status"]


def get(job_id: Any) -> Item:
    """
    One job.

    Inside a run, once `job_end` was called, `status` is the verdict that it gave, although the platform still says
    RUNNING: the runner ends the job when the evidence is stored.
    """
    here, job = session.current(), id_of(job_id)
    found = Item(here.client.job(job))
    attached = here.attached
    if attached is not None and job == attached.job and attached.verdict is not None:
        found["status"] = "COMPLETED" if attached.verdict else "FAILED"
    return found


def get_status(job_id: Any) -> str:
    return str(get(job_id)["status"])


def get_messages(job_id: Any) -> Iterator[Item]:
    """Oldest first, fetched a page at a time."""
    here = session.current()
    here.outbox.settle("job")
    return (Item(each) for each in here.client.messages(id_of(job_id)))


def set_status(job_id: Any, status: str) -> None:
    """QUEUED, RUNNING, COMPLETED, FAILED or CANCELLED; ending the run's own job this way is `job_end`."""
    session.current().outbox.status(id_of(job_id), str(status).upper())


def set_progress(job_id: Any, progress: float) -> None:
    """From 0 to 1."""
    session.current().outbox.progress(id_of(job_id), progress)
