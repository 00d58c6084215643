"""Published notebooks, run by the platform's own workers: real kernels, real S3, the real queue."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import time
import uuid

import pytest
import requests
from conftest import TELL, takes
from engine_runs import wait_for
from nbformat.v4 import new_code_cell

import libsafe_nb
from libsafe_nb import errors
from libsafe_nb.client import Client
from libsafe_nb.functions import Functions
from libsafe_nb.local.root import Root

ENDED = ("completed", "failed", "cancelled", "dead")


@pytest.fixture
def ended(functions):
    """Waits for a call's end."""

    def ended(call):
        return wait_for(
            lambda: (found := functions.get_call(call["id"]))["status"] in ENDED and found,
            90,
            "the call's end",
        )

    return ended


@pytest.fixture
def record(connection):
    def record(job):
        evidence = connection.client.job(job)["result"]["evidence"]
        container, _, path = evidence.removeprefix("libsafe://").partition("/")
        return json.loads(connection.storage.get(container, path + "record.json"))

    return record


def test_a_call_runs_the_published_bytes_and_the_record_says_which(
    functions, publish, ended, container, connection, payload_of, record
):
    key = publish(TELL, parameters=takes("extra"))
    connection.storage.put(container, "a.txt", b"hello")
    call = functions.call(key, container=container, files=["/a.txt"], params={"extra": "x"})
    job = connection.client.job(call["job_id"])
    assert (job["status"], job["function_key"]) == ("QUEUED", key)
    found = ended(call)

    assert (found["status"], found["version"], found["attempts"]) == ("completed", 1, 1)
    assert connection.client.job(call["job_id"])["status"] == "COMPLETED"
    told = payload_of(call["job_id"])
    assert told["function_data"]["function"] == {"id": functions.get(key)["id"], "key": key}
    assert told["function_data"]["trigger"] == {"id": "0", "type": "on_demand", "regex": ""}
    assert told["function_data"]["files"]["paths"] == ["/a.txt"]
    assert told["function_params"]["extra"] == "x"
    assert record(call["job_id"])["function"]["published"] == {
        "version": 1,
        "sha256": functions.get(key)["sha256"],
    }


def test_going_back_runs_the_older_bytes(functions, publish, ended, container, record):
    key = publish("print('first')")
    first = functions.get(key)["sha256"]
    publish("print('second')", key=key)
    functions.update(key, version=1)
    made = [functions.call(key, container=container), functions.call(key, container=container, version=2)]

    assert [ended(each)["version"] for each in made] == [1, 2]
    told = record(made[0]["job_id"])["function"]
    assert told["notebook_sha256"] == told["published"]["sha256"] == first


def test_an_unpublished_notebook_says_so(run, notebook, stored):
    assert json.loads(stored(run(notebook("print(1)")), "record.json"))["function"]["published"] is None


def test_other_bytes_than_those_published_start_nothing(platform, connection, notebook, container):
    from libsafe_nb.models import Published

    job = connection.client.create_job(container)["id"]
    with pytest.raises(errors.NotebookError, match="expected version 3 as it was published"):
        libsafe_nb.run(
            None,
            notebook("print(1)"),
            container=container,
            job=job,
            settings=platform.settings,
            published=Published(3, hashlib.sha256(b"").hexdigest()),
        )
    assert connection.client.job(job)["status"] == "QUEUED"


def test_bytes_that_were_changed_on_the_disk_start_nothing(
    platform, functions, publish, ended, container, connection
):
    key = publish(f"print({uuid.uuid4().hex!r})")
    functions.update(key, attempts=2, backoff=0)
    stored = platform.root / "functions" / functions.get(key)["sha256"]
    stored.write_bytes(stored.read_bytes().replace(b"print", b"input"))
    found = ended(functions.call(key, container=container))

    assert (found["status"], found["attempts"]) == ("dead", 2)
    assert "expected the bytes that were published" in found["error"]
    job = connection.client.job(found["job_id"])
    assert (job["status"], "evidence" in job["result"]) == ("FAILED", False)
    assert list(connection.storage.list(container)) == []


def test_of_200_calls_at_once_those_within_the_limit_run(
    platform, functions, publish, ended, container, connection
):
    key = publish("print(1)")
    functions.update(key, queue_limit=3, paused=True)
    headers = {"Authorization": f"Bearer {platform.settings.key_user}"}

    def call(_):
        url = f"{platform.url}/function/{key}/call"
        return requests.post(url, json={"container_id": container}, headers=headers, timeout=60)

    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(call, range(200)))
    taken = [each.json()["result"] for each in answers if each.status_code == 200]
    refused = [each for each in answers if each.status_code == 429]
    functions.update(key, paused=False)

    assert (len(taken), len(refused)) == (3, 197), {each.status_code for each in answers}
    assert all(int(each.headers["Retry-After"]) >= 1 for each in refused)
    assert {ended(each)["status"] for each in taken} == {"completed"}
    made = list(connection.client.jobs(container=container))
    assert sorted(each["id"] for each in made) == sorted(each["job_id"] for each in taken)


def test_what_the_notebook_says_of_itself_is_published(functions, publish):
    parameters = (
        'json_sample = {"function_data": {"container": {"id": "1"}}, "function_params": {"free": 1}}\n'
        "size: int = 10  # Pixels of the longer side\n"
        'names: list[str] = ["a"]\n'
        "token: Secret = None"
    )
    about = {"libsafe": {"key": "thumbs", "title": "Thumbnails", "description": "Makes small ones."}}
    publish("print(1)", parameters=parameters, metadata=about)
    found = functions.get("thumbs")

    assert (found["title"], found["description"]) == ("Thumbnails", "Makes small ones.")
    by_name = {each["name"]: each for each in found["parameters"]}
    assert by_name["size"] == {
        "name": "size",
        "type": "int",
        "default": 10,
        "secret": False,
        "help": "Pixels of the longer side",
    }
    assert (by_name["names"]["type"], by_name["names"]["default"]) == ("list[str]", ["a"])
    assert by_name["free"]["default"] == 1
    assert (by_name["token"]["secret"], by_name["token"]["default"]) == (True, None)


def test_a_notebook_with_a_key_in_it_is_not_published(functions, publish):
    key = f"f-{uuid.uuid4().hex[:8]}"
    with pytest.raises(errors.NotebookError, match="Nothing was published"):
        publish('api = {"key_user": "7Hq2vX9bT4mK8sW3nR6pYd1fZ5cJ0gLa"}', key=key)
    with pytest.raises(errors.NotebookError, match="token is a secret"):
        publish("1", key=key, parameters="json_sample = {}\ntoken: 'Secret' = 'correct horse battery'")
    with pytest.raises(errors.NotFound):
        functions.get(key)


def test_a_function_that_fails_is_not_tried_again_and_one_that_cannot_be_bound_fails(
    functions, publish, ended, container, connection
):
    key = publish("raise ValueError('no')", parameters="json_sample = {}\nsize: int = 1")
    failed = ended(functions.call(key, container=container))
    # What is right when it is called may not be so when it starts.
    functions.update(key, paused=True)
    waiting = functions.call(key, container=container, params={"size": "7"})
    assert publish("print(1)", key=key, parameters="json_sample = {}\nsize: list = []") == key
    functions.update(key, paused=False)
    unbound = ended(waiting)

    assert (failed["status"], failed["attempts"]) == ("failed", 1)
    assert "ValueError: no" in failed["error"]
    assert unbound["status"] == "failed"
    assert "size" in unbound["error"]
    assert connection.client.job(unbound["job_id"])["status"] == "FAILED"


def test_a_function_that_always_kills_its_kernel_is_dead_in_the_end_and_the_others_go_on(
    functions, publish, ended, container, connection
):
    deadly = publish("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    functions.update(deadly, attempts=2, backoff=0)
    fine = publish("print(1)")
    doomed = functions.call(deadly, container=container)
    others = [functions.call(fine, container=container) for _ in range(2)]

    assert [ended(each)["status"] for each in others] == ["completed", "completed"]
    found = ended(doomed)
    assert (found["status"], found["attempts"]) == ("dead", 2)
    assert found["job_id"] != doomed["job_id"]
    last = connection.client.job(found["job_id"])
    assert (last["status"], last["parent_id"]) == ("FAILED", doomed["job_id"])
    assert found["id"] in {each["id"] for each in functions.calls(status="dead", function=deadly)}


def test_a_call_that_runs_is_cancelled(functions, publish, ended, container, connection):
    key = publish("import time\nfor _ in range(600): time.sleep(0.1)")
    call = functions.call(key, container=container)
    wait_for(lambda: connection.client.job(call["job_id"])["status"] == "RUNNING", 60)
    began = time.monotonic()
    functions.cancel(call["id"])

    assert ended(call)["status"] == "cancelled"
    texts = wait_for(
        lambda: [
            each["message"]
            for each in connection.client.messages(call["job_id"])
            if each["message"].startswith("evidence: ")
        ],
        60,
    )
    assert texts
    assert time.monotonic() - began < 30
    assert connection.client.job(call["job_id"])["status"] == "CANCELLED"


def test_a_killed_worker_loses_nothing(functions, publish, ended, container, connection):
    """Its run is finished as interrupted, with evidence, and the call attempted again."""
    key = publish("import time; time.sleep(2)")
    functions.update(key, backoff=0)
    call = functions.call(key, container=container)
    wait_for(lambda: connection.client.job(call["job_id"])["status"] == "RUNNING", 60)
    os.kill(int(functions.get_call(call["id"])["worker"].partition("/")[0]), signal.SIGKILL)
    found = ended(call)

    assert (found["status"], found["attempts"], found["worker"]) == ("completed", 2, None)
    first = connection.client.job(call["job_id"])
    assert (first["status"], first["result"]["error"]["type"]) == ("FAILED", "RunnerDied")
    assert first["result"]["evidence"]


def test_a_worker_that_is_stopped_for_longer_than_its_lease_goes_on_with_its_run(
    functions, publish, ended, container, connection, platform
):
    """Another looks at the call meanwhile, and begins no second run of it."""
    key = publish("import time; time.sleep(4)")
    call = functions.call(key, container=container)
    wait_for(lambda: connection.client.job(call["job_id"])["status"] == "RUNNING", 60)
    worker = functions.get_call(call["id"])["worker"]
    os.kill(int(worker.partition("/")[0]), signal.SIGSTOP)
    try:
        with contextlib.closing(sqlite3.connect(Root(platform.root).database)) as rows:
            rows.execute("UPDATE call SET lease_until = 0 WHERE id = ?", (call["id"],))
            rows.commit()
        # Only where more than one worker may be is there another to look.
        if len(os.sched_getaffinity(0)) > 1:
            wait_for(lambda: functions.get_call(call["id"])["worker"] != worker, 30)
    finally:
        os.kill(int(worker.partition("/")[0]), signal.SIGCONT)
    found = ended(call)

    assert (found["status"], found["attempts"], found["job_id"]) == ("completed", 1, call["job_id"])
    assert connection.client.job(call["job_id"])["status"] == "COMPLETED"


def test_drained_and_resumed(functions, publish, ended, container):
    key = publish("print(1)")
    functions.update(key, paused=True)
    call = functions.call(key, container=container)
    time.sleep(0.5)
    assert functions.get_call(call["id"])["status"] == "queued"
    functions.update(key, paused=False)

    assert ended(call)["status"] == "completed"


def test_the_client_says_whose_job_it_is(platform, functions, publish, container, connection):
    """What a job writes over REST carries its id, and a call that it makes is its child."""
    key = publish("print(1)")
    functions.update(key, paused=True)
    job = connection.client.create_job(container)["id"]
    with Client(platform.url, platform.settings.key_user, job=job) as client:
        call = Functions(client).call(key, container=container)

    assert call["cause_job_id"] == job
    assert connection.client.job(call["job_id"])["parent_id"] == job
    functions.cancel(call["id"])


def test_progress_reaches_the_job(functions, publish, ended, container, connection):
    key = publish(*[new_code_cell("import time; time.sleep(1)") for _ in range(4)])
    call = functions.call(key, container=container)
    seen = wait_for(lambda: connection.client.job(call["job_id"])["progress"], 60)

    assert 0 < seen <= 1
    assert ended(call)["status"] == "completed"
