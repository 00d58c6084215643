"""
Every way in which a notebook's execution was seen to end, and what the notebook then says of itself.

Each row is a row of the measurements of plain papermill 2.7.0 (one trial each), whose answer is quoted in `plain`.
Ours is asserted: status and cause of the run, state of each cell in our words and in papermill's, the time, and for
all of them that no cell that did not run, and none that died, is told completed.
"""

import signal
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

from libsafe_nb.errors import ExecutionError, KernelDied, NotebookError, RunCancelled, RunTimeout
from libsafe_nb.execution import Execution, Limits

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


def kill_the_kernel(execution, target):
    pid = read(target).metadata.libsafe_nb.kernel.pid
    subprocess.run(["kill", "-9", str(pid)], check=True)


ROWS = {
    "kernel killed -9 in a cell": Row(
        plain="completed x3 (3rd never ran), exception null, exit 138",
        cells=["1", SLEEP, "3"],
        meanwhile=kill_the_kernel,
        status="errored",
        cause="kernel-died",
        cells_say=KILLED,
        error=KernelDied,
        exit_code=3,
        within=2,
        printed={1: "begun\n"},
    ),
    "os._exit(3) in a cell": Row(
        plain="completed x3, exit 138",
        cells=["1", "print('a', flush=True); import os; os._exit(3)", "3"],
        status="errored",
        cause="kernel-died",
        cells_say=KILLED,
        error=KernelDied,
        exit_code=3,
    ),
    "os._exit(0) in a cell": Row(
        plain="(not measured)",
        cells=["1", "import os; os._exit(0)", "3"],
        status="errored",
        cause="kernel-died",
        cells_say=KILLED,
        error=KernelDied,
        exit_code=3,
    ),
    "kernel stopped (hung)": Row(
        plain="never ends; killed by hand after 36.8 s",
        cells=["1", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "3"],
        limits=Limits(hung=2),
        status="errored",
        cause="kernel-hung",
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
    "endless printing, time-out": Row(
        plain="completed x3, exception null, 35 MB, exit 1",
        cells=["1", "while True: print('x' * 99)", "3"],
        limits=Limits(cell_timeout=3),
        status="timeout",
        cause="cell-timeout",
        cells_say=["completed", "timed-out", "not-run"],
        error=RunTimeout,
        exit_code=4,
    ),
    "sleeping, time-out": Row(
        plain="KeyboardInterrupt output, yet completed x3, exit 1",
        cells=["1", SLEEP, "3"],
        limits=Limits(cell_timeout=3),
        status="timeout",
        cause="cell-timeout",
        cells_say=["completed", "timed-out", "not-run"],
        error=RunTimeout,
        exit_code=4,
        printed={1: "begun\n"},
    ),
    "swallows interrupts, time-out": Row(
        plain="completed x3, exit 1 after 7.5 s",
        cells=[
            "1",
            "import time\nwhile True:\n    try: time.sleep(600)\n    except KeyboardInterrupt: print('no')",
            "3",
        ],
        limits=Limits(cell_timeout=2, interrupt_grace=1),
        status="timeout",
        cause="cell-timeout",
        cells_say=["completed", "timed-out", "not-run"],
        error=RunTimeout,
        exit_code=4,
        printed={1: "no\n"},
    ),
    "cell raises": Row(
        plain="right: completed, failed, pending; exit 1",
        cells=["1", "raise ValueError('bad input')", "3"],
        status="failed",
        cause="cell-error",
        cells_say=["completed", "failed", "not-run"],
        error=papermill.PapermillExecutionError,
        exit_code=1,
    ),
    "sys.exit(3)": Row(
        plain="failed, exception true, exit 1",
        cells=["1", "import sys; sys.exit(3)", "3"],
        status="failed",
        cause="exit-nonzero",
        cells_say=["completed", "failed", "not-run"],
        error=papermill.PapermillExecutionError,
        exit_code=1,
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
    "sys.exit(0)": Row(
        plain="exit 0 but failed, exception true",
        cells=["1", "import sys; sys.exit(0)", "3"],
        status="completed",
        cause="exit-zero",
        cells_say=["completed", "exited", "not-run"],
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
    "cell tagged raises-exception": Row(
        plain="exit 1, while the record says completed, exception null",
        cells=["1", ("1/0", "raises-exception"), "3"],
        status="completed",
        cause=None,
        cells_say=["completed", "expected-error", "completed"],
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
    "input()": Row(
        plain="failed, StdinNotImplementedError, exit 1",
        cells=["1", "input('name? ')", "3"],
        status="failed",
        cause="cell-error",
        cells_say=["completed", "failed", "not-run"],
        error=papermill.PapermillExecutionError,
        exit_code=1,
        within=5,
    ),
    "200 MB in lines": Row(
        plain="exit 0, 212 MB notebook, runner 986 MB, no warning",
        cells=["1", "text = 'x' * 999\nfor i in range(200_000): print(text)", "3"],
        status="completed",
        cause=None,
        cells_say=["completed"] * 3,
        within=120,
    ),
    "200 MB in one print": Row(
        plain="exit 0, 210 MB notebook, runner 731 MB, kernel 881 MB",
        cells=["1", "print('x' * 200_000_000)", "3"],
        status="completed",
        cause=None,
        cells_say=["completed"] * 3,
        within=120,
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


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupted")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_to_the_runner(number, cause, tmp_path):
    """
    Plain: SIGTERM leaves `running` and loses the running cell's output; SIGINT says completed x3.

    The record is saved within five seconds, with all that was printed.
    """
    target = tmp_path / "out.ipynb"
    process = spawn(tmp_path, "1", SLEEP, "3")
    wait_for(lambda: has_begun(target, 1), what="the second cell")
    sent = time.monotonic()
    process.send_signal(number)
    code = process.wait(60)
    took = time.monotonic() - sent
    saved = read(target)

    assert code not in (0, None)
    assert took < 5
    assert (saved.metadata.libsafe_nb.status, saved.metadata.libsafe_nb.cause) == ("cancelled", cause)
    assert [cell.metadata.libsafe_nb.status for cell in saved.cells] == [
        "completed",
        "interrupted",
        "not-run",
    ]
    assert saved.cells[1].outputs[0].text == "begun\n"


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


def test_no_kernelspec(tmp_path):
    """Plain: ValueError."""
    nbformat.write(notebook("1", kernel=None), tmp_path / "in.ipynb")
    with pytest.raises(NotebookError, match="names no kernel") as raised:
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), engine_name="libsafe", progress_bar=False
        )

    assert raised.value.exit_code == 2


def test_unknown_kernel(tmp_path):
    """Plain: a file that says completed, exception null, end_time set, though nothing ran."""
    ran = execute(tmp_path, "1", "2", kernel_name="no-such-kernel")

    assert (ran.outcome.status, ran.outcome.cause) == ("errored", "kernel-start")
    assert ran.statuses == ["not-run", "not-run"]
    assert ran.papermills == ["pending", "pending"]
    assert isinstance(ran.error, NotebookError)
    assert ran.error.exit_code == 2
    assert "python3" in str(ran.error)


@pytest.mark.parametrize("content", ["", '{"cells": [', '{"cells": "text", "metadata": {}, "nbformat": 4}'])
def test_an_input_that_is_no_notebook(content, tmp_path):
    """Plain: a raw traceback. papermill reads the file before any engine; the runner looks first."""
    (tmp_path / "in.ipynb").write_text(content)
    with pytest.raises((nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError)):
        papermill.execute_notebook(
            str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), engine_name="libsafe", progress_bar=False
        )

    assert not (tmp_path / "out.ipynb").exists()


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
