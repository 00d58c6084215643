"""
Functions over HTTP on loopback, called as Nuclio would call them: `libsafe-nb serve`.

    POST /{function}    the platform's payload; `POST /` where one function is served
    GET  /health        200, or 503 while it ends; needs no key
    GET  /metrics       Prometheus text

All that is not a call of a function it knows, with the right key, a place to run and a payload that is one, is refused
before anything starts. What is served are the bytes that the files had at the start.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import math
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import nuclio, plan
from libsafe_nb.errors import PayloadError, UsageError
from libsafe_nb.payloads import MAX_BYTES, Payload
from libsafe_nb.supplied import secret

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from libsafe_nb.models import Run

log = logging.getLogger(__name__)

KEY = "serve_key"
"""The secret parameter whose value callers send: `LIBSAFE_SECRET_SERVE_KEY`."""
BODY_SECONDS = 30.0
"""For a caller to send its payload: it holds a place meanwhile."""
SAYS = "the service is ending"


@dataclass(frozen=True)
class Bounds:
    """
    Attributes
    ----------
    running, waiting
        Calls that run at once, and those that wait for one of them to end; more are answered 429.
    body
        Bytes of a payload.
    timeout
        Seconds of an execution; None: no limit.
    grace
        Seconds that running calls get to end when the service is told to; then they are cancelled, which stores their
        evidence and ends their jobs.
    """

    running: int
    waiting: int = 16
    body: int = MAX_BYTES
    timeout: float | None = None
    grace: float = 30.0


class Refused(Exception):
    """A call that starts nothing."""

    def __init__(self, status: int, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, dict(headers or {})


class Service:
    """The functions, and the calls of them that are under way."""

    def __init__(self, functions: Mapping[str, Path], key: str, bounds: Bounds) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.functions, self.bounds = dict(functions), bounds
        self._key = key.encode()
        self._places = asyncio.Semaphore(bounds.running)
        self._threads = ThreadPoolExecutor(bounds.running, thread_name_prefix="call")
        self._runs: dict[int, Run] = {}
        self._jobs: set[str] = set()
        self._admitted = 0
        self._ending = False
        self._cancelled = False
        self._seconds = 1.0
        self.idle = asyncio.Event()
        self.idle.set()
        self.registry: CollectorRegistry = CollectorRegistry()
        self._calls = Counter(
            "libsafe_nb_calls",
            "Calls by function and HTTP status.",
            ["function", "code"],
            registry=self.registry,
        )
        self._took = Histogram(
            "libsafe_nb_run_seconds",
            "Length of runs by function and outcome.",
            ["function", "status"],
            buckets=(1, 2, 5, 10, 30, 60, 300, 1800, 7200),
            registry=self.registry,
        )
        self._running = Gauge("libsafe_nb_running", "Calls that run.", registry=self.registry)
        admitted = Gauge("libsafe_nb_admitted", "Calls that run or wait for a place.", registry=self.registry)
        admitted.set_function(lambda: self._admitted)

    # What callers ask

    async def called(self, request: Request) -> Response:
        """`POST /{function}`."""
        name = request.path_params.get("function")
        known = ""
        try:
            self._authorise(request)
            path = self._function(name)
            known = path.parent.name
            status, body, headers = await self._admit(request, path)
        except Refused as exc:
            status, body, headers = exc.status, _error(type(exc).__name__, exc.message), exc.headers
        self._calls.labels(known, status).inc()
        return _json(status, body, headers)

    async def health(self, request: Request) -> Response:
        return _json(503 if self._ending else 200, {"status": "ending" if self._ending else "ok"}, {})

    async def metrics(self, request: Request) -> Response:
        from prometheus_client import generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST
        from starlette.responses import Response

        try:
            self._authorise(request)
        except Refused as exc:
            return _json(exc.status, _error(type(exc).__name__, exc.message), exc.headers)
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    def _authorise(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key):
            raise Refused(
                401,
                "expected the header Authorization: Bearer KEY with the service's key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _function(self, name: str | None) -> Path:
        if name is None and len(self.functions) == 1:
            return next(iter(self.functions.values()))
        if name not in self.functions:
            raise Refused(404, f"no function {name or ''!r}; served are: {', '.join(sorted(self.functions))}")
        return self.functions[name]

    async def _admit(self, request: Request, path: Path) -> tuple[int, dict[str, Any], dict[str, str]]:
        """A place is taken before the body is read, so that what lies in memory is bounded too."""
        if self._ending:
            raise Refused(503, SAYS, headers={"Retry-After": "5"})
        if self._admitted >= self.bounds.running + self.bounds.waiting:
            raise Refused(
                429,
                f"{self._admitted} calls run or wait already",
                headers={"Retry-After": str(max(1, math.ceil(self._seconds)))},
            )
        self._admitted += 1
        self.idle.clear()
        try:
            # A caller that goes away from here on does not end what it has started, whose result is in the job.
            return await self._take_place(path, self._payload(await self._body(request)))
        finally:
            self._admitted -= 1
            if self._admitted == 0:
                self.idle.set()

    async def _body(self, request: Request) -> bytes:
        from starlette.requests import ClientDisconnect

        most = self.bounds.body
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > most:
            raise Refused(413, f"payload: expected at most {most} bytes, got {length[:20]}")
        read = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    read += part
                    if len(read) > most:
                        raise Refused(413, f"payload: expected at most {most} bytes, got more")
        except ClientDisconnect as exc:
            raise Refused(400, "payload: the caller went away before its end") from exc
        except TimeoutError as exc:
            raise Refused(408, f"payload: expected within {BODY_SECONDS:g} s, got {len(read)} bytes") from exc
        return bytes(read)

    def _payload(self, body: bytes) -> Payload:
        try:
            return Payload.parse(body)
        except PayloadError as exc:
            raise Refused(400, str(exc)) from exc

    async def _take_place(self, path: Path, payload: Payload) -> tuple[int, dict[str, Any], dict[str, str]]:
        if payload.job and payload.job in self._jobs:
            raise Refused(409, f"job {payload.job}: it runs here already")
        self._jobs.add(payload.job)
        try:
            async with self._places:
                if self._ending:
                    raise Refused(503, SAYS, headers={"Retry-After": "5"})
                with self._running.track_inprogress():
                    loop = asyncio.get_running_loop()
                    status, body = await loop.run_in_executor(self._threads, self._run, path, payload)
        finally:
            self._jobs.discard(payload.job)
        if "seconds" in body:
            self._seconds = 0.8 * self._seconds + 0.2 * body["seconds"]
            self._took.labels(path.parent.name, body["status"]).observe(body["seconds"])
        return status, body, {"Retry-After": "10"} if status == 503 else {}

    def _run(self, path: Path, payload: Payload) -> tuple[int, dict[str, Any]]:
        mine: list[Run] = []

        def on_start(run: Run) -> None:
            mine.append(run)
            self._runs[id(run)] = run
            if self._cancelled:
                run.cancel(SAYS)

        try:
            return nuclio.answer(payload, path, timeout=self.bounds.timeout, on_start=on_start)
        except Exception as exc:
            # A fault of ours; the others go on.
            log.exception("a call of %s", path.name)
            return 500, _error(
                type(exc).__name__, "the call could not be answered; the service's log says more"
            )
        finally:
            for run in mine:
                self._runs.pop(id(run), None)

    # The end

    def end(self) -> None:
        """Take no more calls."""
        self._ending = True

    def cancel(self) -> None:
        """End what runs."""
        self._cancelled = True
        for run in list(self._runs.values()):
            run.cancel(SAYS)

    def close(self) -> None:
        self._threads.shutdown()


def _error(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"type": kind, "message": message}}


def _json(status: int, body: dict[str, Any], headers: Mapping[str, str]) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(body, status, dict(headers))


def application(service: Service) -> Starlette:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    def refused(request: Request, exc: Exception) -> Response:
        status = exc.status_code if isinstance(exc, HTTPException) else 500
        return _json(
            status, _error("Refused", f"{request.method} {request.url.path}: there is no such call"), {}
        )

    return Starlette(
        routes=[
            Route("/health", service.health),
            Route("/metrics", service.metrics),
            Route("/", service.called, methods=["POST"]),
            Route("/{function}", service.called, methods=["POST"]),
        ],
        exception_handlers={HTTPException: refused},
    )


@contextlib.contextmanager
def copies(functions: Mapping[str, Path]) -> Iterator[dict[str, Path]]:
    """
    The functions as they are now, each in a private folder that bears its name.

    Raises
    ------
    NotebookError
        One cannot be read, is no function, or there is no kernel for it.
    """
    with tempfile.TemporaryDirectory(prefix="libsafe-nb-serve-") as folder:
        made = {}
        for name, path in functions.items():
            plan.read_local(path)
            target = Path(folder) / name / path.name
            target.parent.mkdir()
            target.write_bytes(path.read_bytes())
            made[name] = target
        yield made


def key() -> str:
    """
    The key that callers must send.

    Raises
    ------
    ParameterError, SettingsError
        There is none, its file can be read by others, or it is too weak to be one.
    """
    return secret(KEY).reveal()


def serve(
    functions: Mapping[str, Path],
    key: str,
    bounds: Bounds,
    *,
    port: int = 0,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """
    Serve on 127.0.0.1 until SIGTERM or SIGINT; a second signal cancels what runs at once.

    Parameters
    ----------
    on_ready
        Told the address once calls are answered.

    Raises
    ------
    UsageError
        The port is taken, or the extra `serve` is not installed.
    NotebookError
        One of the functions is none.
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
    try:
        listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as exc:
        raise UsageError(f"127.0.0.1:{port}: cannot be listened on ({exc.strerror or exc})") from exc
    with listening, copies(functions) as found:
        asyncio.run(_serve(found, key, bounds, listening, on_ready))


async def _serve(
    functions: Mapping[str, Path],
    key: str,
    bounds: Bounds,
    listening: socket.socket,
    on_ready: Callable[[str], None],
) -> None:
    import uvicorn

    class Uvicorn(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # signals are ours

    service = Service(functions, key, bounds)
    loop = asyncio.get_running_loop()
    told = asyncio.Event()

    def signalled() -> None:
        if told.is_set():
            service.cancel()
        service.end()
        told.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    config = uvicorn.Config(
        application(service),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = Uvicorn(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listening]))
    async with _ended(service, server, serving):
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        on_ready(f"http://127.0.0.1:{listening.getsockname()[1]}")
        await told.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(service.idle.wait(), bounds.grace)
        service.cancel()
        await service.idle.wait()


@contextlib.asynccontextmanager
async def _ended(service: Service, server: Any, serving: asyncio.Future[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        service.close()


def default_running() -> int:
    return max(1, len(os.sched_getaffinity(0)))
