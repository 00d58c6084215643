"""What lies in a container: its objects, folders and versions, page by page, so that memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from libsafe_nb import s3wire
from libsafe_nb.errors import UsageError
from libsafe_nb.objects import ObjectInfo, ObjectVersion

_NEXT_OBJECT = {"NextContinuationToken": "ContinuationToken"}
_NEXT_VERSION = {"NextKeyMarker": "KeyMarker", "NextVersionIdMarker": "VersionIdMarker"}


class Listing:
    """The listings of a `Storage`, which makes the calls."""

    if TYPE_CHECKING:

        def call(self, operation: str, key: str | None, **arguments: Any) -> Mapping[str, Any]: ...

        def key(self, container: str, path: str) -> str: ...

    def list(
        self, container: str, prefix: str = "", *, after: str = "", page: int = 1000
    ) -> Iterator[ObjectInfo]:
        """
        The current objects of a container whose path begins with `prefix`, by path.

        `after` begins behind that path; `page` is how many are asked for at once.
        """
        start = {"StartAfter": self.key(container, after)} if after else {}
        for found in self._pages("list_objects_v2", container, prefix, _NEXT_OBJECT, start, page):
            for each in found.get("Contents", ()):
                yield ObjectInfo(
                    container=container,
                    path=each["Key"].partition("/")[2],
                    size=each["Size"],
                    etag=s3wire.etag(each["ETag"]),
                    last_modified=each["LastModified"],
                )

    def folder(self, container: str, folder: str = "", *, page: int = 1000) -> Iterator[ObjectInfo | str]:
        """
        What lies in a folder: of each page first the names of the folders in it, then the files, each by name.

        A folder is what keys have in common. One that is there by itself has a marker, an empty object whose key ends
        with a slash, which is left out here.
        """
        below = f"{folder.strip('/')}/" if folder.strip("/") else ""
        if below:
            self.key(container, below[:-1])
        for found in self._pages("list_objects_v2", container, below, _NEXT_OBJECT, {}, page, Delimiter="/"):
            for each in found.get("CommonPrefixes", ()):
                yield each["Prefix"].partition("/")[2][len(below) :].rstrip("/")
            for each in found.get("Contents", ()):
                path = each["Key"].partition("/")[2]
                if path != below:
                    yield ObjectInfo(
                        container, path, each["Size"], s3wire.etag(each["ETag"]), each["LastModified"]
                    )

    def versions(
        self, container: str, prefix: str = "", *, after: str = "", page: int = 1000
    ) -> Iterator[ObjectVersion]:
        """
        Every version and delete marker, by path; of one path within one page the newest first.

        `after` begins behind that path; `page` is how many are asked for at once.
        """
        start = {"KeyMarker": self.key(container, after)} if after else {}
        for part in self._pages("list_object_versions", container, prefix, _NEXT_VERSION, start, page):
            found = [(each, False) for each in part.get("Versions", ())]
            found += [(each, True) for each in part.get("DeleteMarkers", ())]
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

    def _pages(
        self,
        operation: str,
        container: str,
        prefix: str,
        following: Mapping[str, str],
        start: Mapping[str, Any],
        size: int,
        **fixed: Any,
    ) -> Iterator[Mapping[str, Any]]:
        """
        Pages of at most `size` each; `fixed` are arguments of each of them.

        `start` are the arguments of the first page that say where it begins; `following` tells which fields of a page
        are which such arguments of the next.
        """
        if not container or "/" in container:
            raise UsageError(f"container {container!r}: expected an id")
        below = f"{container}/{prefix.removeprefix('/')}"
        place = dict(start)
        while True:
            # Page by page, and not by boto3's paginator: each is a call of its own, with its own budget.
            page = self.call(operation, None, Prefix=below, MaxKeys=size, **fixed, **place)
            yield page
            before, place = place, {to: page[name] for name, to in following.items() if page.get(name)}
            # The same place twice would page for ever.
            if not page["IsTruncated"] or not place or place == before:
                return
