"""Real servers that misbehave on purpose: an HTTP server that follows a script, and a proxy that cuts."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
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
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
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
