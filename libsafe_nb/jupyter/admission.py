"""
Who may look into the container: the way to it, kept open, and its refusals as answers of a Jupyter server.

The vendor's page: a notebook needs an active API key and S3 credentials, else 403 Forbidden. So the key is asked about
before each request, at most every few seconds, as it can be revoked while the Lab runs.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from tornado import web

from libsafe_nb.check import configured_secrets
from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import (
    AccessDenied,
    Conflict,
    Forbidden,
    LibsafeError,
    LocalPlatformError,
    NotFound,
    ObjectChanged,
    ObjectNotFound,
    PlatformError,
    PreconditionFailed,
    SettingsError,
    StorageUnreachable,
    Unauthorized,
    Unreachable,
    UsageError,
)
from libsafe_nb.jupyter.tree import READ_ONLY

ASKED_AGAIN = 3.0
"""Seconds for which a key that was active counts as such."""
PATIENCE = 20.0
"""Seconds in which a request is repeated before its user learns that nobody answers."""

REMEDY = (
    "An active API key and S3 credentials are needed: make them on the platform (your name, Access Methods), set"
    " LIBSAFE_KEY_USER, LIBSAFE_S3_ACCESS_KEY and LIBSAFE_S3_SECRET_KEY, and start the Lab again."
)

_NO_MATTER_OF_KEYS = (READ_ONLY, "InvalidObjectState")
"""Codes of an `AccessDenied` that other credentials would not change: evidence, and an off-line storage class."""


class Admission:
    """The connection to the platform of the settings, made at its first use. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._asked = 0.0

    @contextlib.contextmanager
    def connection(self) -> Iterator[Connection]:
        """
        The connection, for one request.

        Raises
        ------
        tornado.web.HTTPError
            What the platform or its storage refused: 403 without an active key or S3 credentials, 404, 409 where a
            condition failed, 400 for names that are none, 503 where nobody answers.
        """
        try:
            yield self._admitted()
        except LibsafeError as exc:
            raise refusal(exc) from exc

    def _admitted(self) -> Connection:
        with self._lock:
            if self._connection is None or time.monotonic() - self._asked > ASKED_AGAIN:
                self._connection = self._asked_about(self._connection)
                self._asked = time.monotonic()
            return self._connection

    def _asked_about(self, known: Connection | None) -> Connection:
        if known is not None:
            try:
                _ask(known)
            except Unreachable:
                # A local platform that ended when it was idle is started again, maybe on other ports.
                if known.platform_file is None:
                    raise
                known.close()
            else:
                return known
        opened = connect()
        fresh = opened.within(PATIENCE)
        opened.close()
        _ask(fresh)
        return fresh


def _ask(connection: Connection) -> None:
    # The call is one of the unverified: a platform that does not know it lets the storage decide.
    with contextlib.suppress(NotFound):
        me: Any = connection.client.me()
        if me.get("s3") is False:
            raise Forbidden("the user has no S3 credentials")


_STATUS: tuple[tuple[type[LibsafeError] | tuple[type[LibsafeError], ...], int], ...] = (
    ((Unauthorized, Forbidden, AccessDenied, SettingsError), 403),
    ((NotFound, ObjectNotFound), 404),
    ((PreconditionFailed, ObjectChanged, Conflict), 409),
    (UsageError, 400),
    ((Unreachable, StorageUnreachable, LocalPlatformError), 503),
    (PlatformError, 502),
)


def refusal(error: LibsafeError) -> web.HTTPError:
    """One of our errors as an answer of the server, with its sentence."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    text = str(error)
    if status == 403 and getattr(error, "code", None) not in _NO_MATTER_OF_KEYS:
        text = f"{text}. {REMEDY}"
    # A server may have quoted a key in its answer.
    with contextlib.suppress(LibsafeError):
        text = configured_secrets().clean(text)
    return web.HTTPError(status, text)
