"""`premis.xml` is PREMIS 3.0: valid against the official schema, and it says what the record says."""

import copy
import json
import uuid

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from test_sealing import REAL, WRAPPED

from libsafe_nb import dossier, premis, record
from libsafe_nb.description import EVENT_TYPES
from libsafe_nb.redact import scan_document
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.secrets import Secret

SCHEMA = ROOT.parent / "shared" / "premis" / "premis-v3-0.xsd"
P = {"p": premis.NAMESPACE}
RUN = "5f0c5a6e-5a1f-4a8e-9a53-6a8f6f0f4c11"

LOST = record.lost(
    {
        "run": RUN,
        "job": "7",
        "container": "1",
        "function": {"key": "", "name": "count.ipynb", "notebook_sha256": "ab" * 32},
        "started": "2026-11-25T09:22:05.784+00:00",
    },
    "nothing was heard of a",
)

WHOLE = {
    **LOST,
    "ended": "2026-11-25T09:22:07.713+00:00",
    "status": "completed",
    "cause": None,
    "error": None,
    "agent": {"user": {"id": "3"}, "runner": {"libsafe-nb": "0.1.0", "papermill": "2.7.0"}},
    "env": {"python": "3.11.7"},
    "right": record.RIGHT,
    "payload_sha256": "45" * 32,
    "inputs": [
        {"id": "1", "path": "/a.txt", "version_id": "v1", "size": 6, "sha256": "cd" * 32, "read": "full"},
        {"id": "2", "path": "/b", "version_id": "v2", "size": None, "sha256": None, "read": "none"},
        {"id": "3", "path": "/made.csv", "version_id": "v9", "size": 3, "sha256": "ef" * 32, "read": "full"},
    ],
    "outputs": [
        {"path": "/made.csv", "version_id": "v9", "size": 3, "sha256": "ef" * 32, "format": "text/csv"},
        {"path": "/a.txt", "version_id": "v3", "size": 2, "sha256": "01" * 32, "format": "text/plain"},
    ],
    "files": [
        {"id": "1", "path": "/a.txt", "outcome": "failure", "event_types": ["mes"], "detail": ["no good"]},
        {"id": "2", "path": "/b", "outcome": "skipped", "event_types": ["mes"], "detail": []},
    ],
    "platform_writes": [
        {
            "kind": "hash",
            "file_id": "1",
            "algorithm": "md5",
            "value": "00",
            "at": "2026-11-25T09:22:06.000+00:00",
        },
        {
            "kind": "hash",
            "file_id": "1",
            "algorithm": "sha1",
            "value": "11",
            "at": "2026-11-25T09:22:06.100+00:00",
        },
        {
            "kind": "tag",
            "file_id": "1",
            "tag": "seen",
            "action": "add",
            "at": "2026-11-25T09:22:06.200+00:00",
        },
        {
            "kind": "metadata",
            "target": "container",
            "id": "1",
            "iecodes": ["title"],
            "at": "2026-11-25T09:22:06.3+00:00",
        },
        {"kind": "delete", "file_id": "44", "action": "delete", "at": "2026-11-25T09:22:06.400+00:00"},
    ],
    "redactions": [],
    "scan": {"by": "libsafe-nb 0.1.0", "left_out": []},
    "notebook": {"path": "executed.ipynb", "sha256": "23" * 32, "size": 12, "nbformat": "4.5"},
}


@pytest.fixture(scope="module")
def valid():
    """Parses a document that the official schema accepts."""
    if not SCHEMA.exists():
        pytest.skip(f"the PREMIS 3.0 schema is not beside this checkout ({SCHEMA.name})")
    schema = etree.XMLSchema(etree.parse(str(SCHEMA), etree.XMLParser(no_network=True)))

    def valid(data):
        tree = etree.fromstring(data)
        schema.assertValid(tree)
        linked(tree)
        return tree

    return valid


def linked(tree):
    """Every identifier that is linked to stands in the document, and no two events share one."""

    def values(kind, of):
        return {
            (each.findtext(f"p:{of}Type", None, P), each.findtext(f"p:{of}Value", None, P))
            for each in tree.iterfind(f".//p:{of}", P)
            if kind is None or etree.QName(each.getparent()).localname == kind
        }

    ids = [each.text for each in tree.iterfind(".//p:eventIdentifierValue", P)]
    assert len(ids) == len(set(ids))
    assert values(None, "linkingAgentIdentifier") <= values("agent", "agentIdentifier")
    assert values(None, "linkingObjectIdentifier") <= values("object", "objectIdentifier")


def events(tree, code):
    """The events of a type: outcome, details, notes."""
    return [
        (
            event.findtext("p:eventOutcomeInformation/p:eventOutcome", None, P),
            [each.text for each in event.iterfind(".//p:eventDetail", P)],
            [each.text for each in event.iterfind(".//p:eventOutcomeDetailNote", P)],
        )
        for event in tree.iterfind("p:event", P)
        if event.findtext("p:eventType", None, P) == EVENT_TYPES[code]
    ]


def roles(tree, code):
    """What an event of a type links to, and in what role."""
    (event,) = [
        each
        for each in tree.iterfind("p:event", P)
        if each.findtext("p:eventType", None, P) == EVENT_TYPES[code]
    ]
    return {
        (each[1].text, each[2].text if len(each) > 2 else None)
        for each in event
        if etree.QName(each).localname.startswith("linking")
    }


def test_a_completed_run_tells_each_files_events(run, stored, valid, tmp_path):
    (tmp_path / "letter.txt").write_text("hello\n")
    done = run(ROOT / "notebooks" / "hash_files.ipynb", uploads=[tmp_path / "letter.txt"])
    tree = valid(stored(done, "premis.xml"))
    ((outcome, _, notes),) = events(tree, "exe")
    ((calculated, details, _),) = events(tree, "mes")

    assert (done.status, outcome, notes) == ("completed", "success", ["status: completed"])
    assert (calculated, details[0]) == ("success", "declared by the function")
    assert "seen: md5 b1946ac92492d2347c6235b4d2611184 stored with the file" in details
    assert events(tree, "mem") == [("success", details, [])]
    assert events(tree, "red") == []
    assert (
        tree.findtext("p:event/p:eventIdentifier/p:eventIdentifierValue", None, P) == f"urn:uuid:{done.run}"
    )
    assert stored(done, "premis.xml") == premis.build(json.loads(stored(done, "record.json")))
    assert b"premis.xml" in stored(done, "SHA256SUMS")


def test_a_failed_run_is_a_failure_and_says_why(run, notebook, stored, valid):
    done = run(notebook("raise ValueError('<this> one & that fail')"))
    ((outcome, _, notes),) = events(valid(stored(done, "premis.xml")), "exe")

    assert (done.status, outcome) == ("failed", "failure")
    assert "cause: cell-error" in notes
    assert any(each.startswith("error: ValueError: <this> one & that fail (cell ") for each in notes)


def test_a_redaction_is_an_event_with_its_places(run, notebook, stored, valid, container):
    payload = {"api": {"key_extra": REAL}, "function_data": {"container": {"id": container}}}
    done = run(notebook(WRAPPED), payload=payload, container=None)
    ((outcome, details, notes),) = events(valid(stored(done, "premis.xml")), "red")
    told = json.loads(stored(done, "record.json"))

    assert outcome == "success"
    assert details == [f"by {told['scan']['by']}: 2 replaced in 2 places, 0 left out"]
    assert len(notes) == len(told["redactions"]) == 2
    assert all("payload.key_extra" in each for each in notes)
    assert REAL.encode() not in stored(done, "premis.xml")


def test_compressed_bytes_in_an_errors_message_cost_no_evidence(run, notebook, stored, valid):
    """XML's escapes are no damage to them; see `dossier.words`."""
    raising = "import gzip, random\nraise ValueError(gzip.compress(random.Random(9).randbytes(300), mtime=0))"
    done = run(notebook(raising))
    ((_, _, notes),) = events(valid(stored(done, "premis.xml")), "exe")

    assert done.status == "failed"
    assert any(each.startswith("error: ValueError: b'\\x1f\\x8b") for each in notes)


def test_a_key_in_the_documents_words_is_found():
    secrets = SecretSet([Secret("payload.key_extra", "Zq8vT2<K5xK1&R7nB4cD9fG3hJ6sL0aY")])
    made = premis.build({**WHOLE, "error": {"type": "E", "message": "Zq8vT2<K5xK1&R7nB4cD9fG3hJ6sL0aY"}})

    assert scan_document(secrets, dossier.words(premis.FILE, made)).hits


def test_a_lost_machines_record_is_enough(valid):
    tree = valid(premis.build(LOST))
    ((outcome, details, notes),) = events(tree, "exe")

    assert outcome == "failure"
    assert notes[:2] == ["status: errored", "cause: machine-lost"]
    assert "not captured: everything after the start record" in details
    assert roles(tree, "exe") == {
        ("pkg:pypi/libsafe-nb", "executing program"),
        ("ab" * 32, "executing program"),
        ("1", None),
    }


def test_even_a_record_that_tells_nothing_is_valid(valid):
    valid(premis.build({}))


def test_agents_and_files_are_linked_with_their_roles(valid):
    assert roles(valid(premis.build(WHOLE)), "exe") == {
        ("3", "authorizer"),
        ("pkg:pypi/libsafe-nb@0.1.0", "executing program"),
        ("ab" * 32, "executing program"),
        ("1", "source"),
        ("2", "source"),
        ("44", "source"),
        ("3", "outcome"),
        ("/a.txt?versionId=v3", "outcome"),
        (uuid.uuid5(uuid.UUID(RUN), '["notebook"]').urn, "outcome"),
    }


def test_a_version_written_and_read_back_is_one_object_and_a_new_version_another(valid):
    tree = valid(premis.build(WHOLE))
    places = [each.text for each in tree.iterfind(".//p:contentLocationValue", P)]

    assert sorted(places) == ["/a.txt", "/a.txt", "/b", "/made.csv", "executed.ipynb"]


def test_an_unread_file_has_no_digest_and_an_unknown_format(valid):
    tree = valid(premis.build(WHOLE))
    (node,) = [
        each
        for each in tree.iterfind("p:object", P)
        if each.findtext(".//p:contentLocationValue", "", P) == "/b"
    ]

    assert node.find(".//p:fixity", P) is None
    assert node.find(".//p:size", P) is None
    assert node.findtext(".//p:formatName", None, P) == "unknown"


def test_declared_effects_are_not_told_twice_and_other_writes_once(valid):
    """The hashes belong to the declared `mes`; tag, descriptors and deletion have events of their own."""
    tree = valid(premis.build(WHOLE))
    failed, skipped = events(tree, "mes")

    assert failed[0] == "failure"
    assert failed[1] == [
        "declared by the function",
        "seen: md5 00 stored with the file",
        "seen: sha1 11 stored with the file",
    ]
    assert failed[2] == ["no good"]
    assert (skipped[0], skipped[2]) == ("warning", ["skipped: nothing was done to this file"])
    assert [each[1] for each in events(tree, "mem")] == [
        ["seen: tag seen added"],
        ["seen: descriptors title written"],
    ]
    assert [each[1] for each in events(tree, "del")] == [["seen: deleted"]]


def test_terms_have_the_uris_of_the_vocabularies(valid):
    tree = valid(premis.build(WHOLE))
    uris = {each.text: each.get("valueURI") for each in tree.iterfind(".//*[@valueURI]")}

    assert uris["message digest calculation"].endswith("/preservation/eventType/mes")
    assert uris["failure"].endswith("/preservation/eventOutcome/fai")
    assert uris["authorizer"].endswith("/preservation/eventRelatedAgentRole/aut")


def test_the_right_is_told_with_whom_and_what_it_is_about(valid):
    (right,) = valid(premis.build(WHOLE)).iterfind("p:rights/p:rightsStatement", P)

    assert right.findtext("p:rightsBasis", None, P) == "other"
    assert right.findtext(".//p:otherRightsBasis", None, P) == record.RIGHT
    assert right.findtext(".//p:linkingAgentIdentifierValue", None, P) == "3"


def test_equal_records_give_equal_bytes():
    assert premis.build(WHOLE) == premis.build(copy.deepcopy(WHOLE))


def texts(data):
    """The record with each of its texts replaced; ids stay, since they are the platform's."""
    kept = {"id", "file_id", "version_id", "kind", "target", "action", "schema", "status", "outcome"}

    def replaced(found, text):
        if isinstance(found, dict):
            return {name: value if name in kept else replaced(value, text) for name, value in found.items()}
        if isinstance(found, list):
            return [replaced(each, text) for each in found]
        return text if isinstance(found, str) else found

    return replaced(WHOLE, data)


@given(st.text(st.characters(exclude_categories=()), max_size=20))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gives_valid_xml(valid, text):
    valid(premis.build(texts(text)))


@pytest.mark.parametrize(
    "text", ["\x00", "\x1b[31m", "\ud800", "\ufffe", "]]>", "<a b='\"'>&amp;", "\u202e", "\U0010ffff"]
)
def test_hostile_text_is_kept_as_far_as_xml_can(valid, text):
    tree = valid(premis.build({**WHOLE, "error": {"type": "E", "message": f"a{text}b"}}))
    notes = events(tree, "exe")[0][2]

    assert notes[-1] == "error: E: a" + premis._FORBIDDEN.sub("\ufffd", text) + "b"


@pytest.mark.parametrize("odd", [[], {}, 5, -1, 2**70, True, 1.5, "x", ["\x00", 3], {"a": {}}])
def test_odd_values_from_the_kernel_cost_no_evidence(valid, odd):
    """What the kernel tells of its reads and writes is its own; see `record.inputs` and `record.platform_writes`."""
    changed = copy.deepcopy(WHOLE)
    for entry in (*changed["inputs"], *changed["outputs"], *changed["platform_writes"]):
        entry.update(dict.fromkeys(entry.keys() & {"size", "sha256", "path", "iecodes", "tag", "value"}, odd))

    valid(premis.build(changed))
