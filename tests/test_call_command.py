"""`call`: functions called from bash, R and the command line."""

import json
import re

import nbformat
import pytest
from click.testing import CliRunner
from conftest import takes, write_function
from environs import variables
from nbformat.v4 import new_code_cell, new_notebook
from test_calls import GLUE, REQUEST, publish_to
from test_languages import KERNELS

from libsafe_nb import errors, kernels, record
from libsafe_nb.cli import cli

COUNT = f"""{REQUEST}{GLUE}
glue("paths", sorted(file.fullpath for file in request.Files))
glue("x", json_sample["function_params"].get("x"))
glue("word", "a b")
"""
WRITE = f"""{REQUEST}{GLUE}
for name in ("a.csv", "b.txt"):
    File.upload(json_sample["function_data"]["container"]["id"], f"/out/{{name}}", name.encode())
glue("pages", 12)
"""


@pytest.fixture(scope="module")
def keys(platform, tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    return {
        "count": publish_to(platform.settings, folder, COUNT, parameters=takes("x")),
        "write": publish_to(platform.settings, folder, WRITE),
        "fail": publish_to(platform.settings, folder, "raise ValueError('no')"),
        "sleep": publish_to(platform.settings, folder, "import time\ntime.sleep(600)"),
        "die": publish_to(
            platform.settings, folder, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
        ),
    }


@pytest.fixture
def command(platform, container, monkeypatch):
    for name, value in {**variables(platform.settings), "LIBSAFE_NB_CONTAINER": container}.items():
        monkeypatch.setenv(name, value)

    def command(*arguments, code=0):
        done = CliRunner().invoke(cli, ["call", *map(str, arguments)])
        ours = done.exception.exit_code if isinstance(done.exception, errors.LibsafeError) else done.exit_code
        assert ours == code, (done.output, done.exception)
        return done.stdout if code == 0 else done.output + str(done.exception or "")

    return command


def function_in(language, folder, *cells):
    name = "json_sample='{}'" if language == "bash" else "json_sample <- '{}'"
    head = new_code_cell(name, metadata={"tags": ["parameters"]})
    spec = {"kernelspec": KERNELS[language]}
    path = folder / f"{language.lower()}.ipynb"
    nbformat.write(new_notebook(cells=[head, *map(new_code_cell, cells)], metadata=spec), path)
    return path


def texts(stored, done):
    node = nbformat.reads(stored(done, "executed.ipynb").decode(), as_version=4)
    return ["".join(each.get("text", "") for each in cell.outputs) for cell in node.cells]


def test_a_bash_function_has_calls_use_what_others_made(run, keys, stored, tmp_path):
    path = function_in(
        "bash",
        tmp_path,
        f"w=$(libsafe-nb call {keys['write']} --no-wait); libsafe-nb call --wait $w",
        f'libsafe-nb call {keys["count"]} "@$w:*.csv" --param "x=@$w.pages" --json',
        'libsafe-nb call --outputs-of "$w"; libsafe-nb call --outputs-of "$w:*.txt" --json',
        'libsafe-nb call --scrap "$w.pages"',
        f'libsafe-nb call {keys["fail"]} --after "$w"; echo "exit $?"',
        f'f=$(libsafe-nb call {keys["fail"]} --no-wait); libsafe-nb call {keys["count"]} "@$f"; echo "exit $?"',
        'libsafe-nb call nosuch-function; echo "exit $?"; libsafe-nb call --wait "$w"',
    )
    done = run(path)
    told = texts(stored, done)[2:]

    assert done.status == "completed", "\n".join(told)
    counted = json.loads(told[1])
    assert (counted["status"], counted["function"]) == ("completed", keys["count"])
    assert counted["scraps"] == {"paths": ["/out/a.csv"], "x": 12, "word": "a b"}
    lines = [line.split("\t") for line in told[2].splitlines()[:2]]
    assert [line[1:] for line in lines] == [["/out/a.csv", "5"], ["/out/b.txt", "5"]]
    [text] = json.loads("".join(told[2].splitlines()[2:]))
    assert (text["id"], text["path"]) == (lines[1][0], "/out/b.txt")
    assert told[3] == "12\n"
    assert re.match(
        rf"call \d+  {keys['fail']}  FAILED  job \d+  cell \w+: ValueError: no  libsafe://\S+\nexit 1\n",
        told[4],
    )
    assert re.match(rf"{keys['count']}  CANCELLED  .*{keys['fail']}.*\nexit 130\n", told[5])
    assert "nosuch-function" in told[6]
    assert "\nexit 2\ncall" in told[6]

    body = json.loads(stored(done, "record.json"))
    calls = {each["number"]: each for each in record.entries(body, "calls")}
    assert [each["number"] for each in calls[2]["used"]] == [1]
    assert calls[3]["after"] == [1]


def test_an_r_function_calls(run, keys, stored, tmp_path):
    try:
        kernels.check("ir", "R")
    except errors.NotebookError:
        pytest.skip("IRkernel is not installed")
    cell = f"""
call <- function(...) system2("libsafe-nb", c("call", shQuote(c(...))), stdout = TRUE)
w <- call("{keys["write"]}", "--no-wait")
done <- jsonlite::fromJSON(call("{keys["count"]}", paste0("@", w), "--param", paste0("x=@", w, ".pages"), "--json"))
cat(done$status, done$scraps$x, done$scraps$paths)
"""
    done = run(function_in("R", tmp_path, cell))

    assert done.status == "completed", done.error
    assert "completed 12 /out/a.csv /out/b.txt" in texts(stored, done)[2]


def test_outside_of_a_run_calls_are_the_platforms(command, keys, functions, container):
    made = command(keys["write"], "--no-wait").strip()
    assert functions.get_call(made)["container_id"] == container
    said = command(keys["count"], f"@{made}:*.csv", "--param", f"x=@{made}.pages", "--json", "--after", made)
    told = json.loads(said)
    assert (told["status"], told["scraps"]["paths"], told["scraps"]["x"]) == ("completed", ["/out/a.csv"], 12)
    assert command("--scrap", f"{told['call']}.word") == "a b\n"
    assert command("--scrap", f"{told['call']}.word", "--json") == '"a b"\n'
    assert "glued paths, x, word, and no y" in command("--scrap", f"{told['call']}.y", code=2)
    assert command("--outputs-of", f"@{made}:/out/*.txt").split("\t")[1:] == ["/out/b.txt", "5\n"]
    assert re.match(rf"call {made}  {keys['write']}  COMPLETED  job \d+  libsafe://", command("--wait", made))

    # One that is held back is not lost with the process.
    slow = command(keys["write"], "--no-wait").strip()
    held = command(
        keys["count"], f"@{slow}", "--no-wait", "--params", '{"x": "@@y"}', "--param", "x=@@z"
    ).strip()
    assert functions.get_call(held)["params"] == {"x": "@z"}


def test_the_end_is_the_called_runs(command, keys, functions):
    said = command(keys["fail"], code=1)
    assert "FAILED" in said
    assert "ValueError: no" in said
    failed = said.split()[1]
    assert "RunTimeout" in command(keys["sleep"], "--timeout", 1, code=4)
    assert "DEAD" in command(keys["die"], "--retries", 0, code=3)
    made = command(keys["sleep"], "--no-wait").strip()
    functions.cancel(made)
    assert "CANCELLED" in command("--wait", made, failed, code=130)
    assert "CANCELLED" in command(keys["count"], f"@{failed}", code=130)
    assert "ValueError" in command("--outputs-of", failed, code=1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "expected a FUNCTION"),
        ("nosuch", "nosuch"),
        ("nosuch.ipynb", "no such"),
        ("COUNT in", "expected ids, paths with a leading slash"),
        ("COUNT /nope", "no file or folder nope"),
        ("COUNT @99999999", "there is no call 99999999"),
        ("COUNT --param x=@12", "expected CALL.NAME"),
        ("COUNT --param y=1", "'y'"),
        ("COUNT --params [1]", "expected a JSON object"),
        ("COUNT --params {", "expected a JSON object"),
        ("COUNT --wait --no-wait", "at most one of"),
        ("COUNT --reuse unchanged --no-wait", "is for cells of a run"),
        ("--wait", "expected calls"),
        ("COUNT --scrap 1.x", "expected nothing but"),
        ("--scrap 1", "expected CALL.NAME"),
    ],
)
def test_what_is_refused_starts_nothing(command, keys, arguments, said):
    words = [keys["count"] if word == "COUNT" else word for word in arguments.split()]

    assert said in command(*words, code=2)


def test_a_notebook_is_called_by_its_path(command, tmp_path):
    path = write_function(tmp_path / "By Path.ipynb", f"{GLUE}\nglue('here', 1)")

    assert json.loads(command(path, "--json"))["scraps"] == {"here": 1}
