"""Calls that depend on others, and what becomes of a workflow when they fail: on the real platform, with real workers."""

import dataclasses
import json
import pickle
import threading
import time
from pathlib import Path

import pytest
from conftest import REQUEST, takes, write_function
from engine_runs import wait_for
from test_calls import GLUE, publish_to, read
from test_run import command_environment

import libsafe_nb
from libsafe_nb import asking, children, errors, flow, holding, references, replay
from libsafe_nb.functions import Functions
from libsafe_nb.recordedcalls import ENDED
from libsafe_nb.redact.matching import SecretSet

WRITE = f"""{REQUEST}{GLUE}
from libnova.com.Api import File as Files
name = json_sample["function_params"]["name"]
container = json_sample["function_data"]["container"]["id"]
for end in ("txt", "csv"):
    Files.write(container, f"/out/{{name}}.{{end}}", f"made {{name}}\\n")
glue("pages", len(name))
"""
COUNT = f"""{REQUEST}{GLUE}
glue("files", sorted(file.fullpath for file in request.Files))
glue("x", json_sample["function_params"].get("x"))
"""
SLEEP = "import time\nfor _ in range(6000): time.sleep(0.1)"
STEP = """
import json
def handler(context, event):
    print("stepped")
"""
WORKFLOW = f"""{REQUEST}{GLUE}
import os, time
from concurrent.futures import ThreadPoolExecutor
import libsafe_nb
from libsafe_nb import call, gather, map_call
keys = json_sample["function_params"]

began = time.monotonic()
one = call(keys["write"], params={{"name": "one"}})
two = call(keys["write"], params={{"name": "second"}})
both = call(keys["count"], files=[one, two.outputs.matching("*.csv")], params={{"x": {{"deep": [one.scraps["pages"], "as it is"]}}}})
late = call(keys["count"], after=[one, both])
failed = call(keys["fail"])
blocked = [
    call(keys["count"], files=failed),
    call(keys["count"], params={{"x": [failed.scraps["n"]]}}),
    call(keys["count"], params={{"x": one.scraps["absent"]}}),
]
again = call(keys["count"], files=blocked[0].outputs, on_failure="continue")
anyway = call(keys["count"], after=failed)
hung = call(keys["sleep"], timeout=1.5)
killed = call(keys["kill"], retries=0)
beside = call("./beside.ipynb", params={{"x": "beside"}})
address = call(f"libsafe://{{json_sample['function_data']['container']['id']}}/code/step.py", after=beside)
glue("at once", [time.monotonic() - began < 5, both.status, both.id, late.status])
mapped = map_call(keys["count"], ["/in/a.txt", "/in/b.txt", "/in/c.txt"], each=2)

done = both.result().raise_for_failure()
glue("both", [done.scraps["files"], done.scraps["x"]])
written = one.result().outputs
glue("outputs", [[each["path"], each["size"], each["id"] is not None] for each in written])
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, f"{{call(keys['count'], files=written).result().scraps['files']}} {{late.result().status}}".encode())
    os._exit(0)
glue("of a fork", os.read(reader, 1000).decode())
with ThreadPoolExecutor(4) as pool:
    ends = list(pool.map(lambda each: each.result(), [*blocked, again, anyway]))
glue("ends", [[each.status, (each.error or {{}}).get("type")] for each in ends])
glue("hung", [hung.result().status, hung.result().error["type"]])
glue("killed", [killed.result().status, killed.result().error["type"]])
glue("by path", [gather(beside, address)[0].scraps["x"], beside.function])
glue("mapped", [each.scraps["files"] for each in gather(*mapped, timeout=300)])
try:
    gather(one, blocked[0], failed)
except libsafe_nb.errors.DependencyFailed as exc:
    glue("gathered", str(exc))
unasked = call(keys["write"], params={{"name": "unasked"}})
unasked_too = call(keys["count"], files=unasked)
"""


@pytest.fixture(scope="module")
def place(platform, connection, tmp_path_factory):
    """A container with files and code in it, the functions' keys, and the folder of a workflow that has run."""
    folder = tmp_path_factory.mktemp("held")
    container = connection.client.create_container("held")["id"]
    for name in "abc":
        connection.storage.put(container, f"in/{name}.txt", b"hello")
    connection.storage.put(container, "code/step.py", STEP.encode())
    keys = {
        "write": publish_to(platform.settings, folder, WRITE, parameters=takes("name")),
        "count": publish_to(platform.settings, folder, COUNT, parameters=takes("x")),
        "fail": publish_to(platform.settings, folder, "raise ValueError('no')"),
        "sleep": publish_to(platform.settings, folder, SLEEP),
        "kill": publish_to(platform.settings, folder, "import os\nos.kill(os.getpid(), 9)"),
    }
    write_function(folder / "beside.ipynb", COUNT, parameters=takes("x"))
    wait_for(lambda: connection.client.file_by_path(container, "/in/c.txt"), 20)

    def run(source, name="workflow.ipynb", **options):
        path = write_function(folder / name, source, parameters=takes(*keys))
        return libsafe_nb.run(
            None, path, container=container, settings=platform.settings, params=keys, **options
        )

    return container, keys, run


@pytest.fixture(scope="module")
def whole(place, connection):
    """A workflow that has run, and its record."""
    done = place[2](WORKFLOW)
    assert done.status == "completed", done.error
    return done, json.loads(read(connection, done.evidence))


def test_a_call_returns_at_once_and_is_held_back_until_what_it_depends_on_has_ended(whole):
    done, body = whole
    calls = {each["number"]: each for each in body["calls"]}

    assert done.scraps["at once"] == [True, "held", None, "held"]
    assert calls[3]["started"] >= max(calls[1]["ended"], calls[2]["ended"])
    assert calls[4]["started"] >= calls[3]["ended"]


def test_outputs_and_scraps_are_what_the_calls_wrote_and_glued(whole):
    done, _ = whole

    assert done.scraps["both"] == [
        ["/out/one.csv", "/out/one.txt", "/out/second.csv"],
        {"deep": [3, "as it is"]},
    ]
    assert sorted(done.scraps["outputs"]) == [["/out/one.csv", 9, True], ["/out/one.txt", 9, True]]
    assert done.scraps["of a fork"] == "['/out/one.csv', '/out/one.txt'] completed"


def test_what_takes_something_of_a_failed_call_is_never_made_and_what_is_only_after_it_is(whole):
    ends = whole[0].scraps["ends"]

    assert ends == [*[["cancelled", "DependencyFailed"]] * 4, ["completed", None]]
    assert "count" not in whole[0].scraps["gathered"]
    assert "call 5 (" in whole[0].scraps["gathered"]
    assert "failed: ValueError: no, and it takes something of it" in whole[0].scraps["gathered"]


def test_a_call_ends_with_its_time_and_one_that_cannot_be_executed_after_its_attempts(whole):
    done, body = whole

    assert done.scraps["hung"] == ["failed", "RunTimeout"]
    assert done.scraps["killed"] == ["dead", "KernelDied"]
    assert {each["number"]: each["attempts"] for each in body["calls"]}[12] == 1


def test_a_function_is_called_by_its_path_and_by_its_address(whole, functions):
    done, body = whole

    assert done.scraps["by path"] == ["beside", "by-path.beside"]
    assert [each["status"] for each in body["calls"] if each["function"] == "by-path.step"] == ["completed"]
    assert [each["key"] for each in functions.all() if each["key"].startswith("by-path")] == []


def test_one_call_for_each_so_many_files(whole):
    assert whole[0].scraps["mapped"] == [["/in/a.txt", "/in/b.txt"], ["/in/c.txt"]]


def test_a_run_ends_when_all_its_calls_have_and_its_record_tells_how_also_of_those_that_nobody_asked_about(
    whole,
):
    _, body = whole
    states = [each["status"] for each in body["calls"]]

    assert states[-2:] == ["completed", "completed"]
    assert (states.count("failed"), states.count("dead"), states.count("cancelled")) == (2, 1, 4)
    assert all(each["evidence"] for each in body["calls"] if each["status"] != "cancelled")
    assert [each["number"] for each in body["calls"]] == list(range(1, len(states) + 1))


def test_the_graph_shows_what_each_depends_on(whole, platform):
    done, body = whole
    nodes = {each.number: each for each in flow.of_record(body)}
    calls = {each["number"]: each for each in body["calls"]}

    assert set(nodes[3].after) == {"1", "2"}
    assert set(nodes[4].after) == {"1", "3"}
    assert (calls[4]["after"], calls[10]["after"]) == ([1, 3], [5])
    assert calls[3]["used"] == [{"number": 1, "scraps": ["pages"]}, {"number": 2}]
    assert (calls[6]["used"], calls[7]["used"]) == ([{"number": 5}], [{"number": 5, "scraps": ["n"]}])
    assert calls[7]["params"] == {"x": ["[scrap n of call 5]"]}
    assert calls[3]["params"] == {"x": {"deep": [3, "as it is"]}}
    found = libsafe_nb.verify(done.evidence, deep=True, settings=platform.settings)
    assert found.exit_code == 0, found.checks


def test_a_replay_of_it_starts_nothing_and_comes_to_the_same(whole, functions, platform):
    done, _ = whole
    before = len(list(functions.calls(container_id=done.container)))
    found = replay.replay(done.evidence, settings=platform.settings)

    assert found.run.status == "completed", found.run.error
    assert len(list(functions.calls(container_id=done.container))) == before
    names = ("both", "outputs", "of a fork", "ends", "hung", "killed", "by path", "mapped", "gathered")
    given = {name: found.run.scraps[name] for name in names}
    given["outputs"] = [[*each[:2], True] for each in given["outputs"]]
    assert given == {name: done.scraps[name] for name in names}


STOP = """
import libsafe_nb
keys = json_sample["function_params"]
failed = libsafe_nb.call(keys["fail"], on_failure="stop")
others = [libsafe_nb.call(keys["sleep"]), libsafe_nb.call(keys["count"], after=failed), libsafe_nb.call(keys["count"], files=failed)]
print([each.result().status for each in (failed, *others)])
try:
    libsafe_nb.call(keys["count"])
except libsafe_nb.errors.Conflict as exc:
    print(exc)
"""


def test_a_failure_that_stops_cancels_all_others_and_the_workflow_has_failed(place, connection):
    done = place[2](STOP, "stop.ipynb")
    said = read(connection, done.evidence, "executed.ipynb").decode()
    body = json.loads(read(connection, done.evidence))

    assert (done.status, done.cause, done.error["type"]) == ("failed", "call-failed", "CallFailed")
    assert "failed: ValueError: no, and its on_failure is stop" in done.error["message"]
    assert "no further call is made: call 1 (" in said
    assert [each["status"] for each in body["calls"]] == ["failed", *["cancelled"] * 3]
    assert body["status"] == "failed"
    assert connection.client.job(done.job)["status"] == "FAILED"


POLICIES = """
import time
import libsafe_nb
given = json_sample["function_params"]
beside = libsafe_nb.call(given["beside"])
while beside.status == "queued":
    time.sleep(0.05)
step = libsafe_nb.call(given["step"], **given["policy"])
libsafe_nb.call(given["count"], files=step)
libsafe_nb.call(given["count"], after=step)
step.result()
"""
HOW = {
    "continue": {"retries": 0},
    "retry": {"retries": 1},
    "stop": {"retries": 0, "on_failure": "stop"},
}
STEPS = {
    # What it ends as, with which error, and after how many attempts where it may be tried again.
    "fail": ("failed", "ValueError", 1),
    "sleep": ("failed", "RunTimeout", 1),
    "kill": ("dead", "KernelDied", 2),
}


@pytest.mark.parametrize("policy", HOW)
@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_hangs_or_dies_with_each_policy(
    place, platform, functions, connection, tmp_path, step, policy
):
    container, keys, _ = place
    functions.update(keys["kill"], backoff=0)
    status, error, attempts = STEPS[step]
    stops = policy == "stop"
    params = {"step": keys[step], "beside": keys["sleep" if stops else "count"], "count": keys["count"]}
    params["policy"] = {**HOW[policy], **({"timeout": 1.5} if step == "sleep" else {})}
    path = write_function(tmp_path / "policies.ipynb", POLICIES, parameters=takes(*params))
    done = libsafe_nb.run(None, path, container=container, settings=platform.settings, params=params)
    body = json.loads(read(connection, done.evidence))
    beside, the_step, takes_of_it, only_after = body["calls"]

    assert (the_step["status"], the_step["error"]["type"]) == (status, error)
    assert the_step["attempts"] == (attempts if policy == "retry" else 1)
    if stops:
        assert [each["status"] for each in (beside, takes_of_it, only_after)] == ["cancelled"] * 3
        assert (done.status, done.cause, done.error["type"]) == ("failed", "call-failed", "CallFailed")
    else:
        assert (takes_of_it["status"], takes_of_it["error"]["type"]) == ("cancelled", "DependencyFailed")
        assert beside["status"] == only_after["status"] == done.status == "completed"
    assert connection.client.job(done.job)["status"] == ("FAILED" if stops else "COMPLETED")
    ran = [each for each in body["calls"] if each["call"] is not None]
    assert len(ran) == (2 if stops else 3)
    assert all(each["evidence"] for each in ran)
    found = libsafe_nb.verify(done.evidence, deep=True, settings=platform.settings)
    assert found.exit_code == 0, "\n".join(map(str, found.checks))


LEFT = """
import libsafe_nb
slow = libsafe_nb.call(json_sample["function_params"]["sleep"])
held = libsafe_nb.call(json_sample["function_params"]["count"], files=slow)
"""


@pytest.mark.parametrize("ends", ["out of time", "cancelled"])
def test_a_run_that_waits_for_its_calls_and_is_ended_cancels_them(place, connection, functions, ends):
    _, keys, run = place
    done = run(LEFT, "left.ipynb", timeout=8 if ends == "out of time" else None, wait=ends == "out of time")
    if ends == "cancelled":
        wait_for(lambda: list(functions.calls(function=keys["sleep"], status="running")), 60)
        done.cancel("enough")
        done.wait(60)
    body = json.loads(read(connection, done.evidence))

    assert (done.status, done.cause) == {
        "out of time": ("timeout", "run-timeout"),
        "cancelled": ("cancelled", "cancelled"),
    }[ends]
    assert [each["status"] for each in body["calls"]] == ["cancelled", "cancelled"]
    assert body["calls"][1]["call"] is None
    assert list(functions.calls(function=keys["sleep"], status="running")) == []


@pytest.fixture
def outside(platform, monkeypatch):
    """This process, which is no run, makes calls of the platform's functions."""
    monkeypatch.setattr("libsafe_nb.interactive.payload._asked", [])
    for name, value in command_environment(platform).items():
        if name.startswith("LIBSAFE_"):
            monkeypatch.setenv(name, value)


def test_a_call_whose_answer_was_lost_is_found_again_to_be_cancelled(place, outside, functions, monkeypatch):
    container, keys, _ = place
    ask, lost, there = asking.ask, set(), threading.Event()

    def answers_nobody_at_first(client, function, **options):
        made = ask(client, function, **options)
        if function == keys["sleep"] and not there.is_set():
            lost.add(made["call"])
            raise errors.Unreachable("the answer was lost")
        return made

    monkeypatch.setattr(asking, "ask", answers_nobody_at_first)
    first = libsafe_nb.call(keys["write"], params={"name": "lost"}, container=container)
    then = libsafe_nb.call(keys["sleep"], after=first, container=container)
    wait_for(lambda: lost, 60, "the call")
    then.cancel()

    assert then.id is None
    there.set()
    wait_for(lambda: then.status == "cancelled", 60, "the cancelled call")
    assert {then.id} == lost
    assert functions.get_call(then.id)["status"] == "cancelled"


def test_who_tries_again_after_a_lost_answer_starts_nothing_twice(place, outside, monkeypatch):
    container, keys, _ = place
    ask, lost = asking.ask, []

    def answers_nobody_at_first(*arguments, **options):
        made = ask(*arguments, **options)
        if not lost:
            lost.append(made["call"])
            raise errors.Unreachable("the answer was lost")
        return made

    monkeypatch.setattr(asking, "ask", answers_nobody_at_first)
    with pytest.raises(errors.Unreachable):
        libsafe_nb.call(keys["count"], params={"x": "once"}, container=container)
    again = libsafe_nb.call(keys["count"], params={"x": "once"}, container=container)
    another = libsafe_nb.call(keys["count"], params={"x": "once"}, container=container)

    assert again.id == lost[0] != another.id
    assert again.result(60).status == another.result(60).status == "completed"


@pytest.fixture
def nonsense(monkeypatch):
    """Of calls of the functions that it holds the platform tells what makes no sense, once they have ended."""
    odd = set()

    def garbled(found):
        ended = found["status"] in ENDED and found["function"] in odd
        return {name: value for name, value in found.items() if not (ended and name == "sha256")}

    look, get_call = Functions.look, Functions.get_call
    monkeypatch.setattr(Functions, "look", lambda *given, **named: map(garbled, look(*given, **named)))
    monkeypatch.setattr(Functions, "get_call", lambda *given: garbled(get_call(*given)))
    return odd


def test_an_answer_that_makes_no_sense_keeps_no_other_call_waiting(place, outside, functions, nonsense):
    container, keys, _ = place
    nonsense.add(keys["write"])
    odd = libsafe_nb.call(keys["write"], params={"name": "odd"}, container=container)
    wait_for(lambda: functions.get_call(odd.id)["status"] == "completed", 60, "the odd one")

    assert libsafe_nb.call(keys["count"], container=container).result(60).status == "completed"
    with pytest.raises(errors.PlatformError, match="expected of a call its status, job and times"):
        _ = odd.status


NONSENSE = """
import libsafe_nb
odd = libsafe_nb.call(json_sample["function_params"]["write"], params={"name": "odd"})
after = libsafe_nb.call(json_sample["function_params"]["count"], after=[odd])
takes = libsafe_nb.call(json_sample["function_params"]["count"], files=odd)
"""


def test_a_run_of_whose_call_nothing_else_is_told_ends_with_its_evidence(
    place, connection, nonsense, monkeypatch
):
    monkeypatch.setattr(holding, "SENSELESS", 2.0)
    _, keys, run = place
    nonsense.add(keys["write"])
    done = run(NONSENSE, "nonsense.ipynb")
    body = json.loads(read(connection, done.evidence))

    assert done.status == "completed"
    odd, _, takes = body["calls"]
    assert [each["status"] for each in body["calls"]] == ["dead", "completed", "cancelled"]
    assert "expected of a call its status, job and times" in odd["error"]["message"]
    assert "call 1 (" in takes["error"]["message"]


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"error": "no", "scraps": [1]}, ({"type": "Queue", "message": "no", "cell_id": None}, {})),
        ({"error": {"type": "E", "message": "m"}}, ({"type": "E", "message": "m"}, {})),
        ("nothing", (None, {})),
    ],
)
def test_a_result_that_is_not_as_ours_is_told_as_one(result, told):
    call = {"status": "failed", "job_id": "1", "version": 1, "sha256": "a", "error": None}
    job = {"result": result, "date_start": None, "date_end": None, "evidence": None}
    found = asking.seen(None, call, job)

    assert (found["error"], found["scraps"]) == told


def test_outside_a_run_this_process_holds_back(place, outside):
    container, keys, _ = place
    one = libsafe_nb.call(keys["write"], params={"name": "mine"}, container=container)
    then = libsafe_nb.call(keys["count"], files=one, params={"x": one.scraps["pages"]}, container=container)
    assert (then.status, then.id) == ("held", None)
    done = then.result(120).raise_for_failure()

    assert (done.scraps["files"], done.scraps["x"]) == (["/out/mine.csv", "/out/mine.txt"], 4)
    assert pickle.loads(pickle.dumps(one)).result(5).status == "completed"
    again = libsafe_nb.call(keys["write"], params={"name": "mine"}, container=container, reuse="unchanged")
    assert (again.id, again.result(5)) == (None, dataclasses.replace(one.result(), call=None))
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(8):
        libsafe_nb.call(keys["count"], container=container).cancel()
    assert len(list(Path("/proc/self/fd").iterdir())) < opened + 4
    with pytest.raises(errors.UsageError, match="unknown parameter"):
        libsafe_nb.call(keys["fail"], params={"y": 1}, after=one, container=container)
    with pytest.raises(errors.NotFound, match="there is no function 'absent'"):
        libsafe_nb.call(
            "absent", after=libsafe_nb.call(keys["count"], container=container), container=container
        )


# Without a platform ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"params": {"x": "a" * 1024 * 1024}},
            "params: expected at most 1,048,576 bytes as JSON, got 1,048,585",
        ),
        ({"params": {"x": references.Outputs("k")}}, "a call's outputs are files"),
        ({"params": {"m": {1: 2}}}, "params: m: expected names as text, got 1, int"),
        ({"params": {None: 2}}, "params: expected names as text, got None, NoneType"),
        ({"params": {"x": [references.Scraps("k")]}}, "params: x.0: expected one scrap, by its name"),
        ({"after": ["k"]}, "after: expected calls, got str"),
        ({"timeout": 0}, "timeout: expected a number from 0.001"),
        ({"retries": 1.5}, "retries: expected a number, got 1.5"),
        ({"reuse": "always"}, "reuse: expected one of None, 'unchanged', got 'always'"),
        ({"on_failure": "ignore"}, "on_failure: expected one of 'continue', 'stop'"),
    ],
)
def test_bad_usage_asks_nobody(more, said):
    with pytest.raises(errors.UsageError, match=said):
        libsafe_nb.call("f", **more)


def test_a_path_that_is_none_is_told(tmp_path):
    for path, said in (
        (tmp_path / "absent.ipynb", "there is no such file"),
        (tmp_path, "expected a notebook"),
        (f"{tmp_path}/absent.sh", "expected a notebook"),
    ):
        with pytest.raises(errors.NotebookError, match=said):
            libsafe_nb.call(path)
    with pytest.raises(errors.UsageError, match="its only version"):
        libsafe_nb.call("a.ipynb", version=1)


def test_map_call_says_what_it_cannot_count():
    outputs = libsafe_nb.Call("k", "f", "1").outputs
    with pytest.raises(errors.UsageError, match="known when it has ended"):
        libsafe_nb.map_call("f", outputs)
    with pytest.raises(errors.UsageError, match="each: expected a number"):
        libsafe_nb.map_call("f", ["/a"], each=0)
    with pytest.raises(errors.UsageError, match="at most 10,000 calls"):
        libsafe_nb.map_call("f", [str(number) for number in range(1, 10_002)])


def test_what_fits_is_told_by_the_path_and_what_was_written_again_counts_once():
    wrote = [
        {"container": "1", "path": path}
        for path in ("/out/a.csv", "out/b.csv", "/c.csv", "/out/a.csv", "/x.txt")
    ]
    chosen = {
        pattern: [references.slashed(each["path"]) for each in references.fitting(wrote, pattern)]
        for pattern in (None, "*.csv", "out/*", "/out/a*", "*.CSV")
    }

    assert chosen == {
        None: ["/out/a.csv", "/out/b.csv", "/c.csv", "/x.txt"],
        "*.csv": ["/out/a.csv", "/out/b.csv", "/c.csv"],
        "out/*": ["/out/a.csv", "/out/b.csv"],
        "/out/a*": ["/out/a.csv"],
        "*.CSV": [],
    }


def test_a_reference_stands_where_it_was_written():
    scraps = references.Scraps("k")
    plain, places = references.taken(
        {"a": {"b": [1, scraps["n"]]}, "c": (scraps["m"],), "$scrap": {"call": "k"}}
    )

    assert plain == {"a": {"b": [1, None]}, "c": [None], "$scrap": {"call": "k"}}
    assert references.filled(plain, json.loads(json.dumps(places)), [{"v": 1}, 2]) == {
        "a": {"b": [1, {"v": 1}]},
        "c": [2],
        "$scrap": {"call": "k"},
    }
    with pytest.raises(TypeError):
        list(scraps)


class Queue:
    """A platform's queue of which the test says what has ended."""

    def __init__(self, full=0):
        self.ends, self.made, self.cancelled, self.looks, self.full = {}, [], [], 0, full
        self.changed = threading.Event()
        self.hurried = set()

    def start(self, name):
        def start():
            if self.full:
                self.full -= 1
                raise errors.Unreachable("too many wait", status=429)
            self.made.append(name)
            return {"call": name, "status": "queued"}

        return start

    def ended(self, calls, seconds, question):
        self.looks += 1
        deadline = time.monotonic() + seconds
        while not (found := [each for each in calls if each in self.ends]) and time.monotonic() < deadline:
            if question in self.hurried:
                break
            time.sleep(0.005)
        ends = [(each, self.ends[each]) for each in found]
        return [(each, {"status": how} if isinstance(how, str) else how) for each, how in ends]

    def cancel(self, call):
        self.cancelled.append(call)
        self.ends[call] = "cancelled"
        return {"status": "cancelled"}

    def holding(self):
        self.told = []
        return holding.Holding(
            ends=self.ended,
            wake=self.hurried.add,
            tell=lambda held, found: self.told.append((held.key, found["status"])),
            cancel=self.cancel,
        )

    def held(self, name, *before, stops=False):
        return holding.Held(name, len(name), "f", frozenset(before), stops, self.start(name))


@pytest.fixture
def queue():
    made = Queue()
    yield made
    made.kept.close()


def test_a_thousand_open_calls_are_one_question_and_what_was_held_is_asked_for_at_once(queue):
    kept = queue.kept = queue.holding()
    names = [f"call-{number}" for number in range(1000)]
    for name in names:
        kept.add(queue.held(name))
    last = queue.held("last", *names)
    kept.add(last)
    time.sleep(1.2)
    before = queue.looks
    time.sleep(0.5)
    assert queue.looks - before <= 1
    queue.ends |= dict.fromkeys(names, "completed")
    began = time.monotonic()
    wait_for(lambda: "last" in queue.made, 5)
    assert time.monotonic() - began < 1
    # One that came during a long question is not overlooked.
    time.sleep(1.2)
    kept.add(more := queue.held("more"))
    queue.ends["more"] = "failed"
    assert more.ended.wait(1)


def test_a_chain_of_ten_thousand_is_cancelled_without_making_one(queue):
    kept = queue.kept = queue.holding()
    kept.add(queue.held("0"))
    for number in range(1, 10_000):
        kept.add(queue.held(str(number), str(number - 1)))
    kept.cancel_all({"type": "RunCancelled", "message": "", "cell_id": None})

    assert kept.wait_for_all(5, lambda: False)
    assert (queue.made, queue.cancelled) == (["0"], ["0"])
    assert len(queue.told) == 9_999


def test_one_that_may_have_been_made_is_asked_for_again_before_it_is_cancelled(queue, monkeypatch):
    monkeypatch.setattr(holding, "AGAIN", 0.05)
    queue.kept = kept = queue.holding()
    answers, doubt = iter([errors.Unreachable("no answer")] * 3), [False]

    def start():
        doubt[0] = True
        for lost in answers:
            raise lost
        return queue.start("late")()

    kept.add(queue.held("a"))
    held = dataclasses.replace(queue.held("late", "a"), start=start, doubtful=lambda: doubt[0])
    kept.add(held)
    queue.ends["a"] = "completed"
    wait_for(lambda: doubt[0], 5)
    kept.cancel_all({"type": "RunCancelled", "message": "", "cell_id": None})
    kept.wait_for_doubtful(5)

    assert (held.state, held.found["status"], queue.cancelled) == ("ended", "cancelled", ["late"])
    assert queue.told == []


def test_what_finds_the_queue_full_is_made_later_in_its_order(monkeypatch):
    monkeypatch.setattr(holding, "AGAIN", 0.05)
    queue = Queue(full=3)
    kept = queue.holding()
    calls = [queue.held(name) for name in "abc"]
    for each in calls:
        kept.add(each)
    assert [each.found["status"] for each in calls] == ["held"] * 3
    wait_for(lambda: queue.made == ["a", "b", "c"], 5)
    kept.close()


@pytest.mark.parametrize("fault", [ValueError("odd"), RecursionError()])
def test_a_fault_of_ours_while_a_call_is_made_leaves_none_that_never_ends(queue, fault):
    def start():
        raise fault

    queue.kept = kept = queue.holding()
    first = queue.held("a")
    kept.add(first)
    held = dataclasses.replace(queue.held("b", "a"), start=start)
    kept.add(held)
    with pytest.raises(type(fault)):
        kept.add(dataclasses.replace(queue.held("c"), start=start))
    queue.ends["a"] = "completed"

    assert kept.wait_for_all(20, lambda: False)
    assert (held.found["status"], held.found["error"]["type"]) == ("refused", type(fault).__name__)


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_call_ends_whose_start_is_interrupted_or_cannot_be_told(fault, monkeypatch):
    """By hand, without the thread: what is raised while the end of one call starts the next."""
    monkeypatch.setattr(holding.Holding, "_begin", lambda self: None)
    queue = Queue()
    kept = queue.holding()

    def raises(*_):
        raise fault

    kept.add(queue.held("a"))
    held = [dataclasses.replace(queue.held(name, "a"), start=raises) for name in ("b", "cc")]
    for each in held:
        kept.add(each)
    if isinstance(fault, Exception):
        kept._tell = raises
    for _ in held:
        with pytest.raises(type(fault)):
            kept.end(kept.get("a"), {"status": "completed"})
    assert [each.found["status"] for each in held] == ["refused"] * 2
    assert kept.wait_for_all(0, lambda: False)
    kept.close()


def test_what_could_not_be_told_of_one_loses_no_other(monkeypatch):
    monkeypatch.setattr(holding, "AGAIN", 0.05)
    queue = Queue(full=3)
    kept = queue.holding()
    calls = [queue.held(name) for name in ("a", "b", "c")]
    for each in calls:
        kept.add(each)
    calls[0].start = lambda: 1 / 0
    told = kept._tell

    def full_disk(held, found):
        kept._tell = told
        raise OSError(28, "No space left on device")

    kept._tell = full_disk
    wait_for(lambda: queue.made == ["b", "c"], 5)
    assert calls[0].found["status"] == "refused"
    kept.close()


def test_nonsense_about_one_keeps_no_other_from_being_made_and_is_given_up_in_time(queue, monkeypatch):
    monkeypatch.setattr(holding, "AGAIN", 0.05)
    kept = queue.kept = queue.holding()
    odd, late = queue.held("odd"), queue.held("late")
    kept.add(odd)
    queue.ends["odd"] = errors.PlatformError("nonsense")
    wait_for(lambda: odd.senseless_since is not None, 5)
    queue.full = 2
    kept.add(late)
    wait_for(lambda: queue.made == ["odd", "late"], 5)
    assert odd.state == "open"
    monkeypatch.setattr(holding, "SENSELESS", 0.1)
    queue.ends["late"] = "completed"

    assert kept.wait_for_all(5, lambda: False)
    assert (odd.found["status"], queue.told) == ("dead", [("odd", "dead")])
    assert odd.found["error"]["message"] == "nonsense"


def test_a_platform_that_answers_nothing_at_once_is_not_asked_without_a_pause():
    queue = Queue()
    looks = []

    def gone(calls, seconds, question):
        looks.append(question)
        return ()

    kept = holding.Holding(ends=gone, wake=queue.hurried.add, tell=lambda *_: None, cancel=queue.cancel)
    kept.add(queue.held("a"))
    time.sleep(0.5)
    assert 1 <= len(looks) <= 3
    kept.close()


def test_a_call_that_is_cancelled_by_its_author_stops_nothing(queue):
    kept = queue.kept = queue.holding()
    one, two = queue.held("one", stops=True), queue.held("two")
    kept.add(one)
    kept.add(two)
    kept.cancel(one, {})

    assert kept.stopped is None
    queue.ends["two"] = "failed"
    assert kept.wait_for_all(5, lambda: False)


def test_a_run_makes_so_many_calls_and_no_more(monkeypatch):
    class Taking:
        def call(self, name, **_):
            return {
                "id": "1",
                "job_id": "2",
                "version": 1,
                "sha256": None,
                "status": "completed",
                "error": None,
            }

        def job(self, job):
            return {"result": None, "evidence": None, "date_start": None, "date_end": None}

    monkeypatch.setattr(children, "MOST", 2)
    made = children.Children(
        Taking, run="r", container="1", secrets=SecretSet([]), replay=None, tell=lambda event: None
    )
    for _ in range(2):
        made.known["call"](function="f")
    with pytest.raises(errors.UsageError, match="at most 2 calls of one run, got one more"):
        made.known["call"](function="f")
    with pytest.raises(errors.UsageError, match="a call of another run or process"):
        made.known["call"](function="f", after=["r/call-9"])
    made.close()


def test_a_question_of_many_calls_can_be_hurried_also_before_it_comes(functions, publish, container):
    """By rows, and by the clock: nothing runs."""
    key = publish("print(1)")
    functions.update(key, paused=True)
    calls = [functions.call(key, container=container)["id"] for _ in range(2)]
    threading.Timer(0.3, functions.hurry, ["a"]).start()
    functions.hurry("b")
    for question, least in (("a", 0.2), ("b", 0.0)):
        began = time.monotonic()
        assert functions.look(calls, ended=True, wait=20, question=question) == []
        assert least <= time.monotonic() - began < 5
    for each in calls:
        functions.cancel(each)
