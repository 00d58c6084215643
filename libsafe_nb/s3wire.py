"""
S3 on the wire: how boto3 is set up, what its answers mean, and where botocore's errors become ours.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from libsafe_nb import errors
from libsafe_nb.objectstream import Broken, Opened
from libsafe_nb.settings import S3Settings

TIMEOUT = (5, 60)
"""Seconds to wait for a connection, and for each further byte."""

ATTEMPTS = 5

_MD5 = re.compile(r"[0-9a-f]{32}")

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
_AWAY = {
    "500",
    "502",
    "503",
    "504",
    "InternalError",
    "ServiceUnavailable",
    "SlowDown",
    "RequestTimeout",
    "Throttling",
}


def connect(settings: S3Settings) -> Any:
    """
    A boto3 S3 client for one bucket's credentials; costs about 0.3 s, so it is made at the first use.

    Only `settings` count: no AWS profile, endpoint or credential of the environment is looked at.
    """
    # Imported here: half a second that a command which touches no object should not pay.
    import boto3
    import botocore.session
    from botocore.config import Config

    # An AWS_PROFILE that does not exist would otherwise stop a client that has its credentials in hand.
    nowhere = (None, None, None, None)
    core = botocore.session.Session({"profile": nowhere, "config_file": nowhere, "credentials_file": nowhere})
    session = boto3.session.Session(botocore_session=core)
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        connect_timeout=TIMEOUT[0],
        read_timeout=TIMEOUT[1],
        max_pool_connections=32,
        tcp_keepalive=True,
        # Newer boto3 adds CRC trailers that other servers than AWS refuse or drop; Content-MD5 all understand.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        ignore_configured_endpoint_urls=True,
    )
    return session.client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        config=config,
    )


class Boundary:
    """Within it, what boto3 raises becomes one of our `StorageError`s that names the object and the store."""

    def __init__(self, endpoint: str | None, bucket: str, key: str, opened: str | None) -> None:
        self._endpoint, self._bucket, self._key, self._opened = endpoint, bucket, key, opened

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc is None or isinstance(exc, errors.LibsafeError) or not isinstance(exc, Exception):
            return
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        if isinstance(exc, ClientError):
            raise self._refusal(exc) from exc
        if isinstance(exc, (BotoCoreError, HTTPError, OSError)):
            raise self._unreachable(exc) from exc

    def _refusal(self, exc: Any) -> errors.StorageError:
        told = exc.response.get("Error", {})
        code, message = str(told.get("Code", "")), str(told.get("Message", ""))
        status = str(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
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
        if code in _DENIED or status == "403":
            return self._error(
                errors.AccessDenied, f"access denied ({code}{': ' + message if message else ''})", code=code
            )
        if code in _AWAY or status in _AWAY:
            return self._error(
                errors.StorageUnreachable, f"no answer in {ATTEMPTS} tries; the last: {status} {code}"
            )
        return self._error(errors.StorageError, f"{status} {code}: {message}")

    def _unreachable(self, exc: Exception) -> errors.StorageError:
        # botocore's own sentence names the URL, whose query may hold a signature.
        reason = (
            str(getattr(exc, "kwargs", {}).get("error") or "")
            if type(exc).__module__.startswith("botocore")
            else str(exc)
        )
        what = type(exc).__name__ + (f": {reason}" if reason and "X-Amz-" not in reason else "")
        return self._error(errors.StorageUnreachable, f"the storage does not answer ({what})")

    def _error(self, kind: type[errors.StorageError], what: str, **facts: Any) -> errors.StorageError:
        place = f"{self._endpoint or 'AWS'}: {self._bucket}/{self._key}"
        return kind(f"{place}: {what}", bucket=self._bucket, key=self._key, **facts)


def opened(answer: Mapping[str, Any], start: int, key: str) -> Opened:
    """What a GET from `start` told: the size is that of the whole object."""
    size = int(answer["ContentLength"])
    found = answer.get("ContentRange")
    if start:
        # A server without ranges answers the whole object; its bytes would be taken for those from `start`.
        if not found or not str(found).startswith(f"bytes {start}-"):
            answer["Body"].close()
            raise errors.StorageError(
                f"{key}: expected bytes from {start}, found {found or 'the whole object'}", key=key
            )
        size = int(str(found).rpartition("/")[2])
    return Opened(answer["Body"], start, size, etag(answer["ETag"]), version(answer))


def take(body: Any, size: int) -> bytes:
    """Read up to `size` bytes of an answer's body; `Broken` where its connection dropped."""
    from botocore.exceptions import BotoCoreError
    from urllib3.exceptions import HTTPError

    try:
        data: bytes = body.read(size)
    except (BotoCoreError, HTTPError, OSError) as exc:
        raise Broken(type(exc).__name__) from exc
    return data


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
