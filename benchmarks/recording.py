"""
What keeping a record costs.

    python benchmarks/recording.py [--runs 7] [--mib 1024] [--json FILE] [--page docs/performance.md]

Runs an empty notebook, and the shipped hash function over one file, on a local platform of its own; by turns as they are
and with everything left out that makes, stores, links and tells the evidence (the job is closed at once). Prints the
medians and what the record adds. The targets: less than 150 ms on the empty notebook, less than 10 % on 1 GiB.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import figures

HASHING = Path(__file__).parent.parent / "notebooks" / "hash_files.ipynb"
EMPTY = {
    "cells": [],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def main() -> None:
    options = figures.options(__doc__)
    options.add_argument("--mib", type=int, default=1024, help="size of the file that is hashed")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="recording-") as folder:
        os.environ["LIBSAFE_NB_HOME"] = folder
        measure(Path(folder), given)


def measure(folder: Path, given: argparse.Namespace) -> None:
    runs, mib = given.runs, given.mib
    import libsafe_nb
    from libsafe_nb import local

    empty, data = folder / "empty.ipynb", folder / "data.bin"
    empty.write_text(json.dumps(EMPTY))
    with data.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1024 * 1024))
    with local.serve(folder / "platform") as served:
        first = libsafe_nb.run(None, HASHING, uploads=[data], settings=served.settings).raise_for_failure()
        assert first.evidence
        nothing = pair(runs, empty, [], served.settings)
        hashing = pair(runs, HASHING, ["/data.bin"], served.settings)
    rows = [
        row("a run of an empty notebook", *nothing, target=None),
        row(f"a run with three digests of {mib} MiB", *hashing, target=0.91),
    ]
    added = 1000 * (rows[0].ours - (rows[0].limit or 0))
    head = f"with its record, median of {runs}, s"
    text = f"{figures.table(head, rows)}\nThe record of an empty notebook takes {added:.0f} ms (promised: below 150). {figures.made()}"
    more = {"seconds": {"nothing": nothing, "hashing": hashing}}
    figures.keep("recording", rows, text, path=given.json, page=given.page, title=head, **more)


def pair(runs: int, notebook: Path, files: list[str], settings: Any) -> tuple[list[float], list[float]]:
    """Seconds without and with the record, by turns."""
    import libsafe_nb

    without, recorded = [], []
    for turn in range(runs + 1):
        for kept, context in ((without, unrecorded()), (recorded, contextlib.nullcontext())):
            with context:
                began = time.perf_counter()
                libsafe_nb.run(None, notebook, files=files, settings=settings).raise_for_failure()
                if turn:
                    kept.append(time.perf_counter() - began)
    return without, recorded


@contextlib.contextmanager
def unrecorded() -> Iterator[None]:
    """Runs that store no record: neither that of the start nor any at the end."""
    from libsafe_nb import closing, evidence, models, runner

    def close(
        journal: Any, connection: Any, secrets: Any, *, facts: Any, job: str, **rest: Any
    ) -> models.Run:
        connection.client.update_job(job, status="COMPLETED")
        journal.remove()
        return models.Run(facts.run, job, facts.container, status="completed")

    with mock.patch.object(closing, "close", close), mock.patch.object(evidence, "put_once"):
        assert runner.closing is closing
        yield


def row(what: str, without: list[float], recorded: list[float], *, target: float | None) -> figures.Row:
    before, after = statistics.median(without), statistics.median(recorded)
    return figures.Row(what, after, None, before, before / after, "limit", target)


if __name__ == "__main__":
    main()
