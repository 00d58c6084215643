"""
One HTTP exchange with the platform, repeated where that is safe, until its answer is certain or its time is up.

The protocol is the envelope `{"success": true, "result": …}`. HTTP 200 alone proves nothing: real clients have
seen `{"success": false, "msg": …}` inside it (platform.md 1.1), and proxies answer 200 with a page of HTML.
"""

from __future__ import annotations

import json as jsonlib
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, InvalidHeader
from urllib3.util.retry import Retry

from libsafe_nb import errors

SAFE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Methods that may be repeated: twice is the same as once."""

BUSY = frozenset({429, 502, 503, 504})
"""Answers that say "not now"; repeated until the budget is used up."""

DOUBTFUL_TRIES = 4
"""How often a request is tried that is answered with 500 or with something that is not the protocol."""

MAX_ANSWER = 256 * 1024 * 1024
"""An answer of more bytes is given up: a page of 10,000 rows is about 6 MB."""

_POLICY = Retry(total=None, backoff_factor=0.1, backoff_max=5, backoff_jitter=0.2)
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
    """An answer that is not the protocol's, or no whole answer; `error` is what to raise in the end."""

    def __init__(self, error: errors.PlatformError, *, busy: bool = False, wait: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.busy = busy
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

    def __init__(self, base: str, key: str, *, timeout: tuple[float, float], budget: float) -> None:
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
            No answer within the budget; or none at all, and the request must not be sent twice.
        Unauthorized, Forbidden, NotFound, Conflict
            The server's refusal, with its `msg`.
        PlatformError
            Another refusal, or an answer that is not the protocol's.
        """
        deadline = time.monotonic() + self.budget
        policy, tries = _POLICY, 0
        while True:
            tries += 1
            try:
                return self._once(request, deadline)
            except _DoubtfulError as doubt:
                # A busy server has not acted, so even what must not be repeated may be sent again.
                may_repeat = doubt.busy or (request.repeatable and tries < DOUBTFUL_TRIES)
                unanswered = isinstance(doubt.error, errors.Unreachable)
                if not may_repeat and not (unanswered and request.repeatable):
                    raise doubt.error from doubt.__cause__
                policy = policy.increment(request.method, request.url, error=OSError())
                wait = doubt.wait if doubt.wait is not None else max(policy.get_backoff_time(), 0.05)
                if time.monotonic() + wait >= deadline or self._closing.wait(wait):
                    _give_up(request, doubt, tries, self.budget)

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
        except requests.exceptions.SSLError as exc:
            raise _error(
                errors.PlatformError, request, f"its TLS certificate was not accepted: {_cause(exc)}"
            ) from exc
        except requests.exceptions.ConnectTimeout as exc:
            raise _DoubtfulError(
                _error(errors.Unreachable, request, "no connection within the time-out"), busy=True
            ) from exc
        except (requests.RequestException, HTTPError, OSError) as exc:
            # Refused at the door: nothing was received, so everything may be sent again.
            refused = "refused" in str(exc).lower() or "NewConnectionError" in repr(exc)
            raise _DoubtfulError(_error(errors.Unreachable, request, _cause(exc)), busy=refused) from exc
        return _envelope(request, response, found)


def _session(base: str, key: str) -> requests.Session:
    session = requests.Session()
    session.auth = _Bearer(key)
    session.headers["Accept"] = "application/json"
    # Proxies and the certificate bundle are read from the environment once: requests would do it at each call.
    session.proxies.update(requests.utils.get_environ_proxies(base))
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    session.verify = bundle or True
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
        if time.monotonic() > deadline:
            raise TimeoutError("the answer was not complete when the time was up")
    return b"".join(parts)


def _envelope(request: Request, response: requests.Response, body: bytes) -> dict[str, Any]:
    status = response.status_code
    found = _object(body)
    message = found.get("msg") if found else None
    said = message if isinstance(message, str) and message else None
    if status in BUSY:
        error = _error(errors.Unreachable, request, f"HTTP {status}: {said or 'not available now'}", status)
        raise _DoubtfulError(error, busy=True, wait=_retry_after(response))
    if 300 <= status < 400:
        place = urlsplit(response.headers.get("Location", ""))
        where = f"{place.scheme}://{place.netloc}{place.path}" if place.netloc else place.path
        raise _error(errors.PlatformError, request, f"redirects to {where}, which is not followed", status)
    if status in _KINDS:
        raise _error(_KINDS[status], request, f"HTTP {status}: {said or response.reason}", status)
    if status >= 500:
        raise _DoubtfulError(
            _error(errors.PlatformError, request, f"HTTP {status}: {said or response.reason}", status)
        )
    if status >= 400:
        raise _error(errors.PlatformError, request, f"HTTP {status}: {said or response.reason}", status)
    if found is None or not isinstance(found.get("success"), bool):
        what = f"expected a JSON object with `success`, found {_describe(response, body)}"
        raise _DoubtfulError(_error(errors.PlatformError, request, what, status))
    if not found["success"]:
        what = said or f"success is false and there is no msg: {jsonlib.dumps(found)[:200]}"
        raise _error(errors.PlatformError, request, what, status)
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


def _retry_after(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After")
    if not value:
        return None
    try:
        return max(_POLICY.parse_retry_after(value), 0.05)
    except InvalidHeader:
        return None


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


def _give_up(request: Request, doubt: _DoubtfulError, tries: int, budget: float) -> NoReturn:
    times = f"{tries} tries" if tries > 1 else "1 try"
    what = str(doubt.error).split(": ", 1)[-1]
    raise _error(
        errors.Unreachable,
        request,
        f"no answer in {times} and {budget:g} s; the last: {what}",
        doubt.error.status,
    ) from doubt.__cause__
