"""
The published S3 endpoint: a TCP proxy that lets through what the gate allows, as it is.

Every request's head is read and judged (`gate`); heads and bodies then go to the S3 server byte for byte, so its
signature check covers what the client signed, Host included. Bodies are counted, by Content-Length or by chunks,
only to find where the next request's head begins. The way back is pumped blindly.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from libsafe_nb.local import deletions, gate
from libsafe_nb.local.chunks import ChunkedBody
from libsafe_nb.local.gate import Head, Refused

HEAD_SECONDS = 60.0
"""For a client to send a request's head; a connection between requests ends when the S3 server ends its side."""
LINGER_SECONDS = 5.0
"""How long what a refused client still sends is read, so that it reads our answer instead of a reset."""
CONNECT_SECONDS = 10.0
"""To reach the S3 server: bridges its restart after a crash."""
BUFFER = 1024 * 1024


@dataclass
class Front:
    """
    What every connection needs.

    `containers` tells an access key's containers (None: unknown), `readable` whether a file is on-line, `upstream` the
    S3 server's port, or None while it is restarting. `note` is told each container and path that a request is about to
    change, before the store can have changed it.
    """

    bucket: str
    containers: Callable[[str], frozenset[str] | None]
    readable: Callable[[str, str], bool]
    upstream: Callable[[], int | None]
    note: Callable[[str, str], None]
    active: bool = False

    def judge(self, head: Head) -> gate.Passage:
        key = gate.access_key(head)
        containers = self.containers(key)
        if containers is None:
            raise Refused(403, "InvalidAccessKeyId", "the access key is unknown or has been revoked")
        passage = gate.judge(head, self.bucket, containers)
        for container, path in passage.reads:
            if not self.readable(container, path):
                raise Refused(
                    403, "InvalidObjectState", "the file is off-line: its storage class cannot be read"
                )
        if passage.keys_in_body:
            _check_buffered(head)
        return passage

    async def connect(self, conversation: Conversation) -> asyncio.Transport:
        """
        Raises
        ------
        OSError
            The S3 server did not answer within `CONNECT_SECONDS`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CONNECT_SECONDS
        while True:
            port = self.upstream()
            try:
                if port is None:
                    raise ConnectionRefusedError("the S3 server is restarting")
                transport, _ = await loop.create_connection(
                    lambda: _Upstream(conversation), "127.0.0.1", port
                )
                return transport
            except OSError:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(0.05)


def _check_buffered(head: Head) -> None:
    streaming = head.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")
    if head.length is None:
        raise Refused(411, "MissingContentLength", "a list of keys to delete needs its Content-Length")
    if head.length > deletions.MAX_BODY:
        raise Refused(413, "EntityTooLarge", "a list of keys to delete may have 2 MiB at most")
    if streaming or head.headers.get("content-encoding"):
        raise Refused(501, "NotImplemented", "a list of keys to delete must be sent plainly")


class Conversation(asyncio.Protocol):
    """One client's connection, and the one to the S3 server that belongs to it."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.client: asyncio.Transport
        self._upstream: asyncio.Transport | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting = bytearray()  # arrived, not yet understood
        self._searched = 0
        self._remaining = 0
        self._chunks: ChunkedBody | None = None
        self._delete: tuple[Head, bytes, frozenset[str]] | None = None
        self._writes: tuple[str, str] | None = None
        self._refusal: bytes | None = None
        self._timer: asyncio.TimerHandle | None = None

    # What the client sends.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A TCP server's; uvloop's is no subclass of asyncio's.
        self.client = cast(asyncio.Transport, transport)
        self.client.set_write_buffer_limits(high=BUFFER)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        self.front.active = True
        if self._refusal is not None:
            return
        if self._upstream is not None and not self._waiting and len(data) <= self._remaining:
            # Nearly every call of a large upload: no copy, no look.
            self._remaining -= len(data)
            if not self._remaining:
                self._end_request()
            self._upstream.write(data)
            return
        self._waiting += data
        if self._connecting is None:
            self._advance()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._upstream is not None:
            # An upload cut short must look so to the S3 server as well, which then keeps nothing of it.
            self._upstream.abort()

    def pause_writing(self) -> None:
        self._hold_upstream(True)

    def resume_writing(self) -> None:
        self._hold_upstream(False)

    def _advance(self) -> None:
        """Handle all that has arrived, as far as it is understood."""
        try:
            while self._waiting and self._refusal is None and self._connecting is None:
                if not self._step():
                    return
        except Refused as refused:
            self._refuse(refused, b"")

    def _step(self) -> bool:
        """One head, or one piece of a body; False when more must arrive first."""
        if self._remaining:
            piece = self._taken(self._remaining)
            self._remaining -= len(piece)
            if not self._remaining:
                self._end_request()
            self._forward(piece)
            return True
        if self._chunks is not None:
            taken = self._chunks.take(self._waiting)
            if self._chunks.ended:
                self._chunks = None
                self._end_request()
            if taken:
                self._forward(self._taken(taken))
            return bool(taken)
        if self._delete is not None:
            return self._take_delete(*self._delete)
        return self._take_head()

    def _take_head(self) -> bool:
        end = self._waiting.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0 or end > gate.MAX_HEAD:
            self._searched = len(self._waiting)
            if self._searched > gate.MAX_HEAD:
                raise Refused(400, "RequestHeaderSectionTooLarge", "the request's head is longer than 64 KiB")
            return False
        self._stop_timer()
        self._searched = 0
        raw = self._taken(end + 4)
        try:
            head = gate.read_head(raw[:-4])
            passage = self.front.judge(head)
        except Refused as refused:
            self._refuse(refused, raw)
            return False
        if passage.keys_in_body:
            containers = self.front.containers(gate.access_key(head)) or frozenset()
            self._delete = (head, raw, containers)
            if "expect" in head.headers:
                self.client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return True
        self._writes = passage.writes
        self._begin_body(head)
        self._forward(raw)
        return True

    def _begin_body(self, head: Head) -> None:
        if head.length is None:
            self._chunks = ChunkedBody()
        else:
            self._remaining = head.length
            if not self._remaining:
                self._end_request()

    def _take_delete(self, head: Head, raw: bytes, containers: frozenset[str]) -> bool:
        length = head.length or 0
        if len(self._waiting) < length:
            return False
        body = self._taken(length)
        for key in deletions.check(body, containers):
            container, _, path = key.partition("/")
            self.front.note(container, path)
        self._delete = None
        # We have asked for the body already; the S3 server need not again.
        raw = re.sub(rb"\r\nexpect:[^\r\n]*", b"", raw, flags=re.IGNORECASE)
        self._await_head()
        self._forward(raw + body)
        return True

    def _taken(self, count: int) -> bytes:
        piece = bytes(self._waiting[:count])
        del self._waiting[:count]
        return piece

    def _forward(self, piece: bytes) -> None:
        """Send to the S3 server, which has to be reached first when this is the connection's first request."""
        if self._upstream is not None:
            self._upstream.write(piece)
            return
        self.client.pause_reading()
        self._connecting = asyncio.ensure_future(self._connect(piece))

    async def _connect(self, first: bytes) -> None:
        try:
            self._upstream = await self.front.connect(self)
        except OSError:
            self._refuse(
                Refused(503, "ServiceUnavailable", "the S3 server does not answer; try again"), first
            )
            return
        finally:
            self._connecting = None
            self._stop_timer()
            self.hold_client(False)
        self._upstream.set_write_buffer_limits(high=BUFFER)
        self._upstream.write(first)
        self._advance()

    def hold_client(self, hold: bool) -> None:
        """Stop or go on reading what the client sends, unless it has gone."""
        if not self.client.is_closing():
            (self.client.pause_reading if hold else self.client.resume_reading)()

    def _hold_upstream(self, hold: bool) -> None:
        if self._upstream is not None and not self._upstream.is_closing():
            (self._upstream.pause_reading if hold else self._upstream.resume_reading)()

    # Refusing, and waiting.

    def _refuse(self, refused: Refused, raw: bytes) -> None:
        method, _, rest = raw.decode("latin-1").partition(" ")
        resource = rest.partition(" ")[0].partition("?")[0]
        self._refusal = refused.answer(resource, body=method != "HEAD")
        self._waiting.clear()
        self._stop_timer()
        if self._upstream is None:
            self._say_refusal()
        elif self._upstream.can_write_eof():
            # What was asked before may still be answered; ours comes when the S3 server has closed its side.
            self._upstream.write_eof()

    def _say_refusal(self) -> None:
        assert self._refusal is not None  # set just before
        if not self.client.is_closing():
            self.client.write(self._refusal)
            # Our side ends; what the client still sends is read for a while, or it would see a reset instead.
            self.client.write_eof()
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self.client.close)

    def _end_request(self) -> None:
        """Its last bytes are about to be sent on."""
        if self._writes is not None:
            self.front.note(*self._writes)
            self._writes = None
        self._await_head()

    def _await_head(self) -> None:
        self._stop_timer()
        if self._upstream is None:
            self._timer = asyncio.get_running_loop().call_later(HEAD_SECONDS, self.client.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # What the S3 server answers.

    def upstream_lost(self) -> None:
        self._upstream = None
        if self._refusal is not None:
            self._say_refusal()
        else:
            self.client.close()


class _Upstream(asyncio.Protocol):
    """The way back: every byte to the client as it comes."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def data_received(self, data: bytes) -> None:
        self._conversation.front.active = True
        self._conversation.client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._conversation.upstream_lost()

    def pause_writing(self) -> None:
        self._conversation.hold_client(True)

    def resume_writing(self) -> None:
        self._conversation.hold_client(False)
