"""
What `serve` answers to each call: the key, a place to run, the payload, and the run.

    POST /{function}    the platform's payload; `POST /` where one function is served
    GET  /health        200, or 503 while it ends; needs no key
    GET  /metrics       Prometheus text

All that is not a call of a function it knows, with the right key, a place to run and a payload that is one, is refused
before anything starts.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from libsafe_nb import nuclio
from libsafe_nb.errors import Conflict, LibsafeError, NotFound, PayloadError
from libsafe_nb.meters import Meters
from libsafe_nb.payloads import MAX_BYTES, Payload
from libsafe_nb.served import Source, shortest

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

    from libsafe_nb.models import Run

log = logging.getLogger(__name__)
T = TypeVar("T")

BODY_SECONDS = 30.0
"""For a caller to send its payload: it holds a place meanwhile."""
HELD_BODIES = 4
"""Payloads of the greatest size that are held in memory at once; calls that would be more are answered 429."""
FAULT = "the call could not be answered; the service's log says more"
LEFT = "the service ended before the call did; its job tells how it ended, once libsafe-nb recover has finished it"
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
        Seconds of an execution; None: no limit but that of a published function's own.
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

    def __init__(self, functions: Mapping[str, Source], key: str, bounds: Bounds) -> None:
        self.functions, self.bounds = dict(functions), bounds
        self._key = key.encode()
        self._places = asyncio.Semaphore(bounds.running)
        # One at a time, beside the event loop: a payload of 64 MiB takes seconds to be read.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="payload")
        self._runs: dict[int, Run] = {}
        self._jobs: set[int] = set()
        self._held = 0
        self._ending = False
        self._cancelled = False
        self._seconds = 1.0
        self.admitted = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._meters = Meters(lambda: self.admitted)

    # What callers ask

    async def called(self, request: Request) -> Response:
        """`POST /{function}`."""
        known = ""
        try:
            self._authorise(request)
            name = known = self._function(request.path_params.get("function"))
            status, body, headers = await self._admit(request, name)
        except Refused as exc:
            status, body, headers = exc.status, _error("Refused", exc.message), exc.headers
        except asyncio.CancelledError:
            # The service has been told for the third time, and leaves what runs.
            status, body, headers = 503, _error("Refused", LEFT), {"Retry-After": "10"}
        except Exception as exc:
            # A fault of ours; the others go on.
            log.error("a call of %s: %s", known, nuclio.clean(traceback.format_exc()))
            status, body, headers = 500, _error(type(exc).__name__, FAULT), {}
        self._meters.called(known, status)
        return _json(status, body, headers)

    async def health(self, request: Request) -> Response:
        return _json(503 if self._ending else 200, {"status": "ending" if self._ending else "ok"}, {})

    async def metrics(self, request: Request) -> Response:
        from starlette.responses import Response

        try:
            self._authorise(request)
        except Refused as exc:
            return _json(exc.status, _error("Refused", exc.message), exc.headers)
        text, kind = self._meters.text()
        return Response(text, media_type=kind)

    def _authorise(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key):
            raise Refused(
                401,
                "expected the header Authorization: Bearer KEY with the service's key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _function(self, name: str | None) -> str:
        if name is None and len(self.functions) == 1:
            return next(iter(self.functions))
        if name is None or name not in self.functions:
            raise Refused(
                404, f"no function {(name or '')[:100]!r}; served are: {', '.join(sorted(self.functions))}"
            )
        return name

    async def _admit(self, request: Request, name: str) -> tuple[int, dict[str, Any], dict[str, str]]:
        """A place is taken before the body is read, so that what lies in memory is bounded too."""
        if self._ending:
            raise self._ended()
        if self.admitted >= self.bounds.running + self.bounds.waiting:
            raise self._busy(f"{self.admitted} calls run or wait already")
        self.admitted += 1
        self.idle.clear()
        body = bytearray()
        try:
            # A caller that goes away from here on does not end what it has started, whose result is in the job.
            await self._read(request, body)
            return await self._take_place(name, bytes(body))
        finally:
            self._held -= len(body)
            self.admitted -= 1
            if self.admitted == 0:
                self.idle.set()

    def _ended(self) -> Refused:
        return Refused(503, SAYS, headers={"Retry-After": "5"})

    def _busy(self, why: str) -> Refused:
        return Refused(429, why, headers={"Retry-After": str(max(1, math.ceil(self._seconds)))})

    async def _read(self, request: Request, body: bytearray) -> None:
        """The payload into `body`, each byte of which counts as held."""
        from starlette.requests import ClientDisconnect

        most = self.bounds.body
        length = request.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 20 and int(length) <= most):
            raise Refused(413, f"payload: expected at most {most} bytes, got {length[:20]}")
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    if len(body) + len(part) > most:
                        raise Refused(413, f"payload: expected at most {most} bytes, got more")
                    if self._held + len(part) > HELD_BODIES * most:
                        raise self._busy(f"{self._held} bytes of payloads are held already")
                    body += part
                    self._held += len(part)
        except ClientDisconnect as exc:
            raise Refused(400, "payload: the caller went away before its end") from exc
        except TimeoutError as exc:
            raise Refused(408, f"payload: expected within {BODY_SECONDS:g} s, got {len(body)} bytes") from exc

    async def _take_place(self, name: str, body: bytes) -> tuple[int, dict[str, Any], dict[str, str]]:
        loop = asyncio.get_running_loop()
        job = await loop.run_in_executor(self._reader, _job, body)
        if job in self._jobs:
            raise Refused(409, f"job {job}: it runs here already")
        if job:
            self._jobs.add(job)
        try:
            async with self._places:
                if self._ending:
                    raise self._ended()
                with self._meters.running():
                    status, answer = await _in_thread(lambda: self._run(name, body))
        finally:
            self._jobs.discard(job)
        if "seconds" in answer:
            self._seconds = 0.8 * self._seconds + 0.2 * answer["seconds"]
            self._meters.took(name, answer["status"], answer["seconds"])
        return status, answer, {"Retry-After": "10"} if status == 503 else {}

    def _run(self, name: str, body: bytes) -> tuple[int, dict[str, Any]]:
        mine: list[Run] = []

        def on_start(run: Run) -> None:
            mine.append(run)
            self._runs[id(run)] = run
            if self._cancelled:
                run.cancel(SAYS)

        payload = Payload.parse(body)
        try:
            order = self.functions[name].order(payload)
            with tempfile.TemporaryDirectory(
                prefix="libsafe-nb-serve-", ignore_cleanup_errors=True
            ) as folder:
                path = Path(folder) / order.name
                path.write_bytes(order.data)
                return nuclio.answer(
                    order.payload,
                    path,
                    timeout=shortest(self.bounds.timeout, order.timeout),
                    published=order.published,
                    settings=order.settings,
                    on_start=on_start,
                )
        except LibsafeError as exc:
            return _status(exc), nuclio.refusal(exc, payload)
        except Exception as exc:
            log.error("a call of %s: %s", name, nuclio.clean(traceback.format_exc(), payload))
            return 500, _error(type(exc).__name__, FAULT)
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
        self._reader.shutdown()


def _status(exc: LibsafeError) -> int:
    if isinstance(exc, NotFound):
        return 404
    return 409 if isinstance(exc, Conflict) else nuclio.status(exc)


def _job(body: bytes) -> int:
    """The job that a payload names; 0: none. The parsed payload is let go: while the call waits only the bytes are held."""
    try:
        return int(Payload.parse(body).job or 0)
    except PayloadError as exc:
        raise Refused(400, str(exc)) from exc


async def _in_thread(work: Callable[[], T]) -> T:
    """
    The result of `work`, done in a thread that does not keep this process from ending: what a kill breaks off is for a
    recovery.
    """
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def body() -> None:
        try:
            done.set_result(work())
        except BaseException as exc:
            done.set_exception(exc)

    threading.Thread(target=body, name="call", daemon=True).start()
    return await asyncio.wrap_future(done)


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
        headers = exc.headers if isinstance(exc, HTTPException) else None
        what = f"{request.method} {request.scope['path'][:200]}"
        return _json(status, _error("Refused", f"{what}: there is no such call"), headers or {})

    made = Starlette(
        routes=[
            Route("/health", service.health),
            Route("/metrics", service.metrics),
            Route("/", service.called, methods=["POST"]),
            Route("/{function}", service.called, methods=["POST"]),
        ],
        exception_handlers={HTTPException: refused},
    )
    # Or POST /NAME/ would be sent on to whatever host the caller's Host header says.
    made.router.redirect_slashes = False
    return made
