"""A large object on its way into S3, from here or from another place there: one request, else parts, a few at once."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from typing import TYPE_CHECKING, Any, BinaryIO

from libsafe_nb import marks, s3wire
from libsafe_nb.errors import ObjectNotFound, StorageError
from libsafe_nb.objects import ObjectInfo, Stored

if TYPE_CHECKING:
    from libsafe_nb.storage import Storage

PART = 16 * 1024 * 1024
"""Bytes a part of an upload. S3 takes 10,000 parts, so from 160 GB on the parts grow."""

MAX_PARTS = 10_000

IN_FLIGHT = 3
"""Parts of one upload under way at once, so at most 5 parts are in memory: 80 MB."""


COPIED_WHOLE = 4 * 1024**3
"""Bytes of an object that is copied in one request; S3 takes up to 5 GiB."""

COPIED_PART = 1024**3

ABORT_SECONDS = 5.0
"""For the parts of a failed upload to be dropped; the caller waits for its error meanwhile."""


class Upload:
    """One upload on its way: one request for a small file, else parts, a few at once."""

    def __init__(
        self,
        storage: Storage,
        container: str,
        path: str,
        key: str,
        arguments: Mapping[str, Any],
        *,
        if_none_match: bool = False,
        if_match: str | None = None,
    ) -> None:
        self._storage, self._container, self._path, self._key = storage, container, path, key
        self._arguments = arguments
        self._if_none_match, self._if_match = if_none_match, if_match
        self._stop = threading.Event()

    def send(self, source: BinaryIO, *, size: int | None, expected: str | None) -> Stored:
        part = max(PART, -(-size // MAX_PARTS)) if size else PART
        first = _read(source, part)
        if len(first) < part:
            sha256 = hashlib.sha256(first).hexdigest()
            self._refuse_changed(sha256, expected)
            return self._storage.put(
                self._container,
                self._path,
                first,
                if_none_match=self._if_none_match,
                if_match=self._if_match,
                content_type=self._arguments["ContentType"],
                metadata={k: v for k, v in self._arguments["Metadata"].items() if k != "sha256"},
            )
        return self._send_parts(source, first, part, expected)

    def _send_parts(self, source: BinaryIO, first: bytes, part: int, expected: str | None) -> Stored:
        # Repeated blindly: an upload whose answer was lost holds no part, and no object comes of it.
        upload = str(self._call("create_multipart_upload", **self._arguments)["UploadId"])
        total = 0
        sha256 = hashlib.sha256()
        try:
            with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="upload") as pool:
                running: set[Future[dict[str, Any]]] = set()
                done: list[dict[str, Any]] = []
                data, number = first, 1
                try:
                    while data:
                        if len(running) >= IN_FLIGHT:
                            ended, running = wait(running, return_when=FIRST_COMPLETED)
                            done += [each.result() for each in ended]
                        running.add(pool.submit(self._send_part, upload, number, data))
                        sha256.update(data)
                        total += len(data)
                        data, number = _read(source, part), number + 1
                    # In the order they end: the first that failed is known at once.
                    done += [each.result() for each in as_completed(running)]
                except BaseException:
                    # The pool waits for its other parts: they are not repeated for a minute more.
                    self._stop.set()
                    raise
            self._refuse_changed(sha256.hexdigest(), expected)
            parts = sorted(done, key=lambda each: each["PartNumber"])
            answer = self._complete(upload, parts, total)
        except BaseException:
            _abort(self._storage, self._key, upload)
            raise
        return Stored(
            self._container,
            self._path,
            total,
            s3wire.etag(answer["ETag"]),
            s3wire.version(answer),
            sha256.hexdigest(),
            created=True,
        )

    def _send_part(self, upload: str, number: int, data: bytes) -> dict[str, Any]:
        answer = self._call(
            "upload_part",
            UploadId=upload,
            PartNumber=number,
            Body=data,
            ContentMD5=s3wire.content_md5(data),
            stop=self._stop,
        )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _complete(self, upload: str, parts: list[dict[str, Any]], size: int) -> Mapping[str, Any]:
        expected = _etag_of(parts)

        def settle(again: dict[str, Any]) -> Mapping[str, Any] | None:
            """An upload is completed once; the second time there is none. The object tells by its digests."""
            try:
                found = self._storage.head(self._container, self._path)
            except ObjectNotFound:
                return None
            sha256 = self._arguments["Metadata"].get("sha256")
            ours = found.etag == expected or (sha256 and found.metadata.get("sha256") == sha256)
            if found.size != size or not ours:
                return None
            return {"ETag": found.etag, "VersionId": found.version_id}

        conditions = {"IfNoneMatch": "*"} if self._if_none_match else {}
        if self._if_match is not None:
            conditions["IfMatch"] = s3wire.quoted(self._if_match)
        return self._call(
            "complete_multipart_upload",
            UploadId=upload,
            MultipartUpload={"Parts": parts},
            settle=settle,
            **conditions,
        )

    def _call(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        return self._storage.call(operation, self._key, **arguments)

    def _refuse_changed(self, found: str, expected: str | None) -> None:
        if expected is not None and found != expected:
            raise StorageError(
                f"{self._storage.bucket}/{self._key}: the file changed while it was sent"
                f" (sha256 {expected[:12]}… before, {found[:12]}… now), so it was not stored",
                bucket=self._storage.bucket,
                key=self._key,
            )


class Copying:
    """One object on its way to another key, within the storage; `source` is the very version that is copied."""

    def __init__(self, storage: Storage, source: ObjectInfo, key: str, target: str) -> None:
        self._storage, self._source, self._target = storage, source, target
        self._from: dict[str, Any] = {"Bucket": storage.bucket, "Key": key}
        self._condition: dict[str, Any] = {}
        if source.version_id is not None:
            self._from["VersionId"] = source.version_id
        else:
            self._condition["CopySourceIfMatch"] = s3wire.quoted(source.etag)

    def run(self, *, if_none_match: bool) -> None:
        arguments: dict[str, Any] = {"IfNoneMatch": "*"} if if_none_match else {}
        # Whose write it was is no matter of the copy.
        kept = {name: value for name, value in self._source.metadata.items() if name != marks.NAME}
        more = {"ContentType": self._source.content_type or "application/octet-stream", "Metadata": kept}
        if self._source.size <= COPIED_WHOLE:
            if marks.NAME in self._source.metadata:
                arguments |= {**more, "MetadataDirective": "REPLACE"}
            self._call(
                "copy_object", CopySource=self._from, **self._condition, **arguments, settle=self._settle
            )
            return
        upload = str(self._call("create_multipart_upload", **more)["UploadId"])
        try:
            parts = [
                self._copy_part(upload, number, at)
                for number, at in enumerate(range(0, self._source.size, COPIED_PART), 1)
            ]
            self._call(
                "complete_multipart_upload",
                UploadId=upload,
                MultipartUpload={"Parts": parts},
                **arguments,
                settle=self._settle,
            )
        except BaseException:
            _abort(self._storage, self._target, upload)
            raise

    def _copy_part(self, upload: str, number: int, at: int) -> dict[str, Any]:
        end = min(at + COPIED_PART, self._source.size) - 1
        answer = self._call(
            "upload_part_copy",
            UploadId=upload,
            PartNumber=number,
            CopySource=self._from,
            CopySourceRange=f"bytes={at}-{end}",
            **self._condition,
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    def _settle(self, again: dict[str, Any]) -> Mapping[str, Any] | None:
        container, _, path = self._target.partition("/")
        try:
            found = self._storage.head(container, path)
        except ObjectNotFound:
            return None
        known = self._source.metadata.get("sha256")
        same = found.metadata.get("sha256") == known if known else found.etag == self._source.etag
        return {} if same and found.size == self._source.size else None

    def _call(self, operation: str, **arguments: Any) -> Mapping[str, Any]:
        return self._storage.call(operation, self._target, **arguments)


def _abort(storage: Storage, key: str, upload: str) -> None:
    try:
        storage.call("abort_multipart_upload", key, UploadId=upload, budget=ABORT_SECONDS)
    except Exception:
        # The first error is the one to tell; the parts left behind are the bucket's to expire.
        return


def _read(source: BinaryIO, size: int) -> bytes:
    """Exactly `size` bytes unless the source ends: a pipe gives fewer at a time."""
    data = source.read(size)
    if len(data) in (0, size):
        return bytes(data)
    whole = io.BytesIO()
    while data:
        whole.write(data)
        data = source.read(size - whole.tell()) if whole.tell() < size else b""
    return whole.getvalue()


def _etag_of(parts: list[dict[str, Any]]) -> str:
    """The etag that S3 gives an object of these parts: the MD5 of their MD5s, and how many they are."""
    try:
        digests = b"".join(bytes.fromhex(s3wire.etag(each["ETag"])) for each in parts)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
