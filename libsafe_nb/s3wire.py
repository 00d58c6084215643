"""
S3 on the wire: how boto3 is set up, how a call is repeated, what its answers mean, and where its errors become ours.

A call is repeated here and not by botocore, for three reasons. botocore repeats a put blindly, and one whose answer
was lost then leaves a second version; it counts attempts, where a caller wants to know how long a call may take; and
all threads share its 500 retry tokens, which an outage uses up in seconds. What botocore knows of passing errors, its
codes and exceptions, is taken over.

    UNRECEIVED   refused, 429, 503, SlowDown             until the budget is used up
    LOST         reset, cut short, time-out, 5xx         until the budget is used up; a write looks first, see `Call`
    GARBAGE      200 without what each such answer has   6 times in all
    CLOCK        403 RequestTimeTooSkewed                4 times in all: one server's clock of several may be wrong
    MUTE         403 to a HEAD, which can tell no code   4 times in all
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from types import TracebackType
from typing import Any, cast

from libsafe_nb import errors, wholehead
from libsafe_nb.fetching import Broken, Opened, close_body
from libsafe_nb.patience import Patience, moment, retry_after
from libsafe_nb.settings import S3Settings

TIMEOUT = (5, 60)
"""Seconds to wait for a connection, and for each further byte: the last try may outlast a call's budget by so much."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

_MISSING = {"NoSuchKey", "NoSuchVersion", "NotFound", "404", "MethodNotAllowed", "405"}
_DENIED = {
    "AccessDenied",
    "403",
    "Forbidden",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AllAccessDisabled",
}
_FAILED = {"PreconditionFailed", "412", "ConditionalRequestConflict"}
_SKEWED = {"RequestTimeTooSkewed", "RequestNotReadyYet", "RequestExpired"}
_NOT_NOW = {
    "SlowDown",
    "ServiceUnavailable",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "TooManyRequestsException",
    "RequestThrottled",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
}
_PASSING = {
    "InternalError",
    "RequestTimeout",
    "RequestTimeoutException",
    "PriorRequestNotComplete",
    "OperationAborted",
    # Two conditional writes at once, of which one may be our own earlier try.
    "ConditionalRequestConflict",
    # What arrived is not what was sent.
    "IncompleteBody",
    "BadDigest",
}

UNRECEIVED, LOST, GARBAGE, CLOCK, MUTE = "unreceived", "lost", "garbage", "clock", "mute"
TRIES = {GARBAGE: 6, CLOCK: 4, MUTE: 4}
"""How often in all a call is tried that meets this doubt; the others last as long as the budget."""

_PROOF: dict[str, tuple[str, ...]] = {
    "put_object": ("ETag",),
    "upload_part": ("ETag",),
    "create_multipart_upload": ("UploadId",),
    "complete_multipart_upload": ("ETag",),
    "get_object": ("ETag", "LastModified", "ContentLength"),
    "head_object": ("ETag", "LastModified", "ContentLength"),
    "list_objects_v2": ("IsTruncated",),
    "list_object_versions": ("IsTruncated",),
}
"""
What each true answer has.

botocore takes any 200 for one: a proxy's page for a put that was stored, an empty body for a listing without objects.
"""
_NO_CONTENT = {"delete_object", "abort_multipart_upload"}
"""Answered with 204, which no page is."""


SHORT = 256 * 1024
"""Bytes of a put that is sent without asking first."""


def connect(settings: S3Settings) -> Any:
    """
    A boto3 S3 client for one bucket's credentials; the first of a process costs about 0.5 s, so it is made at its first use.

    Only `settings` count: no AWS profile, endpoint or credential of the environment is looked at.
    """
    # Imported here: half a second that a command which touches no object should not pay.
    from botocore.config import Config

    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        # `Call` repeats.
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=TIMEOUT[0],
        read_timeout=TIMEOUT[1],
        max_pool_connections=32,
        tcp_keepalive=True,
        # Newer boto3 adds CRC trailers that other servers than AWS refuse or drop; Content-MD5 all understand.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,
    )
    # Clients may be used from several threads, a session not.
    with _SESSION:
        client = _session().client(
            "s3",
            endpoint_url=settings.endpoint,
            region_name=settings.region,
            aws_access_key_id=settings.access_key,
            aws_secret_access_key=settings.secret_key,
            config=config,
        )
    wholehead.insist(client)
    client.meta.events.register_last("before-call.s3", _unasked)
    return client


def _unasked(params: dict[str, Any], **_: Any) -> None:
    """Send what is short at once: to ask first whether it may be sent (`Expect: 100-continue`) takes as long."""
    body = params.get("body")
    if isinstance(body, io.BytesIO) and body.getbuffer().nbytes <= SHORT:
        params["headers"].pop("Expect", None)


_SESSION = threading.Lock()


@cache
def _session() -> Any:
    """One for all clients of the process: it keeps the service's description, whose reading is most of a client's cost."""
    import boto3
    import botocore.session

    # An AWS_PROFILE that does not exist would otherwise stop a client that has its credentials in hand.
    nowhere = (None, None, None, None)
    core = botocore.session.Session({"profile": nowhere, "config_file": nowhere, "credentials_file": nowhere})
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    return boto3.session.Session(botocore_session=core)


def _timestamp(value: Any) -> datetime:
    """A time in an answer. botocore's way, through dateutil, is two thirds of the time of a listing."""
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        from botocore.utils import parse_timestamp

        return cast(datetime, parse_timestamp(value))
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


class _NoAnswerError(Exception):
    """An HTTP 200 that lacks what every such answer has."""


@dataclass
class Call:
    """
    One operation, repeated until its answer is certain or its time is up.

    Attributes
    ----------
    send
        boto3's method of that name.
    settle
        For a write that must not act twice: looks whether the try whose answer was lost has acted, and gives its
        answer, or None after making the arguments such that a repeat acts only if nothing has acted since.
    stop
        Ends the waiting between tries.
    """

    operation: str
    send: Callable[..., Any]
    arguments: dict[str, Any]
    patience: Patience
    settle: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Mapping[str, Any]:
        """The answer; else boto3's exception, or one of those `Boundary` knows."""
        met, acted = Counter[str](), False
        while True:
            self.patience.tries += 1
            try:
                return self._once()
            except Exception as exc:
                doubt = self._doubt(exc, acted)
                if doubt is None:
                    if not acted or self.settle is None:
                        raise
                    # Refused, for what the lost try did: an upload that is complete already is gone.
                    settled = self.settle(self.arguments)
                    if settled is None:
                        raise
                    return settled
                met[doubt] += 1
                acted |= doubt in (LOST, GARBAGE)
                pause = self.patience.pause(least=_asked(exc))
                if met[doubt] >= TRIES.get(doubt, met.total() + 1) or pause is None or self.stop.wait(pause):
                    raise
            if acted and self.settle is not None:
                settled = self.settle(self.arguments)
                if settled is not None:
                    return settled

    def _once(self) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self.send(**self.arguments)
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        lacking = [name for name in _PROOF.get(self.operation, ()) if answer.get(name) in (None, "")]
        if lacking or (self.operation in _NO_CONTENT and status != 204):
            close_body(answer.get("Body"))
            what = "with " + " and without ".join(["HTTP " + str(status), *lacking])
            raise _NoAnswerError(f"an answer {what}")
        return answer

    def _doubt(self, exc: Exception, acted: bool) -> str | None:
        """Which doubt an exception is; None where it is certain, or nothing that passes."""
        from botocore.exceptions import (
            BotoCoreError,
            ClientError,
            ConnectionError,
            ConnectTimeoutError,
            EndpointConnectionError,
            HTTPClientError,
            IncompleteReadError,
            SSLError,
        )
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError

        if isinstance(exc, ClientError):
            return self._refusal(exc, acted)
        if isinstance(exc, (_NoAnswerError, ResponseParserError)):
            return GARBAGE
        if isinstance(exc, (EndpointConnectionError, ConnectTimeoutError)):
            return UNRECEIVED
        if isinstance(exc, SSLError):
            # A connection that ends amid the handshake says nothing of the certificate.
            return UNRECEIVED if "EOF" in str(exc) else None
        if isinstance(exc, (ConnectionError, HTTPClientError, IncompleteReadError)):
            return LOST
        return LOST if isinstance(exc, (HTTPError, OSError)) and not isinstance(exc, BotoCoreError) else None

    def _refusal(self, exc: Any, acted: bool) -> str | None:
        code, status = _code(exc), _status(exc)
        if code in _SKEWED:
            return CLOCK
        if status in (429, 503) or code in _NOT_NOW:
            return UNRECEIVED
        # botocore makes a 500 of a 200 whose body it cannot read, so a put's page is taken for an outage's.
        if (status >= 500 and status not in (501, 505)) or code in _PASSING:
            return LOST
        if status == 412 and acted and self.settle is not None:
            # The condition that `settle` added: look again.
            return LOST
        return MUTE if status == 403 and self.operation == "head_object" else None


def _code(exc: Any) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


def _status(exc: Any) -> int:
    return int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _headers(exc: Any) -> Mapping[str, str]:
    found: Mapping[str, str] = exc.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return found


def _asked(exc: Any) -> float | None:
    return retry_after(_headers(exc)) if hasattr(exc, "response") and isinstance(exc.response, dict) else None


class Boundary:
    """
    Within it, what boto3 raises becomes one of our `StorageError`s that names the object and the store.

    `opened` is the etag of a stream's object; `patience` what a call had.
    """

    def __init__(
        self, endpoint: str | None, bucket: str, key: str, opened: str | None, patience: Patience
    ) -> None:
        self._endpoint, self._bucket, self._key, self._opened = endpoint, bucket, key, opened
        self._patience = patience

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is None or isinstance(exc, errors.LibsafeError) or not isinstance(exc, Exception):
            return
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError
        from urllib3.exceptions import HTTPError

        if isinstance(exc, ClientError):
            raise self._refusal(exc) from exc
        if isinstance(exc, (_NoAnswerError, ResponseParserError)):
            what = str(exc) if isinstance(exc, _NoAnswerError) else "what cannot be parsed"
            raise self._error(
                errors.StorageError, f"expected an answer of S3, found {what}; is this the S3 endpoint?"
            ) from exc
        if isinstance(exc, (BotoCoreError, HTTPError, OSError)):
            raise self._unreachable(exc) from exc

    def _refusal(self, exc: Any) -> errors.StorageError:
        told = exc.response.get("Error", {})
        code, message = _code(exc), str(told.get("Message", ""))
        status = str(_status(exc) or "")
        if code in _FAILED or status == "412":
            if self._opened is not None:
                return self._error(
                    errors.ObjectChanged,
                    f"expected the object that was opened (etag {self._opened}), which is no longer the current one",
                )
            return self._error(
                errors.PreconditionFailed,
                "the condition of the write does not hold: the object is there, or is another one",
            )
        if code == "NoSuchBucket":
            return self._error(errors.StorageError, "there is no such bucket")
        if code in _MISSING or status == "404":
            if self._opened is not None:
                return self._error(errors.ObjectChanged, "the object was deleted since it was opened")
            return self._error(errors.ObjectNotFound, "there is no such object")
        if code == "InvalidObjectState":
            return self._error(errors.AccessDenied, "the object is in an off-line storage class", code=code)
        if code in _SKEWED:
            return self._error(errors.StorageError, _clocks(exc), code=code)
        if code in _DENIED or status == "403":
            return self._error(
                errors.AccessDenied, f"access denied ({code}{': ' + message if message else ''})", code=code
            )
        if code in _NOT_NOW or code in _PASSING or status == "429" or status in ("500", "502", "503", "504"):
            return self._unanswered(f"{status} {code}".strip())
        return self._error(errors.StorageError, f"{status} {code}: {message}", code=code)

    def _unreachable(self, exc: Exception) -> errors.StorageError:
        # botocore's own sentence names the URL, whose query may hold a signature.
        reason = (
            str(getattr(exc, "kwargs", {}).get("error") or "")
            if type(exc).__module__.startswith("botocore")
            else str(exc)
        )
        return self._unanswered(
            type(exc).__name__ + (f": {reason}" if reason and "X-Amz-" not in reason else "")
        )

    def _unanswered(self, last: str) -> errors.StorageError:
        what = f"the storage does not answer in {self._patience.spent()}; the last: {last}"
        return self._error(errors.StorageUnreachable, what)

    def _error(self, kind: type[errors.StorageError], what: str, **facts: Any) -> errors.StorageError:
        place = f"{self._endpoint or 'AWS'}: {self._bucket}/{self._key}"
        return kind(f"{place}: {what}", bucket=self._bucket, key=self._key, **facts)


def _clocks(exc: Any) -> str:
    """The sentence about two clocks that differ, by how much if the server told its time."""
    from botocore import auth

    told = exc.response.get("Error", {})
    theirs = _iso(told.get("ServerTime")) or moment(_headers(exc).get("date"))
    sentence = "the storage refuses the time of the request: its clock and this machine's differ"
    if theirs is None:
        return sentence + "; set this machine's clock"
    # The clock that signed the request.
    seconds = auth.get_current_datetime().replace(tzinfo=UTC).timestamp() - theirs
    size = f"{abs(seconds) / 3600:.1f} h" if abs(seconds) >= 5400 else f"{abs(seconds) / 60:.0f} min"
    return f"{sentence} by {size}, this machine's is {'ahead' if seconds > 0 else 'behind'}"


def _iso(value: Any) -> float | None:
    try:
        return datetime.fromisoformat(str(value)).timestamp()
    except ValueError:
        return None


def opened(answer: Mapping[str, Any], start: int, key: str) -> Opened:
    """What a GET from `start` told: the size is that of the whole object."""
    size = end = int(answer["ContentLength"])
    found = _RANGE.fullmatch(str(answer.get("ContentRange") or ""))
    if found:
        end, size = int(found[2]) + 1, int(found[3])
    # A server without ranges answers the whole object; its bytes would be taken for those from `start`.
    if (int(found[1]) if found else 0) != start:
        answer["Body"].close()
        raise errors.StorageError(
            f"{key}: expected bytes from {start}, found {answer.get('ContentRange') or 'the whole object'}",
            key=key,
        )
    stored = answer.get("Metadata", {}).get("sha256")
    return Opened(answer["Body"], start, end, size, etag(answer["ETag"]), version(answer), stored)


def take(body: Any, size: int) -> bytes:
    """Read up to `size` bytes of an answer's body; `Broken` where its connection dropped."""
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    try:
        data: bytes = body.read(size)
    except (BotoCoreError, HTTPError, OSError) as exc:
        raise Broken(type(exc).__name__) from exc
    return data


def age(answer: Mapping[str, Any]) -> float:
    """Seconds between an object's `Last-Modified` and the answer's own `Date`; 0.0 where it has none."""
    date = moment(answer["ResponseMetadata"]["HTTPHeaders"].get("date"))
    stored: float = answer["LastModified"].timestamp()
    return 0.0 if date is None else date - stored


def etag(value: str) -> str:
    return value.strip('"')


def quoted(value: str) -> str:
    return value if value == "*" else f'"{etag(value)}"'


def version(answer: Mapping[str, Any]) -> str | None:
    found = answer.get("VersionId")
    return None if found in (None, "", "null") else str(found)


def is_md5(found: str) -> bool:
    """Whether an etag is an MD5 of the bytes. A part count makes it another; so may encryption, which cannot be seen."""
    return bool(_MD5.fullmatch(found))


def content_md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def metadata(given: Mapping[str, str] | None) -> dict[str, str]:
    """User metadata as headers can carry it: not every server decodes what is not ASCII, so it is refused."""
    for name, value in (given or {}).items():
        if not (name.isascii() and value.isascii() and value.isprintable()):
            raise errors.UsageError(f"metadata {name!r}: expected printable ASCII, found {value[:40]!r}")
    return dict(given or {})
