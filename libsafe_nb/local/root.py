"""
One local platform's folder: where each thing lies, who is running on it, and how it is written safely.

    ROOT/                   mode 0700
    ├── platform.json           URL, keys and S3 settings; there while the platform runs (contract 3)
    ├── kernels.sock            where the platform's fork server listens (`forkservers.py`)
    ├── platform.id             the platform process: pid, start time, boot
    ├── platform.sqlite3        every row
    ├── s3.json                 the S3 server's configuration, with the keys; mode 0600
    ├── s3side.json             the S3 side: process, ports, and which boot of the S3 server answers
    ├── s3side.active           its time of change is the time of the last S3 request
    ├── s3side.writes           the last S3 requests that change an object, of which the store's stream should tell
    ├── *.lock                  held (flock) by the process of that name for its life
    ├── s3/                     the S3 server's data
    ├── spool/                  uploads on their way
    ├── functions/              the bytes of published functions, by their SHA-256
    ├── runs/                   journals of the workers' runs
    ├── work/                   what workers have at hand
    └── log/
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libsafe_nb.errors import LocalPlatformError
from libsafe_nb.processes import ProcessId


@dataclass(frozen=True)
class Root:
    """Paths of one local platform; makes nothing until `create`."""

    path: Path

    @property
    def platform_file(self) -> Path:
        return self.path / "platform.json"

    @property
    def platform_id(self) -> Path:
        return self.path / "platform.id"

    @property
    def database(self) -> Path:
        return self.path / "platform.sqlite3"

    @property
    def s3_config(self) -> Path:
        return self.path / "s3.json"

    @property
    def s3_side(self) -> Path:
        return self.path / "s3side.json"

    @property
    def s3_active(self) -> Path:
        return self.path / "s3side.active"

    @property
    def s3_writes(self) -> Path:
        return self.path / "s3side.writes"

    @property
    def s3_data(self) -> Path:
        return self.path / "s3"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def functions(self) -> Path:
        return self.path / "functions"

    @property
    def logs(self) -> Path:
        return self.path / "log"

    def lock(self, name: str) -> Path:
        return self.path / f"{name}.lock"

    def create(self) -> None:
        """
        Make the folders, readable by this user alone.

        Raises
        ------
        LocalPlatformError
            The place cannot be written, or belongs to another user.
        """
        try:
            for folder in (self.path, self.s3_data, self.spool, self.logs):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as exc:
            raise LocalPlatformError(f"{self.path}: cannot hold a platform ({exc.strerror})") from exc
        if self.path.stat().st_uid != os.getuid():
            raise LocalPlatformError(f"{self.path}: belongs to another user; choose another --root")
        self.path.chmod(0o700)

    def running(self) -> ProcessId | None:
        """The platform process, if one lives."""
        return live_process(self.platform_id)

    def s3_side_running(self) -> ProcessId | None:
        return live_process(self.s3_side)


def live_process(path: Path) -> ProcessId | None:
    """The process that a file of ours names, if it still lives."""
    process = ProcessId.parse(read_json(path))
    return process if process is not None and process.alive else None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when there is none or it is not whole."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace a file at once and durably, mode 0600: a reader sees the old one or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(content, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def try_lock(path: Path) -> int | None:
    """An exclusive lock as a file descriptor (close it to let go), or None when another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


PORTS = range(10_000, 32_000)
"""Below the range from which the kernel takes ports for outgoing connections, which would race with ours."""


def free_ports(count: int, *, wanted: list[int] | None = None) -> list[int]:
    """
    Loopback ports that nobody listens on: those `wanted` if all are free, else random ones.

    Another process may take one before it is bound, so the caller must be ready to try again.
    """
    if wanted and len(wanted) == count and _bindable(wanted):
        return wanted
    for _ in range(1000):
        ports = random.sample(PORTS, count)
        if _bindable(ports):
            return ports
    raise LocalPlatformError(f"127.0.0.1: no {count} free ports found between 10000 and 32000")


def _bindable(ports: list[int]) -> bool:
    try:
        with contextlib.ExitStack() as stack:
            for port in ports:
                stack.enter_context(_bound(port))
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _bound(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        yield listener


def listen(port: int) -> socket.socket:
    """
    A listening loopback socket; 0 takes any free port.

    Raises
    ------
    OSError
        The port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port or free_ports(1)[0]))
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener
