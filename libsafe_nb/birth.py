"""
What runner, fork server and the kernel that it bears say to each other.

The runner sends the server one message with the open files of a `Birth`. The server forks; the child reads the rest, a
`Request`, from the line itself, so that nothing of it is ever in the server's memory, and answers with its pid. Later the
server tells on the same line with which exit code it ended. Answers are JSON, one a text line.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import Any

GUARD = """
exec 3<&0 </dev/null
( ( trap '' HUP INT QUIT TERM; exec >/dev/null 2>&1; read -r _ <&3
    kill -KILL "$leader"; PATH=/usr/bin:/bin
    rm -rf -- "$1" || rm -rf -- "$1"; kill -KILL 0 ) & )
exec 3<&-
"""
"""
The guard, for a shell in the kernel's group: with the pipe on its stdin, `$leader`, the folder `$1` and the group come to an
end, in this order: a kernel that is starting would put files into a folder that is being removed. As long as the guard
lives, no other process can have its group's number.

It is forked twice, so that the kernel has no child it did not start, and before any limit is set.
"""

_LENGTH = 8


@dataclass(frozen=True)
class Birth:
    """Open files that came with a request: one end of the line to the runner, and the two pipes (file descriptors)."""

    line: socket.socket
    guard: int
    errors: int


@dataclass(frozen=True)
class Request:
    """
    The kernel that is asked for.

    Attributes
    ----------
    argv
        The command of an ordinary start, which is what the kernel looks like from outside.
    limits
        Soft and hard ones (`resource.setrlimit`), by number.
    blocked
        Signals that the runner's thread holds back, by number; those of the server are of whichever thread began it.
    ignored
        Signals that the runner ignores, by number.
    folder
        Removed when the runner is gone.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    folder: str
    umask: int
    limits: dict[str, tuple[int, int]]
    blocked: list[int]
    ignored: list[int]
    processors: list[int]

    def send(self, line: socket.socket) -> None:
        data = json.dumps(asdict(self)).encode()
        line.sendall(len(data).to_bytes(_LENGTH, "big") + data)

    @classmethod
    def receive(cls, line: socket.socket) -> Request:
        """Raises `OSError` where the runner is gone."""
        size = int.from_bytes(_exactly(line, _LENGTH), "big")
        return cls(**json.loads(_exactly(line, size)))


def tell(line: socket.socket, **what: Any) -> None:
    line.sendall(json.dumps(what).encode() + b"\n")


def hear(line: socket.socket) -> dict[str, Any]:
    """The last answer that has come, waited for as long as the line's time-out; raises `OSError` where none comes."""
    found = b""
    while not found.endswith(b"\n"):
        more = line.recv(4096)
        if not more:
            raise ConnectionError("the fork server is gone")
        found += more
    # Of a child that has ended already there are two.
    return dict(json.loads(found.splitlines()[-1]))


def _exactly(line: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        more = line.recv(size - len(found))
        if not more:
            raise ConnectionError("the runner is gone")
        found += more
    return found
