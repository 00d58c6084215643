"""Checkpoints of a file are the versions of its object: each save made one, and none is ever taken away."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from jupyter_server.services.contents.checkpoints import AsyncCheckpoints
from tornado import web


class Versions(AsyncCheckpoints):
    """For a `ContainerContents`, its parent."""

    parent: Any

    async def create_checkpoint(self, contents_mgr: Any, path: str) -> dict[str, Any]:
        """What is stored is a version already; this says which one."""
        return (await self.list_checkpoints(path))[-1]

    async def restore_checkpoint(self, contents_mgr: Any, checkpoint_id: str, path: str) -> None:
        """Make the old version's bytes the newest version; those in between stay."""
        await contents_mgr.restore(path, _version(checkpoint_id))

    async def list_checkpoints(self, path: str) -> list[dict[str, Any]]:
        """The oldest first, as Jupyter's own file system does."""
        versions = await self.parent.versions(path)
        return [{"id": _id(each.version_id), "last_modified": each.last_modified} for each in versions]

    async def delete_checkpoint(self, checkpoint_id: str, path: str) -> None:
        raise web.HTTPError(403, f"{path}: its versions are kept by the container and cannot be deleted here")

    async def rename_checkpoint(self, checkpoint_id: str, old_path: str, new_path: str) -> None:
        """The versions of the old name stay with the old name."""

    async def rename_all_checkpoints(self, old_path: str, new_path: str) -> None:
        """As `rename_checkpoint`."""

    async def delete_all_checkpoints(self, path: str) -> None:
        """A deletion is one more version, and those before it stay."""


def _id(version: str) -> str:
    """A version's id as the server's addresses take one: letters, digits, `_` and `-`."""
    return base64.urlsafe_b64encode(version.encode()).decode().rstrip("=")


def _version(checkpoint: str) -> str:
    try:
        return base64.urlsafe_b64decode(checkpoint + "=" * (-len(checkpoint) % 4)).decode()
    except (binascii.Error, ValueError) as exc:
        raise web.HTTPError(404, f"there is no version {checkpoint}") from exc
