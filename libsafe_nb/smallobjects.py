"""
Whole small objects, at a third of a GET's cost through boto3: by obstore, if it is installed, else as `Storage.open` does.

Only what succeeds is given out. Whoever is given nothing asks `Storage`, which repeats, and tells what was wrong.
"""

from __future__ import annotations

import importlib.util
import io
import os
from typing import TYPE_CHECKING, Any

from libsafe_nb.fetching import Opened

if TYPE_CHECKING:
    from libsafe_nb.storage import Storage

TIMEOUT = {"connect_timeout": "5s", "timeout": "20s"}


class SmallObjects:
    """
    The small objects of one bucket. Safe to use from several threads of the process that made it.

    A forked process must not use it: obstore's own threads are not in it. It makes another, with `fast=False`.
    """

    def __init__(self, storage: Storage, *, fast: bool = True) -> None:
        self._storage = storage
        self._store: Any = (
            _store(storage) if fast and importlib.util.find_spec("obstore") is not None else None
        )

    def get(self, container: str, path: str, limit: int) -> Opened | None:
        """An object of at most `limit` bytes, its body in memory; None for a larger one, and for whatever went wrong."""
        try:
            if self._store is None:
                return self._by_storage(container, path, limit)
            return self._by_obstore(self._storage.key(container, path), limit)
        except Exception:
            # The caller's own GET will meet it again, and tell it.
            return None

    def _by_obstore(self, key: str, limit: int) -> Opened | None:
        import obstore

        # One byte more than the limit, in case it has grown since it was listed.
        found = obstore.get(self._store, key, options={"range": (0, limit + 1)})
        meta, size = found.meta, int(found.meta["size"])
        if size > limit:
            return None
        data = bytes(found.bytes())
        if len(data) != size or not meta["e_tag"] or meta["path"] != key:
            return None
        version = meta["version"]
        return Opened(
            io.BytesIO(data),
            0,
            size,
            size,
            str(meta["e_tag"]).strip('"'),
            None if version in (None, "", "null") else str(version),
            found.attributes.get("sha256"),
        )

    def _by_storage(self, container: str, path: str, limit: int) -> Opened | None:
        with self._storage.open(container, path) as stream:
            if stream.size > limit:
                return None
            return Opened(
                io.BytesIO(stream.read()),
                0,
                stream.size,
                stream.size,
                stream.etag,
                stream.version_id,
                stream.sha256,
            )


def _store(storage: Storage) -> Any:
    plain = (storage.settings.endpoint or "").startswith("http:")
    if not plain and (os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")):
        # Where others are trusted than the system's, boto3 knows whom.
        return None
    from obstore.store import S3Store

    settings = storage.settings
    keys = {
        "access_key_id": settings.access_key,
        "secret_access_key": settings.secret_key,
        "token": None,
        "expires_at": None,
    }
    given: dict[str, Any] = {
        # A provider, and not plain options: no token of the environment is added to it.
        "credential_provider": lambda: keys,
        "region": settings.region or "us-east-1",
        "virtual_hosted_style_request": False,
        "client_options": {"allow_http": plain, **TIMEOUT},
        "retry_config": {"max_retries": 0},
    }
    if settings.endpoint:
        # Without one it is AWS, by its region.
        given["endpoint"] = settings.endpoint
    return S3Store(settings.bucket, **given)
