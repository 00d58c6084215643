"""
Anything can be killed at any instant: runner, kernel, REST server and S3 server, while a run of ten cells goes on.

Some instants each time; 200 for the runner and 50 for each of the others with `-m slow`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import nbformat
import pytest
from engine_runs import wait_for
from test_run import START, command_environment

import libsafe_nb
from libsafe_nb import local, recover
from libsafe_nb.connection import connect
from libsafe_nb.journal import read_lines
from libsafe_nb.local.root import Root, read_json
from libsafe_nb.processes import ProcessId

CELLS = 10
CELL = """
for line in range(200): print("x" * 9_999)
request.log("cell {number}")
File.set_hash(json_sample["function_data"]["files"]["ids"][0], "sha256", "{number:064x}")
"""
SEED = 20261125


@pytest.fixture
def served(tmp_path, home):
    """A local platform of the test's own, which it may kill."""
    with local.serve(tmp_path / "platform") as served:
        yield served


@pytest.fixture
def function(notebook, tmp_path):
    upload = tmp_path / "upload.bin"
    upload.write_bytes(b"some bytes")
    cells = [CELL.format(number=number) for number in range(1, CELLS)]
    return notebook(START + CELL.format(number=0), *cells, name="ten.ipynb"), upload


@dataclasses.dataclass
class Runs:
    """Real programs running the function, in a home and a container of the test's own."""

    settings: libsafe_nb.settings.Settings
    container: str
    function: tuple

    def start(self):
        notebook, upload = self.function
        environ = {
            **command_environment(self),
            "LIBSAFE_NB_HOME": str(self.settings.home),
        }
        command = [sys.executable, "-m", "libsafe_nb", "run", str(notebook), "--json"]
        command += ["--container", self.container, "--upload", str(upload)]
        return subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def folders(self):
        with contextlib.suppress(FileNotFoundError):
            return {each for each in (self.settings.home / "runs").iterdir() if each.name[0] != "."}
        return set()

    def steps(self, folder):
        return {each["step"]: each for each in read_lines(folder / "journal.jsonl")}

    def start_until(self, step):
        """Start one, and return it with its folder as soon as its journal has come to `step`."""
        before = self.folders()
        process = self.start()
        (folder,) = wait_for(lambda: self.folders() - before, 60, "the start of the run")
        wait_for(lambda: step in self.steps(folder) or process.poll() is not None, 60, step)
        return process, folder

    def recover(self):
        return list(recover.recover(settings=self.settings, lost=False))


@pytest.fixture
def runs(served, tmp_path, function):
    settings = dataclasses.replace(served.settings, home=tmp_path / "state")
    connection = connect(settings=settings)
    return Runs(settings, connection.client.create_container("kills")["id"], function)


def assert_whole(runs, count):
    """Every job ended with one evidence that tells the truth, and nothing of any is there twice or lost."""
    connection = connect(settings=runs.settings)
    jobs = {job["id"]: job for job in connection.client.jobs(container=runs.container)}
    assert len(jobs) == count
    assert {job["status"] for job in jobs.values()} <= {"COMPLETED", "FAILED"}
    versions = Counter(each.path for each in connection.storage.versions(runs.container, "provenance/"))
    assert set(versions.values()) == {1}
    records = [path for path in versions if path.endswith("/record.json")]
    assert len(records) == count
    for path in records:
        record = json.loads(connection.storage.get(runs.container, path))
        node = nbformat.reads(
            connection.storage.get(runs.container, path.replace("record.json", "executed.ipynb")).decode(), 4
        )
        nbformat.validate(node)
        job = jobs.pop(record["job"]["id"])
        assert (record["status"] == "completed") == (job["status"] == "COMPLETED")
        states = [each["status"] for each in record["cells"]]
        done = states.index("not-run") if "not-run" in states else len(states)
        assert set(states[done:]) <= {"not-run"}
        assert set(states[: max(0, done - 1)]) <= {"completed"}
        assert [cell.metadata.libsafe_nb.status for cell in node.cells] == states
        said = Counter(each["message"] for each in connection.client.messages(job["id"]))
        assert not [text for text, times in said.items() if times > 1]
        assert sum(text.startswith("evidence: ") for text in said) == 1
        # Two cells come before the first that speaks.
        finished = sum(status == "completed" for status in states) - 2
        assert all(said[f"cell {number}"] == 1 for number in range(finished))
        # The error's message begins with "cell " as well, and the id of the one that was killed.
        assert sum(said[f"cell {number}"] for number in range(CELLS)) in (
            max(finished, 0),
            max(finished, 0) + 1,
        )
    assert not jobs
    assert not runs.folders()


def readable(folder):
    """The notebook in a run's folder is whole, or there is none yet."""
    for name in ("in.ipynb", "executed.ipynb"):
        with contextlib.suppress(FileNotFoundError):
            nbformat.validate(nbformat.read(folder / name, 4))


slow = pytest.mark.slow
MANY = [pytest.param(50, id="50", marks=[slow, pytest.mark.timeout(3600)])]


@pytest.mark.parametrize(
    "count", [pytest.param(3, id="few"), pytest.param(200, id="200", marks=[slow, pytest.mark.timeout(3600)])]
)
def test_the_runner_is_killed(count, runs):
    process, _ = runs.start_until("begun")
    begun = time.monotonic()
    process.communicate(timeout=120)
    lasts = time.monotonic() - begun
    instants = random.Random(SEED)
    for _ in range(count - 1):
        process, folder = runs.start_until("begun")
        time.sleep(instants.uniform(0, lasts))
        process.kill()
        process.communicate()
        if folder.exists():
            readable(folder)
    runs.recover()

    assert_whole(runs, count)


@pytest.mark.parametrize("count", MANY)
def test_the_kernel_is_killed(count, runs):
    instants = random.Random(SEED)
    codes = Counter()
    for _ in range(count):
        process, folder = runs.start_until("kernel")
        kernel = ProcessId.parse(runs.steps(folder).get("kernel"))
        time.sleep(instants.uniform(0, 2.5))
        if kernel is not None:
            kernel.signal(signal.SIGKILL)
        told = json.loads(process.communicate(timeout=120)[0])
        codes[process.returncode, told["status"]] += 1

    assert set(codes) <= {(3, "errored"), (0, "completed")}
    assert runs.recover() == []
    assert_whole(runs, count)


@pytest.mark.parametrize("victim", ["REST", "S3"])
@pytest.mark.parametrize("count", MANY)
def test_a_server_is_killed(victim, count, runs, served):
    """The S3 server is started again by the platform, the platform by whoever needs it next: here, by the test."""
    root = Root(served.root)
    instants = random.Random(SEED)
    codes = Counter()
    for _ in range(count):
        process, _ = runs.start_until("begun")
        time.sleep(instants.uniform(0, 4.0))
        victims = root.running() if victim == "REST" else ProcessId.parse(read_json(root.s3_side).get("weed"))
        assert victims is not None
        victims.signal(signal.SIGKILL)
        if victim == "REST":
            time.sleep(instants.uniform(0, 1.0))
            local.ensure(served.root)
        told = json.loads(process.communicate(timeout=200)[0] or "{}")
        codes[process.returncode, told.get("status")] += 1
        for found in runs.recover():
            codes["recovered", found.status] += 1

    assert not [code for code in codes if code[0] not in (0, 3, "recovered")]
    assert not codes["recovered", "waiting"]
    assert_whole(runs, count)


TELLER = """
from libsafe_nb.compat import session
job, file = json_sample["function_data"]["job"]["id"], json_sample["function_data"]["files"]["ids"][0]
File.get(file)
for number in range(200):
    request.log(f"message {{number}}")
    File.set_metadata(file, [{{"iecode": "title", "value": f"{{job}} {{number}}", "action": "add"}}])
    if number % 10 == 9:
        # Answered when the runner has read all that came before.
        session.attached().door.call("payload")
        open({mark!r}, "w").write(f"{{number + 1}}")
"""


@pytest.mark.parametrize("count", [pytest.param(2, id="few"), *MANY])
def test_whatever_is_killed_what_was_told_arrives_once_and_in_order(count, runs, tmp_path, notebook):
    mark = tmp_path / "mark"
    runs.function = notebook(START + TELLER.format(mark=str(mark)), name="teller.ipynb"), runs.function[1]
    connection, instants = connect(settings=runs.settings), random.Random(SEED)
    for number in range(count):
        process, folder = runs.start_until("kernel")
        wait_for(lambda: mark.exists() and mark.read_text(), 60, "the first of it")
        time.sleep(instants.uniform(0, 0.3))
        kernel = ProcessId.parse(runs.steps(folder).get("kernel")) if number % 2 else None
        (kernel.signal(signal.SIGKILL) if kernel is not None else process.kill())
        process.communicate(timeout=120)
        runs.recover()
        told = int(mark.read_text() or 0)
        mark.unlink()

        job = max((each["id"] for each in connection.client.jobs(container=runs.container)), key=int)
        said = [each["message"] for each in connection.client.messages(job)]
        said = [each for each in said if each.startswith("message ")]
        assert said == [f"message {each}" for each in range(len(said))]
        assert len(said) >= told
        file = connection.client.file_by_path(runs.container, "upload.bin")["id"]
        (titles,) = connection.client.metadata(file)
        values = [each for each in titles["value"] if each.startswith(f"{job} ")]
        assert values == [f"{job} {each}" for each in range(len(values))]
        assert len(said) - 1 <= len(values) <= len(said)


@slow
def test_the_test_can_fail(runs):
    """What is looked for in these tests is found where it is: a job left open, evidence that is not there."""
    process, _ = runs.start_until("kernel")
    process.kill()
    process.communicate()
    with pytest.raises(AssertionError):
        assert_whole(runs, 1)
    runs.recover()
    assert_whole(runs, 1)
