"""The S3 side as its platform sees it: started or adopted, kept alive, stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

from libsafe_nb.errors import LocalPlatformError
from libsafe_nb.local import root as places
from libsafe_nb.local import weed
from libsafe_nb.local.root import Root
from libsafe_nb.local.s3side import ALREADY_RUNNING
from libsafe_nb.local.weed import WeedPorts
from libsafe_nb.processes import ProcessId

S3_READY_SECONDS = 60.0
S3_STOP_SECONDS = 20.0


class S3Keeper:
    """Starts or adopts the S3 side, and starts it again when it dies."""

    def __init__(self, root: Root, bucket: str) -> None:
        self._root = root
        self._bucket = bucket
        self._child: subprocess.Popen[bytes] | None = None

    def ensure(self) -> None:
        if self._root.s3_side_running() is None and (self._child is None or self._child.poll() is not None):
            # What the last one wrote is kept: it says which ports to take again.
            with (self._root.logs / "s3side.log").open("ab") as output:
                self._child = subprocess.Popen(  # our own program
                    [
                        sys.executable,
                        "-P",
                        "-m",
                        "libsafe_nb.local.s3side",
                        str(self._root.path),
                        self._bucket,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                    env={
                        name: value for name, value in os.environ.items() if not name.startswith("LIBSAFE_")
                    },
                )

    async def keep(self) -> None:
        while True:
            self.ensure()
            await asyncio.sleep(0.2)

    async def ready(self) -> int:
        """
        The front's port, once it and the S3 server answer.

        Raises
        ------
        LocalPlatformError
            They did not within `S3_READY_SECONDS`.
        """
        deadline = time.monotonic() + S3_READY_SECONDS
        while time.monotonic() < deadline:
            if self.server() is not None:
                return int(places.read_json(self._root.s3_side)["port"])
            if self._child is not None and self._child.poll() not in (None, 0, ALREADY_RUNNING):
                break
            await asyncio.sleep(0.01)
        raise LocalPlatformError(f"the S3 server did not start; see the logs in {self._root.logs}")

    def server(self) -> tuple[str, WeedPorts] | None:
        """Which start of the S3 server answers (its name), and its ports; None while it is down."""
        if self._root.s3_side_running() is None:
            return None
        found = places.read_json(self._root.s3_side).get("weed", {})
        process = ProcessId.parse(found)
        if process is None or not process.alive:
            return None
        return f"{process.boot}/{process.pid}/{process.started}", WeedPorts(tuple(found["ports"]))

    async def stop(self) -> None:
        """End the S3 side, also one that we have started and that has not said yet where it answers."""
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
        await asyncio.to_thread(stop_s3_side, self._root)
        if self._child is not None:
            try:
                await asyncio.to_thread(self._child.wait, S3_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


def stop_s3_side(root: Root) -> bool:
    """End the S3 side with its S3 server, whoever started it; False when none runs."""
    process = root.s3_side_running()
    stopped = process is not None and process.signal(signal.SIGTERM)
    if process is not None:
        _await_end(process)
        process.signal(signal.SIGKILL)
        _await_end(process)
    found = places.read_json(root.s3_side).get("weed", {})
    server = ProcessId.parse(found)
    if server is not None:
        # It dies with the S3 side, but a moment later.
        _await_end(server)
    # What a killed one could not clear away itself.
    weed.remove_sockets(found.get("ports", []))
    return stopped


def _await_end(process: ProcessId) -> None:
    deadline = time.monotonic() + S3_STOP_SECONDS
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.02)
