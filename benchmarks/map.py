"""
How fast many small notebooks are: `libsafe-nb map --each 1`, evidence and all, against papermill's command, so many at once.

    python benchmarks/map.py [--count 200] [--at-once 2] [--runs 4] [--json FILE] [--page docs/performance.md]

Both run the same notebook, one run a file; ours with its job, evidence and link in the chain, on a local platform that is up,
as one command from its start to its end; papermill's without any record. They take turns round by round, so that noise
meets both alike, and the ratio is of the whole times. Ours pays the start of its workers in each round.

Writes the figures as JSON, and with `--page` the table between the marks of that page.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from figures import Row, keep, made, options, table

TARGET = 6.0
PARAMETERS = 'json_sample = {"function_data": {"container": {"id": "1"}}, "function_params": {}}'
CELL = 'print("files:", len(json_sample["function_data"].get("files", {}).get("ids", [])))'


def write_function(path: Path) -> Path:
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(CELL),
    ]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def store_files(connection: Any, container: str, count: int) -> None:
    for number in range(count):
        connection.storage.put(container, f"{number:05d}.txt", b"%d" % number)
    deadline = time.monotonic() + 60
    while sum(row["type"] != "FOLDER" for row in connection.client.files(container)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ours(function: Path, container: str, workers: int | None) -> tuple[float, dict[str, Any]]:
    words = ["map", str(function), "--container", container, "--each", "1", "--json"]
    words += [] if workers is None else ["--workers", str(workers)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "libsafe_nb", *words], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, json.loads(done.stdout)


def papermills(function: Path, folder: Path, count: int, at_once: int) -> tuple[float, int]:
    def one(number: int) -> bool:
        command = [
            sys.executable,
            "-m",
            "papermill",
            str(function),
            str(folder / f"{number}.ipynb"),
            "-p",
            "x",
            "1",
        ]
        return subprocess.run(command, capture_output=True).returncode == 0

    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        good = sum(pool.map(one, range(count)))
    return time.perf_counter() - start, count - good


def measure(count: int, at_once: int, blocks: int, workers: int | None) -> dict[str, Any]:
    from libsafe_nb import local
    from libsafe_nb.connection import connect

    each = count // blocks
    mine: list[float] = []
    theirs: list[float] = []
    failures = {"ours": 0, "papermill": 0}
    with tempfile.TemporaryDirectory(prefix="libsafe-map-") as name:
        folder = Path(name)
        os.environ["LIBSAFE_NB_HOME"] = str(folder)
        function = write_function(folder / "small.ipynb")
        with local.serve(folder / "platform") as served:
            connection = connect(settings=served.settings)
            for block in range(blocks):
                container = connection.client.create_container(f"block {block}")["id"]
                store_files(connection, container, each)
                seconds, told = ours(function, container, workers)
                mine.append(seconds)
                failures["ours"] += each - told["files"]["completed"]
                seconds, failed = papermills(function, folder, each, at_once)
                theirs.append(seconds)
                failures["papermill"] += failed
                print(f"block {block + 1}: ours {mine[-1]:.1f} s, papermill {theirs[-1]:.1f} s", flush=True)
    return {
        "count": each * blocks,
        "blocks": blocks,
        "at_once": at_once,
        "seconds": {"ours": mine, "papermill": theirs},
        "failures": failures,
        "ratios": [b / a for a, b in zip(mine, theirs, strict=True)],
    }


def main() -> None:
    parser = options(__doc__, runs=4)
    parser.add_argument(
        "--count", type=int, default=200, help="notebooks in all, a share of them in each round"
    )
    parser.add_argument("--at-once", type=int, default=2, help="papermill's runs")
    parser.add_argument("--workers", type=int, help="ours; by default as the command has it")
    given = parser.parse_args()
    found = measure(given.count, given.at_once, given.runs, given.workers)
    mine, theirs = (sum(found["seconds"][name]) for name in ("ours", "papermill"))
    told = [Row("`map`, with evidence, jobs and chain", mine, theirs, None, theirs / mine, "peer", TARGET)]
    failures = found["failures"]
    text = (
        table(f"{found['count']} notebooks of one file, papermill's {found['at_once']} at a time, s", told)
        + f"\nFailures: ours {failures['ours']}, papermill's {failures['papermill']}. Sums of {found['blocks']} rounds by turns; "
        f"the median of their ratios is {statistics.median(found['ratios']):.1f}. {made()}"
    )
    title = "many notebooks"
    keep("map", told, text, path=given.json, page=given.page, title=title, **found)


if __name__ == "__main__":
    main()
