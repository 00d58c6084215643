"""A mapping that lies on the disk: what is noted of each of very many things, in the memory of a few."""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

CACHE = 1024
"""KiB of memory, beyond which it goes to the disk."""

PAGE = 1000
"""Names held while it is iterated."""


class Spilled(MutableMapping[str, Any]):
    """
    A mapping from texts to JSON values, iterated by the UTF-8 of the names. As a set, where the values do not matter.

    What does not fit into `CACHE` lies in a file without a name in the system's temporary folder, which is gone with the
    process, however that ends. One look-up or change takes some 10 µs. Names may be added and removed while it is
    iterated. Not for several threads at once.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        # The empty name is a temporary database; https://www.sqlite.org/inmemorydb.html#temp_db
        self._rows = rows = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        weakref.finalize(self, rows.close)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE}"):
            rows.execute(f"PRAGMA {pragma}")
        rows.execute("CREATE TABLE pair (name BLOB PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
        for name in names:
            self.add(name)

    def add(self, name: str) -> None:
        self[name] = None

    def __setitem__(self, name: str, value: Any) -> None:
        self._rows.execute("INSERT OR REPLACE INTO pair VALUES (?, ?)", (_blob(name), json.dumps(value)))

    def __getitem__(self, name: str) -> Any:
        found = self._rows.execute("SELECT value FROM pair WHERE name = ?", (_blob(name),)).fetchone()
        if found is None:
            raise KeyError(name)
        return json.loads(found[0])

    def __delitem__(self, name: str) -> None:
        if not self._rows.execute("DELETE FROM pair WHERE name = ?", (_blob(name),)).rowcount:
            raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        found = (
            isinstance(name, str)
            and self._rows.execute("SELECT 1 FROM pair WHERE name = ?", (_blob(name),)).fetchone()
        )
        return bool(found)

    def __bool__(self) -> bool:
        return self._rows.execute("SELECT 1 FROM pair LIMIT 1").fetchone() is not None

    def __len__(self) -> int:
        return int(self._rows.execute("SELECT count(*) FROM pair").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        last = b""
        more = "SELECT name FROM pair WHERE name > ? ORDER BY name LIMIT ?"
        if "" in self:
            yield ""
        while page := self._rows.execute(more, (last, PAGE)).fetchall():
            for (name,) in page:
                yield name.decode("utf-8", "surrogatepass")
            last = page[-1][0]


def _blob(name: str) -> bytes:
    # What others wrote may hold half a surrogate pair, which SQLite takes as no text.
    return name.encode("utf-8", "surrogatepass")
