"""A workflow of a thousand calls, two hundred at once and twenty deep, by one and by two processes of its own."""

import threading
import time
from pathlib import Path

import pytest
from conftest import takes, write_function

import libsafe_nb

CALLS, WIDE, DEEP = 1000, 200, 20
CHAIN = """
import libsafe_nb
given = json_sample["function_params"]
left = given.get("left") or 0
if left:
    found = libsafe_nb.call(given["chain"], params={"left": left - 1, "chain": given["chain"]}).result()
    assert found.status == "completed", found
"""


def resident():
    """MiB of all processes that hold more than their share with others (Pss), below this one."""
    kib = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                b"libsafe_nb" in (folder / "cmdline").read_bytes()
                or b"ipykernel" in (folder / "cmdline").read_bytes()
            ):
                rollup = (folder / "smaps_rollup").read_text()
                kib += int(rollup.split("\nPss:")[1].split()[0])
        except OSError:
            continue
    return kib // 1024


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_thousand_calls_end_without_a_deadlock_and_in_flat_memory(
    publish, tmp_path, functions, container, platform, workers
):
    leaf, chain = publish("print(1)"), publish(CHAIN, parameters=takes("left", "chain"))
    source = f"""
import libsafe_nb
deep = libsafe_nb.call({chain!r}, params={{"left": {DEEP - 1}, "chain": {chain!r}}})
left = {CALLS - DEEP}
while left:
    wide = [libsafe_nb.call({leaf!r}) for _ in range(min({WIDE}, left))]
    left -= len(wide)
    assert {{"completed"}} == {{each.result().status for each in wide}}
assert deep.result().status == "completed"
"""
    path = write_function(tmp_path / "workflow.ipynb", source)
    seen, over = [], threading.Event()

    def watch():
        while not over.wait(5):
            seen.append((time.monotonic(), resident()))

    began = time.monotonic()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run = libsafe_nb.run(
            None, path, container=container, settings=platform.settings, workers=workers
        ).raise_for_failure()
    finally:
        over.set()
        watcher.join()
    took = time.monotonic() - began
    made = [each for each in functions.calls() if each["root_job_id"] == run.job]
    sizes = [size for _, size in seen]
    third = len(sizes) // 3
    print(
        f"{workers} workers: {took:.0f} s, {took / CALLS:.3f} s a call; MiB {max(sizes)} at most,"
        f" {sorted(sizes[third : 2 * third])[third // 2]} then {sorted(sizes[-third:])[third // 2]}"
    )

    assert [CALLS, {"completed"}] == [len(made), {each["status"] for each in made}]
    assert sorted(sizes[-third:])[third // 2] < 1.2 * sorted(sizes[third : 2 * third])[third // 2]
