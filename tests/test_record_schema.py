"""The published schema of the record: every real record fits it, and what it leaves open is on purpose."""

import json
from importlib.resources import files

import jsonschema
import pytest

import libsafe_nb

SCHEMA = json.loads(files(libsafe_nb).joinpath("data/record.schema.json").read_bytes())
FAILING = "raise ValueError('no')"


@pytest.fixture
def record_of(stored):
    def record_of(run):
        return json.loads(stored(run, "record.json"))

    return record_of


@pytest.mark.parametrize("cell", ["print(1)", FAILING, "import sys; sys.exit(3)"])
def test_a_runs_record_fits_its_schema_and_has_every_field_of_it(cell, run, notebook, record_of):
    found = record_of(run(notebook(cell)))
    jsonschema.Draft202012Validator(SCHEMA).validate(found)

    assert set(found) == set(SCHEMA["properties"]) - {"recovered"}


def test_the_kernels_packages_are_told_by_the_kernel(run, notebook, stored, record_of):
    done = run(notebook("print(1)"))
    surroundings = json.loads(stored(done, "environment.json"))
    packages = {each["name"]: each["version"] for each in surroundings["packages"]}

    assert surroundings["taken"] == "kernel"
    assert packages["papermill"].startswith("2.")
    assert record_of(done)["env"]["digest"] == surroundings["digest"]


def test_a_function_describes_itself_in_its_notebook(run, record_of, samples_notebook):
    function = record_of(run(samples_notebook))["function"]

    told = json.loads(samples_notebook.read_text())["metadata"]["libsafe"]
    assert (function["title"], function["version"]) == ("Hash files", told["version"])
    assert function["effects"] == ["mes", "mem"]
    assert function["code_sha256"] == function["executed_code_sha256"]


@pytest.fixture
def samples_notebook():
    from pathlib import Path

    return Path(__file__).parent.parent / "notebooks" / "hash_files.ipynb"
