"""
The journal of one run: what has been done, written down before the next step begins.

    $LIBSAFE_NB_HOME/runs/{run}/        mode 0700
    ├── lock                held (flock) by whoever works on the run: its runner, or a recovery
    ├── facts.json          what was settled before the start (`facts.py`)
    ├── in.ipynb            the notebook that is given to papermill
    ├── journal.jsonl       the steps, one JSON object a line; fsynced where that matters (`write`)
    ├── events.jsonl        what the function read, wrote and said, as it happened (`desk.py`)
    ├── executed.ipynb      the notebook as it was last saved; gone, as in.ipynb, from the step "frozen" on
    ├── evidence/           the frozen bytes, from then on
    └── work/               the kernel's directory

Steps: begun (process) · job (id) · started · kernel (process) · executed (outcome) · frozen (result), or refused (it
holds a key) · stored · linking, linked (number) · signed · stamped · delivered (a message of an outage) · told · released (the runner gave it up and lives on). A
folder without "begun" started nothing; it is removed when the job is closed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from libsafe_nb import atomic
from libsafe_nb.processes import ProcessId

FOLDER = "runs"
SOCKETS = "lsnb-"
"""With what the name of the folder of a run's socket begins, in a temporary place."""
STALE = 3600.0
"""Seconds after which a folder that never became a run, or was not removed whole, is removed."""


class Journal:
    """
    The journal in `folder`, opened by the one process that may write it. Closed by `with`.

    Attributes
    ----------
    steps
        What was done, in order: `{"step": NAME, …}`.

    Raises
    ------
    BlockingIOError
        Another living process holds it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = -1
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        _OPEN.add(self)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = os.open(
                folder / "journal.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            self.steps = list(read_lines(folder / "journal.jsonl"))
            size = os.fstat(self._file).st_size
            # Its writer died within a line, or could not write it whole: the next one begins on a line of its own.
            self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, folder: Path) -> Journal:
        """
        Make the folder and hold its lock before anybody can see it.

        Else a recovery could take a folder that has no step yet for one that was left behind.
        """
        hidden = folder.with_name(f".{folder.name}")
        # Those that `parents` makes would be for all to see.
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        hidden.mkdir(mode=0o700)
        journal = cls(hidden)
        hidden.rename(folder)
        atomic.sync_folder(folder.parent)
        journal.folder = folder
        return journal

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def write(self, step: str, *, forced: bool = True, **facts: Any) -> None:
        """
        Append one step and force it to the disk; on return it survives a crash.

        Without `forced` it survives the end of this process only; that of the machine from the next step on. So for what
        ends with the machine (a process), and for what does no harm if it is done again.

        Raises
        ------
        OSError
            The disk is full, or gone.
        """
        found = {"step": step, **facts}
        line = json.dumps(found, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"
        line, self._torn = b"\n" * self._torn + line, True
        while line:
            line = line[os.write(self._file, line) :]
        self._torn = False
        if forced:
            os.fsync(self._file)
        self.steps.append(found)

    def step(self, name: str) -> dict[str, Any] | None:
        """The last step of this name."""
        return next((each for each in reversed(self.steps) if each.get("step") == name), None)

    @property
    def job(self) -> str:
        """The job's id; empty as long as none is known."""
        return str((self.step("job") or {}).get("job", ""))

    @property
    def runner(self) -> ProcessId | None:
        """The process that began the run; None once it has given the run up."""
        return None if self.step("released") else ProcessId.parse(self.step("begun"))

    @property
    def kernel(self) -> ProcessId | None:
        return ProcessId.parse(self.step("kernel"))

    def release(self) -> None:
        """Give an unfinished run up to whoever recovers it, also while this process lives on; safe to call twice."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                self.write("released")
        self.close()

    def set_aside(self) -> Path:
        """Keep the folder where no recovery looks, `$LIBSAFE_NB_HOME/abandoned/{run}`; returns where."""
        aside = self.folder.parent.parent / "abandoned" / self.folder.name
        aside.parent.mkdir(mode=0o700, exist_ok=True)
        self.folder.rename(aside)
        self.folder = aside
        return aside

    def remove(self) -> None:
        """Remove the folder and all that is in it: the run is over and told. Out of sight first, so never by halves."""
        gone = self.folder.with_name(f".{self.folder.name}")
        with contextlib.suppress(OSError):
            self.folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        self.close()

    def close(self) -> None:
        """Give the journal up; safe to call twice."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1


_OPEN: weakref.WeakSet[Journal] = weakref.WeakSet()


def _forget() -> None:
    """A lock belongs to all copies of its descriptor: a process forked in a run would hold it when that has ended."""
    for journal in _OPEN:
        journal.close()


os.register_at_fork(after_in_child=_forget)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; a last line that was cut off in the middle, and a missing file, are none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                yield found


def folders(home: Path) -> list[Path]:
    """The runs' folders, oldest first; leftovers that no run will come back to are removed."""
    try:
        found = sorted((home / FOLDER).iterdir(), key=lambda each: (changed(each), each.name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    for each in found:
        if each.name.startswith(".") and time.time() - changed(each) > STALE:
            with contextlib.suppress(BlockingIOError, OSError), Journal(each) as leftover:
                leftover.remove()
    return [each for each in found if each.is_dir() and not each.name.startswith(".")]


def changed(path: Path) -> float:
    """When a file or folder was changed last, in seconds since 1970; 0 if there is none."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
