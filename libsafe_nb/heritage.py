"""
What a process has from its birth and keeps: a fork server may bear only children that would have inherited the same.

A forked kernel is given its environment, directory, umask, limits, processors and the signals to ignore. It cannot be given what Python and the
libraries read while they start, what lies installed, whose it is, and in which group, namespace and priority the system
counts it: those are the server's. `key` puts them in one word; servers of another key are not for this run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import site
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

READ_AT_START = (
    "_PYTHON",
    "ASAN_",
    "COV_",
    "COVERAGE_",
    "GLIBC_",
    "IPYTHON_",
    "LC_",
    "LD_",
    "MALLOC_",
    "MSGPACK_",
    "OPENSSL_",
    "PYTHON",
    "PYZMQ_",
    "TORNADO_",
    "TRAITLETS_",
)
"""Beginnings of variables that the loader, Python, and the libraries of a kernel read once, while they start."""

NAMES_READ_AT_START = (
    "ANDROID_DATA",
    "HOME",
    "IN_SPHINX_RUN",
    "JUPYTER_ALLOW_INSECURE_WRITES",
    "JUPYTER_PLATFORM_DIRS",
    "JUPYTER_USE_PROGRAMDATA",
    "LANG",
    "LANGUAGE",
    "TERM",
    "TZ",
    "USER",
)
"""Of Jupyter's only these: others are secrets (`JUPYTER_TOKEN`)."""

KEYS = re.compile("AUTH|CRED|KEY|PASS|SECRET|TOKEN", re.IGNORECASE)
"""In the names of variables that begin so and are others' all the same (`PYTHONANYWHERE_API_TOKEN`, `LD_SDK_KEY`)."""

EXECUTED = ("sitecustomize.py", "usercustomize.py")
"""What Python executes at its start, wherever it finds it."""

NOT_FORKED = ("JPY_PARENT_PID", "JPY_INTERRUPT_EVENT")
"""With these a kernel watches over its parent, which is to be the runner."""

PYTHONS_OWN = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that every Python ignores."""

_PLACE = ("cgroup", "oom_score_adj", "attr/current", "timens_offsets")
_STATUS = (
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
)
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid_for_children", "user", "uts")


def start_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The part of a kernel's environment that is read while it starts; no key of anybody's is in it."""
    return {
        name: value
        for name, value in env.items()
        if name in NAMES_READ_AT_START or (name.startswith(READ_AT_START) and not KEYS.search(name))
    }


def key(env: Mapping[str, str], options: tuple[str, ...]) -> str | None:
    """
    What a kernel with this environment and these options of the interpreter would have from its birth, as a digest.

    None where it depends on the working directory (a relative PYTHONPATH) or on its parent, or the system does not tell.
    Some 1 ms.
    """
    if any(name in env for name in NOT_FORKED):
        return None
    start = start_environment(env)
    if any(not Path(each).is_absolute() for each in start.get("PYTHONPATH", "/").split(os.pathsep)):
        return None
    try:
        found = [sys.version, sys.executable, options, sorted(start.items()), installed(), place()]
        found += [_stamp(each.stat()) for each in _executed(start) if each.exists()]
    except OSError:
        return None
    return hashlib.sha256(json.dumps(found).encode("utf-8", "surrogatepass")).hexdigest()


def installed() -> list[Any]:
    """
    What changes when a package is installed, removed or upgraded, or this one's source is edited.

    Installers change the folder of the packages, or a `.pth` file in it, whatever else they do.
    """
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    found: list[Any] = []
    for folder in folders:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found.append(_stamp(Path(folder).stat()))
            found += sorted(
                (each.name, _stamp(each.stat()))
                for each in os.scandir(folder)
                if each.name.endswith(".pth") or each.name in EXECUTED
            )
    here = Path(__file__).parent
    if str(here.parent) not in folders:
        for path in (here, here / "compat", here / "interactive", here / "redact"):
            found += sorted(_stamp(each.stat()) for each in os.scandir(path) if each.name.endswith(".py"))
    return found


def _executed(start: Mapping[str, str]) -> list[Path]:
    folders = [each for each in start.get("PYTHONPATH", "").split(os.pathsep) if each]
    return [Path(folder) / name for folder in folders for name in EXECUTED]


def _stamp(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def place() -> list[Any]:
    """Whose this process is, and where the system counts it."""
    own = Path("/proc/self")
    status = dict(line.split(":\t", 1) for line in (own / "status").read_text().splitlines() if ":\t" in line)
    found: list[Any] = [status.get(name) for name in _STATUS]
    for name in _PLACE:
        with contextlib.suppress(OSError):
            found.append((own / name).read_text())
    for name in _NAMESPACES:
        with contextlib.suppress(OSError):
            found.append(str((own / "ns" / name).readlink()))
    return [*found, str((own / "root").readlink()), os.getpriority(os.PRIO_PROCESS, 0)]


def umask() -> int:
    """This process's; asked of the system, because Python can only set it, which other threads would notice."""
    return int(_told("Umask"), 8)


def ignored() -> list[int]:
    """The signals that this process ignores and its children would, by number: SIGHUP under `nohup`."""
    mask = int(_told("SigIgn"), 16)
    # Python ignores these in each of its processes, and gives them back to others (`subprocess`, restore_signals).
    return sorted(
        each for each in signal.valid_signals() if mask >> (each - 1) & 1 and each not in PYTHONS_OWN
    )


def _told(name: str) -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.split()[1]
    raise OSError(f"the system does not tell {name} of a process")
