"""
The platform's own hands on the store: as its administrator, straight to the S3 server, by blocking calls.

Run them in threads. boto3 is imported by `Objects.client`, since it takes half a second that a start need not wait for.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, ParamSpec, TypeVar

from libsafe_nb import marks
from libsafe_nb.errors import LocalPlatformError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StoreAccess:
    """Where the S3 server answers now, and the administrator's credentials, which are never published."""

    port: int
    access_key: str
    secret_key: str


@dataclass(frozen=True)
class ObjectHead:
    size: int
    etag: str
    mime: str
    version_id: str | None
    written: int
    """When, in nanoseconds; of whole seconds."""
    mark: str | None = None
    """Whose write it is, as the object's metadata says; `causes` tells what of it is true."""


@dataclass(frozen=True)
class Version:
    """One version of an object; `deleted` is a delete marker."""

    version_id: str
    size: int
    etag: str | None
    date: str
    latest: bool
    deleted: bool


def _ours(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """What boto3 raises becomes `LocalPlatformError`: for the caller of REST, the store is a part of the platform."""

    @functools.wraps(call)
    def wrapped(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return call(*arguments, **options)
        except (BotoCoreError, Boto3Error, ClientError) as exc:
            raise LocalPlatformError(f"the S3 server could not do its part; try again ({exc})") from exc

    return wrapped


class Objects:
    """`access` is asked at each call: the S3 server's port changes when it is started again on another."""

    def __init__(self, bucket: str, access: Callable[[], StoreAccess]) -> None:
        self.bucket = bucket
        self._access = access
        self._lock = threading.Lock()
        self._client: Any = None
        self._client_for: StoreAccess | None = None

    @property
    def client(self) -> Any:
        access = self._access()
        with self._lock:
            if self._client_for != access:
                self._client = _client(access)
                self._client_for = access
            return self._client

    @_ours
    def create_bucket(self) -> None:
        """Make the bucket and switch its versioning on; repeating it does no harm."""
        from botocore.exceptions import ClientError

        try:
            self.client.create_bucket(Bucket=self.bucket)
        except ClientError as exc:
            if _code(exc) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        self.client.put_bucket_versioning(Bucket=self.bucket, VersioningConfiguration={"Status": "Enabled"})

    @_ours
    def head(self, key: str) -> ObjectHead | None:
        """The latest version, or None when there is none or it is a delete marker."""
        from botocore.exceptions import ClientError

        try:
            found = self.client.head_object(Bucket=self.bucket, Key=key)
        except ClientError as exc:
            if _code(exc) in ("404", "NoSuchKey", "405", "MethodNotAllowed"):
                return None
            raise
        return ObjectHead(
            found["ContentLength"],
            found["ETag"].strip('"'),
            found.get("ContentType", ""),
            found.get("VersionId"),
            int(found["LastModified"].timestamp()) * 10**9,
            found.get("Metadata", {}).get(marks.NAME),
        )

    @_ours
    def read(self, key: str, *, version_id: str | None = None, limit: int | None = None) -> bytes:
        """The bytes of an object, the first `limit` of them at most."""
        version = {"VersionId": version_id} if version_id else {}
        with contextlib.closing(
            self.client.get_object(Bucket=self.bucket, Key=key, **version)["Body"]
        ) as body:
            return bytes(body.read(limit))

    @_ours
    def copy_into(self, key: str, target: IO[bytes], *, version_id: str | None) -> None:
        version = {"VersionId": version_id} if version_id else {}
        body = self.client.get_object(Bucket=self.bucket, Key=key, **version)["Body"]
        with contextlib.closing(body):
            for block in body.iter_chunks(8 * 1024 * 1024):
                target.write(block)

    @_ours
    def put(self, key: str, source: IO[bytes], mime: str, mark: str | None = None) -> ObjectHead:
        """Store a file's bytes from its current position on, in parts when it is large; `mark` is whose write it is."""
        about = {"ContentType": mime, **({} if mark is None else {"Metadata": {marks.NAME: mark}})}
        self.client.upload_fileobj(source, self.bucket, key, ExtraArgs=about)
        head = self.head(key)
        if head is None:
            raise LocalPlatformError(f"{key}: was stored and is gone again")
        return head

    @_ours
    def delete(self, keys: list[str]) -> None:
        """Put a delete marker on each: the versions stay."""
        for start in range(0, len(keys), 1000):
            listed = [{"Key": key} for key in keys[start : start + 1000]]
            answer = self.client.delete_objects(Bucket=self.bucket, Delete={"Objects": listed, "Quiet": True})
            for error in answer.get("Errors", []):
                raise LocalPlatformError(f"{error.get('Key')}: could not be deleted ({error.get('Message')})")

    @_ours
    def restore(self, key: str) -> ObjectHead | None:
        """Take the delete markers off the top, so that the last content is the latest again; None if none is left."""
        for version in self.versions(key):
            if not version.deleted:
                break
            self.client.delete_object(Bucket=self.bucket, Key=key, VersionId=version.version_id)
        return self.head(key)

    @_ours
    def versions(self, key: str) -> list[Version]:
        """All versions of one object, newest first."""
        pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=key)
        found = [
            _version(entry)
            for page in pages
            for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
            if entry["Key"] == key
        ]
        # The store makes its version ids so that a later one sorts first; its dates have whole seconds only.
        return sorted(found, key=lambda version: (not version.latest, version.version_id))

    @_ours
    def page(self, token: str | None, prefix: str = "") -> tuple[list[tuple[str, int, str]], str | None]:
        """1,000 objects' (key, size, etag), and the token of the next page."""
        following = {"ContinuationToken": token} if token else {}
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **following)
        objects = [(each["Key"], each["Size"], each["ETag"].strip('"')) for each in found.get("Contents", [])]
        return objects, found.get("NextContinuationToken")

    @_ours
    def knows(self, access_key: str, secret_key: str) -> bool:
        """Whether the S3 server accepts these credentials now."""
        from botocore.exceptions import ClientError

        port = self._access().port
        try:
            _client(StoreAccess(port, access_key, secret_key)).head_bucket(Bucket=self.bucket)
        except ClientError:
            return False
        return True


def _client(access: StoreAccess) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{access.port}",
        aws_access_key_id=access.access_key,
        aws_secret_access_key=access.secret_key,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "max_attempts": 4},
            max_pool_connections=32,
            connect_timeout=5,
            read_timeout=120,
        ),
    )


def _version(entry: dict[str, Any]) -> Version:
    deleted = "ETag" not in entry
    return Version(
        entry["VersionId"],
        entry.get("Size", 0),
        None if deleted else entry["ETag"].strip('"'),
        entry["LastModified"].strftime("%Y-%m-%d %H:%M:%S.%f"),
        entry["IsLatest"],
        deleted,
    )


def _code(exc: Any) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))
