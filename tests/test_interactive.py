"""A person at a notebook: the kernel that comes with the package, `libsafe_nb.payload()` and `%libsafe`."""

import ast
import copy
import json
import os
import pickle
import pprint
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_function
from environs import variables
from jupyter_client.manager import KernelManager

import libsafe_nb
from libsafe_nb import errors, kernels
from libsafe_nb.check import check
from libsafe_nb.door import VARIABLE
from libsafe_nb.interactive import place
from libsafe_nb.interactive.payload import Key
from libsafe_nb.redact import find_pasted_keys
from libsafe_nb.replay import replay

SPEC = Path(libsafe_nb.__file__).parent / "data" / "kernelspec"
OURS = {"kernelspec": {"name": "libsafe", "display_name": "LIBSAFE Go (Python)", "language": "python"}}
ASKING = "import libsafe_nb\njson_sample = libsafe_nb.payload(params={'word': 'hello'})"


class Session:
    """A kernel as Jupyter starts it, and what its cells show."""

    def __init__(self, environ, folder):
        self.manager = KernelManager(kernel_name="libsafe")
        self.manager.start_kernel(env=environ, cwd=str(folder), stderr=subprocess.DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=60)
        except BaseException:
            self.end()
            raise

    def cell(self, source, *, meanwhile=None):
        """Execute a cell; its status, and everything that was shown, in order."""
        shown = []

        def show(message):
            if message["msg_type"] in (
                "stream",
                "display_data",
                "update_display_data",
                "execute_result",
                "error",
            ):
                shown.append(message["content"])
                if meanwhile:
                    meanwhile(message["content"])

        reply = self.client.execute_interactive(source, timeout=120, output_hook=show, allow_stdin=False)
        return reply["content"]["status"], shown

    def ok(self, source):
        status, shown = self.cell(source)
        assert status == "ok", shown
        return shown

    def text(self, source):
        """What a cell printed."""
        return "".join(each.get("text", "") for each in self.ok(source))

    def html(self, source):
        """The last display of a cell."""
        return self.ok(source)[-1]["data"]["text/html"]

    def sentence(self, source):
        """The one line with which a cell was refused."""
        status, shown = self.cell(source)
        assert status == "error"
        text = "".join(each["text"] for each in shown)
        assert "Traceback" not in text
        assert text.count("\n") == 1, text
        return text.strip()

    def end(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel()


@pytest.fixture(scope="module")
def mine(connection):
    """The container that the Lab would show, in this module."""
    return connection.client.create_container("interactive")["id"]


@pytest.fixture(scope="module")
def environ(platform, home, mine, tmp_path_factory):
    """A kernel's environment in the Lab; what is installed in this environment counts for nothing."""
    specs = tmp_path_factory.mktemp("jupyter")
    shutil.copytree(SPEC, specs / "kernels" / "libsafe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(specs))
        yield {
            **os.environ,
            **variables(platform.settings),
            "LIBSAFE_NB_CONTAINER": mine,
            "JPY_SESSION_NAME": "work/open.ipynb",
            "IPYTHONDIR": str(specs / "ipython"),
        }


@pytest.fixture(scope="module")
def session(environ, tmp_path_factory):
    session = Session(environ, tmp_path_factory.mktemp("server"))
    yield session
    session.end()


@pytest.fixture
def save(connection, mine, tmp_path):
    """Save a notebook in the container, as the Lab does, and give its path."""

    def save(*cells, path="work/open.ipynb", parameters=ASKING, **metadata):
        written = write_function(
            tmp_path / "saved.ipynb", *cells, parameters=parameters, metadata=OURS | metadata
        )
        connection.storage.put(mine, path, written.read_bytes())
        return path

    return save


@pytest.fixture
def keys(platform):
    settings = platform.settings
    return [settings.key_user, settings.key_root, settings.s3.secret_key]


# ------------------------------------------------------------- the kernel


def test_the_kernel_has_libnova_and_the_magic_at_once(session):
    assert session.text("from libnova.com.Nuclio import Request; print(Request.__name__)").strip()
    assert "run" in session.text("%libsafe")


def test_loading_it_again_changes_nothing_and_unloading_takes_it_back(session):
    session.ok("%load_ext libsafe_nb")
    session.ok("%reload_ext libsafe_nb")
    assert session.html("%libsafe files")
    session.ok("%unload_ext libsafe_nb")
    assert "not found" in session.sentence("%libsafe files")
    status, _ = session.cell("import libnova")
    assert status == "error"
    session.ok("%load_ext libsafe_nb")
    assert session.html("%libsafe files")
    session.ok("import libnova")


def test_the_tabulator_key_knows_the_words(session):
    reply = session.client.complete("%libsafe ", 9, reply=True, timeout=30)

    assert {"run", "files", "job"} <= set(reply["content"]["matches"])


def test_a_notebook_of_this_kernel_runs_also_where_its_kernelspec_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager.kernel_dirs", [])

    assert kernels.check("libsafe") == kernels.check("python3")


def test_a_notebook_of_this_kernel_is_checked_run_and_replayed(environ, run, tmp_path, platform):
    path = write_function(tmp_path / "f.ipynb", "print(json_sample['function_params'])", metadata=OURS)
    program = [sys.executable, "-m", "libsafe_nb", "check", str(path)]
    assert subprocess.run(program, env=environ).returncode in (0, 1)
    done = run(path).raise_for_failure()

    assert replay(done.evidence, settings=platform.settings).verdict == "same"


# ------------------------------------------------------------- the payload


def test_the_code_of_the_vendors_page_takes_it(session, connection, mine, keys):
    connection.storage.put(mine, "/letter.txt", b"hello")
    file = connection.client.file_by_path(mine, "/letter.txt")["id"]
    shown = session.ok(f"""
import json, hashlib, libsafe_nb
from libnova import com
from libnova.com.Api import File, JobMessage
from libnova.com.Filesystem import S3
json_sample = libsafe_nb.payload(files=["/letter.txt"], params={{"word": "x"}})
helper = com.Nuclio.Request.Request(None, type('', (object,), {{"body": json.dumps(json_sample)}})())
helper.job_init()
for each in helper.Files:
    data = S3.File.get_stream(helper.Storage, each).read()
    helper.log("read " + each.id, JobMessage.JobMessageType.INFO, each.id)
    File.set_hash(each.id, "md5", hashlib.md5(data).hexdigest())
helper.job_end(True)
print(helper.job_id, json_sample["function_data"]["files"]["ids"] == ["{file}"], helper.function_params)
""")
    job, same, params = shown[-1]["text"].strip().split(" ", 2)

    assert (same, ast.literal_eval(params)) == ("True", {"word": "x"})
    found = connection.client.job(job)
    assert (found["status"], found["container_id"], found["name"]) == ("COMPLETED", mine, "open.ipynb")
    assert [each["message"] for each in connection.client.messages(job)] == [f"read {file}"]
    assert connection.client.file(file)["hashes"]["md5"] == "5d41402abc4b2a76b9719d911017c592"


def test_the_vendors_page_itself(session, connection, mine, vendor_sample, keys):
    connection.storage.put(mine, "/page.txt", b"page")
    literal = next(node for node in ast.parse(vendor_sample).body if isinstance(node, ast.Assign))
    lines = vendor_sample.splitlines()
    lines[literal.lineno - 1 : literal.end_lineno] = ["json_sample = libsafe_nb.payload(files=['/page.txt'])"]
    shown = session.ok("import libsafe_nb\n" + "\n".join(lines))
    job = session.text("print(request_helper.job_id)").strip()

    assert connection.client.job(job)["status"] == "COMPLETED"
    assert not [key for key in keys if key in json.dumps(shown)]


@pytest.mark.parametrize(
    "source",
    [
        "libsafe_nb.payload()",
        "print(libsafe_nb.payload())",
        "libsafe_nb.payload()['api']",
        "libsafe_nb.payload()['api']['key_user']",
        "from pprint import pprint; pprint(dict(libsafe_nb.payload()))",
        "f'{libsafe_nb.payload()}'",
        "raise ValueError(libsafe_nb.payload())",
    ],
)
def test_no_cell_that_shows_it_shows_a_key(session, keys, source):
    _, shown = session.cell(f"import libsafe_nb\n{source}")

    assert "<a key, not shown>" in json.dumps(shown)
    assert not [key for key in keys if key in json.dumps(shown)]
    # The Lab would refuse to save a notebook with an output that looks like a key.
    texts = [each.get("text") or each.get("evalue") or each["data"]["text/plain"] for each in shown]
    assert not [each for text in texts for each in find_pasted_keys(text)]


def test_a_key_is_the_text_itself_to_all_that_uses_it():
    key = Key("s3cr3t")

    assert json.dumps({"key": key}) == '{"key": "s3cr3t"}'
    assert ("Bearer " + key, key.encode(), key == "s3cr3t") == ("Bearer s3cr3t", b"s3cr3t", True)
    for same in (copy.deepcopy([key])[0], pickle.loads(pickle.dumps(key))):
        assert json.dumps(same) == '"s3cr3t"'
        assert "s3cr3t" not in pprint.pformat({"api": [same]})


def test_a_session_has_one_job_for_a_container_until_it_has_ended(session, connection):
    other = connection.client.create_container("other")["id"]
    ask = "print(libsafe_nb.payload({})['function_data']['job']['id'])"
    session.ok("import libsafe_nb")
    first = session.text(ask.format(""))
    assert session.text(ask.format("")) == first
    elsewhere = session.text(ask.format(f"container='{other}'"))
    assert elsewhere != first
    assert session.text(ask.format("")) == first
    connection.client.update_job(first.strip(), status="RUNNING")
    connection.client.update_job(first.strip(), status="COMPLETED")

    assert session.text(ask.format("")) not in (first, elsewhere)


def test_a_job_that_is_open_when_the_process_ends_is_cancelled(environ, connection, tmp_path):
    code = "import libsafe_nb; print(libsafe_nb.payload()['function_data']['job']['id'])"
    job = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.strip()

    assert connection.client.job(job)["status"] == "CANCELLED"
    assert "session ended" in next(connection.client.messages(job))["message"]


def test_a_file_that_is_not_there_is_named(session):
    status, shown = session.cell("libsafe_nb.payload(files=['/no.txt'])")

    assert status == "error"
    assert "expected a file at '/no.txt'" in shown[-1]["evalue"]


def test_no_container_is_guessed_on_a_platform_of_ones_own(platform, monkeypatch):
    for name, value in variables(platform.settings).items():
        monkeypatch.setenv(name, value)

    with pytest.raises(errors.UsageError, match=r"expected the container.*LIBSAFE_NB_CONTAINER"):
        libsafe_nb.payload()


def test_inside_a_run_it_is_the_runs_own(run, notebook, stored, connection):
    path = notebook(
        "import libsafe_nb\nfound = libsafe_nb.payload(files=['/not-asked.txt'])\n"
        "assert found['api']['key_user'] == json_sample['api']['key_user']\n"
        "print(found['function_data'] == json_sample['function_data'], found['function_params'])"
    )
    done = run(path, params={}).raise_for_failure()

    assert "True {}" in stored(done, "executed.ipynb").decode()


def test_the_parameters_cell_may_ask_for_it_and_declares_its_parameters(run, tmp_path, stored):
    path = write_function(
        tmp_path / "f.ipynb", "print(json_sample['function_params'], early is libsafe_nb.payload())",
        "assert early['function_data'] == json_sample['function_data']",
        parameters=f"{ASKING}\nearly = json_sample",
    )  # fmt: skip
    done = run(path, params={"word": "bye"}).raise_for_failure()

    assert "{'word': 'bye'} True" in stored(done, "executed.ipynb").decode()
    with pytest.raises(errors.ParameterError, match="expected str"):
        run(path, params={"word": 3})


@pytest.mark.parametrize(("name", "codes"), [("word", set()), ("wort", {"LSN017", "LSN019"})])
def test_check_knows_what_it_declares(tmp_path, name, codes):
    reading = f"import json\nprint(json_sample['function_params']['{name}'])"
    path = write_function(tmp_path / "f.ipynb", reading, parameters=ASKING, metadata=OURS)

    assert {each.code for each in check(path)} & {"LSN007", "LSN008", "LSN017", "LSN019"} == codes


def test_one_cell_that_asks_and_goes_on_is_given_it(run, tmp_path, stored):
    """The whole of the vendor's page in one cell tagged `parameters`: the payload is injected before it."""
    more = "\nimport json\nprint(json.loads(json.dumps(json_sample))['function_data']['job']['id'])"
    done = run(write_function(tmp_path / "f.ipynb", parameters=ASKING + more)).raise_for_failure()

    assert f'"{done.job}\\n"' in stored(done, "executed.ipynb").decode()


def test_a_process_that_a_cell_of_a_run_starts_is_told_that_it_has_none(monkeypatch):
    monkeypatch.setenv(VARIABLE, "/nowhere")

    with pytest.raises(errors.UsageError, match="given no payload"):
        libsafe_nb.payload()


# ------------------------------------------------------------- %libsafe run


def test_the_open_notebook_is_run_as_it_was_saved(session, save, connection, mine, keys):
    save(
        "from libnova.com.Nuclio import Request\nimport json\n"
        "r = Request.Request(None, type('', (), {'body': json.dumps(json_sample)})())\nr.log('<b>told</b>')\nr.job_end(True)",
        "%libsafe run",
    )
    status, shown = session.cell("%libsafe run --param word=bye")
    html = shown[-1]["data"]["text/html"]
    plain = shown[-1]["data"]["text/plain"]

    assert status == "ok"
    assert "RUNNING" in shown[0]["data"]["text/html"]
    assert "COMPLETED" in html
    assert plain.startswith("COMPLETED  job ")
    assert "as last saved at 20" in html
    assert "&lt;b&gt;told&lt;/b&gt;" in html
    assert "<b>" not in html
    link = html.partition('href="')[2].partition('"')[0]
    assert link.startswith("../provenance/open/")
    assert b"completed" in connection.storage.get(mine, link.removeprefix("../"))
    evidence = plain.rpartition("evidence  ")[2]
    executed = connection.storage.get(mine, evidence.removeprefix(f"libsafe://{mine}/") + "executed.ipynb")
    assert b"does nothing inside a run" in executed
    assert not [key for key in keys if key in json.dumps(shown)]


def test_a_failing_cell_is_shown(session, save, connection):
    save("raise ValueError('<script>no</script>')")
    html = session.html("%libsafe run")

    assert "FAILED" in html
    assert "<dt>Cell 2</dt>" in html
    assert "ValueError: &lt;script&gt;no" in html
    assert "<script" not in html
    job = html.partition(" job ")[2].partition(" ")[0]
    assert connection.client.job(job)["status"] == "FAILED"


def test_the_stop_button_cancels_the_run(session, save, connection):
    save("import time\ntime.sleep(120)")
    stopped = []

    def stop(content):
        if "cells done" in content.get("data", {}).get("text/plain", "") and not stopped:
            stopped.append(True)
            session.manager.interrupt_kernel()

    began = time.monotonic()
    status, shown = session.cell("%libsafe run", meanwhile=stop)

    assert status == "error"
    result = next(each for each in reversed(shown) if "data" in each)["data"]["text/plain"]
    job = result.split()[2]
    assert result.startswith("CANCELLED")
    assert connection.client.job(job)["status"] == "CANCELLED"
    assert f"stopped: job {job} is cancelled" in shown[-1]["text"]
    assert time.monotonic() - began < 100
    assert session.ok("1 + 1")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("run no.ipynb", "no.ipynb: expected a saved notebook, found none"),
        ("run --param word", "--param 'word': expected NAME=VALUE"),
        ("run --file /no.txt", "expected a file at '/no.txt', found none"),
        ("files --container 999999", "there is no container 999999"),
        ("job 99999999", "there is no job 99999999"),
        ("job x", "job: expected a number, got 'x'"),
        ("walk", "No such command 'walk'"),
        ("files 'x", "No closing quotation"),
    ],
)
def test_what_is_wrong_is_one_sentence(session, save, line, sentence):
    save()

    assert sentence in session.sentence(f"%libsafe {line}")


def test_in_a_terminal_it_is_text(environ, tmp_path):
    path = write_function(tmp_path / "f.ipynb", "1", metadata=OURS)
    program = [sys.executable, "-m", "IPython", "--no-banner", "--colors=NoColor", "-c"]
    done = subprocess.run(
        [*program, f"get_ipython().run_line_magic('load_ext', 'libsafe_nb')\n%libsafe run {path}"],
        env=environ, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert done.stdout.startswith("COMPLETED  job "), done.stdout
    assert "evidence  libsafe://" in done.stdout


# ------------------------------------------------------------- %libsafe files, job


def test_the_containers_files_are_listed(session, connection, mine):
    for name in ("scans/a & b.tif", "scans/c.tif", "notes.txt", "provenance/x.tif"):
        connection.storage.put(mine, name, b"12345")
    file = connection.client.file_by_path(mine, "/notes.txt")["id"]
    everything = session.html("%libsafe files")
    assert "/scans/a &amp; b.tif" in everything
    assert f"<code>{file}</code>" in everything
    assert "text/plain" in everything
    assert "/provenance/" not in everything
    fitting = session.ok("%libsafe files *.tif")[-1]["data"]["text/plain"]

    assert [line.split("  ")[-1] for line in fitting.splitlines()[1:]] == ["/scans/a & b.tif", "/scans/c.tif"]
    assert "/provenance/x.tif" in session.html("%libsafe files /provenance/*.tif")


def test_the_sessions_job_is_shown_or_any(session, connection, mine):
    session.ok("import libsafe_nb")
    job = session.text("print(libsafe_nb.payload()['function_data']['job']['id'])").strip()
    connection.client.update_job(job, status="RUNNING", progress=0.25)
    connection.client.message(job, "<i>half</i>", type="WARNING")
    other = connection.client.create_job(mine, name="another")["id"]

    html = session.html("%libsafe job")
    assert f" job {job}<" in html
    assert all(each in html for each in ("RUNNING", "25%", "WARNING", "&lt;i&gt;half"))
    assert "another" in session.html(f"%libsafe job {other}")


# ------------------------------------------------------------- which notebook is open


@pytest.fixture
def lab(monkeypatch, mine, tmp_path):
    """This process as the kernel of a notebook of the Lab, whose place is given."""

    def lab(path):
        monkeypatch.setenv("LIBSAFE_NB_CONTAINER", mine)
        monkeypatch.setenv("LIBSAFE_NB_LAB_FOLDER", str(tmp_path))
        monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / path))
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir((tmp_path / path).parent)

    return lab


def test_in_the_lab_it_is_the_one_in_the_container(lab, save, connection, mine):
    save(path="deep/down/a.ipynb")
    lab("deep/down/a.ipynb")
    found = place.opened(connection, {}, None)

    assert found.name == f"libsafe://{mine}/deep/down/a.ipynb"
    assert found.relative(mine, "provenance/x/report.html") == "../../provenance/x/report.html"
    assert found.relative("0", "provenance/x/report.html") is None


def test_another_is_looked_for_beside_it_and_then_from_the_top(lab, save, connection, mine):
    save(path="deep/down/a.ipynb")
    save(path="deep/down/beside.ipynb")
    save(path="top.ipynb")
    lab("deep/down/a.ipynb")

    for name, found in {
        "beside.ipynb": "deep/down/beside.ipynb",
        "../down/beside.ipynb": "deep/down/beside.ipynb",
        "top.ipynb": "top.ipynb",
        "/top.ipynb": "top.ipynb",
        f"libsafe://{mine}/top.ipynb": "top.ipynb",
    }.items():
        assert place.opened(connection, {}, name).name == f"libsafe://{mine}/{found}"
    for name in ("no.ipynb", "../../../../no.ipynb", "a.ipynb/x"):
        with pytest.raises(errors.NotebookError, match="expected a saved notebook, found none"):
            place.opened(connection, {}, name)


def test_elsewhere_it_is_a_local_file(connection, monkeypatch, tmp_path):
    path = write_function(tmp_path / "f.ipynb", "1")
    monkeypatch.delenv("LIBSAFE_NB_CONTAINER", raising=False)
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    with pytest.raises(errors.UsageError, match="name it: %libsafe run NOTEBOOK"):
        place.opened(connection, {}, None)
    assert place.opened(connection, {"__vsc_ipynb_file__": str(path)}, None).name == str(path)
    monkeypatch.setenv("JPY_SESSION_NAME", str(path))
    found = place.opened(connection, {}, None)

    assert found.name == str(path)
    assert found.saved.timestamp() == pytest.approx(path.stat().st_mtime)
