"""
The S3 side: one process that keeps the S3 server alive and is its front (`python -m libsafe_nb.local.s3side ROOT`).

It is apart from the platform process so that clients go on storing while that one is down; the next platform on the
same root adopts it. It ends when it is told to, or when no platform has lived for `ORPHAN_SECONDS`. The S3 server is
its child and dies with it.

Signals: TERM ends it cleanly; HUP lets the S3 server read its configuration again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from libsafe_nb import courtesy
from libsafe_nb.local import root as places
from libsafe_nb.local import weed, writes
from libsafe_nb.local.front import Conversation, Front
from libsafe_nb.local.grants import Grants
from libsafe_nb.local.root import Root
from libsafe_nb.processes import ProcessId

if TYPE_CHECKING:
    import subprocess

ORPHAN_SECONDS = 120.0
READY_SECONDS = 30.0
"""For the S3 server to answer after its start (0.6 to 1.0 s measured)."""
VOLUME_SECONDS = 0.15
"""For its volumes to be known after that; see `S3Side._ready`."""
STOP_SECONDS = 10.0
"""For the S3 server to end by itself (1.3 s measured), before it is killed."""
LOG_BYTES = 5_000_000
ALREADY_RUNNING = 75
"""Exit code when another S3 side holds the root."""


@dataclass(frozen=True)
class S3Server:
    """One start of the S3 server."""

    process: subprocess.Popen[bytes]
    identity: ProcessId
    ports: weed.WeedPorts


class S3Side:
    def __init__(self, root: Root, bucket: str) -> None:
        self.root = root
        self.bucket = bucket
        self.identity = ProcessId.of(os.getpid())
        self.server: S3Server | None = None
        self.port = 0
        self._grants = Grants(root.database)
        self._writes = writes.Writer(root.s3_writes)
        self._front = Front(
            bucket, self._grants.containers, self._grants.readable, self._upstream, self._writes.note
        )
        self._conversations: set[asyncio.BaseTransport] = set()
        self._stopping = asyncio.Event()
        self._log: IO[bytes] = _open_log(root)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        loop.add_signal_handler(signal.SIGINT, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        before = places.read_json(self.root.s3_side)
        listener = await self._listen(int(before.get("port") or 0))
        ports = list(before.get("weed", {}).get("ports", []))
        weed.remove_sockets(ports)
        try:
            await self._start_server(ports)
            tasks = [
                asyncio.ensure_future(task)
                for task in (self._keep_server(), self._keep_company(), self._note())
            ]
            await self._stopping.wait()
            for task in tasks:
                task.cancel()
        finally:
            listener.close()
            for transport in list(self._conversations):
                transport.close()
            await self._stop_server()
            self._grants.close()

    async def _listen(self, wanted: int) -> asyncio.Server:
        """The port of last time, so that clients that kept it find us again; else a free one."""
        try:
            listener = places.listen(wanted)
        except OSError:
            listener = places.listen(0)
        self.port = listener.getsockname()[1]
        return await asyncio.get_running_loop().create_server(self._converse, sock=listener)

    def _converse(self) -> Conversation:
        return _Noted(self._front, self._conversations)

    def _upstream(self) -> int | None:
        return None if self.server is None else self.server.ports.s3

    # The S3 server.

    async def _start_server(self, wanted: list[int]) -> None:
        """Start the S3 server until it answers; with the wanted ports if they are free."""
        patience = VOLUME_SECONDS
        while not self._stopping.is_set():
            ports = weed.WeedPorts(tuple(places.free_ports(len(weed.PORT_NAMES), wanted=wanted)))
            process = weed.start(
                weed.server_command(self.root.s3_data, self.root.s3_config, ports),
                folder=self.root.s3_data,
                log=self._log,
                stdout=self._log,
            )
            ready = False
            try:
                ready = await self._ready(process, ports, patience)
            finally:
                if not ready:
                    # Nobody has stored anything there yet, so it need not end gently.
                    process.kill()
                    process.wait()
                    weed.remove_sockets(ports.all)
            if ready:
                self.server = S3Server(process, ProcessId.of(process.pid), ports)
                self._publish(self.server)
                return
            # Another process took a port in between, its volumes missed their turn, or it failed for a reason of its
            # own (see its log).
            patience *= 4
            await asyncio.sleep(0.1)

    async def _ready(self, process: subprocess.Popen[bytes], ports: weed.WeedPorts, patience: float) -> bool:
        """
        Whether it answers S3 and knows where its volumes are.

        In about one start of ten the volumes report half a millisecond before their master is the leader, and try
        again after five seconds, in which every GET is a 500. A new start is quicker, so they get `patience` seconds.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_SECONDS
        patient = False
        while process.poll() is None and loop.time() < deadline and not self._stopping.is_set():
            if await _get(ports.s3, "/status"):
                if b'"DataNodes":[{' in (await _get(ports.master, "/dir/status")).replace(b" ", b""):
                    return True
                if not patient:
                    patient, deadline = True, loop.time() + patience
            await asyncio.sleep(0.02)
        return False

    async def _keep_server(self) -> None:
        """Start the S3 server again whenever it dies."""
        while True:
            await asyncio.sleep(0.1)
            if self.server is not None and self.server.process.poll() is not None:
                ports, self.server = list(self.server.ports.all), None
                weed.remove_sockets(ports)
                await self._start_server(ports)

    async def _stop_server(self) -> None:
        if self.server is not None:
            await _end(self.server.process)
            weed.remove_sockets(self.server.ports.all)

    def _publish(self, server: S3Server) -> None:
        places.write_json(
            self.root.s3_side,
            {
                **self.identity.as_dict(),
                "port": self.port,
                "bucket": self.bucket,
                "weed": {**server.identity.as_dict(), "ports": list(server.ports.all)},
            },
        )

    def _reload(self) -> None:
        if self.server is not None:
            self.server.identity.signal(signal.SIGHUP)

    # The company it keeps.

    async def _keep_company(self) -> None:
        """End when no platform has lived for a while: nobody would ever stop us."""
        loop = asyncio.get_running_loop()
        alone_since = loop.time()
        while True:
            if self.root.running():
                alone_since = loop.time()
            elif loop.time() - alone_since > ORPHAN_SECONDS or not self.root.database.exists():
                self._stopping.set()
            await asyncio.sleep(1)

    async def _note(self) -> None:
        """
        Tell the platform, by a file's time of change, that S3 is in use (it does not end as idle then), and by another
        what was written.
        """
        while True:
            if self._front.active:
                self._front.active = False
                with contextlib.suppress(OSError):
                    self.root.s3_active.touch()
                    self._writes.flush()
            await asyncio.sleep(0.5)


class _Noted(Conversation):
    """A conversation that is known while it lasts, to be ended with the S3 side."""

    def __init__(self, front: Front, all_of_them: set[asyncio.BaseTransport]) -> None:
        super().__init__(front)
        self._all = all_of_them

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._all.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._all.discard(self.client)


async def _get(port: int, path: str) -> bytes:
    """The whole answer if it is 200, else nothing."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return b""
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 2)
    except (OSError, TimeoutError):
        return b""
    finally:
        writer.close()
    return answer if answer.startswith(b"HTTP/1.1 200") else b""


async def _end(process: subprocess.Popen[bytes]) -> None:
    """Let it end by itself; kill it when it does not. It is our child, so its pid is its own until we wait."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + STOP_SECONDS
    if process.poll() is None:
        process.terminate()
    while process.poll() is None and loop.time() < deadline:
        await asyncio.sleep(0.02)
    if process.poll() is None:
        process.kill()
    process.wait()


def _open_log(root: Root) -> IO[bytes]:
    path = root.logs / "s3.log"
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".old.log"))
    return path.open("ab")


def main(arguments: list[str]) -> int:
    path, bucket = arguments
    root = Root(Path(path))
    lock = places.try_lock(root.lock("s3side"))
    if lock is None:
        return ALREADY_RUNNING
    courtesy.process(courtesy.SERVING)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    import uvloop

    async def run() -> None:
        await S3Side(root, bucket).run()

    uvloop.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
