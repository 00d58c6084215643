"""
The REST API of a LIBSAFE Go platform, call by call.

`Client.call` sends any call of the table in `endpoints.py`; the other methods name each of them, with typed
answers. Listings are generators that fetch page by page, so a container of a million files needs no more memory
than one of a thousand. How an exchange is repeated and judged is in `transport.py`.
"""

from __future__ import annotations

import json as jsonlib
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO
from urllib.parse import quote

from libsafe_nb.endpoints import ENDPOINTS
from libsafe_nb.errors import Conflict, PlatformError, SettingsError, Unreachable, UsageError
from libsafe_nb.patience import BUDGET
from libsafe_nb.settings import Settings, normalise_url
from libsafe_nb.shapes import (
    Condition,
    Container,
    Descriptor,
    File,
    Job,
    Message,
    Tag,
    User,
    Version,
    with_string_ids,
)
from libsafe_nb.transport import SAFE, Request, Transport

PAGE = 1000
"""Rows a page of a listing (the local platform's default; its most is 10,000)."""

CHUNK = 16 * 1024 * 1024
"""Bytes a chunk of an upload over REST."""

IMPORT_ROWS = 10_000
"""Rows a request of `import_files`."""

JOB_HEADER = "X-Libsafe-Job"
"""Whose call it is; a platform that does not know it leaves it unread."""

# The local platform honours the Idempotency-Key, so a POST that carries one may be repeated. A real platform
# is not known to; a container made twice there would stay, so that one call is never sent twice.
_NEVER_REPEATED = frozenset({"container_create", "user_create"})

_FIELD = re.compile(r"\{(\w+)(:path)?\}")


class Client:
    """
    One user's access to one platform; safe to use from several threads.

    Parameters
    ----------
    url
        The platform's address, with or without a trailing `/api`.
    key
        The user's API key. It goes into the `Authorization` header and nowhere else.
    timeout
        Seconds to wait for a connection, and for each further byte.
    budget
        Seconds for one call with all its repetitions. The platform itself ends a query after 600 s.
    job
        The job whose calls these are; told with each write, so that a function's own writes do not start it again.

    Raises
    ------
    SettingsError
        `url` is not an http(s) address, or the key cannot stand in a header. All methods raise the
        `PlatformError`s of `errors.py`.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: tuple[float, float] = (5, 60),
        budget: float = BUDGET,
        job: str | None = None,
    ) -> None:
        if not key or not key.isprintable() or not key.isascii() or " " in key:
            raise SettingsError(
                f"the API key for {url}: expected printable ASCII without spaces, found something else"
            )
        self.url = normalise_url(url)
        self.own_job = job
        self._transport = Transport(self.url, key, timeout=timeout, budget=budget)

    @classmethod
    def of(cls, settings: Settings, *, root: bool = False, budget: float = BUDGET) -> Client:
        """
        A client with the user's key of `settings`, or with `root` the root key.

        Raises
        ------
        SettingsError
            No address, or no such key, is configured.
        """
        key, name = (
            (settings.key_root, "LIBSAFE_KEY_ROOT") if root else (settings.key_user, "LIBSAFE_KEY_USER")
        )
        if settings.url is None or not key:
            missing = "LIBSAFE_URL" if settings.url is None else name
            raise SettingsError(f"{missing} is not set, so no call can be made to the platform")
        return cls(settings.url, key, budget=budget)

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. A later call opens new ones, but is not repeated."""
        self._transport.close()

    # Any call

    def call(
        self,
        name: str,
        *,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        files: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        idempotency_key: str | None = None,
        when_full: bool = True,
        **path_values: str | int,
    ) -> Any:
        """
        Send the call `name` of `ENDPOINTS` and return its `result`, ids as strings.

        `path_values` fill the braces of the endpoint's path. Every write carries an `Idempotency-Key`: the given
        one, else a new one, so that repeating it within this call, or later with the same key, acts once. Without
        `when_full` the answer that there are too many (429) is not waited out.
        """
        envelope = self._envelope(
            name,
            path_values,
            json,
            form,
            files,
            params,
            body,
            content_type,
            idempotency_key,
            when_full=when_full,
        )
        return with_string_ids(envelope.get("result"))

    def request(
        self, method: str, path: str, *, json: Any = None, params: Mapping[str, Any] | None = None
    ) -> Any:
        """
        Send a call that the table does not have, such as one of the instance's own API documentation.

        `path` is below `/api`. GET, PUT and DELETE are repeated where the answer was lost, POST is not.
        """
        method = method.upper()
        where = "/".join(_segment(each) for each in path.lstrip("/").split("/"))
        request = Request(
            method,
            f"{self.url}/{where}",
            params=params,
            json=json,
            headers=self._whose(),
            repeatable=method in SAFE,
        )
        return with_string_ids(self._transport.send(request).get("result"))

    def _whose(self) -> dict[str, str]:
        """What every request says of whose it is."""
        return {JOB_HEADER: self.own_job} if self.own_job else {}

    def _envelope(
        self,
        name: str,
        path_values: Mapping[str, str | int],
        json: Any = None,
        form: Mapping[str, str] | None = None,
        files: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        content_type: str | None = None,
        idempotency_key: str | None = None,
        *,
        when_full: bool = True,
    ) -> dict[str, Any]:
        endpoint = ENDPOINTS[name]
        headers = self._whose()
        if endpoint.method != "GET":
            headers["Idempotency-Key"] = idempotency_key or uuid.uuid4().hex
        return self._transport.send(
            Request(
                endpoint.method,
                self.url + _fill(endpoint.path, path_values),
                params=params,
                json=json,
                form=form,
                files=files,
                body=body,
                content_type=content_type,
                headers=headers,
                repeatable=name not in _NEVER_REPEATED,
                when_full=when_full,
            )
        )

    def pages(
        self,
        name: str,
        path_values: Mapping[str, str | int],
        *,
        params: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        page: int = PAGE,
    ) -> Iterator[Any]:
        """Rows of a paged list: `limit` and `after` go where the call's other arguments are."""
        after: Any = None
        while True:
            place = {"limit": page} if after is None else {"limit": page, "after": after}
            envelope = self._envelope(
                name,
                path_values,
                json=None if json is None else {**json, **place},
                params={**(params or {}), **place} if json is None else params,
            )
            yield from with_string_ids(envelope.get("result")) or ()
            before, after = after, envelope.get("next")
            # The same cursor twice would page for ever.
            if after is None or after == before:
                return

    # The platform and its users

    def health(self) -> Any:
        return self.call("health")

    def honours_idempotency(self) -> bool:
        """
        Whether the platform says that a write repeated with its `Idempotency-Key` acts once.

        The local platform does. One that does not say so, or knows no such call, counts as one that does not: there
        a message whose answer was lost may stand twice.

        Raises
        ------
        Unreachable
            Nobody answered, so nothing is known.
        """
        try:
            said = self.health()
        except Unreachable:
            raise
        except PlatformError:
            return False
        return isinstance(said, dict) and said.get("idempotency") is True

    def me(self) -> User:
        result: User = self.call("me")
        return result

    def create_user(self, name: str) -> User:
        """Create a user; the answer is the only one that ever holds its `key` and `s3`. Needs the root key."""
        result: User = self.call("user_create", json={"name": name})
        return result

    def revoke_key(self, user: str) -> None:
        self.call("user_key_revoke", user=user)

    def create_s3(self, user: str) -> Any:
        """Regenerate a user's S3 credentials; the old ones end at once."""
        return self.call("user_s3_create", user=user)

    def revoke_s3(self, user: str) -> None:
        self.call("user_s3_revoke", user=user)

    # Containers

    def containers(self) -> Iterator[Container]:
        return self.pages("container_list", {})

    def container(self, container: str) -> Container:
        result: Container = self.call("container_get", container=container)
        return result

    def create_container(
        self, name: str, *, description: str | None = None, fields: Mapping[str, str] | None = None
    ) -> Container:
        """
        Create a container. `fields` are further form fields, such as `metadata_schema_id` or `workflow_id`.

        Never repeated when the answer is lost, because a second container would stay: `Unreachable` then means
        that it may or may not exist.
        """
        form = {"name": name, **(fields or {})}
        if description is not None:
            form["description"] = description
        result: Container = self.call("container_create", form=form)
        return result

    def container_metadata(self, container: str) -> list[Descriptor] | None:
        """The container's descriptors; None when it has none."""
        result: list[Descriptor] | None = self.call("container_metadata_get", container=container)
        return result or None

    def set_container_metadata(
        self, container: str, metadata: Sequence[Descriptor], *, idempotency_key: str | None = None
    ) -> None:
        self.call(
            "container_metadata_set",
            container=container,
            json={"metadata": list(metadata)},
            idempotency_key=idempotency_key,
        )

    def grant(self, container: str, user: str) -> None:
        """Let another user work in a container."""
        self.call("container_grant", container=container, json={"user_id": user})

    def import_files(self, container: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """
        Register files that lie in the storage already, without looking at them; answers how many.

        Each row has `path` and `size`, and may have `mime`, `etag` and `date`. Sent in requests of 10,000 rows,
        so `rows` may be a generator of millions.
        """
        count = 0
        for batch in batches(rows, IMPORT_ROWS):
            lines = "".join(jsonlib.dumps(row, ensure_ascii=False) + "\n" for row in batch)
            self.call(
                "container_import",
                container=container,
                body=lines.encode(),
                content_type="application/x-ndjson",
            )
            count += len(batch)
        return count

    def open_notebook(self, container: str, path: str) -> Any:
        """Open a notebook; `Forbidden` for a user without an active API key or S3 credentials."""
        return self.call("notebook_open", container=container, path=path.lstrip("/"))

    # Files

    def files(self, container: str, *, page: int = PAGE) -> Iterator[File]:
        """Files and folders of a container, fetched `page` rows at a time while you iterate."""
        return self.pages("file_list", {"container": container}, page=page)

    def file(self, file: str) -> File:
        result: File = self.call("file_get", file=file)
        return result

    def file_by_path(self, container: str, path: str) -> File:
        """A file or folder by its path in the container, with or without the leading slash."""
        result: File = self.call("file_by_path", container=container, path=path.lstrip("/"))
        return result

    def search(self, conditions: Sequence[Condition], *, page: int = PAGE) -> Iterator[File]:
        """Files for which all conditions hold; metadata is the property `metadata.IECODE`."""
        return self.pages("file_search", {}, json={"conditions": list(conditions)}, page=page)

    def create_folder(self, container: str, path: str) -> None:
        """Create a folder; one that is there already is fine."""
        try:
            self.call("folder_create", container=container, json={"path": path.strip("/")})
        except Conflict:
            return

    def upload_file(self, container: str, source: Path | BinaryIO, *, name: str, folder: str = "") -> File:
        """
        Upload over REST, in chunks of 16 MiB, and answer the file as the platform then knows it.

        Use this where a user has an API key but no S3 credentials: `Storage.upload` is faster and checks the bytes.
        """
        if isinstance(source, Path):
            with source.open("rb") as stream:
                return self.upload_file(container, stream, name=name, folder=folder)
        folder, index = folder.strip("/"), 0
        while (chunk := source.read(CHUNK)) or index == 0:
            form = {"fileName": name, "chunkIndex": str(index), **({"path": folder} if folder else {})}
            self.call("file_upload", container=container, form=form, files={"file": (name, chunk)})
            index += 1
        # No field says which chunk is the last; the look-up makes the local platform put them together.
        return self.file_by_path(container, f"{folder}/{name}")

    def delete_file(self, file: str, *, idempotency_key: str | None = None) -> None:
        """Soft-delete: hidden, and `restore_file` brings it back."""
        self.call("file_delete", file=file, idempotency_key=idempotency_key)

    def restore_file(self, file: str, *, idempotency_key: str | None = None) -> None:
        self.call("file_restore", file=file, idempotency_key=idempotency_key)

    def file_versions(self, file: str) -> list[Version]:
        """Newest first."""
        return list(self.call("file_versions", file=file) or ())

    def set_storage_class(self, file: str, storage_class: str) -> None:
        """Move a file; one in an off-line class cannot be read."""
        self.call("file_storage_class", file=file, json={"storage_class_id": storage_class})

    def metadata(self, file: str) -> list[Descriptor] | None:
        """The file's descriptors; None when it has none."""
        result: list[Descriptor] | None = self.call("file_metadata_get", file=file)
        return result or None

    def set_metadata(
        self, file: str, metadata: Sequence[Descriptor], *, idempotency_key: str | None = None
    ) -> None:
        self.call(
            "file_metadata_set",
            file=file,
            json={"metadata": list(metadata)},
            idempotency_key=idempotency_key,
        )

    def set_metadata_of_many(self, items: Sequence[Mapping[str, Any]]) -> Any:
        """Each item: `id`, `metadata` and perhaps its own `idempotency_key`. All are written, or none."""
        return self.call("bulk_metadata", json={"items": list(items)})

    def metadata_of_many(self, files: Sequence[str]) -> dict[str, list[Descriptor] | None]:
        """The descriptors of each file, by its id; None where it has none."""
        found = self.call("bulk_metadata_get", json={"ids": list(files)})
        return {str(each["id"]): each["metadata"] or None for each in found}

    def tell_reads(self, files: Sequence[str]) -> None:
        """Tell which files were read; ours, and only where the platform says in `health` that it listens."""
        self.call("bulk_read", json={"ids": list(files)})

    def set_hash(self, file: str, algorithm: str, value: str, *, idempotency_key: str | None = None) -> None:
        self.call(
            "file_hash_set",
            file=file,
            json={"algorithm": algorithm, "value": value},
            idempotency_key=idempotency_key,
        )

    def set_hashes(self, items: Sequence[Mapping[str, str]]) -> Any:
        """Each item: `id`, `algorithm`, `value` and perhaps its own `idempotency_key`. All, or none."""
        return self.call("bulk_hash", json={"items": list(items)})

    # Tags

    def tags(self) -> Iterator[Tag]:
        return self.pages("tag_list", {})

    def create_tag(self, name: str) -> Tag:
        result: Tag = self.call("tag_create", json={"name": name})
        return result

    def delete_tag(self, tag: str) -> None:
        self.call("tag_delete", tag=tag)

    def tag_file(self, file: str, tag: str, *, idempotency_key: str | None = None) -> None:
        self.call("file_tag", file=file, tag=tag, idempotency_key=idempotency_key)

    def untag_file(self, file: str, tag: str, *, idempotency_key: str | None = None) -> None:
        self.call("file_untag", file=file, tag=tag, idempotency_key=idempotency_key)

    # Jobs and their messages

    def create_job(
        self,
        container: str,
        *,
        name: str | None = None,
        function_id: str | None = None,
        function_key: str | None = None,
        parent: str | None = None,
        files: Sequence[str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Create a job, QUEUED. `parent` is the id of the job that it is a part of."""
        body: dict[str, Any] = {"container_id": container}
        optional = {
            "name": name,
            "function_id": function_id,
            "function_key": function_key,
            "parent_id": parent,
            "file_ids": None if files is None else list(files),
        }
        body.update({key: value for key, value in optional.items() if value is not None})
        result: Job = self.call("job_create", json=body, idempotency_key=idempotency_key)
        return result

    def jobs(self, *, status: str | None = None, container: str | None = None) -> Iterator[Job]:
        params = {"status": status, "container_id": container}
        return self.pages("job_list", {}, params={k: v for k, v in params.items() if v is not None})

    def job(self, job: str) -> Job:
        result: Job = self.call("job_get", job=job)
        return result

    def job_key(self, job: str) -> str:
        """The key that signs what a job writes (`marks`)."""
        return str(self.call("job_key", job=job))

    def update_job(
        self,
        job: str,
        *,
        status: str | None = None,
        progress: float | None = None,
        result: Any = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """
        Change what is given; what is None stays.

        Raises
        ------
        Conflict
            The job has ended with another status.
        """
        body = {"status": status, "progress": progress, "result": result}
        answer: Job = self.call(
            "job_update",
            job=job,
            json={key: value for key, value in body.items() if value is not None},
            idempotency_key=idempotency_key,
        )
        return answer

    def messages(self, job: str) -> Iterator[Message]:
        """Oldest first."""
        return self.pages("job_messages", {"job": job})

    def message(
        self,
        job: str,
        message: str,
        *,
        type: str = "INFO",
        file: str | None = None,
        idempotency_key: str | None = None,
    ) -> Message:
        body = {"type": type, "message": message}
        if file is not None:
            body["file_id"] = file
        result: Message = self.call("job_message", job=job, json=body, idempotency_key=idempotency_key)
        return result

    def message_many(self, job: str, messages: Sequence[Mapping[str, Any]]) -> Any:
        """Each: `type`, `message`, and perhaps `file_id` and its own `idempotency_key`. All, or none."""
        return self.call("bulk_message", job=job, json={"messages": list(messages)})


def batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """`rows` in lists of `size`, the last one shorter (itertools.batched needs Python 3.12)."""
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _fill(path: str, values: Mapping[str, str | int]) -> str:
    """The endpoint's path with its braces filled and quoted; each value must be used and be there."""
    names = {match[1] for match in _FIELD.finditer(path)}
    if names != set(values):
        raise UsageError(f"{path}: expected values for {sorted(names)}, found {sorted(values)}")

    def fill(match: re.Match[str]) -> str:
        value = str(values[match[1]])
        if match[2]:
            return "/".join(_segment(each) for each in value.split("/"))
        return _segment(value)

    return _FIELD.sub(fill, path)


def _segment(value: str) -> str:
    # HTTP clients fold dot segments, so `..` would reach another call of the API.
    if value in ("", ".", ".."):
        raise UsageError(
            f"{value!r}: expected a name or an id in a path of the API, found an empty or dot segment"
        )
    return quote(value, safe="")
