"""
A platform's S3 storage: one bucket, keys `{container}/{path}`.

Only what a plain user may do is used: no bucket is listed or created, and a container's objects are found by
their prefix. Writes can be conditional, and one whose answer was lost is settled by looking at what is stored.
"""

from __future__ import annotations

import hashlib
import mimetypes
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from libsafe_nb import s3wire
from libsafe_nb.digests import digest
from libsafe_nb.errors import ObjectNotFound, PreconditionFailed, UsageError
from libsafe_nb.multipart import Upload
from libsafe_nb.objects import ObjectInfo, ObjectVersion, Stored
from libsafe_nb.objectstream import ObjectStream, Observer, Opened, Source
from libsafe_nb.settings import S3Settings

__all__ = ["ObjectInfo", "ObjectStream", "ObjectVersion", "Storage", "Stored"]

COPY = 8 * 1024 * 1024

_TYPES = {".ipynb": "application/x-ipynb+json", ".jsonl": "application/jsonl", ".md": "text/markdown"}


class Storage:
    """
    The objects of one bucket. Safe to use from several threads; made and pickled without connecting.

    `container` is its id and `path` the object's path in it, with or without the leading slash. A path with an
    empty or dot segment is refused (`UsageError`) before anything is sent: servers disagree on what it means.
    All methods raise the `StorageError`s of `errors.py`.
    """

    def __init__(self, settings: S3Settings) -> None:
        self.settings = settings
        self.bucket = settings.bucket
        self._made: Any = None
        self._making = threading.Lock()

    def __repr__(self) -> str:
        return f"Storage({self.settings.endpoint or 'AWS'!r}, bucket {self.bucket!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Storage, (self.settings,)

    def close(self) -> None:
        """Close the connections; a later call opens new ones."""
        with self._making:
            made, self._made = self._made, None
        if made is not None:
            made.close()

    # Writing

    def put(
        self,
        container: str,
        path: str,
        data: bytes,
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stored:
        """
        Store `data` in one request: for what fits in memory.

        Parameters
        ----------
        if_none_match
            Only if there is no such object. A versioned bucket counts one that was deleted as none.
        if_match
            Only if the object still has this etag.

        Returns
        -------
        Stored
            `created` is False where the condition failed but the stored bytes are `data`: that is either our own
            write, whose answer was lost, or someone's equal one, and both count as done.

        Raises
        ------
        PreconditionFailed
            The condition failed and other bytes are stored.
        """
        key = self.key(container, path)
        sha256 = hashlib.sha256(data).hexdigest()
        arguments: dict[str, Any] = {
            "ContentType": content_type or _content_type(path),
            "ContentMD5": s3wire.content_md5(data),
            "Metadata": {**s3wire.metadata(metadata), "sha256": sha256},
        }
        if if_none_match:
            arguments["IfNoneMatch"] = "*"
        if if_match is not None:
            arguments["IfMatch"] = s3wire.quoted(if_match)
        try:
            with self.errors(key):
                answer = self.connected.put_object(Bucket=self.bucket, Key=key, Body=data, **arguments)
        except PreconditionFailed:
            found = self._equal(container, path, data, sha256)
            if found is None:
                raise
            return Stored(
                container, _plain(path), len(data), found.etag, found.version_id, sha256, created=False
            )
        etag, version = s3wire.etag(answer["ETag"]), s3wire.version(answer)
        return Stored(container, _plain(path), len(data), etag, version, sha256, created=True)

    def upload(
        self,
        container: str,
        path: str,
        source: Path | BinaryIO,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stored:
        """
        Store a file of any size, in parts, each checked by its MD5; bytes that are there already are not sent.

        A file on disk, or a seekable stream, is read twice: for its digest, then to be sent. A stream that
        cannot seek is always sent, as its bytes are not known beforehand.

        Raises
        ------
        StorageError
            The file changed while it was sent. No object appears, nor does when sending fails or is interrupted.
        """
        if isinstance(source, Path):
            with source.open("rb") as stream:
                return self.upload(container, path, stream, content_type=content_type, metadata=metadata)
        key = self.key(container, path)
        expected: str | None = None
        size: int | None = None
        if source.seekable():
            start = source.tell()
            hashes = self._hashes_to_compare(container, path)
            size, expected, md5 = _measure(source, md5="md5" in hashes)
            source.seek(start)
            if hashes and size == hashes["size"]:
                found = self._same(container, path, size, expected, md5)
                if found is not None:
                    return Stored(
                        container, _plain(path), size, found.etag, found.version_id, expected, created=False
                    )
        more = {**s3wire.metadata(metadata), **({"sha256": expected} if expected else {})}
        arguments = {"ContentType": content_type or _content_type(path), "Metadata": more}
        return Upload(self, container, _plain(path), key, arguments).send(
            source, size=size, expected=expected
        )

    def delete(self, container: str, path: str) -> None:
        """Delete; on a versioned bucket the older versions stay. Nothing there is no error."""
        key = self.key(container, path)
        with self.errors(key):
            self.connected.delete_object(Bucket=self.bucket, Key=key)

    # Reading

    def get(self, container: str, path: str, *, version_id: str | None = None) -> bytes:
        """The whole object in memory."""
        with self.open(container, path, version_id=version_id) as stream:
            return stream.read()

    def download(self, container: str, path: str, target: Path, *, version_id: str | None = None) -> Stored:
        """
        Write the object to `target`, which appears only when it is whole; `sha256` is of the bytes written.

        Raises
        ------
        StorageError
            The digest stored with the object is another one than that of its bytes.
        """
        sha256 = hashlib.sha256()
        partial = target.with_name(f".{target.name}.{threading.get_ident()}.part")
        with self.open(container, path, version_id=version_id) as stream:
            try:
                with partial.open("wb") as file:
                    while block := stream.read(COPY):
                        sha256.update(block)
                        file.write(block)
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)
            return Stored(
                container,
                _plain(path),
                stream.size,
                stream.etag,
                stream.version_id,
                sha256.hexdigest(),
                created=False,
            )

    def open(
        self,
        container: str,
        path: str,
        *,
        version_id: str | None = None,
        observer: Observer | None = None,
    ) -> ObjectStream:
        """
        Open an object for reading, seekable, without downloading it whole.

        Without `version_id` it is the current version, and a read fails once another one took its place.

        Raises
        ------
        ObjectNotFound
            There is no such object. Raised here, not at the first read.
        """
        key = self.key(container, path)

        def open_at(start: int, etag: str | None) -> Opened:
            arguments: dict[str, Any] = {}
            if version_id is not None:
                arguments["VersionId"] = version_id
            if start:
                arguments["Range"] = f"bytes={start}-"
            if etag is not None:
                arguments["IfMatch"] = s3wire.quoted(etag)
            # An object that is gone or replaced since it was opened is a changed one, not a missing one.
            with self.errors(key, opened=etag):
                answer = self.connected.get_object(Bucket=self.bucket, Key=key, **arguments)
            return s3wire.opened(answer, start, key)

        return ObjectStream(Source(f"{self.bucket}/{key}", open_at, s3wire.take), observer=observer)

    def head(self, container: str, path: str, *, version_id: str | None = None) -> ObjectInfo:
        key = self.key(container, path)
        arguments = {} if version_id is None else {"VersionId": version_id}
        with self.errors(key):
            answer = self.connected.head_object(Bucket=self.bucket, Key=key, **arguments)
        return ObjectInfo(
            container=container,
            path=_plain(path),
            size=answer["ContentLength"],
            etag=s3wire.etag(answer["ETag"]),
            last_modified=answer["LastModified"],
            version_id=s3wire.version(answer),
            content_type=answer.get("ContentType"),
            metadata=answer.get("Metadata", {}),
        )

    def list(self, container: str, prefix: str = "") -> Iterator[ObjectInfo]:
        """The current objects of a container whose path begins with `prefix`, by path, a page at a time."""
        for page in self._pages("list_objects_v2", container, prefix):
            for each in page.get("Contents", ()):
                yield ObjectInfo(
                    container=container,
                    path=each["Key"].partition("/")[2],
                    size=each["Size"],
                    etag=s3wire.etag(each["ETag"]),
                    last_modified=each["LastModified"],
                )

    def versions(self, container: str, prefix: str = "") -> Iterator[ObjectVersion]:
        """Every version and delete marker, by path; of one path within one page of 1,000 the newest first."""
        for page in self._pages("list_object_versions", container, prefix):
            found = [(each, False) for each in page.get("Versions", ())]
            found += [(each, True) for each in page.get("DeleteMarkers", ())]
            # Newest first within a path, by two stable sorts.
            found.sort(key=lambda pair: pair[0]["LastModified"], reverse=True)
            found.sort(key=lambda pair: (pair[0]["Key"], not pair[0].get("IsLatest", False)))
            for each, deleted in found:
                yield ObjectVersion(
                    container=container,
                    path=each["Key"].partition("/")[2],
                    size=each.get("Size", 0),
                    etag=s3wire.etag(each.get("ETag", "")),
                    last_modified=each["LastModified"],
                    version_id=each["VersionId"],
                    latest=bool(each.get("IsLatest")),
                    deleted=deleted,
                )

    def exists(self, container: str, path: str) -> bool:
        try:
            self.head(container, path)
        except ObjectNotFound:
            return False
        return True

    def key(self, container: str, path: str) -> str:
        """
        The object's key.

        Raises
        ------
        UsageError
            An empty or dot segment, a control character, or more than 1,024 bytes.
        """
        if not container or "/" in container or container in (".", ".."):
            raise UsageError(f"container {container!r}: expected an id")
        plain = _plain(path)
        for segment in plain.split("/"):
            if segment in ("", ".", ".."):
                raise UsageError(f"{path!r}: expected a path in a container, found an empty or dot segment")
        key = f"{container}/{plain}"
        if any(ord(each) < 32 or ord(each) == 127 for each in plain):
            raise UsageError(f"{path!r}: expected a path in a container, found a control character")
        try:
            length = len(key.encode())
        except UnicodeEncodeError as exc:
            raise UsageError(
                f"{path!r}: expected a path in a container, found what is not Unicode text"
            ) from exc
        if length > 1024:
            raise UsageError(f"{path[:40]!r}…: expected a key of at most 1024 bytes, found {length}")
        return key

    @property
    def connected(self) -> Any:
        """The boto3 client, made at the first use."""
        with self._making:
            if self._made is None:
                self._made = s3wire.connect(self.settings)
            return self._made

    def errors(self, key: str, *, opened: str | None = None) -> s3wire.Boundary:
        """Within it, boto3's errors about `key` become ours; `opened` is the etag of a stream's object."""
        return s3wire.Boundary(self.settings.endpoint, self.bucket, key, opened)

    def _pages(self, call: str, container: str, prefix: str) -> Iterator[Any]:
        if not container or "/" in container:
            raise UsageError(f"container {container!r}: expected an id")
        key = f"{container}/{prefix.removeprefix('/')}"
        with self.errors(key):
            yield from self.connected.get_paginator(call).paginate(Bucket=self.bucket, Prefix=key)

    def _hashes_to_compare(self, container: str, path: str) -> dict[str, Any]:
        """What is stored at `path`: its size, and whether its etag can be compared with an MD5; empty for none."""
        try:
            found = self.head(container, path)
        except ObjectNotFound:
            return {}
        known: dict[str, Any] = {"size": found.size}
        if "sha256" not in found.metadata and s3wire.is_md5(found.etag):
            known["md5"] = found.etag
        return known

    def _same(self, container: str, path: str, size: int, sha256: str, md5: str | None) -> ObjectInfo | None:
        """The stored object, if its bytes have this size and these digests."""
        try:
            found = self.head(container, path)
        except ObjectNotFound:
            return None
        if found.size != size:
            return None
        if "sha256" in found.metadata:
            return found if found.metadata["sha256"] == sha256 else None
        if md5 is not None and s3wire.is_md5(found.etag):
            return found if found.etag == md5 else None
        digest = hashlib.sha256()
        with self.open(container, path) as stream:
            while block := stream.read(COPY):
                digest.update(block)
            return found if (stream.etag, digest.hexdigest()) == (found.etag, sha256) else None

    def _equal(self, container: str, path: str, data: bytes, sha256: str) -> ObjectInfo | None:
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return self._same(container, path, len(data), sha256, md5)


def _plain(path: str) -> str:
    return path.removeprefix("/")


def _content_type(path: str) -> str:
    suffix = Path(path).suffix.lower()
    return _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"


def _measure(source: BinaryIO, *, md5: bool) -> tuple[int, str, str | None]:
    """Size, sha256 and, if asked for, MD5 of the rest of a stream."""
    start = source.tell()
    found = digest(source, *(("sha256", "md5") if md5 else ("sha256",)))
    return source.tell() - start, found["sha256"], found.get("md5")
