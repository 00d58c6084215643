"""
Which process that was: one that ran can be told from a later one with the same number, and a dead group is known.

Linux: all of it is read from `/proc`.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True)
class ProcessId:
    """A process named by its pid, its start time and the machine's boot: a pid alone may by now be a stranger's."""

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """
        Raises
        ------
        ProcessLookupError
            There is no such process, or it is dead and only waits for its parent.
        """
        found = _stat(pid)
        if found is None or not found.alive:
            raise ProcessLookupError(pid)
        return cls(pid, found.started, boot_id())

    @classmethod
    def parse(cls, found: Any) -> ProcessId | None:
        """What `as_dict` gave, read back; None for anything else."""
        try:
            return cls(int(found["pid"]), int(found["started"]), str(found["boot"]))
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def alive(self) -> bool:
        if self.boot != boot_id():
            return False
        found = _stat(self.pid)
        return found is not None and found.alive and found.started == self.started

    @property
    def group_alive(self) -> bool:
        """
        Whether anything lives in the process group that this process led.

        A number is not given to a new process as long as a group has it. So with the leader gone, what is in the
        group is what it left behind; with another leader there, the group is somebody else's.
        """
        if self.boot != boot_id():
            return False
        leader = _stat(self.pid)
        if leader is not None and leader.started != self.started:
            return False
        return any(each.alive for each in _processes() if each.group == self.pid)

    def signal(self, number: int) -> bool:
        """Send a signal if the process is still this one; False when it is gone."""
        if not self.alive:
            return False
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class _Stat(NamedTuple):
    """
    `started` is in clock ticks since the machine's boot (proc(5)).

    A zombie is not alive, unless threads of it still run: they hold its files and sockets open.
    """

    alive: bool
    group: int
    started: int


def _stat(pid: int | str) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses and may hold spaces and parentheses itself.
    fields = text.rpartition(")")[2].split()
    threads = int(fields[17])
    return _Stat(fields[0] not in ("Z", "X") or threads > 1, int(fields[2]), int(fields[19]))


def _processes() -> list[_Stat]:
    pids = [each.name for each in Path("/proc").iterdir() if each.name.isdigit()]
    return [found for found in map(_stat, pids) if found is not None]
