"""The export in W3C PROV: read back by the `prov` package, it says what the record says."""

import json

import pytest
from prov.model import (
    ProvActivity,
    ProvAgent,
    ProvAssociation,
    ProvCommunication,
    ProvDelegation,
    ProvDerivation,
    ProvDocument,
    ProvEntity,
    ProvGeneration,
    ProvUsage,
)
from test_premis import LOST, RUN, WHOLE

from libsafe_nb import prov

BEFORE = "urn:uuid:0d0c5a6e-5a1f-4a8e-9a53-6a8f6f0f4c11"


def read(record):
    """The document, through JSON, as `prov` reads it."""
    return ProvDocument.deserialize(content=json.dumps(prov.build(record)))


def attributes(found):
    return {str(name): str(value) for name, value in found.attributes}


def told(document, kind):
    return [attributes(each) for each in document.get_records(kind)]


def uuids(document, kind, attribute):
    return [each[attribute] for each in told(document, kind)]


def test_a_real_run_reads_back(run, notebook, stored):
    done = run(notebook("print('hello')"))
    document = read(json.loads(stored(done, "record.json")))
    (activity,) = document.get_records(ProvActivity)

    assert activity.identifier.uri == f"urn:uuid:{done.run}"
    assert activity.get_startTime() < activity.get_endTime()
    assert attributes(activity)["schema:actionStatus"] == "http://schema.org/CompletedActionStatus"


def test_the_activity_used_what_it_read_and_generated_what_it_wrote():
    document = read(WHOLE)
    entities = {str(each.identifier): attributes(each) for each in document.get_records(ProvEntity)}

    def names(kind):
        return [
            entities[name].get("prov:location", entities[name].get("prov:label"))
            for name in uuids(document, kind, "prov:entity")
        ]

    assert names(ProvUsage) == ["payload", "/a.txt", "/made.csv"]
    assert names(ProvGeneration) == ["/made.csv", "/a.txt", "executed.ipynb"]
    # One version of made.csv, written and read back; two of a.txt; b was given and not read.
    places = [each.get("prov:location") for each in entities.values()]
    assert (places.count("/made.csv"), places.count("/a.txt"), places.count("/b")) == (1, 2, 1)


def test_the_program_acted_for_the_user_with_the_notebook_as_its_plan():
    document = read(WHOLE)
    plan = next(each for each in document.get_records(ProvEntity) if "prov:Plan" in attributes(each).values())
    program = next(
        each for each in document.get_records(ProvAgent) if "libsafe-nb" in attributes(each).values()
    )
    associations = {each["prov:agent"]: each for each in told(document, ProvAssociation)}
    (delegation,) = told(document, ProvDelegation)
    (derivation,) = told(document, ProvDerivation)

    assert attributes(plan)["schema:sha256"] == "ab" * 32
    assert attributes(program)["prov:type"] == "prov:SoftwareAgent"
    assert len(associations) == 2
    assert associations[str(program.identifier)]["prov:plan"] == str(plan.identifier)
    assert delegation["prov:delegate"] == str(program.identifier)
    assert derivation["prov:usedEntity"] == str(plan.identifier)


def test_a_failure_is_told_although_prov_has_no_word_for_it():
    failed = {**WHOLE, "status": "failed", "cause": "cell-error", "error": {"type": "E", "message": "no"}}
    (activity,) = told(read(failed), ProvActivity)

    assert activity["schema:actionStatus"] == "http://schema.org/FailedActionStatus"
    assert (activity["schema:error"], activity["record:status"]) == ("E: no", "failed")


def test_a_replay_is_informed_by_the_run_that_it_repeats():
    (communication,) = told(read({**WHOLE, "replay_of": BEFORE}), ProvCommunication)

    assert communication == {
        "prov:informed": f"uuid:{RUN}",
        "prov:informant": BEFORE.removeprefix("urn:"),
    }
    assert told(read(WHOLE), ProvCommunication) == []


@pytest.mark.parametrize("record", [LOST, WHOLE, {"id": "no uuid"}], ids=["lost", "whole", "bare"])
def test_every_name_that_a_relation_has_is_one_of_the_documents(record):
    made = prov.build({**record, "replay_of": BEFORE})
    names = {name for kind in ("activity", "entity", "agent") for name in made.get(kind, {})}
    ends = {
        value
        for relation, entries in made.items()
        if relation not in ("prefix", "activity", "entity", "agent")
        for each in entries.values()
        for key, value in each.items()
        if key != "prov:role"
    }

    assert ends <= names
    assert read(record)
    assert prov.build(record) == prov.build(record)
