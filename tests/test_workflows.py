"""Workflows as their evidence tells them: one real run that calls others, on the real platform, read in every way."""

import json
import re
import shutil
import tracemalloc

import jsonschema
import pytest
import tampering
from click.testing import CliRunner
from conftest import REQUEST, takes, write_function
from engine_runs import wait_for
from tampering import Copy
from test_calls import end_of, publish_to, read
from test_crate import cache, entities, problems, read_back, references  # noqa: F401 - fixtures of that module
from test_record_schema import SCHEMA
from test_run import command_environment

import libsafe_nb
from libsafe_nb import archive, history, record, telling
from libsafe_nb.chaincheck import Chain
from libsafe_nb.checks import Check, Report
from libsafe_nb.cli import cli
from libsafe_nb.deepcheck import Tree
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


# verify --deep ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(flow, connection, tmp_path_factory):
    """A copy of the container, made once."""
    return tampering.download(connection, flow[1]["container"], tmp_path_factory.mktemp("whole") / "copy")


@pytest.fixture
def copy(whole, tmp_path):
    return Copy(shutil.copytree(whole.root, tmp_path / "copy"))


def numbers(copy):
    """Of a copy the positions of the records: the workflow's, and of those that it called, by its number of the call."""
    bodies = [copy.record(number) for number in range(len(copy.folders()))]
    (top,) = [number for number, each in enumerate(bodies) if each["parent"] is None]
    places = {each["id"].removeprefix("urn:uuid:"): number for number, each in enumerate(bodies)}
    return top, {each["number"]: places[each["run"]] for each in bodies[top]["calls"]}


def deep(copy, name=None, **options):
    return libsafe_nb.verify(
        copy.root if name is None else copy.folders()[name], deep=True, head=copy.head(), **options
    )


def told(report, name):
    return [(each.result, each.detail) for each in report.checks if each.name == name]


def test_a_whole_tree_is_verified_over_s3_from_its_top(flow, platform):
    seen = []
    found = libsafe_nb.verify(
        flow[1]["evidence"], deep=True, settings=platform.settings, seen=lambda each: seen.append(each)
    )

    assert (found.exit_code, found.checks) == (0, ())
    assert found.nodes == {"ok": 7}
    assert [each.name for each in seen].count("call") == 6
    assert [each.name for each in seen].count("used") == 2
    assert len([each for each in seen if each.name == "sums" and each.place.endswith("report.html")]) == 7


def test_a_whole_tree_is_verified_in_a_copy_and_each_run_once(copy):
    for name in (None, numbers(copy)[0]):
        found = deep(copy, name)
        assert (found.exit_code, found.checks, found.nodes) == (0, (), {"ok": 7})
    assert libsafe_nb.verify(copy.root, head=copy.head()).nodes == {}


def test_an_altered_record_of_a_call_is_told_though_all_digests_were_made_anew(copy):
    top, called = numbers(copy)
    copy.change_record(lambda body: body["agent"]["runner"].update({"papermill": "1.0"}), called[1])
    found = deep(copy, top)

    assert found.exit_code == 1
    ((result, detail),) = told(found, "call")
    assert result == "changed"
    assert detail.startswith("call 1 (")
    assert "record_sha256: expected" in detail
    # It is named by the digest of its record in that of who read what it wrote, too.
    assert [result for result, _ in told(found, "used")] == ["changed"]
    assert libsafe_nb.verify(copy.folders()[top]).exit_code in (0, 5)


@pytest.mark.parametrize("kept", ["params", "evidence", "record_sha256", "run", "job"])
def test_two_calls_that_are_exchanged_are_told(copy, kept):
    """Two of one function, with all that is known of them but for one thing."""

    def exchange(body):
        one, two = body["calls"][:2]
        for name in one.keys() - {"number", "call", kept}:
            one[name], two[name] = two[name], one[name]
        body["calls"][2]["used"] = None

    top, _ = numbers(copy)
    copy.change_record(exchange, top)

    assert [result for result, _ in told(deep(copy, top), "call")] == ["changed"] * 2


@pytest.mark.parametrize("name", ["run", "job"])
def test_a_called_run_that_names_another_caller_is_told(copy, name):
    top, called = numbers(copy)
    copy.change_record(lambda body: body["parent"].update({name: "999999"}), called[5])
    copy.change_record(lambda body: body["calls"][4].update(record_sha256=None), top)

    assert f"its record's parent.{name}" in told(deep(copy, top), "call")[0][1]


@pytest.mark.parametrize("whole_container", [True, False])
def test_a_called_run_that_is_gone_is_told(copy, whole_container):
    top, called = numbers(copy)
    shutil.rmtree(copy.folders()[called[5]])
    copy.link()
    found = deep(copy, None if whole_container else top)

    assert found.exit_code == 1
    assert [(result, "call 5" in detail) for result, detail in told(found, "call")] == [("missing", True)]


def test_a_call_that_was_taken_out_of_its_callers_record_is_told_in_the_whole_container(copy):
    top, _ = numbers(copy)
    copy.change_record(lambda body: body["calls"].pop(), top)

    ((result, detail),) = told(deep(copy), "call")
    assert result == "changed"
    assert "whose record does not name it" in detail


def test_a_call_of_a_call_is_checked_too(copy):
    top, called = numbers(copy)
    inner = copy.record(called[4])["calls"][0]
    folder = copy.root / inner["evidence"].split("/", 3)[3]
    (folder / "executed.ipynb").write_bytes(b"{}")
    found = deep(copy, top)

    assert found.nodes == {"ok": 6, "changed": 1}
    (node,) = [each for each in found.checks if each.name == "node"]
    assert node.place == f"{folder.relative_to(copy.root)}/"
    assert "changed" in node.detail


def test_what_a_call_used_is_told_if_it_is_another(copy):
    top, _ = numbers(copy)
    copy.change_record(lambda body: body["calls"][2]["used"].pop(), top)

    assert "the calls whose outputs it read" in told(deep(copy, top), "call")[0][1]


def test_a_reused_record_must_be_there_and_verified(copy):
    def reuse(body):
        one, five = body["calls"][0], body["calls"][4]
        five.update({name: one[name] for name in one if name not in ("number", "params", "files", "call")})
        five.update(call=None, reused=one["evidence"], attempts=None)

    top, called = numbers(copy)
    copy.change_record(reuse, top)
    found = deep(copy, top)
    assert told(found, "call") == []
    assert found.nodes["ok"] == 5
    copy.change_record(lambda body: body["calls"][4].update(record_sha256=None), top)
    assert [result for result, _ in told(deep(copy, top), "call")] == ["not-checked"]
    copy.change_record(lambda body: body["calls"][4].update(record_sha256="0" * 64), top)
    assert [result for result, _ in told(deep(copy, top), "call")] == ["changed"]
    place = copy.folders()[top]
    shutil.rmtree(copy.folders()[called[1]])
    copy.link()
    found = libsafe_nb.verify(place, deep=True, head=copy.head())
    assert ("missing", True) in {(result, "call 5" in detail) for result, detail in told(found, "call")}


@pytest.mark.parametrize(
    ("record_of_it", "call", "told_of_it"),
    [
        ({"fingerprint": {"sha256": None, "why": "it is a replay"}}, {}, "stands for no other run"),
        ({}, {"container": "999999"}, "reused from another container"),
    ],
)
def test_a_run_that_may_not_stand_for_a_call_is_told(record_of_it, call, told_of_it, copy):
    top, called = numbers(copy)
    copy.change_record(lambda body: body.update(record_of_it), called[5])

    def reuse(body):
        five = body["calls"][4]
        five.update(reused=five["evidence"], call=None, attempts=None, record_sha256=None, **call)

    copy.change_record(reuse, top)
    assert told_of_it in str(told(deep(copy, top), "call"))


@pytest.mark.parametrize(
    ("changed", "result", "detail"),
    [
        ({"resumed": "r"}, "changed", "its caller's record resumes no run"),
        ({"run": None}, "not-checked", ", but of no run"),
        ({"stubbed": True, "run": None}, "not-checked", ", but of no run"),
    ],
)
def test_a_call_is_not_left_out_by_what_its_callers_record_says_of_it(changed, result, detail, copy):
    top, _ = numbers(copy)
    copy.change_record(lambda body: body["calls"][4].update(changed), top)
    found = told(deep(copy, top), "call")

    assert [(each, detail in text) for each, text in found] == [(result, True)]


def test_records_that_call_each_other_in_a_circle_are_told_and_end(copy):
    top, called = numbers(copy)
    body = copy.record(top)
    folder = copy.folders()[top].relative_to(copy.root)
    back = {
        **body["calls"][0],
        **{"run": body["id"].removeprefix("urn:uuid:"), "job": body["job"]["id"], "record_sha256": None},
        **{"evidence": f"libsafe://{body['container']['id']}/{folder}/"},
    }
    copy.change_record(lambda nested: nested["calls"].append(back), called[4])

    assert "called by what it called itself" in str(told(deep(copy, top), "call"))
    assert "called by what it called itself" in graph(copy.folders()[top], "--deep")[1]


def test_a_call_in_another_container_is_checked_against_that_containers_chain(
    flow, connection, platform, notebook, run, tmp_path
):
    elsewhere = connection.client.create_container("elsewhere")["id"]
    cell = f"import libsafe_nb\nlibsafe_nb.call({flow[0]['write']!r}, params={{'name': 'far'}}, container={elsewhere!r}).result()"
    done = run(notebook(cell)).raise_for_failure()
    seen = []
    found = libsafe_nb.verify(done.evidence, deep=True, settings=platform.settings, seen=seen.append)

    assert (found.exit_code, found.checks, found.nodes) == (0, (), {"ok": 2})
    there = {each.name for each in seen if each.place.startswith(f"libsafe://{elsewhere}/")}
    assert {"chain", "link", "start", "sums", "outputs", "head", "call", "node"} <= there
    copy = tampering.download(connection, done.container, tmp_path / "near")
    assert [(each.name, each.result) for each in deep(copy).checks] == [("call", "not-checked")]
    code, out, _ = graph(copy.folders()[0], "--deep")
    assert code == 0
    assert "its evidence is not at hand" in out


def test_a_call_that_ended_after_its_caller_is_found_by_its_job(copy):
    def still_running(body):
        known = dict.fromkeys(("run", "evidence", "record_sha256", "ended", "error"))
        body["calls"][4].update(known, status="running")

    top, called = numbers(copy)
    copy.change_record(still_running, top)
    found = deep(copy, top)
    assert told(found, "call") == []
    assert found.nodes["ok"] == 6
    copy.change_record(lambda body: body["parent"].update(run="1"), called[5])
    assert "its record's parent.run" in told(deep(copy, top), "call")[0][1]
    shutil.rmtree(copy.folders()[called[5]])
    copy.link()
    place = next(each for each in copy.folders() if json.loads((each / "record.json").read_bytes())["calls"])
    found = libsafe_nb.verify(place, deep=True, head=copy.head())
    assert [(result, "call 5" in detail) for result, detail in told(found, "call")] == [("not-checked", True)]


def test_records_from_before_the_links_are_read_as_not_known(copy):
    new = (
        "number",
        "attempts",
        "record_sha256",
        "code_sha256",
        "inputs",
        "outputs",
        "used",
        "after",
        "reused",
    )

    def older(body):
        del body["used"]
        for each in body["calls"]:
            for name in new:
                del each[name]

    for number in range(len(copy.folders())):
        copy.change_record(older, number)
    for name in (None, numbers_of_old(copy)):
        found = deep(copy, name)
        assert (told(found, "call"), told(found, "used"), told(found, "record")) == ([], [], [])
        assert sum(found.nodes.values()) == 7
    assert len(graph(copy.folders()[numbers_of_old(copy)], "--deep")[1].splitlines()) == 7


def numbers_of_old(copy):
    return next(number for number in range(len(copy.folders())) if copy.record(number)["parent"] is None)


def test_a_folder_alone_has_its_calls_nowhere_and_is_incomplete(copy, tmp_path):
    top, called = numbers(copy)
    alone = shutil.copytree(copy.folders()[top], tmp_path / "alone")
    found = libsafe_nb.verify(alone, deep=True)

    assert found.exit_code == 5
    assert [result for result, _ in told(found, "call")] == ["not-checked"] * 5
    leaf = shutil.copytree(copy.folders()[called[1]], tmp_path / "leaf")
    assert libsafe_nb.verify(leaf, deep=True).exit_code == 0


def test_the_command_tells_which_run_has_what(copy):
    top, called = numbers(copy)
    (copy.folders()[called[3]] / "README.md").write_bytes(b"")
    done = CliRunner().invoke(cli, ["verify", "--deep", "--verbose", str(copy.folders()[top])])

    assert done.exit_code == 1
    assert "runs: 1 changed, 6 ok" in done.output
    assert len([line for line in done.output.splitlines() if line.endswith("[node]")]) == 7


# The crate and the report of the real run ---------------------------------------------------------------------------


def test_a_real_workflow_is_a_valid_provenance_run_crate(whole, request):
    top, _ = numbers(whole)
    folder = whole.folders()[top]

    assert request.getfixturevalue("problems")(folder, "provenance-run-crate") == []
    assert read_back(folder)["main"] == "executed.ipynb"


def test_what_one_call_wrote_and_another_read_is_one_entity(whole):
    top, _ = numbers(whole)
    found = entities(whole.folders()[top])
    runs = [found[f"urn:uuid:{each['run']}"] for each in whole.record(top)["calls"]]
    wrote = {each for run in runs[:2] for each in references(run["result"]) if "/out/" in each}

    assert len(wrote) == 2
    assert wrote == {each for each in references(runs[2]["object"]) if "/out/" in each}


def test_each_box_of_the_report_leads_to_a_report_that_is_there(whole):
    top, called = numbers(whole)
    folder = whole.folders()[top]
    links = re.findall(r'<a href="(\.\./[^"]+)" class="node', (folder / "report.html").read_text())

    assert [(folder / each).resolve().parent for each in links] == [
        whole.folders()[called[number]] for number in (1, 2, 4, 5, 3)
    ]
    assert all((folder / each).is_file() for each in links)


# graph --------------------------------------------------------------------------------------------------------------


def graph(*arguments):
    done = CliRunner().invoke(cli, ["graph", *map(str, arguments)])
    return getattr(done.exception, "exit_code", done.exit_code), done.stdout, done.stderr


def test_a_graph_tells_a_workflow_as_it_ran_and_deep_the_calls_of_its_calls(whole, flow):
    keys, top = flow[0], whole.folders()[numbers(whole)[0]]
    code, out, err = graph(top)
    lines = out.splitlines()

    assert code == 0
    assert lines[0].startswith(f"{keys['workflow']}  ✓ completed")
    assert [re.search(r"(\d)  (f-\w+)  (. [\w ]+?)  ", line).groups() for line in lines[1:]] == [
        ("1", keys["write"], "✓ completed"),
        ("2", keys["write"], "✓ completed"),
        ("3", keys["read"], "✓ completed"),
        ("4", keys["nested"], "✓ completed"),
        ("5", keys["fail"], "✗ failed"),
    ]
    assert "after 1, 2" in lines[3]
    assert "ValueError: not today" in lines[5]
    assert "as it ran" in err
    assert f"│  └─ 4.1  {keys['write']}  ✓ completed" in graph(top, "--deep")[1]


def test_a_graph_as_json_and_as_a_picture_whose_boxes_lead_to_reports(whole, tmp_path):
    top = whole.folders()[numbers(whole)[0]]
    told = json.loads(graph(top, "--deep", "--json")[1])
    target = whole.root / "flow.svg"
    try:
        assert graph(top, "--deep", "--svg", target)[0] == 0
        links = re.findall(r'<a href="([^"]+)"', target.read_text())
    finally:
        target.unlink()

    assert [each["after"] for each in told["calls"]] == [[], [], ["1", "2"], [], []]
    assert told["calls"][3]["calls"][0]["status"] == "completed"
    assert len(links) == 7
    assert all((whole.root / each).is_file() for each in links)
    assert "<a " not in graph(top, "--svg", "-")[1]
    assert graph(top, "--svg", tmp_path / "far.svg")[0] == 0
    assert "<a " not in (tmp_path / "far.svg").read_text()
    assert graph(top, "--svg", "-", "--json")[0] == 2


@pytest.fixture
def configured(platform, monkeypatch):
    for name, value in command_environment(platform).items():
        if name.startswith("LIBSAFE_"):
            monkeypatch.setenv(name, value)


def test_of_a_notebook_the_latest_evidence_is_told_else_its_source(flow, configured, tmp_path):
    keys, result = flow
    path = write_function(tmp_path / f"{keys['workflow']}.ipynb", "print(1)")
    code, out, err = graph(path, "--container", result["container"])
    assert (code, len(out.splitlines())) == (0, 6)
    assert "as it ran last" in err
    assert "its code is another now" in err
    assert graph(keys["workflow"], "--container", result["container"])[1] == out

    path = write_function(
        tmp_path / "never-run.ipynb", "import libsafe_nb\nlibsafe_nb.call('a-part').result()"
    )
    code, out, err = graph(path, "--container", result["container"])
    assert code == 0
    assert out.splitlines()[1] == "└─ 1  a-part  ○ not run  (cell 2, line 2)"
    assert f"not run: no evidence of it in container {result['container']}" in err


def test_without_a_platform_a_notebooks_source_is_told(tmp_path, monkeypatch):
    for name, value in {
        "URL": "http://127.0.0.1:9",
        "KEY_USER": "k",
        "S3_BUCKET": "b",
        "S3_ACCESS_KEY": "a",
    }.items():
        monkeypatch.setenv(f"LIBSAFE_{name}", value)
    path = write_function(tmp_path / "w.ipynb", "from libsafe_nb import call\ncall('a')")
    code, out, err = graph(path)

    assert (code, "1  a  ○ not run" in out) == (0, True)
    assert "no platform could be asked" in err


@pytest.mark.parametrize("place", ["absent.ipynb", "no/such/folder", "libsafe://x/provenance/"])
def test_what_is_neither_evidence_nor_a_notebook_is_bad_usage(place):
    assert graph(place)[0] == 2


def test_many_calls_are_checked_in_little_memory():
    """A thousand records of a copy that is made as it is read."""
    calls = [
        {"number": n, "call": str(n), "function": "f", "job": str(n), "run": str(n), "status": "completed", "attempts": 1,
         "evidence": f"libsafe://1/provenance/f/{n}/"}
        for n in range(2, 1002)
    ]  # fmt: skip

    def record_of(number, **more):
        body = {
            "id": f"urn:uuid:{number}",
            "job": {"id": str(number)},
            "container": {"id": "1"},
            "status": "completed",
        }
        return {**body, "function": {"key": "f"}, **more}

    class Made:
        place, start = "made", "provenance/f/1/"

        def list(self, prefix):
            yield f"{prefix}record.json", 1

        def read(self, path, *, version=None):
            number = path.split("/")[2]
            filling = {"filling": "x" * 200_000, "parent": {"run": "1", "job": "1"}}
            return json.dumps(record_of(number, **filling)).encode()

        def deleted(self, prefix):
            return iter(())

    tree = Tree(Made(), Chain(), opened=lambda *_: (), checked=lambda *_: (Check("sums", "ok", "x"),))
    tracemalloc.start()
    try:
        found = Report.of("x", tree.node(Made(), "provenance/f/1/", record_of("1", calls=calls), []))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (found.exit_code, found.nodes) == (0, {"ok": 1001})
    assert peak < 10_000_000


# history ------------------------------------------------------------------------------------------------------------


def test_the_history_of_a_file_tells_the_step_and_the_workflow_that_made_it(whole, flow):
    keys, result = flow
    written, read_ = history.of_file(archive.at(str(whole.root)), "/out/one.txt")
    top = whole.folders()[numbers(whole)[0]]

    assert (written.what, written.run.workflow["number"]) == ("written", 1)
    assert (read_.what, read_.run.workflow["number"]) == ("read", 3)
    for deed in (written, read_):
        told = deed.run.workflow
        assert (told["function"], told["job"], told["run"]) == (
            keys["workflow"],
            result["job"],
            result["run"],
        )
        assert told["evidence"] == str(whole.root / top.relative_to(whole.root)) + "/"
    assert deed.to_json()["workflow"] == told
    assert f"step 1 of {keys['workflow']}, job {result['job']}" in telling.fields(written)[5]


def test_the_history_of_a_container_tells_whose_step_each_run_was(whole):
    top, called = numbers(whole)
    rows = {row.job: row for row in history.runs(archive.at(str(whole.root)))}

    assert rows[whole.record(top)["job"]["id"]].workflow is None
    assert {
        number: rows[whole.record(place)["job"]["id"]].workflow["number"] for number, place in called.items()
    } == {number: number for number in called}
    assert json.loads(telling.line(rows[whole.record(called[4])["job"]["id"]]))["workflow"]["number"] == 4


def test_a_run_whose_callers_record_is_not_here_still_tells_the_caller(copy):
    top, called = numbers(copy)
    job = copy.record(called[5])["job"]["id"]
    shutil.rmtree(copy.folders()[top])
    row = next(row for row in history.runs(archive.at(str(copy.root))) if row.job == job)

    assert (row.workflow["number"], row.workflow["evidence"]) == (None, None)
    assert "step of " in telling.fields(row)[1]
