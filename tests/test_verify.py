"""`verify` finds the untouched evidence as recorded, and tells each alteration by its name."""

import contextlib
import json
import shutil
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
import tampering
from attesters import needs_openssl
from click.testing import CliRunner
from engine_runs import wait_for
from tampering import ALTERATIONS, Copy
from test_run import command_environment

import libsafe_nb
from libsafe_nb import archive, recordcheck, replay
from libsafe_nb.archive import Container
from libsafe_nb.checks import FOLDER, Check, Report
from libsafe_nb.cli import cli
from libsafe_nb.errors import UsageError
from libsafe_nb.record import canonical, digest, lost, timestamp


@pytest.fixture(scope="session")
def original(platform, tmp_path_factory):
    """Real runs' evidence, made once."""
    from libsafe_nb.connection import connect

    connection = connect(settings=platform.settings)
    yield tampering.make(connection, tmp_path_factory.mktemp("tampering") / "runs")
    connection.close()


@pytest.fixture(scope="session")
def witnesses(tmp_path_factory):
    return tampering.Witnesses.make(tmp_path_factory.mktemp("witnesses"))


@pytest.fixture
def copy(original, tmp_path):
    return Copy(shutil.copytree(original.root, tmp_path / "copy"))


def test_untouched_evidence_is_verified(copy):
    report = libsafe_nb.verify(copy.root, head=copy.head())

    assert report.exit_code == 0, report.checks
    assert not report.checks
    assert report.counts["ok"] > 60


@pytest.mark.parametrize(
    "alteration",
    # Every second one is left to the slow proofs: they take a minute.
    [
        pytest.param(
            each, id=each.name, marks=[pytest.mark.slow] * (index % 2) + [needs_openssl] * each.signed
        )
        for index, each in enumerate(ALTERATIONS)
    ],
)
def test_an_alteration_is_told_by_name(copy, alteration, request):
    if alteration.signed:
        copy.witnesses = request.getfixturevalue("witnesses")

    report = alteration.report(copy, copy.head())

    assert report.exit_code == 1
    assert alteration.told_by in {
        each.name for each in report.checks if each.result in ("changed", "missing")
    }


def test_alterations_have_names_of_their_own():
    assert len({each.name for each in ALTERATIONS}) == len(ALTERATIONS) >= 30


@pytest.mark.parametrize(
    "alteration", [each for each in ALTERATIONS if each.told_by == "head"], ids=lambda e: e.name
)
def test_without_the_outside_head_nothing_is_called_verified(copy, alteration):
    alteration.make(copy)

    report = libsafe_nb.verify(copy.root)

    assert report.exit_code == 5
    assert [each.name for each in report.checks] == ["head"]


def test_a_records_folder_alone_is_checked_as_a_folder_and_says_so(copy, tmp_path):
    alone = shutil.copytree(copy.folders()[0], tmp_path / "alone")

    report = libsafe_nb.verify(alone)

    assert report.exit_code == 0
    assert [(each.name, each.result) for each in report.checks] == [("folder", "not-checked")]


def test_a_records_folder_within_its_container_is_checked_against_its_chain(copy):
    report = libsafe_nb.verify(copy.folders()[1], head=copy.head())

    assert report.exit_code == 0
    tampering.change_link(copy, 1, record_sha256="0" * 64)
    assert libsafe_nb.verify(copy.folders()[1]).exit_code == 1


@pytest.mark.parametrize("name", ["head", "inputs", "outputs", "signature", "sums", "record"])
def test_not_checked_is_never_verified(name):
    checks = [Check("record", "ok", "x"), Check(name, "not-checked", "x")]

    assert Report.of("x", checks).exit_code == 5
    assert Report.of("x", [*checks, Check("x", "missing", "x")]).exit_code == 1
    assert Report.of("x", []).exit_code == 5
    assert Report.of("x", [Check(FOLDER, "not-checked", "x")]).exit_code == 5


def test_a_later_content_of_an_input_is_not_called_changed(copy):
    """Without versions nobody knows whether a file at its path is the one that was read."""
    (copy.root / "letter.txt").write_bytes(b"later\n")

    report = libsafe_nb.verify(copy.root, head=copy.head())

    assert {(each.name, each.result) for each in report.checks} == {("inputs", "not-checked")}
    assert report.exit_code == 5


def test_files_that_were_not_read_again_are_not_checked(copy):
    report = libsafe_nb.verify(copy.root, head=copy.head(), files=False)

    assert {each.name for each in report.checks} == {"inputs", "outputs"}
    assert report.exit_code == 5


def test_a_lost_machines_record_is_accepted(copy):
    run = str(uuid.uuid4())
    started = {
        "run": run,
        "job": "77",
        "container": "1",
        "started": "2026-11-25T10:00:00.000+00:00",
        "function": {"key": "", "name": "f.ipynb", "notebook_sha256": "0" * 64},
    }
    folder = copy.root / "provenance/f/20261125T100000000Z-job77-lost"
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(canonical(lost(started, "nothing was heard of it")))
    (copy.root / f"provenance/started/{run}.json").write_bytes(canonical(started))
    copy.sum(folder)
    copy.link()

    report = libsafe_nb.verify(copy.root, head=copy.head())

    assert report.exit_code == 0, report.checks


ENDINGS = {
    "exit-zero": ["import sys; sys.exit(0)", "print(1)"],
    "exit-nonzero": ["import sys; sys.exit(3)", "print(1)"],
    "kernel-died": ["import os; os._exit(9)", "print(1)"],
    "run-timeout": ["import time; time.sleep(60)", "print(1)"],
    "job-failed": [tampering.SETUP, "request.job_end(False)"],
    "nothing": ["", "# nothing"],
}


def test_however_a_run_ended_its_evidence_is_verified(run, notebook, connection, container, tmp_path):
    for name, cells in ENDINGS.items():
        run(notebook(*cells, name=f"{name}.ipynb"), timeout=5 if name == "run-timeout" else None)
    copy = tampering.download(connection, container, tmp_path / "copy")
    copy.link()

    report = libsafe_nb.verify(copy.root, head=copy.head())

    assert not report.checks
    assert report.exit_code == 0
    assert len(copy.folders()) == len(ENDINGS)


def test_also_the_end_that_a_recovery_found_is_not_before_its_last_cells(copy):
    def change(body):
        last = datetime.fromisoformat(body["cells"][-1]["ended"])
        body["ended"] = timestamp(last - timedelta(seconds=0.01))
        body["recovered"] = {"at": body["ended"], "host": "h", "reason": "its runner ended while it ran"}

    copy.change_record(change)
    copy.describe(0)

    assert "times" in {each.name for each in libsafe_nb.verify(copy.root).checks}


ELSEWHERE = """
from types import SimpleNamespace
from libnova.com.Api import File
from libnova.com.Filesystem import S3
from libnova.com.Nuclio.Request import Request
request = Request(None, SimpleNamespace(body=json_sample))
request.job_init()
File.write(request.container_id, "/same.txt", S3.File.get_stream(request.Storage, "FILE").read())
made = File.write("OTHER", "/made.txt", b"made elsewhere")
"""


def test_files_of_another_container_and_a_replays_writes_are_not_looked_for_here(
    run, notebook, connection, container, platform
):
    other = connection.client.create_container("other")["id"]
    connection.storage.put(other, "same.txt", b"the same bytes")
    wait_for(lambda: [each for each in connection.client.files(other) if each["type"] == "FILE"], 30, "it")
    letter = connection.client.file_by_path(other, "/same.txt")["id"]
    done = run(notebook(ELSEWHERE.replace("FILE", letter, 1).replace("OTHER", other)))
    assert done.status == "completed", done.error

    first = libsafe_nb.verify(container, settings=platform.settings)
    again = replay.replay(done.evidence, settings=platform.settings)
    second = libsafe_nb.verify(again.run.evidence, settings=platform.settings)

    assert again.verdict == "same", again
    told = [(each.name, each.place, each.result) for each in first.checks]
    assert told == [("inputs", "same.txt", "not-checked"), ("outputs", "made.txt", "not-checked")]
    assert {each.detail for each in first.checks} == {f"it belongs to container {other}, not to this one"}
    # What it would have written is not looked for; its input is another container's as before.
    assert [(each.name, each.place) for each in second.checks if each.name != "head"] == [
        ("inputs", "same.txt")
    ]


def test_what_is_called_stubbed_in_a_run_that_is_no_replay_is_compared(copy):
    def change(body):
        body["outputs"][0].update(stubbed=True, sha256="0" * 64)

    copy.change_record(change)

    assert "outputs" in {each.name for each in libsafe_nb.verify(copy.root).checks}


def test_over_s3_inputs_are_read_in_their_versions_and_the_head_from_the_jobs(original, connection):
    container = original.record()["container"]["id"]
    storage, client = connection.storage, connection.client
    for place in sorted(original.root.rglob("*")):
        if place.is_file():
            # Under other bytes than the runs left: descriptions were added and the chain made.
            path = place.relative_to(original.root).as_posix()
            if path.startswith("provenance/"):
                storage.put(container, path, place.read_bytes())
    head = original.head()
    for folder in original.folders():
        job = json.loads((folder / "record.json").read_bytes())["job"]["id"]
    client.message(job, f"chain: {head['seq']} {head['sha256']}")
    archive = Container(storage, container, connection=connection)

    first = libsafe_nb.verify(archive)

    # The runs' own links, whose bytes the jobs were told, are the ones that were replaced.
    assert {each.name for each in first.checks} <= {"head"}, first.checks
    assert first.counts["ok"] > 60

    storage.put(container, "letter.txt", b"a later version\n")
    assert not [each for each in libsafe_nb.verify(archive, head=head).checks if each.name == "inputs"]

    last = original.links()[-1].relative_to(original.root).as_posix()
    storage.delete(container, last)
    report = libsafe_nb.verify(archive)
    assert report.exit_code == 1
    assert {"chain", "link", "head"} <= {each.name for each in report.checks if each.result == "missing"}
    storage.put(container, last, original.links()[-1].read_bytes())


def test_over_s3_a_version_with_other_bytes_is_told(original, connection, tmp_path):
    """The attacker changes record, crate, PREMIS and chain alike; the file's version stays what it was."""
    copy = Copy(shutil.copytree(original.root, tmp_path / "copy"))
    container = connection.client.create_container("other")["id"]
    stored = {
        "inputs": connection.storage.put(container, "letter.txt", b"HELLO\n").version_id,
        "outputs": connection.storage.put(container, "out/sizes.txt", b"7\n").version_id,
    }

    def change(body):
        for name, version in stored.items():
            for each in body[name]:
                each["version_id"] = version

    for number in range(3):
        copy.change_record(change, number)
        copy.describe(number)
    for place in (copy.root / "provenance").rglob("*"):
        if place.is_file():
            connection.storage.put(container, place.relative_to(copy.root).as_posix(), place.read_bytes())

    report = libsafe_nb.verify(f"libsafe://{container}", settings=connection.settings, head=copy.head())

    assert {(each.name, each.result) for each in report.checks} == {
        ("inputs", "changed"),
        ("outputs", "changed"),
    }
    assert report.exit_code == 1


def another_run(copy, files, started):
    """Write a copy of a record under a new run and job."""
    run, body, node = str(uuid.uuid4()), json.loads(files["record.json"]), json.loads(files["executed.ipynb"])
    old, job = body["job"]["id"], str(uuid.uuid4().int)
    body["id"] = f"urn:uuid:{run}"
    body["job"]["id"] = body["payload"]["function_data"]["job"]["id"] = job
    node["metadata"]["papermill"]["parameters"]["json_sample"]["function_data"]["job"]["id"] = job
    cell = tampering.injected(node)
    cell["source"] = "".join(cell["source"]).replace(f'"job": {{"id": "{old}"}}', f'"job": {{"id": "{job}"}}')
    tampering.payload_anew(body)
    tampering.cell_hashes(body, node)
    data = json.dumps(node).encode()
    body["notebook"].update(sha256=digest(data), size=len(data))
    made = {
        **files,
        "executed.ipynb": data,
        "record.json": canonical(body),
        "premis.xml": tampering.premis(body),
    }
    made["ro-crate-metadata.json"] = tampering.crate(body, made)
    template = copy.folders()[0]
    folder = template.with_name(f"{template.name.partition('-job')[0]}-job{job}")
    return run, folder, made, canonical({**started, "run": run, "job": job})


@pytest.mark.slow
def test_a_thousand_records_are_verified(copy):
    files = {each.name: each.read_bytes() for each in copy.folders()[0].iterdir()}
    for name in ("SHA256SUMS", "ro-crate-metadata.json"):
        del files[name]
    started = json.loads(copy.start().read_bytes())
    made = [another_run(copy, files, started) for _ in range(1000 - len(copy.folders()))]
    for run, folder, contents, start in made:
        folder.mkdir()
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        copy.sum(folder)
        (copy.root / f"provenance/started/{run}.json").write_bytes(start)
    copy.link()

    report = libsafe_nb.verify(copy.root, head=copy.head())

    assert report.exit_code == 0, report.checks[:3]
    assert report.counts["ok"] > 20_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_container_of_a_thousand_real_runs_is_verified(platform, connection, container, notebook):
    """Through the storage, with the head from the jobs' messages; four runs at a time, every tenth of them failed."""
    connection.storage.put(container, "letter.txt", b"hello\n")
    reads = notebook(tampering.SETUP, tampering.READ.replace("{limit}", "many"), name="reads.ipynb")
    paths = [reads] * 9 + [notebook(tampering.SETUP, "1 / 0", name="fails.ipynb")]

    def run(number):
        return libsafe_nb.run(
            None,
            paths[number % 10],
            container=container,
            files=["/letter.txt"],
            settings=platform.settings,
            wait=False,
        )

    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(lambda number: run(number).wait(), range(1000)):
            assert done.evidence

    began = time.monotonic()
    with contextlib.closing(archive.at(container, settings=platform.settings)) as found:
        report = libsafe_nb.verify(found)

    print(f"1,000 runs verified in {time.monotonic() - began:.0f} s: {dict(report.counts)}")
    assert report.exit_code == 0, report.checks[:3]
    assert report.counts["ok"] > 20_000


def test_the_command_prints_a_line_a_finding_and_a_summary(copy):
    head = f"{copy.head()['seq']}:{copy.head()['sha256']}"
    well = CliRunner().invoke(cli, ["verify", str(copy.root), "--head", head])
    assert (well.exit_code, well.output.count("\n")) == (0, 1)
    assert well.output.startswith("verified  ")

    tampering.rewrite(copy, "executed.ipynb", b"print", b"Print")
    bad = CliRunner().invoke(cli, ["verify", str(copy.root), "--head", head])
    assert bad.exit_code == 1
    place = copy.folders()[0].relative_to(copy.root).as_posix()
    assert f"changed  {place}/executed.ipynb: sha256: expected" in bad.output
    told = CliRunner().invoke(cli, ["verify", str(copy.root), "--json"])
    assert json.loads(told.output)[0]["exit_code"] == 1
    verbose = CliRunner().invoke(cli, ["verify", str(copy.root), "--verbose"])
    assert "ok  provenance/chain/00000001.json" in verbose.output


def test_what_is_no_evidence_is_bad_usage(tmp_path):
    with pytest.raises(UsageError, match="nothing"):
        libsafe_nb.verify(tmp_path / "none")
    with pytest.raises(UsageError, match="CONTAINER"):
        libsafe_nb.verify("libsafe://1/letter.txt")
    assert CliRunner().invoke(cli, ["verify", str(tmp_path), "--head", "x"]).exit_code == 2
    assert libsafe_nb.verify(tmp_path).exit_code == 1


def test_the_program_takes_a_containers_id(platform, notebook, run, container, monkeypatch):
    """As the README shows it."""
    run(notebook("1"))
    for name, value in command_environment(platform).items():
        monkeypatch.setenv(name, value)

    result = CliRunner().invoke(cli, ["verify", container, "--json"])

    assert result.exit_code == 0, result.output
    (report,) = json.loads(result.stdout)
    assert report["place"] == f"libsafe://{container}/provenance/"


def test_of_a_run_that_a_call_ended_a_call_did_not_complete():
    body = {
        "status": "failed",
        "cause": "call-failed",
        "error": {"type": "CallFailed", "message": "no"},
        "cells": [],
    }

    assert recordcheck._status({**body, "calls": [{"status": "completed"}, {"status": "dead"}]}) is None
    assert "all its calls completed" in recordcheck._status({**body, "calls": [{"status": "completed"}]})
