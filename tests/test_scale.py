"""Sizes that archives have: one large object, very many files. Long; run with -m slow."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
from environs import variables

from libsafe_nb.local.root import Root

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

GIB = 1024**3
START = """
import json
from libnova.com.Nuclio.Request import Request
from libnova.com.Filesystem import S3
request = Request(None, type("Event", (), {"body": json.dumps(json_sample)})())

def peak():
    "Most memory this process ever had, in MiB."
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
"""


def test_five_gib_stream_through_a_kernel_of_less_than_150_mib(tmp_path, notebook, run, stored):
    sparse = tmp_path / "five.bin"
    with sparse.open("wb") as file:
        file.truncate(5 * GIB)
    cell = (
        START
        + """
stream = S3.File.get_stream(request.Storage, request.Files[0])
size = 0
while block := stream.read(8 * 1024 * 1024):
    size += len(block)
print('MEASURED', size, peak())
"""
    )

    done = run(notebook(cell), uploads=[sparse])

    size, peak = measured(done, stored)
    assert size == 5 * GIB
    assert peak < 150, f"{peak:.0f} MiB"


def test_a_hundred_thousand_files_are_listed_and_iterated_with_flat_memory(
    notebook, run, stored, connection, container
):
    rows = (
        {"path": f"/rows/{number // 1000:03d}/{number:06d}.txt", "size": number} for number in range(90_000)
    )
    connection.client.import_files(container, rows)
    for number in range(10_000):
        connection.storage.put(container, f"/real/{number:05d}.txt", b"x")
    ids = [each["id"] for each in connection.client.files(container) if each["type"] == "FILE"]
    assert len(ids) >= 100_000
    cell = (
        START
        + """
before = peak()
count = sum(1 for file in request.Files)
print('MEASURED', count, peak() - before)
"""
    )
    payload = {"function_data": {"container": {"id": container}, "files": {"ids": ids, "paths": []}}}

    done = run(notebook(cell), payload=payload)

    count, growth = measured(done, stored)
    assert count == len(ids)
    assert growth < 60, f"{growth:.0f} MiB"


MILLION = 1_000_000
CLIENT = """
import sys, time
from libsafe_nb import settings
from libsafe_nb.client import Client
container = sys.argv[1]
start = time.perf_counter()
files = Client.of(settings.load()).files(container)
next(files)
first = time.perf_counter() - start
count = 1 + sum(1 for file in files)
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024
print(count, first, time.perf_counter() - start, peak)
"""
STANDIN = (
    START
    + """
import time
from libnova.common.api import Container
start = time.perf_counter()
files = Container.get_files(request.container_id)
next(files)
first = time.perf_counter() - start
count, read = 1, 0
for file in files:
    count += 1
    if file.fullpath.startswith("/real/") and read < 100:
        read += len(S3.File.get_stream(request.Storage, file).read())
print("MEASURED", count, peak(), first, time.perf_counter() - start, read)
"""
)


def test_a_million_files_are_listed_and_iterated_in_less_than_200_mib(
    notebook, run, stored, platform, connection, container, record_property
):
    before = resident(platform)
    start = time.perf_counter()
    rows = (
        {"path": f"/rows/{number // 1000:03d}/{number:06d}.txt", "size": number}
        for number in range(MILLION - 10_000)
    )
    connection.client.import_files(container, rows)
    imported = time.perf_counter() - start
    put(connection, container, 10_000)
    tell(record_property, "import and put", seconds=imported, put=time.perf_counter() - start - imported)
    command = [sys.executable, "-c", CLIENT, container]
    environment = {**os.environ, **variables(platform.settings)}

    listed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    done = run(notebook(STANDIN))

    count, first, seconds, peak = map(float, listed.stdout.split())
    tell(record_property, "client", files=count, first=first, seconds=seconds, peak=peak)
    # And 990 folders of the rows, two above, and what the run before its listing stored.
    assert MILLION <= count < MILLION + 1100
    assert peak < 200, f"{peak:.0f} MiB"
    assert first < 1, f"{first:.2f} s"
    count, peak, first, seconds, read = measured(done, stored, 5)
    tell(record_property, "stand-in", files=count, first=first, seconds=seconds, peak=peak)
    assert MILLION <= count < MILLION + 1100
    assert peak < 200, f"{peak:.0f} MiB"
    assert first < 1, f"{first:.2f} s"
    assert read == 100
    after = resident(platform)
    tell(record_property, "server", peak_before=before, peak=after)
    assert after - before < 200, f"{after - before:.0f} MiB"


def test_a_hundred_thousand_real_objects_are_listed_and_iterated(
    notebook, run, stored, connection, container, record_property
):
    start = time.perf_counter()
    put(connection, container, 100_000)
    tell(record_property, "put", seconds=time.perf_counter() - start)
    start = time.perf_counter()
    assert sum(1 for _ in connection.storage.list(container, "real/")) == 100_000
    tell(record_property, "storage", seconds=time.perf_counter() - start)

    done = run(notebook(STANDIN))

    count, peak, first, seconds, read = measured(done, stored, 5)
    tell(record_property, "stand-in", files=count, first=first, seconds=seconds, peak=peak)
    assert 100_000 <= count < 100_100
    assert peak < 200, f"{peak:.0f} MiB"
    assert first < 1, f"{first:.2f} s"
    assert read == 100


def put(connection, container, count):
    """Real objects, and wait until the platform has their rows."""

    def one(number):
        connection.storage.put(container, f"/real/{number:06d}.txt", b"x")

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(one, range(count)):
            pass
    last = [{"property": "container_id", "operator": "eq", "value": container}]
    real = [*last, {"property": "fullpath", "operator": "starts_with", "value": "/real/"}]
    deadline = time.monotonic() + 600
    while sum(1 for _ in islice(connection.client.search(real), count)) < count:
        assert time.monotonic() < deadline
        time.sleep(1)


def resident(platform):
    """The most memory that the platform's own process ever had, in MiB."""
    lines = Path(f"/proc/{Root(platform.root).running().pid}/status").read_text().splitlines()
    return int(next(each for each in lines if each.startswith("VmHWM")).split()[1]) / 1024


def tell(record_property, name, **figures):
    told = ", ".join(f"{word} {value:,.1f}" for word, value in figures.items())
    record_property(name, told)
    print(f"{name}: {told}")


def measured(done, stored, words=2):
    executed = json.loads(stored(done, "executed.ipynb"))
    text = "".join(
        "".join(out.get("text", "")) for cell in executed["cells"] for out in cell.get("outputs", [])
    )
    found = text[text.index("MEASURED") :].split()[1 : words + 1]
    return int(found[0]), *map(float, found[1:])
