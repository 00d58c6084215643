"""
Reading one large file with md5, sha1 and sha256.

    python benchmarks/streams.py [--runs 7] [--mib 1024] [--json FILE] [--page docs/performance.md]

On a local platform of its own, by turns in each round:

    loop, from memory     the three digests one after the other over 8 MiB blocks of the same bytes in memory: the limit
    loop, boto3           the same loop on boto3's StreamingBody
    loop, ours            the same loop on `S3.File.get_stream`, in a script
    loop, ours in a run   the same loop in the kernel of a run, which notes what was read, and a fourth digest of it;
                          after a first byte was read, since a process's first request waits for boto3 to be imported
    read, ours            the file read and not hashed
    digest, ours          `libsafe_nb.digest`

The limit of `digest` is computed each round, with client and server sharing the cores: what the reading takes, what the
slowest digest takes alone, and all processor time (of the digests, of the client's reading, of the server's and of the
front before it) divided by the cores; the longest of these three.

What the cores allow the loop in a run is computed in the same way, and told beside the table: they have a fourth digest and
the reading to do besides the author's three.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import figures

BLOCK = 8 * 1024 * 1024
NAMES = ("md5", "sha1", "sha256")
LOOP = """
import hashlib, json, time
from libnova.com.Nuclio import Request
from libnova.com.Filesystem import S3
request = Request.Request(None, type("", (object,), {{"body": json.dumps(json_sample)}})())
request.job_init()
began = time.perf_counter()
S3.File.get_stream(request.Storage, request.Files[0]).read(1)
first = time.perf_counter() - began
for file in request.Files:
    began = time.perf_counter()
    stream = S3.File.get_stream(request.Storage, file)
    hashes = hashlib.md5(), hashlib.sha1(), hashlib.sha256()
    block = stream.read(8 * 1024 * 1024)
    while block:
        for each in hashes:
            each.update(block)
        block = stream.read(8 * 1024 * 1024)
    digests = [each.hexdigest() for each in hashes]
    seconds = time.perf_counter() - began
with open({path!r}, "w") as told:
    json.dump([seconds, digests, first], told)
request.job_end(True)
"""


def main() -> None:
    parser = figures.options(__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="streams-") as folder:
        os.environ["LIBSAFE_NB_HOME"] = folder
        measure(Path(folder), given.runs, given.mib, given.json, given.page)


def measure(folder: Path, runs: int, mib: int, target: Path | None, page: Path | None) -> None:
    import io

    import nbformat

    import libsafe_nb
    from libsafe_nb import local
    from libsafe_nb.connection import connect

    data = os.urandom(1024 * 1024) * mib
    expected = [hashlib.new(name, data).hexdigest() for name in NAMES]
    with local.serve(folder / "platform") as served:
        connection = connect(settings=served.settings)
        storage = connection.storage
        container = str(connection.client.create_container("streams")["id"])
        storage.upload(container, "data.bin", io.BytesIO(data))
        notebook, told = folder / "loop.ipynb", folder / "told.json"
        cells = [
            nbformat.v4.new_code_cell("json_sample = {}", metadata={"tags": ["parameters"]}),
            nbformat.v4.new_code_cell(LOOP.format(path=str(told))),
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), notebook)

        def boto3_body() -> Any:
            return storage.connected.get_object(Bucket=storage.bucket, Key=f"{container}/data.bin")["Body"]

        firsts: list[float] = []

        def in_a_run() -> float:
            libsafe_nb.run(
                None, notebook, container=container, files=["/data.bin"], settings=served.settings
            ).raise_for_failure()
            seconds, digests, first = json.loads(told.read_text())
            assert digests == expected
            firsts.append(first)
            return float(seconds)

        servers = figures.servers(os.getpid())

        def serving() -> float:
            return sum(figures.processor_seconds(each) for each in servers)

        used: dict[str, list[float]] = {
            name: []
            for name in ("client reading", "server reading", "digests", "md5", "sha256", "digest, all")
        }

        def reading() -> float:
            before = time.process_time(), serving()
            seconds = timed(lambda: drain(storage.open(container, "data.bin")))
            used["client reading"].append(time.process_time() - before[0])
            used["server reading"].append(serving() - before[1])
            return seconds

        def from_memory() -> float:
            before = time.process_time()
            seconds = timed(lambda: loop(io.BytesIO(data)), expected)
            used["digests"].append(time.process_time() - before)
            before = time.process_time()
            hashlib.md5(data)  # noqa: S324 - its speed is the question
            used["md5"].append(time.process_time() - before)
            before = time.process_time()
            hashlib.sha256(data)
            used["sha256"].append(time.process_time() - before)
            return seconds

        def digest() -> float:
            before = time.process_time() + serving()
            with storage.open(container, "data.bin") as stream:
                seconds = timed(lambda: list(libsafe_nb.digest(stream, *NAMES).values()), expected)
            used["digest, all"].append(time.process_time() + serving() - before)
            return seconds

        taken = figures.rounds(
            {
                "loop, from memory": from_memory,
                "loop, boto3": lambda: timed(lambda: loop(boto3_body()), expected),
                "loop, ours": lambda: timed(lambda: loop(storage.open(container, "data.bin")), expected),
                "loop, ours in a run": in_a_run,
                "read, ours": reading,
                "digest, ours": digest,
            },
            runs,
        )
        connection.close()
    cores = os.cpu_count() or 1
    used = {name: each[1:] for name, each in used.items()}
    shared = [
        (used["client reading"][n] + used["server reading"][n] + used["digests"][n]) / cores
        for n in range(runs)
    ]
    taken["digest, the limit"] = [
        max(read, md5, all_) for read, md5, all_ in zip(taken["read, ours"], used["md5"], shared, strict=True)
    ]
    med = {name: statistics.median(each) for name, each in taken.items()}
    peer, memory = "loop, boto3", "loop, from memory"
    rows = []
    for what, name in (
        ("the vendor's loop, in a run", "loop, ours in a run"),
        ("the same in a script", "loop, ours"),
    ):
        own = (med[name], med[peer], med[memory])
        rows.append(figures.Row(what, *own, figures.ratio(taken, memory, name), "limit", 0.85))
        rows.append(
            figures.Row(f"{what}, against boto3's", *own, figures.ratio(taken, peer, name), "peer", 1.0)
        )
    name, limit = "digest, ours", "digest, the limit"
    own = (med[name], med[peer], med[limit])
    rows.append(figures.Row("`libsafe_nb.digest`", *own, figures.ratio(taken, limit, name), "limit", 0.85))
    used_ = {name: statistics.median(each) for name, each in used.items()}
    first = statistics.median(firsts[1:])
    reads = used_["client reading"] + used_["server reading"]
    allowed = max(used_["digests"], (used_["digests"] + used_["sha256"] + reads) / cores)
    stages = [
        f"Processor seconds: the three digests {used_['digests']:.2f}, the record's own sha256 {used_['sha256']:.2f},"
        f" reading {used_['client reading']:.2f}, serving {used_['server reading']:.2f}.",
        f"So {cores} cores allow the loop in a run {used_['digests'] / allowed:.2f} of its limit.",
        f"`digest` used {used_['digest, all']:.2f} in all, where its limit counts {used_['digests'] + reads:.2f}.",
        f"The first byte of a run, {first:.2f} s, is not part of it: the first request of a process waits for boto3.",
    ]
    head = f"md5, sha1 and sha256 of {mib} MiB, median of {runs}, s"
    text = figures.table(head, rows) + "\n" + " ".join(stages) + "\n\n" + figures.made()
    more = {"seconds": taken, "processor_seconds": used, "first_byte": first}
    figures.keep("streams", rows, text, path=target, page=page, title=head, **more)


def loop(stream: Any) -> list[str]:
    """As the vendor's page reads a file: one block, three digests, the next block."""
    hashes = [hashlib.new(name) for name in NAMES]
    block = stream.read(BLOCK)
    while block:
        for each in hashes:
            each.update(block)
        block = stream.read(BLOCK)
    stream.close()
    return [each.hexdigest() for each in hashes]


def drain(stream: Any) -> None:
    while stream.read(BLOCK):
        pass
    stream.close()


def timed(work: Callable[[], Any], expected: Any = None) -> float:
    began = time.perf_counter()
    found = work()
    seconds = time.perf_counter() - began
    assert expected is None or found == expected, found
    return seconds


if __name__ == "__main__":
    main()
