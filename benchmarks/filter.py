"""
What keeping secrets out of the record costs.

    python benchmarks/filter.py [--megabytes 50] [--quick]

Prints, for several kinds of text, the milliseconds a megabyte of the live filter and of the final scan, and of the
scan of a file; then runs a
notebook that prints 50 MB through the engine, without a filter and with it, and prints the share of the run's time
that the filter and the scan take: the processor time spent in them, measured inside the run, so that the noise of two
runs does not drown it. The engine alone is run, without platform, upload and record. The target is less than 5 %.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import random
import string
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from libsafe_nb.redact import LiveFilter, SecretSet, StreamScanner, scan_document
from libsafe_nb.secrets import Secret

LETTERS = string.ascii_letters + string.digits
CELLS = 6
PRINTING = """
import hashlib
line = "{} processed file /data/ingest/2026/img_{:05d}.tif sha256={} verified in {:.3f} s"
for number in range(LINES):
    print(line.format(number, number * 7 % 99999, hashlib.sha256(b"%d" % number).hexdigest(), number / 7))
"""
LINE_BYTES = 145


def secrets(*lengths: int) -> SecretSet:
    chance = random.Random(1)
    return SecretSet(
        Secret(f"key{index}", "".join(chance.choices(LETTERS, k=length)))
        for index, length in enumerate(lengths)
    )


def samples(size: int) -> dict[str, str]:
    chance = random.Random(2)
    lines = (
        f"{index:06d} processed file /data/ingest/2026/img_{index * 7 % 99999:05d}.tif status=ok in {index / 7:.3f} s\n"
        for index in range(size // 90)
    )
    return {
        "log lines": "".join(lines),
        "sha256 digests": "".join(
            hashlib.sha256(b"%d" % index).hexdigest() + f"  file{index}.tif\n" for index in range(size // 80)
        ),
        "base64": base64.b64encode(chance.randbytes(size * 3 // 4)).decode(),
        "JSON": json.dumps(
            [
                {"id": str(index), "path": f"/a/b{index}.tif", "é": [1, 2.5, None]}
                for index in range(size // 60)
            ]
        ),
        "coloured": "".join(
            f"\x1b[32mINFO\x1b[0m  step {index} of the ingest has ended, see \x1b[4mlog {index}\x1b[0m\n"
            for index in range(size // 70)
        ),
    }


def best(work: Callable[[], Any], times: int = 3) -> float:
    taken = []
    for _ in range(times):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def chunked(live: LiveFilter, text: str, size: int = 65536) -> None:
    for start in range(0, len(text), size):
        live.segments("cell", "stdout", text[start : start + size])
    live.end_cell("cell")


def notebook_of(text: str) -> dict[str, Any]:
    output = {"output_type": "stream", "name": "stdout", "text": text}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {},
        "cells": [
            {
                "id": "a",
                "cell_type": "code",
                "source": "",
                "metadata": {},
                "execution_count": 1,
                "outputs": [output],
            }
        ],
    }


def by_kind() -> None:
    print(
        f"{'ms/MB':<16}{'live':>8}{'scan':>8}{'scan of bytes':>15}{'live, 2 of 16':>15}{'live, 2 of 8':>14}"
    )
    usual, sixteen, eight = secrets(36, 36), secrets(16, 16), secrets(8, 8)
    for kind, text in samples(4_000_000).items():
        size = len(text) / 1e6
        parsed = notebook_of(text)
        data = json.dumps(parsed, ensure_ascii=False).encode()
        works: list[Callable[[], Any]] = [
            lambda text=text: chunked(LiveFilter(usual), text),  # type: ignore[misc]
            lambda parsed=parsed: scan_document(usual, parsed),  # type: ignore[misc]
            lambda data=data: scan_document(usual, data),  # type: ignore[misc]
            lambda text=text: chunked(LiveFilter(sixteen), text),  # type: ignore[misc]
            lambda text=text: chunked(LiveFilter(eight), text),  # type: ignore[misc]
        ]
        figures = [best(work) * 1e3 / size for work in works]
        print(
            f"{kind:<16}"
            + "".join(
                f"{figure:>{width}.1f}" for figure, width in zip(figures, (8, 8, 15, 15, 14), strict=True)
            )
        )


def of_files() -> None:
    usual = secrets(36, 36)
    data = random.Random(3).randbytes(16_000_000)

    def scan(keep: int) -> None:
        scanner = StreamScanner(usual, keep=keep)
        for start in range(0, len(data), 1 << 20):
            scanner.feed(data[start : start + (1 << 20)])
        scanner.finish()

    print(f"\na file of random bytes, ms/MB: {best(lambda: scan(0)) * 1e3 / 16:.1f} in passing,", end=" ")
    print(f"{best(lambda: scan(1 << 26)) * 1e3 / 16:.1f} with its wrappings")


class Timed:
    """A live filter that knows how long it took."""

    def __init__(self, live: LiveFilter) -> None:
        self._live = live
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._live, name)

        def timed(*arguments: Any) -> Any:
            start = time.thread_time()
            try:
                return method(*arguments)
            finally:
                self.seconds += time.thread_time() - start

        return timed


def run(megabytes: int, live: Timed | None) -> tuple[float, bytes]:
    """Seconds that the notebook took in the engine, and what was saved."""
    import nbformat
    import papermill

    from libsafe_nb.execution import Execution

    source = PRINTING.replace("LINES", str(megabytes * 1_000_000 // CELLS // LINE_BYTES))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for _ in range(CELLS)])
    with tempfile.TemporaryDirectory() as folder:
        given, saved = Path(folder, "in.ipynb"), Path(folder, "out.ipynb")
        nbformat.write(book, given)
        execution = Execution(save_to=saved, output_filter=live, cwd=Path(folder))
        start = time.perf_counter()
        papermill.execute_notebook(
            str(given),
            None,
            engine_name="libsafe",
            kernel_name="python3",
            language="python",
            progress_bar=False,
            execution=execution,
        )
        return time.perf_counter() - start, saved.read_bytes()


def of_a_run(megabytes: int) -> None:
    usual = secrets(36, 36)
    run(1, None)
    without = min(run(megabytes, None)[0] for _ in range(2))
    live = Timed(LiveFilter(usual))
    with_filter, data = run(megabytes, live)
    parsed = json.loads(data)
    start = time.process_time()
    assert scan_document(usual, parsed).clean
    scan = time.process_time() - start
    print(f"\na notebook of {len(data) / 1e6:.0f} MB, a sha256 digest in each line; seconds")
    print(f"  run without filter, wall clock, best of 2  {without:6.2f}")
    print(f"  run with filter, wall clock                {with_filter:6.2f}")
    print(f"  in the live filter, processor time         {live.seconds:6.2f}   {live.seconds / without:6.1%}")
    print(f"  in the final scan, processor time          {scan:6.2f}   {scan / without:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=50, help="what the notebook prints (50)")
    parser.add_argument("--quick", action="store_true", help="the table only")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    import papermill  # noqa: F401  it loads numpy, as in a run, and the filter uses what is there

    by_kind()
    of_files()
    if not arguments.quick:
        of_a_run(arguments.megabytes)


if __name__ == "__main__":
    main()
