"""Workflows as their evidence tells them: one real run that calls others, on the real platform, read in every way."""

import json

import jsonschema
import pytest
from conftest import REQUEST, takes
from engine_runs import wait_for
from test_calls import end_of, publish_to, read
from test_record_schema import SCHEMA

from libsafe_nb import record
from libsafe_nb.functions import Functions

WRITE = f"""{REQUEST}
from libnova.com.Api import File as Files
name = json_sample["function_params"]["name"]
Files.write(json_sample["function_data"]["container"]["id"], f"/out/{{name}}.txt", f"made {{name}}\\n")
"""
READ = f"""{REQUEST}
from libnova.com.Filesystem import S3
print(*(S3.File.get_stream(request.Storage, file).read() for file in request.Files))
"""
NESTED = """
import libsafe_nb
inner = json_sample["function_params"]["inner"]
libsafe_nb.call(inner, params={"name": "deep"}).result().raise_for_failure()
"""
WORKFLOW = """
import libsafe_nb
keys = json_sample["function_params"]
one, two = (libsafe_nb.call(keys["write"], params={"name": name}) for name in ("one", "two"))
made = [each.result().raise_for_failure() for each in (one, two)]
both = libsafe_nb.call(keys["read"], files=["/out/one.txt", "/out/two.txt"])
nested = libsafe_nb.call(keys["nested"], params={"inner": keys["write"]})
failed = libsafe_nb.call(keys["fail"])
both.result().raise_for_failure(), nested.result().raise_for_failure()
print(failed.result().status)
"""


@pytest.fixture(scope="module")
def flow(platform, connection, tmp_path_factory):
    """The keys of the functions, and the result of the job of a workflow that has called them."""
    folder, settings = tmp_path_factory.mktemp("flow"), platform.settings
    container = connection.client.create_container("flow")["id"]
    keys = {
        "write": publish_to(settings, folder, WRITE, parameters=takes("name")),
        "read": publish_to(settings, folder, READ),
        "nested": publish_to(settings, folder, NESTED, parameters=takes("inner")),
        "fail": publish_to(settings, folder, "raise ValueError('not today')"),
    }
    keys["workflow"] = publish_to(settings, folder, WORKFLOW, parameters=takes(*keys))
    functions = Functions(connection.client)
    params = {name: key for name, key in keys.items() if name != "workflow"}
    call = functions.call(keys["workflow"], container=container, params=params)
    found = end_of(functions, call["id"])
    job = connection.client.job(found["job_id"])
    assert found["status"] == "completed", job
    wait_for(lambda: connection.client.file_by_path(container, "/out/two.txt"), 20)
    return keys, {**job["result"], "container": container, "job": job["id"]}


@pytest.fixture(scope="module")
def body(flow, connection):
    return json.loads(read(connection, flow[1]["evidence"]))


# The records ------------------------------------------------------------------------------------------------------


def test_the_callers_record_tells_the_digest_and_the_code_of_each_called_runs_record(body, connection):
    assert [each["number"] for each in body["calls"]] == [1, 2, 3, 4, 5]
    for each in body["calls"]:
        data = read(connection, each["evidence"])
        assert each["record_sha256"] == record.digest(data)
        assert each["code_sha256"] == json.loads(data)["function"]["code_sha256"]
        assert (each["attempts"], each["reused"], each["after"]) == (1, None, None)
    jsonschema.Draft202012Validator(SCHEMA).validate(body)


def test_what_a_call_used_is_known_by_the_versions_that_it_read(body, connection):
    calls = body["calls"]
    child = json.loads(read(connection, calls[2]["evidence"]))

    assert [each["used"] for each in calls] == [
        [],
        [],
        [{"number": 1, "files": 1}, {"number": 2, "files": 1}],
        [],
        [],
    ]
    assert [each["path"].lstrip("/") for each in calls[0]["outputs"]] == ["out/one.txt"]
    assert {each["path"].lstrip("/") for each in calls[2]["inputs"]} == {"out/one.txt", "out/two.txt"}
    assert {each["run"]: each["record_sha256"] for each in child["used"]} == {
        each["run"]: each["record_sha256"] for each in calls[:2]
    }
    assert body["used"] == []
    jsonschema.Draft202012Validator(SCHEMA).validate(child)
