"""Tags, and putting them on files."""

from __future__ import annotations

import sqlite3
from typing import Any

from libsafe_nb.local import files
from libsafe_nb.local.ask import Ask, Page, Problem, page, text
from libsafe_nb.local.database import now


def file_tag(ask: Ask) -> dict[str, Any]:
    """A tag that does not exist yet under this id is stored, not refused (contract 8)."""
    file, tag = ask.file(ask.id("file"))["id"], ask.id("tag")
    if ask.db.one("SELECT 1 FROM tag WHERE id = ?", (tag,)) is None:
        ask.db.insert("tag", id=tag, name=f"tag {tag}", user_id=ask.user.id, date_create=now())
    ask.db.execute("INSERT OR IGNORE INTO file_tag VALUES (?, ?)", (file, tag))
    return files.by_id(ask.db, file)


def file_untag(ask: Ask) -> dict[str, Any]:
    file = ask.file(ask.id("file"))["id"]
    ask.db.execute("DELETE FROM file_tag WHERE file_id = ? AND tag_id = ?", (file, ask.id("tag")))
    return files.by_id(ask.db, file)


def tag_list(ask: Ask) -> Page:
    limit = ask.limit()
    rows = ask.db.all("SELECT * FROM tag WHERE id > ? ORDER BY id LIMIT ?", (ask.after_id(), limit + 1))
    return page(rows, limit, lambda row: row["id"], _tag_shape)


def tag_create(ask: Ask) -> dict[str, Any]:
    name = text(ask.fields().get("name"), "name", most=255)
    tag = ask.db.insert("tag", name=name, user_id=ask.user.id, date_create=now())
    return _tag_shape(ask.db.one("SELECT * FROM tag WHERE id = ?", (tag,)))


def tag_delete(ask: Ask) -> dict[str, Any]:
    tag = ask.db.one("SELECT * FROM tag WHERE id = ?", (ask.id("tag"),))
    if tag is None:
        raise Problem(404, f"there is no tag {ask.path['tag']}")
    if tag["user_id"] != ask.user.id:
        ask.need_root()
    ask.db.execute("DELETE FROM tag WHERE id = ?", (tag["id"],))
    return _tag_shape(tag)


def _tag_shape(row: sqlite3.Row) -> dict[str, Any]:
    return {"id": str(row["id"]), "name": row["name"]}
