"""Every kind of trigger fires, with the payload of the vendor's page filled in; own writes and loops do not."""

import contextlib
import json
import os
import signal
import sqlite3
import time
import uuid
from pathlib import Path

import boto3
import pytest
import requests
from botocore.config import Config
from click.testing import CliRunner
from conftest import REQUEST, TELL, takes, write_function
from engine_runs import wait_for
from environs import variables

from libsafe_nb import local, publishing
from libsafe_nb.cli import cli
from libsafe_nb.connection import connect
from libsafe_nb.functions import Functions
from libsafe_nb.local.root import Root


@pytest.fixture
def quiet(functions, publish, container):
    """A published function that is not started, and a trigger of the test's own container on it."""

    def quiet(type, **about):
        key = publish("print(1)")
        functions.update(key, paused=True)
        about.setdefault("container_id", container)
        return key, functions.add_trigger(key, type, **about)

    return quiet


@pytest.fixture
def made(functions):
    """The calls that a function got, as soon as there are so many; none of them is left waiting."""
    keys = []

    def made(key, count=1):
        keys.append(key)
        return wait_for(
            lambda: (found := list(functions.calls(function=key))) and len(found) >= count and found, 20
        )

    yield made
    for key in keys:
        for each in functions.calls(function=key, status="queued"):
            functions.cancel(each["id"])


def stays(check, seconds=1.0):
    """That nothing comes is only seen by waiting."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert check()
        time.sleep(0.1)


@pytest.fixture
def anybody(platform):
    """An S3 client that is none of ours."""
    s3 = platform.settings.s3
    client = boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name=s3.region,
        config=Config(s3={"addressing_style": "path"}),
    )
    yield lambda container, path, body=b"x": client.put_object(
        Bucket=s3.bucket, Key=f"{container}/{path}", Body=body
    )
    client.close()


def write_metadata(connection, file, *values):
    for value in values:
        connection.client.set_metadata(file, [{"iecode": "relation", "value": value}])


@pytest.mark.parametrize(
    "type",
    [
        "file_created",
        "file_updated",
        "file_deleted",
        "file_read",
        "metadata_created",
        "metadata_updated",
        "metadata_deleted",
    ],
)
def test_every_happening_fires_with_the_payload_filled(
    type,
    functions,
    publish,
    payload_of,
    container,
    connection,
    anybody,
):
    key = publish(TELL, parameters=takes("from"))
    anybody(container, "in/a.ipynb", b"{}")
    file = connection.client.file_by_path(container, "in/a.ipynb")["id"]
    if type in ("metadata_updated", "metadata_deleted"):
        write_metadata(connection, file, "one")
    trigger = functions.add_trigger(
        key, type, container_id=container, path_regex=r"^/in/", params={"from": "trigger"}
    )
    match type:
        case "file_created":
            anybody(container, "in/b.ipynb")
            file = connection.client.file_by_path(container, "in/b.ipynb")["id"]
        case "file_updated":
            anybody(container, "in/a.ipynb", b"{ }")
        case "file_deleted":
            connection.client.delete_file(file)
        case "file_read":
            connection.client.open_notebook(container, "in/a.ipynb")
        case "metadata_created":
            write_metadata(connection, file, "one")
        case "metadata_updated":
            write_metadata(connection, file, "one", "two")
        case "metadata_deleted":
            write_metadata(connection, file, [])
    [call] = wait_for(lambda: list(functions.calls(function=key, status="completed")), 60)
    told = payload_of(call["job_id"])

    assert told["function_data"]["trigger"] == {"id": trigger["id"], "type": type, "regex": "^/in/"}
    assert told["function_data"]["function"] == {"id": functions.get(key)["id"], "key": key}
    assert told["function_data"]["job"] == {"id": call["job_id"]}
    assert told["function_data"]["container"] == {"id": container}
    assert told["function_data"]["user"] == {"id": "1"}
    assert told["function_data"]["files"]["ids"] == [file]
    assert told["function_data"]["files"]["paths"][0].startswith("/in/")
    assert told["function_params"] == {"from": "trigger"}
    assert len(list(functions.calls(function=key))) == 1


def test_what_a_function_reads_is_told_to_the_triggers_of_others(
    functions,
    publish,
    quiet,
    made,
    container,
    anybody,
):
    reader = publish(
        REQUEST
        + "from libnova.common.filesystem.s3 import File as S3File\n"
        + "for each in request.Files: S3File.get_stream(request.Storage, each).read()\nrequest.job_end(True)"
    )
    functions.add_trigger(reader, "file_read", container_id=container)
    other, _ = quiet("file_read")
    anybody(container, "a.bin", b"hello")
    functions.call(reader, container=container, files=["/a.bin"])
    [call] = made(other)

    assert call["cause_job_id"] == next(functions.calls(function=reader))["job_id"]
    assert len(list(functions.calls(function=reader))) == 1


def test_a_burst_is_gathered(quiet, made, container, anybody):
    key, _ = quiet("file_created", batch_files=4, batch_seconds=1)
    for number in range(10):
        anybody(container, f"{number}.txt")

    assert sorted(each["files"] for each in made(key, 3)) == [2, 4, 4]


def test_filters_other_containers_and_what_is_disabled(
    functions,
    quiet,
    made,
    container,
    connection,
    anybody,
):
    key, _ = quiet("file_created", path_regex=r"\.tif$", size_max=3)
    off, trigger = quiet("file_created")
    functions.enable_trigger(trigger["id"], False)
    elsewhere = connection.client.create_container("elsewhere")["id"]
    anybody(container, "a.txt")
    anybody(container, "large.tif", b"1234")
    anybody(elsewhere, "a.tif")
    anybody(container, "a.tif")
    [call] = made(key)

    assert call["files"] == 1
    stays(lambda: len(list(functions.calls(function=key))) == 1 and not list(functions.calls(function=off)))


WRITES = """
for each in request.Files:
    File.write("{container}", each.fullpath.rstrip("x") + "x", b"{text}" + each.fullpath.encode())
    File.set_metadata(each.id, {{"metadata": [{{"iecode": "{text}", "value": "x"}}]}})
request.job_end(True)
"""


def writes(container, text):
    """A function that stores a file beside each of its own, and describes it."""
    return REQUEST + WRITES.format(container=container, text=text)


def test_a_functions_own_writes_do_not_start_it(functions, publish, container, connection, anybody):
    key = publish(writes(container, "own"))
    for type in ("file_created", "file_updated", "metadata_created", "metadata_updated"):
        functions.add_trigger(key, type, container_id=container)
    anybody(container, "a")
    wait_for(lambda: list(functions.calls(function=key, status="completed")), 60)
    connection.client.file_by_path(container, "ax")

    stays(lambda: len(list(functions.calls(function=key))) == 1, 2.5)


def test_ping_pong_between_two_functions_stops_itself(
    functions,
    publish,
    container,
    connection,
    anybody,
):
    ping = publish(writes(container, "ping"))
    pong = publish(writes(container, "pong"))
    for key in (ping, pong):
        functions.add_trigger(key, "file_created", container_id=container, name_regex="^a")
        functions.add_trigger(key, "file_updated", container_id=container, name_regex="^a")
    # The first file is for ping alone.
    functions.update(pong, enabled=False)
    anybody(container, "a")
    wait_for(lambda: list(functions.calls(function=ping)), 20)
    functions.update(pong, enabled=True)
    wait_for(lambda: list(functions.calls(function=pong, status="completed")), 60)
    stays(lambda: len(list(functions.calls(function=ping))) == 1, 2.5)

    [pinged], [ponged] = list(functions.calls(function=ping)), list(functions.calls(function=pong))
    assert ponged["cause_job_id"] == pinged["job_id"]
    warned = [
        each["message"] for each in connection.client.messages(ponged["job_id"]) if each["type"] == "WARNING"
    ]
    assert [
        each for each in warned if each.startswith(f"a loop was stopped: this job's write would start {ping}")
    ]


def told_by(connection, job):
    """The payload that a function told its job."""
    texts = [each["message"] for each in connection.client.messages(job)]
    return json.loads(next(each for each in texts if each.startswith("{")))


@pytest.mark.parametrize("by", ["command line", "REST"])
def test_on_demand_with_files_and_folders_that_a_user_has_chosen(
    by, platform, functions, publish, payload_of, container, connection, anybody, monkeypatch
):
    key = publish(TELL, parameters=takes("from", "n"))
    trigger = functions.add_trigger(
        key, "on_demand", container_id=container, params={"from": "trigger", "n": 1}
    )
    for path in ("a.txt", "chosen/b.txt", "chosen/deep/c.txt", "other/d.txt"):
        anybody(container, path)
    ids = {
        path: connection.client.file_by_path(container, path)["id"]
        for path in ("a.txt", "chosen/b.txt", "chosen/deep/c.txt")
    }
    if by == "REST":
        answer = requests.post(
            f"{platform.url}/function/{key}/call",
            headers={"Authorization": f"Bearer {platform.settings.key_user}"},
            json={
                "container_id": container,
                "file_ids": [ids["a.txt"]],
                "paths": ["/chosen"],
                "params": {"n": "2"},
            },
            timeout=60,
        )
        assert answer.json()["success"], answer.text
    else:
        for name, value in variables(platform.settings).items():
            monkeypatch.setenv(name, value)
        said = ["functions", "call", key, "--container", container, "--param", "n=2"]
        done = CliRunner().invoke(cli, [*said, "--file", ids["a.txt"], "--file", "/chosen"])
        assert done.exit_code == 0, done.output
    [call] = wait_for(lambda: list(functions.calls(function=key, status="completed")), 60)
    told = payload_of(call["job_id"])

    assert told["function_data"]["trigger"] == {"id": trigger["id"], "type": "on_demand", "regex": ""}
    assert told["function_data"]["function"] == {"id": functions.get(key)["id"], "key": key}
    assert told["function_data"]["files"] == {
        "ids": list(ids.values()),
        "paths": [f"/{path}" for path in ids],
    }
    assert told["function_data"]["container"] == {"id": container}
    assert told["function_data"]["user"] == {"id": "1"}
    assert told["function_params"] == {"from": "trigger", "n": "2"}


def test_a_file_that_was_deleted_meanwhile_does_not_spoil_its_batch(
    functions, publish, payload_of, container, connection, anybody
):
    key = publish(TELL)
    functions.update(key, paused=True)
    functions.add_trigger(key, "file_created", container_id=container, batch_files=2, batch_seconds=60)
    anybody(container, "gone.txt")
    anybody(container, "there.txt")
    [call] = wait_for(lambda: list(functions.calls(function=key)), 20)
    connection.client.delete_file(connection.client.file_by_path(container, "gone.txt")["id"])
    functions.update(key, paused=False)
    [call] = wait_for(lambda: list(functions.calls(function=key, status="completed")), 60)

    assert payload_of(call["job_id"])["function_data"]["files"]["paths"] == ["/gone.txt", "/there.txt"]


def test_nor_that_of_a_call_on_demand(functions, publish, payload_of, container, connection, anybody):
    key = publish(TELL)
    functions.update(key, paused=True)
    for path in ("in/gone.txt", "in/there.txt"):
        anybody(container, path)
    call = functions.call(key, container=container, files=["/in"])
    connection.client.delete_file(connection.client.file_by_path(container, "in/gone.txt")["id"])
    functions.update(key, paused=False)
    wait_for(lambda: functions.get_call(call["id"])["status"] == "completed", 60)

    paths = payload_of(call["job_id"])["function_data"]["files"]["paths"]
    assert paths == ["/in/gone.txt", "/in/there.txt"]


# The clock, over restarts ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def rows(root):
    """The rows of a platform that does not run."""
    with contextlib.closing(sqlite3.connect(Root(Path(root)).database)) as database:
        yield database
        database.commit()


def test_a_clock_survives_a_real_restart_catches_up_once_and_runs_its_function(tmp_path, home):
    """Each type's times, with the clock in the test's hand: tests/local/test_queue.py."""
    root = tmp_path / "platform"
    with local.serve(root) as served, contextlib.closing(connect(settings=served.settings)) as connection:
        functions = Functions(connection.client)
        publishing.publish(write_function(tmp_path / "f.ipynb", TELL), settings=served.settings)
        trigger = functions.add_trigger("f", "day", container_id="1")
        assert trigger["next_due"] > time.time()
    with rows(root) as database:
        # Several times were missed while the platform was down.
        database.execute("UPDATE function_trigger SET next_due = ?", (time.time() - 3 * 86_400,))
    with local.serve(root) as served, contextlib.closing(connect(settings=served.settings)) as connection:
        functions = Functions(connection.client)
        [call] = wait_for(lambda: list(functions.calls(status="completed")), 60)
        assert len(list(functions.calls())) == 1
        assert functions.trigger(trigger["id"])["next_due"] > time.time() - 5
        assert call["trigger"] == {"id": trigger["id"], "type": "day", "regex": ""}
        told = told_by(connection, call["job_id"])["function_data"]
        assert (told["trigger"], told["files"]) == (call["trigger"], {"ids": [], "paths": []})
        # Journals went with the runs.
        wait_for(lambda: not any((root / "runs").iterdir()), 10)


@pytest.mark.slow
def test_a_clock_runs_its_function(functions, publish, payload_of, container, platform):
    """In real time: the next full minute."""
    key = publish(TELL)
    trigger = functions.add_trigger(key, "minute", container_id=container)
    wait = trigger["next_due"] - time.time()
    try:
        call = wait_for(lambda: list(functions.calls(function=key, status="completed")), wait + 60)[0]
    finally:
        functions.remove_trigger(trigger["id"])

    told = payload_of(call["job_id"])["function_data"]
    assert told["trigger"] == {"id": trigger["id"], "type": "minute", "regex": ""}
    assert told["files"] == {"ids": [], "paths": []}


def test_what_was_stored_while_the_platform_was_down_fires_as_well(tmp_path, home):
    """The S3 side outlives a platform that is killed, and goes on taking objects."""
    root = tmp_path / "platform"
    with local.serve(root) as served:
        connection = connect(settings=served.settings)
        functions = Functions(connection.client)
        functions.publish("f", b"{}", name="f.ipynb")
        functions.update("f", paused=True)
        functions.add_trigger("f", "file_created", container_id="1")
        process = Root(root).running()
        os.kill(process.pid, signal.SIGKILL)
        wait_for(lambda: not process.alive, 10)
        connection.storage.put("1", f"{uuid.uuid4()}", b"x")
        connection.close()
    with local.serve(root) as served, contextlib.closing(connect(settings=served.settings)) as connection:
        [call] = wait_for(lambda: list(Functions(connection.client).calls()), 30)
        assert (call["files"], call["trigger"]["type"]) == (1, "file_created")
