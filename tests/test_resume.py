"""Workflows that were killed and are run again: what had ended is not done again, what went on is waited for."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys

import jsonschema
import pytest
from conftest import REQUEST, takes, write_function
from engine_runs import wait_for
from test_calls import end_of, read, record_of
from test_record_schema import SCHEMA
from test_run import command_environment

import libsafe_nb
from libsafe_nb import fingerprint, lineage
from libsafe_nb.past import Past

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


def test_a_called_workflow_whose_worker_is_killed_goes_on_in_its_next_attempt(killed, publish, connection):
    functions = killed.functions
    key = publish(WORKFLOW, parameters=takes(*killed.keys))
    functions.update(key, backoff=0)
    top = functions.call(key, container=killed.container, params=killed.keys)
    (asked,) = wait_for(lambda: killed.calls("slow"), 90, "the slow call")
    os.kill(int(functions.get_call(top["id"])["worker"].partition("/")[0]), signal.SIGKILL)
    wait_for(lambda: functions.get_call(asked["id"])["parent_job_id"] != asked["parent_job_id"], 90)
    killed.open()
    found = end_of(functions, top["id"])
    body = record_of(connection, found["job_id"])

    assert (found["status"], found["attempts"]) == ("completed", 2)
    assert body["resumes"]["job"] == asked["parent_job_id"]
    assert body["resumes"]["lineage"] == f"job-{asked['parent_job_id']}"
    assert [len(killed.calls(name)) for name in killed.keys] == [3, 1]
    assert [killed.versions(path) for path in ("one.txt", "two.txt", "three.txt")] == [2, 1, 1]
    report = libsafe_nb.verify(body_place(connection, found), deep=True, settings=killed.platform.settings)
    assert report.exit_code == 0, [str(each) for each in report.checks]


def body_place(connection, call):
    return connection.client.job(call["job_id"])["result"]["evidence"]


def test_a_resumed_workflow_does_again_what_others_changed_and_what_could_not_be_executed(killed, connection):
    killed.workflow = write_function(
        killed.workflow.with_name("other.ipynb"),
        """
import libsafe_nb
keys = json_sample["function_params"]
done = libsafe_nb.call(keys["step"], files="/in.txt", params={"to": "/one.txt"}).result().raise_for_failure()
print(libsafe_nb.call(keys["slow"], params={"to": "/two.txt"}).result(600).raise_for_failure())
""",
        parameters=takes(*killed.keys),
    )
    connection.storage.put(killed.container, "in.txt", b"first ")
    wait_for(lambda: file_of(connection, killed.container, "/in.txt"), 20)
    process = killed.start()
    (asked,) = wait_for(lambda: killed.calls("slow"), 90, "the slow call")
    process.kill()
    process.communicate()
    stored = connection.storage.put(killed.container, "in.txt", b"second ")
    wait_for(lambda: file_of(connection, killed.container, "/in.txt")["version_id"] == stored.version_id, 20)
    # As if it had been attempted in vain.
    connection.client.update_job(
        asked["job_id"], status="FAILED", result={"status": "errored", "error": {"type": "X", "message": "y"}}
    )
    killed.functions.update(killed.keys["slow"], attempts=1)
    wait_for(lambda: killed.functions.get_call(asked["id"])["status"] != "running", 10)
    again = killed.start()
    killed.open()
    body = json.loads(read(connection, killed.end(again)["evidence"]))

    assert body["calls"][0]["resumed"] is None
    assert len(killed.calls("step")) == 2
    assert connection.storage.get(killed.container, "one.txt") == b"second /one.txt"


def test_a_call_whose_record_is_gone_is_made_again(connection, functions, publish, container):
    call = functions.call(publish("print(1)"), container=container)["id"]
    job = end_of(functions, call)["job_id"]
    past = Past(
        lambda: connection.client,
        connection.storage,
        run="r",
        found=None,
        reuse=None,
        tell=lambda event: None,
    )
    interrupted = lineage.Lineage("r", "1", {job: "r"})

    assert past._again({"call": call}, interrupted) is None
    place = connection.client.job(job)["result"]["evidence"].removeprefix(f"libsafe://{container}/")
    for odd in (b"[]", b"{", b"[" * 100_000):
        connection.storage.put(container, f"{place}record.json", odd)
        assert past._again({"call": call}, interrupted) == "changed"
    connection.storage.delete(container, f"{place}record.json")
    assert past._again({"call": call}, interrupted) == "changed"
    assert past._again({"call": "999999"}, interrupted) == "gone"


class Jobs:
    """A client of which only jobs are asked: each one's parent is the one before it."""

    def __init__(self, error=None):
        self.error = error

    def job(self, job):
        if self.error is not None:
            raise self.error
        return {"parent_id": str(int(job) - 1) if int(job) > 1 else None}


def test_what_was_written_far_below_a_workflow_with_many_attempts_is_its_own():
    for job, own in (("1", True), ("0", False)):
        assert lineage._own(Jobs(), lineage.Lineage("r", job), "3300:x") is own


def test_a_platform_that_is_away_is_not_taken_for_a_job_that_is_gone():
    entries = [(1, {"run": "r", "job": "1", "lineage": "r"})]
    anew = lineage.Lineage("s", "2")
    for error in (libsafe_nb.errors.NotFound("gone"), libsafe_nb.errors.Forbidden("not yours")):
        assert lineage._taken_over(Jobs(error), entries, anew, lambda run: None) is anew
    with pytest.raises(libsafe_nb.errors.Unreachable):
        lineage._taken_over(Jobs(libsafe_nb.errors.Unreachable("away")), entries, anew, lambda run: None)


def file_of(connection, container, path):
    with contextlib.suppress(libsafe_nb.errors.NotFound):
        return connection.client.file_by_path(container, path)


# Which run goes on ------------------------------------------------------------------------------------------------


def ended(connection, container, status):
    """A job that ended so, as its run's result says, and the id of that run."""
    job = connection.client.create_job(container)["id"]
    if status is not None:
        connection.client.update_job(
            job, status="FAILED", result={"run": f"run-{job}", "status": status, "error": None}
        )
    return job, f"run-{job}"


def begin(connection, container, number, **options):
    job = connection.client.create_job(container)["id"]
    return job, lineage.of_workflow(
        connection.client,
        connection.storage,
        digest="d" * 64,
        container=container,
        run=f"run-{job}",
        job=job,
        finish=lambda run: None,
        **options,
    )


@pytest.mark.parametrize(
    ("status", "goes_on"),
    [
        ("errored", True),
        ("completed", False),
        ("failed", False),
        ("cancelled", False),
        ("timeout", False),
        (None, False),
    ],
)
def test_only_a_run_without_a_verdict_is_gone_on_with(status, goes_on, connection, container):
    job, anew = begin(connection, container, 1)
    assert (anew.name, anew.runs, anew.event) == (f"run-{job}", {}, None)
    if status is not None:
        connection.client.update_job(job, status="FAILED", result={"run": f"run-{job}", "status": status})
    second, found = begin(connection, container, 2)

    assert found.runs == ({job: f"run-{job}"} if goes_on else {})
    assert found.name == (f"run-{job}" if goes_on else f"run-{second}")


def test_a_chain_of_killed_runs_is_one_lineage_which_one_run_takes_over_unless_it_is_to_begin_anew(
    connection, container
):
    def die(job):
        connection.client.update_job(job, status="FAILED", result={"run": f"run-{job}", "status": "errored"})

    first, _ = begin(connection, container, 1)
    die(first)
    second, _ = begin(connection, container, 2)
    die(second)
    third, found = begin(connection, container, 3)
    assert found.runs == {first: f"run-{first}", second: f"run-{second}"}
    assert found.event == {
        "kind": "resumes",
        "run": f"run-{second}",
        "job": second,
        "lineage": f"run-{first}",
    }
    # Taken over already, by one that still runs.
    assert begin(connection, container, 4)[1].runs == {}
    die(third)
    assert begin(connection, container, 5, fresh=True)[1].runs == {}
    connection.storage.put(container, f"{lineage.FOLDER}/{'d' * 64}/000006.json", b"[" * 100_000)
    assert begin(connection, container, 6)[1].name == f"run-{first}"


def test_a_workflow_is_its_code_user_container_parameters_and_files():
    class Code:
        code_sha256, language, kernel_name, is_handler = "a" * 64, "python", "python3", False
        tags = ((),)

    given = {"container": "1", "user": "1", "params": {"x": 1}, "files": [{"id": "1", "version_id": "a"}]}
    same = fingerprint.of_workflow(Code, **{**given, "files": [{"id": "1", "version_id": "b"}]})
    others = [
        fingerprint.of_workflow(Code, **{**given, **change})
        for change in ({"container": "2"}, {"user": "2"}, {"params": {}}, {"files": []})
    ]

    assert fingerprint.of_workflow(Code, **given) == same
    assert len({same, *others}) == 5
