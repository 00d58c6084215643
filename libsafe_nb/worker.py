"""
A worker of the local platform, or of a workflow's own host: claims calls and runs them, one at a time.

    ROOT LIFELINE                                           of the platform in the folder ROOT
    --job JOB --host NAME --slots N --home HOME LIFELINE    of the workflow whose job this is, on the host NAME

It ends by itself when nothing waits, and at once when who hired it does: LIFELINE is a pipe whose other side that one holds. What
it ran then is finished by the next worker, as any interrupted run is (`recover.py`); its journals lie in ROOT, or HOME. After a
SIGTERM it finishes what it is at, and claims nothing more.

The function is the published version, byte for byte: what the platform sends is compared with its digest here, and the
runner compares once more what it executes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import declared, lost, plan, recover, runner, spared
from libsafe_nb import settings as settings_
from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import LibsafeError, SettingsError, UsageError
from libsafe_nb.functions import Functions
from libsafe_nb.models import Parent, Published, Run

if TYPE_CHECKING:
    from libsafe_nb.execution import CellState
    from libsafe_nb.notebook import FunctionNotebook
    from libsafe_nb.settings import Settings

LEASE = 300.0
"""
Seconds after which a call of a worker that gives no sign of life is given to another. Longer than any outage that a run
waits out before it begins; of a worker that has died the platform need not wait for it.
"""
RENEW = 1.0
"""Seconds between two signs of life; a cancelled call is noticed as soon."""
KEEP = 30.0
"""The same, while what others left is finished."""
IDLE = 10.0
"""Seconds without work after which a worker ends."""
AGAIN = 30.0
"""Seconds until a run whose evidence could not be stored is taken up again, or is asked for on another machine."""
OPEN = ("QUEUED", "RUNNING")
READ = 50
"""Functions that a worker keeps as they were read."""


class Worker:
    """
    Parameters
    ----------
    host
        Of a workflow's own: `root` (its job), `host` (with which its workers' names begin) and `slots`.
    """

    def __init__(self, connection: Connection, host: Mapping[str, Any] | None = None) -> None:
        self.connection = connection
        self.functions = Functions(connection.client)
        self.host = host
        # By its beginning the platform knows which leases are free when this process has died.
        self.owner = f"{host['host'] if host else ''}{os.getpid()}/{uuid.uuid4().hex}"
        self.leaving = self.idle = False
        self._read: dict[tuple[str, int], FunctionNotebook] = {}
        """Functions that were run before, by key and version."""
        self._sought: dict[str, float] = {}
        """When a job was last asked for whether the machine that runs it is lost."""

    def leave(self, number: int, frame: object) -> None:
        """Claim nothing more; where it is waiting for a call, end there and then."""
        self.leaving = True
        if self.idle:
            os._exit(0)

    def work(self) -> None:
        """Run what waits, until nothing has for `IDLE` seconds."""
        while (call := self._claim()) is not None:
            try:
                with self._kept(call):
                    ready = self._ready(call)
                if ready:
                    self._run(call)
            except LibsafeError as exc:
                self._refused(call, exc)

    def _claim(self) -> dict[str, Any] | None:
        if self.leaving:
            return None
        self.idle = True
        try:
            return self.functions.claim(self.owner, lease=LEASE, wait=IDLE, host=self.host)
        finally:
            self.idle = False

    @contextlib.contextmanager
    def _kept(self, call: dict[str, Any]) -> Iterator[None]:
        """Give signs of life meanwhile: what others left may wait for a storage that is away for longer than a lease."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(KEEP):
                with contextlib.suppress(LibsafeError):
                    self.functions.renew(call["id"], self.owner, lease=LEASE)

        keeper = threading.Thread(target=keep, name="lease", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    def _ready(self, call: dict[str, Any]) -> bool:
        """
        Finish what a worker before us left, of this call above all; whether the call is still to be run.

        A run that is finished so ends its job, and with it this attempt: the platform queues the next one, if there is to
        be one. Done before each call, as a run may have been broken off before its job says RUNNING; where nothing was left
        it is a look into a folder.
        """
        began = time.monotonic()
        left = sum(1 for _ in recover.recover(settings=self.connection.settings, lost=False))
        status = call.get("job_status")
        if left or status != "QUEUED" or time.monotonic() - began > RENEW:
            status = self.connection.client.job(call["job_id"])["status"]
        if status == "RUNNING" and not self._lost(call):
            # The process that is at it has not ended yet, or the evidence cannot be stored yet.
            self.functions.release(call["id"], self.owner, delay=2.0)
        return bool(status == "QUEUED")

    def _lost(self, call: dict[str, Any]) -> bool:
        """Whether the machine that ran it is lost; this attempt is then ended."""
        job, now = call["job_id"], time.monotonic()
        if now - self._sought.get(job, -AGAIN) < AGAIN:
            return False
        self._sought = {each: at for each, at in self._sought.items() if now - at < AGAIN} | {job: now}
        return lost.end(self.connection, call["payload"]["function_data"]["container"]["id"], job)

    def _run(self, call: dict[str, Any]) -> None:
        if not self.functions.renew(call["id"], self.owner, lease=LEASE, job=call["job_id"]):
            # Cancelled, or given to another while this process was stopped.
            return
        about = call["published"]
        # They were right for the version of then; another one may be current by now.
        declared.check_queued(
            about["key"],
            about["parameters"],
            call["payload"]["function_params"],
            handler=about["kind"] == "handler",
        )
        function = self._function(about)
        progress = _Progress(len(function.node.cells))
        run = runner.run(
            call["payload"],
            function,
            job=call["job_id"],
            timeout=call["timeout"],
            connection=self.connection,
            published=Published(about["version"], about["sha256"]),
            parent=Parent(**call["parent"]) if call["parent"] else None,
            on_cell=progress.on_cell,
            wait=False,
            queued=True,
        )
        self._watch(call, run, progress)
        if self.connection.client.job(call["job_id"])["status"] in OPEN:
            # Its evidence could not be stored; it is not executed again for that.
            self.functions.release(call["id"], self.owner, delay=AGAIN)

    def _function(self, about: Mapping[str, Any]) -> FunctionNotebook:
        """The published version, as it was read before where it was."""
        which = (str(about["key"]), int(about["version"]))
        if which not in self._read:
            data = self.functions.content(*which)
            if len(self._read) >= READ:
                self._read.clear()
            self._read[which] = plan.parse(data, about["name"])
        return self._read[which]

    def _watch(self, call: dict[str, Any], run: Run, progress: _Progress) -> None:
        """Give signs of life until the run has ended; cancel it when the call was."""
        while True:
            try:
                run.wait(RENEW)
                return
            except TimeoutError:
                # While the platform is away nobody can have cancelled it.
                with contextlib.suppress(LibsafeError):
                    if not self.functions.renew(
                        call["id"],
                        self.owner,
                        lease=LEASE,
                        progress=progress.fresh(),
                        job=call["job_id"],
                    ):
                        run.cancel("the call was cancelled")

    def _refused(self, call: dict[str, Any], exc: LibsafeError) -> None:
        """
        Settle a call whose run did not begin. What is wrong with the function or its files stays wrong; anything else may
        be better another time. Whether it began the platform knows: we may not even see its job any more. A run that did has
        its evidence on this disk, and is only finished with it.
        """
        status = "failed" if isinstance(exc, UsageError) and not isinstance(exc, SettingsError) else "errored"
        settled = self.functions.release(
            call["id"],
            self.owner,
            status=status,
            message=f"could not be run: {exc}"[:9000],
            delay=AGAIN,
        )
        if settled["status"] == "running":
            print(f"call {call['id']}: {exc}", file=sys.stderr, flush=True)


class _Progress:
    """How much of the notebook has run, told as it changes."""

    def __init__(self, cells: int) -> None:
        self._cells = max(1, cells)
        self._done = self._told = 0.0

    def on_cell(self, state: CellState) -> None:
        if state.ended is not None:
            # One more than the notebook's own: the injected cell.
            self._done = min(1.0, (state.index + 1) / (self._cells + 1))

    def fresh(self) -> float | None:
        """The progress, if it is another than the last one told."""
        if self._done == self._told:
            return None
        self._told = self._done
        return self._done


def end_with(lifeline: int) -> None:
    """End this process when the other side of the pipe does, without any farewell: the journal has what matters."""

    def wait() -> None:
        with contextlib.suppress(OSError):
            os.read(lifeline, 1)
        os._exit(0)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def settings_of(platform: Path | None, home: Path) -> Settings:
    """The platform's, or those of the environment; who signs and stamps is as this machine's settings say."""
    own = settings_.load()
    if platform is None:
        return dataclasses.replace(own, home=home)
    return dataclasses.replace(
        settings_.from_platform_file(platform),
        home=home,
        sign_key=own.sign_key,
        tsa_url=own.tsa_url,
    )


def main(arguments: list[str]) -> int:
    end_with(int(arguments[-1]))
    host = None
    if arguments[0] == "--job":
        said = dict(zip(arguments[:-1:2], arguments[1:-1:2], strict=True))
        host = {"root": said["--job"], "host": said["--host"], "slots": int(said["--slots"])}
        platform = Path(said["--platform"]) if "--platform" in said else None
        home = Path(said["--home"])
    else:
        home = Path(arguments[0])
        platform = home / "platform.json"
    spared.spare(*spared.JSONSCHEMA, *spared.PAPERMILL)
    try:
        with contextlib.closing(connect(settings=settings_of(platform, home))) as connection:
            worker = Worker(connection, host)
            signal.signal(signal.SIGTERM, worker.leave)
            worker.work()
    except LibsafeError as exc:
        print(time.strftime("%Y-%m-%d %H:%M:%S"), exc, file=sys.stderr, flush=True)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
