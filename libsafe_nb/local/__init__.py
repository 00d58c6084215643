"""
The local platform: an embedded LIBSAFE Go, REST over SQLite and S3 by SeaweedFS, all under one folder.

Importing this costs next to nothing; what runs is a process of its own (`server`), started here and joined by
its `platform.json`.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libsafe_nb.errors import LocalPlatformError, SettingsError
from libsafe_nb.local.root import Root
from libsafe_nb.processes import ProcessId
from libsafe_nb.settings import Settings, from_platform_file

__all__ = ["Served", "check_installed", "ensure", "run_foreground", "serve", "status", "stop"]

IDLE_SECONDS = 600.0
"""A platform started on demand ends after so long without a request (contract 2)."""
START_SECONDS = 60.0
"""For a platform to answer after its start (1.2 s measured on two idle cores)."""
STOP_SECONDS = 60.0
REMEDY = "pip install 'libsafe-nb[local]'"


@dataclass(frozen=True)
class Served:
    """A running platform: where it is, and its default user's settings."""

    root: Path
    url: str
    settings: Settings


@contextlib.contextmanager
def serve(root: str | os.PathLike[str], *, port: int = 0, idle: float | None = None) -> Iterator[Served]:
    """
    Run a platform over `root` while the block lasts; it also ends if this process dies.

    One that runs there already is joined, and left running.

    Parameters
    ----------
    port
        Of the REST API; 0 takes the one of last time if it is free, else any.
    idle
        End by itself after so many seconds without a request; None: never.

    Raises
    ------
    LocalPlatformError
        It cannot start: the `[local]` extra is missing, the port is taken, the place cannot be written.
    """
    place = _place(root)
    with _starting(place):
        joined = _healthy(place)
        started = None if joined else _start_with_us(place, port=port, idle=idle)
    try:
        settings = joined or from_platform_file(place.platform_file)
        yield Served(place.path, str(settings.url), settings)
    finally:
        if started is not None:
            started.stop()


def ensure(root: str | os.PathLike[str]) -> Settings:
    """
    Join the platform on `root`, or start one that outlives this process and ends after 10 idle minutes.

    Safe against any number of callers at once: one starts it, the others join.

    Raises
    ------
    LocalPlatformError
        It cannot start.
    """
    place = _place(root)
    found = _healthy(place, use=True)
    if found is not None:
        return found
    with _starting(place):
        # Another process may have started it while we waited for our turn.
        found = _healthy(place, use=True)
        if found is None:
            _start_detached(place)
            found = from_platform_file(place.platform_file)
        return found


def run_foreground(root: str | os.PathLike[str], port: int = 0) -> None:
    """
    Serve until interrupted or terminated, without an idle end; prints where.

    Raises
    ------
    LocalPlatformError
        One runs on this root already, or it cannot start.
    """
    place = _place(root)
    running = place.running()
    if running is not None and _healthy(place):
        raise LocalPlatformError(f"{place.path}: a platform runs there already (process {running.pid})")
    with _starting(place):
        started = _start_with_us(place, port=port, idle=None)
    try:
        print(f"serving {from_platform_file(place.platform_file).url}", flush=True)
        print(f"settings are in {place.platform_file} (mode 0600); stop with Ctrl-C", flush=True)
        # Ctrl-C is how one stops it.
        with contextlib.suppress(KeyboardInterrupt):
            started.wait()
    finally:
        started.stop()


def status(root: str | os.PathLike[str]) -> dict[str, Any]:
    """What runs on `root`, without any key: `running`, `root`, and if so `url`, `pid`, `s3` and `s3_pid`."""
    place = Root(Path(root).absolute())
    settings = _healthy(place)
    process, s3_side = place.running(), place.s3_side_running()
    found: dict[str, Any] = {"running": settings is not None, "root": str(place.path)}
    if settings is not None and settings.s3 is not None:
        found |= {"url": settings.url, "s3": settings.s3.endpoint, "bucket": settings.s3.bucket}
    if process is not None:
        found["pid"] = process.pid
    if s3_side is not None:
        found["s3_pid"] = s3_side.pid
    return found


def stop(root: str | os.PathLike[str]) -> bool:
    """
    End the platform on `root`, also an S3 side that outlived it; False when nothing ran.

    Raises
    ------
    LocalPlatformError
        It did not end within a minute.
    """
    from libsafe_nb.local.keeper import stop_s3_side

    place = Root(Path(root).absolute())
    if not place.path.exists():
        return False
    process = place.running()
    if process is not None:
        process.signal(signal.SIGTERM)
        _await_end(process, place)
    with _starting(place):
        # What is left is nobody's, unless somebody has started another platform meanwhile.
        orphan = place.running() is None and stop_s3_side(place)
        if place.running() is None:
            place.platform_file.unlink(missing_ok=True)
    return process is not None or orphan


def _await_end(process: ProcessId, place: Root) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while process.alive:
        if time.monotonic() > deadline:
            raise LocalPlatformError(
                f"{place.path}: process {process.pid} did not end within {STOP_SECONDS:.0f} s"
            )
        time.sleep(0.02)


def check_installed() -> None:
    """
    Look whether the `[local]` extra is there; starts nothing.

    Raises
    ------
    LocalPlatformError
        Something is missing; the sentence says what to install.
    """
    for name in ("starlette", "uvicorn", "uvloop", "httptools", "python_multipart"):
        if importlib.util.find_spec(name) is None:
            raise LocalPlatformError(
                f"the local platform needs {name}, which is not installed; run: {REMEDY}"
            )
    from libsafe_nb.local import weed

    weed.program()


def _place(root: str | os.PathLike[str]) -> Root:
    check_installed()
    place = Root(Path(root).absolute())
    place.create()
    return place


def _healthy(place: Root, *, use: bool = False) -> Settings | None:
    """
    The settings of a platform that runs and answers; a file left by a dead one counts for nothing.

    With `use` the question counts as use, so that the platform does not end as idle in the next moment.
    """
    if place.running() is None:
        return None
    try:
        settings = from_platform_file(place.platform_file)
        question = urllib.request.Request(f"{settings.url}/{'user/me' if use else 'health'}")  # noqa: S310 - loopback
        question.add_header("Authorization", f"Bearer {settings.key_user}")
        with urllib.request.urlopen(question, timeout=5) as answer:  # noqa: S310 - loopback
            return settings if json.load(answer).get("success") else None
    except urllib.error.HTTPError as exc:
        # A key that has been revoked: it answers all the same.
        exc.close()
        return settings if exc.code == 403 else None
    except (SettingsError, OSError, ValueError):
        return None


@contextlib.contextmanager
def _starting(place: Root) -> Iterator[None]:
    """One starter at a time; the others wait here, and then find it running."""
    descriptor = os.open(place.lock("start"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Started:
    """A platform whose life is bound to ours by a pipe."""

    process: subprocess.Popen[bytes]
    lifeline: int

    def wait(self) -> None:
        code = self.process.wait()
        if code:
            raise LocalPlatformError(f"the local platform ended with code {code}")

    def stop(self) -> None:
        """End it and wait. Not by letting go of the pipe alone: a forked process may hold a copy of it."""
        if self.process.poll() is None:
            self.process.terminate()
        os.close(self.lifeline)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _start_with_us(place: Root, *, port: int, idle: float | None) -> _Started:
    theirs, ours = os.pipe()
    try:
        process, ready = _launch(place, port, idle, ["--lifeline", str(theirs)], theirs)
    finally:
        os.close(theirs)
    started = _Started(process, ours)
    try:
        _await_ready(place, ready)
    except BaseException:
        started.stop()
        raise
    return started


def _start_detached(place: Root) -> None:
    """Start a platform that is nobody's child: it neither ends with us nor waits for us to reap it."""
    process, ready = _launch(place, 0, IDLE_SECONDS, ["--detach"])
    process.wait()
    _await_ready(place, ready)


def _launch(
    place: Root, port: int, idle: float | None, options: list[str], *pipes: int
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the platform process; answers it and the pipe on which it will say that it is ready."""
    ending = place.running()
    if ending is not None:
        # It runs but does not answer: it is on its way out.
        _await_end(ending, place)
    ready, theirs = os.pipe()
    # -P: nothing in the folder where somebody happens to be stands in for a module.
    command = [sys.executable, "-P", "-m", "libsafe_nb.local.server", str(place.path), "--port", str(port)]
    command += ["--ready", str(theirs), *options, *([] if idle is None else ["--idle", str(idle)])]
    try:
        with _output(place).open("wb") as stream:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                pass_fds=(theirs, *pipes),
            )
    except BaseException:
        os.close(ready)
        raise
    finally:
        os.close(theirs)
    return process, ready


def _output(place: Root) -> Path:
    return place.logs / "start.log"


def _await_ready(place: Root, ready: int) -> None:
    """
    Wait until the platform says so; the pipe ends without a word when it dies before.

    Raises
    ------
    LocalPlatformError
        It died, with what it said last, or took more than `START_SECONDS`.
    """
    with os.fdopen(ready, "rb", buffering=0) as pipe:
        if not select.select([pipe], [], [], START_SECONDS)[0]:
            raise LocalPlatformError(
                f"{place.path}: the local platform did not answer within {START_SECONDS:.0f} s"
            )
        if not pipe.read(5):
            said = _output(place).read_text(errors="replace").strip()[-500:]
            raise LocalPlatformError(
                f"{place.path}: the local platform did not start: {said or f'it was stopped, or see {place.logs}'}"
            )
