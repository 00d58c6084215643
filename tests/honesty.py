"""
The table of honesty: every way in which plain papermill's execution of a notebook was seen to end, and what ours says.

`CASES` is the table as data; each case belongs to one of the 29 rows of the measurements of plain papermill 2.7.0, whose
answer is told in `measured`. `ours` runs a case with `libsafe-nb run`, `plain` with papermill's own program, both from
outside and in a folder of their own. `tests/test_honesty.py` asserts ours, `benchmarks/honesty.py` writes both down.

Which cells ran is not asked of the record that is to be judged: each cell makes a file when it begins and another when
it ends (`Answer.began`, `Answer.ended`).
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from engine_runs import MARK, marked_processes
from environs import variables

from libsafe_nb.connection import connect

ROWS = range(1, 30)
MIB = 1024 * 1024
GIVEN_UP = 20.0
"""Seconds after which a program that does not end by itself is given up, where that was seen of it."""
PATIENCE = 120.0
"""Seconds after which any other is."""
SECRET = "kW7tQ2vB9xZ4mN6pR3sD8fHy"
PARAMETERS = "json_sample = {}"
"""The parameters cell, which a function notebook has, before the cells of the case."""

BEGUN = "import os; print('begun', flush=True); open('{folder}/begun', 'w').write(str(os.getpid()))\n"
SLEEP = BEGUN + "import time; time.sleep(600)"
DEAF = BEGUN + "import time\nwhile True:\n    try: time.sleep(600)\n    except KeyboardInterrupt: print('no')"
FLOOD = BEGUN + "while True: print('x' * 99)"
NINE_MEGABYTES = "for i in range(9000): print('y' * 999)"
KILLED = ("completed", "killed", "not-run")
FAILED = ("completed", "failed", "not-run")
DONE = ("completed", "completed", "completed")
LATE = ("completed", "timed-out", "not-run")
STOPPED = ("completed", "interrupted", "not-run")


# ------------------------------------------------------------- what is done meanwhile


@dataclass
class Going:
    """A program at work on a case."""

    folder: Path
    process: subprocess.Popen[bytes]
    saves: Callable[[], bool]
    """Whether it is saving the notebook at this very moment."""

    @property
    def kernel(self) -> int | None:
        """The kernel's process, known as soon as the second cell has begun."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / "begun").read_text())
        return None


Meanwhile = Callable[[Going], bool]
"""Asked again and again until it answers that it has done what it does."""


def when_begun(do: Callable[[Going], object], *, after: float = 0.0) -> Meanwhile:
    """Do it `after` so many seconds of the second cell."""

    def ask(going: Going) -> bool:
        if going.kernel is None:
            return False
        time.sleep(after)
        do(going)
        return True

    return ask


def to_kernel(number: int) -> Callable[[Going], object]:
    return lambda going: os.kill(going.kernel or 0, number)


def to_runner(number: int) -> Callable[[Going], object]:
    return lambda going: going.process.send_signal(number)


def kill_in_a_save(going: Going) -> bool:
    """kill -9 of the runner while it saves; looked for without a pause for a while."""
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        if going.saves():
            going.process.kill()
            return True
    return False


# ------------------------------------------------------------- where things lie


@dataclass(frozen=True)
class Places:
    """Where papermill is to put its output, and where our runs have their folders."""

    out: str
    home: Path
    disk: Path | None = None


class CannotBeMade(Exception):
    """This machine does not let us make the case."""


@contextlib.contextmanager
def ordinary(folder: Path) -> Iterator[Places]:
    yield Places(str(folder / "out.ipynb"), folder / "home")


@contextlib.contextmanager
def folder_of_its_own(folder: Path) -> Iterator[Places]:
    """The output's folder is there, and can be taken away without the rest."""
    (folder / "gone").mkdir()
    yield Places(str(folder / "gone" / "out.ipynb"), folder / "home")


@contextlib.contextmanager
def missing_folder(folder: Path) -> Iterator[Places]:
    """Ours: the folder of the runs cannot be made, as a file stands in its way."""
    (folder / "file").touch()
    yield Places(str(folder / "missing" / "out.ipynb"), folder / "file" / "home")


@contextlib.contextmanager
def something_else(folder: Path) -> Iterator[Places]:
    """The output is a folder; ours: the folder of the runs is a file."""
    (folder / "directory").mkdir()
    (folder / "home").touch()
    yield Places(str(folder / "directory"), folder / "home")


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Places]:
    """A file system of 16 MiB."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise CannotBeMade("a small disk cannot be mounted here")
    try:
        yield Places(str(disk / "out.ipynb"), disk / "home", disk)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[Places]:
    """Papermill: /dev/full; ours: a file system that is full."""
    with small_disk(folder) as places, (places.home.parent / "fill").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield Places("/dev/full", places.home, places.disk)


# ------------------------------------------------------------- the table


@dataclass(frozen=True)
class Plain:
    """What was measured of plain papermill 2.7.0, one trial each, and what a notebook told of it."""

    exit: int | None
    """None: it never ended."""
    seconds: str
    file: str
    says: str


@dataclass(frozen=True)
class Ours:
    """What ours must say."""

    exit: int
    status: str | None = None
    """Of the run; None where nothing was started."""
    cause: str | None = None
    cells: tuple[str, ...] = ()
    job: str | None = None
    told: tuple[str, ...] = ()
    """What stderr names."""
    within: float = 30.0
    """Seconds to the program's end, from what is done meanwhile if anything is."""
    seen_within: float | None = None
    """Seconds from what is done meanwhile to the end of the cell, by the record's clock."""


@dataclass(frozen=True)
class Case:
    """
    One case; `{folder}`, `{runs}` (where the program keeps the notebook) and `{disk}` are filled into its texts.

    Attributes
    ----------
    notebook
        The sources of its code cells, each alone or with its tags; or a file's text; or None: there is no file.
    better
        How ours differs, in a sentence; empty where both are right.
    recovered
        The runner does not live to tell: `libsafe-nb recover` does, and its answer counts.
    """

    row: int
    name: str
    notebook: tuple[Any, ...] | str | None
    measured: Plain
    ours: Ours
    better: str = ""
    options: tuple[str, ...] = ()
    plain_options: tuple[str, ...] = ()
    payload: dict[str, Any] | None = None
    kernel: str | None = "python3"
    parameters_cell: bool = True
    meanwhile: Meanwhile | None = None
    places: Callable[[Path], contextlib.AbstractContextManager[Places]] = ordinary
    python: bool = False
    """By the programming interface, not the program."""
    recovered: bool = False
    engine: bool = False
    """Also worth a look with `papermill --engine libsafe`."""
    never: bool = False
    """Plain papermill does not end by itself."""
    varies: str = ""
    """Why plain papermill answers now this way, now that."""

    @property
    def key(self) -> str:
        return f"{self.row:02d} {self.name}"


def _nothing(*told: str) -> Ours:
    return Ours(2, told=told, within=10)


DEATH = "cells that died or never ran are told so, exit 3, the job FAILED with the cause"

CASES = [
    Case(
        1,
        "kernel killed with -9 in a cell",
        ("1", SLEEP, "3"),
        Plain(138, "1.28 s after the kill", "valid", "completed x3, exception null"),
        Ours(3, "errored", "kernel-died", KILLED, "FAILED", ("died", "SIGKILL"), seen_within=2),
        DEATH,
        meanwhile=when_begun(to_kernel(signal.SIGKILL)),
    ),
    Case(
        2,
        "the same from Python",
        ("1", SLEEP, "3"),
        Plain(1, "1.46 s after the kill", "valid", "completed x3, exception null"),
        Ours(3, "errored", "kernel-died", KILLED, "FAILED", ("died", "SIGKILL"), seen_within=2),
        DEATH,
        meanwhile=when_begun(to_kernel(signal.SIGKILL)),
        python=True,
    ),
    Case(
        3,
        "os._exit(3) in a cell",
        ("1", "print('a', flush=True); import os; os._exit(3)", "3"),
        Plain(138, "4.0 s in all", "valid", "completed x3, exception null"),
        Ours(3, "errored", "kernel-died", KILLED, "FAILED", ("died", "exit status 3")),
        DEATH,
    ),
    Case(
        4,
        "SIGTERM to the runner",
        ("1", SLEEP, "3"),
        Plain(-15, "0.02 s", "valid, stale", "completed, running, pending; the cell's output is lost"),
        Ours(
            143,
            "cancelled",
            "terminated",
            STOPPED,
            "CANCELLED",
            ("terminated", "SIGTERM"),
            within=5,
        ),
        "the record is stored, with all that was printed, and the job ended, before the program ends",
        meanwhile=when_begun(to_runner(signal.SIGTERM), after=1),
    ),
    Case(
        5,
        "SIGKILL to the runner",
        ("1", SLEEP, "3"),
        Plain(-9, "0.01 s", "valid, stale", "completed, running, pending"),
        Ours(-9, "errored", "runner-died", KILLED, "FAILED"),
        "the next run, or `libsafe-nb recover`, stores the record and ends the job",
        meanwhile=when_begun(to_runner(signal.SIGKILL), after=3),
        recovered=True,
    ),
    Case(
        6,
        "SIGKILL to the runner in the middle of a save",
        (
            NINE_MEGABYTES,
            NINE_MEGABYTES,
            "import time\n" + FLOOD.replace("while True: ", "while True: time.sleep(0.2); "),
            "4",
        ),
        Plain(-9, "", "0 bytes, 3 of 3", "nothing: the earlier good copy is gone"),
        Ours(
            -9,
            "errored",
            "runner-died",
            ("completed", "completed", "killed", "not-run"),
            "FAILED",
        ),
        "the last good copy is there, whole; recovered as above",
        meanwhile=kill_in_a_save,
        recovered=True,
    ),
    Case(
        7,
        "SIGINT to the runner",
        ("1", SLEEP, "3"),
        Plain(1, "1.34 s", "valid", "completed x3, exception null"),
        Ours(
            130,
            "cancelled",
            "interrupted",
            STOPPED,
            "CANCELLED",
            ("interrupted", "SIGINT"),
            within=5,
        ),
        "interrupted and not-run are told so; exit 130, the job CANCELLED",
        meanwhile=when_begun(to_runner(signal.SIGINT), after=1),
    ),
    Case(
        8,
        "kernel stopped (hung), no time limit",
        ("1", SLEEP, "3"),
        Plain(None, "waiting after 36.8 s", "valid, stale", "completed, running, pending"),
        Ours(3, "errored", "kernel-hung", KILLED, "FAILED", ("sign of life",), seen_within=2 + 3),
        "a kernel without a sign of life is killed after 60 s; here after 2 s (`--hung 2`)",
        options=("--hung", "2"),
        meanwhile=when_begun(to_kernel(signal.SIGSTOP), after=1),
        never=True,
    ),
    Case(
        9,
        "endless printing, no time limit",
        ("1", FLOOD, "3"),
        Plain(None, "stopped at 60 s", "118 MB, growing", "runner 621 MB"),
        Ours(
            130,
            "cancelled",
            "interrupted",
            STOPPED,
            "CANCELLED",
            ("interrupted",),
            within=60,
        ),
        "nor does ours end by itself (both were interrupted here after 2 s); file and memory stay bounded",
        meanwhile=when_begun(to_runner(signal.SIGINT), after=2),
    ),
    Case(
        10,
        "endless printing, time limit for a cell",
        ("1", FLOOD, "3"),
        Plain(1, "13.8 s with a limit of 10 s", "35 MB", "completed x3, exception null"),
        Ours(4, "timeout", "cell-timeout", LATE, "FAILED", ("longer than 1 s",), within=60),
        "the cell is told timed-out, the next not-run; exit 4",
        options=("--cell-timeout", "1"),
        plain_options=("--execution-timeout", "1"),
    ),
    Case(
        11,
        "sleeping, time limit for a cell",
        ("1", SLEEP, "3"),
        Plain(1, "5.1 s with a limit of 3 s", "valid", "KeyboardInterrupt, yet completed x3, exception null"),
        Ours(4, "timeout", "cell-timeout", LATE, "FAILED", ("longer than 2 s",), within=15),
        "the cell is told timed-out, the next not-run; exit 4",
        options=("--cell-timeout", "2"),
        plain_options=("--execution-timeout", "2"),
    ),
    Case(
        12,
        "the same, and the cell swallows interrupts",
        ("1", DEAF, "3"),
        Plain(1, "7.5 s with a limit of 3 s", "valid", "completed x3, exception null"),
        Ours(4, "timeout", "cell-timeout", LATE, "FAILED", ("longer than 2 s",), within=40),
        "killed after a grace of 3 s; told timed-out; exit 4",
        options=("--cell-timeout", "2"),
        plain_options=("--execution-timeout", "2"),
    ),
    Case(
        13,
        "200 MB of lines",
        ("1", "text = 'x' * 999\nfor i in range(200_000): print(text)", "3"),
        Plain(0, "18.5 s", "212 MB", "completed; runner 986 MB, no warning"),
        Ours(0, "completed", None, DONE, "COMPLETED", within=90),
        "10 MiB of it are kept, head and tail, and the record says what was cut",
    ),
    Case(
        14,
        "200 MB in one print",
        ("1", "print('x' * 200_000_000)", "3"),
        Plain(0, "19.6 s", "210 MB", "completed; runner 731 MB, kernel 881 MB"),
        Ours(0, "completed", None, DONE, "COMPLETED", within=90),
        "10 MiB of it are kept, head and tail, and the record says what was cut",
        varies="nbclient gives outputs up that come 4 s after the cell's reply",
    ),
    Case(
        15,
        "a cell raises",
        ("1", "raise ValueError('bad input')", "3"),
        Plain(1, "3.4 s in all", "valid", "completed, failed, pending; exception true"),
        Ours(1, "failed", "cell-error", FAILED, "FAILED", ("ValueError: bad input", "cell-1")),
        "one sentence in place of a traceback",
    ),
    Case(
        16,
        "sys.exit(3)",
        ("1", "import sys; sys.exit(3)", "3"),
        Plain(1, "2.6 s in all", "valid", "completed, failed, pending; exception true"),
        Ours(1, "failed", "exit-nonzero", FAILED, "FAILED", ("SystemExit: 3",)),
        "one sentence in place of a traceback",
    ),
    Case(
        17,
        "sys.exit(0)",
        ("1", "import sys; sys.exit(0)", "3"),
        Plain(0, "3.1 s in all", "valid", "exit 0, yet failed, exception true"),
        Ours(0, "completed", "exit-zero", ("completed", "exited", "not-run"), "COMPLETED"),
        "exit code and record agree: completed, the rest not-run",
    ),
    Case(
        18,
        "a cell tagged raises-exception raises",
        ("1", ("1/0", "raises-exception"), "3"),
        Plain(1, "", "valid", "exit 1, yet completed, exception null"),
        Ours(0, "completed", None, ("completed", "expected-error", "completed"), "COMPLETED"),
        "exit code and record agree: the error was expected, the rest runs",
    ),
    Case(
        19,
        "input()",
        ("1", "input('name? ')", "3"),
        Plain(1, "2.2 s in all", "valid", "failed, StdinNotImplementedError"),
        Ours(1, "failed", "cell-error", FAILED, "FAILED", ("keyboard", "parameter"), within=15),
        "says that nobody is at the keyboard, and to use a parameter",
    ),
    Case(
        20,
        "the notebook names no kernel",
        ("1",),
        Plain(1, "1.8 s", "none", "ValueError"),
        _nothing("names no kernel", "python3", "install"),
        "exit 2 and one sentence with the remedy; nothing was started, there is no job",
        kernel=None,
    ),
    Case(
        21,
        "it names a kernel that is not installed",
        ("1", "2", "3"),
        Plain(1, "1.9 s", "valid", "completed, exception null, end_time set: nothing ran"),
        _nothing("no-such-kernel", "not installed", "python3"),
        "exit 2 and one sentence with the remedy; nothing was started, there is no job",
        kernel="no-such-kernel",
    ),
    Case(
        22,
        "the file is cut off",
        '{"cells": [',
        Plain(1, "1.4-1.6 s", "none", "raw traceback"),
        _nothing("in.ipynb", "expected a Jupyter notebook"),
        "exit 2, one sentence",
    ),
    Case(
        22,
        "the file is empty",
        "",
        Plain(1, "1.4-1.6 s", "none", "raw traceback"),
        _nothing("in.ipynb", "expected a Jupyter notebook"),
        "exit 2, one sentence",
    ),
    Case(
        23,
        "`cells` is a string",
        '{"cells": "text", "metadata": {}, "nbformat": 4, "nbformat_minor": 5}',
        Plain(1, "1.4 s", "none", "raw traceback"),
        _nothing("in.ipynb", "expected a Jupyter notebook"),
        "exit 2, one sentence",
    ),
    Case(
        24,
        "a code cell lacks outputs and count",
        json.dumps(
            {
                "cells": [
                    {
                        "cell_type": "code",
                        "metadata": {},
                        "source": "open('{folder}/began-0', 'w'); print(1); open('{folder}/ended-0', 'w')",
                    }
                ],
                "metadata": {
                    "kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}
                },
                "nbformat": 4,
                "nbformat_minor": 4,
            }
        ),
        Plain(0, "3.3 s in all", "valid", "repaired, with a warning"),
        Ours(0, "completed", None, ("completed",), "COMPLETED"),
    ),
    Case(
        25,
        "there is no such file",
        None,
        Plain(1, "1.5 s", "none", "raw traceback"),
        _nothing("in.ipynb", "No such file"),
        "exit 2, one sentence",
    ),
    Case(
        26,
        "a parameter that the notebook does not declare",
        ("x = 1; print(x)",),
        Plain(0, "3.3 s in all", "valid", "completed, with the notebook's own value; two warnings"),
        _nothing("unknown parameter 'x'"),
        "exit 2: it would have had no effect",
        parameters_cell=False,
        options=("--param", "x=5"),
        plain_options=("-p", "x", "5"),
    ),
    Case(
        27,
        "the folder of the output is missing",
        ("1",),
        Plain(1, "1.1-1.4 s", "none", "fails before the first cell"),
        Ours(3, told=("nothing was started",), within=10),
        "as right; one sentence (ours: the folder of the runs cannot be made)",
        places=missing_folder,
        engine=True,
    ),
    Case(
        27,
        "the output is a folder",
        ("1",),
        Plain(1, "1.1-1.4 s", "none", "fails before the first cell"),
        Ours(3, told=("nothing was started",), within=10),
        "as right; one sentence (ours: the folder of the runs is a file)",
        places=something_else,
        engine=True,
    ),
    Case(
        27,
        "the disk is full",
        ("1",),
        Plain(1, "1.1-1.4 s", "none", "fails before the first cell"),
        Ours(3, told=("nothing was started", "No space left"), within=10),
        "as right; one sentence",
        places=full_disk,
        engine=True,
    ),
    Case(
        28,
        "the folder of the output vanishes in a cell",
        ("1", "import shutil; shutil.rmtree('{runs}')", "print('after')"),
        Plain(1, "7.6 s", "none", "the side effects are done, and no record at all"),
        Ours(3, "errored", "save", DONE, "FAILED", ("could not be written",)),
        "the record is stored all the same, from memory; the job ended",
        places=folder_of_its_own,
        engine=True,
    ),
    Case(
        28,
        "the disk fills in a cell",
        (
            "1",
            "import contextlib, os\nwith contextlib.suppress(OSError), open('{disk}/fill', 'wb', 0) as file:\n"
            "    while True: file.write(bytes(4096))",
            "print('after')",
        ),
        Plain(1, "not measured", "not measured", "not measured"),
        Ours(3, "errored", "save", DONE, "FAILED", ("No space left",)),
        "the record is stored all the same, from memory; the job ended",
        places=small_disk,
        engine=True,
    ),
    Case(
        29,
        "a secret in a nested parameter",
        ("1", "2", "3"),
        Plain(0, "2.1 s", "valid", "completed; the secret stands in clear 2 times"),
        Ours(0, "completed", None, DONE, "COMPLETED"),
        "it stands nowhere in what is stored",
        payload={
            "api": {"key_extra": SECRET},
            "function_data": {"container": {"id": "{container}"}},
            "function_params": {"nested": {"password": SECRET}},
        },
        plain_options=(
            "-y",
            json.dumps({"json_sample": {"function_params": {"nested": {"password": SECRET}}}}),
        ),
    ),
]


# ------------------------------------------------------------- running one


@dataclass
class Answer:
    """
    What one program made of one case, as seen from outside.

    `exit` is None if it was given up; `seconds` count from what was done meanwhile, else from the start; `peak` is the
    runner's largest memory in bytes. `cells` are the states of the notebook's own code cells, in the program's words.
    """

    exit: int | None
    seconds: float
    peak: int
    stderr: str
    stdout: str
    began: set[int]
    ended: set[int]
    acted: float | None = None
    """When it was done what is done meanwhile, by the clock."""
    file: str = "none"
    elsewhere: bool = False
    """The notebook was kept, and stderr says where."""
    size: int = 0
    notebook: Any = None
    cells: list[str] = field(default_factory=list)
    secrets: int = 0
    """How often the secret stands in all that was stored."""
    job: str | None = None
    messages: list[str] = field(default_factory=list)
    told: dict[str, Any] = field(default_factory=dict)
    """The object printed with --json."""
    record: dict[str, Any] | None = None
    working_copy: list[str] = field(default_factory=list)
    """States of the cells in the copy that a killed runner left."""

    @property
    def lies(self) -> list[int]:
        """Cells that are told completed and did not end, save where an error was expected."""
        cells = zip(self.cells, own_cells(self.notebook), strict=True)
        return [
            n
            for n, (state, cell) in enumerate(cells)
            if state == "completed"
            and n not in self.ended
            and not (n in self.began and "raises-exception" in cell.metadata.get("tags", []))
        ]

    @property
    def exception(self) -> Any:
        return self.notebook.metadata.get("papermill", {}).get("exception") if self.notebook else None

    @property
    def seen(self) -> float:
        """Seconds from what was done meanwhile to the end of the cell that ran, by the record."""
        assert self.record is not None
        assert self.acted is not None
        (ended,) = (each["ended"] for each in self.record["cells"] if each["status"] == "killed")
        return datetime.datetime.fromisoformat(ended).timestamp() - self.acted


def plain(case: Case, folder: Path, engine: str | None = None) -> Answer:
    """Run a case with papermill's own program, with its own engine or that of a name."""
    with case.places(folder) as places, _environment(folder) as environ:
        source = _write(case, folder, Path(places.out).parent, places)
        if case.python:
            code = "import papermill; papermill.execute_notebook('in.ipynb', 'out.ipynb', progress_bar=False)"
            command = [sys.executable, "-c", code]
        else:
            options = [*case.plain_options, *(["--engine", engine] if engine else [])]
            command = [sys.executable, "-m", "papermill", str(source), places.out, *options]
        largest = [0]

        def saves() -> bool:
            """It has emptied a large copy to write the next."""
            with contextlib.suppress(OSError):
                size = Path(places.out).stat().st_size
                largest[0] = max(largest[0], size)
                return largest[0] > 9_000_000 and size < largest[0]
            return False

        patience = GIVEN_UP if case.never else PATIENCE
        answer = _attend(case, folder, command, environ, saves=saves, patience=patience)
        kept = re.search(r"It is kept as (\S+\.ipynb)", answer.stderr)
        out = Path(kept[1] if kept else places.out)
        if out.is_file():
            _judge_file(answer, out.read_bytes())
            answer.elsewhere = bool(kept)
            answer.cells = [
                cell.metadata.get("papermill", {}).get("status") for cell in own_cells(answer.notebook)
            ]
        return answer


def ours(case: Case, folder: Path, settings: Any) -> Answer:
    """Run a case with `libsafe-nb run`, on the platform of `settings`, in a container of its own."""
    connection = connect(settings=settings)
    container = connection.client.create_container(f"honesty {case.row}")["id"]
    with case.places(folder) as places, _environment(folder) as environ:
        environ |= {"LIBSAFE_NB_HOME": str(places.home), **variables(settings)}
        source = _write(case, folder, places.home / "runs", places)
        options = [*case.options, "--container", container, "--json"]
        if case.payload is not None:
            text = json.dumps(case.payload).replace("{container}", container)
            (folder / "payload.json").write_text(text)
            options += ["--payload", str(folder / "payload.json")]
        command = [sys.executable, "-m", "libsafe_nb", "run", str(source), *options]
        if case.python:
            command = [sys.executable, "-c", FROM_PYTHON, str(source), container]

        def saves() -> bool:
            """The new copy lies beside the old one."""
            found = (folder / "begun").exists() and places.home.glob("runs/*/.executed.ipynb.*.tmp")
            return bool(found and any(found))

        answer = _attend(case, folder, command, environ, saves=saves, patience=PATIENCE)
        with contextlib.suppress(json.JSONDecodeError):
            answer.told = json.loads(answer.stdout)
        evidence = answer.told.get("evidence")
        if case.recovered:
            (copy,) = places.home.glob("runs/*/executed.ipynb")
            left = nbformat.read(copy, as_version=4)
            nbformat.validate(left)
            answer.working_copy = [cell.metadata.libsafe_nb.status for cell in own_cells(left)]
            evidence = _recover(copy.parent.name, environ)
        jobs = list(connection.client.jobs(container=container))
        assert len(jobs) <= 1
        for job in jobs:
            answer.job = job["status"]
            answer.messages = [each["message"] for each in connection.client.messages(job["id"])]
        if evidence:
            _read_evidence(answer, connection, container, evidence)
        everything = [
            connection.storage.get(container, each.path) for each in connection.storage.list(container, "")
        ]
        everything.append(json.dumps([answer.messages, list(map(dict, jobs)), answer.told]).encode())
        answer.secrets = sum(body.count(SECRET.encode()) for body in everything)
        return answer


FROM_PYTHON = """
import json, sys
import libsafe_nb
from libsafe_nb.errors import LibsafeError
run = libsafe_nb.run(None, sys.argv[1], container=sys.argv[2])
print(json.dumps(run.to_json()))
try:
    run.raise_for_failure()
except LibsafeError as exc:
    print(exc, file=sys.stderr)
    sys.exit(exc.exit_code)
"""


def own_cells(notebook: Any) -> list[Any]:
    """The code cells that are in the input too."""
    return [
        cell
        for cell in (notebook.cells if notebook else [])
        if cell.cell_type == "code"
        and not {"injected-parameters", "parameters"} & set(cell.metadata.get("tags", []))
    ]


def _write(case: Case, folder: Path, runs: Path, places: Places) -> Path:
    """Write the case's notebook, with cells that leave a file at their begin and at their end."""
    source = folder / "in.ipynb"
    if isinstance(case.notebook, str):
        source.write_text(case.notebook.replace("{folder}", str(folder)))
    elif case.notebook is not None:
        made = nbformat.v4.new_notebook()
        if case.kernel:
            made.metadata["kernelspec"] = {
                "name": case.kernel,
                "language": "python",
                "display_name": case.kernel,
            }
        if case.parameters_cell:
            made.cells.append(nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
        for number, cell in enumerate(case.notebook):
            text, *tags = [cell] if isinstance(cell, str) else cell
            text = f"open('{{folder}}/began-{number}', 'w').close()\n{text}\nopen('{{folder}}/ended-{number}', 'w').close()"
            for name, path in {"folder": folder, "runs": runs, "disk": places.disk}.items():
                text = text.replace(f"{{{name}}}", str(path))
            made.cells.append(nbformat.v4.new_code_cell(text, id=f"cell-{number}", metadata={"tags": tags}))
        nbformat.write(made, source)
    return source


@contextlib.contextmanager
def _environment(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of one program; what it leaves running is ended, and its sockets removed."""
    runtime = tempfile.mkdtemp(prefix="lsnb-h-")
    mark = Path(runtime).name
    outer = {name: value for name, value in os.environ.items() if not name.startswith("LIBSAFE_")}
    try:
        (folder / "tmp").mkdir()
        yield {**outer, MARK: mark, "XDG_RUNTIME_DIR": runtime, "TMPDIR": str(folder / "tmp")}
    finally:
        for pid in marked_processes(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(runtime, ignore_errors=True)


def _attend(
    case: Case,
    folder: Path,
    command: list[str],
    environ: dict[str, str],
    *,
    saves: Callable[[], bool],
    patience: float,
) -> Answer:
    """Start the program, do meanwhile what the case asks for, and wait for its end or until patience is lost."""
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
        )
    going = Going(folder, process, saves)
    since, acted, peak = time.monotonic(), None, 0
    code: int | None = None
    try:
        while (code := process.poll()) is None and time.monotonic() - since < patience:
            peak = max(peak, peak_memory(process.pid))
            if case.meanwhile is not None and acted is None and case.meanwhile(going):
                since, acted = time.monotonic(), time.time()
            time.sleep(0.01)
        took = time.monotonic() - since
    finally:
        process.kill()
        process.wait()
    numbers = {kind: {int(path.name[6:]) for path in folder.glob(f"{kind}-*")} for kind in ("began", "ended")}
    return Answer(
        exit=code,
        seconds=took,
        peak=peak,
        stderr=(folder / "stderr").read_text(errors="replace"),
        stdout=(folder / "stdout").read_text(errors="replace"),
        began=numbers["began"],
        ended=numbers["ended"],
        acted=acted,
    )


def peak_memory(pid: int) -> int:
    """Largest memory of a living process so far, in bytes: not ru_maxrss, which begins with that of its parent."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
    return 0


def _recover(run: str, environ: dict[str, str]) -> str:
    """Finish this run only: what other tests left on the platform they share is none of the row's."""
    command = [sys.executable, "-m", "libsafe_nb", "recover", run, "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = json.loads(done.stdout)
    return str(found["evidence"])


def _judge_file(answer: Answer, data: bytes) -> None:
    answer.size = len(data)
    answer.secrets = data.count(SECRET.encode())
    try:
        answer.notebook = nbformat.reads(data.decode(), as_version=4)
        nbformat.validate(answer.notebook)
        answer.file = "valid"
    except Exception:
        answer.file = f"invalid, {len(data)} bytes"


def _read_evidence(answer: Answer, connection: Any, container: str, evidence: str) -> None:
    prefix = evidence.removeprefix(f"libsafe://{container}/")
    _judge_file(answer, connection.storage.get(container, f"{prefix}executed.ipynb"))
    answer.record = json.loads(connection.storage.get(container, f"{prefix}record.json"))
    answer.cells = [cell.metadata.libsafe_nb.status for cell in own_cells(answer.notebook)]
