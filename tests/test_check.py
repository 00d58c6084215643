"""`check` finds keys pasted into notebooks, says where, and never repeats them."""

import base64
import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from libsafe_nb import check, errors
from libsafe_nb.redact import SAMPLE_VALUES, SecretSet
from libsafe_nb.secrets import Secret

ROOT = Path(__file__).parent.parent
KEY = "f7Gh39sLqP0zXvB2kW5n"
MINE = "Zq7Lm2vXc9Rt4Bn8Ks1Wd6Yh3Pg5Jf0Tx4Ue"
SECRETS = SecretSet([Secret("key_user", MINE)])


@pytest.fixture
def book(tmp_path):
    def book(*cells, name="f.ipynb", metadata=None):
        path = tmp_path / name
        nbformat.write(new_notebook(cells=list(cells), metadata=metadata or {}), path)
        return path

    return book


def keys(path, secrets=None):
    """What is found of keys, and of a description that is begun: the notebooks here are no whole functions."""
    return check.check(path, secrets=secrets, codes=(*check.KEYS, "LSN004"))


def places(found):
    return [(each.cell, each.line, each.code) for each in found]


def test_a_key_in_source_is_found_with_its_cell_and_line(book):
    path = book(new_markdown_cell("# Title"), new_code_cell(f"import os\n\nkey_user = '{KEY}'"))

    (found,) = keys(path)

    assert (found.cell, found.line, found.code) == (2, 3, "LSN001")
    assert "key_user" in found.message
    assert str(found) == f"{path}:2:3: LSN001 {found.message}"


OUTPUTS = {
    "stream": (new_output("stream", text=f"a\napi_key = '{KEY}'\n"), 2),
    "result": (new_output("execute_result", data={"text/plain": f"{{'key_root': '{KEY}'}}"}), 1),
    "html": (new_output("display_data", data={"text/html": f"<b>\ntoken: '{KEY}'</b>"}), 2),
    "json": (new_output("display_data", data={"application/json": {"api": {"key_user": KEY}}}), 1),
    "error": (
        new_output(
            "error",
            ename="E",
            evalue="",
            traceback=["E", f"\x1b[0mkey_user\x1b[34m = \x1b[33m'{KEY}'\x1b[0m"],
        ),
        2,
    ),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_key_in_an_output_is_found(book, kind):
    output, line = OUTPUTS[kind]
    quiet = new_output("stream", text="nothing to see\n")

    assert places(keys(book(new_code_cell("1", outputs=[quiet, output])))) == [(1, line, "LSN002")]


def test_a_key_in_metadata_or_an_attachment_is_found(book):
    cell = new_markdown_cell("x", attachments={"a.txt": {"text/plain": f"secret = '{KEY}'"}})
    cell.metadata["password"] = KEY

    found = keys(book(cell, metadata={"papermill": {"parameters": {"key_user": KEY}}}))

    assert places(found) == [(None, 1, "LSN003"), (1, 1, "LSN003"), (1, 1, "LSN003")]
    assert str(found[0]).startswith(f"{found[0].file}:-:1: LSN003 metadata of the notebook: ")


WAYS = {
    "under any name": lambda key: f"x = '{key}'",
    "as a word": lambda key: f"# {key}",
    "base64": lambda key: f"x = '{base64.b64encode(key.encode()).decode()}'",
    "gzip": lambda key: f"x = '{base64.b64encode(gzip.compress(key.encode())).decode()}'",
    "under its name": lambda key: f"key_user = '{key}'",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_key_of_the_settings_is_found_in_any_form_and_once(book, way):
    path = book(new_code_cell("import os\n" + WAYS[way](MINE)))

    (found,) = keys(path, secrets=SECRETS)

    assert (found.cell, found.line, found.code) == (1, 2, "LSN001")
    assert found.message.startswith("key_user of the settings stands in the text (")


def test_no_message_holds_a_key(book):
    cells = [new_code_cell(WAYS[way](key)) for way in WAYS for key in (MINE, KEY)]
    cells += [new_code_cell("1", outputs=[each]) for each, _ in OUTPUTS.values()]

    told = json.dumps([each.to_json() for each in check.check(book(*cells), secrets=SECRETS)])

    assert KEY not in told
    assert MINE not in told


@pytest.mark.parametrize("value", [*SAMPLE_VALUES, "<your key>", "[redacted:key_user]", "xxxxxxxxxxxx"])
def test_the_vendors_sample_and_templates_pass(book, value):
    cell = new_code_cell(
        f'json_sample = {{"api": {{"key_user": "{value}", "key_root": "{value}"}}}}',
        outputs=[new_output("stream", text=f"'key_user': '{value}'\n")],
    )

    assert keys(book(cell)) == []


def test_the_vendors_page_passes(book, vendor_sample):
    assert keys(book(new_code_cell(vendor_sample))) == []


@pytest.mark.parametrize(
    "path", sorted([*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "templates").glob("*.ipynb")]), ids=str
)
def test_our_own_notebooks_pass(path):
    assert check.check(path, secrets=SECRETS) == []


WHOLE = {
    "title": "Hash files",
    "description": "Digests of each file.",
    "version": "1.0.0",
    "author": "An archive",
    "license": "NOASSERTION",
    "effects": [],
}


@pytest.mark.parametrize(
    ("description", "told"),
    [
        (WHOLE, []),
        ({"volatile": {"cells": []}, "strict_params": True}, []),
        (
            {**WHOLE, "version": 1.0, "effects": ["mes", "no", 3]},
            ["version", "effects, entry 2", "effects, entry 3"],
        ),
        ({"title": "T"}, ["description", "version", "author", "license", "effects"]),
        ({**WHOLE, "author": " ", "effects": "mes"}, ["author", "effects"]),
    ],
)
def test_a_functions_description_is_whole_or_not_begun(book, description, told):
    found = keys(book(metadata={"libsafe": description}))

    assert places(found) == [(None, 1, "LSN004")] * len(told)
    assert [each.message.removeprefix("metadata.libsafe.").partition(":")[0] for each in found] == told


def test_a_description_that_is_none_is_told_and_never_repeated(book):
    found = keys(book(metadata={"libsafe": KEY}))
    inside = keys(book(metadata={"libsafe": {**WHOLE, "version": [KEY], "effects": [KEY]}}))

    assert "LSN004" in {each.code for each in found}
    assert [each.code for each in inside].count("LSN004") == 2
    assert KEY not in json.dumps([each.to_json() for each in (*found, *inside)])


def test_innocent_outputs_pass(book):
    import hashlib
    import uuid

    digests = "".join(f"{hashlib.sha256(b'%d' % n).hexdigest()}  key{n}.tif\n" for n in range(500))
    ids = "\n".join(f"id: {uuid.UUID(int=n * 7919 << 64)}" for n in range(1, 200))
    image = base64.b64encode(hashlib.shake_256(b"x").digest(200_000)).decode()
    outputs = [
        new_output("stream", text=digests + ids),
        new_output("display_data", data={"image/png": image, "text/plain": "<Figure>"}),
    ]

    assert keys(book(new_code_cell("show()", outputs=outputs)), secrets=SECRETS) == []


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\xfe", b'{"cells": 1, "nbformat": 4}'], ids=str)
def test_what_is_no_notebook_is_said(tmp_path, content):
    path = tmp_path / "x.ipynb"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(errors.NotebookError, match=re.escape(str(path))):
        check.check(path)


def command(*arguments, **environ):
    import os

    return subprocess.run(
        [sys.executable, "-m", "libsafe_nb", "check", *map(str, arguments)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_tells_by_its_exit_code(book, tmp_path):
    parameters = new_code_cell("json_sample = {}", metadata={"tags": ["parameters"]})
    clean = book(parameters, name="clean.ipynb", metadata={"libsafe": WHOLE})
    pasted = book(
        new_code_cell(f"key_user = '{KEY}'"), parameters, name="pasted.ipynb", metadata={"libsafe": WHOLE}
    )
    hidden = book(
        parameters, new_code_cell(f"x = '{MINE[::-1]}'"), name="hidden.ipynb", metadata={"libsafe": WHOLE}
    )

    assert (command(clean).returncode, command(clean).stdout) == (0, "")
    found = command(clean, pasted)
    assert (found.returncode, found.stderr) == (1, "")
    assert found.stdout.startswith(f"{pasted}:1:1: LSN001 ")
    assert command(hidden).returncode == 0
    assert command(hidden, LIBSAFE_KEY_USER=MINE).returncode == 1
    missing = command(tmp_path / "absent.ipynb", pasted)
    assert missing.returncode == 2
    assert missing.stdout == found.stdout
    assert (
        missing.stderr == f"libsafe-nb: {tmp_path}/absent.ipynb: cannot be read (No such file or directory)\n"
    )
    assert command().returncode == 2


def test_the_command_speaks_json(book):
    path = book(new_code_cell(f"key_user = '{KEY}'"))

    _, found = json.loads(command("--json", path).stdout)

    assert set(found) == {"file", "cell", "line", "code", "message"}
    # The first is that it has no parameters cell.
    assert (found["file"], found["cell"], found["line"], found["code"]) == (str(path), 1, 1, "LSN001")


def test_many_rules_may_be_asked_or_few(book):
    path = book(new_code_cell(f"key_user = '{KEY}'\nprint(gone)"))

    assert {each.code for each in check.check(path)} == {"LSN001", "LSN005", "LSN012"}
    assert {each.code for each in check.check(path, codes=["LSN012"])} == {"LSN012"}


def test_every_rule_has_a_row_in_the_docs_and_every_row_a_rule():
    page = (ROOT / "docs" / "check.md").read_text()

    assert re.findall(r"^\| `(LSN\d{3})` \|", page, re.MULTILINE) == [rule.code for rule in check.RULES]
