"""One function notebook end to end: real kernel, real REST, real S3."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from environs import variables
from nbformat.v4 import new_code_cell, new_notebook

import libsafe_nb
from libsafe_nb import errors, plan
from libsafe_nb.payloads import Payload
from libsafe_nb.settings import S3Settings, Settings

ROOT = Path(__file__).parent.parent
START = """
import json
from libnova.com.Nuclio.Request import Request
from libnova.com.Api import File, Job, JobMessage
request = Request(None, type("Event", (), {"body": json.dumps(json_sample)})())
request.job_init()
"""


@pytest.fixture
def job(connection):
    return lambda run: connection.client.job(run.job)


@pytest.fixture
def messages(connection):
    return lambda run: list(connection.client.messages(run.job))


@pytest.fixture
def samples(tmp_path):
    made = []
    for number in range(3):
        path = tmp_path / f"sample {number} é.bin"
        path.write_bytes(bytes([number]) * (1000 + number))
        made.append(path)
    return made


def test_a_run_of_more_files_than_its_record_could_tell_of_is_refused(notebook, run, connection, container):
    ids = [str(number) for number in range(1, 100_002)]
    payload = {"function_data": {"container": {"id": container}, "files": {"ids": ids, "paths": []}}}

    with pytest.raises(
        errors.UsageError,
        match="at most 100,000 in one run, got 100,001; libsafe-nb map gives them to several",
    ):
        run(notebook(START), payload=payload)

    assert list(connection.client.jobs(container=container)) == []


def test_of_each_file_a_run_keeps_what_its_record_tells(connection, container):
    connection.client.import_files(container, [{"path": "/a.txt", "size": 5}])
    file = connection.client.file_by_path(container, "/a.txt")
    payload = Payload.manual(container=container).replace(file_ids=[file["id"]])

    by_id, by_path = (
        plan.find_files(connection, payload, [], {}),
        plan.find_files(connection, Payload.manual(container=container), ["/a.txt"], {}),
    )

    assert by_id == by_path == [{"id": file["id"], "fullpath": "/a.txt", "size": 5, "version_id": None}]


def assert_hashed(connection, run, samples, messages):
    about = [each for each in messages(run) if each["file_id"]]
    assert len(about) == 9
    for path in samples:
        file = connection.client.file_by_path(run.container, path.name)
        stored = connection.client.file(file["id"])["hashes"]
        for name in ("md5", "sha1", "sha256"):
            tool = subprocess.run(
                [f"{name}sum", path], capture_output=True, text=True, check=True
            ).stdout.lstrip("\\")
            assert stored[name] == tool.split()[0]
            assert any(each["file_id"] == file["id"] and stored[name] in each["message"] for each in about)


def test_vendor_sample_runs_verbatim_as_a_notebook(
    tmp_path, vendor_sample, run, connection, samples, job, messages, stored, notebook
):
    """The page's three listings as three cells, the payload cell tagged."""
    start = vendor_sample.index("json_sample = {")
    end = vendor_sample.index("# Initialize the Request parser")
    cells = [
        new_code_cell(vendor_sample[:start]),
        new_code_cell(vendor_sample[start:end]),
        new_code_cell(vendor_sample[end:]),
    ]
    cells[1].metadata["tags"] = ["parameters"]
    path = tmp_path / "vendor.ipynb"
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": spec}), path)

    done = run(path, uploads=samples)

    assert done.status == "completed", done.error
    assert job(done)["status"] == "COMPLETED"
    assert_hashed(connection, done, samples, messages)
    assert stored(done, "executed.ipynb")


def test_vendor_sample_runs_verbatim_as_a_script(
    tmp_path, vendor_sample, run, connection, samples, job, messages, stored
):
    path = tmp_path / "vendor.py"
    path.write_text(vendor_sample)

    done = run(path, script=True, uploads=samples)

    assert job(done)["status"] == "COMPLETED", done.error
    assert_hashed(connection, done, samples, messages)
    assert json.loads(stored(done, "record.json"))["function"]["substitutions"][0]["name"] == "json_sample"


def test_handler_of_the_newer_layout_runs_unchanged(notebook, run, connection, samples, job):
    """The shape of a published Function: bytes body, context.logger, metadata as a JSON string."""
    handler = """
from libnova.common.nuclio.Request import Request
from libnova.common.api import File
from libnova.common.api.JobMessage import JobMessageType

def handler(context, event):
    context.logger.info("called with " + event.body.decode("utf-8")[:10])
    request_helper = Request(context, event)
    request_helper.job_init()
    for fid in request_helper.JSONData['function_data']['files']['ids']:
        File.get_metadata(fid, flatten=True)
        File.set_metadata(fid, '{"metadata": [{"iecode": "relation", "value": "aspace:/x/' + fid + '"}]}')
        File.set_metadata_values(fid, '[{"iecode": "subject", "value": ["a", "b"]}]')
        request_helper.log("linked", JobMessageType.INFO, fid)
    request_helper.job_end(True)
"""
    call = """
import json, logging
class Context: logger = logging.getLogger("function")
class Event: body = json.dumps(json_sample).encode()
handler(Context(), Event())
"""
    done = run(notebook(handler, call), uploads=samples[:1])

    assert job(done)["status"] == "COMPLETED", done.error
    file = connection.client.file_by_path(done.container, samples[0].name)
    found = {each["iecode"]: each["value"] for each in connection.client.metadata(file["id"])}
    assert found == {"relation": [f"aspace:/x/{file['id']}"], "subject": ["a", "b"]}


def test_a_cell_that_raises_fails_the_job_and_leaves_evidence(run, job, messages, stored, notebook):
    done = run(notebook(START, "1/0", "print('never')"))

    assert (done.status, done.exit_code) == ("failed", 1)
    assert job(done)["status"] == "FAILED"
    record = json.loads(stored(done, "record.json"))
    assert record["error"]["cell_id"] in " ".join(each["message"] for each in messages(done))
    assert [each["status"] for each in record["cells"]][-2:] == ["failed", "not-run"]
    with pytest.raises(errors.RunFailed, match="ZeroDivisionError"):
        done.raise_for_failure()


def test_job_end_false_fails_the_job(run, job, stored, notebook):
    done = run(notebook(START, "request.job_end(True); request.job_end(False); request.log('after')"))

    assert (done.status, done.exit_code, job(done)["status"]) == ("failed", 1, "FAILED")
    assert json.loads(stored(done, "record.json"))["job_result"] is False


def test_a_notebook_that_never_ends_its_job_is_completed(run, job, notebook):
    done = run(notebook("print('nothing to say')"))

    assert (done.exit_code, job(done)["status"]) == (0, "COMPLETED")


@pytest.mark.parametrize(
    ("cell", "status", "code"),
    [
        ("import sys; sys.exit(0)", "completed", 0),
        ("import sys; sys.exit(7)", "failed", 1),
        ("import os; os._exit(0)", "errored", 3),
    ],
)
def test_exits_and_deaths_are_told_apart(run, job, cell, status, code, notebook):
    done = run(notebook(cell, "print('rest')"))

    assert (done.status, done.exit_code) == (status, code)
    assert job(done)["status"] == ("COMPLETED" if status == "completed" else "FAILED")


def test_a_deadline_ends_the_run(run, job, stored, notebook):
    done = run(notebook("print('before', flush=True)\nimport time; time.sleep(600)"), timeout=3)

    assert (done.status, done.exit_code, job(done)["status"]) == ("timeout", 4, "FAILED")
    assert b"before" in stored(done, "executed.ipynb")


def test_the_start_record_stands_before_the_first_cell(notebook, run, connection, platform, container):
    """Asked of the storage from within the first cell."""
    seen = []

    def on_cell(state):
        if not seen:
            started = [each.path for each in connection.storage.list(container, "provenance/started/")]
            jobs = [each["status"] for each in connection.client.jobs(container=container)]
            seen.extend([started, jobs])

    done = run(notebook("1"), on_cell=on_cell)

    assert len(seen[0]) == 1
    assert seen[1] == ["RUNNING"]
    started = json.loads(connection.storage.get(done.container, f"provenance/started/{done.run}.json"))
    assert (started["run"], started["job"]) == (done.run, done.job)


def test_scraps_reach_the_run_and_the_job(run, job, messages, notebook):
    done = run(notebook("import scrapbook\nscrapbook.glue('answer', 42)"))

    assert done.scraps == {"answer": 42}
    assert job(done)["result"]["scraps"] == {"answer": 42}
    assert any('"answer": 42' in each["message"] for each in messages(done))


def test_parameters_reach_the_notebook(run, stored, notebook):
    path = notebook("print('got', count + 1, json_sample['function_params']['count'])")
    node = nbformat.read(path, 4)
    node.cells[0].source += "\ncount: int = 1"
    nbformat.write(node, path)

    assert b"got 6 5" in stored(run(path, params={"count": "5"}), "executed.ipynb")
    with pytest.raises(errors.ParameterError, match="unknown parameter 'cuont'"):
        run(path, params={"cuont": "5"})
    with pytest.raises(errors.ParameterError, match="expected int"):
        run(path, params={"count": "five"})


def test_no_key_is_stored(run, connection, platform, messages, notebook):
    cell = (
        START
        + """
assert len(json_sample["api"]["key_user"]) >= 8
print(json_sample["api"]["key_user"])
print(json_sample)
request.log("the key is " + json_sample["api"]["key_user"])
import os, subprocess
print(subprocess.run(["env"], capture_output=True, text=True).stdout)
print({name for name in os.environ if name.startswith("LIBSAFE_")})
raise ValueError(json_sample["api"]["key_user"])
"""
    )
    done = run(notebook(cell))

    assert done.status == "failed"
    keys = [platform.settings.key_user, platform.settings.key_root, platform.settings.s3.secret_key]
    bodies = [
        connection.storage.get(done.container, each.path)
        for each in connection.storage.list(done.container, "")
    ]
    bodies += [json.dumps([messages(done), connection.client.job(done.job), done.to_json()]).encode()]
    assert len(bodies) >= 4
    for key in keys:
        assert not any(key.encode() in body for body in bodies)
    assert any(b"[redacted:key_user]" in body for body in bodies)


def test_uploads_of_equal_bytes_are_stored_once(run, connection, samples, notebook):
    path = notebook("1")
    done = run(path, uploads=samples[:1])
    run(path, uploads=samples[:1])
    samples[0].write_bytes(b"changed")
    run(path, uploads=samples[:1])

    assert len(list(connection.storage.versions(done.container, samples[0].name))) == 2


def test_two_uploads_of_one_name_are_refused(tmp_path, run, samples, notebook):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / samples[0].name).write_bytes(b"x")

    with pytest.raises(errors.UsageError, match="the same name"):
        run(notebook("1"), uploads=[samples[0], tmp_path / "other" / samples[0].name])


def test_a_notebook_in_the_container_runs(run, connection, container, notebook):
    connection.storage.put(container, "/in here.ipynb", notebook("print('from s3')").read_bytes())

    assert run(f"libsafe://{container}/in here.ipynb").status == "completed"


def test_sixteen_runs_at_once_in_threads(run, job, notebook):
    path = notebook("import os; print(os.getcwd()); open('mark', 'x').close()")
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        done = [each.result() for each in [pool.submit(run, path) for _ in range(16)]]

    assert [each.status for each in done] == ["completed"] * 16
    assert {job(each)["status"] for each in done} == {"COMPLETED"}
    assert len({each.evidence for each in done}) == 16


def test_eight_runs_at_once_in_processes(platform, container, connection, notebook):
    path = notebook("import os; open('mark', 'x').close()")
    environ = command_environment(platform)
    command = [sys.executable, "-m", "libsafe_nb", "run", str(path), "--container", container, "--json"]
    started = [
        subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    outputs = [each.communicate() for each in started]

    assert [each.returncode for each in started] == [0] * 8, outputs
    found = [json.loads(out) for out, _ in outputs]
    assert len({each["evidence"] for each in found}) == 8
    assert {connection.client.job(each["job"])["status"] for each in found} == {"COMPLETED"}


def command_environment(platform):
    return {**os.environ, **variables(platform.settings)}


def command(platform, *arguments, **environ):
    full = {**command_environment(platform), **environ}
    return subprocess.run(
        [sys.executable, "-m", "libsafe_nb", *arguments],
        env=full,
        capture_output=True,
        text=True,
        check=False,
    )


def test_bad_usage_is_exit_2_and_one_sentence(tmp_path, platform, notebook):
    good = str(notebook("1"))
    (tmp_path / "bad.json").write_text('{"function_data": {"container": {"id": "x"}}}')
    for arguments in (
        ["run", str(tmp_path / "absent.ipynb")],
        ["run", good, "--param", "x=1"],
        ["run", good, "--param", "x"],
        ["run", good, "--payload", str(tmp_path / "bad.json")],
        ["run", good, "--upload", str(tmp_path / "absent")],
        ["run", good, "--nonsense"],
    ):
        done = command(platform, *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()


def test_platform_down_is_exit_3_and_one_sentence(platform, notebook):
    done = command(platform, "run", str(notebook("1")), LIBSAFE_URL="http://127.0.0.1:9")

    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:9" in done.stderr


def test_doctor_tells_what_is_there(platform):
    done = command(platform, "doctor")

    assert done.returncode == 0, done.stdout
    assert platform.settings.url in done.stdout


def test_a_wrong_key_is_told(platform, notebook):
    settings = Settings(
        url=platform.settings.url,
        key_user="a-wrong-key-altogether",
        key_root=None,
        s3=S3Settings(
            platform.settings.s3.endpoint, platform.settings.s3.bucket, "an-access-key", "a-secret-key"
        ),
        home=platform.settings.home,
        source="test",
    )
    with pytest.raises(errors.Unauthorized):
        libsafe_nb.run(None, notebook("1"), settings=settings)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_run_with_its_evidence(notebook, platform, connection, container, number, code):
    path = notebook(
        START + "print('half done', flush=True)\nrequest.log('in the cell')\nimport time; time.sleep(600)"
    )
    arguments = [sys.executable, "-m", "libsafe_nb", "run", str(path), "--container", container, "--json"]
    started = subprocess.Popen(
        arguments, env=command_environment(platform), stdout=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 60
        while not [
            each
            for job in connection.client.jobs(container=container)
            for each in connection.client.messages(job["id"])
        ]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        started.send_signal(number)
        out, _ = started.communicate(timeout=60)
    finally:
        started.kill()
        started.wait()

    assert started.returncode == code
    told = json.loads(out)
    assert told["outcome"] == "CANCELLED"
    assert connection.client.job(told["job"])["status"] == "CANCELLED"
    prefix = told["evidence"].removeprefix(f"libsafe://{container}/")
    assert b"half done" in connection.storage.get(container, prefix + "executed.ipynb")


def test_storage_that_fails_at_the_end_leaves_the_job_open(
    notebook, run, job, messages, connection, monkeypatch, platform
):
    """The evidence stays on this machine, and the job says so."""
    from libsafe_nb.storage import Storage

    put = Storage.put

    def refuse(self, container, path, data, **options):
        if path.endswith("record.json"):
            raise errors.StorageUnreachable("the storage is away")
        return put(self, container, path, data, **options)

    monkeypatch.setattr(Storage, "put", refuse)
    path = notebook("1")
    node = nbformat.read(str(path), 4)
    node.cells[0].source = f'json_sample = {{"api": {{"key_user": "{REAL}"}}, "function_params": {{}}}}'
    nbformat.write(node, str(path))
    done = run(path)

    assert (done.status, done.exit_code, done.evidence) == ("completed", 3, None)
    assert job(done)["status"] == "RUNNING"
    assert any("evidence pending on" in each["message"] for each in messages(done))
    kept = platform.settings.home / "runs" / done.run / "evidence"
    assert {"executed.ipynb", "record.json", "SHA256SUMS"} <= {each.name for each in kept.iterdir()}
    left = [each for each in kept.parent.rglob("*") if each.is_file()]
    assert not [each.name for each in left if REAL.encode() in each.read_bytes()], (
        "keys rest in three files only"
    )
    assert {each.stat().st_mode & 0o077 for each in left} == {0}


def test_a_cell_in_any_language_speaks_to_the_job(notebook, run, samples, connection, messages, job):
    """The commands a bash cell would use, called as a process that knows the door and no key."""
    cell = f"""
import subprocess
def job(*words):
    subprocess.run([{sys.executable!r}, "-m", "libsafe_nb", "job", *words], check=True)
file = json_sample["function_data"]["files"]["ids"][0]
job("log", "from a shell", "--type", "warning", "--file", file)
job("hash", file, "md5", "0" * 32)
job("metadata", file, "relation=x=y")
job("end", "--failed")
"""
    done = run(notebook(cell), uploads=samples[:1])

    assert (done.status, job(done)["status"]) == ("failed", "FAILED"), done.error
    file = connection.client.file_by_path(done.container, samples[0].name)
    said = next(each for each in messages(done) if each["message"] == "from a shell")
    assert (said["type"], said["file_id"]) == ("WARNING", file["id"])
    assert connection.client.file(file["id"])["hashes"] == {"md5": "0" * 32}
    assert connection.client.metadata(file["id"]) == [{"iecode": "relation", "value": ["x=y"]}]


def test_job_commands_outside_a_run_are_bad_usage(platform):
    done = command(platform, "job", "log", "hello")

    assert done.returncode == 2
    assert "no run here" in done.stderr


def test_papermill_reads_and_writes_the_container(tmp_path, notebook, platform, connection, container):
    connection.storage.put(container, "/in.ipynb", notebook("print('by papermill')").read_bytes())
    arguments = [
        f"libsafe://{container}/in.ipynb",
        f"libsafe://{container}/out file.ipynb",
        "--engine",
        "libsafe",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "papermill", *arguments],
        env=command_environment(platform),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert b"by papermill" in connection.storage.get(container, "/out file.ipynb")


REAL = "kZ8vQ2rT5wY9bN3mX7cL4pD6"


def everything_stored(connection, done, messages):
    bodies = [
        connection.storage.get(done.container, each.path)
        for each in connection.storage.list(done.container, "")
    ]
    return [*bodies, json.dumps([messages(done), connection.client.job(done.job), done.to_json()]).encode()]


def test_keys_pasted_into_the_notebook_are_not_stored(notebook, run, connection, messages):
    path = notebook("print(json_sample)")
    node = nbformat.read(str(path), 4)
    node.cells[
        0
    ].source = (
        f'json_sample = {{"api": {{"key_user": "{REAL}", "other": "{REAL[::-1]}"}}, "function_params": {{}}}}'
    )
    nbformat.write(node, str(path))

    bodies = everything_stored(connection, run(path), messages)

    assert not any(REAL.encode() in body or REAL[::-1].encode() in body for body in bodies)


def test_keys_of_the_payload_are_not_stored(notebook, run, connection, container, messages):
    payload = {
        "api": {"key_user": REAL, "key_extra": REAL[::-1]},
        "function_data": {"container": {"id": container}},
        "function_params": {"copy": REAL},
        "extra": REAL,
    }
    done = run(notebook("print(json_sample['function_params']['copy'])"), payload=payload, container=None)

    assert done.status == "completed"
    assert not any(
        REAL.encode() in body or REAL[::-1].encode() in body
        for body in everything_stored(connection, done, messages)
    )


def test_numbers_that_canonical_json_lacks_are_recorded_as_text(notebook, run, container, stored):
    payload = {
        "function_data": {"container": {"id": container}},
        "function_params": {"x": 12345678901234567890},
    }
    done = run(notebook("print(json_sample['function_params']['x'] + 1)"), payload=payload)

    assert (
        json.loads(stored(done, "record.json"))["payload"]["function_params"]["x"] == "12345678901234567890"
    )
    assert b"12345678901234567891" in stored(done, "executed.ipynb")


@pytest.mark.parametrize("text", ['{"x": 1e999}', '{"x": "\\ud800"}', '{"x": ' + "9" * 5000 + "}"])
def test_what_json_cannot_say_is_a_bad_payload(text):
    with pytest.raises(errors.PayloadError):
        libsafe_nb.Payload.parse(
            '{"function_data": {"container": {"id": "1"}}, "function_params": ' + text + "}"
        )


def test_a_wrong_target_is_bad_usage_and_starts_nothing(notebook, run, connection, container, samples):
    path = notebook("1")
    ended = run(path)
    other = connection.client.create_container("other")["id"]
    connection.storage.put(other, "/x.txt", b"x")
    foreign = connection.client.file_by_path(other, "/x.txt")["id"]
    before = len(list(connection.client.jobs(container=container)))
    for options in (
        {"job": "999999"},
        {"job": "abc"},
        {"job": ended.job},
        {"container": "999999"},
        {"files": ["999999"]},
        {"files": ["/absent"]},
        {"files": ["/provenance"]},
        {"files": [foreign]},
        {"timeout": float("nan")},
        {"uploads": ["/proc/self/mem"]},
    ):
        with pytest.raises(errors.UsageError):
            run(path, **options)
    with pytest.raises(errors.NotebookError, match="no such notebook"):
        run(f"libsafe://{container}/nope.ipynb")
    assert len(list(connection.client.jobs(container=container))) == before


def test_an_unusable_runtime_folder_is_passed_over(notebook, run, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "absent"))

    assert run(notebook("1")).status == "completed"


def test_a_long_cell_keeps_the_local_platform_awake(notebook, tmp_path, monkeypatch):
    """The platform ends after 4 idle seconds, the cell asks nothing of it for 12."""
    from libsafe_nb import lease, local

    monkeypatch.setattr(lease, "AWAKE_EVERY", 0.5)
    with local.serve(tmp_path / "sleepy", idle=4) as served:
        done = libsafe_nb.run(None, notebook("import time; time.sleep(12)"), settings=served.settings)

    assert (done.status, done.exit_code) == ("completed", 0), done.error
