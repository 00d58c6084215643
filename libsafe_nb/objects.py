"""Stored objects, as plain data: what a write left, what a look found, what versions there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime


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
