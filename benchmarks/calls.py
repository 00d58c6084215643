"""
What a call of a workflow costs more than a plain run of the same notebook.

    python benchmarks/calls.py [--runs 7] [--calls 30] [--json FILE] [--page docs/performance.md]

On a local platform of its own, by turns: so many plain runs one after the other in this process, and a workflow that calls
the same notebook so many times, by one worker of its own: all calls made at once, and each when the one before has ended.
A call's time is what a workflow takes longer for them than for a single one; each leaves its evidence, as a plain run does.
The notebook prints a line, so what is compared is all that is not the author's. Promised: a call costs less than 20 % more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import figures
import nbformat

PARAMETERS = (
    'json_sample = {"function_data": {"container": {"id": "1"}}, "function_params": {}}\nleaf = ""\ncalls = 0'
)
AT_ONCE = """
import libsafe_nb
for each in [libsafe_nb.call(leaf) for _ in range(calls)]:
    each.result().raise_for_failure()
"""
IN_TURN = """
import libsafe_nb
for _ in range(calls):
    libsafe_nb.call(leaf).result().raise_for_failure()
"""


def main() -> None:
    options = figures.options(__doc__)
    options.add_argument(
        "--calls", type=int, default=30, help="calls of a workflow, and plain runs beside it"
    )
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="calls-") as folder:
        os.environ["LIBSAFE_NB_HOME"] = folder
        measure(Path(folder), given)


def measure(folder: Path, given: argparse.Namespace) -> None:
    import libsafe_nb
    from libsafe_nb import local, publishing
    from libsafe_nb.connection import connect

    leaf = notebook(folder / "leaf.ipynb", "print(1)")
    ways = {"all at once": notebook(folder / "at_once.ipynb", AT_ONCE)}
    ways["one after the other"] = notebook(folder / "in_turn.ipynb", IN_TURN)
    with local.serve(folder / "platform") as served:
        container = str(connect(settings=served.settings).client.create_container("calls")["id"])
        key = publishing.publish(leaf, settings=served.settings)["key"]

        def run(path: Path, **options: Any) -> float:
            began = time.perf_counter()
            libsafe_nb.run(
                None, path, container=container, settings=served.settings, **options
            ).raise_for_failure()
            return time.perf_counter() - began

        def plain() -> float:
            return sum(run(leaf) for _ in range(given.calls)) / given.calls

        def called(path: Path) -> float:
            one, many = (
                run(path, workers=1, params={"leaf": key, "calls": number}) for number in (1, given.calls + 1)
            )
            return (many - one) / given.calls

        taken = figures.rounds(
            {"plain": plain, **{name: lambda path=path: called(path) for name, path in ways.items()}},
            given.runs,
        )
    rows = []
    for name in ways:
        ours, limit = statistics.median(taken[name]), statistics.median(taken["plain"])
        rows.append(
            figures.Row(
                f"a call, {name}", ours, None, limit, figures.ratio(taken, "plain", name), "limit", 0.83
            )
        )
    head = f"{given.calls} calls by one worker, median of {given.runs}, s"
    more = ", ".join(f"{100 / row.ratio - 100:+.0f} % ({name})" for name, row in zip(ways, rows, strict=True))
    text = f"{figures.table(head, rows)}\nA call costs {more} of a plain run (promised: less than 20 % more). {figures.made()}"
    figures.keep("calls", rows, text, path=given.json, page=given.page, title=head, seconds=taken)


def notebook(path: Path, source: str) -> Path:
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source)]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


if __name__ == "__main__":
    main()
