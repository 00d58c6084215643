"""
How fast one notebook is: our engine, papermill's own, and the floor, side by side in one run.

    python benchmarks/engine.py [--times 7] [--cells 20] [--json FILE] [--page docs/performance.md]

In process and warm: the same process has run it before. First run: each sample is a process of its own, papermill's as
well, and only the run is timed, not the imports. Commands are timed from start to end of their process. Ours with
`LIBSAFE_NB_FORK=0` shows what the fork server is worth. The floor is a fork of a process that has IPython ready, its shell
in the child, and nothing of what makes a kernel one: no messages, no outputs but stdout, no sign of life, no record. All
are run in turns, so that noise meets all alike.

Writes the figures as JSON, and with `--page` the table between the marks of that page.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from figures import replaced

RESULTS = Path(__file__).parent / "results" / "engine.json"
TARGETS = {
    "warm": ("in process, warm", 4.0),
    "first run": ("in process, first run", 1.7),
    "command": ("whole command, ours with its evidence, a local platform up", 1.3),
}
PARAMETERS = 'json_sample = {"function_data": {"container": {"id": "1"}}, "function_params": {}}'
MARKS = ("<!-- engine -->\n", "<!-- end of engine -->")

FIRST = """
import sys, time, warnings
warnings.simplefilter("ignore")
import papermill, papermill.engines
papermill.log.logger.setLevel("ERROR")
engine, source, target = sys.argv[1:]
papermill.engines.papermill_engines.get_engine(engine or None)
start = time.perf_counter()
papermill.execute_notebook(source, target, {"x": 1}, engine_name=engine or None, progress_bar=False)
print(time.perf_counter() - start)
"""


def run(folder: Path, engine: str | None) -> float:
    import papermill

    start = time.perf_counter()
    papermill.execute_notebook(
        str(folder / "in.ipynb"), str(folder / "out.ipynb"), {"x": 1}, engine_name=engine, progress_bar=False
    )
    return time.perf_counter() - start


def first(folder: Path, engine: str | None) -> float:
    command = [sys.executable, "-c", FIRST, engine or "", str(folder / "in.ipynb"), str(folder / "out.ipynb")]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def command(*words: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    return time.perf_counter() - start


def floor(folder: Path) -> float:
    """A fork with IPython's shell, that executes the cells, keeps what they print, and writes the notebook."""
    from IPython.core.interactiveshell import InteractiveShell

    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        nb = nbformat.read(folder / "in.ipynb", as_version=4)
        shell = InteractiveShell.instance()
        for cell in nb.cells:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                shell.run_cell(cell.source)
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=printed.getvalue())]
        nbformat.write(nb, folder / "floor.ipynb")
        os._exit(0)
    os.waitpid(pid, 0)
    return time.perf_counter() - start


class Stages:
    """Where the time of our runs goes: timers around the calls."""

    def __init__(self) -> None:
        self.taken: dict[str, list[float]] = {}
        self._run: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        from libsafe_nb import kernels
        from libsafe_nb.conversation import Conversation
        from libsafe_nb.saving import Saver

        places: list[tuple[Any, str, str]] = [
            (kernels, "start", "fork"),
            (Conversation, "_ready", "ready"),
            (Conversation, "_execute", "cells"),
            (Conversation, "_shut_down", "close"),
            (kernels.Kernel, "close", "close"),
            (Saver, "save", "save"),
        ]
        before = [getattr(owner, name) for owner, name, _ in places]
        for (owner, name, stage), function in zip(places, before, strict=True):
            setattr(owner, name, self._around(function, stage))
        try:
            yield
        finally:
            for (owner, name, _), function in zip(places, before, strict=True):
                setattr(owner, name, function)

    def _around(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        import inspect

        def add(start: float) -> None:
            self._run[stage] = self._run.get(stage, 0.0) + time.perf_counter() - start

        async def waited(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return await function(*arguments, **options)
            finally:
                add(start)

        def called(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                add(start)

        return waited if inspect.iscoroutinefunction(function) else called

    def end(self, total: float) -> None:
        self._run["rest (papermill: load, parameterize, write)"] = total - sum(self._run.values())
        for stage, seconds in self._run.items():
            self.taken.setdefault(stage, []).append(seconds)
        self._run = {}


def measure(times: int, cells: int) -> dict[str, Any]:
    import papermill

    papermill.log.logger.setLevel("ERROR")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"print({n})") for n in range(cells)])
    book.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    stages = Stages()
    taken: dict[str, list[float]] = {}

    def take(name: str, seconds: float) -> None:
        taken.setdefault(name, []).append(seconds)
        print(".", end="", flush=True)

    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        folder = Path(made)
        nbformat.write(book, folder / "in.ipynb")
        function = str(folder / "function.ipynb")
        parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        whole = nbformat.v4.new_notebook(cells=[parameters, *book.cells], metadata=book.metadata)
        nbformat.write(whole, function)
        # The floor forks this process, which must have no thread of zmq's yet.
        floor(folder)
        for _ in range(times):
            take("floor", floor(folder))
        for engine in ("libsafe", "libsafe", None):
            run(folder, engine)
        stack.enter_context(environment(LIBSAFE_NB_HOME=f"{folder}/home"))
        stack.callback(command, "libsafe_nb", "local", "stop")
        # Starts the platform.
        command("libsafe_nb", "run", function)
        for _ in range(times):
            with stages.timed():
                seconds = run(folder, "libsafe")
            stages.end(seconds)
            take("warm: ours", seconds)
            take("warm: papermill", run(folder, None))
            with environment(LIBSAFE_NB_FORK="0"):
                take("warm: ours, not forked", run(folder, "libsafe"))
            take("first run: ours", first(folder, "libsafe"))
            take("first run: papermill", first(folder, None))
            take("command: ours", command("libsafe_nb", "run", function))
            take("command: papermill", command("papermill", function, str(folder / "out.ipynb")))
    print()
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "cells": cells,
        "times": times,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {each: version(each) for each in ("papermill", "nbclient", "ipykernel", "IPython")},
        "ms": {name: figures(values) for name, values in taken.items()},
        "stages_ms": {name: figures(values) for name, values in stages.taken.items()},
    }


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def figures(seconds: list[float]) -> dict[str, float]:
    found = [each * 1e3 for each in seconds]
    return {
        "median": round(statistics.median(found), 1),
        "min": round(min(found), 1),
        "max": round(max(found), 1),
    }


def table(found: dict[str, Any]) -> str:
    ms = found["ms"]
    lines = [
        f"| {found['cells']} cells, median of {found['times']}, ms | ours | papermill's engine | ratio | must reach |",
        "|---|---|---|---|---|",
    ]
    for name, (words, target) in TARGETS.items():
        ours, peer = ms[f"{name}: ours"]["median"], ms[f"{name}: papermill"]["median"]
        lines.append(f"| {words} | {ours:.0f} | {peer:.0f} | **{peer / ours:.1f}x** | {target}x |")
    alone, peer = ms["warm: ours, not forked"]["median"], ms["warm: papermill"]["median"]
    lines.append(
        f"| in process, warm, without the fork server | {alone:.0f} | {peer:.0f} | {peer / alone:.1f}x | |"
    )
    lines.append(
        f"| floor: fork and shell alone | {ms['floor']['median']:.0f} | {peer:.0f} | {peer / ms['floor']['median']:.1f}x | |"
    )
    lines += ["", "| where ours, warm, spends it | ms |", "|---|---|"]
    lines += [f"| {name} | {each['median']:.1f} |" for name, each in found["stages_ms"].items()]
    versions = ", ".join(f"{name} {each}" for name, each in found["versions"].items())
    lines += [
        "",
        f"Made on {found['made'][:10]} with Python {found['python']}, {versions}, {found['cores']} cores.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    parser.add_argument("--page", type=Path, help="a page with the marks, whose table is replaced")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    found = measure(given.times, given.cells)
    text = table(found)
    print(text)
    given.json.parent.mkdir(exist_ok=True)
    given.json.write_text(json.dumps(found, indent=1) + "\n")
    if given.page is not None:
        given.page.write_text(replaced(given.page.read_text(), MARKS, text))


if __name__ == "__main__":
    main()
