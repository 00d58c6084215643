"""Workflows whose calls are run by processes of their own run, or by a Dask cluster."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
from conftest import takes, write_function
from engine_runs import wait_for
from environs import variables
from test_run import command_environment

import libsafe_nb
from libsafe_nb import hosts, lease, recover, worker
from libsafe_nb.client import Client
from libsafe_nb.cluster import Cluster
from libsafe_nb.connection import connect
from libsafe_nb.errors import SettingsError, UsageError
from libsafe_nb.functions import Functions
from libsafe_nb.storage import Storage

NESTED = """
import libsafe_nb
depth, leaf = json_sample["function_params"]["depth"], json_sample["function_params"]["leaf"]
key = json_sample["function_params"]["nested"]
again = dict(depth=depth - 1, leaf=leaf, nested=key)
calls = [libsafe_nb.call(key, params=again) if depth else libsafe_nb.call(leaf)]
calls.append(libsafe_nb.call(leaf))
assert ["completed"] * 2 == [each.result().status for each in calls]
"""


@pytest.fixture
def nested(publish, tmp_path):
    """A workflow of two calls, one of which calls likewise; its path and parameters."""
    parameters = takes("depth", "leaf", "nested")
    leaf, key = publish("print(1)"), publish(NESTED, parameters=parameters)
    path = write_function(tmp_path / "workflow.ipynb", NESTED, parameters=parameters)
    return path, {"depth": 1, "leaf": leaf, "nested": key}


def called(functions, job):
    return [each for each in functions.calls(order="newest") if each["root_job_id"] == job]


@pytest.fixture
def slow(publish, functions, tmp_path):
    """A workflow of one call, that goes on for ever at its first attempt, and whether it has begun."""
    begun = tmp_path / "begun"
    key = publish(
        f"import time, pathlib\nbegun = pathlib.Path({str(begun)!r})\nif not begun.exists():\n"
        "    begun.touch()\n    time.sleep(600)"
    )
    functions.update(key, backoff=0)
    source = f"import libsafe_nb\nassert libsafe_nb.call({key!r}).result().status == 'completed'"
    return key, write_function(tmp_path / "workflow.ipynb", source), begun


def only(functions, key):
    (call,) = functions.calls(function=key)
    return call


def worker_of(functions, key, begun):
    wait_for(begun.exists, 60, "the call's begin")
    return int(only(functions, key)["worker"].split("/")[1])


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def gone(pid):
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_nested_calls_wait_for_each_other_at_any_number_of_places(
    nested, functions, container, platform, workers
):
    path, params = nested
    run = libsafe_nb.run(
        None, path, container=container, params=params, settings=platform.settings, workers=workers
    ).raise_for_failure()
    made = [each for each in functions.calls(order="newest") if each["root_job_id"] == run.job]

    assert [each["status"] for each in made] == ["completed"] * 4


def test_what_a_killed_worker_was_at_is_run_by_the_next(slow, functions, container, platform):
    key, path, begun = slow
    run = libsafe_nb.run(None, path, container=container, settings=platform.settings, workers=1, wait=False)
    worker = worker_of(functions, key, begun)
    os.kill(worker, signal.SIGKILL)
    run.wait(60)

    assert run.status == "completed"
    assert only(functions, key)["attempts"] == 2


def test_of_a_killed_run_the_workers_end_and_the_platform_goes_on(
    slow, functions, container, platform, tmp_path
):
    key, path, begun = slow
    environ = {**command_environment(platform), "LIBSAFE_NB_HOME": str(tmp_path / "state")}
    command = [
        *(sys.executable, "-m", "libsafe_nb", "run", str(path)),
        "--container",
        container,
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        worker = worker_of(functions, key, begun)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: gone(worker), 10, "the worker's end")
    mine = dataclasses.replace(platform.settings, home=tmp_path / "state")
    wait_for(
        lambda: not [each for each in recover.recover(settings=mine, lost=False) if not each.done],
        60,
        "the recovery",
    )
    wait_for(lambda: only(functions, key)["status"] == "completed", 60, "the call's end")


def test_a_cancelled_workflow_ends_its_calls_and_their_workers(slow, functions, container, platform):
    key, path, begun = slow
    run = libsafe_nb.run(None, path, container=container, settings=platform.settings, workers=1, wait=False)
    worker = worker_of(functions, key, begun)
    run.cancel("enough")
    run.wait(60)

    assert (run.status, only(functions, key)["status"]) == ("cancelled", "cancelled")
    assert gone(worker)


def test_a_lost_worker_of_a_cluster_is_a_host_again(slow, functions, container, platform):
    pytest.importorskip("distributed")
    key, path, begun = slow
    run = libsafe_nb.run(
        None, path, container=container, settings=platform.settings, dask="local", workers=1, wait=False
    )
    worker = worker_of(functions, key, begun)
    os.kill(parent(parent(worker)), signal.SIGKILL)
    run.wait(90)

    assert run.status == "completed"
    assert gone(worker)


def test_two_clusters_on_one_machine_begin():
    """Warnings are errors here: Dask warns of a port that is taken, and takes another."""
    pytest.importorskip("distributed")
    with contextlib.ExitStack() as ending:
        for _ in range(2):
            ending.callback(Cluster("local", workers=1, cancel=(hosts.dismiss, "none")).shutdown)


def test_a_number_of_workers_that_is_none_is_refused(slow, container, platform):
    with pytest.raises(UsageError, match="--workers: expected a number from 1, got 0"):
        libsafe_nb.run(None, slow[1], container=container, settings=platform.settings, workers=0)


def test_who_may_not_claim_calls_is_told_before_the_first_cell(slow, platform):
    _, path, begun = slow
    with Client(platform.settings.url, platform.settings.key_root) as root:
        made = root.create_user("somebody else")
    theirs = dataclasses.replace(platform.settings, key_user=made["key"], key_root=None)
    with Client(theirs.url, theirs.key_user) as client:
        container = client.create_container("theirs")["id"]
        client.grant(container, "1")
    run = libsafe_nb.run(None, path, container=container, settings=theirs, workers=1)

    assert (run.status, run.error["type"]) == ("errored", "Forbidden")
    assert "the platform's own user" in run.error["message"]
    assert not begun.exists()


def test_what_a_lost_machine_was_at_is_run_by_another_when_its_lease_has_ended(
    slow, functions, connection, container, platform, tmp_path, monkeypatch
):
    key, _, begun = slow
    job = connection.client.create_job(container, name="workflow")["id"]
    connection.client.call("job_update", job=job, json={"hosts": "own", "status": "RUNNING"})
    with Client(platform.settings.url, platform.settings.key_user, job=job) as client:
        Functions(client).call(key, container=container)
    # Nothing of it is seen by the other: it has another folder of runs.
    lifeline, ours = os.pipe()
    words = ["--job", job, "--host", "lost/", "--slots", "1", "--home", str(tmp_path)]
    words += ["--platform", connection.platform_file, str(lifeline)]
    process = subprocess.Popen([sys.executable, "-m", "libsafe_nb.worker", *words], pass_fds=(lifeline,))
    try:
        wait_for(begun.exists, 60, "the call's begin")
    finally:
        process.kill()
        process.wait()
        os.close(lifeline)
        os.close(ours)
    functions.host(job, "lost/", 1, died=["lost/"])

    monkeypatch.setattr(worker, "IDLE", 0.1)
    settings = dataclasses.replace(platform.settings, home=tmp_path / "another")
    with contextlib.closing(connect(settings=settings)) as own:
        another = worker.Worker(own, {"root": job, "host": "another/", "slots": 1})
        another.work()
        assert (only(functions, key)["status"], only(functions, key)["attempts"]) == ("running", 1)
        monkeypatch.setattr(Storage, "age", lambda self, container, path: lease.FIRST + 1.0)
        monkeypatch.setattr(worker, "AGAIN", 0.0)
        monkeypatch.setattr(worker, "IDLE", 3.0)
        another.work()
    assert (only(functions, key)["status"], only(functions, key)["attempts"]) == ("completed", 2)
    connection.client.update_job(job, status="COMPLETED")


NO_ROOM = """
import json, os, socket, sys
from libsafe_nb import nursery
def fork(): raise BlockingIOError(11, "no process is left")
os.fork = fork
line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
for number in (1, 2):
    line.send(json.dumps({"worker": number, "arguments": []}).encode())
line.shutdown(socket.SHUT_WR)
nursery.main(theirs, 0)
print(line.recv(4096).decode(), line.recv(4096).decode())
"""


def test_a_worker_of_a_cluster_that_does_not_know_the_runs_platform_says_so(
    platform, connection, container, tmp_path, monkeypatch
):
    """And starts none of its own."""
    monkeypatch.setenv("LIBSAFE_NB_HOME", str(tmp_path / "state"))
    job = connection.client.create_job(container, name="a workflow")
    with pytest.raises(SettingsError, match="expected a platform to be set, found none; set LIBSAFE_URL"):
        hosts.lodge(job["id"], job["date_create"], "a", None)
    assert not (tmp_path / "state").exists()
    for name, value in variables(platform.settings).items():
        monkeypatch.setenv(name, value)
    for number, made in ((job["id"], "2001-01-01 00:00:00"), ("987654", job["date_create"])):
        with pytest.raises(SettingsError, match=f"with its job {number}, found another one; set LIBSAFE_URL"):
            hosts.lodge(number, made, "a", None)
    connection.client.update_job(job["id"], status="CANCELLED")
    hosts.lodge(job["id"], job["date_create"], "a", None)


def test_what_a_worker_of_a_cluster_cannot_is_told_once(platform, connection, container, monkeypatch):
    monkeypatch.setattr(hosts, "AGAIN", 0.001)
    job = connection.client.create_job(container, name="a workflow")["id"]
    made = hosts.Hosts(connection, 1, None)
    made._own, made._job = connection, job
    failed = Future()
    failed.set_exception(SettingsError("no platform"))
    for name in "ab":
        made._lost(Functions(connection.client), name, failed)

    told = [each["message"] for each in connection.client.messages(job)]
    assert told == ["a worker of the cluster cannot run calls: no platform"]
    connection.client.update_job(job, status="CANCELLED")


def test_what_keeps_a_host_from_serving_is_said_once_and_its_workers_count_as_dead(platform, monkeypatch):
    """By hand: a disk that is full for a while."""
    served, said = [], []

    class Full:
        def __init__(self, connection, job, name, slots, platform, say):
            self.name = name

        def serve(self, ended, *, before=None):
            served.append(before)
            if len(served) < 4:
                raise OSError(28, "No space left on device" if len(served) < 3 else "another")

    monkeypatch.setattr(hosts, "Host", Full)
    monkeypatch.setattr(hosts, "AGAIN", 0.001)
    made = hosts.Hosts(connect(settings=platform.settings), 1, None)
    made._own = made._connection
    monkeypatch.setattr(Client, "message", lambda self, job, text, **_: said.append(text))
    made._here()

    assert [before is not None for before in served] == [False, True, True, True]
    assert [text.split("] ")[1] for text in said] == ["No space left on device", "another"]


def test_a_worker_that_cannot_be_forked_ends_no_other():
    done = subprocess.run([sys.executable, "-c", NO_ROOM], capture_output=True, text=True, check=True)

    assert done.stdout == '{"worker": 1, "code": 1} {"worker": 2, "code": 1}\n'
    assert "no process is left" in done.stderr
