"""One upload on its way to S3: one request for a small file, else parts, a few at once."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, BinaryIO

from libsafe_nb import s3wire
from libsafe_nb.errors import StorageError
from libsafe_nb.objects import Stored

if TYPE_CHECKING:
    from libsafe_nb.storage import Storage

PART = 16 * 1024 * 1024
"""Bytes a part of an upload. S3 takes 10,000 parts, so from 160 GB on the parts grow."""

MAX_PARTS = 10_000

IN_FLIGHT = 3
"""Parts of one upload under way at once, so at most 5 parts are in memory: 80 MB."""


class Upload:
    """One upload on its way: one request for a small file, else parts, a few at once."""

    def __init__(
        self, storage: Storage, container: str, path: str, key: str, arguments: Mapping[str, Any]
    ) -> None:
        self._storage, self._container, self._path, self._key = storage, container, path, key
        self._arguments = arguments
        self._target = {"Bucket": storage.bucket, "Key": key}

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
                content_type=self._arguments["ContentType"],
                metadata={k: v for k, v in self._arguments["Metadata"].items() if k != "sha256"},
            )
        return self._send_parts(source, first, part, expected)

    def _send_parts(self, source: BinaryIO, first: bytes, part: int, expected: str | None) -> Stored:
        s3 = self._storage.connected
        with self._storage.errors(self._key):
            upload = s3.create_multipart_upload(**self._target, **self._arguments)["UploadId"]
        total = 0
        sha256 = hashlib.sha256()
        try:
            with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="upload") as pool:
                running: set[Future[dict[str, Any]]] = set()
                done: list[dict[str, Any]] = []
                data, number = first, 1
                while data:
                    if len(running) >= IN_FLIGHT:
                        ended, running = wait(running, return_when=FIRST_COMPLETED)
                        done += [each.result() for each in ended]
                    running.add(pool.submit(self._send_part, upload, number, data))
                    sha256.update(data)
                    total += len(data)
                    data, number = _read(source, part), number + 1
                done += [each.result() for each in running]
            self._refuse_changed(sha256.hexdigest(), expected)
            parts = {"Parts": sorted(done, key=lambda each: each["PartNumber"])}
            with self._storage.errors(self._key):
                answer = s3.complete_multipart_upload(**self._target, UploadId=upload, MultipartUpload=parts)
        except BaseException:
            self._abort(upload)
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
        with self._storage.errors(self._key):
            answer = self._storage.connected.upload_part(
                **self._target,
                UploadId=upload,
                PartNumber=number,
                Body=data,
                ContentMD5=s3wire.content_md5(data),
            )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _refuse_changed(self, found: str, expected: str | None) -> None:
        if expected is not None and found != expected:
            raise StorageError(
                f"{self._storage.bucket}/{self._key}: the file changed while it was sent"
                f" (sha256 {expected[:12]}… before, {found[:12]}… now), so it was not stored",
                bucket=self._storage.bucket,
                key=self._key,
            )

    def _abort(self, upload: str) -> None:
        try:
            self._storage.connected.abort_multipart_upload(**self._target, UploadId=upload)
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
