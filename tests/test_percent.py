"""A notebook kept as Python text runs as the notebook that it is, wherever one is taken."""

import hashlib
import json
import subprocess
import sys

import nbformat
import pytest
from test_run import REAL, command

from libsafe_nb import errors, notebook, percent
from libsafe_nb.check import check
from libsafe_nb.papermill_io import LibsafeHandler
from libsafe_nb.upload import upload

TEXT = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
#   libsafe:
#     author: A. Archivist
#     description: Adds one.
#     effects: []
#     license: Apache-2.0
#     title: Adder
#     version: 1.2.0
# ---

# %% [markdown]
# # Adder

# %% tags=["parameters"]
json_sample = {"function_params": {}}
number: int = 1

# %%
# !true
print("the sum is", number + 1)
"""


@pytest.fixture
def adder(tmp_path):
    path = tmp_path / "adder.py"
    path.write_text(TEXT)
    return path


def test_it_runs_and_the_record_names_the_source(adder, run, stored):
    done = run(adder, params={"number": "41"})

    assert done.status == "completed", done.error
    function = json.loads(stored(done, "record.json"))["function"]
    assert (function["name"], function["title"], function["version"]) == ("adder.py", "Adder", "1.2.0")
    assert function["notebook_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    executed = nbformat.reads(stored(done, "executed.ipynb").decode(), as_version=4)
    assert [cell.cell_type for cell in executed.cells] == ["markdown", "code", "code", "code"]
    assert executed.cells[3].outputs[0].text == "the sum is 42\n"


def test_the_same_text_has_the_same_code_hash(adder):
    first, second = (notebook.parse(adder.read_bytes(), name="adder.py") for _ in range(2))

    assert first.code_sha256 == second.code_sha256
    assert [cell.id for cell in first.node.cells] == ["cell-0", "cell-1", "cell-2"]


def test_a_notebook_written_as_text_is_the_same_notebook():
    node = notebook.read(TEXT.encode(), name="adder.py")
    again = notebook.read(percent.write(node, name="adder.py").encode(), name="adder.py")

    assert again == node


def test_text_without_a_kernel_is_for_python():
    node = notebook.parse(b"#%%\nx = 1\n# %%\ny = 2\n", name="a.py")

    assert (node.kernel_name, [cell.source for cell in node.node.cells]) == ("python3", ["x = 1", "y = 2"])


@pytest.mark.parametrize(
    "source", ["print(1)\n", "", "# 100 %% of it\nx = '''\n  # %%'''\n", "# ---\n# a: b\n"]
)
def test_a_plain_script_is_for_exec(source, tmp_path, platform):
    path = tmp_path / "plain.py"
    path.write_text(source)
    done = command(platform, "run", str(path))

    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"libsafe-nb exec {path}" in done.stderr


def test_a_damaged_header_is_told(tmp_path):
    with pytest.raises(errors.NotebookError, match="expected a Jupyter notebook"):
        notebook.read(b"# ---\n# jupyter:\n#   a: [\n# ---\n# %%\n1\n", name="a.py")


def test_without_jupytext_it_says_what_to_install(adder, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupytext", None)
    with pytest.raises(errors.NotebookError, match=r"pip install 'libsafe-nb\[percent\]'"):
        notebook.read(adder.read_bytes(), name=str(adder))


def test_check_and_upload_see_its_cells(adder, platform, connection, container):
    assert check(adder) == []
    upload([adder], container=container, settings=platform.settings)
    adder.write_text(TEXT + f"\n# %%\napi_key = '{REAL}'\n")

    found = check(adder)
    assert [(each.cell, each.line, each.code) for each in found] == [(4, 28, "LSN001")]
    with pytest.raises(errors.NotebookError, match="LSN001"):
        upload([adder], container=container, settings=platform.settings)
    assert connection.storage.get(container, "/adder.py") == TEXT.encode()


def test_it_runs_from_the_container_also_by_papermill(
    adder, tmp_path, run, connection, container, platform, monkeypatch
):
    connection.storage.put(container, "/functions/adder.py", adder.read_bytes())
    done = run(f"libsafe://{container}/functions/adder.py")
    handler = LibsafeHandler()
    monkeypatch.setattr(handler, "_connection", connection)
    read = nbformat.reads(handler.read(f"libsafe://{container}/functions/adder.py"), as_version=4)

    assert done.status == "completed", done.error
    assert read.cells[1].metadata.tags == ["parameters"]
    nbformat.validate(read)


def test_help_and_plain_notebooks_do_not_load_jupytext(notebook):
    code = f"import sys; from libsafe_nb.check import check; check({str(notebook('1'))!r}); print('jupytext' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
