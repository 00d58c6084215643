"""A handler made a notebook, and a notebook a handler, do the same to the platform as what they were made of."""

import ast
import json
import os
import subprocess
import sys

import nbformat
import nbformat.v4
import pytest
from conftest import ROOT, write_function
from environs import variables
from handler_samples import NEWER, OLDER
from nbformat.v4 import new_code_cell
from test_run import command

from libsafe_nb import errors, handlers
from libsafe_nb.converting import to_handler, to_notebook

# As Nuclio does, and with the stand-in where the vendor's library would be; nothing else of libsafe-nb is known to it.
NUCLIO = """
import asyncio, importlib.util, inspect, json, sys
import nuclio_sdk
import libsafe_nb.compat
libsafe_nb.compat.install()
spec = importlib.util.spec_from_file_location("function", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
logger = nuclio_sdk.Logger("ERROR")
context = nuclio_sdk.Context(logger)
for line in sys.stdin:
    returned = module.handler(context, nuclio_sdk.Event(body=line.encode()))
    if inspect.isawaitable(returned):
        returned = asyncio.run(returned)
    print(json.dumps(getattr(returned, "body", returned)))
"""


@pytest.fixture
def as_nuclio(platform, connection, container):
    """Calls a handler once for each payload, in one process, on the platform; what it returned and how its jobs ended."""

    def as_nuclio(path, *params, files=(), ok=True):
        jobs = [connection.client.create_job(container)["id"] for _ in params]
        payloads = [
            {
                "api": {"url": platform.url, "key_user": platform.settings.key_user},
                "function_data": {
                    "container": {"id": container},
                    "job": {"id": job},
                    "files": {"ids": list(files), "paths": []},
                },
                "function_params": each,
            }
            for job, each in zip(jobs, params, strict=True)
        ]
        done = subprocess.run(
            [sys.executable, "-c", NUCLIO, str(path)],
            input="".join(json.dumps(each) + "\n" for each in payloads),
            env={**os.environ, **variables(platform.settings)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) is ok, done.stderr
        returned = [json.loads(line) for line in done.stdout.splitlines()]
        return returned, [connection.client.job(job)["status"] for job in jobs], jobs

    return as_nuclio


@pytest.fixture
def letter(connection, container):
    connection.storage.put(container, "/letter.txt", b"Dear archive")
    return connection.client.file_by_path(container, "letter.txt")["id"]


@pytest.fixture
def effects(connection):
    """What a call did: the file's metadata and hashes, and what the job was told of the file."""

    def effects(file, job):
        messages = [each["message"] for each in connection.client.messages(job) if each["file_id"] == file]
        return connection.client.metadata(file), connection.client.file(file)["hashes"], messages

    return effects


@pytest.mark.parametrize("source", [NEWER, OLDER], ids=["newer", "older"])
def test_there_and_back_it_does_the_same(source, tmp_path, run, letter, as_nuclio, effects):
    original, made, back = tmp_path / "f.py", tmp_path / "f.ipynb", tmp_path / "back.py"
    original.write_text(source)
    nbformat.write(to_notebook(source.encode(), "f.py"), made)
    back.write_text(to_handler(made.read_bytes(), "f.ipynb"))
    assert "libsafe_nb" not in {
        each.name for each in ast.walk(ast.parse(back.read_text())) if isinstance(each, ast.alias)
    }

    seen = []
    for path in (original, made, back):
        done = run(path, files=[letter], params={"record": "4"} if path != made and source == NEWER else None)
        assert done.status == "completed", (path, done.error)
        seen.append(effects(letter, done.job))
    returned, statuses, jobs = as_nuclio(back, {"record": "4"}, {"record": "4"}, files=[letter])
    seen.append(effects(letter, jobs[1]))

    assert statuses == ["COMPLETED", "COMPLETED"]
    assert returned == ["related" if source == NEWER else None] * 2
    assert [each[1:] for each in seen] == [seen[0][1:]] * 4
    # The notebook ran without the parameter, which the others got.
    assert seen[0][0] == seen[2][0] == seen[3][0]


def test_a_handlers_notebook_has_a_payload_and_its_body_as_cells():
    node = to_notebook(NEWER.encode(), "relate.py")
    sources = [cell.source for cell in node.cells]
    tags = [cell.metadata.get("tags", []) for cell in node.cells]

    nbformat.validate(node)
    assert sources[0] == "# relate\n\nRelates each file to a record of the finding aid."
    assert tags[1] == ["parameters"]
    assert ["nuclio-shim"] in tags
    assert not any("def handler" in each or "SystemExit" in each for each in sources)
    assert "    more than one line" in "\n".join(sources), "the text of a docstring is its own"
    assert "# The body is JSON as text." in "\n".join(sources)
    assert sources[-1].endswith(
        '_nb_called.record(context.Response(body="related", headers={}, content_type="text/plain", status_code=200))'
    )


def test_what_is_not_used_of_context_and_event_is_not_there():
    head = "from libsafe_nb.compat import called as _nb_called\n\n"
    for body, shim in (
        ("print(1)", None),
        ("print(event.body)", f"{head}event = _nb_called.Event(json_sample)"),
        ("use(context)", f"{head}context = _nb_called.Context()"),
    ):
        node = to_notebook(f"def handler(context, event):\n    {body}\n".encode(), "a.py")
        found = [cell.source for cell in node.cells if "nuclio-shim" in cell.metadata.get("tags", [])]
        assert found == ([shim] if shim else [])


@pytest.mark.parametrize(
    ("source", "answer"),
    [
        (
            "def handler(context, event):\n    if not event.body:\n        return 'early'\n    return 'late'\n",
            "late",
        ),
        (
            "LIMIT = 1\ndef helper():\n    return LIMIT\ndef handler(context, event):\n"
            "    LIMIT = 2\n    return str(helper() + LIMIT)\n",
            "3",
        ),
        (
            "import asyncio\nasync def handler(context, event):\n    await asyncio.sleep(0)\n    return 'late'\n",
            "late",
        ),
        (
            "def init_context(context):\n    context.user_data.n = 1\n"
            "def handler(context, event):\n    return str(context.user_data.n)\n",
            "1",
        ),
        ("def handler(context, event):\n    text = '''a\n  b'''\n    return text\n", "a\n  b"),
        ("def handler(context, event): return 'one line'\n", "one line"),
        (
            "def handler(context, event):\n    with open('/dev/null') as file:\n        return 'read'\n",
            "read",
        ),
        ("def handler(context, event, more='default', *, only='!'):\n    return more + only\n", "default!"),
    ],
    ids=["return", "names", "async", "init", "text", "line", "with", "more"],
)
def test_a_body_that_cells_cannot_hold_stays_a_function(source, answer, tmp_path, run, as_nuclio):
    node = to_notebook(source.encode(), "f.py")
    assert any("def handler" in cell.source for cell in node.cells)
    nbformat.write(node, tmp_path / "f.ipynb")
    (tmp_path / "back.py").write_text(to_handler((tmp_path / "f.ipynb").read_bytes(), "f.ipynb"))
    done = run(tmp_path / "f.ipynb")

    assert done.status == "completed", done.error
    assert done.scraps["response"]["body"] == answer
    assert as_nuclio(tmp_path / "back.py", {})[:2] == ([answer], ["COMPLETED"])


HANDLER = "def handler(context, event):\n    return 1\n"


@pytest.mark.parametrize(
    "deep", ["-" * 50_000 + "1", "+".join(["1"] * 20_000), "+".join(["1"] * 700), "a" + ".b" * 20_000]
)
def test_an_expression_that_is_nested_too_deep_is_refused_in_one_sentence(deep):
    notebook = nbformat.writes(nbformat.v4.new_notebook(cells=[new_code_cell(f"x = {deep}")])).encode()
    for convert, source in ((to_notebook, f"x = {deep}\n{HANDLER}".encode()), (to_handler, notebook)):
        try:
            convert(source, "deep")
        except errors.NotebookError as refused:
            assert "nested too deep" in str(refused) or "expected" in str(refused)
            assert len(str(refused)) < 300
    assert handlers.is_handler(f"x = {deep}\n{HANDLER}".encode()) in (True, False)


def test_the_authors_escapes_are_no_warnings_of_ours():
    source = "import re\nPATTERN = '\\d'\n" + HANDLER
    node = to_notebook(source.encode(), "f.py")

    assert "PATTERN = '\\d'" in to_handler(nbformat.writes(node).encode(), "f.ipynb")


CELLS = [
    "from __future__ import annotations\nimport json\nfrom libnova.common.nuclio.Request import Request\nfrom libnova.common.api import File",
    new_code_cell("1 / 0", metadata={"tags": ["raises-exception"]}),
    'TEXT = """first\n  second"""\ndef label(number):\n    """Of one\n    file."""\n    return f"{TEXT}{number * times}{unit}"',
    'request = Request(None, type("Event", (), {"body": json.dumps(json_sample)})())\nrequest.job_init()',
    'for file in request.Files:\n    File.set_metadata(file.id, [{"iecode": "label", "value": label(2)}])\n    request.log([x for x in label(1)], "INFO", file.id)',
]
PARAMETERS = (
    'json_sample = {"function_params": {"unit": "m"}}\nunit = "m"\ntimes: int = 3\nwide: bool = False'
)


def test_a_notebook_as_a_handler_does_what_the_notebook_does(tmp_path, run, letter, as_nuclio, effects):
    path = write_function(tmp_path / "label.ipynb", *CELLS, parameters=PARAMETERS)
    made = tmp_path / "label.py"
    made.write_text(to_handler(path.read_bytes(), str(path)))
    assert handlers.is_handler(made.read_bytes())

    first = run(path, files=[letter], params={"times": "4", "wide": "true"})
    assert first.status == "completed", first.error
    expected = effects(letter, first.job)
    second = run(made, files=[letter], params={"times": "4", "wide": "true"})
    assert second.status == "completed", second.error
    assert effects(letter, second.job) == expected
    _, statuses, jobs = as_nuclio(made, {"times": "9"}, {"times": "4", "wide": True}, files=[letter])
    assert statuses == ["COMPLETED"] * 2, "no state is carried from call to call"
    assert effects(letter, jobs[1]) == expected
    assert expected[0][0]["value"] == ["first\n  second8m"]


def test_a_cell_that_raises_fails_the_job_there_too(tmp_path, as_nuclio):
    path = write_function(tmp_path / "f.ipynb", "print(1)", "raise ValueError('no')")
    (tmp_path / "f.py").write_text(to_handler(path.read_bytes(), "f.ipynb"))

    assert as_nuclio(tmp_path / "f.py", {}, ok=False)[1] == ["FAILED"]


def test_the_notebooks_that_come_with_it_convert(tmp_path, run, letter, connection):
    path = ROOT / "notebooks" / "hash_files.ipynb"
    made = tmp_path / "hash_files.py"
    made.write_text(to_handler(path.read_bytes(), path.name))
    done = run(made, files=[letter])

    assert done.status == "completed", done.error
    assert connection.client.file(letter)["hashes"].keys() >= {"md5", "sha1", "sha256"}


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%matplotlib inline", "cell 2: expected plain Python"),
        ("display(1)", "cell 2, line 1: uses display"),
        ("import libsafe_nb", "imports libsafe_nb"),
        ("from os import *", "import \\*"),
        ("import os\nos._exit(0)", "os._exit"),
        ("def f():\n    global x\n    x = 1", "global x"),
        ("await f()", "awaits"),
        ("x = 1\ndef f():\n    nonlocal y", "expected plain Python"),
    ],
)
def test_what_only_a_notebook_can_is_refused(cell, said, tmp_path):
    path = write_function(tmp_path / "f.ipynb", cell)
    with pytest.raises(errors.NotebookError, match=said):
        to_handler(path.read_bytes(), "f.ipynb")


def test_the_command_overwrites_nothing(tmp_path, platform):
    (tmp_path / "f.py").write_text(NEWER)
    first, again, forced, back, same = (
        command(platform, "convert", *arguments)
        for arguments in (
            [str(tmp_path / "f.py")],
            [str(tmp_path / "f.py")],
            [str(tmp_path / "f.py"), "--force"],
            [str(tmp_path / "f.ipynb"), "--to", "handler", "--output", str(tmp_path / "g.py")],
            [str(tmp_path / "f.py"), "--to", "handler"],
        )
    )
    (tmp_path / "cells.py").write_text("# %%\nprint(1)\n")
    assert command(platform, "convert", str(tmp_path / "cells.py")).stdout.strip() == str(
        tmp_path / "cells_handler.py"
    )

    assert [each.returncode for each in (first, again, forced, back, same)] == [0, 2, 0, 0, 2], same.stderr
    assert first.stdout.strip() == str(tmp_path / "f.ipynb")
    assert "--force" in again.stderr
    assert handlers.is_handler((tmp_path / "g.py").read_bytes())
