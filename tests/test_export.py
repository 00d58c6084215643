"""`libsafe-nb export`: evidence in forms that other systems read, from the container and from a copy of it."""

import json

import bagit
import prov.model
import pytest

from libsafe_nb.cli import main


@pytest.fixture
def copy(run, notebook, connection, container, tmp_path):
    """A copy of a container in which one function ran."""
    run(notebook("print('hello')"))
    for each in connection.storage.list(container, ""):
        place = tmp_path / "copy" / each.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(connection.storage.get(container, each.path))
    return tmp_path / "copy"


def call(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["export", *map(str, arguments)])
    return ended.value.code


def test_a_run_is_told_in_prov(copy, tmp_path, capsys):
    assert call("prov", copy, "--output", tmp_path / "run.json") == 0
    assert call("prov", copy) == 0
    document = prov.model.ProvDocument.deserialize(tmp_path / "run.json", format="json")

    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "run.json").read_text())
    assert len(list(document.get_records(prov.model.ProvActivity))) == 1


def test_a_containers_provenance_is_a_valid_bag_and_is_written_once(copy, tmp_path, capsys):
    target = tmp_path / "bag"

    assert call("bag", copy, target) == 0
    assert bagit.Bag(str(target)).is_valid()
    assert (target / "data" / "provenance" / "chain" / "00000001.json").exists()
    assert call("bag", copy, target) == 2
    assert str(target) in capsys.readouterr().err


def test_what_is_no_evidence_is_bad_usage(tmp_path, capsys):
    (tmp_path / "empty").mkdir()

    assert call("prov", tmp_path / "empty") == 2
    assert call("bag", tmp_path / "empty", tmp_path / "bag") == 2
    assert not (tmp_path / "bag").exists()
    assert capsys.readouterr().err.count("found none") == 2
