"""
Answers whose head was cut are no answers.

Python's http.client takes the end of a connection for the end of a head. A put's answer has nothing else, so one that
is cut there loses its version id, and a HEAD's may have half a size: wrong answers that look whole.
"""

from __future__ import annotations

import http.client
from typing import Any


class _Lines:
    """A connection's file that remembers the last line that was read of it."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.last = b""

    def readline(self, limit: int = -1) -> bytes:
        self.last = self.file.readline(limit)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class WholeHead(http.client.HTTPResponse):
    """
    Raises
    ------
    RemoteDisconnected
        The connection ended before the empty line that ends a head.
    """

    def begin(self) -> None:
        lines = _Lines(self.fp)
        # As much of a file as `begin` uses.
        self.fp: Any = lines
        try:
            super().begin()
        finally:
            if self.fp is lines:
                self.fp = lines.file
        if lines.last not in (b"\r\n", b"\n"):
            self.close()
            raise http.client.RemoteDisconnected("the connection ended amid the head of the answer")


def insist(client: Any) -> None:
    """Let a boto3 client raise for an answer whose head was cut; other clients of the process stay as they are."""
    from botocore import awsrequest

    class Connection(awsrequest.AWSHTTPConnection):  # type: ignore[misc]  # botocore ships no types
        response_class = WholeHead

    class SecureConnection(awsrequest.AWSHTTPSConnection):  # type: ignore[misc]
        response_class = WholeHead

    class Pool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]
        ConnectionCls = Connection

    class SecurePool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]
        ConnectionCls = SecureConnection

    # Two attributes of botocore's own; another botocore without them is used as it is.
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    pools = getattr(session, "_manager", None)
    if pools is not None:
        pools.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}
