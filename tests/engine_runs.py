"""Notebooks made of a few cells, executed by the engine `libsafe`, here or by papermill's own program."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import papermill

from libsafe_nb.execution import Execution, Outcome

MARK = "LSNB_TEST_MARK"


def notebook(*cells, kernel="python3"):
    """A notebook of code cells; a cell is its source, or (source, tag, …)."""
    made = nbformat.v4.new_notebook()
    if kernel:
        made.metadata["kernelspec"] = {"name": kernel, "language": "python", "display_name": kernel}
    for number, cell in enumerate(cells):
        source, *tags = [cell] if isinstance(cell, str) else cell
        made.cells.append(nbformat.v4.new_code_cell(source, id=f"cell-{number}", metadata={"tags": tags}))
    return made


@dataclass
class Ran:
    """What an execution left: outcome, notebook, what papermill raised, and how long it took."""

    outcome: Outcome | None
    nb: Any
    error: BaseException | None
    seconds: float

    @property
    def statuses(self):
        """Ours, by cell."""
        return [cell.metadata.libsafe_nb.status for cell in self.nb.cells if cell.cell_type == "code"]

    @property
    def papermills(self):
        """papermill's, by cell."""
        return [cell.metadata.papermill.status for cell in self.nb.cells if cell.cell_type == "code"]

    def text(self, index):
        """All that a cell printed."""
        return "".join(each.text for each in self.nb.cells[index].outputs if each.output_type == "stream")


def execute(folder: Path, *cells, parameters=None, papermill_options=None, **plan) -> Ran:
    """Execute with an `Execution(**plan)` and read back what was saved."""
    source, target = folder / "in.ipynb", folder / "out.ipynb"
    nbformat.write(notebook(*cells), source)
    execution = Execution(save_to=target, **plan)
    return run(execution, source, target, parameters, **(papermill_options or {}))


def run(execution, source, target, parameters=None, **options) -> Ran:
    begun = time.monotonic()
    error = None
    try:
        papermill.execute_notebook(
            str(source),
            None,
            parameters,
            engine_name="libsafe",
            progress_bar=False,
            execution=execution,
            **options,
        )
    except Exception as exc:
        error = exc
    return Ran(execution.outcome, read(target), error, time.monotonic() - begun)


def read(path: Path) -> Any:
    """The notebook at `path`, which must be whole and valid."""
    found = nbformat.read(path, as_version=4)
    nbformat.validate(found)
    return found


def spawn(folder: Path, *cells, engine="libsafe", options=()) -> subprocess.Popen[bytes]:
    """Have papermill's own program execute a notebook of these cells to `folder/out.ipynb`."""
    nbformat.write(notebook(*cells), folder / "in.ipynb")
    with (folder / "stderr").open("wb") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--engine", engine, *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )


def wait_for(condition, seconds=30.0, what="it"):
    """Poll until `condition()` is true, and return what it returned."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, json.JSONDecodeError):
            found = condition()
            if found:
                return found
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


def marked_processes(mark: str) -> list[int]:
    """Processes, kernels, guards and their children, that were started with this mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != os.getpid() and not is_zombie(pid)]


def is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    return True


@contextlib.contextmanager
def nothing_left(monkeypatch):
    """See that no process and no folder of a kernel outlives the block by more than a second."""
    runtime = tempfile.mkdtemp(prefix="lsnb-t-")
    mark = Path(runtime).name
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.setenv(MARK, mark)
    try:
        yield mark
        wait_for(lambda: not marked_processes(mark), 5, "the end of all processes")
        wait_for(lambda: not any(Path(runtime).iterdir()), 5, "the removal of the sockets")
    finally:
        for pid in marked_processes(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(runtime, ignore_errors=True)
