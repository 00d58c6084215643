"""
The platform process (`python -m libsafe_nb.local.server ROOT`): REST, the index, and the S3 side's keeper.

It holds the root's lock for its life, so there is one at a time; adopts an S3 side that outlived the platform before
it, or starts one, and starts it again if it dies. `platform.json` is written when everything answers and removed at
the end. Exit code 75: another platform holds the root.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from libsafe_nb.errors import LocalPlatformError
from libsafe_nb.local import root as places
from libsafe_nb.local.keeper import S3Keeper
from libsafe_nb.local.root import Root
from libsafe_nb.local.s3side import ALREADY_RUNNING
from libsafe_nb.processes import ProcessId

if TYPE_CHECKING:
    from libsafe_nb.local.keyring import Keyring
    from libsafe_nb.local.objects import StoreAccess
    from libsafe_nb.local.rest import Api

log = logging.getLogger(__name__)


class Server:
    def __init__(
        self, root: Root, *, port: int, idle: float | None, lifeline: int | None, ready: int | None
    ) -> None:
        self.root = root
        self.idle = idle
        self.lifeline = lifeline
        self.ready = ready
        self.socket = self._bind(port)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.stopping = asyncio.Event()
        self.errors: list[BaseException] = []

    def _bind(self, port: int) -> socket.socket:
        """The wanted port, or the one of last time if it is free, so that a client that kept it finds us again."""
        before = int(places.read_json(self.root.platform_id).get("port") or 0)
        try:
            return places.listen(port or before)
        except OSError as exc:
            if port:
                raise LocalPlatformError(f"127.0.0.1:{port}: cannot be listened on ({exc.strerror})") from exc
            return places.listen(0)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stopping.set)
        places.write_json(
            self.root.platform_id,
            {**ProcessId.of(os.getpid()).as_dict(), "port": self.socket.getsockname()[1], "url": self.url},
        )
        from libsafe_nb.local.keyring import BUCKET, Keyring

        keyring = Keyring(self.root, os.environ)
        database = _database(self.root, keyring)
        keeper = S3Keeper(self.root, BUCKET)
        keeper.ensure()
        try:
            await self._serve(keyring, database, keeper)
        finally:
            self.root.platform_file.unlink(missing_ok=True)
            await keeper.stop()
            database.close()

    async def _serve(self, keyring: Keyring, database: Any, keeper: S3Keeper) -> None:
        # Imported while the S3 server starts.
        from libsafe_nb.local.ask import Platform
        from libsafe_nb.local.housekeeping import keep_house
        from libsafe_nb.local.indexer import Indexer
        from libsafe_nb.local.kernelkeeper import KernelKeeper
        from libsafe_nb.local.keyring import BUCKET
        from libsafe_nb.local.objects import Objects
        from libsafe_nb.local.rest import Api
        from libsafe_nb.local.uploads import Uploads
        from libsafe_nb.local.workers import Workers

        objects = Objects(BUCKET, lambda: _access(keeper, keyring))
        with (
            (self.root.logs / "tail.log").open("ab") as tail_log,
            (self.root.logs / "workers.log").open("ab") as worker_log,
        ):
            trouble: dict[str, str] = {}
            indexer = Indexer(
                database, objects, BUCKET, keeper.server, tail_log, trouble, self.root.s3_writes
            )
            uploads = Uploads(database, objects, self.root.spool)

            def refresh_settings() -> None:
                self._publish(keyring)

            api = Api(
                Platform(
                    database,
                    objects,
                    indexer,
                    keyring,
                    uploads,
                    refresh_settings,
                    self.root.functions,
                    trouble,
                )
            )
            port = await self._unless_stopped(keeper.ready())
            if port is None:
                return
            if database.fact("bucket") is None:
                await asyncio.to_thread(objects.create_bucket)
                with database.transaction():
                    database.set_fact("bucket", BUCKET)
            keyring.endpoint = f"http://127.0.0.1:{port}"
            workers = Workers(self.root.path, database, worker_log, trouble)
            kernels = KernelKeeper(self.root)
            tasks = [
                asyncio.ensure_future(self._guarded(task))
                for task in (
                    self._http(api),
                    keeper.keep(),
                    self._follow_front(keyring),
                    indexer.follow(),
                    indexer.mind(),
                    uploads.run(),
                    workers.run(),
                    keep_house(self.root, database, trouble),
                    kernels.keep(),
                    self._watch_idle(api),
                    self._watch_lifeline(),
                )
            ]
            self._publish(keyring)
            api.last_used = time.monotonic()
            self._say_ready()
            await self.stopping.wait()
            self.root.platform_file.unlink(missing_ok=True)
            # Before the requests are waited for: a worker may be waiting for a call.
            workers.stop()
            kernels.stop()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(uploads.drain(), 30)
            for task in tasks[1:]:
                task.cancel()
            await asyncio.wait(tasks)
        if self.errors:
            raise self.errors[0]

    def _say_ready(self) -> None:
        """By the pipe of whoever started us, who reads its end as well if we die before."""
        if self.ready is not None:
            with contextlib.suppress(OSError):
                os.write(self.ready, b"ready\n")
            os.close(self.ready)

    async def _unless_stopped(self, what: Coroutine[Any, Any, int]) -> int | None:
        working = asyncio.ensure_future(what)
        stopped = asyncio.ensure_future(self.stopping.wait())
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if working.done():
            return working.result()
        working.cancel()
        return None

    async def _guarded(self, task: Coroutine[Any, Any, None]) -> None:
        """A part that fails ends the whole, with its error: a platform that only seems to run helps nobody."""
        try:
            await task
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            log.exception("a part of the platform failed")
            self.errors.append(exc)
            self.stopping.set()

    async def _http(self, api: Api) -> None:
        import uvicorn

        from libsafe_nb import loopback

        config = uvicorn.Config(
            api.application,
            http="httptools",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=5,
        )
        server = loopback.Server(config)
        serving = asyncio.ensure_future(server.serve(sockets=[self.socket]))
        await self.stopping.wait()
        server.should_exit = True
        await serving

    def _publish(self, keyring: Keyring) -> None:
        from libsafe_nb.local.keyring import S3Key

        key = keyring.default_s3_key
        # Revoked credentials are told as empty ones, so that the file keeps its shape.
        s3 = keyring.s3_settings(key or S3Key("", ""))
        places.write_json(
            self.root.platform_file,
            {
                "url": self.url,
                "key_user": keyring.key_user,
                "key_root": keyring.key_root,
                "s3": s3,
                "pid": os.getpid(),
            },
        )

    async def _follow_front(self, keyring: Keyring) -> None:
        """The front keeps its port when it is started again; should it be taken, `platform.json` says the new one."""
        while True:
            await asyncio.sleep(0.5)
            port = places.read_json(self.root.s3_side).get("port")
            endpoint = f"http://127.0.0.1:{port}"
            if port and endpoint != keyring.endpoint and self.root.s3_side_running():
                keyring.endpoint = endpoint
                self._publish(keyring)

    async def _watch_idle(self, api: Api) -> None:
        while self.idle is not None:
            await asyncio.sleep(min(1.0, self.idle / 10))
            with contextlib.suppress(FileNotFoundError):
                since_s3 = time.time() - self.root.s3_active.stat().st_mtime
                if since_s3 < self.idle:
                    continue
            if not api.running and time.monotonic() - api.last_used > self.idle:
                self.stopping.set()

    async def _watch_lifeline(self) -> None:
        """End when the process that started us ends: its side of the pipe closes, however it dies."""
        if self.lifeline is None:
            return
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(self.lifeline, "rb", buffering=0)
        )
        try:
            await reader.read()
            self.stopping.set()
        finally:
            transport.close()


def _database(root: Root, keyring: Keyring) -> Any:
    from libsafe_nb.local import accounts
    from libsafe_nb.local.database import Database

    # What signs whose a write is: the same after each start, and nothing more on the disk.
    secret = hashlib.sha256(f"writes {keyring.administrator.secret_key}".encode()).digest()
    database = Database(root.database, secret)
    key = keyring.default_s3_key
    accounts.found(
        database,
        key_user=keyring.key_user,
        key_root=keyring.key_root,
        s3_access_key=key.access_key if key else "",
    )
    return database


def _access(keeper: S3Keeper, keyring: Keyring) -> StoreAccess:
    from libsafe_nb.local.objects import StoreAccess

    server = keeper.server()
    if server is None:
        raise LocalPlatformError("the S3 server is restarting; try again")
    administrator = keyring.administrator
    return StoreAccess(server[1].s3, administrator.access_key, administrator.secret_key)


def _log_to(root: Root) -> IO[str]:
    stream = (root.logs / "platform.log").open("a")
    logging.basicConfig(
        stream=stream, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    return stream


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="libsafe_nb.local.server")
    parser.add_argument("root", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--idle", type=float)
    parser.add_argument("--lifeline", type=int, help="a pipe; the platform ends when it does")
    parser.add_argument("--ready", type=int, help="a pipe that is told when everything answers")
    parser.add_argument("--detach", action="store_true", help="go on as nobody's child")
    options = parser.parse_args(arguments)
    if options.detach and os.fork():
        # Nothing is open yet but what we were given; our starter waits for this process only.
        os._exit(0)
    root = Root(options.root)
    root.create()
    lock = places.try_lock(root.lock("platform"))
    if lock is None:
        return ALREADY_RUNNING
    with _log_to(root):
        # Uploads on their way are spooled by the form parser: into the root, not onto a small /tmp.
        tempfile.tempdir = str(root.spool)
        import uvloop

        async def run() -> None:
            await Server(
                root, port=options.port, idle=options.idle, lifeline=options.lifeline, ready=options.ready
            ).run()

        try:
            uvloop.run(run())
        except LocalPlatformError as exc:
            print(exc, file=sys.stderr)
            return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
