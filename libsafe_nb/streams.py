"""
stdout and stderr of our Python kernels: in pieces, and no faster than the runner takes them. Lives in the kernel.

ipykernel sends what was printed within 0.2 s as one message, of any size, and drops messages when the reader falls
behind. Both would make the runner's memory, or the truth of the record, depend on what a notebook prints.

It also waits up to 10 s for a flush while its output thread is already gone, which delays the kernel's end by seconds
in one of a few runs (ipykernel 7.4: the control thread flushes, and the main thread's `atexit` joins it).
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

import zmq
from ipykernel import iostream

PIECE = 256 * 1024
"""Characters in one message at most."""

BACKLOG = 4 * 1024 * 1024
"""Characters written and not sent, beyond which writing waits."""

IN_FLIGHT = 64
"""Messages in the kernel's output socket, beyond which sending waits."""


SCHEDULED_WITHIN = 100
"""Milliseconds to wake the sending thread; it is asked again as long as it lives."""


class OutStream(iostream.OutStream):
    """Given to ipykernel as `IPKernelApp.outstream_class`."""

    def __init__(self, session: Any, pub_thread: Any, name: str, *args: Any, **options: Any) -> None:
        # Characters since the start, and how many of them are known to be sent; before `super`, whose thread may write.
        self._written = self._sent = 0
        super().__init__(session, pub_thread, name, *args, **options)  # type: ignore[no-untyped-call]
        # The socket belongs to its thread.
        pub_thread.schedule(lambda: _wait_rather_than_drop(pub_thread.socket))

    def write(self, string: str) -> int | None:  # type: ignore[override] # as in ipykernel
        if not isinstance(string, str) or len(string) <= PIECE:
            return self._write_piece(string)
        for start in range(0, len(string), PIECE):
            self._write_piece(string[start : start + PIECE])
        return len(string)

    def _write_piece(self, string: str) -> int | None:
        written = super().write(string)
        with self._buffer_lock:
            self._written += len(string)
        if self._written - self._sent > BACKLOG:
            self.flush()
        return written

    def flush(self) -> None:
        """Wait until all was sent, as long as there is a thread that sends."""
        written = self._written
        if written == self._sent and not self._in_pipe():
            # Of the four flushes of a cell, most find nothing; each took two changes of thread.
            return
        self._flush_all()
        with self._buffer_lock:
            self._sent = max(self._sent, written)

    def _in_pipe(self) -> bool:
        """Whether a process that the notebook started has written what is not yet taken in."""
        if self._fid is None:
            return False
        try:
            return bool(select.select([self._fid], [], [], 0)[0])
        except (OSError, ValueError):
            # A child of the notebook that has closed whatever was open.
            return True

    def _flush_all(self) -> None:
        thread = self.pub_thread.thread if self.pub_thread else None
        if thread is None or not thread.is_alive() or thread is threading.current_thread():
            self._flush()  # type: ignore[no-untyped-call]
            return
        sent = threading.Event()

        def send() -> None:
            try:
                self._flush()  # type: ignore[no-untyped-call]
            finally:
                sent.set()

        # One wake-up of that thread for both: a cell has four flushes.
        self._schedule(send)
        while not sent.wait(0.05) and thread.is_alive():
            # What is scheduled waits for the next wake-up if something before it failed.
            self._schedule(_nothing)

    def _schedule(self, step: Callable[[], None]) -> None:
        """
        Give the sending thread something to do, or nothing where it has ended.

        It may end between a look whether it lives and the call. Its pipe then has no reader, and ipykernel's own
        `schedule` would wait for one for ever, or the pipe is closed already.
        """
        with contextlib.suppress(zmq.ZMQError):
            self.pub_thread._event_pipe.sndtimeo = SCHEDULED_WITHIN
            self.pub_thread.schedule(step)

    def _flush_buffers(self) -> Iterator[tuple[dict[str, Any], str]]:
        for parent, text in super()._flush_buffers():  # type: ignore[no-untyped-call]
            if not text.isascii():
                # Half characters, which no message can carry.
                text = text.encode("utf-8", errors="replace").decode("utf-8")
            for start in range(0, len(text), PIECE):
                yield parent, text[start : start + PIECE]


def _nothing() -> None:
    pass


def _wait_rather_than_drop(socket: Any) -> None:
    with contextlib.suppress(zmq.ZMQError, AttributeError):
        socket.setsockopt(zmq.SNDHWM, IN_FLIGHT)
        socket.setsockopt(zmq.XPUB_NODROP, 1)
