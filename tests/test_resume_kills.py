"""
A workflow is killed at any instant: its runner, the kernel of a step, or the platform. Running it again completes it.

One of each each time; 50 with `-m slow`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import REQUEST, takes, write_function
from test_run import command_environment

import libsafe_nb
from libsafe_nb import local, publishing, recover
from libsafe_nb.connection import connect
from libsafe_nb.functions import Functions
from libsafe_nb.journal import read_lines
from libsafe_nb.local.root import Root
from libsafe_nb.processes import ProcessId

STEP = f"""{REQUEST}
import time
from libnova.com.Api import File as Files
from libnova.com.Filesystem import S3
params = json_sample["function_params"]
text = "".join(S3.File.get_stream(request.Storage, file).read().decode() for file in request.Files)
time.sleep(0.2)
Files.write(json_sample["function_data"]["container"]["id"], params["to"], text + params["to"])
time.sleep(0.2)
"""
WORKFLOW = """
import libsafe_nb
params = json_sample["function_params"]
def step(to, files):
    return libsafe_nb.call(params[to], files=files, params={"to": f"/{params['round']}/{to}.txt"})
first = step("first", "/in.txt")
sides = [step("left", first), step("right", first)]
step("last", sides).result().raise_for_failure()
"""
STEPS = ("first", "left", "right", "last")
TIMES = 50
SEED = 20261126


@dataclasses.dataclass
class Workflow:
    """Real runs of the workflow, in a home, on a platform and in a container of the test's own."""

    settings: libsafe_nb.settings.Settings
    root: Path
    container: str
    keys: dict
    notebook: Path
    known: set = dataclasses.field(default_factory=set)
    known_jobs: set = dataclasses.field(default_factory=set)
    """Calls and jobs of earlier rounds."""

    @property
    def functions(self):
        return Functions(connect(settings=self.settings).client)

    def start(self, number):
        environ = {**command_environment(self), "LIBSAFE_NB_HOME": str(self.settings.home)}
        command = [sys.executable, "-m", "libsafe_nb", "run", str(self.notebook), "--json"]
        command += ["--container", self.container, "--param", f"round={number}"]
        for name, key in self.keys.items():
            command += ["--param", f"{name}={key}"]
        return subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def calls(self):
        """Those of this round, by the step that each is."""
        found = {}
        for name, key in self.keys.items():
            made = [each for each in self.functions.calls(function=key) if each["id"] not in self.known]
            assert len(made) <= 1, f"{name} was called {len(made)} times"
            if made:
                found[name] = made[0]
        return found

    def completed(self):
        """Whether nothing but its evidence or its end was missing of this round's run, which a recovery makes up for."""
        list(recover.recover(settings=self.settings, lost=False))
        return any(
            each["status"] == "COMPLETED" and not each.get("call_id")
            for each in self.jobs()
            if each["id"] not in self.known_jobs
        )

    def jobs(self):
        return list(connect(settings=self.settings).client.jobs(container=self.container))

    def kernels(self):
        """Those of the platform's workers."""
        for folder in (self.root / "runs").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                steps = {each["step"]: each for each in read_lines(folder / "journal.jsonl")}
                kernel = ProcessId.parse(steps.get("kernel"))
                if kernel is not None and kernel.alive:
                    yield kernel

    def kill(self, victim, process, instants):
        """Kill one, and have the platform there again; whether there was one to kill."""
        if process.poll() is not None:
            return False
        if victim == "runner":
            process.kill()
        elif victim == "kernel":
            while not (kernel := next(self.kernels(), None)):
                if process.poll() is not None:
                    return False
                time.sleep(0.02)
            kernel.signal(signal.SIGKILL)
        else:
            Root(self.root).running().signal(signal.SIGKILL)
            time.sleep(instants.uniform(0, 1.0))
            local.ensure(self.root)
        return True


@pytest.fixture
def workflow(home, tmp_path):
    root = tmp_path / "platform"
    with local.serve(root) as served:
        settings = dataclasses.replace(served.settings, home=tmp_path / "state")
        connection = connect(settings=settings)
        container = connection.client.create_container("kills")["id"]
        connection.storage.put(container, "in.txt", b"in ")
        keys = {}
        for name in STEPS:
            step = write_function(tmp_path / f"{name}.ipynb", STEP, parameters=takes("to"))
            keys[name] = publishing.publish(step, settings=settings)["key"]
            Functions(connection.client).update(keys[name], backoff=0)
        flow = write_function(tmp_path / "flow.ipynb", WORKFLOW, parameters=takes(*STEPS, "round"))
        yield Workflow(settings, root, container, keys, flow)
    local.stop(root)


def ends(process):
    out, err = process.communicate(timeout=200)
    return process.returncode, json.loads(out) if out else err


# The runner and a worker killed at an instant that is known: `test_resume.py`.
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_workflow_that_is_killed_completes_when_it_is_run_again(workflow):
    instants, codes, killed = random.Random(SEED), Counter(), Counter()
    begun = time.monotonic()
    assert ends(workflow.start("whole"))[0] == 0
    lasts = time.monotonic() - begun
    check(workflow, "whole", {})
    victims = itertools.cycle(["runner", "kernel", "platform"])
    victim = next(victims)
    # An instant may lie behind the end: then nobody was killed, and the same one's turn comes again.
    for number in itertools.takewhile(lambda _: killed.total() < TIMES, range(2 * TIMES)):
        process = workflow.start(number)
        time.sleep(instants.uniform(0.1, 1.0) * lasts)
        hit = workflow.kill(victim, process, instants)
        killed[victim] += hit
        code, told = ends(process)
        done = {name: each for name, each in workflow.calls().items() if each["status"] == "completed"}
        codes[victim, code] += 1
        if code != 0 and not workflow.completed():
            again, told = ends(workflow.start(number))
            assert again == 0, (victim, code, told)
        check(workflow, number, done)
        victim = next(victims) if hit else victim

    # Only what was killed has no verdict; no run has a wrong one.
    assert set(codes) <= {
        *(("runner", code) for code in (0, -signal.SIGKILL)),
        *((victim, code) for victim in ("kernel", "platform") for code in (0, 3)),
    }
    print(f"killed: {dict(killed)}")
    assert min(killed[victim] for victim in ("runner", "kernel", "platform")) >= TIMES // 3
    report = libsafe_nb.verify(workflow.container, deep=True, settings=workflow.settings)
    assert report.exit_code == 0, "\n".join(map(str, report.checks))


def check(workflow, number, done):
    """Each step was called once, none that had ended was called again, and what it wrote is there once."""
    found = workflow.calls()
    storage = connect(settings=workflow.settings).storage
    assert set(found) == set(STEPS)
    for name, each in found.items():
        assert each["status"] == "completed"
        if name in done:
            assert (each["id"], each["attempts"]) == (done[name]["id"], done[name]["attempts"])
        # Equal bytes are not stored again, whichever attempt wrote them first.
        assert len(list(storage.versions(workflow.container, f"{number}/{name}.txt"))) == 1
    workflow.known |= {each["id"] for each in found.values()}
    workflow.known_jobs |= {each["id"] for each in workflow.jobs()}
    one = f"in /{number}/first.txt"
    sides = f"{one}/{number}/left.txt{one}/{number}/right.txt"
    assert storage.get(workflow.container, f"{number}/last.txt").decode() == f"{sides}/{number}/last.txt"
