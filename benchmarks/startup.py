"""
How long a command takes before it does anything: ours, papermill's, and Python itself, in turns.

    python benchmarks/startup.py [--runs 15] [--json FILE] [--page docs/performance.md]

Whole processes, from start to end, as a shell starts them. `local status` asks a local platform that is up; `job log`
knocks at a run's door, behind which somebody notes the message: that is what a cell of another language pays for each.
Besides the time that passed, which other work on the machine adds to, the processor's time is told, which it adds less to.
"""

from __future__ import annotations

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from figures import Row, keep, made, options, ratio, rounds, table

from libsafe_nb import door

LIMIT_MS = 150
"""Of `--help`, in all."""

PYTHON, HELP, PAPERMILL = "python -c pass", "libsafe-nb --help", "papermill --help"
COMMANDS: dict[str, list[str]] = {
    PYTHON: [sys.executable, "-c", "pass"],
    **{
        f"libsafe-nb {words}": [str(Path(sys.executable).with_name("libsafe-nb")), *words.split()]
        for words in ("--help", "run --help", "verify --help", "local status", "job log hello")
    },
    PAPERMILL: [str(Path(sys.executable).with_name("papermill")), "--help"],
}


def measure(runs: int) -> dict[str, Any]:
    used: dict[str, list[float]] = {name: [] for name in COMMANDS}

    def way(name: str) -> Callable[[], float]:
        def run() -> float:
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(COMMANDS[name], check=True, capture_output=True)
            taken = time.perf_counter() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            return taken

        return run

    messages: list[str] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ["LIBSAFE_NB_HOME"] = folder
        os.environ[door.VARIABLE] = f"{folder}/door"
        stack.enter_context(
            door.Door(Path(folder, "door"), lambda do, fields: messages.append(fields["message"]))
        )
        from libsafe_nb import local

        stack.enter_context(local.serve(Path(folder, "platform")))
        taken = rounds({name: way(name) for name in COMMANDS}, runs)
    assert messages == ["hello"] * (runs + 1)
    # The first round warms up.
    processor = {name: statistics.median(each[1:]) for name, each in used.items()}
    return {"seconds": taken, "processor": processor}


def rows(seconds: dict[str, list[float]]) -> list[Row]:
    medians = {name: statistics.median(each) * 1e3 for name, each in seconds.items()}
    peer, floor = medians[PAPERMILL], medians[PYTHON]
    told = [
        Row(f"`{HELP}`, within its time", medians[HELP], peer, LIMIT_MS, LIMIT_MS / medians[HELP], "limit", 1)
    ]
    for name in COMMANDS:
        if name not in (PYTHON, PAPERMILL):
            faster = ratio(seconds, PAPERMILL, name)
            told.append(Row(f"`{name}`", medians[name], peer, floor, faster, "peer", None))
    return told


def main() -> None:
    given = options(__doc__, runs=15).parse_args()
    found = measure(given.runs)
    told = rows(found["seconds"])
    times = ", ".join(f"`{name}` {each * 1e3:.0f}" for name, each in found["processor"].items())
    text = (
        table(f"whole process, median of {given.runs}, ms", told)
        + f"\nThe peer is `{PAPERMILL}`, the limit `{PYTHON}`; that of the first row is what was promised. "
        f"Milliseconds of processor time: {times}. {made()}"
    )
    keep("startup", told, text, path=given.json, page=given.page, title="start of a command, ms", **found)


if __name__ == "__main__":
    main()
