"""The worked workflow: a delivery taken in by one command, once more, after a change, on processes of its own; and its evidence."""

import csv
import io
import json
import re
import shlex

import click
import pytest
import tampering
from click.testing import CliRunner
from environs import variables
from test_crate import cache, problems, read_back  # noqa: F401 - fixtures of that module
from worked import ROOT, SAMPLES, gallery, run_samples

import libsafe_nb
from libsafe_nb import publishing, testing
from libsafe_nb.cli import cli

NAME = "ingest_workflow"
WORKFLOW = ROOT / "notebooks" / f"{NAME}.ipynb"
CHECKED = ("identify_formats", "create_md5_manifest", "find_personal_data")
STEPS = {
    "validate_bags": set(),
    **{name: {"validate_bags"} for name in CHECKED},
    "normalise": {"identify_formats"},
    "container_report": {"create_md5_manifest", "find_personal_data", "normalise"},
}
"""What is called, and after what."""
FOUND = ("card", "IBAN", "DNI", "NIE", "NIR", "NINO", "SSN", "codice fiscale", "e-mail")


def new_place(connection):
    return testing.Container(connection.client.create_container("ingest")["id"], connection)


@pytest.fixture(scope="module")
def place(connection):
    return new_place(connection)


@pytest.fixture(scope="module")
def first(place):
    """What the command that the gallery shows left in a container."""
    return run_samples(place, NAME)


@pytest.fixture(scope="module")
def second(first, place):
    """The same command again."""
    return run_samples(place, NAME)


@pytest.fixture(scope="module")
def copy(second, place, connection, tmp_path_factory):
    """A copy of the container."""
    return tampering.download(connection, place.id, tmp_path_factory.mktemp("ingest") / "copy")


def told(platform, *arguments):
    """What a command prints."""
    done = CliRunner().invoke(cli, [*map(str, arguments)], env=variables(platform.settings))
    assert done.exit_code == 0, done.output
    return done.stdout


def calls(platform, evidence):
    """The calls of a run, in order, each by the name of its notebook."""
    graph = json.loads(told(platform, "graph", evidence, "--json"))
    return [(each["function"], each) for each in graph["calls"]]


def uploads(*folders):
    return [word for each in folders for word in ("--upload", str(SAMPLES / each))]


def run(platform, place, *arguments, code=0):
    words = ["run", "--json", "--container", place.id, str(WORKFLOW), *arguments]
    done = CliRunner().invoke(cli, words, env=variables(platform.settings))
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def errors(connection, job):
    return [each["message"] for each in connection.client.messages(job) if each["type"] == "ERROR"]


# What comes of a delivery -----------------------------------------------------------------------------------------------


def a_delivery_is_taken_in_by_one_command(first, place):
    assert first.status == "COMPLETED"
    assert first.scraps == {
        "files": 12,
        "bags": 1,
        "invalid_bags": 0,
        "formats": {"fmt/17": 1, "fmt/3": 1, "fmt/43": 1, "x-fmt/18": 2, "not identified": 7},
        "normalised": 4,
        "personal_data": dict.fromkeys(sorted(FOUND), 1),
        "failures": 0,
    }
    originals = [
        path for path in place.files if not path.startswith(("/preservation/", "/reports/", "/manifest"))
    ]
    assert len(originals) == 12
    assert len(place.read("/manifest-md5.txt").splitlines()) == 12
    rows = first.rows("/reports/objects.csv")
    assert [row["path"] for row in rows if row["path"] in originals] == [
        row["file"] for row in first.rows("/reports/formats.csv")
    ]
    assert len(first.rows("/reports/links.csv")) == 8


def only_what_needs_it_is_normalised(first, place):
    copies = [path.removeprefix("/preservation") for path in place.files if path.startswith("/preservation/")]

    assert copies == [
        "/harbour/data/inventory.csv",
        "/pictures/1910-11 tram.gif.tif",
        "/pictures/1911-03-03_harbour.jpg.tif",
        "/tables/inventory-latin.csv",
    ]


def personal_data_is_reported_and_fails_nothing(first):
    first.says("WARNING", "", "personal data was found: 1 DNI, 1 IBAN")
    assert {row["file"] for row in first.rows("/reports/personal-data.csv")} == {"/people/members.txt"}


def the_graph_tells_what_was_called_and_after_what(first, platform):
    found = calls(platform, first.run["evidence"])

    assert {name: each["status"] for name, each in found} == dict.fromkeys(STEPS, "completed")
    numbers = {str(number): name for number, (name, _) in enumerate(found, 1)}
    assert {name: {numbers[one] for one in each["after"]} for name, each in found} == STEPS
    summary = {row["evidence"]: row["status"] for row in first.rows("/reports/ingest.csv")}
    assert summary == {each["evidence"]: "completed" for _, each in found}


def again_only_the_report_is_done_twice(first, second, platform, place):
    before, after = (calls(platform, each.run["evidence"]) for each in (first, second))

    assert second.status == "COMPLETED"
    assert second.scraps == first.scraps
    told = dict(before)
    assert {name: each["reused"] for name, each in after} == {
        # It reads metadata, which nobody compares.
        name: name != "container_report"
        for name in STEPS
    }
    assert all(each["evidence"] == told[name]["evidence"] for name, each in after if each["reused"])
    assert {name for name, _ in after} == set(STEPS)


def all_of_it_is_verified(second, platform):
    found = libsafe_nb.verify(second.run["evidence"], deep=True, settings=platform.settings)

    assert (found.exit_code, found.checks, found.nodes) == (0, (), {"ok": 7})


def both_are_valid_provenance_run_crates(first, second, copy, request):
    for each in (first, second):
        folder = copy.root / each.run["evidence"].split("/", 3)[3]

        assert request.getfixturevalue("problems")(folder, "provenance-run-crate") == []
        assert read_back(folder)["main"] == "executed.ipynb"


def test_a_delivery_is_taken_in_once_and_again(first, place, platform, request):
    """One test, as tests that run side by side would each take in a delivery of their own first."""
    a_delivery_is_taken_in_by_one_command(first, place)
    only_what_needs_it_is_normalised(first, place)
    personal_data_is_reported_and_fails_nothing(first)
    the_graph_tells_what_was_called_and_after_what(first, platform)
    second = request.getfixturevalue("second")
    again_only_the_report_is_done_twice(first, second, platform, place)
    all_of_it_is_verified(second, platform)
    both_are_valid_provenance_run_crates(first, second, request.getfixturevalue("copy"), request)


# Other ways ---------------------------------------------------------------------------------------------------------------


def left(place):
    """What does not depend on when and where it was made."""
    kept = {}
    for path in place.files:
        data = place.read(path)
        if path.startswith("/reports/") and path.endswith(".csv"):
            rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
            gone = ("id", "created", "link", "from_id", "to", "evidence")
            kept[path] = [{name: value for name, value in row.items() if name not in gone} for row in rows]
        else:
            kept[path] = data
    return kept


@pytest.mark.slow
def test_on_processes_of_its_own_the_same_comes_out(first, place, platform, connection):
    other = new_place(connection)
    folders = [
        word
        for word in shlex.split(" ".join(gallery.commands(WORKFLOW)))
        if word.startswith("notebooks/samples")
    ]
    done = run(
        platform,
        other,
        *uploads(*(each.removeprefix("notebooks/samples/") for each in folders)),
        "--workers",
        "2",
    )

    assert done["scraps"] == first.scraps
    assert left(other) == left(place)
    assert {name for name, _ in calls(platform, done["evidence"])} == set(STEPS)


def test_a_bag_that_is_not_valid_ends_it_before_anything_else(platform, connection):
    place = new_place(connection)
    publishing.publish(ROOT / "notebooks" / "validate_bags.ipynb", settings=platform.settings)
    done = run(platform, place, *uploads("bags/to-fetch", "letter.txt"), "--param", "functions={}", code=1)

    assert done["error"]["message"] == "1 of 1 bags are not valid: nothing further was done"
    assert [(name, each["status"]) for name, each in calls(platform, done["evidence"])] == [
        ("validate_bags", "failed")
    ]
    assert "the bag /to-fetch is not valid: libsafe://" in errors(connection, done["job"])[0]
    assert [path for path in place.files if not path.startswith("/to-fetch/")] == ["/letter.txt"]


def test_without_files_it_says_so(platform, connection):
    done = run(platform, new_place(connection), code=1)

    assert done["error"]["message"] == "files: expected those of a delivery, found none"


@pytest.mark.slow
def test_what_a_change_touches_is_done_again_and_what_cannot_be_done_is_told(platform, connection, tmp_path):
    place = new_place(connection)
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "members.txt").write_text("The list of members was withdrawn.\n")
    whole = (SAMPLES / "pictures" / "1910-11 tram.gif").read_bytes()
    # Its last byte is there: without it the format is not even identified.
    (tmp_path / "broken.gif").write_bytes(whole[:60] + whole[-1:])
    same = uploads("bags/harbour", "pictures", "papers")
    before = run(platform, place, *same, *uploads("people", "tables"))
    changed = run(platform, place, *same, "--upload", str(tmp_path / "people"), *uploads("tables"))
    again = {name for name, each in calls(platform, changed["evidence"]) if not each["reused"]}
    assert before["scraps"] == {**changed["scraps"], "personal_data": before["scraps"]["personal_data"]}
    assert changed["scraps"]["personal_data"] == {}
    assert again == {*CHECKED, "container_report"}

    broken = [*uploads("bags/harbour", "bags/to-fetch"), "--upload", str(tmp_path / "broken.gif")]
    for policy, invalid in (("leave out", True), ("take in", False)):
        found = run(platform, place, *broken, "--param", f"invalid_bags={policy}", code=1)
        told = errors(connection, found["job"])
        assert len(told) == found["scraps"]["failures"] == 1 + invalid
        assert re.match("normalise 1: failed: libsafe://", told[-1])
        assert found["scraps"]["files"] == 8 + 6 * (not invalid)
        statuses = {name: each["status"] for name, each in calls(platform, found["evidence"])}
        assert statuses["container_report"] == "completed"


@pytest.mark.slow
def test_on_a_dask_cluster_the_same_comes_out(first, place, platform, connection):
    distributed = pytest.importorskip("distributed")
    other = new_place(connection)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", env=variables(platform.settings)
    ) as cluster:
        done = run(
            platform,
            other,
            *uploads("bags/harbour", "pictures", "papers", "people", "tables"),
            "--dask",
            cluster.scheduler_address,
        )

    assert done["scraps"] == first.scraps
    assert left(other) == left(place)


# What is said of it -------------------------------------------------------------------------------------------------------


def test_the_commands_of_the_tutorial_are_commands():
    page = (ROOT / "docs" / "tutorial-workflow.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", page, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    ours = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("libsafe-nb ")]

    assert {words[0] for words in ours} == {"run", "graph", "watch", "verify", "new"}
    for words in ours:
        command = cli.get_command(click.Context(cli), words[0])
        command.make_context(words[0], words[1:])
