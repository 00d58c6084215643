"""Users and their keys, containers, and who may work where."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import sqlite3
from typing import TYPE_CHECKING, Any

from libsafe_nb.local import descriptors
from libsafe_nb.local.ask import Ask, Page, Problem, User, number, page, text
from libsafe_nb.local.database import Database, now

if TYPE_CHECKING:
    from libsafe_nb.local.keyring import S3Key

DEFAULT_USER = 1
ROOT_NAME = "root"
S3_KNOWN_SECONDS = 5.0
"""For the S3 server to take new credentials (some milliseconds measured)."""


def digest(key: str) -> str:
    """What the rows keep of an API key. The keys are random and long, so a plain SHA-256 cannot be searched back."""
    return hashlib.sha256(key.encode()).hexdigest()


def new_key() -> str:
    return secrets.token_urlsafe(36)


def reachable(db: Database, container: int) -> bool:
    """Whether functions can work in a container: they run as the platform's own user."""
    found = db.one("SELECT 1 FROM access WHERE user_id = ? AND container_id = ?", (DEFAULT_USER, container))
    return found is not None


def found(db: Database, *, key_user: str, key_root: str, s3_access_key: str) -> None:
    """Make the default user, the root user and the default container, once; set their keys each time."""
    with db.transaction():
        if db.one("SELECT 1 FROM user WHERE id = ?", (DEFAULT_USER,)) is None:
            user = db.insert("user", name="user", date_create=now())
            db.insert("user", name=ROOT_NAME, root=1, date_create=now())
            container = db.insert(
                "container",
                name="Default container",
                description="Where runs go that name no other",
                owner_id=user,
                date_create=now(),
            )
            db.insert("access", user_id=user, container_id=container)
            db.execute("UPDATE user SET s3_access_key = ? WHERE id = ?", (s3_access_key, user))
        db.execute("UPDATE user SET key_sha256 = ? WHERE id = ?", (digest(key_user), DEFAULT_USER))
        db.execute("UPDATE user SET key_sha256 = ? WHERE root", (digest(key_root),))


def authenticate(db: Database, authorization: str | None) -> User:
    """
    The user of a `Bearer` key.

    Raises
    ------
    Problem
        401 when the key is missing or unknown; 403 when it has been revoked.
    """
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Problem(401, "an API key is needed: send it as 'Authorization: Bearer KEY'")
    known = digest(key.strip())
    row = db.one("SELECT * FROM user WHERE key_sha256 = ?", (known,))
    if row is None or not hmac.compare_digest(row["key_sha256"], known):
        raise Problem(401, "the API key is not known here")
    if not row["key_active"]:
        raise Problem(403, "the API key is not active any more")
    return User(row["id"], row["name"], bool(row["root"]), True, row["s3_access_key"])


# Users


def me(ask: Ask) -> dict[str, Any]:
    return {
        "id": str(ask.user.id),
        "name": ask.user.name,
        "root": ask.user.root,
        "s3": ask.user.s3_access_key is not None,
    }


async def user_create(ask: Ask) -> dict[str, Any]:
    ask.need_root()
    name = text(ask.fields().get("name"), "name", most=255)
    key, s3 = new_key(), ask.platform.keyring.new_s3_key()
    with ask.db.transaction():
        user = ask.db.insert(
            "user", name=name, key_sha256=digest(key), s3_access_key=s3.access_key, date_create=now()
        )
    await _publish(ask, user, s3)
    return {"id": str(user), "name": name, "key": key, "s3": ask.platform.keyring.s3_settings(s3)}


def user_key_revoke(ask: Ask) -> dict[str, Any]:
    ask.need_root()
    user = _user(ask)
    ask.db.execute("UPDATE user SET key_active = 0 WHERE id = ?", (user["id"],))
    return {"id": str(user["id"]), "key_active": False}


async def user_s3_create(ask: Ask) -> dict[str, Any]:
    user = _own(ask)
    s3 = ask.platform.keyring.new_s3_key()
    with ask.db.transaction():
        ask.db.execute("UPDATE user SET s3_access_key = ? WHERE id = ?", (s3.access_key, user["id"]))
    await _publish(ask, user["id"], s3)
    return ask.platform.keyring.s3_settings(s3)


async def user_s3_revoke(ask: Ask) -> dict[str, Any]:
    user = _own(ask)
    with ask.db.transaction():
        ask.db.execute("UPDATE user SET s3_access_key = NULL WHERE id = ?", (user["id"],))
    await _publish(ask, user["id"], None)
    return {"id": str(user["id"]), "s3": False}


async def _publish(ask: Ask, user: int, s3: S3Key | None) -> None:
    """Tell the S3 server, and wait until it knows: the credentials work when the caller has them."""
    ask.platform.keyring.set_s3_key(user, s3)
    if user == DEFAULT_USER:
        ask.platform.refresh_settings()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + S3_KNOWN_SECONDS
    while s3 is not None and loop.time() < deadline:
        if await asyncio.to_thread(ask.platform.objects.knows, s3.access_key, s3.secret_key):
            return
        await asyncio.sleep(0.02)


def _user(ask: Ask) -> sqlite3.Row:
    row: sqlite3.Row | None = ask.db.one("SELECT * FROM user WHERE id = ?", (ask.id("user"),))
    if row is None:
        raise Problem(404, f"there is no user {ask.path['user']}")
    return row


def _own(ask: Ask) -> sqlite3.Row:
    """The user of the path, if it is the caller, or the caller is root."""
    user = _user(ask)
    if user["id"] != ask.user.id:
        ask.need_root()
    return user


# Containers


async def container_create(ask: Ask) -> dict[str, Any]:
    """By form, as clients of real instances do, or by JSON; unknown fields are kept, whatever ids they name."""
    fields = await _form(ask)
    name = text(fields.pop("name", None), "name", most=1024)
    description = text(fields.pop("description", "") or "", "description", most=65_536, empty=True)
    with ask.db.transaction():
        container = ask.db.insert(
            "container",
            name=name,
            description=description,
            owner_id=ask.user.id,
            fields=json.dumps(fields, ensure_ascii=False),
            date_create=now(),
        )
        ask.db.insert("access", user_id=ask.user.id, container_id=container)
        row = ask.db.one("SELECT * FROM container WHERE id = ?", (container,))
    return shape(row)


async def _form(ask: Ask) -> dict[str, Any]:
    if not ask.request.headers.get("content-type", "").startswith(
        ("multipart/form-data", "application/x-www-form-urlencoded")
    ):
        return dict(ask.fields())
    async with ask.request.form(max_files=0, max_fields=200) as form:
        return {name: value for name, value in form.items() if isinstance(value, str)}


def container_list(ask: Ask) -> Page:
    limit = ask.limit()
    mine = "" if ask.user.root else "AND id IN (SELECT container_id FROM access WHERE user_id = :user)"
    rows = ask.db.all(
        f"SELECT * FROM container WHERE id > :after {mine} ORDER BY id LIMIT :limit",  # noqa: S608 - a constant
        {"after": ask.after_id(), "user": ask.user.id, "limit": limit + 1},
    )
    return page(rows, limit, lambda row: row["id"], shape)


def container_get(ask: Ask) -> dict[str, Any]:
    return shape(ask.container(ask.id("container")))


def container_metadata_get(ask: Ask) -> list[dict[str, Any]] | None:
    container = ask.container(ask.id("container"))
    return descriptors.read(ask.db, descriptors.CONTAINER, container["id"])


def container_metadata_set(ask: Ask) -> list[dict[str, Any]] | None:
    container = ask.container(ask.id("container"))
    descriptors.write(ask.db, descriptors.CONTAINER, container["id"], ask.fields().get("metadata"))
    return descriptors.read(ask.db, descriptors.CONTAINER, container["id"])


def container_grant(ask: Ask) -> dict[str, Any]:
    container = ask.container(ask.id("container"))
    if container["owner_id"] != ask.user.id:
        ask.need_root()
    user = number(ask.fields().get("user_id"), name="user_id")
    if ask.db.one("SELECT 1 FROM user WHERE id = ?", (user,)) is None:
        raise Problem(404, f"there is no user {user}")
    ask.db.execute("INSERT OR IGNORE INTO access VALUES (?, ?)", (user, container["id"]))
    return {"container_id": str(container["id"]), "user_id": str(user)}


def shape(row: sqlite3.Row) -> dict[str, Any]:
    return {
        **json.loads(row["fields"]),
        "id": str(row["id"]),
        "name": row["name"],
        "description": row["description"],
        "owner_id": str(row["owner_id"]),
        "date_create": row["date_create"],
    }
