"""
Ways in which a notebook's execution ends, under the engine alone, and what the notebook then says of itself.

The table of what was measured of plain papermill is asserted from outside, in `test_honesty.py`. Here stand its
neighbours, and what only the engine or papermill's own program sees: what is raised, and what is in the `Outcome`.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from engine_runs import execute, notebook, nothing_left, read, run, spawn, wait_for

from libsafe_nb.errors import ExecutionError, KernelDied, NotebookError, RunCancelled
from libsafe_nb.execution import Execution, Limits

pytestmark = pytest.mark.slow  # the same rows go through `run` in test_honesty.py

SLEEP = "print('begun', flush=True); import time; time.sleep(600)"
KILLED = ["completed", "killed", "not-run"]


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch):
    with nothing_left(monkeypatch):
        yield


@dataclass
class Row:
    """One case: cells, what plain papermill says, and what ours must say."""

    plain: str
    cells: list[Any]
    status: str
    cause: str | None
    cells_say: list[str]
    error: type[BaseException] | None = None
    exit_code: int = 0
    limits: Limits = field(default_factory=Limits)
    meanwhile: Callable[[Execution, Path], None] | None = None
    """Done in another thread as soon as the second cell has printed something."""
    within: float = 20.0
    """Seconds from `meanwhile`, or from the beginning."""
    printed: dict[int, str] = field(default_factory=dict)


ROWS = {
    "os._exit(0) in a cell": Row(
        plain="(not measured)",
        cells=["1", "import os; os._exit(0)", "3"],
        status="errored",
        cause="kernel-died",
        cells_say=KILLED,
        error=KernelDied,
        exit_code=3,
    ),
    "endless printing, cancelled": Row(
        plain="never ends; 118 MB after 60 s, runner 621 MB",
        cells=["1", "print('begun', flush=True)\nwhile True: print('x' * 99)", "3"],
        meanwhile=lambda execution, target: (time.sleep(3), execution.cancel("enough")),
        status="cancelled",
        cause="cancelled",
        cells_say=["completed", "interrupted", "not-run"],
        error=RunCancelled,
        exit_code=130,
    ),
    "sys.exit('a message')": Row(
        plain="(not measured)",
        cells=["1", "import sys; sys.exit('no files')", "3"],
        status="failed",
        cause="exit-nonzero",
        cells_say=["completed", "failed", "not-run"],
        error=papermill.PapermillExecutionError,
        exit_code=1,
    ),
    "sys.exit()": Row(
        plain="(not measured)",
        cells=["1", "import sys; sys.exit()", "3"],
        status="completed",
        cause="exit-zero",
        cells_say=["completed", "exited", "not-run"],
    ),
    "exit()": Row(
        plain="(not measured)",
        cells=["1", "exit()", "3"],
        status="completed",
        cause="exit-zero",
        cells_say=["completed", "exited", "not-run"],
    ),
    "cell tagged skip-execution": Row(
        plain="completed, though it never ran",
        cells=["1", ("1/0", "skip-execution"), "3"],
        status="completed",
        cause=None,
        cells_say=["completed", "skipped", "completed"],
    ),
    "magic that fails": Row(
        plain="completed, exception null",
        cells=["1", "%no_such_magic", "3"],
        status="failed",
        cause="cell-error",
        cells_say=["completed", "failed", "not-run"],
        error=papermill.PapermillExecutionError,
        exit_code=1,
    ),
    "%%bash that fails": Row(
        plain="(not measured)",
        cells=["1", "%%bash\nexit 2", "3"],
        status="failed",
        cause="cell-error",
        cells_say=["completed", "failed", "not-run"],
        error=papermill.PapermillExecutionError,
        exit_code=1,
    ),
}

PAPERMILLS = {
    "completed": "completed",
    "expected-error": "completed",
    "exited": "completed",
    "skipped": "pending",
    "not-run": "pending",
    "failed": "failed",
    "killed": "failed",
    "timed-out": "failed",
    "interrupted": "failed",
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_of_the_table(name, tmp_path):
    row = ROWS[name]
    target = tmp_path / "out.ipynb"
    nbformat.write(notebook(*row.cells), tmp_path / "in.ipynb")
    execution = Execution(save_to=target, limits=row.limits)
    since = [time.monotonic()]

    def meanwhile():
        wait_for(lambda: has_begun(target, 1), what="the second cell")
        since[0] = time.monotonic()
        row.meanwhile(execution, target)

    helper = threading.Thread(target=meanwhile) if row.meanwhile else None
    if helper:
        helper.start()
    ran = run(execution, tmp_path / "in.ipynb", target)
    took = time.monotonic() - since[0]
    if helper:
        helper.join()

    assert (ran.outcome.status, ran.outcome.cause) == (row.status, row.cause)
    assert ran.statuses == row.cells_say
    assert ran.papermills == [PAPERMILLS[status] for status in row.cells_say]
    assert ran.nb.metadata.papermill.exception is (None if row.status == "completed" else True)
    assert ran.nb.metadata.libsafe_nb.status == row.status
    assert (type(ran.error) is type(None)) if row.error is None else isinstance(ran.error, row.error)
    assert getattr(ran.error, "exit_code", 1 if ran.error else 0) == row.exit_code
    assert (ran.outcome.error is None) == (row.status == "completed")
    assert took < row.within
    for index, text in row.printed.items():
        assert ran.text(index).startswith(text)
    assert target.stat().st_size < 30_000_000


def has_begun(target, index):
    cell = read(target).cells[index]
    return any("begun" in each.get("text", "") for each in cell.outputs)


# ------------------------------------------------------------- the runner itself is ended


def test_sigkill_to_the_runner(tmp_path):
    """Plain: a stale file and the kernel alive for seconds. Ours tells `running`, with the output up to the last save."""
    target = tmp_path / "out.ipynb"
    process = spawn(tmp_path, "1", SLEEP, "3")
    wait_for(lambda: has_begun(target, 1), what="the second cell")
    process.kill()
    process.wait()
    saved = read(target)

    assert saved.metadata.libsafe_nb.status == "running"
    assert [cell.metadata.libsafe_nb.status for cell in saved.cells] == ["completed", "running", "not-run"]
    assert [cell.metadata.papermill.status for cell in saved.cells] == ["completed", "running", "pending"]


# ------------------------------------------------------------- nothing can be started


def test_unknown_kernel(tmp_path):
    """Plain: a file that says completed, exception null, end_time set, though nothing ran."""
    ran = execute(tmp_path, "1", "2", kernel_name="no-such-kernel")

    assert (ran.outcome.status, ran.outcome.cause) == ("errored", "kernel-start")
    assert ran.statuses == ["not-run", "not-run"]
    assert ran.papermills == ["pending", "pending"]
    assert isinstance(ran.error, NotebookError)
    assert ran.error.exit_code == 2
    assert "python3" in str(ran.error)


def test_a_code_cell_without_outputs_and_count(tmp_path):
    """Plain: repaired, exit 0."""
    (tmp_path / "in.ipynb").write_text(
        '{"cells": [{"cell_type": "code", "metadata": {}, "source": "print(1)"}], "metadata": '
        '{"kernelspec": {"name": "python3", "language": "python", "display_name": "x"}}, '
        '"nbformat": 4, "nbformat_minor": 4}'
    )
    process = subprocess.run(
        [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--engine", "libsafe"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )

    assert process.returncode == 0
    assert read(tmp_path / "out.ipynb").cells[0].metadata.libsafe_nb.status == "completed"


@pytest.mark.parametrize("place", ["gone/out.ipynb", "."], ids=["directory missing", "is a directory"])
def test_an_output_that_cannot_be_written(place, tmp_path):
    """Plain: fails before the first cell, as ours does."""
    (tmp_path / "work").mkdir()
    nbformat.write(notebook("open('ran', 'w')"), tmp_path / "in.ipynb")
    execution = Execution(cwd=tmp_path / "work")
    with pytest.raises(ExecutionError, match="cannot be written") as raised:
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"),
            str(tmp_path / place),
            engine_name="libsafe",
            progress_bar=False,
            execution=execution,
        )

    assert raised.value.exit_code == 3
    assert execution.outcome.cause == "save"
    assert not (tmp_path / "work" / "ran").exists()


def test_a_full_disk(tmp_path):
    """Plain: `/dev/full` fails before the first cell, as ours does."""
    nbformat.write(notebook("open('ran', 'w')"), tmp_path / "in.ipynb")
    execution = Execution(cwd=tmp_path, save_to=Path("/dev/full"))
    with pytest.raises(ExecutionError, match="No space left on device"):
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"), None, engine_name="libsafe", progress_bar=False, execution=execution
        )

    assert not (tmp_path / "ran").exists()
