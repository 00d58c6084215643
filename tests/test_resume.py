"""Workflows that were killed and are run again: what had ended is not done again, what went on is waited for."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import jsonschema
import pytest
from conftest import REQUEST, takes, write_function
from engine_runs import wait_for
from test_calls import read
from test_record_schema import SCHEMA
from test_run import command_environment

import libsafe_nb

STEP = f"""{REQUEST}
from libnova.com.Api import File as Files
from libnova.com.Filesystem import S3
params = json_sample["function_params"]
text = "".join(S3.File.get_stream(request.Storage, file).read().decode() for file in request.Files)
Files.write(json_sample["function_data"]["container"]["id"], params["to"], text + params["to"])
"""
WORKFLOW = """
import libsafe_nb
keys = json_sample["function_params"]
def step(key, to, files=()):
    return libsafe_nb.call(keys[key], files=files, params={"to": to})
step("step", "/one.txt").result().raise_for_failure()
# In the place of what it reads: a change of its own is none.
step("step", "/one.txt", ["/one.txt"]).result().raise_for_failure()
slow = step("slow", "/two.txt", ["/one.txt"])
slow.result().raise_for_failure()
step("step", "/three.txt", ["/one.txt", "/two.txt"]).result().raise_for_failure()
"""


@dataclasses.dataclass
class Killed:
    """Real runs of a workflow, in a home and a container of the test's own."""

    platform: object
    connection: object
    functions: object
    container: str
    keys: dict
    workflow: object
    home: object

    def start(self, *options):
        environ = {**command_environment(self.platform), "LIBSAFE_NB_HOME": str(self.home)}
        command = [sys.executable, "-m", "libsafe_nb", "run", str(self.workflow), "--json"]
        command += ["--container", self.container, *options]
        for name, key in self.keys.items():
            command += ["--param", f"{name}={key}"]
        return subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def end(self, process):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        return json.loads(out)

    def calls(self, name):
        return sorted(self.functions.calls(function=self.keys[name]), key=lambda each: int(each["id"]))

    def open(self):
        """Let the slow function go on."""
        self.functions.update(self.keys["slow"], paused=False)

    def versions(self, path):
        return len(list(self.connection.storage.versions(self.container, path)))


@pytest.fixture
def killed(platform, connection, functions, publish, container, tmp_path):
    keys = {
        "step": publish(STEP, parameters=takes("to")),
        "slow": publish(STEP + "# slow", parameters=takes("to")),
    }
    functions.update(keys["slow"], paused=True)
    workflow = write_function(tmp_path / "flow.ipynb", WORKFLOW, parameters=takes(*keys))
    return Killed(platform, connection, functions, container, keys, workflow, tmp_path / "state")


def test_a_killed_workflow_goes_on_where_it_was(killed, connection):
    process = killed.start()
    (asked,) = wait_for(lambda: killed.calls("slow"), 90, "the slow call")
    process.kill()
    process.communicate()
    done = killed.calls("step")
    again = killed.start()
    wait_for(lambda: killed.functions.get_call(asked["id"])["parent_job_id"] != asked["parent_job_id"], 60)
    killed.open()
    body = json.loads(read(connection, killed.end(again)["evidence"]))
    first = json.loads(read(connection, connection.client.job(asked["parent_job_id"])["result"]["evidence"]))

    assert first["cause"] == "runner-died"
    assert body["resumes"] == {
        "run": first["id"].removeprefix("urn:uuid:"),
        "job": first["job"]["id"],
        "lineage": first["id"].removeprefix("urn:uuid:"),
    }
    assert [each["call"] for each in body["calls"]][:3] == [*(each["id"] for each in done), asked["id"]]
    assert [each["resumed"] for each in body["calls"]] == [*[body["resumes"]["run"]] * 3, None]
    assert [len(killed.calls(name)) for name in killed.keys] == [3, 1]
    assert [killed.versions(path) for path in ("one.txt", "two.txt", "three.txt")] == [2, 1, 1]
    jsonschema.Draft202012Validator(SCHEMA).validate(body)
    for where in (killed.container, f"libsafe://{killed.container}/provenance/"):
        found = libsafe_nb.verify(where, deep=True, settings=killed.platform.settings)
        assert found.exit_code == 0, [str(each) for each in found.checks]
    # It has its verdict now: the next one begins anew.
    assert json.loads(read(connection, killed.end(killed.start())["evidence"]))["resumes"] is None
    assert [len(killed.calls(name)) for name in killed.keys] == [6, 2]
