"""The evidence is searched, whole and in its wrappings, before a byte of it is stored."""

import base64
import dataclasses
import gzip
import json
import random
import re

import pytest
from test_run import REAL

import libsafe_nb
from libsafe_nb import environment, errors, recover, runner, sealing
from libsafe_nb.client import Client
from libsafe_nb.redact import ScanResult

WRAPPED = """
import base64, gzip
key = json_sample["api"]["key_extra"]
print("before", base64.b64encode(gzip.compress(key.encode())).decode(), "after")
print("plainly", key)
"""


@pytest.fixture
def settings(platform, tmp_path):
    return dataclasses.replace(platform.settings, home=tmp_path / "state")


@pytest.fixture
def payload(container):
    return {"api": {"key_extra": REAL}, "function_data": {"container": {"id": container}}}


def test_a_wrapped_key_is_taken_out_counted_and_located(notebook, settings, payload, stored):
    done = libsafe_nb.run(payload, notebook(WRAPPED), settings=settings)
    record, executed = json.loads(stored(done, "record.json")), json.loads(stored(done, "executed.ipynb"))
    text = "".join(executed["cells"][-1]["outputs"][0]["text"])

    assert re.fullmatch(r"before (\S+?)=* after\nplainly \1\n", text)
    assert "[redacted:payload.key_extra]" in text
    assert {(each["by"], each["name"], each["count"]) for each in record["redactions"]} == {
        ("live", "payload.key_extra", 1),
        ("final", "payload.key_extra", 1),
    }
    assert {each["cell"] for each in record["redactions"]} == {executed["cells"][-1]["id"]}
    assert record["scan"]["left_out"] == []
    assert record["notebook"]["size"] == len(stored(done, "executed.ipynb"))


def test_what_cannot_be_looked_into_is_left_out_and_told(notebook, settings, payload, stored):
    whole = gzip.compress(random.Random(1).randbytes(400), mtime=0)
    damaged = base64.b64encode(whole[:-9]).decode()
    done = libsafe_nb.run(payload, notebook(f"print({damaged!r})"), settings=settings)
    record = json.loads(stored(done, "record.json"))

    assert done.status == "completed"
    assert len(record["scan"]["left_out"]) >= 1
    assert b"left out by libsafe-nb" in stored(done, "executed.ipynb")


def test_a_run_without_secrets_in_it_says_so(notebook, settings, stored, container):
    done = libsafe_nb.run(None, notebook("print('nothing')"), settings=settings, container=container)
    record = json.loads(stored(done, "record.json"))

    assert (record["redactions"], record["scan"]["left_out"]) == ([], [])


def test_what_still_holds_a_key_is_never_stored(
    notebook, settings, payload, connection, container, monkeypatch
):
    """The second scan's finding is forced: nothing is known that it finds and the first leaves."""
    monkeypatch.setattr(sealing, "scan_document", lambda *_, **__: ScanResult((), ("something",)))
    done = libsafe_nb.run(payload, notebook(WRAPPED), settings=settings)
    paths = [each.path for each in connection.storage.list(container, "provenance/")]
    kept = settings.home / "abandoned" / done.run

    assert (done.status, done.exit_code, done.evidence) == ("errored", 3, None)
    assert connection.client.job(done.job)["status"] == "FAILED"
    assert "nothing of the run is stored" in done.error["message"]
    assert paths == [f"provenance/started/{done.run}.json"]
    assert (kept / "executed.ipynb").stat().st_mode & 0o777 == 0o600
    assert list(recover.recover(settings=settings, lost=False)) == []


def test_what_was_refused_once_is_refused_by_a_recovery_too(
    notebook, settings, payload, connection, container, monkeypatch
):
    """A recovery knows fewer keys than the runner did: the payload's and the author's own are gone with it."""
    message = Client.message

    def away(self, job, text, **options):
        if "nothing of the run is stored" in text:
            raise errors.Unreachable("the platform is away")
        return message(self, job, text, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sealing, "scan_document", lambda *_, **__: ScanResult((), ("something",)))
        patch.setattr(Client, "message", away)
        done = libsafe_nb.run(payload, notebook(WRAPPED), settings=settings)
    assert (done.exit_code, connection.client.job(done.job)["status"]) == (3, "RUNNING")

    (found,) = recover.recover(settings=settings, lost=False)
    paths = [each.path for each in connection.storage.list(container, "provenance/")]

    assert (found.status, found.evidence) == ("errored", None)
    assert connection.client.job(done.job)["status"] == "FAILED"
    assert paths == [f"provenance/started/{done.run}.json"]
    assert (settings.home / "abandoned" / done.run / "executed.ipynb").exists()


WELL = environment.take()
BOGUS = {
    "nothing": {},
    "other types": {**WELL, "python": "3.11", "packages": 7, "env_vars": None, "platform": ["x"]},
    "no names": {**WELL, "packages": [{"version": "1"}, 3]},
    "no implementation": {**WELL, "python": {"version": "3.11"}},
    "no object": {**WELL, "python": None},
    "half a character": {**WELL, "schema": "\ud800"},
    "many": {**WELL, "packages": [{"name": str(n), "version": "1"} for n in range(environment.MOST + 1)]},
    "long": {**WELL, "platform": "x" * 10_000_000},
    "variables": {**WELL, "env_vars": {"TZ": 1, "LANG": {"a": "b"}}},
}


@pytest.mark.parametrize("name", BOGUS)
def test_what_is_no_environment_is_not_taken(name):
    assert environment.told(BOGUS[name]) == environment.unknown()


def test_what_is_besides_an_environment_is_left_out():
    more = {"kind": "environment", "at": "x", "packages": [{**each, "more": 1} for each in WELL["packages"]]}

    assert environment.told({**WELL, **more, "env_vars": {**WELL["env_vars"], "PATH": "x"}}) == WELL


def test_a_kernel_that_tells_no_environment_does_not_cost_the_evidence(
    notebook, settings, container, stored, monkeypatch
):
    seal = runner.seal

    def with_bogus(story, secrets):
        events = [each for each in story.events if each["kind"] != "environment"]
        bogus = {"kind": "environment", "python": "3.11", "packages": 7}
        return seal(dataclasses.replace(story, events=[bogus, *events]), secrets)

    monkeypatch.setattr(runner, "seal", with_bogus)
    done = libsafe_nb.run(None, notebook("1"), settings=settings, container=container)

    assert done.status == "completed", done.error
    assert json.loads(stored(done, "environment.json"))["taken"] == "none"
    assert json.loads(stored(done, "record.json"))["env"]["python"] is None


@pytest.mark.parametrize("known", [True, False])
def test_a_recovery_looks_for_the_authors_keys_or_says_that_it_could_not(
    known, notebook, settings, payload, connection, container, monkeypatch, stored
):
    token, name = "Zq8vT2mW5xK1pR7nB4cD9fG3hJ6sL0aY", "token"
    wrapped = "import base64, gzip\nprint('x', base64.b64encode(gzip.compress(token.encode(), mtime=0)).decode(), 'y')"
    blob = base64.b64encode(gzip.compress(token.encode(), mtime=0))
    path = notebook(wrapped)
    declared = json.dumps('token: "Secret" = ""\n')[1:-1]
    path.write_text(path.read_text().replace("json_sample = {", declared + "json_sample = {"))

    def killed(*arguments, **options):
        raise SystemExit(9)

    monkeypatch.setenv("LIBSAFE_SECRET_TOKEN", token)
    with monkeypatch.context() as patch:
        patch.setattr(runner, "seal", killed)
        with pytest.raises(SystemExit):
            libsafe_nb.run(payload, path, settings=settings)
    if not known:
        monkeypatch.delenv("LIBSAFE_SECRET_TOKEN")
    (found,) = recover.recover(settings=settings, lost=False)
    (job,) = connection.client.jobs(container=container)
    done = libsafe_nb.models.Run(found.run, job["id"], container, evidence=found.evidence)
    record = json.loads(stored(done, "record.json"))

    assert found.status == "completed"
    assert record["recovered"]["not_searched_for"] == ["key_extra", name][: 1 if known else 2]
    assert (blob in stored(done, "executed.ipynb")) != known
