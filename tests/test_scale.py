"""Sizes that archives have: one large object, very many files. Long; run with -m slow."""

import json

import pytest

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


def measured(done, stored):
    executed = json.loads(stored(done, "executed.ipynb"))
    text = "".join(
        "".join(out.get("text", "")) for cell in executed["cells"] for out in cell.get("outputs", [])
    )
    words = text[text.index("MEASURED") :].split()
    return int(words[1]), float(words[2])
