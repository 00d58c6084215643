"""The bytes of files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libsafe_nb.compat import session
from libsafe_nb.compat.item import Item, id_of
from libsafe_nb.compat.reading import Reading
from libsafe_nb.compat.standin.s3_storage import Storage
from libsafe_nb.errors import AccessDenied, NotFound, ObjectNotFound
from libsafe_nb.objectstream import ObjectStream

__all__ = ["get_stream"]


def get_stream(storage: Storage | None, file: Any, *, connections: int = 1) -> ObjectStream | None:
    """
    Open a file for reading, as a seekable stream "that can be used like a native file stream reader". Vendor.

    Nothing is downloaded before it is read. None for what cannot be read: a file that is off-line, deleted or
    missing, or a folder.

    Parameters
    ----------
    storage
        `Request.Storage`; None stands for the current platform. Ours.
    file
        One of `Request.Files`; or, ours, a file's id.
    connections
        How many requests fetch at once what is read in order: more than one pays where the storage is far. Ours.

    Raises
    ------
    ObjectChanged
        From a read: another version took the place of the one that was opened.
    """
    opened = storage.session if storage is not None else session.current()
    found = _file(opened, file)
    path = str(found.get("fullpath") or found.get("path") or "")
    unreadable = found.get("deleted") in (1, "1", True) or found.get("online") is False
    if unreadable or not path.strip("/") or found.get("type") == "FOLDER":
        return None
    container = str(found.get("container_id") or (storage.container_id if storage else ""))
    reading = version = None
    if opened.attached is not None:
        pin = opened.attached.pins.get(id_of(found))
        if pin is not None:
            path, version = pin["path"], pin["version_id"]
        reading = Reading(opened.attached, container=container, file_id=id_of(found), path=path)
    try:
        ready = opened.prefetch.opening(id_of(found), container, path) if version is None else None
        stream = opened.storage.open(
            container, path, version_id=version, observer=reading, connections=connections, ready=ready
        )
    except ObjectNotFound:
        return None
    except AccessDenied as exc:
        if exc.facts.get("code") == "InvalidObjectState":
            return None
        raise
    if reading is not None:
        reading.opened(stream.size, stream.etag, stream.version_id)
    return stream


def _file(opened: session.Session, file: Any) -> Item:
    if isinstance(file, Mapping):
        return Item(file)
    try:
        return Item(opened.client.file(id_of(file)))
    except NotFound:
        return Item({"id": id_of(file), "deleted": 1})
