"""
How long a command takes before it does anything: ours, papermill's, and Python itself, in turns.

    python benchmarks/startup.py [--runs 15] [--json FILE] [--page docs/performance.md]

Whole processes, from start to end, as a shell starts them. `local status` asks a local platform that is up; `job log`
knocks at a run's door, behind which somebody notes the message: that is what a cell of another language pays for each.
Besides the time that passed, which other work on the machine adds to, the processor's time is told, which it adds less to.

Writes the figures as JSON, and with `--page` the table between the marks of that page.
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

from figures import options, rounds, tell, write

from libsafe_nb import door

RESULTS = Path(__file__).parent / "results" / "startup.json"
MARKS = ("<!-- startup -->\n", "<!-- end of startup -->")
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
    found = tell("start-up", taken)
    # The first round warms up.
    found["processor"] = {name: statistics.median(each[1:]) for name, each in used.items()}
    return found


def table(found: dict[str, Any]) -> str:
    medians, processor = found["medians"], found["processor"]
    lines = [
        f"| whole process, median of {len(found['seconds'][PYTHON])}, ms | passed | at best | processor | of `{PAPERMILL}` | must be under |",
        "|---|---|---|---|---|---|",
    ]
    for name in COMMANDS:
        ratio = medians[PAPERMILL] / medians[name]
        most = str(LIMIT_MS) if name == HELP else ""
        lines.append(
            f"| `{name}` | {medians[name] * 1e3:.0f} | {min(found['seconds'][name]) * 1e3:.0f} | "
            f"{processor[name] * 1e3:.0f} | {'' if name == PAPERMILL else f'**{ratio:.1f}x** faster'} | {most} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = options(__doc__, runs=15)
    parser.add_argument("--page", type=Path, help="a page with the marks, whose table is replaced")
    given = parser.parse_args()
    found = measure(given.runs)
    text = table(found)
    print(text)
    write(given.json or RESULTS, startup=found)
    if given.page is not None:
        before, _, rest = given.page.read_text().partition(MARKS[0])
        given.page.write_text(before + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2])


if __name__ == "__main__":
    main()
