"""Functions that call functions: on the real platform, with real workers, kernels and evidence."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import uuid

import jsonschema
import pytest
from conftest import REQUEST, TELL, takes, write_function
from engine_runs import wait_for
from test_record_schema import SCHEMA
from test_run import command_environment

import libsafe_nb
from libsafe_nb import asking, children, endpoints, errors, local, marks, publishing, record, recover, replay
from libsafe_nb.client import Client
from libsafe_nb.connection import connect
from libsafe_nb.functions import Functions
from libsafe_nb.models import Replay
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.report import build as report

ENDED = ("completed", "failed", "cancelled", "dead")
GLUE = """
from IPython.display import display
def glue(name, data):
    display({"application/scrapbook.scrap.json+json": {"name": name, "data": data, "encoder": "json", "version": 1}}, raw=True)
"""
COUNT = f"""{REQUEST}{GLUE}
glue("files", sorted(file.fullpath for file in request.Files))
glue("x", json_sample["function_params"].get("x"))
"""
PARENT = f"""{REQUEST}{GLUE}
import libsafe_nb
from concurrent.futures import ThreadPoolExecutor
params = json_sample["function_params"]
ways = {{"files": request.Files, "ids": [file.id for file in request.Files], "folder": "/in"}}

def count(way):
    return libsafe_nb.call(params["count"], files=ways[way], params={{"x": way}}).result(120).raise_for_failure()

with ThreadPoolExecutor(3) as pool:
    done = dict(zip(ways, pool.map(count, ways)))
glue("done", {{way: [each.scraps["files"], each.scraps["x"]] for way, each in done.items()}})
failed = libsafe_nb.call(params["fail"]).result()
glue("failed", [failed.status, failed.error["type"]])
said = {{}}
for key in ("absent-function", params["disabled"]):
    try:
        libsafe_nb.call(key)
    except libsafe_nb.errors.LibsafeError as exc:
        said[key] = [type(exc).__name__, str(exc)]
glue("said", said)
left = libsafe_nb.call(params["paused"])
glue("left", left.status)
try:
    left.result(timeout=0.1)
except TimeoutError as exc:
    glue("late", str(exc))
left.cancel()
glue("then", left.status)
"""


def publish_to(settings, folder, *cells, key=None, **options):
    # It looks random, and stands in the payload as the value of `key`: `verify` is not to take it for a secret.
    key = key or f"f-{uuid.uuid4().hex[:8]}"
    path = write_function(folder / f"{key}.ipynb", *cells, **options)
    return publishing.publish(path, settings=settings)["key"]


def end_of(functions, call, seconds=120):
    return wait_for(
        lambda: (found := functions.get_call(call))["status"] in ENDED and found, seconds, "the call's end"
    )


def read(connection, evidence, name="record.json"):
    container, _, path = evidence.removeprefix("libsafe://").partition("/")
    return connection.storage.get(container, path + name)


def client_of(connection, job):
    return Client(connection.settings.url, connection.settings.key_user, job=job)


def record_of(connection, job):
    return json.loads(read(connection, connection.client.job(job)["result"]["evidence"]))


@pytest.fixture(scope="module")
def family(platform, connection, tmp_path_factory):
    """A parent that has called, its result, its record, and what it called by which name."""
    folder, settings, functions = (
        tmp_path_factory.mktemp("family"),
        platform.settings,
        Functions(connection.client),
    )
    container = connection.client.create_container("family")["id"]
    for name in ("in/a.txt", "in/b.txt"):
        connection.storage.put(container, name, b"hello")
    keys = {
        "count": publish_to(settings, folder, COUNT, parameters=takes("x")),
        "fail": publish_to(settings, folder, "raise ValueError('no')"),
        "disabled": publish_to(settings, folder, "print(1)"),
        "paused": publish_to(settings, folder, "print(1)"),
    }
    functions.update(keys["disabled"], enabled=False)
    functions.update(keys["paused"], paused=True)
    parent = publish_to(settings, folder, PARENT, parameters=takes(*keys))
    wait_for(lambda: connection.client.file_by_path(container, "/in/b.txt"), 20)
    call = functions.call(parent, container=container, files=["/in"], params=keys)
    found = end_of(functions, call["id"])
    job = connection.client.job(found["job_id"])
    assert found["status"] == "completed", job
    return keys, parent, job, record_of(connection, job["id"])


def test_a_parent_gets_what_its_children_glued_whichever_way_it_names_their_files(family):
    paths = ["/in/a.txt", "/in/b.txt"]

    assert family[2]["result"]["scraps"]["done"] == {way: [paths, way] for way in ("files", "ids", "folder")}


def test_a_child_that_fails_is_the_parents_to_judge(family):
    assert family[2]["result"]["scraps"]["failed"] == ["failed", "ValueError"]


def test_what_cannot_be_called_is_told_in_the_platforms_words(family):
    keys, _, job, _ = family
    said = job["result"]["scraps"]["said"]

    assert said["absent-function"][0] == "NotFound"
    assert "there is no function 'absent-function'" in said["absent-function"][1]
    assert said[keys["disabled"]][0] == "Conflict"
    assert f"function {keys['disabled']} is disabled" in said[keys["disabled"]][1]


def test_a_child_that_has_not_ended_by_then_goes_on_until_it_is_cancelled(family, functions):
    keys, _, job, body = family
    scraps, left = job["result"]["scraps"], body["calls"][-1]

    assert (scraps["left"], scraps["then"]) == ("queued", "cancelled")
    assert (
        f"{keys['paused']}, job {left['job']}: expected its end within 0.1 s, found it queued"
        == scraps["late"]
    )
    assert functions.get_call(left["call"])["status"] == left["status"] == "cancelled"


def test_both_records_name_the_other(family, functions, connection):
    _, parent, job, body = family
    called = body["calls"]

    assert body["parent"] is None
    assert [each["status"] for each in called] == [
        *["completed"] * 3,
        "failed",
        "refused",
        "refused",
        "cancelled",
    ]
    assert sorted(each["params"]["x"] for each in called[:3]) == ["files", "folder", "ids"]
    for each in called[:4]:
        child = json.loads(read(connection, each["evidence"]))
        assert child["id"] == f"urn:uuid:{each['run']}"
        assert child["function"]["published"] == {"version": each["version"], "sha256": each["sha256"]}
        assert child["parent"] == {"job": job["id"], "run": job["result"]["run"], "function": parent}
        assert child["ended"] <= each["ended"]
    assert {each["files"] for each in called[:3]} == {1, 2}
    assert called[4]["error"]["type"] == "NotFound"


def test_both_fit_the_schema_and_are_verified(family, connection, platform):
    *_, job, body = family
    for evidence in (job["result"]["evidence"], body["calls"][0]["evidence"]):
        jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(read(connection, evidence)))
        found = libsafe_nb.verify(evidence, settings=platform.settings)
        assert found.exit_code == 0, found.checks


def test_a_tree_with_a_call_that_never_ran_is_whole(family, platform):
    *_, job, _ = family
    found = libsafe_nb.verify(job["result"]["evidence"], deep=True, settings=platform.settings)

    assert found.exit_code == 0, found.checks
    assert found.nodes == {"ok": 5}


def test_the_report_tells_who_called_whom(family, connection):
    *_, job, body = family
    page = read(connection, job["result"]["evidence"], "report.html").decode()
    childs = read(connection, body["calls"][0]["evidence"], "report.html").decode()

    assert "Functions that it called" in page
    assert body["calls"][0]["evidence"] in page
    assert "NotFound" in page
    assert "Called by" in childs
    assert job["result"]["run"] in childs
    assert "Functions that it called" not in childs
    assert report({"calls": [{}], "parent": {}}, None, [], None)


def test_a_replay_of_a_parent_starts_nothing(family, functions, connection, platform):
    *_, job, body = family
    before = len(list(functions.calls(container_id=job["container_id"])))
    found = replay.replay(job["result"]["evidence"], settings=platform.settings)
    again = record_of(connection, found.run.job)

    assert found.run.status == "completed"
    assert len(list(functions.calls(container_id=job["container_id"]))) == before
    assert all(each["stubbed"] for each in again["calls"])
    facts = ("function", "call", "job", "run", "evidence", "status", "sha256")
    assert sorted(str([each[name] for name in facts]) for each in again["calls"]) == sorted(
        str([each[name] for name in facts]) for each in body["calls"]
    )
    for name in ("done", "failed", "said"):
        assert found.run.scraps[name] == job["result"]["scraps"][name]


def test_a_handler_calls_and_its_replay_is_the_same(
    functions, publish, container, connection, platform, tmp_path
):
    child = publish(f"{GLUE}\nglue('answer', 42)")
    path = tmp_path / "caller.py"
    path.write_text(
        "import libsafe_nb\n\ndef handler(context, event):\n"
        f"    done = libsafe_nb.call({child!r}).result()\n    print(done.status, done.scraps['answer'])\n"
    )
    done = libsafe_nb.run(None, path, container=container, settings=platform.settings).raise_for_failure()
    body = json.loads(read(connection, done.evidence))

    assert [each["function"] for each in body["calls"]] == [child]
    parent = json.loads(read(connection, body["calls"][0]["evidence"]))["parent"]
    assert parent["run"] == done.run
    assert b"completed 42" in read(connection, done.evidence, "executed.ipynb")
    assert replay.replay(done.evidence, settings=platform.settings).verdict == "same"


def test_a_call_out_of_no_run_has_the_sessions_job_for_its_parent(
    publish, container, functions, connection, platform, monkeypatch
):
    key = publish(TELL, parameters=takes("x"))
    functions.update(key, paused=True)
    # The session of this test alone.
    monkeypatch.setattr("libsafe_nb.interactive.payload._asked", [])
    for name, value in command_environment(platform).items():
        if name.startswith("LIBSAFE_"):
            monkeypatch.setenv(name, value)
    alone = libsafe_nb.call(key, container=container)
    payload = libsafe_nb.payload(container=container)
    from_session = libsafe_nb.call(key, params={"x": 1})

    assert alone.status == "queued"
    assert functions.get_call(alone.id)["parent_job_id"] is None
    found = functions.get_call(from_session.id)
    assert (found["parent_job_id"], found["container_id"], found["params"]["x"]) == (
        payload["function_data"]["job"]["id"],
        container,
        1,
    )
    with pytest.raises(errors.SecretFound, match="the parameters for"):
        libsafe_nb.call(key, params={"k": payload["api"]["key_user"]})
    for each in (alone, from_session):
        each.cancel()
    done = from_session.result(10)
    assert done.status == "cancelled"
    with pytest.raises(errors.RunCancelled, match="the call was cancelled"):
        done.raise_for_failure()
    with pytest.raises(errors.NotFound, match="there is no function 'absent'"):
        libsafe_nb.call("absent")
    connection.client.update_job(payload["function_data"]["job"]["id"], status="COMPLETED")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"files": "a.txt"}, "files: expected ids, paths with a leading slash"),
        ({"files": ["1", b"2"]}, "files: expected ids"),
        ({"params": ["x"]}, "params: expected names and values, got list"),
        ({"params": {"x": {1}}}, "params: expected what JSON can hold"),
        ({"params": {"x": "\ud800"}}, "params: expected what JSON can hold"),
    ],
)
def test_bad_usage_asks_nobody(more, said):
    with pytest.raises(errors.UsageError, match=said):
        libsafe_nb.call("f", **more)


def test_a_key_is_no_parameter(run, notebook, publish, connection):
    key = publish("print(1)")
    done = run(
        notebook(
            f"import libsafe_nb\nlibsafe_nb.call({key!r}, params={{'k': json_sample['api']['key_user']}})"
        )
    )

    assert (done.status, done.error["type"]) == ("failed", "SecretFound")
    assert json.loads(read(connection, done.evidence))["calls"] == []


@pytest.mark.parametrize("version", [None, 1])
def test_what_the_called_function_does_not_take_is_refused_and_a_secret_of_it_told_to_nobody(
    run, notebook, publish, functions, connection, version
):
    key = publish("print(1)", parameters="json_sample = {}\nsize: int = 1\ntoken: 'Secret' = ''")
    value = "tok-9fK2mQ7xW4vZ8bN1"
    done = run(
        notebook(
            "import libsafe_nb\nsaid = []\n"
            f"for params in ({{'token': {value[::-1]!r}[::-1]}}, {{'size': 'x'}}, {{'nosuch': 1}}, {{'size': {{'$secret': 'o'}}}}):\n"
            f"    try:\n        libsafe_nb.call({key!r}, params=params, version={version})\n"
            "    except libsafe_nb.errors.UsageError as exc:\n        said.append(str(exc))\n"
            "print(said)"
        )
    )

    assert done.status == "completed", done.error
    body = read(connection, done.evidence)
    told = [each["error"]["message"] for each in json.loads(body)["calls"]]
    for said, wanted in zip(
        told, ("token is a secret", "expected int", "unknown parameter", "Secret"), strict=True
    ):
        assert wanted in said
    assert value.encode() not in body
    assert list(functions.calls(function=key)) == []


SELF = """
import libsafe_nb
left = int(json_sample["function_params"].get("left", 0))
key = json_sample["function_data"]["function"]["key"]
if left:
    libsafe_nb.call(key, params={"left": left - 1}).result().raise_for_failure()
"""


def test_a_chain_ends_on_one_processor_with_one_at_a_time(tmp_path):
    """Nobody holds the place that what it waits for needs."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        with local.serve(tmp_path / "one") as place:
            os.sched_setaffinity(0, mine)
            functions = Functions(connect(settings=place.settings).client)
            key = publish_to(place.settings, tmp_path, SELF, parameters=takes("left"))
            functions.update(key, concurrency=1, container_concurrency=1)
            call = functions.call(key, container="1", params={"left": 2})
            assert end_of(functions, call["id"])["status"] == "completed"
            assert [each["status"] for each in functions.calls(function=key)] == ["completed"] * 3
    finally:
        os.sched_setaffinity(0, mine)


def test_cancelling_a_call_reaches_what_its_child_called(functions, publish, container, connection):
    last = publish("import time\nfor _ in range(600): time.sleep(0.1)")
    middle = publish(f"import libsafe_nb\nlibsafe_nb.call({last!r}).result()")
    first = publish(f"import libsafe_nb\nlibsafe_nb.call({middle!r}).result()")
    top = functions.call(first, container=container)
    wait_for(lambda: list(functions.calls(function=last, status="running")), 90)
    below = [next(functions.calls(function=each)) for each in (middle, last)]
    wait_for(lambda: connection.client.job(below[1]["job_id"])["status"] == "RUNNING", 60)
    functions.cancel(top["id"])

    assert [functions.get_call(each["id"])["status"] for each in (top, *below)] == ["cancelled"] * 3
    for each in below:
        wait_for(
            lambda job=each["job_id"]: [
                said for said in connection.client.messages(job) if said["message"].startswith("evidence: ")
            ],
            60,
            "the evidence of what was cancelled",
        )


def test_a_cancelled_job_starts_nothing_any_more(functions, publish, container, connection):
    key = publish("print(1)")
    job = connection.client.create_job(container)["id"]
    connection.client.update_job(job, status="CANCELLED")
    with (
        client_of(connection, job) as client,
        pytest.raises(errors.Conflict, match=f"job {job} was cancelled"),
    ):
        Functions(client).call(key, container=container)


def test_calls_go_thirty_two_deep_and_a_childs_writes_know_all_that_led_to_them(
    functions, publish, container, connection
):
    """By rows: so many kernels would show no more."""
    key = publish("print(1)")
    functions.update(key, paused=True)
    job, made = None, []
    for _ in range(33):
        with client_of(connection, job) as client:
            made.append(Functions(client).call(key, container=container))
        job = made[-1]["job_id"]
    deep = pytest.raises(errors.Conflict, match="functions call each other 32 deep already")
    with client_of(connection, job) as client, deep:
        Functions(client).call(key, container=container)
    functions.cancel(made[0]["id"])

    assert {functions.get_call(each["id"])["status"] for each in made} == {"cancelled"}


def test_a_runner_killed_after_its_call_leaves_a_record_with_it(
    functions, publish, notebook, container, connection, platform, tmp_path
):
    key = publish("print(1)", parameters=takes("x"))
    functions.update(key, paused=True)
    path = notebook(f"import libsafe_nb, time\nlibsafe_nb.call({key!r}, params={{'x': 1}})\ntime.sleep(600)")
    home = tmp_path / "state"
    environ = {**command_environment(platform), "LIBSAFE_NB_HOME": str(home)}
    command = [sys.executable, "-m", "libsafe_nb", "run", str(path), "--container", container]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        (call,) = wait_for(lambda: list(functions.calls(function=key)), 60)
        wait_for(lambda: f'"call": "{call["id"]}"' in next(home.glob("runs/*/events.jsonl")).read_text(), 10)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (found,) = recover.recover(settings=dataclasses.replace(platform.settings, home=home), lost=False)
    body = json.loads(read(connection, found.evidence))
    functions.cancel(call["id"])

    assert body["recovered"]["reason"] == "its runner ended while it ran"
    (told,) = body["calls"]
    assert (told["call"], told["job"], told["function"]) == (call["id"], call["job_id"], key)
    assert (told["params"], told["status"], told["evidence"]) == ({"x": 1}, "queued", None)


def test_a_platform_without_functions_says_so_in_one_sentence(connection, monkeypatch):
    for name in ("call_create", "queue_get"):
        known = endpoints.ENDPOINTS[name]
        other = endpoints.Endpoint(known.method, f"/nothing{known.path}", known.verified, known.does)
        monkeypatch.setitem(endpoints.ENDPOINTS, name, other)
    with pytest.raises(errors.PlatformError, match="this platform offers no way to call a function"):
        asking.ask(connection.client, "f", container="1")


def test_a_childs_write_starts_none_that_led_to_it(functions, publish, container, connection):
    parent, child, other = (publish("print(1)") for _ in range(3))
    for each in (parent, child, other):
        functions.update(each, paused=True)
    called = functions.call(parent, container=container)
    with client_of(connection, called["job_id"]) as client:
        below = Functions(client).call(child, container=container)
    for each in (parent, child, other):
        functions.add_trigger(each, "file_created", container_id=container, batch_seconds=0)
    key = connection.client.job_key(below["job_id"])
    mark = marks.mark(below["job_id"], container, "out.txt", key)
    connection.storage.put(container, "out.txt", b"x", metadata={marks.NAME: mark})
    (caused,) = wait_for(lambda: list(functions.calls(function=other)), 20)
    texts = [each["message"] for each in connection.client.messages(below["job_id"])]
    with client_of(connection, caused["job_id"]) as client:
        again = Functions(client).call(child, container=container)

    assert [len(list(functions.calls(function=each))) for each in (parent, child)] == [1, 2]
    assert any(f"a loop was stopped: this job's write would start {parent} again" in each for each in texts)
    for each in (again, caused, called):
        functions.cancel(each["id"])


# Without a platform ---------------------------------------------------------------------------------------------------


def runners_side(client=None, calls=None):
    """The runner's side of a run's calls, and what it tells."""
    told = []
    repeated = None if calls is None else Replay({}, calls=calls)
    made = children.Children(
        client, run="r", container="1", secrets=SecretSet([]), replay=repeated, tell=told.append
    )
    return made.known, told


def test_a_call_is_written_down_before_the_platform_is_asked():
    class Away:
        """Tells of functions, and is gone when one is called."""

        def call(self, name, **_):
            if name == "function_get":
                return {"kind": "notebook", "parameters": [{"name": "x"}]}
            assert told
            raise errors.Unreachable("nobody answers")

    known, told = runners_side(Away)
    with pytest.raises(errors.Unreachable):
        known["call"](function="f", params={"x": 1}, files=["/a"])
    (call,) = record.calls(told)

    assert told[0]["key"] == "r/call-1"
    assert (call["function"], call["params"], call["files"], call["status"]) == ("f", {"x": 1}, 1, "asked")
    assert (call["call"], call["error"]["type"]) == (None, "Unreachable")
    assert record.calls(told[:1])[0]["status"] == "asked"


def recorded(number, status="completed", **more):
    about = {"function": "f", "container": "1", "files": 0, "params": {"x": number}, "scraps": {"n": number}}
    return {"call": str(number), "job": str(number), "status": status, **about, **more}


def test_a_replay_answers_each_recorded_call_once_also_where_threads_took_other_turns():
    known, told = runners_side(calls=[recorded(1), recorded(2), recorded(3)])
    made = [known["call"](function="f", params={"x": number})["call"] for number in (2, 1, 9)]

    assert made == ["2", "1", "3"]
    assert [known["call_get"](call=each)["scraps"]["n"] for each in made] == [2, 1, 3]
    assert all(each["stubbed"] for each in record.calls(told))
    with pytest.raises(errors.ExecutionError, match="the recorded run made no further call of f"):
        known["call"](function="f")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"status": "running"}, "in the recorded run it was running to the end"),
        ({"scraps": None, "unread": "its evidence X cannot be read (gone)"}, "its evidence X cannot be read"),
    ],
)
def test_a_replay_makes_up_no_result(more, said):
    known, _ = runners_side(calls=[recorded(1, **more)])
    made = known["call"](function="f", params={"x": 1})

    with pytest.raises(errors.ExecutionError, match=said):
        known["call_get"](call=made["call"])


@pytest.mark.parametrize(
    ("about", "wanted"),
    [
        (
            {"kind": "notebook", "parameters": [{"name": "token", "secret": True}, {"name": "x"}]},
            {"token": "[redacted:token]", "Token": "[not taken]", "x": 1},
        ),
        ({"kind": "handler", "parameters": []}, dict.fromkeys(("token", "Token", "x"), "[not told]")),
        (None, dict.fromkeys(("token", "Token", "x"), "[not told]")),
    ],
)
def test_a_refused_call_tells_values_of_declared_names_alone_and_its_replay_the_same(about, wanted):
    class Refusing:
        def call(self, name, **_):
            if name == "function_get" and about is not None:
                return about
            raise errors.PlatformError("not so", status=400)

    given = {"token": "s-1", "Token": "s-2", "x": 1}
    calls = None
    for client in (Refusing, None):
        known, told = runners_side(client, calls)
        with pytest.raises(errors.UsageError, match="not so"):
            known["call"](function="f", params=given)
        calls = record.calls(told)
        assert [each["params"] for each in calls] == [wanted]
        assert "s-1" not in str(told)
        assert "s-2" not in str(told)


def test_what_a_handler_is_given_is_told_once_the_platform_took_it():
    class Taking:
        def call(self, name, **_):
            about = {"kind": "handler", "parameters": []}
            made = {"id": "1", "job_id": "2", "version": 1, "status": "queued"}
            return about if name == "function_get" else made

    known, told = runners_side(Taking)
    known["call"](function="f", params={"x": 1})

    assert [told[0]["params"], record.calls(told)[0]["params"]] == [{"x": "[not told]"}, {"x": 1}]


def test_a_replay_tells_no_value_that_the_record_does_not():
    given = {"x": "own", "big": 2**60, "flag": True, "new": "v"}
    before = record.plain({"x": "other", "big": 2**60, "flag": 1})
    known, told = runners_side(calls=[recorded(1, params=before)])
    known["call"](function="f", params=given)

    assert record.calls(told)[0]["params"] == {**dict.fromkeys(given, "[not told]"), "big": str(2**60)}


def test_a_replay_tells_an_error_in_the_order_in_which_the_platform_did():
    error = {"type": "ValueError", "message": "no", "cell_id": "c"}
    known, _ = runners_side(calls=[recorded(1, "failed", error=dict(sorted(error.items())))])
    made = known["call"](function="f", params={"x": 1})

    assert list(known["call_get"](call=made["call"])["error"].items()) == list(error.items())
