"""The files of one run, looked up while they are iterated: a hundred thousand of them need the memory of a few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

from libsafe_nb.compat.item import Item
from libsafe_nb.compat.prefetch import AHEAD
from libsafe_nb.compat.session import Session
from libsafe_nb.errors import NotFound, PlatformError
from libsafe_nb.shapes import Condition

BATCH = 500
"""Files a look-up. At most two batches are held."""


class Files(Sequence[Item]):
    """
    The payload's files, in its order: by `files.ids`, else by `files.paths`.

    A file that the platform does not know (any more) is still there, with its id or path, `deleted` 1 and no
    bytes: `S3.File.get_stream` answers None for it.
    """

    def __init__(self, session: Session, container: str, *, ids: Sequence[str], paths: Sequence[str]) -> None:
        self._session, self._container = session, container
        self._by_id = bool(ids)
        self._names: Sequence[str] = ids if ids else paths
        self._batch: tuple[int, list[Item]] = (-1, [])
        self._searchable = True

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"<{len(self)} files of container {self._container}>"

    def __iter__(self) -> Iterator[Item]:
        prefetch = self._session.prefetch
        for number in range(-(-len(self) // BATCH)):
            rows = self._look_up(number)
            for place, row in enumerate(rows, 1):
                prefetch.handing_out(row, rows[place : place + AHEAD])
                yield row

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Files: ...

    def __getitem__(self, index: int | slice) -> Item | Files:
        if isinstance(index, slice):
            names = self._names[index]
            ids, paths = (names, ()) if self._by_id else ((), names)
            return Files(self._session, self._container, ids=ids, paths=paths)
        place = range(len(self))[index]
        return self._look_up(place // BATCH)[place % BATCH]

    def _look_up(self, number: int) -> list[Item]:
        if self._batch[0] != number:
            names = self._names[number * BATCH : (number + 1) * BATCH]
            # A row tells of hashes, too.
            self._session.outbox.settle()
            found = self._search(names) if len(names) > 1 and self._searchable else {}
            self._batch = (
                number,
                [self._pinned(found.get(_plain(name)) or self._one(name)) for name in names],
            )
        return self._batch[1]

    def _search(self, names: Sequence[str]) -> dict[str, Item]:
        conditions: list[Condition] = [
            {
                "property": "id" if self._by_id else "fullpath",
                "operator": "in",
                "value": [self._written(n) for n in names],
            }
        ]
        if not self._by_id:
            conditions.append({"property": "container_id", "operator": "eq", "value": self._container})
        field = "id" if self._by_id else "fullpath"
        try:
            rows = self._session.client.search(conditions, page=BATCH)
            return {_plain(str(row[field])): Item(row) for row in rows}  # type: ignore[literal-required]
        except PlatformError as exc:
            if exc.status in (400, 404, 405, 501):
                # The search's path is unverified: a platform that has another is asked file by file.
                self._searchable = False
                return {}
            raise

    def _one(self, name: str) -> Item:
        client = self._session.client
        try:
            return Item(client.file(name) if self._by_id else client.file_by_path(self._container, name))
        except NotFound:
            known: dict[str, Any] = (
                {"id": name} if self._by_id else {"id": "", "fullpath": self._written(name)}
            )
            return Item(
                {
                    "container_id": self._container,
                    "fullpath": "",
                    "size": 0,
                    "type": "FILE",
                    **known,
                    "deleted": 1,
                }
            )

    def _pinned(self, item: Item) -> Item:
        """In a replay, the file as it stood in the run that is repeated."""
        attached = self._session.attached
        if not item.get("deleted"):
            self._session.shown(str(item["id"]))
        pin = attached.pins.get(str(item["id"])) if attached is not None else None
        if pin is not None:
            item.update(version_id=pin["version_id"], size=pin["size"], fullpath=pin["path"])
        return item

    def _written(self, name: str) -> str:
        return name if self._by_id else "/" + _plain(name)


def _plain(name: str) -> str:
    return name.removeprefix("/")
