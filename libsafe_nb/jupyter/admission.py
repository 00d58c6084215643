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

from tornado import web

from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import (
    AccessDenied,
    Conflict,
    Forbidden,
    LibsafeError,
    NotFound,
    ObjectNotFound,
    PlatformError,
    PreconditionFailed,
    StorageUnreachable,
    Unauthorized,
    Unreachable,
    UsageError,
)

ASKED_AGAIN = 3.0
"""Seconds for which a key that was active counts as such."""
PATIENCE = 20.0
"""Seconds in which a request is repeated before its user learns that nobody answers."""

NO_KEY = (
    "The platform refuses the API key: it is wrong or not active. Make one on the platform (your name, Access Methods), set"
    " LIBSAFE_KEY_USER, and start the Lab again."
)
NO_CREDENTIALS = (
    "The storage refuses the S3 credentials, or this container. Regenerate them on the platform (your name, Access Methods, S3"
    " compatible protocol), set LIBSAFE_S3_ACCESS_KEY and LIBSAFE_S3_SECRET_KEY, and start the Lab again."
)


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
        fresh = connect().within(PATIENCE)
        _ask(fresh)
        return fresh


def _ask(connection: Connection) -> None:
    # The call is one of the unverified: a platform that does not know it lets the storage decide.
    with contextlib.suppress(NotFound):
        connection.client.me()


def refusal(error: LibsafeError) -> web.HTTPError:
    """One of our errors as an answer of the server, with its sentence."""
    match error:
        case Unauthorized() | Forbidden():
            return web.HTTPError(403, NO_KEY)
        case AccessDenied():
            return web.HTTPError(403, NO_CREDENTIALS)
        case NotFound() | ObjectNotFound():
            return web.HTTPError(404, str(error))
        case PreconditionFailed() | Conflict():
            return web.HTTPError(409, str(error))
        case UsageError():
            return web.HTTPError(400, str(error))
        case Unreachable() | StorageUnreachable():
            return web.HTTPError(503, str(error))
        case PlatformError():
            return web.HTTPError(502, str(error))
    return web.HTTPError(500, str(error))
