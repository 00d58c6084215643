"""Stored objects, as plain data: what a write left, what a look found, what versions there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from libsafe_nb.errors import AccessDenied

EVIDENCE = "provenance"
"""The folder of a container that holds what runs left (contract 5): nothing in it is ever overwritten."""

READ_ONLY = "ReadOnly"
"""Code of the `AccessDenied` about evidence, which no credentials open for writing."""


@dataclass(frozen=True)
class Stored:
    """
    One object as a write left it.

    Attributes
    ----------
    sha256
        Of the bytes, in hex, computed here on the way.
    created
        False when equal bytes were there already and nothing new was stored.
    """

    container: str
    path: str
    size: int
    etag: str
    version_id: str | None
    sha256: str
    created: bool


@dataclass(frozen=True)
class ObjectInfo:
    """One object; `content_type` and `metadata` are known from `head` only, not from a listing."""

    container: str
    path: str
    size: int
    etag: str
    last_modified: datetime
    version_id: str | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectVersion:
    """One version of an object; `deleted` marks the place where it was deleted (a delete marker, size 0)."""

    container: str
    path: str
    size: int
    etag: str
    last_modified: datetime
    version_id: str
    latest: bool
    deleted: bool


def is_evidence(path: str) -> bool:
    plain = path.lstrip("/")
    return plain == EVIDENCE or plain.startswith(f"{EVIDENCE}/")


def refuse_evidence(*paths: str) -> None:
    """
    For every door by which a person or a function writes into a container; a run's own evidence takes another.

    Raises
    ------
    AccessDenied
        One of the paths is that of evidence.
    """
    for path in paths:
        if is_evidence(path):
            raise AccessDenied(
                f"{path}: what runs left under {EVIDENCE}/ can be read and is never changed, moved or deleted; copy what you "
                "need to another folder",
                code=READ_ONLY,
            )
