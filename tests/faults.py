"""Servers that misbehave on purpose: one that follows a script, a proxy that cuts, and one that spoils a share of all calls."""

from __future__ import annotations

import contextlib
import json
import random
import re
import select
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


def good(result=None):
    """An answer of the protocol."""
    return 200, {"Content-Type": "application/json"}, json.dumps({"success": True, "result": result}).encode()


def refusal(status, msg):
    return status, {"Content-Type": "application/json"}, json.dumps({"success": False, "msg": msg}).encode()


class ScriptedServer:
    """
    Answers each request with the next of `script`, and the last one again and again.

    An answer is `(status, headers, body)`, `reset` (the connection is reset without an answer),
    `truncated` (half of the promised body), or `drip` (a byte every 50 ms).
    """

    def __init__(self, *script, port=0):
        self.script = list(script)
        self.seen = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one packet: apart, each answer waits 40 ms for the client's acknowledgement.
            wbufsize = -1

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                outer.seen.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
                outer.answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - http.server's names

            def log_message(self, format, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda request, address: None
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler):
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if callable(step):
            step(handler)
            return
        status, headers, body = step
        handler.send_response_only(status)
        headers = {"Date": handler.date_time_string(), "Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


def reset(handler):
    """Close with RST, after the request was read: the client cannot know whether it acted."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.connection.close()


def truncated(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"success": true, "resu')
    handler.close_connection = True


def drip(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _ in range(1000):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)


class CuttingProxy:
    """
    Passes TCP on to `endpoint`, and resets a connection after exactly `cuts[0]` bytes of its answers.

    Each cut is used once; without cuts it is an honest proxy.
    """

    def __init__(self, endpoint, cuts=()):
        target = urlsplit(endpoint)
        self._target = (target.hostname, target.port)
        self.cuts = list(cuts)
        self.connections = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = set()
        self._threads = []
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *exc):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)

    def _start(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            with self._lock:
                self.connections += 1
                self._open |= {client, server}
            self._start(self._pump, client, server, False)
            self._start(self._pump, server, client, True)

    def _pump(self, source, sink, answers):
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(256 * 1024):
                with self._lock:
                    cut = answers and bool(self.cuts) and passed + len(data) > self.cuts[0]
                    if cut:
                        data = data[: self.cuts.pop(0) - passed]
                sink.sendall(data)
                passed += len(data)
                if cut:
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@dataclass(frozen=True)
class Fault:
    """
    One way to spoil a call.

    `when` is before the request is read (`unread`), when it is read and not passed on (`instead`), while it is sent
    (`sending`), or when it has acted and only its answer is spoilt (`after`). `only` is `rest` or `s3`, if not both.
    """

    when: str
    only: str | None = None


FAULTS = {
    "closed at once": Fault("unread"),
    "refused": Fault("unread"),
    "reset before it acted": Fault("instead"),
    "reset while sent": Fault("sending"),
    "reset after it acted": Fault("after"),
    "reset amid the answer": Fault("after"),
    "truncated": Fault("after"),
    "truncated to nothing": Fault("after"),
    "500 before it acted": Fault("instead"),
    "500 after it acted": Fault("after"),
    "502 after it acted": Fault("after"),
    "503 for seconds": Fault("instead"),
    "503 until a date": Fault("instead"),
    "429": Fault("instead"),
    "slow": Fault("after"),
    "page before it acted": Fault("instead"),
    "page after it acted": Fault("after"),
    "page of good XML": Fault("instead"),
    "half a document": Fault("instead"),
    "refused in 200": Fault("instead", "rest"),
    "time too skewed": Fault("instead", "s3"),
    "skewed date": Fault("after"),
}
ALL = tuple(FAULTS)

HTML = b"<html><body>Please log in<br>Session expired</body></html>"
XHTML = b'<?xml version="1.0"?><html><body><p>Please log in</p></body></html>'
SKEWED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>RequestTimeTooSkewed</Code>'
    b"<Message>The difference between the request time and the server's time is too large.</Message></Error>"
)
PHRASES = {
    200: "OK",
    403: "Forbidden",
    429: "Too Many Requests",
    500: "Oops",
    502: "Bad Gateway",
    503: "Busy",
}


class FaultyProxy:
    """
    An HTTP/1.1 proxy in front of `endpoint` that spoils some calls, by chance that repeats with its seed.

    Heads pass unchanged, so signatures over them hold; bodies are streamed. An endpoint with a path is REST, one
    without S3: faults of the other are left out.

    Parameters
    ----------
    share
        Of all calls, which are spoilt.
    faults
        Names of `FAULTS`, each as likely.
    limit
        After so many faults the proxy is honest.
    slow
        Seconds that a slow answer takes.
    busy
        Seconds that a 503 asks to wait.

    Attributes
    ----------
    injected
        How many of each fault there were.
    requests
        How many calls came, spoilt ones included.
    """

    def __init__(self, endpoint, share=0.2, faults=ALL, *, seed=0, limit=None, slow=30.0, busy=1):
        target = urlsplit(endpoint)
        self._target = (target.hostname, target.port)
        kind = "rest" if target.path.strip("/") else "s3"
        self.faults = [name for name in faults if FAULTS[name].only in (None, kind)]
        self.share, self.limit, self.slow, self.busy, self.kind = share, limit, slow, busy, kind
        self.injected = Counter()
        self.requests = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._shut_until = 0.0
        self._open, self._threads = set(), []
        self.endpoint = self.url = f"http://127.0.0.1:{self._port}{target.path}"

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *exc):
        self._closing.set()
        self._shut_listener()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=10)
            assert not thread.is_alive()

    def refuse_for(self, seconds):
        """Close the listener: new connections are refused by the kernel, until it opens again."""
        self._shut_until = time.monotonic() + seconds
        self._shut_listener()

    def _shut_listener(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _start(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments, daemon=True, name="faulty-proxy")
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive() or each.ident is None]
            self._threads.append(thread)
        thread.start()

    def _accept(self):
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                if self._closing.wait(max(self._shut_until - time.monotonic(), 0.01)):
                    return
                with contextlib.suppress(OSError):
                    self._listener = socket.create_server(("127.0.0.1", self._port))
                continue
            self._start(self._serve, client)
        self._shut_listener()

    def _choose(self):
        """The fault of the next call, or None."""
        with self._lock:
            self.requests += 1
            spoil = self._random.random() < self.share
            name = self._random.choice(self.faults)
            if not spoil or (self.limit is not None and self.injected.total() >= self.limit):
                return None
            self.injected[name] += 1
            return name

    def _chance(self):
        with self._lock:
            return self._random.random()

    def _serve(self, client):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, _EndedError):
            conversation = _Conversation(self, stack.enter_context(_Wire(client, self)), stack)
            while conversation.one_call():
                pass


class _EndedError(Exception):
    """The other side has closed, or this connection is to be."""


class _Wire:
    """One TCP connection, read through a buffer."""

    def __init__(self, connection, proxy):
        self.connection, self._proxy = connection, proxy
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.arrived = bytearray()
        with proxy._lock:
            proxy._open.add(connection)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        with self._proxy._lock:
            self._proxy._open.discard(self.connection)
        self.connection.close()

    def reset(self):
        """End with RST, also when all that arrived was read."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise _EndedError

    def send(self, data):
        self.connection.sendall(data)

    def more(self):
        data = self.connection.recv(64 * 1024)
        if not data:
            raise _EndedError
        self.arrived += data

    def stale(self):
        """Whether the other side has closed a connection that was kept."""
        return not self.arrived and bool(select.select([self.connection], [], [], 0)[0])

    def wait(self):
        """Until something arrives, which stays unread."""
        if not self.arrived and not self.connection.recv(1, socket.MSG_PEEK):
            raise _EndedError

    def line(self, end=b"\r\n"):
        while (at := self.arrived.find(end)) < 0:
            self.more()
        return self.take(at + len(end))

    def take(self, most):
        piece = bytes(self.arrived[:most])
        del self.arrived[:most]
        return piece

    def exactly(self, count):
        """`count` bytes in pieces, as they arrive."""
        while count:
            if not self.arrived:
                self.more()
            piece = self.take(min(count, 64 * 1024))
            count -= len(piece)
            yield piece

    def until_closed(self):
        with contextlib.suppress(_EndedError):
            while True:
                if not self.arrived:
                    self.more()
                yield self.take(64 * 1024)

    def chunks(self):
        """A chunked body as it is on the wire, its frame included."""
        while True:
            line = self.line()
            yield line
            size = int(line.split(b";")[0], 16)
            if not size:
                break
            yield from self.exactly(size + 2)
        while (line := self.line()) != b"\r\n":
            yield line
        yield line


class _Head:
    """A request's or an answer's head: its bytes, and what they say of the body."""

    def __init__(self, wire):
        self.raw = wire.line(b"\r\n\r\n")
        self.first, *lines = self.raw.decode("latin-1").strip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        self.fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.chunked = self.fields.get("transfer-encoding", "").lower() == "chunked"
        self.length = int(self.fields["content-length"]) if "content-length" in self.fields else None
        self.close = self.fields.get("connection", "").lower() == "close"


class _Conversation:
    """A client's connection, and the one to the endpoint that belongs to it."""

    def __init__(self, proxy, client, stack):
        self.proxy, self.client, self._stack = proxy, client, stack
        self._upstream = None

    def one_call(self):
        """Pass on one request and its answer, spoilt or not; whether another may follow."""
        self.client.wait()
        name = self.proxy._choose()
        when = FAULTS[name].when if name else None
        if when == "unread":
            if name == "refused":
                self.proxy.refuse_for(0.1)
            self.client.reset()
        request = _Head(self.client)
        if when == "instead":
            return self._answer_instead(name, request)
        answer = self._pass_on(request, cut=when == "sending")
        body = self._body_of(answer, request)
        return self._spoil(name, request, answer, body) if when else self._give_back(request, answer, body)

    def _request_body(self, request):
        if request.chunked:
            return self.client.chunks()
        return self.client.exactly(request.length or 0)

    def _body_of(self, answer, request):
        status = int(answer.first.split()[1])
        if request.first.startswith("HEAD ") or status in (204, 304):
            return iter(())
        if answer.chunked:
            return self._upstream.chunks()
        if answer.length is None:
            answer.close = True
            return self._upstream.until_closed()
        return self._upstream.exactly(answer.length)

    def _pass_on(self, request, *, cut):
        """Send the request on and read the answer's head; with `cut` both connections end halfway."""
        if self._upstream is None or self._upstream.stale():
            connection = socket.create_connection(self.proxy._target)
            self._upstream = self._stack.enter_context(_Wire(connection, self.proxy))
        upstream = self._upstream
        left = (request.length or 0) * self.proxy._chance() if cut else None
        if cut and not request.length:
            upstream.send(request.raw[: len(request.raw) // 2])
            self.client.reset()
        upstream.send(request.raw)
        if "expect" in request.fields:
            answer = _Head(upstream)
            if int(answer.first.split()[1]) != 100:
                answer.close = True
                return answer
            self.client.send(answer.raw)
        try:
            for piece in self._request_body(request):
                upstream.send(piece)
                if cut and (left := left - len(piece)) <= 0:
                    self.client.reset()
        except (BrokenPipeError, ConnectionResetError):
            # Refused before its body was read to the end: the answer tells why.
            request.close = True
        while int((answer := _Head(upstream)).first.split()[1]) == 100:
            self.client.send(answer.raw)
        return answer

    def _give_back(self, request, answer, body):
        self.client.send(answer.raw)
        for piece in body:
            self.client.send(piece)
        return not (answer.close or request.close)

    def _answer_instead(self, name, request):
        if "expect" not in request.fields:
            for _ in self._request_body(request):
                pass
        if name == "reset before it acted":
            self.client.reset()
        return self._say(request, *self._false_answer(name)) and "expect" not in request.fields

    def _false_answer(self, name):
        """Status, headers and body of an answer that the endpoint never gave."""
        rest = self.proxy.kind == "rest"
        if name.startswith("page of"):
            return 200, {"Content-Type": "application/xhtml+xml"}, XHTML
        if name.startswith("page"):
            return 200, {"Content-Type": "text/html"}, HTML
        if name == "half a document":
            half = b'{"success": true, "result": [{"id": 1}, {"i' if rest else b"<ListBucketResult><Name>b"
            return 200, {"Content-Type": "application/json" if rest else "application/xml"}, half
        if name == "refused in 200":
            return refusal(200, "the database is locked")
        if name == "time too skewed":
            return 403, {"Content-Type": "application/xml", "Date": self._skewed()}, SKEWED
        if name == "503 for seconds":
            return 503, {"Retry-After": str(self.proxy.busy)}, b"busy"
        if name == "503 until a date":
            hours = self.proxy._chance() * 10 - 5
            return (
                503,
                {"Date": self._skewed(hours), "Retry-After": self._skewed(hours, self.proxy.busy)},
                b"",
            )
        return int(name.split()[0]), {"Content-Type": "text/plain"}, b"that did not work"

    def _skewed(self, hours=-3.0, seconds=0):
        return formatdate(int(time.time()) + hours * 3600 + seconds, usegmt=True)

    def _say(self, request, status, headers, body):
        headers = {"Date": formatdate(usegmt=True), "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        bare = request.first.startswith("HEAD ")
        self.client.send(
            f"HTTP/1.1 {status} {PHRASES[status]}\r\n{head}\r\n".encode() + (b"" if bare else body)
        )
        return not request.close

    def _spoil(self, name, request, answer, body):
        """The request has acted: give back less than its answer, or another, or later."""
        if name == "slow":
            if self.proxy._closing.wait(self.proxy.slow):
                raise _EndedError
            return self._give_back(request, answer, body)
        if name == "skewed date":
            raw = re.sub(rb"(?i)\r\ndate:[^\r\n]*", b"", answer.raw)[:-2]
            answer.raw = raw + b"Date: " + self._skewed().encode() + b"\r\n\r\n"
            return self._give_back(request, answer, body)
        if name in ("truncated", "truncated to nothing", "reset amid the answer"):
            self._cut(name, answer, body)
        for _ in body:
            pass
        if name == "reset after it acted":
            self.client.reset()
        return self._say(request, *self._false_answer(name))

    def _cut(self, name, answer, body):
        """Some of the answer, and no more: of its body if it has one, else of its head."""
        first = next(body, b"")
        if not first:
            self.client.send(answer.raw[: len(answer.raw) // 2])
        else:
            self.client.send(answer.raw)
            left = 0 if name == "truncated to nothing" else (answer.length or 2 * len(first)) * self._most()
            while first and left >= 1:
                self.client.send(first[: int(left)])
                left -= len(first)
                first = next(body, b"")
        if name == "reset amid the answer":
            # What was sent before is still in the kernel, and RST would take it along.
            time.sleep(0.01)
            self.client.reset()
        raise _EndedError

    def _most(self):
        return self.proxy._chance() * 0.99
