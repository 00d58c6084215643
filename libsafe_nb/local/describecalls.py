"""The REST calls about what is known of files: metadata, hashes, and that they were read; of one and of many."""

from __future__ import annotations

import re
from typing import Any

from libsafe_nb.local import descriptors, files
from libsafe_nb.local.answers import first_time
from libsafe_nb.local.ask import Ask, Problem, number, text

_HEX_LENGTHS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}


def file_metadata_get(ask: Ask) -> list[dict[str, Any]] | None:
    return descriptors.read(ask.db, descriptors.FILE, ask.file(ask.id("file"))["id"])


def file_metadata_set(ask: Ask) -> list[dict[str, Any]] | None:
    file = ask.file(ask.id("file"))["id"]
    return _write_metadata(ask, file, ask.fields().get("metadata"))


def _write_metadata(ask: Ask, file: int, metadata: Any) -> list[dict[str, Any]] | None:
    before = descriptors.read(ask.db, descriptors.FILE, file)
    descriptors.write(ask.db, descriptors.FILE, file, metadata)
    found = descriptors.read(ask.db, descriptors.FILE, file)
    if found != before:
        kind = "created" if not before else "updated" if found else "deleted"
        files.tell(ask.db, f"metadata_{kind}", file, ask.job)
    return found


def bulk_metadata_get(ask: Ask) -> list[dict[str, Any]]:
    ids = ask.fields().get("ids")
    if not isinstance(ids, list):
        raise Problem(400, "ids: expected a list")
    files_ = [int(ask.file(number(each, name="ids"))["id"]) for each in ids]
    return [
        {"id": str(each), "metadata": descriptors.read(ask.db, descriptors.FILE, each)} for each in files_
    ]


def bulk_read(ask: Ask) -> int:
    """A run's notice of the files that it has read; answers how many it told."""
    ids = ask.fields().get("ids")
    if not isinstance(ids, list):
        raise Problem(400, "ids: expected a list")
    for each in ids:
        files.tell(ask.db, "file_read", ask.file(number(each, name="ids"))["id"], ask.job)
    return len(ids)


def file_hash_set(ask: Ask) -> dict[str, Any]:
    return _set_hash(ask, ask.file(ask.id("file"))["id"], ask.fields())


def _set_hash(ask: Ask, file: int, fields: dict[str, Any]) -> dict[str, Any]:
    algorithm = text(fields.get("algorithm"), "algorithm", most=64).lower()
    value = text(fields.get("value"), "value", most=1024).lower()
    length = _HEX_LENGTHS.get(algorithm.replace("-", ""))
    if length and not re.fullmatch(rf"[0-9a-f]{{{length}}}", value):
        raise Problem(
            400, f"value: expected {length} hexadecimal digits for {algorithm}, got {value[:140]!r}"
        )
    ask.db.execute("INSERT OR REPLACE INTO hash VALUES (?, ?, ?)", (file, algorithm, value))
    return {"id": str(file), "algorithm": algorithm, "value": value}


# Of many files.


def bulk_hash(ask: Ask) -> list[Any]:
    def write(item: Any) -> dict[str, Any]:
        return _set_hash(ask, _item_file(ask, item), item)

    return [first_time(ask, item, f"PUT /api/file/{_id(item)}/hash", write) for item in _items(ask)]


def bulk_metadata(ask: Ask) -> list[Any]:
    def write(item: Any) -> dict[str, Any]:
        file = _item_file(ask, item)
        return {"id": str(file), "metadata": _write_metadata(ask, file, item.get("metadata"))}

    return [first_time(ask, item, f"PUT /api/file/{_id(item)}/metadata", write) for item in _items(ask)]


def _items(ask: Ask) -> list[Any]:
    items = ask.fields().get("items")
    if not isinstance(items, list):
        raise Problem(400, "items: expected a list")
    return items


def _id(item: Any) -> Any:
    return item.get("id") if isinstance(item, dict) else None


def _item_file(ask: Ask, item: Any) -> int:
    if not isinstance(item, dict):
        raise Problem(400, "items: expected objects with the file's id")
    return int(ask.file(number(item.get("id")))["id"])
