"""A new function: from a template, with its title and key, and never in the place of something else."""

import json
from pathlib import Path

import nbformat
import pytest
from test_run import command

from libsafe_nb import errors, notebook, template
from libsafe_nb.new import new


def test_a_new_notebook_has_the_title_and_key_of_its_name(tmp_path):
    place = new(str(tmp_path / "count_the-pages"))

    assert place == str(tmp_path / "count_the-pages.ipynb")
    node = nbformat.read(place, as_version=4)
    assert node.cells[0].source.startswith("# Count the pages\n")
    assert node.metadata.libsafe.title == "Count the pages"
    assert '"key": "count_the-pages"' in node.cells[2].source


@pytest.mark.parametrize("name", [each for each in template.names() if each not in ("bash", "r")])
def test_as_python_text_it_is_the_same_function(name, tmp_path):
    text = new(str(tmp_path / "f.py"), template_name=name)
    plain = new(str(tmp_path / "f.ipynb"), template_name=name)

    first, second = (notebook.parse(Path(path).read_bytes(), name=path) for path in (text, plain))
    assert [cell.source for cell in first.node.cells] == [cell.source for cell in second.node.cells]
    assert (first.parameters, first.metadata) == (second.parameters, second.metadata)
    assert first.kernel_name == second.kernel_name == "python3"


def test_python_text_of_another_language_is_refused(tmp_path):
    with pytest.raises(errors.UsageError, match="'bash' is not Python"):
        new(str(tmp_path / "f.py"), template_name="bash")

    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "f.ipynb").write_text("mine")
    with pytest.raises(errors.UsageError, match="there is a file already"):
        new(str(tmp_path / "f"))

    assert (tmp_path / "f.ipynb").read_text() == "mine"


def test_the_functions_that_a_workflow_calls_are_begun_beside_it(tmp_path, platform, container):
    (tmp_path / "report.ipynb").write_text("mine")
    made = command(platform, "new", str(tmp_path / "take_in.py"), "--template", "workflow")
    there = command(platform, "new", f"libsafe://{container}/f/take_in", "--template", "workflow")
    refused = command(platform, "new", str(tmp_path / "per_file.ipynb"), "--template", "workflow")

    assert made.stdout.split() == [
        str(tmp_path / f"{each}") for each in ("take_in.py", "per_file.ipynb", "report.ipynb")
    ]
    assert there.stdout.split() == [
        f"libsafe://{container}/f/{each}.ipynb" for each in ("take_in", "per_file", "report")
    ]
    assert (tmp_path / "report.ipynb").read_text() == "mine"
    assert '"key": "per_file"' in nbformat.read(tmp_path / "per_file.ipynb", as_version=4).cells[2].source
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "choose another" in refused.stderr


def test_in_a_container_it_is_put_on_condition(platform, connection, container):
    address = f"libsafe://{container}/functions/f"
    place = new(address, template_name="per_file", settings=platform.settings)

    node = nbformat.reads(connection.storage.get(container, "functions/f.ipynb").decode(), as_version=4)
    assert (place, node.metadata.libsafe.title) == (f"{address}.ipynb", "F")
    assert connection.storage.head(container, "functions/f.ipynb").content_type == "application/x-ipynb+json"
    with pytest.raises(errors.UsageError, match="there is a file already"):
        new(address, settings=platform.settings)


def test_the_command(tmp_path, platform, container):
    listed = command(platform, "new", "--list")
    made = command(platform, "new", str(tmp_path / "ours.py"), "--title", "Ours")
    run = command(platform, "run", str(tmp_path / "ours.py"), "--container", container, "--json")
    replayed = command(platform, "replay", json.loads(run.stdout)["evidence"])
    again = command(platform, "new", str(tmp_path / "ours.py"))
    nameless = command(platform, "new")
    nowhere = command(platform, "new", str(tmp_path / "absent" / "f"))

    assert [line.split()[0] for line in listed.stdout.splitlines()] == template.names()
    assert (made.returncode, made.stdout) == (0, f"{tmp_path}/ours.py\n")
    assert json.loads(run.stdout)["status"] == "completed"
    assert (replayed.returncode, replayed.stdout.splitlines()[-1]) == (0, "result  same"), replayed.stderr
    assert [each.returncode for each in (again, nameless, nowhere)] == [2, 2, 2]
    assert [each.stderr.count("\n") for each in (again, nameless, nowhere)] == [1, 1, 1]


@pytest.mark.parametrize("name", ["", ".ipynb", "functions/", "libsafe://1/", "libsafe://1/in/.py"])
def test_a_function_without_a_name_is_not_begun(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(errors.UsageError, match="expected a name"):
        new(name)

    assert list(tmp_path.iterdir()) == []
