"""Where the bytes of a run's files are."""

from __future__ import annotations

from typing import Any

from libsafe_nb.compat import session
from libsafe_nb.compat.item import id_of

__all__ = ["Storage", "get"]


class Storage:
    """
    The bucket, and the container in it, of a run's files: `Request.Storage`. Its attributes are ours.

    Attributes
    ----------
    container_id : str
    bucket, endpoint : str or None
        None where no S3 credentials are configured.
    """

    def __init__(self, opened: session.Session, container_id: str) -> None:
        self.session = opened
        self.container_id = container_id
        self.bucket = opened.s3.bucket if opened.s3 else None
        self.endpoint = opened.s3.endpoint if opened.s3 else None

    def __repr__(self) -> str:
        return f"<Storage {self.bucket}/{self.container_id}>"


def get(container_id: Any) -> Storage:
    """The storage of a container. Ours."""
    return Storage(session.current(), id_of(container_id))
