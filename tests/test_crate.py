"""The RO-Crate and the README of a run's evidence, as readers that are not ours see them."""

import base64
import gzip
import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
import urllib3
from requests.adapters import BaseAdapter

from libsafe_nb import crate, record
from libsafe_nb.redact import scan_document
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.secrets import Secret

ROOT = Path(__file__).parent.parent
CONTEXTS = ROOT.parent / "shared" / "rocrate-contexts"
"""The JSON-LD contexts that a crate refers to; they are not ours to commit."""

PAGES = {
    "https://w3id.org/ro/crate/1.1/context": "ro-crate-1.1.jsonld",
    "https://w3id.org/ro/terms/workflow-run/context": "workflow-run.jsonld",
}
RELATIVE_ID = "process-run-crate-0.5_5.1"
"""Wants `http…` of a tool's `@id`; the main workflow is a file of the crate, and the profile's text allows that."""

NO_END = "process-run-crate-0.5_8.4"
"""Wants an `endTime`; when a run ended whose machine was lost is not known, and nobody may make it up."""

FUNCTION = """
from libnova.common.api import File, Job
for id in json_sample["function_data"]["files"]["ids"]:
    File.set_hash(id, "md5", "b1946ac92492d2347c6235b4d2611184")
print("counted", threshold)
"""


class Pages(BaseAdapter):
    """Answers for the two contexts from disk."""

    def send(self, request, **_):
        body = (CONTEXTS / PAGES[request.url]).read_bytes()
        kind = {"Content-Type": "application/ld+json"}
        answer = requests.Response()
        answer.status_code, answer.url, answer.request = 200, request.url, request
        answer.headers.update(kind)
        answer.raw = urllib3.HTTPResponse(io.BytesIO(body), status=200, headers=kind, preload_content=False)
        return answer

    def close(self):
        pass


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The validator's cache of web pages, with the contexts in it: nothing is asked of any network."""
    if not CONTEXTS.exists():
        pytest.skip("the JSON-LD contexts are not beside this checkout, and the validator may not fetch them")
    requests_cache = pytest.importorskip("requests_cache")
    place = tmp_path_factory.mktemp("validator") / "cache"
    with requests_cache.CachedSession(str(place), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", Pages())
        for page in PAGES:
            session.get(page)
    return place


@pytest.fixture
def problems(cache, tmp_path):
    """What roc-validator finds in a crate, from REQUIRED to RECOMMENDED: each check's name and what it says."""

    def problems(folder, profile, skip=RELATIVE_ID):
        out = tmp_path / "found.json"
        command = [Path(sys.executable).with_name("rocrate-validator"), "-y", "--disable-color", "validate"]
        command += [folder, "-p", profile, "-l", "recommended", "--skip-checks", skip]
        command += ["--offline", "--cache-path", cache, "--no-paging", "-f", "json", "-o", out]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert out.exists(), done.stdout + done.stderr
        found = json.loads(out.read_text())
        assert found["passed"] == (not found["issues"])
        return [(each["check"]["identifier"], each["message"]) for each in found["issues"]]

    return problems


@pytest.fixture
def evidence(connection, tmp_path):
    """A run's evidence as it is stored, in a folder."""

    def evidence(run):
        prefix = run.evidence.removeprefix(f"libsafe://{run.container}/")
        folder = tmp_path / "evidence"
        folder.mkdir()
        for each in connection.storage.list(run.container, prefix):
            (folder / Path(each.path).name).write_bytes(connection.storage.get(run.container, each.path))
        return folder

    return evidence


@pytest.fixture
def folder(tmp_path):
    """A record and its files, made into a crate."""

    def folder(record, files):
        made = {**files, "record.json": json.dumps(record).encode(), crate.README: crate.readme(record)}
        made[crate.FILE] = crate.build(record, made)
        target = tmp_path / "made"
        target.mkdir()
        for name, data in made.items():
            (target / name).write_bytes(data)
        return target

    return folder


def entities(folder):
    graph = json.loads((folder / crate.FILE).read_bytes())["@graph"]
    assert len({each["@id"] for each in graph}) == len(graph)
    return {each["@id"]: each for each in graph}


def references(value):
    if isinstance(value, list):
        return [each for one in value for each in references(one)]
    if isinstance(value, dict) and set(value) == {"@id"}:
        return [value["@id"]]
    return []


@pytest.fixture
def report():
    """What runcrate reads in a crate. It needs a prov that other tests cannot do with, so it is not in the test extra."""
    program = shutil.which("runcrate")
    if program is None:
        pytest.skip("runcrate is not on the PATH")

    def report(folder):
        command = [program, "report", folder]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    return report


def read_back(folder):
    """The crate as ro-crate-py reads it, in a process of its own: it warns of what is no concern of ours."""
    code = (
        "import json, sys; from rocrate.rocrate import ROCrate; crate = ROCrate(sys.argv[1])\n"
        "print(json.dumps({'main': crate.mainEntity and crate.mainEntity.id, 'name': crate.name,"
        " 'actions': [each.id for each in crate.contextual_entities if 'Action' in str(each.type)]}))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


SAMPLE = {
    "schema": "libsafe-nb-record/1",
    "id": "urn:uuid:0b1c1b6e-6f0e-4a3c-9e0e-0a4d5a5e4d11",
    "job": {"id": "7"},
    "container": {"id": "1"},
    "function": {
        "id": "0",
        "key": "",
        "name": "f.ipynb",
        "notebook_sha256": "e" * 64,
        "title": 'A "title" `of` <b>two</b>\nlines',
        "description": None,
        "version": None,
        "author": "Somebody",
        "license": "Apache-2.0",
        "effects": ["mes"],
    },
    "agent": {"user": {"id": "5"}, "runner": {"libsafe-nb": "0.1.0", "papermill": "2.7.0"}},
    "payload": {
        "api": {"url": "https://example.org/api", "key_user": {"$secret": "key_user"}},
        "function_params": {
            "a b": 1,
            "é": "",
            "ratio": 0.5,
            "flag": False,
            "nothing": None,
            "many": [1, {"@id": "./"}],
            "token": {"$secret": "token"},
        },
    },
    "secrets": [{"name": "token", "via": "kernel"}],
    "redactions": [
        {"cell": "c", "where": "text", "name": "token", "form": "plain", "count": 2, "by": "live"}
    ],
    "started": "2026-11-25T09:22:05.784+00:00",
    "ended": "2026-11-25T09:22:07.713+00:00",
    "status": "timeout",
    "cause": "time-limit",
    "error": None,
    "job_result": None,
    "inputs": [
        {"id": "1", "path": "/a ü?.txt", "read": "full", "sha256": "a" * 64, "size": 6, "version_id": "v1"},
        {"id": "2", "path": None, "read": "none", "sha256": None, "size": None, "version_id": None},
    ],
    "outputs": [
        {
            "path": "/o.csv",
            "version_id": None,
            "size": 3,
            "sha256": "b" * 64,
            "format": "text/csv",
            "scan": {},
        },
        {"path": "/o.csv", "version_id": None, "size": 4, "sha256": "c" * 64, "format": None, "scan": {}},
    ],
    "files": [
        {"id": "1", "path": "/a ü?.txt", "outcome": "failure", "event_types": ["mes"], "detail": ["broken"]},
        {"id": "2", "path": None, "outcome": "skipped", "event_types": ["mes"], "detail": []},
    ],
    "platform_writes": [
        {
            "kind": "hash",
            "file_id": "1",
            "algorithm": "md5",
            "value": "d" * 32,
            "at": "2026-11-25T09:22:06.000123+00:00",
        },
        {
            "kind": "metadata",
            "target": "container",
            "id": "1",
            "iecodes": ["x"],
            "sha256": "d" * 64,
            "at": "2026-11-25T09:22:06+00:00",
        },
        {"kind": "delete", "file_id": "77", "action": "delete", "at": "2026-11-25T11:22:07+02:00"},
    ],
    "env": {"image_digest": "images.example/x/y@sha256:" + "d" * 64, "kernel": {"language": "python"}},
    "env_vars": {"TZ": "UTC", "LANG": "C"},
    "notebook": {"path": "executed.ipynb"},
    "license": "the terms of container 1 apply",
    "replay_of": "urn:uuid:1",
    "parent": {"job": "6", "run": "3f1ee6f4-0b0f-4a8f-a26b-8f5e5e3f2c11", "function": "the whole"},
    "calls": [
        {
            "call": str(number),
            "function": "a part",
            "version": 2,
            "sha256": "a" * 64,
            "container": "1",
            "job": str(10 + number),
            "files": 1,
            "params": {"x": 1},
            "status": status,
            "run": run,
            "started": "2026-11-25T09:22:05.000+00:00" if run else None,
            "ended": "2026-11-25T09:22:06.000+00:00" if run else None,
            "evidence": f"libsafe://1/provenance/a-part/{number}/"
            if status in ("completed", "failed")
            else None,
            "error": {"type": "E", "message": "no", "cell_id": None} if status == "failed" else None,
        }
        for number, (status, run) in enumerate(
            [
                ("completed", "0c5f6b4e-8f8a-4d9e-9a53-5d0d6a0a7d01"),
                ("failed", "0c5f6b4e-8f8a-4d9e-9a53-5d0d6a0a7d02"),
                ("cancelled", "0c5f6b4e-8f8a-4d9e-9a53-5d0d6a0a7d03"),
                ("running", None),
            ]
        )
    ],
    "recovered": {
        "at": "2026-11-25T10:00:00.000+00:00",
        "host": "h",
        "reason": "its runner died",
        "not_searched_for": ["token"],
    },
    "not_captured": ["non-Python libraries"],
}
MADE = {"container": "1", "path": "/made.txt", "version_id": "v9", "size": 3, "sha256": "d" * 64}
WORKFLOW = {
    **SAMPLE,
    "calls": [
        {
            **each,
            "number": number,
            "outputs": [MADE] if number == 1 else [],
            "inputs": [MADE] if number == 2 else [],
        }
        for number, each in enumerate(SAMPLE["calls"], 1)
    ]
    + [
        {
            **SAMPLE["calls"][0],
            "number": 5,
            "call": None,
            "run": "0c5f6b4e-8f8a-4d9e-9a53-5d0d6a0a7d05",
            "function": "another part",
            "reused": "libsafe://1/provenance/another-part/0/",
            "evidence": "libsafe://1/provenance/another-part/0/",
        }
    ],
    "used": [
        {
            "run": "0c5f6b4e-8f8a-4d9e-9a53-5d0d6a0a7d06",
            "job": "3",
            "function": "what came before",
            "evidence": "libsafe://1/provenance/before/0/",
            "record_sha256": "e" * 64,
            "files": 1,
            "scraps": None,
        }
    ],
}
FILES = {
    "executed.ipynb": b"{}",
    "environment.json": b"{}",
    "messages.jsonl": b"",
    "premis.xml": b"<premis/>",
    "report.html": b"<p>",
}
LOST = record.lost(
    {
        "run": SAMPLE["id"].removeprefix("urn:uuid:"),
        "job": "7",
        "container": "1",
        "function": {"key": "", "name": "f.ipynb", "notebook_sha256": "e" * 64},
        "started": SAMPLE["started"],
    },
    "nothing was heard of it",
)


def test_a_completed_run_is_a_valid_crate(notebook, run, tmp_path, evidence, problems):
    (tmp_path / "letter.txt").write_text("hello\n")
    path = notebook(FUNCTION)
    text = path.read_text().replace("json_sample = {", "threshold: float = 0.7\\njson_sample = {", 1)
    path.write_text(text)
    done = run(path, uploads=[tmp_path / "letter.txt"], params={"threshold": 0.25})
    assert done.status == "completed", done.error
    stored = evidence(done)
    found = entities(stored)
    action = found[f"urn:uuid:{done.run}"]
    (update,) = [each for each in found.values() if each["@type"] == "UpdateAction"]
    letter, value = references(action["object"])

    assert problems(stored, "workflow-run-crate") == []
    assert problems(stored, "process-run-crate") == []
    assert action["actionStatus"] == "http://schema.org/CompletedActionStatus"
    assert "error" not in action
    assert letter.startswith(f"libsafe://{done.container}/letter.txt?versionId=")
    assert (found[value]["value"], found["#parameter-threshold"]["additionalType"]) == (0.25, "Float")
    assert references(found["executed.ipynb"]["input"]) == ["#parameter-threshold"]
    assert references(update["object"]) == [letter]
    assert found["messages.jsonl"]["about"] == {"@id": action["@id"]}
    assert read_back(stored)["main"] == "executed.ipynb"
    assert set(read_back(stored)["actions"]) == {action["@id"], update["@id"]}


def test_the_crate_tells_the_size_and_digest_of_each_file_and_the_sums_hold_both(notebook, run, evidence):
    stored = evidence(run(notebook("print('nothing')")))
    found = entities(stored)
    told = {id: (found[id]["contentSize"], found[id]["sha256"]) for id in references(found["./"]["hasPart"])}
    kept = {path.name: path.read_bytes() for path in stored.iterdir()}
    sums = kept.pop("SHA256SUMS").decode()

    assert {crate.README, crate.FILE} <= kept.keys()
    assert all(name in sums for name in kept)
    del kept[crate.FILE]
    assert told == {name: (str(len(data)), hashlib.sha256(data).hexdigest()) for name, data in kept.items()}


def test_a_failed_run_is_a_valid_crate_that_says_why(notebook, run, evidence, problems):
    done = run(notebook("raise ValueError('this one fails')"))
    stored = evidence(done)
    action = entities(stored)[f"urn:uuid:{done.run}"]

    assert problems(stored, "workflow-run-crate") == []
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"] == "ValueError: this one fails"
    assert "`ValueError: this one fails`" in (stored / crate.README).read_text()


def test_a_run_that_made_calls_is_a_valid_provenance_run_crate(folder, problems):
    made = folder(WORKFLOW, FILES)
    found = entities(made)
    notebook, run = found["executed.ipynb"], WORKFLOW["id"]
    steps = [found[each] for each in references(notebook["step"])]
    (organize,) = [each for each in found.values() if each["@type"] == "OrganizeAction"]
    controls = [found[each] for each in references(organize["object"])]
    called = [found[each["object"]["@id"]] for each in controls]

    assert problems(made, "provenance-run-crate") == []
    assert "HowTo" in notebook["@type"]
    assert [each["position"] for each in steps] == ["1", "2", "3", "5"]
    assert [each["instrument"]["@id"] for each in controls] == references(notebook["step"])
    assert {each["workExample"]["@id"] for each in steps} == set(references(notebook["hasPart"]))
    assert (organize["result"], found[organize["instrument"]["@id"]]["name"]) == ({"@id": run}, "libsafe-nb")
    assert [each["@id"].removeprefix("urn:uuid:") for each in called] == [
        each["run"] for each in WORKFLOW["calls"] if each["run"]
    ]
    assert references(called[0]["result"]) == [
        "libsafe://1/provenance/a-part/0/",
        "libsafe://1/made.txt?versionId=v9",
    ]
    assert "libsafe://1/made.txt?versionId=v9" in references(called[1]["object"])
    assert found["#step-2-x"]["value"] == 1
    assert controls[3]["description"] == "An earlier run of the same was reused."
    assert "endTime" not in controls[3]
    assert read_back(made)["main"] == "executed.ipynb"


def test_runcrate_reads_the_steps_too(folder, report):
    told = report(folder(WORKFLOW, FILES))

    assert f"action: {WORKFLOW['id']}\n" in told
    for each in WORKFLOW["calls"][:2]:
        assert f"action: urn:uuid:{each['run']}\n" in told
    assert "libsafe://1/made.txt?versionId=v9" in told


def test_a_run_without_calls_is_no_workflow_of_steps(folder):
    found = entities(folder({**SAMPLE, "calls": []}, FILES))

    assert not {each["@type"] for each in found.values() if isinstance(each["@type"], str)} & {
        "HowToStep",
        "ControlAction",
        "OrganizeAction",
    }
    assert not {"step", "hasPart"} & found["executed.ipynb"].keys()
    assert not [each for each in references(found["./"]["conformsTo"]) if "provenance" in each]


@pytest.mark.slow
def test_a_stopped_run_with_all_that_a_record_can_hold_is_a_valid_crate(folder, problems):
    made = folder(SAMPLE, FILES)
    found = entities(made)
    action = found[SAMPLE["id"]]
    updates = [each for each in found.values() if each["@type"] == "UpdateAction"]
    (stopped, failure) = [each for each in found.values() if each["@type"] == "ActivateAction"]
    called = [found[f"urn:uuid:{each['run']}"] for each in SAMPLE["calls"] if each["run"]]
    caller = found[f"urn:uuid:{SAMPLE['parent']['run']}"]
    values = {each["name"]: each["value"] for each in found.values() if "exampleOfWork" in each}

    assert problems(made, "workflow-run-crate") == []
    assert problems(made, "process-run-crate") == []
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"] == crate.WORDS["timeout"] + " Cause: time-limit."
    assert len(references(action["result"])) == 3
    assert {each["endTime"] for each in updates} == {
        "2026-11-25T09:22:06.000+00:00",
        "2026-11-25T09:22:07.000+00:00",
    }
    assert (failure["error"], references(failure["object"])) == (
        "broken",
        ["libsafe://1/a%20%C3%BC%3F.txt?versionId=v1"],
    )
    assert values == {
        "a b": 1,
        "é": "",
        "ratio": 0.5,
        "flag": False,
        "nothing": "null",
        "many": '[1,{"@id":"./"}]',
        "token": '{"$secret":"token"}',
    }
    assert called[2] is stopped
    assert [each["actionStatus"].removesuffix("ActionStatus")[18:] for each in called] == [
        "Completed",
        "Failed",
        "Failed",
    ]
    assert references(called[0]["result"]) == ["libsafe://1/provenance/a-part/0/"]
    assert [each.get("error") for each in called] == [None, "no", "It was cancelled."]
    assert {found[each["instrument"]["@id"]]["name"] for each in called} == {"a part"}
    assert caller["actionStatus"] == "http://schema.org/ActiveActionStatus"
    assert {each["@id"] for each in [*called, caller]} <= set(references(found["./"]["mentions"]))
    assert read_back(made)["main"] == "executed.ipynb"


def test_runcrate_reads_it_too(folder, report):
    told = report(folder(SAMPLE, FILES))

    assert f"action: {SAMPLE['id']}\n" in told
    assert "instrument: executed.ipynb" in told
    assert "0.5 <- #parameter-ratio" in told


def test_runcrate_opens_the_crate_of_a_lost_run(folder, report):
    """It tells of CreateActions only."""
    assert report(folder(LOST, {})).strip() == ""


def test_a_lost_run_is_a_valid_process_crate(folder, problems):
    made = folder(LOST, {})
    found = entities(made)
    action = found[LOST["id"]]
    tool = found[action["instrument"]["@id"]]

    assert problems(made, "process-run-crate", skip=f"{RELATIVE_ID},{NO_END}") == []
    assert (action["@type"], tool["@type"]) == ("ActivateAction", "SoftwareApplication")
    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"] == "MachineLost: nothing was heard of it"
    assert "endTime" not in action
    assert tool["@id"] == "nih:sha-256;" + "e" * 64
    assert read_back(made) == {
        "main": None,
        "name": "f.ipynb: evidence of a run",
        "actions": [action["@id"]],
    }


def test_a_record_that_tells_hardly_anything_still_gives_both():
    found = json.loads(crate.build({"id": LOST["id"], "function": {}, "status": "errored"}, {}))["@graph"]

    assert "#function" in {each["@id"] for each in found}
    assert crate.readme({"id": LOST["id"]}).startswith(b"# Evidence of a run of `function`")


@pytest.mark.parametrize("status", ["failed", "errored", "timeout", "cancelled", "", "what is this"])
def test_what_did_not_complete_is_never_without_an_error(status):
    graph = json.loads(crate.build({**LOST, "status": status, "error": None, "cause": None}, {}))["@graph"]
    (action,) = [each for each in graph if each["@id"] == LOST["id"]]

    assert action["actionStatus"] == "http://schema.org/FailedActionStatus"
    assert action["error"]


@pytest.mark.parametrize(("record", "files"), [(SAMPLE, FILES), (LOST, {})])
def test_every_reference_leads_somewhere(record, files, folder):
    found = entities(folder(record, files))
    outside = ("https://w3id.org/ro/crate/", "https://w3id.org/ro/terms/")
    named = {id for each in found.values() for value in each.values() for id in references(value)}

    assert {id for id in named - found.keys() if not id.startswith(outside)} == set()


def test_the_same_record_gives_the_same_bytes():
    again = json.loads(json.dumps(SAMPLE))

    assert crate.build(SAMPLE, FILES) == crate.build(again, dict(FILES))
    assert crate.readme(SAMPLE) == crate.readme(again)


def test_the_readme_keeps_markup_of_the_record_to_itself():
    text = crate.readme(SAMPLE).decode()

    assert text.startswith('# Evidence of a run of `` A "title" `of` <b>two</b> lines ``\n')
    assert "in 2 places" in text
    assert "- repeats the run: `urn:uuid:1`" in text
    assert "Not searched for, as they were not known any more: `token`." in text
    assert "sha256sum -c SHA256SUMS" in text


@pytest.mark.parametrize("wrapped", [base64.b64encode, base64.encodebytes])
def test_compressed_bytes_in_an_error_are_not_damaged_by_telling_it(wrapped):
    """What the scan for secrets can look into in the record it can look into here, or nothing would be stored."""
    message = "m " + wrapped(gzip.compress(random.Random(1).randbytes(400), mtime=0)).decode()
    secrets = SecretSet([Secret("key", "Zq8vT2mW5xK1pR7nB4cD9fG3hJ6sL0aY")])
    record = {**LOST, "error": {"type": "ValueError", "message": message}}

    assert scan_document(secrets, record).clean
    assert scan_document(secrets, crate.build(record, {}), name=crate.FILE).clean
    assert scan_document(secrets, crate.readme(record), name=crate.README).clean


def test_the_readme_of_a_lost_run_names_only_what_can_be_there():
    text = crate.readme(LOST).decode()

    assert "executed.ipynb" not in text
    assert "- ended: `not known`" in text
    assert "`everything after the start record`" in text
