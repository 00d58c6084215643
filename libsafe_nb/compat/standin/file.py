"""
Files as the platform knows them: metadata, hashes, tags, versions, and new files.

The bytes of a file are read with `S3.File.get_stream`. Wherever a file's id is asked for, the file itself will do.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from libsafe_nb.compat import forms, session
from libsafe_nb.compat.item import Item, id_of
from libsafe_nb.errors import NotFound, UsageError

__all__ = [
    "add_tag",
    "delete",
    "get",
    "get_by_path",
    "get_hashes",
    "get_metadata",
    "get_tags",
    "get_versions",
    "list",
    "remove_tag",
    "restore",
    "search",
    "set_hash",
    "set_metadata",
    "set_metadata_values",
    "upload",
    "write",
]

REGISTERED_WITHIN = 5.0
"""Seconds that `upload` waits for the platform to know a new file's id."""


def get(file_id: Any) -> Item:
    """One file, with its hashes and tags. Ours."""
    return _row(session.current(), id_of(file_id))


def get_by_path(container_id: Any, path: str) -> Item | None:
    """The file at a path of a container, or None. Ours; the look-up behind it is seen."""
    here = session.current()
    here.outbox.settle()
    try:
        return _shown(here, here.client.file_by_path(id_of(container_id), path))
    except NotFound:
        return None


def list(container_id: Any) -> Iterator[Item]:
    """Files and folders of a container, fetched a page at a time: memory stays flat. Ours."""
    here = session.current()
    here.outbox.settle()
    return (_shown(here, each) for each in here.client.files(id_of(container_id)))


def search(conditions: Sequence[Mapping[str, Any]]) -> Iterator[Item]:
    """
    Files for which all conditions hold, such as `{"property": "size", "operator": "gt", "value": 702}`.

    Properties and operators are the vendor's ("Advanced File Search"); `metadata.IECODE` is a property too.
    """
    here = session.current()
    here.outbox.settle()
    return (_shown(here, each) for each in here.client.search([dict(each) for each in conditions]))  # type: ignore[misc]


def get_metadata(file_id: Any, flatten: bool = False) -> Any:
    """
    The file's metadata, or None if it has none. Vendor; the shapes are ours.

    With `flatten` `{IECODE: value}`, a list where there are several values; else a list of
    `{"iecode": …, "value": […]}`.
    """
    here, file = session.current(), id_of(file_id)
    here.outbox.settle(f"file {file}")
    ready, found = here.prefetch.metadata(file)
    if not ready:
        found = here.client.metadata(file)
    return forms.flat(found) if flatten else found


def set_metadata(file_id: Any, metadata: Any) -> None:
    """
    Write metadata; a descriptor's values are replaced, unless its `action` is `add` or `remove`. Seen.

    Takes `'{"metadata": [{"iecode": "relation", "value": "aspace:1"}]}'`, the same as a dictionary, a list of
    descriptors, or `{"relation": "aspace:1"}`.

    Raises
    ------
    UsageError
        It is none of these; nothing was sent.
    """
    session.current().outbox.metadata("file", id_of(file_id), forms.descriptors(metadata))


def set_metadata_values(file_id: Any, values: Any) -> None:
    """As `set_metadata`, from `'[{"iecode": "relation", "value": ["aspace:1"]}]'`: a list, its values lists. Seen."""
    session.current().outbox.metadata("file", id_of(file_id), forms.descriptors(values))


def set_hash(file_id: Any, algorithm: str, value: str) -> None:
    """
    Store a hash of the file, such as `set_hash(file.id, "md5", digest.hexdigest())`. Vendor.

    Raises
    ------
    UsageError
        The value is no digest of that algorithm; nothing was sent.
    """
    name, digest = forms.hash_value(algorithm, value)
    session.current().outbox.hash(id_of(file_id), name, digest)


def get_hashes(file_id: Any) -> dict[str, str]:
    """The stored hashes, `{"md5": …}`. Ours."""
    return dict(_row(session.current(), id_of(file_id)).get("hashes") or {})


def upload(
    container_id: Any,
    path: str,
    source: bytes | bytearray | memoryview | Path | BinaryIO,
    content_type: str | None = None,
    *,
    allow_secrets: bool = False,
) -> Item:
    """
    Store a file in the container: bytes, a file on disk as a `Path`, or an open binary stream. Ours.

    The bytes are searched for the keys of the run, as they stand and in their usual encodings; of a file of up to 64
    MiB its gzip, zip, pickles and the like too. With `allow_secrets` keys are stored, and the record says so.

    Equal bytes at the same path are not stored again; others become a new version. The answer has `fullpath`,
    `size`, `version_id`, `sha256` and `created`, and the platform's fields, `id` among them, once it knows the file.

    Raises
    ------
    SecretFound
        A key of the run stands in the file. No version of it appears.
    """
    if isinstance(source, str):
        raise UsageError(
            f"{path}: expected bytes, a Path or a stream, found text; use `write`, or Path(…) for a file"
        )
    here, container = session.current(), id_of(container_id)
    data = bytes(source) if isinstance(source, (bytearray, memoryview)) else source
    stored = here.outbox.write(container, path, data, content_type, allow_secrets=allow_secrets)
    known = _registered(here, container, stored.path, stored.etag)
    return Item(
        {
            "container_id": container,
            "fullpath": f"/{stored.path}",
            **known,
            "size": stored.size,
            "version_id": stored.version_id,
            "etag": stored.etag,
            "sha256": stored.sha256,
            "created": stored.created,
        }
    )


def write(
    container_id: Any,
    path: str,
    data: str | bytes,
    content_type: str | None = None,
    *,
    allow_secrets: bool = False,
) -> Item:
    """Store text, as UTF-8, or bytes, as a file in the container; otherwise as `upload`. Ours."""
    encoded = data.encode() if isinstance(data, str) else data
    return upload(container_id, path, encoded, content_type, allow_secrets=allow_secrets)


def delete(file_id: Any) -> None:
    """Soft-delete: the file is hidden, and `restore` brings it back. Ours."""
    session.current().outbox.delete(id_of(file_id))


def restore(file_id: Any) -> None:
    session.current().outbox.delete(id_of(file_id), restore=True)


def get_versions(file_id: Any) -> builtins.list[Item]:
    """Newest first. Ours."""
    return [Item(each) for each in session.current().client.file_versions(id_of(file_id))]


def get_tags(file_id: Any) -> builtins.list[str]:
    """The ids of the file's tags. Ours."""
    return [str(each) for each in _row(session.current(), id_of(file_id)).get("tags") or ()]


def add_tag(file_id: Any, tag_id: Any) -> None:
    session.current().outbox.tag(id_of(file_id), id_of(tag_id))


def remove_tag(file_id: Any, tag_id: Any) -> None:
    session.current().outbox.tag(id_of(file_id), id_of(tag_id), remove=True)


def _row(here: session.Session, file: str) -> Item:
    here.outbox.settle(f"file {file}")
    return _shown(here, here.client.file(file))


def _shown(here: session.Session, row: Mapping[str, Any]) -> Item:
    here.shown(str(row["id"]))
    return Item(row)


def _registered(here: session.Session, container: str, path: str, etag: str) -> dict[str, Any]:
    """The platform's row of a new version; it may hear of it a moment later, as the bytes went to S3."""
    # Of what a replay did not store the platform hears nothing: it has the id of the original's file, or none.
    waits = 0.0 if here.outbox.stubbed else REGISTERED_WITHIN
    end = time.monotonic() + waits
    found: dict[str, Any] = {"id": "0"} if here.outbox.stubbed else {}
    while True:
        with_row = True
        try:
            found = dict(here.client.file_by_path(container, path))
        except NotFound:
            with_row = False
        if (with_row and found.get("etag") in (None, etag)) or time.monotonic() > end:
            return found
        time.sleep(0.1)
