"""
The store's own event stream, read: what `weed filer.meta.tail` prints becomes changes of objects.

Pure: bytes in, changes out. How SeaweedFS 4.48 keeps a versioned object `1/a.txt` (looked at, not documented):
each version is a file `1/a.txt.versions/v_{version id}`, a delete marker an empty one with a flag; the folder
`a.txt.versions` itself carries which version is the latest, with its size and etag. That last record is the truth
about the object, written before the client has its answer; the version's file only adds the content type. A key that
ends in `/` (how S3 browsers make folders) is a folder with a MIME type. Parts of uploads lie in `.uploads`.
"""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

VERSIONS = ".versions"
REMEMBERED = 10_000
"""Versions whose content type and mark are kept until the record that makes them the latest comes."""
MARK = "X-Amz-Meta-Libsafe-Job"


@dataclass(frozen=True)
class Stored:
    """An object has this latest version. `mime` is None when it was told too long ago; then ask for it."""

    container: int
    path: str
    version_id: str
    size: int
    etag: str
    mime: str | None
    at: int
    mark: str | None = None
    """Whose write it is, as the object's metadata says; `causes` tells what of it is true."""


@dataclass(frozen=True)
class Deleted:
    """An object's latest version is a delete marker, or none of its versions is left."""

    container: int
    path: str
    at: int


@dataclass(frozen=True)
class FolderMade:
    container: int
    path: str
    at: int


@dataclass(frozen=True)
class FolderRemoved:
    container: int
    path: str
    at: int


Change = Stored | Deleted | FolderMade | FolderRemoved


class EventReader:
    """
    Turns the stream into changes; feed it as it comes, in any pieces.

    `position` is the store's latest time (nanoseconds) read so far: continue from a little before it. Under
    concurrent writes the times of neighbouring events are not in order, so none may be left out for being older,
    and reading some again must do no harm.
    """

    def __init__(self, bucket: str, position: int = 0) -> None:
        self.position = position
        self._prefix = f"/buckets/{bucket}/"
        self._waiting = b""
        self._versions: OrderedDict[str, tuple[str, str | None]] = OrderedDict()

    def feed(self, data: bytes) -> list[Change]:
        """The changes that are complete with these bytes."""
        # Each event is one pretty-printed object, so only its last line is a lone brace.
        *texts, self._waiting = (self._waiting + data).split(b"\n}\n")
        changes: list[Change] = []
        for text in texts:
            event = json.loads(text + b"}")
            for each in [event, *(event.get("events") or [])]:
                self._read(each, changes)
        return changes

    def _read(self, event: dict[str, Any], changes: list[Change]) -> None:
        at = int(event.get("tsNs") or 0)
        what = event.get("eventNotification") or {}
        if not what:
            return
        self.position = max(self.position, at)
        old, new = what.get("oldEntry"), what.get("newEntry")
        folder = (what.get("newParentPath") if new else None) or event["directory"]
        entry = new or old
        place = self._place(folder, entry["name"]) if entry else None
        if place is None:
            return
        change = self._change(*place, old, new, at)
        if change is not None:
            changes.append(change)

    def _place(self, folder: str, name: str) -> tuple[int, str] | None:
        """Container and path of an entry; None for what is no container's (uploads, the bucket itself)."""
        container, slash, path = f"{folder}/{name}".removeprefix(self._prefix).partition("/")
        return (int(container), path) if slash and container.isdecimal() else None

    def _change(
        self, container: int, path: str, old: dict[str, Any] | None, new: dict[str, Any] | None, at: int
    ) -> Change | None:
        entry = new or old or {}
        if not entry["isDirectory"]:
            self._note_version(new)
            return None
        if path.endswith(VERSIONS):
            return self._of_versions(container, path.removesuffix(VERSIONS), old, new, at)
        if entry["attributes"]["mime"]:
            return FolderMade(container, path, at) if new else FolderRemoved(container, path, at)
        return None

    def _note_version(self, new: dict[str, Any] | None) -> None:
        version = _extended(new, "Seaweed-X-Amz-Version-Id")
        if new is not None and version:
            self._versions[version] = (new["attributes"]["mime"], _extended(new, MARK))
            self._versions.move_to_end(version)
            if len(self._versions) > REMEMBERED:
                self._versions.popitem(last=False)

    def _of_versions(
        self, container: int, path: str, old: dict[str, Any] | None, new: dict[str, Any] | None, at: int
    ) -> Change | None:
        version = _extended(new, "Seaweed-X-Amz-Latest-Version-Id")
        if version is None:
            had = _extended(old, "Seaweed-X-Amz-Latest-Version-Id")
            return Deleted(container, path, at) if had else None
        if _extended(new, "Seaweed-X-Amz-Latest-Version-Is-Delete-Marker") == "true":
            return Deleted(container, path, at)
        mime, mark = self._versions.get(version, (None, None))
        return Stored(
            container,
            path,
            version,
            int(_extended(new, "Seaweed-X-Amz-Latest-Version-Size") or 0),
            _extended(new, "Seaweed-X-Amz-Latest-Version-ETag") or "",
            mime,
            at,
            mark,
        )


def _extended(entry: dict[str, Any] | None, name: str) -> str | None:
    value = entry["extended"].get(name) if entry else None
    return None if value is None else base64.b64decode(value).decode("utf-8", "replace")
