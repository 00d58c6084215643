"""Files for the browser, streamed: at no time is more than a block of one in memory."""

from __future__ import annotations

import asyncio
import mimetypes
import re
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from tornado import iostream, web

BLOCK = 1024 * 1024

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class ContainerFiles(JupyterHandler):
    """`/files/PATH`: one version of an object, whole or one range of it; `?download=1` saves it in place of showing it."""

    auth_resource = "contents"

    @property
    def content_security_policy(self) -> str:
        # Scripts in a file run as a stranger's: they cannot speak to the server with its user's rights.
        return super().content_security_policy + "; sandbox allow-scripts"

    @web.authenticated
    @authorized
    async def head(self, path: str) -> None:
        await self._answer(path, include_body=False)

    @web.authenticated
    @authorized
    async def get(self, path: str) -> None:
        await self._answer(path, include_body=True)

    async def _answer(self, path: str, *, include_body: bool) -> None:
        self.check_xsrf_cookie()
        manager: Any = self.contents_manager
        if not manager.allow_hidden and await manager.is_hidden(path):
            raise web.HTTPError(404, f"{path}: there is no such file")
        stream = await manager.opened(path)
        try:
            await self._send(path, stream, include_body)
        finally:
            await asyncio.to_thread(stream.close)

    async def _send(self, path: str, stream: Any, include_body: bool) -> None:
        name = path.rpartition("/")[2]
        self.set_header("Content-Type", _type(name))
        self.set_header("Accept-Ranges", "bytes")
        self.set_header("ETag", f'"{stream.etag}"')
        if self.get_argument("download", None):
            self.set_attachment_header(name)
        first, last = self._range(stream.size)
        self.set_header("Content-Length", last - first + 1)
        if not include_body:
            return
        if first:
            await asyncio.to_thread(stream.seek, first)
        left = last - first + 1
        while left:
            block = await asyncio.to_thread(stream.read, min(BLOCK, left))
            if not block:
                raise OSError(f"{path}: ended {left} bytes early")
            left -= len(block)
            self.write(block)
            try:
                # Waits until the browser has taken it.
                await self.flush()
            except iostream.StreamClosedError:
                return

    def _range(self, size: int) -> tuple[int, int]:
        """First and last byte that are asked for (RFC 9110, 14.2); what is no single range counts as none."""
        asked = _RANGE.fullmatch(self.request.headers.get("Range", ""))
        if asked is None or asked.group(0) == "bytes=-":
            return 0, size - 1
        if asked[1]:
            first, last = int(asked[1]), min(int(asked[2] or size), size - 1)
        else:
            first, last = max(size - int(asked[2]), 0), size - 1
        if first > last:
            self.set_header("Content-Range", f"bytes */{size}")
            raise web.HTTPError(416, f"expected a range within {size} bytes")
        self.set_status(206)
        self.set_header("Content-Range", f"bytes {first}-{last}/{size}")
        return first, last


def _type(name: str) -> str:
    if name.lower().endswith(".ipynb"):
        return "application/x-ipynb+json"
    found, encoding = mimetypes.guess_type(name)
    if encoding == "gzip":
        return "application/gzip"
    if found is None or encoding is not None:
        return "application/octet-stream"
    return f"{found}; charset=UTF-8" if found.startswith("text/") else found
