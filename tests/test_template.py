"""The templates are functions that work as they stand."""

import importlib.util
import json
import subprocess

import nbformat
import pytest
from conftest import ROOT, write_function

from libsafe_nb import check, errors, kernels, template

SAMPLES = sorted((ROOT / "notebooks" / "samples").glob("*.*"))


def test_the_blank_one_comes_first():
    assert template.names()[0] == template.BLANK


@pytest.mark.parametrize("name", template.names())
def test_a_new_function_has_its_title_and_key(name):
    node = template.notebook(name, title=r"Zählen \1  der Seiten")

    nbformat.validate(node)
    assert node.cells[0].source.startswith("# Zählen \\1 der Seiten\n")
    assert node.metadata["libsafe"]["title"] == "Zählen \\1 der Seiten"
    assert sum('"key": "z-hlen-1-der-seiten"' in cell.source for cell in node.cells) == 1
    assert template.describe(name) == node.metadata["libsafe"]["description"]


def test_an_unknown_template_names_those_there_are():
    with pytest.raises(errors.UsageError, match=r"no template 'blnak'; there are: blank"):
        template.notebook("blnak")


def test_an_empty_title_is_refused():
    with pytest.raises(errors.UsageError, match="title"):
        template.notebook(title=" ")


def runnable():
    """Each template; that in R where R is."""
    return [pytest.param(name, marks=pytest.mark.r) if name == "r" else name for name in template.names()]


@pytest.fixture
def new(tmp_path):
    def new(name):
        node = template.notebook(name, title="Ours")
        try:
            kernels.check(node.metadata.kernelspec.name, node.metadata.kernelspec.language)
        except errors.NotebookError as exc:
            pytest.skip(str(exc))
        nbformat.write(node, tmp_path / f"{name}.ipynb")
        for each in template.BESIDE.get(name, ()):
            nbformat.write(template.notebook(each), tmp_path / f"{each}.ipynb")
        return tmp_path / f"{name}.ipynb"

    return new


@pytest.mark.parametrize("name", runnable())
def test_a_template_runs_as_it_stands(name, new, run, stored, connection):
    alone = run(new(name))
    done = run(new(name), uploads=SAMPLES)

    assert (alone.status, done.status) == ("completed", "completed"), (alone.error, done.error)
    body = json.loads(stored(done, "record.json"))
    assert body["function"]["title"] == "Ours"
    outcomes = {each["path"]: each["outcome"] for each in body["files"]}
    other = "skipped" if name in ("convert", "report", "workflow") else "success"
    expected = {f"/{each.name}": other for each in SAMPLES}
    assert outcomes == ({**expected, "/inventory.csv": "success"} if name == "convert" else expected)
    if name == "report" and importlib.util.find_spec("matplotlib"):
        node = nbformat.reads(stored(done, "executed.ipynb").decode(), as_version=4)
        assert any(
            "image/png" in each.get("data", {}) for cell in node.cells for each in cell.get("outputs", [])
        )
    if name in ("bash", "per_file"):
        digest = subprocess.run(["sha256sum", SAMPLES[0]], capture_output=True, text=True, check=True)
        file = connection.client.file_by_path(done.container, SAMPLES[0].name)
        assert connection.client.file(file["id"])["hashes"] == {"sha256": digest.stdout.split()[0]}


@pytest.mark.parametrize("name", [each for each in runnable() if each not in ("blank", "report", "workflow")])
def test_one_file_that_fails_is_told_and_the_others_go_on(
    name, new, run, stored, connection, container, tmp_path
):
    broken = tmp_path / ("broken.png" if name == "metadata" else "broken.csv")
    broken.write_bytes(b"not\xff what,its\nname says")
    ids = []
    for path in (broken, *SAMPLES):
        connection.storage.upload(container, f"/{path.name}", path)
        ids.append(connection.client.file_by_path(container, f"/{path.name}")["id"])

    def begin(_):
        # One that cannot be read any more, where its content does not matter.
        if name not in ("metadata", "convert"):
            connection.client.delete_file(ids[0])

    done = run(new(name), files=ids, on_start=begin)

    assert (done.status, done.error) == ("failed", None)
    outcomes = [each["outcome"] for each in json.loads(stored(done, "record.json"))["files"]]
    assert outcomes[0] == "failure"
    assert "success" in outcomes[1:]
    assert "failure" not in outcomes[1:]


def test_a_workflow_tells_which_of_its_calls_failed(new, run, connection, container):
    path = new("workflow")
    write_function(path.with_name("per_file.ipynb"), "raise ValueError('not today')")
    done = run(path, uploads=SAMPLES[:1])

    told = [each["message"] for each in connection.client.messages(done.job) if each["type"] == "ERROR"]
    assert (done.status, done.error) == ("failed", None)
    assert len(told) == 1
    assert "per_file" in told[0]
    assert f": failed: libsafe://{container}/provenance/" in told[0]


@pytest.mark.parametrize("name", template.names())
def test_check_has_nothing_to_say_of_a_template(name):
    assert list(check.check(ROOT / "templates" / f"{name}.ipynb")) == []
