"""
A platform's S3 storage: one bucket, keys `{container}/{path}`.

Only what a plain user may do is used: no bucket is listed or created, and a container's objects are found by
their prefix. Writes can be conditional, and one whose answer was lost is settled by looking at what is stored: it is
repeated only if it did not act, so an outage leaves no second version. How a call is repeated is in `s3wire.py`.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from libsafe_nb import s3wire
from libsafe_nb.digests import digest
from libsafe_nb.errors import ObjectNotFound, PreconditionFailed, StorageError, UsageError
from libsafe_nb.fetching import Opened, Source
from libsafe_nb.listing import Listing
from libsafe_nb.multipart import Copying, Upload
from libsafe_nb.objects import ObjectInfo, ObjectVersion, Stored
from libsafe_nb.objectstream import ObjectStream, Observer
from libsafe_nb.patience import BUDGET, Patience
from libsafe_nb.settings import S3Settings

__all__ = ["ObjectInfo", "ObjectStream", "ObjectVersion", "Storage", "Stored"]

COPY = 8 * 1024 * 1024

_TYPES = {".ipynb": "application/x-ipynb+json", ".jsonl": "application/jsonl", ".md": "text/markdown"}


class Storage(Listing):
    """
    The objects of one bucket. Safe to use from several threads; made and pickled without connecting.

    `container` is its id and `path` the object's path in it, with or without the leading slash. A path with an
    empty or dot segment is refused (`UsageError`) before anything is sent: servers disagree on what it means.
    All methods raise the `StorageError`s of `errors.py`.

    Parameters
    ----------
    budget
        Seconds in which a request of a call is repeated while the storage does not answer, or answers what is no
        answer. A try that has begun is let end: 60 s after its last byte at most.
    """

    def __init__(self, settings: S3Settings, *, budget: float = BUDGET) -> None:
        self.settings = settings
        self.budget = budget
        self.bucket = settings.bucket
        self._made: Any = None
        self._making = threading.Lock()
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"Storage({self.settings.endpoint or 'AWS'!r}, bucket {self.bucket!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Storage, budget=self.budget), (self.settings,)

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
        conditional = if_none_match or if_match is not None

        def settle(again: dict[str, Any]) -> Mapping[str, Any] | None:
            found = self._current(container, path)
            if found is not None and _is(found, again):
                return _answer(found)
            # The lost try may still be under way: this one acts only if it did not.
            for condition in ("IfNoneMatch", "IfMatch"):
                again.pop(condition, None)
            again.update({"IfNoneMatch": "*"} if found is None else {"IfMatch": s3wire.quoted(found.etag)})
            return None

        try:
            # The condition itself keeps a conditional put from acting twice.
            answer = self.call(
                "put_object", key, Body=data, **arguments, settle=None if conditional else settle
            )
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
        if_none_match: bool = False,
        if_match: str | None = None,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stored:
        """
        Store a file of any size, in parts, each checked by its MD5; bytes that are there already are not sent.

        The conditions are those of `put`. They are looked at last, when all is sent.

        A file on disk, or a seekable stream, is read twice: for its digest, then to be sent. A stream that
        cannot seek is always sent, as its bytes are not known beforehand.

        Raises
        ------
        StorageError
            The file changed while it was sent. No object appears, nor does when sending fails or is interrupted.
        """
        if isinstance(source, Path):
            with source.open("rb") as stream:
                return self.upload(
                    container,
                    path,
                    stream,
                    if_none_match=if_none_match,
                    if_match=if_match,
                    content_type=content_type,
                    metadata=metadata,
                )
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
        upload = Upload(
            self,
            container,
            _plain(path),
            key,
            arguments,
            if_none_match=if_none_match,
            if_match=if_match,
        )
        return upload.send(source, size=size, expected=expected)

    def copy(
        self,
        container: str,
        path: str,
        target: str,
        *,
        source: ObjectInfo | None = None,
        if_none_match: bool = False,
    ) -> None:
        """
        Copy an object within its container, in the storage itself, with its type and its metadata.

        Parameters
        ----------
        source
            What `head` told of it; only that very object is copied. By default whatever is there now.
        if_none_match
            Only if there is nothing at `target`.

        Raises
        ------
        PreconditionFailed
            There is something at `target`, or the object is another one by now.
        """
        source = source or self.head(container, path)
        Copying(self, source, self.key(container, path), self.key(container, target)).run(
            if_none_match=if_none_match
        )

    def delete(self, container: str, path: str, *, if_match: str | None = None) -> None:
        """
        Delete; on a versioned bucket the older versions stay. Nothing there is no error.

        Raises
        ------
        PreconditionFailed
            With `if_match`: the object has another etag by now.
        """

        def settle(again: dict[str, Any]) -> Mapping[str, Any] | None:
            # A second delete would leave a second delete marker.
            return {} if self._current(container, path) is None else None

        conditions: dict[str, Any] = {} if if_match is None else {"IfMatch": s3wire.quoted(if_match)}
        try:
            self.call("delete_object", self.key(container, path), settle=settle, **conditions)
        except (ObjectNotFound, PreconditionFailed):
            # Servers differ in what they say to a condition about nothing.
            if self._current(container, path) is not None:
                raise

    # Reading

    def get(self, container: str, path: str, *, version_id: str | None = None) -> bytes:
        """
        The whole object in memory.

        Raises
        ------
        StorageError
            The digest stored with the object is another one than that of its bytes.
        """
        with self.open(container, path, version_id=version_id) as stream:
            data = stream.read()
            self.check_digest(stream, hashlib.sha256(data).hexdigest())
            return data

    def download(self, container: str, path: str, target: Path, *, version_id: str | None = None) -> Stored:
        """
        Write the object to `target`, which appears only when it is whole; `sha256` is of the bytes written.

        Raises
        ------
        StorageError
            The digest stored with the object is another one than that of its bytes.
        """
        sha256 = hashlib.sha256()
        part = target.with_name(f".libsafe-{uuid.uuid4().hex}.part")
        with self.open(container, path, version_id=version_id) as stream:
            try:
                with part.open("wb") as file:
                    while block := stream.read(COPY):
                        sha256.update(block)
                        file.write(block)
                self.check_digest(stream, sha256.hexdigest())
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
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
        connections: int = 1,
        ready: Opened | None = None,
    ) -> ObjectStream:
        """
        Open an object for reading, seekable, without downloading it whole.

        Without `version_id` it is the current version, and a read fails once another one took its place.

        Parameters
        ----------
        connections
            How many GETs fetch at once what is read in order. One is the fastest where the storage is near; where it
            takes long to answer, 4 to 8 wait at the same time.
        ready
            The answer to the first GET, if it is here already.

        Raises
        ------
        ObjectNotFound
            There is no such object. Raised here, not at the first read.
        """
        key = self.key(container, path)

        def open_at(start: int, length: int, etag: str | None, stop: threading.Event) -> Opened:
            arguments: dict[str, Any] = {"Range": f"bytes={start}-{start + length - 1}"}
            if version_id is not None:
                arguments["VersionId"] = version_id
            if etag is not None:
                arguments["IfMatch"] = s3wire.quoted(etag)

            def get() -> Mapping[str, Any]:
                # An object that is gone or replaced since it was opened is a changed one, not a missing one.
                return self.call("get_object", key, opened=etag, stop=stop, **arguments)

            try:
                answer = get()
            except StorageError as exc:
                if start or exc.facts.get("code") != "InvalidRange":
                    raise
                # An empty object has no range.
                del arguments["Range"]
                answer = get()
            return s3wire.opened(answer, start, key)

        if connections < 1:
            raise UsageError(f"connections: expected 1 or more, found {connections}")
        source = Source(f"{self.bucket}/{key}", open_at, s3wire.take, self.budget)
        return ObjectStream(source, observer=observer, connections=connections, ready=ready)

    def head(self, container: str, path: str, *, version_id: str | None = None) -> ObjectInfo:
        key = self.key(container, path)
        arguments: dict[str, Any] = {} if version_id is None else {"VersionId": version_id}
        answer = self.call("head_object", key, **arguments)
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

    def make_folder(self, container: str, folder: str) -> None:
        """
        Leave a marker, so that the folder is there without a file in it; one that is there already is fine.

        The local platform and the programs that show buckets as folders know such markers.
        """
        key = self.key(container, folder.strip("/")) + "/"
        # Without a condition: SeaweedFS takes the folder of what was deleted for such an object, and does not list it.
        self.call("put_object", key, Body=b"", ContentMD5=s3wire.content_md5(b""))

    def remove_folder(self, container: str, folder: str) -> None:
        """Remove a folder's marker, if it has one; what lies in the folder stays."""
        self.call("delete_object", self.key(container, folder.strip("/")) + "/")

    def age(self, container: str, path: str) -> float:
        """Seconds since the object was stored, by the clock of the storage; 0.0 where it does not tell its time."""
        return s3wire.age(self.call("head_object", self.key(container, path)))

    def exists(self, container: str, path: str) -> bool:
        return self._current(container, path) is not None

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
        """The boto3 client, made at the first use, and anew in a forked process: the connections are its parent's."""
        if self._process != os.getpid():
            self._process, self._making, self._made = os.getpid(), threading.Lock(), None
        with self._making:
            if self._made is None:
                self._made = s3wire.connect(self.settings)
            return self._made

    def call(
        self,
        operation: str,
        key: str | None,
        *,
        opened: str | None = None,
        settle: Callable[[dict[str, Any]], Mapping[str, Any] | None] | None = None,
        stop: threading.Event | None = None,
        budget: float | None = None,
        **arguments: Any,
    ) -> Mapping[str, Any]:
        """
        One of boto3's operations on this bucket, repeated as `s3wire.Call` says, with our errors.

        `key` is None for a listing. `opened` is the etag of a stream's object, which says what a missing one means.
        """
        patience = Patience(self.budget if budget is None else budget)
        arguments |= {"Bucket": self.bucket} if key is None else {"Bucket": self.bucket, "Key": key}
        name = key or arguments.get("Prefix", "")
        with s3wire.Boundary(self.settings.endpoint, self.bucket, name, opened, patience):
            send = getattr(self.connected, operation)
            # Making the client took up to a second.
            patience.begin()
            return s3wire.Call(operation, send, arguments, patience, settle, stop or threading.Event()).run()

    def check_digest(self, stream: ObjectStream, found: str) -> None:
        """Raise `StorageError` where the digest that was stored with an object is not that of the bytes that were read."""
        if stream.sha256 is not None and stream.sha256 != found:
            raise StorageError(
                f"{stream.name}: expected the bytes that were stored (sha256 {stream.sha256[:12]}…),"
                f" found others ({found[:12]}…)",
                bucket=self.bucket,
                key=stream.name.partition("/")[2],
            )

    def _current(self, container: str, path: str) -> ObjectInfo | None:
        try:
            return self.head(container, path)
        except ObjectNotFound:
            return None

    def _hashes_to_compare(self, container: str, path: str) -> dict[str, Any]:
        """What is stored at `path`: its size, and whether its etag can be compared with an MD5; empty for none."""
        found = self._current(container, path)
        if found is None:
            return {}
        known: dict[str, Any] = {"size": found.size}
        if "sha256" not in found.metadata and s3wire.is_md5(found.etag):
            known["md5"] = found.etag
        return known

    def _same(self, container: str, path: str, size: int, sha256: str, md5: str | None) -> ObjectInfo | None:
        """The stored object, if its bytes have this size and these digests."""
        found = self._current(container, path)
        if found is None or found.size != size:
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


def _is(found: ObjectInfo, put: Mapping[str, Any]) -> bool:
    """Whether an object is what a put with these arguments leaves: its type, and its metadata with the digest."""
    wanted = {name.lower(): value.strip() for name, value in put["Metadata"].items()}
    known = {name.lower(): value for name, value in found.metadata.items()}
    return (found.size, found.content_type, known) == (len(put["Body"]), put["ContentType"], wanted)


def _answer(found: ObjectInfo) -> dict[str, Any]:
    """What the lost answer of the write said that left `found`."""
    return {"ETag": found.etag, "VersionId": found.version_id}


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
