"""A recorded run, repeated on the real platform: what is the same, what differs, and what cannot be run again."""

import json
import shutil

import pytest
from click.testing import CliRunner
from conftest import PARAMETERS, write_function
from nbformat.v4 import new_code_cell

import libsafe_nb
from libsafe_nb import archive, comparison, evidence, history, kernels, record, replay
from libsafe_nb.cli import cli
from libsafe_nb.compat import keys
from libsafe_nb.compat.outbox import Outbox
from libsafe_nb.compat.session import Session
from libsafe_nb.door import STUB, Door
from libsafe_nb.errors import ExecutionError, NotebookError, SecretFound, UsageError

READ = """
from types import SimpleNamespace
from libnova.com.Api import File
from libnova.com.Filesystem import S3
from libnova.com.Nuclio.Request import Request
request = Request(None, SimpleNamespace(body=json_sample))
request.job_init()
for file in request.Files:
    text = S3.File.get_stream(request.Storage, file).read().decode()
    print(file.fullpath, file.size, text)
    File.set_hash(file.id, "md5", "0" * 32)
    File.set_metadata(file.id, {"description": text})
"""
WRITE = """
made = File.write(request.container_id, "/made.txt", text.upper())
print(made.id)
print(made.sha256)
request.job_end(True)
"""


@pytest.fixture(scope="module")
def container(connection):
    return connection.client.create_container("replay")["id"]


@pytest.fixture(scope="module")
def original(platform, container, tmp_path_factory):
    """A run that read a file, set its hash and metadata, and wrote another."""
    home = tmp_path_factory.mktemp("original")
    (home / "letter.txt").write_text("as it was")
    notebook = write_function(
        home / "f.ipynb", new_code_cell(READ, id="read"), new_code_cell(WRITE, id="write")
    )
    done = libsafe_nb.run(
        None, notebook, settings=platform.settings, container=container, uploads=[home / "letter.txt"]
    )
    assert done.status == "completed", done.error
    return done


@pytest.fixture
def copied(original, connection, tmp_path):
    """A copy of the evidence, changed as asked and sealed again as if it had always been so."""

    def copied(name=None, change=None, run=original):
        prefix = run.evidence.removeprefix(f"libsafe://{run.container}/")
        home = tmp_path / "copy" / prefix
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        files = {
            each.path.rpartition("/")[2]: connection.storage.get(run.container, each.path)
            for each in connection.storage.list(run.container, prefix)
        }
        if name:
            data = json.loads(files[name])
            change(data)
            files[name] = record.canonical(data)
        body = json.loads(files["record.json"])
        body["notebook"]["sha256"] = record.digest(files["executed.ipynb"])
        body["env"]["packages_sha256"] = record.digest(files["environment.json"])
        files["record.json"] = record.canonical(body)
        del files["SHA256SUMS"]
        for each, data in {**files, "SHA256SUMS": evidence.sums(files)}.items():
            (home / each).write_bytes(data)
        return str(home)

    return copied


@pytest.fixture
def again(platform):
    """Replays evidence; the platform of the tests is the configured one."""

    def again(place, **options):
        return replay.replay(place, settings=platform.settings, **options)

    return again


def differences(found):
    return [(each.cell_id, each.verdict) for each in found.cells if each.verdict != "same"]


def test_an_unchanged_run_is_the_same_and_changes_nothing(again, copied, original, connection, container):
    client = connection.client
    letter, made = (client.file_by_path(container, path) for path in ("/letter.txt", "/made.txt"))
    client.set_hash(letter["id"], "md5", "1" * 32)
    client.set_metadata(letter["id"], [{"iecode": "description", "value": "mine"}])
    found = again(copied())

    assert (found.verdict, found.reasons, found.environment, differences(found)) == ("same", (), (), [])
    assert client.file(letter["id"])["hashes"]["md5"] == "1" * 32
    assert "mine" in json.dumps(client.metadata(letter["id"]))
    assert client.file_by_path(container, "/made.txt")["version_id"] == made["version_id"]


def test_a_replay_leaves_a_record_of_its_own_that_names_the_original(
    again, copied, original, connection, container
):
    found = again(copied())
    prefix = found.run.evidence.removeprefix(f"libsafe://{container}/")
    body = json.loads(connection.storage.get(container, prefix + "record.json"))
    theirs = connection.storage.get(
        container, original.evidence.removeprefix(f"libsafe://{container}/") + "record.json"
    )

    assert found.run.job != original.job
    assert connection.client.job(found.run.job)["status"] == "COMPLETED"
    assert body["replay_of"] == {
        "record": f"{original.evidence}record.json",
        "record_sha256": record.digest(theirs),
    }
    assert [(each["path"], each["stubbed"]) for each in body["outputs"]] == [("/made.txt", True)]
    assert {each["stubbed"] for each in body["platform_writes"]} == {True}
    source = archive.Container(connection.storage, container)
    assert body["replay_of"]["record"] in [row.replay_of for row in history.runs(source)]
    assert [deed.stubbed for deed in history.of_file(source, "/made.txt")][:2] == [False, True]


def test_a_newer_version_of_an_input_is_told_and_the_recorded_one_read(
    again, original, copied, connection, container
):
    place = copied()
    connection.storage.put(container, "/letter.txt", b"another text altogether")
    found = again(place)

    assert found.verdict == "same"
    assert "/letter.txt" in found.notes[0]
    assert "newer version" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sha256": "0" * 64}, "expected sha256 0000"),
        ({"size": 8}, "expected 8 bytes, found 9"),
        ({"path": "/gone.txt"}, "is not in container"),
    ],
)
def test_an_input_that_is_not_what_it_was_stops_it(again, copied, change, told):
    found = again(copied("record.json", lambda body: body["inputs"][0].update(change)))

    assert (found.verdict, found.run, found.exit_code) == ("not runnable", None, 3)
    assert told in found.reasons[0]
    assert change.get("path", "/letter.txt") in found.reasons[0]


def test_a_changed_cell_is_named(again, copied):
    def change(node):
        next(cell for cell in node["cells"] if cell["id"] == "write")["source"] = "print(1)"

    found = again(copied("executed.ipynb", change))

    assert (found.verdict, found.run) == ("not runnable", None)
    assert found.reasons == ("cell write: its source is not the one that was recorded",)


def test_a_cell_that_was_added_or_a_record_that_was_edited_stops_it(again, copied):
    added = again(
        copied("executed.ipynb", lambda node: node["cells"].append(node["cells"][-1] | {"id": "new"}))
    )
    place = copied()
    with open(f"{place}/record.json", "ab") as file:
        file.write(b"\n")

    assert "a cell came or went" in added.reasons[0]
    assert "SHA256SUMS" in again(place).reasons[0]


def test_a_changed_package_and_a_changed_output_are_named(again, copied):
    def older(found):
        found["packages"][0]["version"] = "0.0.1"
        found["packages"].append({"name": "zzz", "version": "1"})

    found = again(copied("environment.json", older))
    names = [each.split()[1].rstrip(":") for each in found.environment if each.startswith("package")]

    assert found.verdict == "same"
    assert len(names) == 2
    assert "0.0.1 became" in found.environment[0]
    assert "zzz 1: removed" in found.environment[1]

    def other(node):
        cell = next(cell for cell in node["cells"] if cell["id"] == "read")
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "/letter.txt 9 as it is\n"}]

    found = again(copied("executed.ipynb", other))
    cell = next(each for each in found.cells if each.verdict != "same")

    assert (found.verdict, found.exit_code, cell.cell_id, cell.verdict) == ("differs", 1, "read", "differs")
    assert "-stdout: /letter.txt 9 as it is" in cell.diff
    assert "+stdout: /letter.txt 9 as it was" in cell.diff


def test_a_package_that_came_since_is_named(again, copied, tmp_path, monkeypatch):
    (tmp_path / "more" / "zzz_probe-1.0.dist-info").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "more"))
    found = again(copied())

    assert (found.verdict, found.environment) == ("same", ("package zzz-probe 1.0: added",))


def test_a_kernel_of_another_language_is_not_replayed(again, copied):
    found = again(copied("record.json", lambda body: body["env"]["kernel"].update(language="R")))

    assert (found.verdict, found.run) == ("not runnable", None)
    assert "only Python" in found.reasons[0]


def test_what_would_be_written_otherwise_differs(again, copied):
    found = again(copied("record.json", lambda body: body["outputs"][0].update(sha256="0" * 64)))

    assert found.verdict == "differs"
    assert any("/made.txt: sha256 000" in each for each in found.reasons)


def test_the_environments_difference_is_known_before_the_first_cell(
    platform, container, again, copied, tmp_path
):
    """The replayed cell sees what was done when the difference was told."""
    marker = tmp_path / "told"
    notebook = write_function(
        tmp_path / "m.ipynb", f"import pathlib\nprint(pathlib.Path({str(marker)!r}).exists())"
    )
    done = libsafe_nb.run(None, notebook, settings=platform.settings, container=container)
    told = []

    def tell(changed):
        told.append(changed)
        marker.touch()

    place = copied(
        "environment.json", lambda body: body["packages"].append({"name": "zzz", "version": "1"}), done
    )
    found = again(place, on_environment=tell)

    assert told == [("package zzz 1: removed",)]
    assert found.environment == told[0]
    assert found.verdict == "differs"
    assert {"-stdout: False", "+stdout: True"} <= {line for cell in found.cells for line in cell.diff}


def test_an_environment_that_cannot_be_asked_stops_nothing(again, copied, monkeypatch):
    told = []
    monkeypatch.setattr(kernels, "ask", lambda *_: "no JSON")

    assert again(copied(), on_environment=told.append).verdict == "same"
    assert told == [None]


def test_a_kernel_of_another_language_is_not_asked():
    spec = kernels.KernelSpec("r", "R", ("/bin/false",))
    absent = kernels.KernelSpec("p", "python", ("/absent/python",), ipykernel=True)
    ends = kernels.KernelSpec("p", "python", ("/bin/false",), ipykernel=True)

    assert [kernels.ask(each, "") for each in (spec, absent, ends)] == [None, None, None]


def test_chance_differs_unless_it_is_declared(platform, container, again, tmp_path):
    cells = [
        new_code_cell("import random\nprint(random.random())", id="tagged", metadata={"tags": ["volatile"]}),
        new_code_cell("import time\nprint('took', time.perf_counter(), 's')", id="masked"),
        new_code_cell("print(object())", id="address"),
        new_code_cell("raise ValueError('always')", id="fails"),
    ]
    volatile = {"libsafe": {"volatile": {"patterns": [r"took \S+ s"]}}}
    done = libsafe_nb.run(
        None,
        write_function(tmp_path / "v.ipynb", *cells, metadata=volatile),
        settings=platform.settings,
        container=container,
    )
    with pytest.MonkeyPatch.context() as patch:
        _configure(patch, platform)
        found = again(done.evidence)

    assert (done.status, found.verdict) == ("failed", "same except declared-volatile")
    assert differences(found) == [("tagged", "volatile"), ("masked", "volatile")]


def test_a_secret_that_is_not_there_is_named(platform, container, again, tmp_path, monkeypatch):
    declared = 'from libsafe_nb import Secret\ntoken: Secret = ""\n' + PARAMETERS
    path = write_function(tmp_path / "s.ipynb", "print(len(token))", parameters=declared)
    monkeypatch.setenv("LIBSAFE_SECRET_TOKEN", "a-very-private-token-9431")
    done = libsafe_nb.run(None, path, settings=platform.settings, container=container)
    assert done.status == "completed", done.error
    _configure(monkeypatch, platform)

    assert again(done.evidence).verdict == "same"

    monkeypatch.delenv("LIBSAFE_SECRET_TOKEN")
    found = again(done.evidence)

    assert found.verdict == "not runnable"
    assert "LIBSAFE_SECRET_TOKEN" in found.reasons[0]
    assert "token (kernel)" in found.reasons[1]


def test_writes_that_are_allowed_are_done(again, copied, original, connection, container):
    letter = connection.client.file_by_path(container, "/letter.txt")
    connection.client.set_hash(letter["id"], "md5", "2" * 32)
    found = again(copied(), allow_writes=True)

    assert found.verdict == "same"
    assert connection.client.file(letter["id"])["hashes"]["md5"] == "0" * 32


def _configure(patch, platform):
    settings = platform.settings
    for name, value in {
        "URL": settings.url,
        "KEY_USER": settings.key_user,
        "S3_ENDPOINT": settings.s3.endpoint,
        "S3_BUCKET": settings.s3.bucket,
        "S3_ACCESS_KEY": settings.s3.access_key,
        "S3_SECRET_KEY": settings.s3.secret_key,
    }.items():
        patch.setenv(f"LIBSAFE_{name}", value)


def test_the_command_tells_it_and_ends_with_its_code(platform, copied, monkeypatch):
    _configure(monkeypatch, platform)
    same = CliRunner().invoke(cli, ["replay", copied(), "--json"])
    stopped = CliRunner().invoke(
        cli, ["replay", copied("record.json", lambda body: body["inputs"][0].update(size=8))]
    )

    older = CliRunner().invoke(
        cli,
        [
            "replay",
            copied("environment.json", lambda body: body["packages"].append({"name": "zzz", "version": "1"})),
        ],
    )

    assert (same.exit_code, json.loads(same.stdout)["result"]) == (0, "same")
    assert older.stdout.splitlines()[0] == "environment  package zzz 1: removed"
    assert older.stdout.count("environment") == 1
    assert stopped.stdout.splitlines()[0] == "environment  the same"
    assert stopped.exit_code == 3
    assert stopped.stdout.splitlines()[-1] == "result  not runnable"


def test_a_folder_without_one_run_s_evidence_is_bad_usage(tmp_path):
    with pytest.raises(UsageError, match="found none"):
        replay.replay(str(tmp_path))


@pytest.mark.parametrize("words", ["time", ["network", "time"], True, False])
def test_words_that_say_why_a_function_is_not_reused_excuse_nothing(words):
    cells = [new_code_cell("print(1)", id="one"), new_code_cell("print(2)", id="two")]
    declared = comparison.volatile({"metadata": {"libsafe": {"volatile": words}}, "cells": cells}, "f.ipynb")

    assert not declared.cells & {"one", "two"}
    assert not declared.patterns


@pytest.mark.parametrize("bad", [3, [1], {"cells": "a"}, {"patterns": ["("]}, {"other": []}])
def test_a_declaration_that_is_none_is_refused(bad):
    with pytest.raises(NotebookError, match=r"f.ipynb: metadata.libsafe.volatile"):
        comparison.volatile({"metadata": {"libsafe": {"volatile": bad}}, "cells": []}, "f.ipynb")


def test_how_streams_were_cut_and_took_turns_does_not_count():
    def notebook(*outputs):
        cell = {"cell_type": "code", "id": "a", "source": "", "metadata": {}, "outputs": list(outputs)}
        return {"cells": [cell]}

    def stream(name, text):
        return {"output_type": "stream", "name": name, "text": text}

    one = notebook(stream("stdout", "a\n"), stream("stderr", "x\n"), stream("stdout", ["b\n", "c\n"]))
    two = notebook(stream("stdout", "a\nb\nc\n"), stream("stderr", "x\n"))
    shorter = notebook(stream("stdout", "a\n"))

    assert [each.verdict for each in comparison.cells(one, two, comparison.Volatile())] == ["same"]
    found = next(comparison.cells(one, shorter, comparison.Volatile()))
    assert "-stderr: x" in found.diff


def test_a_long_output_is_compared_in_bounded_time():
    def notebook(lines):
        outputs = [{"output_type": "stream", "name": "stdout", "text": "\n".join(lines)}]
        return {"cells": [{"cell_type": "code", "id": "a", "source": "", "metadata": {}, "outputs": outputs}]}

    one = [str(number) for number in range(200_000)]
    two = [*one[:100_000], *(str(-number) for number in range(100_000))]
    found = next(comparison.cells(notebook(one), notebook(two), comparison.Volatile()))

    assert found.verdict == "differs"
    assert len(found.diff) < 2 * comparison.MAX_LINES + 20
    assert "not shown" in found.diff[-1]


WRITES = {
    "settle": ("file 1",),
    "hash": ("1", "md5", "0" * 32),
    "metadata": ("file", "1", [{"iecode": "a", "value": "b"}]),
    "tag": ("1", "2"),
    "delete": ("1",),
    "message": ("1", "text", "INFO", None),
    "status": ("1", "FAILED"),
    "progress": ("1", 0.5),
    "write": ("1", "/a.txt", b"abc", None),
    "container": ("name", None, {}),
    "folder": ("1", "/a"),
    "call": ("DELETE", "/file/1", None),
}


@pytest.mark.parametrize("name", sorted(name for name in vars(Outbox) if name.islower() and name[0] != "_"))
def test_no_write_leaves_a_replay(name, monkeypatch):
    """Nobody answers at that address, so a write that were sent would raise."""
    if name == "stubbed":
        return
    monkeypatch.setenv(STUB, "1")
    here = Session("http://127.0.0.1:9", "a-key-of-nobody-5521", None)

    getattr(Outbox(here), name)(*WRITES[name])


def test_a_key_is_not_written_in_a_replay_either(monkeypatch):
    monkeypatch.setenv(STUB, "1")
    here = Session("http://127.0.0.1:9", "a-key-of-nobody-5521", None)

    with pytest.raises(SecretFound):
        Outbox(here).write("1", "/a.txt", b"my a-key-of-nobody-5521", None)


def test_the_vendor_s_library_cannot_be_held_back(monkeypatch, tmp_path):
    monkeypatch.setenv(STUB, "1")
    monkeypatch.setattr("libsafe_nb.compat.finder.which", lambda: {"library": "vendor"})
    with (
        Door(tmp_path / "door", lambda do, fields: {"api": {}}),
        pytest.raises(ExecutionError, match="vendor"),
    ):
        keys.fill({}, str(tmp_path / "door"), "nonce", "json_sample")


def test_with_the_vendors_library_the_replay_ends_after_the_parameters(
    again, copied, connection, tmp_path, monkeypatch
):
    (tmp_path / "site" / "libnova" / "com").mkdir(parents=True)
    (tmp_path / "site" / "libnova" / "__init__.py").touch()
    (tmp_path / "site" / "libnova" / "com" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    found = again(copied())
    prefix = found.run.evidence.removeprefix(f"libsafe://{found.run.container}/")
    body = json.loads(connection.storage.get(found.run.container, prefix + "record.json"))

    assert (found.verdict, found.exit_code) == ("not runnable", 3)
    assert "vendor's library" in found.run.error["message"]
    assert connection.client.job(found.run.job)["status"] == "FAILED"
    assert [each["status"] for each in body["cells"]] == ["completed", "completed", "not-run", "not-run"]
