"""
uvicorn as our servers use it: signals stay the caller's, and a connection that is slow to ask is closed.

uvicorn bounds how long a connection may idle between two requests, not how long a request's head may take, so that whoever
sends one byte a minute holds a connection for ever; nor, with httptools, how many headers there may be.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""For a caller to send a request's line and headers; also for what it still sends after it was answered."""
HEAD_BYTES = 64 * 1024


class Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Prompt(H11Protocol):
    """HTTP/1.1 whose callers have `HEAD_SECONDS` for each request's head."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except h11.LocalProtocolError:
            # What is no HTTP came after an answer had begun, so that it cannot be told.
            self.transport.abort()
        else:
            self._watch()

    def _watch(self) -> None:
        if not self._asks():
            self._done()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._close)

    def _asks(self) -> bool:
        """Whether no request is at hand that waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    def _done(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        self._late = None
        if self._asks():
            self.transport.abort()


def bounded(application: Any, *, connections: int) -> Server:
    """A server of an ASGI application; more than so many connections at once are answered 503."""
    return Server(
        uvicorn.Config(
            application,
            http=Prompt,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=connections,
            h11_max_incomplete_event_size=HEAD_BYTES,
            timeout_graceful_shutdown=5,
        )
    )


def listen(port: int) -> socket.socket:
    """A socket on 127.0.0.1; `OSError` where the port is taken."""
    return socket.create_server(("127.0.0.1", port), backlog=1024)
