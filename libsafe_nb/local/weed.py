"""
The S3 server's program: `weed mini` of SeaweedFS, with the flags that keep it small, loopback-only and silent.

Flags and traps are those measured for release 4.48; beyond them it is told not to send statistics to its makers
(`-master.telemetry`, on by default), not to serve an IAM API, and to sign its inner HTTP calls, so that other local
users cannot write past the S3 side through its inner ports. Its gRPC ports take no password: loopback only.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from libsafe_nb import courtesy
from libsafe_nb.errors import LocalPlatformError

MEMORY = "512MiB"
"""
Go's soft limit for the S3 server's heap; without one it takes 2 GiB for many small objects.

Tables and logs that release 4.48 allocates at its start, and hardly touches, are 330 MiB of that heap. With a limit near
that, the first read by a client slower than the server left it collecting garbage without end: 3.6 s of processor time
to read 1 GiB in place of 1.3 s.
"""

REMEDY = "pip install 'libsafe-nb[local]'"

PORT_NAMES = (
    "s3.port",
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "admin.port",
    "admin.port.grpc",
)


@dataclass(frozen=True)
class WeedPorts:
    """The ports of one S3 server, in the order of `PORT_NAMES`."""

    all: tuple[int, ...]

    @property
    def s3(self) -> int:
        return self.all[0]

    @property
    def master(self) -> int:
        return self.all[2]

    @property
    def filer(self) -> str:
        """The filer's address as weed's own commands want it: `HOST:PORT.GRPC`."""
        return f"127.0.0.1:{self.all[6]}.{self.all[7]}"

    def sockets(self) -> list[Path]:
        """Unix sockets that the server makes in /tmp, and leaves there."""
        grpc = {"s3": 1, "master": 3, "volume": 5, "filer": 7, "admin": 9}
        plain = {"s3": 0, "filer": 6}
        names = [f"seaweedfs-{name}-grpc-{self.all[at]}.sock" for name, at in grpc.items()]
        names += [f"seaweedfs-{name}-{self.all[at]}.sock" for name, at in plain.items()]
        return [Path("/tmp") / name for name in names]  # noqa: S108 - where weed puts them


def remove_sockets(ports: Sequence[int]) -> None:
    """Remove the Unix sockets that a dead S3 server left in /tmp; one that somebody answers on stays."""
    if len(ports) != len(PORT_NAMES):
        return
    for path in WeedPorts(tuple(ports)).sockets():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
            except OSError:
                continue


def program() -> str:
    """
    The path of `weed`: of this Python's environment first, else on PATH.

    Raises
    ------
    LocalPlatformError
        It is not installed.
    """
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise LocalPlatformError(f"the local platform's S3 server is not installed; run: {REMEDY}")
    return found


def server_command(data: Path, config: Path, ports: WeedPorts) -> list[str]:
    flags = [f"-{name}={port}" for name, port in zip(PORT_NAMES, ports.all, strict=True)]
    return [
        program(),
        "-logtostderr=true",
        "mini",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-s3.config={config}",
        *flags,
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-s3.allowDeleteBucketNotEmpty=false",
        "-s3.autoCreateBucket=false",
        "-master.telemetry=false",
        "-volume.preStopSeconds=0",
        "-metricsPort=0",
        "-webdav=false",
        "-admin.ui=false",
    ]


def tail_command(ports: WeedPorts, bucket: str, seconds_ago: float) -> list[str]:
    """Prints every change below the bucket as JSON, from so many seconds ago and then as it happens."""
    return [
        program(),
        "filer.meta.tail",
        f"-filer={ports.filer}",
        f"-timeAgo={max(seconds_ago, 0):.3f}s",
        f"-pathPrefix=/buckets/{bucket}/",
    ]


def start(
    command: Sequence[str], *, folder: Path, log: IO[bytes], stdout: IO[bytes] | int
) -> subprocess.Popen[bytes]:
    """
    Start a weed program that cannot outlive the calling thread's process: the kernel kills it with its parent.

    It gives way to others (`courtesy.py`). `folder` becomes its working directory, where it looks for `security.toml`. Its environment holds no `LIBSAFE_*`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIBSAFE_")}
    environment["GOMEMLIMIT"] = MEMORY
    return subprocess.Popen(  # our own command line
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=log,
        preexec_fn=_begin,
        start_new_session=True,
    )


_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _begin() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    courtesy.process(courtesy.SERVING)
