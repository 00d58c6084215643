"""
What keeping a record costs.

    python benchmarks/recording.py [--runs 7] [--mib 1024]

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

HASHING = Path(__file__).parent.parent / "notebooks" / "hash_files.ipynb"
EMPTY = {
    "cells": [],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--runs", type=int, default=7, help="of each kind; the medians are told")
    options.add_argument("--mib", type=int, default=1024, help="size of the file that is hashed")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="recording-") as folder:
        os.environ["LIBSAFE_NB_HOME"] = folder
        measure(Path(folder), given.runs, given.mib)


def measure(folder: Path, runs: int, mib: int) -> None:
    import libsafe_nb
    from libsafe_nb import local

    empty, data = folder / "empty.ipynb", folder / "data.bin"
    empty.write_text(json.dumps(EMPTY))
    with data.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(1024 * 1024))
    with local.serve(folder / "platform") as served:
        first = libsafe_nb.run(None, HASHING, uploads=[data], settings=served.settings).raise_for_failure()
        tell("an empty notebook", *pair(runs, empty, [], served.settings), unit="ms")
        tell(f"three digests of {mib} MiB", *pair(runs, HASHING, ["/data.bin"], served.settings), unit="%")
        assert first.evidence


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


def tell(what: str, without: list[float], recorded: list[float], *, unit: str) -> None:
    before, after = statistics.median(without), statistics.median(recorded)
    added = after - before
    share = f"{100 * added / before:.1f} %" if unit == "%" else f"{1000 * added:.0f} ms"
    print(f"{what}: {before:.3f} s without a record, {after:.3f} s with it: {share} more", flush=True)


if __name__ == "__main__":
    main()
