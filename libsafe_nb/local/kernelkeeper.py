"""
The platform's fork server: kernels that are there in a blink, for every process of this user that runs notebooks here.

Started when the platform answers, again when it ended or a package was installed, and ended with the platform; a kernel
that runs then goes on under its runner.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

from libsafe_nb import forking, forkservers, heritage, kernels
from libsafe_nb.local.root import Root

EVERY = 5.0
"""Seconds between two looks whether the server lives and what is installed is what it has imported; one takes 2 ms."""


class KernelKeeper:
    def __init__(self, root: Root) -> None:
        self._root = root
        self._listener: socket.socket | None = None
        self._server: forkservers.Owned | None = None

    async def keep(self) -> None:
        """For ever; where there can be no such server, kernels are started as everywhere."""
        while forking.enabled():
            with contextlib.suppress(OSError):
                self._ensure()
            await asyncio.sleep(EVERY)

    def _ensure(self) -> None:
        env = kernels.environment()
        key = heritage.key(env, ())
        server = self._server
        if server is not None and server.alive and server.key == key:
            return
        if server is not None:
            server.close()
            self._server = None
        if key is None:
            return
        if self._listener is None:
            self._listener = forkservers.listen(self._root.path)
        self._server = forkservers.Owned(key, (), env, self._listener)

    def stop(self) -> None:
        if self._listener is not None:
            (self._root.path / forkservers.SOCKET).unlink(missing_ok=True)
            self._listener.close()
        if self._server is not None:
            self._server.close()
            self._server.wait(1.0)
