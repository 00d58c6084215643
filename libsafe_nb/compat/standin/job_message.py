"""Job messages and their types."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from libsafe_nb.compat import session
from libsafe_nb.compat.item import Item, id_of
from libsafe_nb.compat.standin import util

__all__ = ["JobMessageType", "create", "list"]


class JobMessageType(StrEnum):
    """The types of a message. Only INFO is seen in a public source; the others are *unverified*."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    DEBUG = "DEBUG"


def create(job_id: Any, message: Any, type: str = JobMessageType.INFO, file_id: Any = None) -> None:
    """
    Write a message of a job; with `file_id` it belongs to that file. Ours: authors use `Request.log`.

    What is not text is written as JSON.
    """
    text = message if isinstance(message, str) else util.format_json_item(message)
    file = id_of(file_id) if file_id not in (None, "") else None
    session.current().outbox.message(id_of(job_id), text, str(type).upper(), file)


def list(job_id: Any) -> Iterator[Item]:
    """Oldest first, fetched a page at a time. Ours."""
    here = session.current()
    here.outbox.settle("job")
    return (Item(each) for each in here.client.messages(id_of(job_id)))
