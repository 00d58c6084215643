"""
The door: one Unix socket a run, over which its kernel and `libsafe-nb job …` speak to the runner.

The keys stay with the runner: a kernel of any language logs, stores hashes and ends the job through the
door. Messages are JSON lines. A request is `{"do": NAME, …}`; the answer is `{"result": …}` or
`{"error": {"type", "message"}}`. A request with `"quiet": true` has no answer: what the kernel told is with the
runner as soon as `send` returned, also if the kernel is killed in the next instant.

The socket lies in a folder of mode 0700, so only the same user can knock.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from libsafe_nb import errors

STUB = "LSNB_STUB"
"""Set in the kernel of a replay: what the function would change is noted and not done."""

VARIABLE = "LSNB_RUN_SOCKET"
"""Names the socket in a kernel's environment. It does not begin with LIBSAFE_, which a kernel never sees."""

MAX_LINE = 64 * 1024 * 1024
"""Longest request in bytes; a longer one closes the connection."""

Answer = Callable[[str, dict[str, Any]], Any]


class Door:
    """
    The runner's side: answers each request with `answer(do, fields)`.

    `answer` is called from one thread a connection, so it must be thread-safe. A `LibsafeError` it raises
    travels to the other side with its type; any other exception travels as `ExecutionError`.
    """

    def __init__(self, path: Path, answer: Answer) -> None:
        self.path = path
        self._answer = answer
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, name="door", daemon=True)
        self._accepting.start()

    def __enter__(self) -> Door:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening, let what was already sent be answered (at most 2 s), and remove the socket."""
        self._closed.set()
        with contextlib.suppress(OSError):
            # Wakes the accepting thread: closing a listening socket does not.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(timeout=2)
        with self._lock:
            connections, threads = list(self._connections), list(self._threads)
        for connection in connections:
            # The other side sees the end; what it had sent before is still read.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + 2
        for thread in threads:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="door-connection", daemon=True
            )
            with self._lock:
                self._connections.add(connection)
                self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            while True:
                try:
                    line = lines.readline(MAX_LINE)
                except OSError:
                    break
                if not line.endswith(b"\n"):
                    break
                reply = self._reply(line)
                if reply is not None:
                    try:
                        connection.sendall(json.dumps(reply).encode() + b"\n")
                    except OSError:
                        break
        with self._lock:
            self._connections.discard(connection)

    def _reply(self, line: bytes) -> dict[str, Any] | None:
        quiet = False
        try:
            fields = json.loads(line)
            quiet = bool(fields.pop("quiet", False))
            result = self._answer(str(fields.pop("do")), fields)
            return None if quiet else {"result": result}
        except errors.LibsafeError as exc:
            return None if quiet else {"error": {"type": type(exc).__name__, "message": str(exc)}}
        except Exception as exc:
            return (
                None
                if quiet
                else {"error": {"type": "ExecutionError", "message": f"{type(exc).__name__}: {exc}"}}
            )


class Speaker(Protocol):
    """Who speaks to a run: through the door (`DoorClient`), or within the runner itself."""

    def call(self, do: str, **fields: Any) -> Any: ...

    def tell(self, do: str, **fields: Any) -> None: ...

    def post(self, do: str, **fields: Any) -> None: ...

    def close(self) -> None: ...


class DoorClient:
    """The kernel's side; safe to use from several threads."""

    def __init__(self, path: str | Path, *, timeout: float | None = 120) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(path))
        except OSError as exc:
            self._socket.close()
            raise errors.ExecutionError(f"{path}: no run answers there ({exc.strerror or exc})") from exc
        self._lines = self._socket.makefile("rb")
        self._lock = threading.Lock()

    def call(self, do: str, **fields: Any) -> Any:
        """
        Ask the runner and wait for its answer.

        Raises
        ------
        LibsafeError
            What the runner raised, by its type.
        ExecutionError
            The runner is gone.
        """
        with self._lock:
            self._send({"do": do, **fields})
            try:
                line = self._lines.readline(MAX_LINE)
            except OSError as exc:
                raise errors.ExecutionError(f"the run did not answer {do!r}: {exc}") from exc
        if not line:
            raise errors.ExecutionError(f"the run ended before it answered {do!r}")
        reply = json.loads(line)
        if "error" in reply:
            kind = getattr(errors, reply["error"]["type"], errors.ExecutionError)
            raise kind(reply["error"]["message"])
        return reply["result"]

    def tell(self, do: str, **fields: Any) -> None:
        """Send without waiting: the runner has it even if this process dies next. Lost if the runner is gone."""
        with self._lock, contextlib.suppress(errors.ExecutionError):
            self._send({"do": do, "quiet": True, **fields})

    def post(self, do: str, **fields: Any) -> None:
        """
        As `tell`, for what the function is to know of if nobody takes it.

        Raises
        ------
        ExecutionError
            The runner is gone.
        UsageError
            It is longer than `MAX_LINE`.
        """
        with self._lock:
            self._send({"do": do, "quiet": True, **fields})

    def close(self) -> None:
        self._lines.close()
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message, default=str).encode() + b"\n"
        if len(line) > MAX_LINE:
            raise errors.UsageError(
                f"{message['do']}: expected at most {MAX_LINE} bytes as JSON, found {len(line)}; nothing was sent"
            )
        try:
            self._socket.sendall(line)
        except OSError as exc:
            raise errors.ExecutionError(f"the run did not take {message['do']!r}: {exc}") from exc


def connect(path: str | Path, *, timeout: float | None = 120) -> DoorClient:
    """Connect to a run's door; `timeout` is in seconds for each answer."""
    return DoorClient(path, timeout=timeout)
