"""
Functions over HTTP on loopback, called as Nuclio would call them: the life of `libsafe-nb serve`, from key to signal.

What callers are answered is in `answering.py`, where the functions come from in `served.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from libsafe_nb.answering import Bounds, Service, application
from libsafe_nb.errors import ExecutionError, SettingsError, UsageError
from libsafe_nb.served import FromFile, FromPlatform, Source
from libsafe_nb.supplied import secret

if TYPE_CHECKING:
    from libsafe_nb.loopback import Server

KEY = "serve_key"
"""The secret parameter whose value callers send: `LIBSAFE_SECRET_SERVE_KEY`."""
END_SECONDS = 180.0
"""For cancelled calls to store their evidence and end their jobs, with the platform away for a minute of it."""
CONNECTIONS = 1000


def key() -> str:
    """
    The key that callers must send.

    Raises
    ------
    ParameterError, SettingsError
        There is none, its file can be read by others, it is too weak to be one, or no header can hold it.
    """
    found = secret(KEY).reveal()
    if not (found.isascii() and found.isprintable() and " " not in found):
        raise SettingsError(f"{KEY}: expected printable ASCII without spaces, found something else")
    return found


def serve(
    files: Mapping[str, Path],
    published: Mapping[str, str],
    key: str,
    bounds: Bounds,
    *,
    port: int = 0,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """
    Serve on 127.0.0.1 until SIGTERM or SIGINT. A second signal cancels what runs at once, a third one leaves it.

    Parameters
    ----------
    files, published
        Functions in files, and the keys of functions on the platform of the settings, by the name they are called by.
    on_ready
        Told the address once calls are answered.

    Raises
    ------
    UsageError
        The port is taken, or the extra `serve` is not installed.
    NotebookError
        One of the functions is none.
    PlatformError
        The platform could not be asked for its functions.
    ExecutionError
        Calls did not end though they were cancelled; they are left to a recovery.
    """
    try:
        import prometheus_client
        import starlette
        import uvicorn
    except ImportError as exc:
        raise UsageError(
            f"serve needs {exc.name}, which is not installed; install it with: pip install 'libsafe-nb[serve]'"
        ) from exc
    del prometheus_client, starlette, uvicorn
    from libsafe_nb import loopback

    try:
        listening = loopback.listen(port)
    except OSError as exc:
        raise UsageError(f"127.0.0.1:{port}: cannot be listened on ({exc.strerror or exc})") from exc
    with listening:
        functions: dict[str, Source] = {name: FromFile(path) for name, path in files.items()}
        functions |= {name: FromPlatform(each) for name, each in published.items()}
        left = asyncio.run(_serve(functions, key, bounds, listening, on_ready))
    if left:
        raise ExecutionError(
            f"{left} {'call' if left == 1 else 'calls'} had not ended; libsafe-nb recover finishes what they left"
        )


async def _serve(
    functions: Mapping[str, Source],
    key: str,
    bounds: Bounds,
    listening: socket.socket,
    on_ready: Callable[[str], None],
) -> int:
    """How many calls were left under way."""
    from libsafe_nb import loopback

    service = Service(functions, key, bounds)
    signals = [asyncio.Event() for _ in range(3)]

    def signalled() -> None:
        service.end()
        next((each for each in signals if not each.is_set()), signals[-1]).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    most = max(CONNECTIONS, bounds.running + bounds.waiting + CONNECTIONS // 10)
    server = loopback.bounded(application(service), connections=most)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    told, hurried, left = signals
    async with _ended(service, server, serving):
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        on_ready(f"http://127.0.0.1:{listening.getsockname()[1]}")
        await told.wait()
        await _first([service.idle, hurried], bounds.grace)
        service.cancel()
        await _first([service.idle, left], END_SECONDS)
    return service.admitted


async def _first(events: Iterable[asyncio.Event], seconds: float) -> None:
    """Wait for one of the events, and no longer."""
    waits = [asyncio.ensure_future(each.wait()) for each in events]
    await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()


@contextlib.asynccontextmanager
async def _ended(service: Service, server: Server, serving: asyncio.Future[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        server.should_exit = True
        if service.admitted:
            # uvicorn would wait for their answers.
            server.force_exit = True
        await serving
        service.close()


def default_running() -> int:
    return max(1, len(os.sched_getaffinity(0)))
