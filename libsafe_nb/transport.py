"""
One HTTP exchange with the platform, repeated where that is safe, until its answer is certain or its time is up.

The protocol is the envelope `{"success": true, "result": …}`. HTTP 200 alone proves nothing: real clients have
seen `{"success": false, "msg": …}` inside it (platform.md 1.1), and proxies answer 200 with a page of HTML.

What is not certain is one of four doubts, and each is worth its own patience:

    UNRECEIVED   refused, 429, 503                 anything is sent again, until the budget is used up
    LOST         reset, cut short, time-out, 5xx   what is repeatable, until the budget is used up
    GARBAGE      200 that is not the protocol      what is repeatable, 6 times in all: about 3 s
    REFUSED      200 with `success: false`         what is repeatable, 3 times in all, at once
"""

from __future__ import annotations

import json as jsonlib
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from libsafe_nb import errors
from libsafe_nb.patience import BUDGET, LONGEST, Patience, retry_after

SAFE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Methods that may be repeated: twice is the same as once."""

FULL = 429
NOT_NOW = frozenset({FULL, 503})
"""Answers that say that the request was not acted on."""

GATEWAY = frozenset({502, 504})
"""A gateway's answers in place of the platform's, which may have received the request, and acted."""

NEVER = frozenset({501, 505})
"""The server cannot do this at all."""

UNRECEIVED, LOST, GARBAGE, REFUSED = "unreceived", "lost", "garbage", "refused"

TRIES = {
    # A page in place of an answer is mostly a wrong address or a log-in: waiting for a minute would only hide it.
    GARBAGE: 6,
    # Mostly what it says, a refusal. But instances answer so in passing, too: a database that is locked, a
    # restart behind their front. A refusal has not acted, so asking again costs two quick requests, and a run
    # that believed a passing one would fail for nothing.
    REFUSED: 3,
}
"""How often in all a request is tried that meets this doubt; the others last as long as the budget."""

QUICK = 0.2
"""Seconds at most before a refused request is asked again."""

MAX_ANSWER = 256 * 1024 * 1024
"""An answer of more bytes is given up: a page of 10,000 rows is about 6 MB."""

_KINDS = {
    401: errors.Unauthorized,
    403: errors.Forbidden,
    404: errors.NotFound,
    409: errors.Conflict,
}


@dataclass(frozen=True)
class Request:
    """
    What to send. `repeatable` says that a second copy does no harm, also when the first one was received.

    `json` is serialised here; `body` is sent as it is, with its `content_type`.
    """

    method: str
    url: str
    params: Mapping[str, Any] | None = None
    json: Any = None
    form: Mapping[str, str] | None = None
    files: Mapping[str, Any] | None = None
    body: bytes | None = None
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    when_full: bool = True
    """Whether a 429 is waited out, as other doubts are; else it is an error at once."""


class _Bearer(requests.auth.AuthBase):
    """
    Puts the key into the one header. As an auth object, `~/.netrc` cannot override it.

    The default repr shows no attribute, so the key is in none.
    """

    def __init__(self, key: str) -> None:
        self._header = f"Bearer {key}"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._header
        return request


class _DoubtfulError(Exception):
    """
    An answer that is not certain, or none.

    `error` is what to raise where it is not repeated, `kind` one of the four doubts, `wait` the seconds that the
    server asks for.
    """

    def __init__(self, error: errors.PlatformError, kind: str, *, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.kind = kind
        self.wait = wait


class Transport:
    """
    Sends requests to one platform with one key; safe to use from several threads.

    Parameters
    ----------
    timeout
        Seconds to wait for a connection, and for each further byte.
    budget
        Seconds for one exchange with all its repetitions, from the first byte sent to the last received.
    """

    def __init__(self, base: str, key: str, *, timeout: tuple[float, float], budget: float = BUDGET) -> None:
        self.timeout = timeout
        self.budget = budget
        self._session = _session(base, key)
        self._closing = threading.Event()

    def close(self) -> None:
        """Close the connections and end waits between repetitions."""
        self._closing.set()
        self._session.close()

    def send(self, request: Request) -> dict[str, Any]:
        """
        Send `request` and return the whole envelope of a successful answer.

        Raises
        ------
        Unreachable
            No answer within the budget, or only 5xx; or none at all, and the request must not be sent twice.
        Unauthorized, Forbidden, NotFound, Conflict
            The server's refusal, with its `msg`.
        PlatformError
            Another refusal, or an answer that is not the protocol's.
        """
        patience, met = Patience(self.budget), Counter[str]()
        while True:
            patience.tries += 1
            try:
                return self._once(request, patience.deadline)
            except _DoubtfulError as doubt:
                met[doubt.kind] += 1
                may_repeat = request.repeatable or doubt.kind == UNRECEIVED
                if doubt.error.status == FULL and not request.when_full:
                    raise doubt.error from doubt.__cause__
                if not may_repeat or met[doubt.kind] >= TRIES.get(doubt.kind, met.total() + 1):
                    raise doubt.error from doubt.__cause__
                pause = patience.pause(least=doubt.wait, most=QUICK if doubt.kind == REFUSED else LONGEST)
                if pause is None or self._closing.wait(pause):
                    if doubt.kind in TRIES:
                        raise doubt.error from doubt.__cause__
                    _give_up(request, doubt, patience)

    def _once(self, request: Request, deadline: float) -> dict[str, Any]:
        left = max(deadline - time.monotonic(), 0.05)
        headers = dict(request.headers)
        body: Any = request.body if request.form is None else dict(request.form)
        if request.json is not None:
            body = jsonlib.dumps(request.json, ensure_ascii=False, allow_nan=False).encode()
            headers["Content-Type"] = "application/json"
        elif request.content_type:
            headers["Content-Type"] = request.content_type
        try:
            response = self._session.request(
                request.method,
                request.url,
                params=request.params,
                data=body,
                files=request.files,
                headers=headers,
                timeout=(min(self.timeout[0], left), min(self.timeout[1], left)),
                # A redirect could carry the key, or turn a POST into a GET: it is told, not followed.
                allow_redirects=False,
                stream=True,
            )
            with response:
                found = _read(response, deadline)
        except requests.exceptions.ConnectTimeout as exc:
            raise _DoubtfulError(
                _error(errors.Unreachable, request, "no connection within the time-out"), UNRECEIVED
            ) from exc
        except (requests.RequestException, HTTPError, OSError) as exc:
            # A connection that ends amid the handshake is an SSLError too, and says nothing of the certificate.
            if isinstance(exc, requests.exceptions.SSLError) and "EOF" not in str(exc):
                what = f"its TLS certificate was not accepted: {_cause(exc)}"
                raise _error(errors.PlatformError, request, what) from exc
            # Refused at the door: nothing was received, so everything may be sent again.
            refused = "refused" in str(exc).lower() or "NewConnectionError" in repr(exc)
            raise _DoubtfulError(
                _error(errors.Unreachable, request, _cause(exc)), UNRECEIVED if refused else LOST
            ) from exc
        return _envelope(request, response, found)


def _session(base: str, key: str) -> requests.Session:
    session = requests.Session()
    session.auth = _Bearer(key)
    session.headers["Accept"] = "application/json"
    # Proxies and the certificate bundle are read from the environment once: requests would do it at each call.
    session.proxies.update(requests.utils.get_environ_proxies(base))
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    # Of plain HTTP there is nothing to verify, and requests would look for the certificates on the disk at each call.
    session.verify = (bundle or True) if base.startswith("https:") else False
    session.trust_env = False
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    adapter = HTTPAdapter(pool_connections=4, pool_maxsize=32, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _read(response: requests.Response, deadline: float) -> bytes:
    """The whole body, within the deadline also when the server sends it drop by drop."""
    parts, size = [], 0
    # `read1` returns what has arrived; `iter_content` would wait for a whole block, however slowly it drips.
    while part := response.raw.read1(64 * 1024, decode_content=True):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER:
            raise OSError(f"the answer is longer than {MAX_ANSWER} bytes")
        if time.monotonic() > deadline and response.raw.length_remaining != 0:
            raise TimeoutError("the answer was not complete when the time was up")
    return b"".join(parts)


def _envelope(request: Request, response: requests.Response, body: bytes) -> dict[str, Any]:
    status = response.status_code
    found = _object(body)
    message = found.get("msg") if found else None
    said = message if isinstance(message, str) and message else None
    if status in NOT_NOW:
        error = _error(errors.Unreachable, request, f"HTTP {status}: {said or 'not available now'}", status)
        raise _DoubtfulError(error, UNRECEIVED, wait=retry_after(response.headers))
    if 300 <= status < 400:
        place = urlsplit(response.headers.get("Location", ""))
        where = f"{place.scheme}://{place.netloc}{place.path}" if place.netloc else place.path
        raise _error(errors.PlatformError, request, f"redirects to {where}, which is not followed", status)
    if status in _KINDS:
        raise _error(_KINDS[status], request, f"HTTP {status}: {said or response.reason}", status)
    if status >= 500 and status not in NEVER:
        kind = errors.Unreachable if status in GATEWAY else errors.PlatformError
        error = _error(kind, request, f"HTTP {status}: {said or response.reason}", status)
        raise _DoubtfulError(error, LOST, wait=retry_after(response.headers))
    if status >= 400:
        raise _error(errors.PlatformError, request, f"HTTP {status}: {said or response.reason}", status)
    if found is None or not isinstance(found.get("success"), bool):
        what = f"expected a JSON object with `success`, found {_describe(response, body)}"
        raise _DoubtfulError(_error(errors.PlatformError, request, what, status), GARBAGE)
    if not found["success"]:
        what = said or f"success is false and there is no msg: {jsonlib.dumps(found)[:200]}"
        raise _DoubtfulError(_error(errors.PlatformError, request, what, status), REFUSED)
    return found


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = jsonlib.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _describe(response: requests.Response, body: bytes) -> str:
    kind = response.headers.get("Content-Type", "no content type").split(";")[0]
    start = body[:60].decode("utf-8", "replace")
    return f"{len(body)} bytes of {kind} beginning {start!r}" if body else f"an empty body ({kind})"


def _cause(exc: BaseException) -> str:
    """The innermost reason, without requests' and urllib3's wrapping, which repeats the URL."""
    reason: Any = exc
    while True:
        inner = getattr(reason, "reason", None) or next(
            (a for a in reason.args if isinstance(a, Exception)), None
        )
        if not isinstance(inner, Exception):
            break
        reason = inner
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    # urllib3 writes "<connection object at 0x…>: Failed to …", or puts its host and port before the reason.
    return str(reason).split(": ", 1)[-1].strip() or type(reason).__name__


def _error(
    kind: type[errors.PlatformError], request: Request, what: str, status: int | None = None
) -> errors.PlatformError:
    return kind(
        f"{request.method} {request.url}: {what}", method=request.method, url=request.url, status=status
    )


def _give_up(request: Request, doubt: _DoubtfulError, patience: Patience) -> NoReturn:
    what = str(doubt.error).split(": ", 1)[-1]
    if doubt.error.status in NOT_NOW:
        # It did answer, and said why not now.
        raise _error(
            errors.Unreachable, request, f"{what} (asked in {patience.spent()})", doubt.error.status
        ) from doubt.__cause__
    raise _error(
        errors.Unreachable,
        request,
        f"no answer in {patience.spent()}; the last: {what}",
        doubt.error.status,
    ) from doubt.__cause__
