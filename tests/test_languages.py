"""Functions in bash and R, and what a cell of any language may ask of its runner."""

import hashlib
import json
import sys

import nbformat
import pytest
from click.testing import CliRunner
from engine_runs import is_zombie, wait_for
from nbformat.v4 import new_code_cell, new_notebook
from test_run import REAL

import libsafe_nb
from libsafe_nb import door, errors, kernels, languages, notebook
from libsafe_nb.cli import cli
from libsafe_nb.execution import Limits

KERNELS = {
    "bash": {"name": "bash", "language": "bash", "display_name": "Bash"},
    "R": {"name": "ir", "language": "R", "display_name": "R"},
}


@pytest.fixture
def written(tmp_path):
    """Writes a function in another language and gives its path."""

    def written(language, parameters, *cells):
        head = new_code_cell(parameters, metadata={"tags": ["parameters"]})
        made = new_notebook(
            cells=[head, *map(new_code_cell, cells)], metadata={"kernelspec": KERNELS[language]}
        )
        nbformat.write(made, tmp_path / "f.ipynb")
        return tmp_path / "f.ipynb"

    return written


@pytest.fixture
def users_home(tmp_path, monkeypatch):
    """A home with a shell's history, longer than bash keeps by itself; takes further files, and sees at the end that all is as it was."""
    home, files = tmp_path / "home", {}

    def put(name, text):
        files[name] = text
        (home / name).write_text(text)

    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    put(".bash_history", "typed\n" * 900)
    yield put
    # Jupyter looks for kernels in that folder, and makes it.
    left = [each for each in home.rglob("*") if each != home / ".ipython"]
    assert {each.name: each.read_text() for each in left} == files


@pytest.fixture
def cells(stored):
    """What each cell of an executed notebook printed, and its state."""

    def cells(done):
        node = nbformat.reads(stored(done, "executed.ipynb").decode(), as_version=4)
        text = ["".join(each.get("text", "") for each in cell.outputs) for cell in node.cells]
        return text, [cell.metadata.libsafe_nb.status for cell in node.cells]

    return cells


@pytest.fixture
def messages(connection):
    return lambda done: list(connection.client.messages(done.job))


LETTER = b"Dear archive\n" * 1000


@pytest.fixture
def letter(connection, container):
    connection.storage.put(container, "/a letter é.txt", LETTER)
    return "/a letter é.txt"


SAMPLE = 'json_sample=\'{"function_params": {"depth": 1}}\'\nname=world # whom to greet'

BASH = [
    'echo "hello $name"',
    'printf "%s" "$json_sample"',
    "libsafe-nb job payload",
    "cat <<EOF\n\ta\ttab!\nEOF",
    r"""
while IFS=$'\t' read -r id path size; do
    libsafe-nb job get "$id" "copy of it"
    libsafe-nb job hash "$id" sha256 "$(sha256sum < 'copy of it' | cut -d' ' -f1)"
    libsafe-nb job metadata "$id" "relation=x=y"
    libsafe-nb job log "$size bytes" --type warning --file "$id"
    echo "$path"
done < <(libsafe-nb job files)
libsafe-nb job get "$(libsafe-nb job files | cut -f1)" - | wc -c
""",
    "libsafe-nb job put 'copy of it' --to copies/\nlibsafe-nb job progress 0.5",
    "env",
    "libsafe-nb job end --failed",
]


def test_a_bash_function_works_with_its_files_through_its_runner(
    written, run, stored, cells, letter, connection, container, messages, platform, users_home
):
    # So that bash writes it, whatever it is told later; and less than it cuts by itself then.
    users_home(".bashrc", "readonly HISTFILE=~/.bash_history\n")
    users_home(".bash_history", "typed\n" * 400)
    done = run(
        written("bash", SAMPLE, *BASH), files=[letter], params={"name": "it's 5 € & more!", "depth": "2"}
    )

    text, states = cells(done)
    assert (done.status, set(states)) == ("failed", {"completed"}), done.error
    assert text[2] == "hello it's 5 € & more!\n"
    payload = json.loads(text[3])
    assert payload == json.loads(text[4])
    assert payload["function_params"]["depth"] == 2
    assert payload["function_data"]["container"]["id"] == container
    assert payload["api"]["key_user"] == {"$secret": "key_user"}
    assert text[5] == "\ta\ttab!\n"
    assert text[6] == "copy of it\n/a letter é.txt\n13000\n"
    assert text[7] == f"libsafe://{container}/copies/copy of it  stored  13000 bytes\n"
    assert platform.settings.key_user not in text[8]
    assert platform.settings.s3.secret_key not in text[8]

    sha256 = hashlib.sha256(LETTER).hexdigest()
    file = connection.client.file_by_path(container, letter)
    assert connection.client.file(file["id"])["hashes"]["sha256"] == sha256
    assert connection.client.metadata(file["id"]) == [{"iecode": "relation", "value": ["x=y"]}]
    assert [each["type"] for each in messages(done) if each["message"] == "13000 bytes"] == ["WARNING"]
    assert connection.storage.get(container, "copies/copy of it") == LETTER

    body = json.loads(stored(done, "record.json"))
    assert body["env"]["kernel"]["language"] == "bash"
    assert [(each["id"], each["read"], each["sha256"]) for each in body["inputs"]] == [
        (file["id"], "full", sha256)
    ]
    assert [(each["path"], each["sha256"], each["scan"]["found"]) for each in body["outputs"]] == [
        ("/copies/copy of it", sha256, [])
    ]
    assert {each["kind"] for each in body["platform_writes"]} == {"hash", "metadata"}
    assert [each["outcome"] for each in body["files"]] == ["success"]
    # The payload is an object in the record, and text in the notebook's account of its parameters.
    verified = libsafe_nb.verify(done.evidence, settings=platform.settings)
    assert verified.exit_code == 0, verified.checks


@pytest.mark.parametrize(
    ("cell", "status", "kind", "exit_code"),
    [
        ("echo a; false", "failed", "CommandFailed", 1),
        ("false; echo a", "completed", None, 0),
        ("set -e\nfalse\necho a", "failed", "SystemExit", 1),
        ("exit 3", "failed", "SystemExit", 1),
        ("exit 0", "completed", None, 0),
        ("echo 'open", "failed", "CellIncomplete", 1),
        ("kill -9 $PPID", "errored", "KernelDied", 3),
    ],
)
def test_how_a_bash_cell_can_end(cell, status, kind, exit_code, written, run, cells, users_home):
    done = run(written("bash", SAMPLE, cell, "echo after"))

    assert (done.status, done.exit_code, (done.error or {}).get("type")) == (status, exit_code, kind)
    ran_on = cell == "false; echo a"
    assert cells(done)[1][-1] == ("completed" if ran_on else "not-run")


def test_a_bash_cell_is_broken_off_with_what_it_started(written, run, cells, tmp_path):
    done = run(
        written("bash", SAMPLE, f"echo begun; echo $$ > {tmp_path}/pid; sleep 600"),
        limits=Limits(cell_timeout=4),
    )

    assert (done.status, done.exit_code) == ("timeout", 4)
    assert "begun" in cells(done)[0][2]
    shell = int((tmp_path / "pid").read_text())
    wait_for(lambda: is_zombie(shell), 10, "the end of the shell")


def test_a_path_that_would_break_a_line_is_escaped(tmp_path, monkeypatch):
    """No path of the local platform does; what another platform allows is not known."""
    path = "/a\tb\nc\\d\r"
    monkeypatch.setenv(door.VARIABLE, str(tmp_path / "door"))
    with door.Door(tmp_path / "door", lambda do, fields: [{"id": "1", "path": path, "size": 2}]):
        table = CliRunner().invoke(cli, ["job", "files"]).output
        listed = CliRunner().invoke(cli, ["job", "files", "--json"]).output

    assert table == r"1	/a\tb\nc\\d\r	2" + "\n"
    assert json.loads(listed) == [{"id": "1", "path": path, "size": 2}]


def test_what_a_job_command_refuses_is_told_in_the_cell(written, run, cells, letter):
    path = written(
        "bash",
        SAMPLE,
        "libsafe-nb job get 999999999 || libsafe-nb job hash 1 md5 xyz || libsafe-nb job put absent",
    )
    done = run(path, files=[letter])

    said = cells(done)[0][2]
    assert done.status == "failed"
    assert "999999999" in said
    assert "xyz" in said
    assert "'absent' does not exist" in said


def test_a_file_with_a_key_in_it_is_not_put(notebook, run, connection, container):
    """From a Python kernel, which has the keys."""
    cell = f"""
import subprocess
open("out.txt", "w").write(json_sample["api"]["key_user"])
done = subprocess.run([{sys.executable!r}, "-m", "libsafe_nb", "job", "put", "out.txt"], capture_output=True, text=True)
print(done.returncode, done.stderr)
assert done.returncode == 2 and "key_user" in done.stderr
"""
    done = run(notebook(cell))

    assert done.status == "completed", done.error
    assert "out.txt" not in {each.path for each in connection.storage.list(container, "out")}


def test_a_key_pasted_in_another_languages_payload_is_taken_out(written):
    sample = f'payload=\'{{"api": {{"url": "", "key_user": "{REAL}"}}, "function_params": {{"x": [1]}}}}\''
    parsed = notebook.parse(written("bash", sample).read_bytes(), name="f.ipynb")

    assert parsed.payload_name == "payload"
    assert REAL not in parsed.node.cells[0].source
    assert (parsed.pasted["key_user"], parsed.substitutions[0].name) == (REAL, "payload.api.key_user")
    assert parsed.parameters["x"].default == [1]


def test_a_secret_parameter_is_for_python_only(written, run, monkeypatch):
    monkeypatch.setenv("LIBSAFE_SECRET_NAME", "abcdefgh12345678")
    with pytest.raises(errors.ParameterError, match="declares as Secret"):
        run(
            written("bash", SAMPLE),
            payload={
                "function_data": {"container": {"id": "1"}},
                "function_params": {"name": {"$secret": "name"}},
            },
            container=None,
        )


R_SAMPLE = """
json_sample <- r"({"function_params": {"depth": 1}})"
name <- 'it\\'s' # whom to greet
count = 5L
ratio <- 0.5; deep <- TRUE
many <- c(1, 2)
"""


def test_what_an_r_cell_declares():
    assert languages.declared("R", R_SAMPLE) == {
        "json_sample": '{"function_params": {"depth": 1}}',
        "name": "it's",
        "count": 5,
        "ratio": None,
        "many": None,
    }


def test_a_wrong_type_for_r_is_refused(written):
    parsed = notebook.parse(written("R", R_SAMPLE).read_bytes(), name="f.ipynb")

    assert notebook.bind(parsed, {"count": "6"}, known_only=True)["count"] == 6
    with pytest.raises(errors.ParameterError, match="count: expected int"):
        notebook.bind(parsed, {"count": "many"}, known_only=True)


R_CELLS = [
    'cat("hello", name, "\\n"); cat(depth <- jsonlite::fromJSON(json_sample)$function_params$depth)',
    "cat(json_sample)",
    'job <- function(...) system2("libsafe-nb", c("job", shQuote(c(...))), stdout = TRUE)\n'
    'id <- jsonlite::fromJSON(job("files", "--json"))$id\n'
    'cat(job("get", id, "got"), file.size("got"), "\\n")\n'
    'job("hash", id, "md5", unname(tools::md5sum("got")))\n'
    'job("put", "got", "--to", "/copies/got.txt")\n'
    'job("log", "from R é", "--file", id)\njob("end")',
    "cat(Sys.getenv())",
    "plot(1:2)",
]


@pytest.fixture
def irkernel():
    try:
        kernels.check("ir", "R")
    except errors.NotebookError as exc:
        pytest.skip(str(exc))


@pytest.mark.r
def test_an_r_function_works_with_its_files_through_its_runner(
    irkernel, written, run, stored, cells, letter, connection, container, messages, platform
):
    path = written("R", R_SAMPLE, *R_CELLS)
    done = run(path, files=[letter], params={"name": 'it\'s "5" \\ é 😀 %', "depth": "2"})

    text, states = cells(done)
    assert (done.status, set(states)) == ("completed", {"completed"}), done.error
    assert text[2] == 'hello it\'s "5" \\ é 😀 % \n2'
    assert json.loads(text[3])["api"]["key_user"] == {"$secret": "key_user"}
    assert text[4] == "got 13000 \n"
    assert platform.settings.key_user not in text[5]
    node = nbformat.reads(stored(done, "executed.ipynb").decode(), as_version=4)
    assert "image/png" in node.cells[6].outputs[0].data

    file = connection.client.file_by_path(container, letter)
    assert connection.client.file(file["id"])["hashes"] == {"md5": hashlib.md5(LETTER).hexdigest()}
    assert [each["file_id"] for each in messages(done) if each["message"] == "from R é"] == [file["id"]]
    body = json.loads(stored(done, "record.json"))
    assert body["env"]["kernel"]["language"] == "R"
    verified = libsafe_nb.verify(done.evidence, settings=platform.settings)
    assert verified.exit_code == 0, verified.checks
    assert [each["read"] for each in body["inputs"]] == ["full"]
    assert [each["path"] for each in body["outputs"]] == ["/copies/got.txt"]


@pytest.mark.r
@pytest.mark.parametrize(
    ("cell", "status", "exit_code"),
    [
        ('stop("no")', "failed", 1),
        ("rm(list = ls()); quit(status = 3)", "failed", 1),
        ("q()", "completed", 0),
        ("tools::pskill(Sys.getpid(), 9)", "errored", 3),
        ('cat("begun\\n"); Sys.sleep(600)', "timeout", 4),
    ],
)
def test_how_an_r_cell_can_end(irkernel, cell, status, exit_code, written, run, cells):
    done = run(written("R", R_SAMPLE, cell, "1"), limits=Limits(cell_timeout=10))

    assert (done.status, done.exit_code) == (status, exit_code), done.error
    assert cells(done)[1][-1] == "not-run"
