"""
The REST API: routes made of the table in `endpoints.py`, keys, the envelope, bounds, and idempotency.

Every answer is `{"success": true, "result": …}` or `{"success": false, "msg": …}`, whatever went wrong; lists that
were cut have a sibling `next`. An unexpected error is a 500 with a reference to the log and nothing else.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from libsafe_nb import strictjson
from libsafe_nb.endpoints import ENDPOINTS
from libsafe_nb.errors import LocalPlatformError
from libsafe_nb.local import (
    accounts,
    answers,
    describecalls,
    filecalls,
    functions,
    imports,
    jobs,
    queuecalls,
    tags,
    triggers,
    workercalls,
)
from libsafe_nb.local.ask import Ask, Page, Platform, Problem, User

log = logging.getLogger(__name__)

MAX_JSON = 64 * 1024 * 1024
BASE = "/api"

Call = Callable[[Ask], Any]

CALLS: dict[str, Call] = {
    name: call
    for module in (
        accounts,
        describecalls,
        filecalls,
        functions,
        imports,
        jobs,
        queuecalls,
        tags,
        triggers,
        workercalls,
    )
    for name, call in vars(module).items()
    if name in ENDPOINTS
}
ASYNCHRONOUS = {name for name, call in CALLS.items() if inspect.iscoroutinefunction(call)}
READS_ITS_BODY = {"file_upload", "container_import"}
PREPARED = {"call_create": queuecalls.prepare}
"""What is done before a call's transaction, as it waits for the store."""
NOT_KEPT = {"file_search", "bulk_metadata_get", "call_claim", "call_look", "call_renew", "host_look"}
"""Their answers are not kept for repeats: some only ask, and of a lease each repeat is a question of its own."""
TELLS_SECRETS = {"user_create", "user_s3_create"}
"""Their answers hold keys, which the rows never do; for repeats they are kept in memory alone."""


class Api:
    """The application, and when it was last used (`time.monotonic`), health checks without a key apart."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.last_used = time.monotonic()
        self.running = 0
        self._secret_answers: dict[tuple[int, str, str], tuple[int, bytes]] = {}
        self._turns: dict[tuple[int, str, str], asyncio.Lock] = {}
        routes = [
            Route(BASE + endpoint.path, self._endpoint(name), methods=[endpoint.method])
            for name, endpoint in _most_specific_first()
        ]
        self.application = Starlette(
            routes=routes, exception_handlers={HTTPException: _not_found, Exception: _broken}
        )

    def _endpoint(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            if name == "health":
                said: dict[str, Any] = {"status": "ok", "idempotency": True, "reads": True}
                # Its parts only: whoever asks has no key.
                if self.platform.trouble:
                    said |= {"status": "trouble", "trouble": sorted(self.platform.trouble)}
                return _ok(_body(said))
            self.running += 1
            request.scope["endpoint_name"] = name
            try:
                return await self._answer(name, request)
            except Problem as problem:
                after = problem.retry_after
                return _failure(
                    problem.status, problem.message, None if after is None else {"Retry-After": str(after)}
                )
            except LocalPlatformError as exc:
                return _failure(503, str(exc), {"Retry-After": "1"})
            except ClientDisconnect:
                return _failure(400, "the request ended before its body did")
            except HTTPException as exc:
                return _failure(exc.status_code, str(exc.detail))
            except Exception as exc:
                return _broken(request, exc)
            finally:
                self.running -= 1
                self.last_used = time.monotonic()

        return respond

    async def _answer(self, name: str, request: Request) -> Response:
        database = self.platform.database
        user = accounts.authenticate(database, request.headers.get("authorization"))
        key = answers.header_key(request.headers.get("idempotency-key"))
        if key is None or request.method == "GET" or name in NOT_KEPT:
            return _ok(await self._result(name, request, user, None))
        call = f"{request.method} {request.scope['path']}"
        what = (user.id, call, key)
        async with self._turn(what):
            before = self._secret_answers.get(what) or answers.earlier(database, *what)
            if before is not None:
                return Response(before[1], before[0], media_type="application/json")
            if name in TELLS_SECRETS:
                body = await self._result(name, request, user, None)
                self._secret_answers[what] = (200, body)
                return _ok(body)

            def keep(body: bytes) -> None:
                answers.keep(database, *what, 200, body)

            return _ok(await self._result(name, request, user, keep))

    async def _result(
        self, name: str, request: Request, user: User, keep: Callable[[bytes], None] | None
    ) -> bytes:
        """The answer's body; `keep` writes it down in the transaction that made it."""
        database = self.platform.database
        ask = await self._ask(name, request, user)
        if name in ASYNCHRONOUS:
            body = _body(await CALLS[name](ask))
            if keep is not None:
                with database.transaction():
                    keep(body)
            return body
        if request.method == "GET":
            return _body(CALLS[name](ask))
        if name in PREPARED:
            await PREPARED[name](ask)
        with database.transaction():
            body = _body(CALLS[name](ask))
            if keep is not None:
                keep(body)
        return body

    @asynccontextmanager
    async def _turn(self, what: tuple[int, str, str]) -> AsyncIterator[None]:
        """One at a time for one idempotency key: a repeat waits for the answer of the first."""
        lock = self._turns.setdefault(what, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._turns.pop(what, None)

    async def _ask(self, name: str, request: Request, user: User) -> Ask:
        body: Any = {}
        form = request.headers.get("content-type", "").startswith(("multipart/", "application/x-www-form"))
        if (
            request.method != "GET"
            and name not in READS_ITS_BODY
            and not (name == "container_create" and form)
        ):
            body = _parsed(await _bounded(request))
        return Ask(
            self.platform,
            user,
            {each: str(value) for each, value in request.path_params.items()},
            dict(request.query_params),
            body,
            request,
        )


def _most_specific_first() -> list[tuple[str, Any]]:
    """`/file/search` before `/file/{file}`: the first route that fits is taken."""
    return sorted(ENDPOINTS.items(), key=lambda item: ("{" in item[1].path, item[1].path.count("{")))


async def _bounded(request: Request) -> bytes:
    said = request.headers.get("content-length", "0")
    if said.isdecimal() and int(said) > MAX_JSON:
        raise Problem(413, "the body is larger than 64 MiB; send it in several requests")
    pieces, size = [], 0
    async for piece in request.stream():
        size += len(piece)
        if size > MAX_JSON:
            raise Problem(413, "the body is larger than 64 MiB; send it in several requests")
        pieces.append(piece)
    return b"".join(pieces)


def _parsed(body: bytes) -> Any:
    if not body.strip():
        return {}
    try:
        return strictjson.loads(body)
    except (ValueError, RecursionError) as exc:
        raise Problem(400, f"the body is not JSON: {str(exc)[:200]}") from exc


def _body(result: Any) -> bytes:
    envelope: dict[str, Any] = {"success": True, "result": result}
    if isinstance(result, Page):
        envelope = {"success": True, "result": result.result, "next": result.next}
    try:
        return json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # Lone surrogates, which JSON can hold in escapes only.
        return json.dumps(envelope, separators=(",", ":")).encode()


def _ok(body: bytes) -> Response:
    return Response(body, media_type="application/json")


def _failure(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    body = json.dumps({"success": False, "msg": message})
    return Response(body, status, headers, media_type="application/json")


def _not_found(request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 404
    what = {404: "there is no such call", 405: "this call has another method"}.get(
        status, "the request is refused"
    )
    return _failure(status, f"{what}: {request.method} {request.scope['path'][:200]}")


def _broken(request: Request, exc: Exception) -> Response:
    reference = secrets.token_hex(6)
    log.error("%s: %s %s", reference, request.method, request.scope["path"], exc_info=exc)
    return _failure(500, f"an unexpected error; the platform's log has it under {reference}")
