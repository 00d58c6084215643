"""The history of a container, and of one file, from real runs: over S3 and from a copy on disk."""

import json
import re

import pytest
from click.testing import CliRunner
from conftest import write_function

import libsafe_nb
from libsafe_nb import archive, history, telling
from libsafe_nb.cli import cli
from libsafe_nb.errors import UsageError

READ = """
from types import SimpleNamespace
from libnova.com.Api import File
from libnova.com.Filesystem import S3
from libnova.com.Nuclio.Request import Request
request = Request(None, SimpleNamespace(body=json_sample))
for file in request.Files:
    S3.File.get_stream(request.Storage, file).read()
    File.set_hash(file.id, "md5", "0" * 32)
"""
WRITE = """
from libnova.com.Api import File
File.write(json_sample["function_data"]["container"]["id"], "/letter.txt", "changed")
"""
FAIL = """
from types import SimpleNamespace
from libnova.com.Nuclio.Request import Request
request = Request(None, SimpleNamespace(body=json_sample))
request.log("torn", type="ERROR", file_id=request.Files[0].id)
raise ValueError("torn")
"""


@pytest.fixture(scope="module")
def container(connection):
    return connection.client.create_container("history")["id"]


@pytest.fixture(scope="module")
def lived(platform, container, tmp_path_factory):
    """A container in which a file was read and hashed, written, and found torn: three runs, for all tests here."""
    home = tmp_path_factory.mktemp("functions")
    (home / "letter.txt").write_text("as it was")

    def run(name, source, **options):
        path = write_function(home / name, source)
        return libsafe_nb.run(None, path, settings=platform.settings, container=container, **options)

    runs = [
        run("read.ipynb", READ, uploads=[home / "letter.txt"]),
        run("a-write.ipynb", WRITE),
        run("z-fail.ipynb", FAIL, files=["/letter.txt"]),
    ]
    assert [each.status for each in runs] == ["completed", "completed", "failed"], runs[0].error
    return runs


@pytest.fixture
def source(connection, container):
    return archive.Container(connection.storage, container)


@pytest.fixture
def copied(connection, container, tmp_path):
    """A copy of the container on this disk."""

    def copied():
        home = tmp_path / "copy"
        for each in connection.storage.list(container):
            path = home / each.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(connection.storage.get(container, each.path))
        return home

    return copied


def invoke(*arguments):
    return CliRunner().invoke(cli, ["history", *map(str, arguments)])


def test_runs_come_oldest_first_whatever_their_functions_are_called(lived, source):
    rows = list(history.runs(source))

    assert [row.run for row in rows] == [run.run for run in lived]
    assert [row.job for row in rows] == [run.job for run in lived]
    assert [row.evidence for row in rows] == [run.evidence for run in lived]
    assert [row.status for row in rows] == ["completed", "completed", "failed"]
    assert [(row.ok, row.failed, row.skipped) for row in rows] == [(1, 0, 0), (0, 0, 0), (0, 1, 0)]
    assert all(row.seconds > 0 and re.fullmatch(r"[0-9a-f]{12}", row.code) for row in rows)


def test_a_copy_tells_the_same_as_the_container(lived, source, copied):
    there = [(row.run, row.folder) for row in history.runs(source)]

    assert [(row.run, row.folder) for row in history.runs(archive.at(str(copied())))] == there


def test_a_function_s_part_of_the_container_has_its_own_runs_only(lived, connection, container):
    part = archive.Container(connection.storage, container, "provenance/read/")

    assert [row.run for row in history.runs(part)] == [lived[0].run]


@pytest.mark.parametrize("by", ["id", "path"])
def test_all_that_was_done_to_a_file_by_its_id_or_its_path(lived, source, connection, container, by):
    file = connection.client.file_by_path(container, "/letter.txt")
    deeds = list(history.of_file(source, file["id"] if by == "id" else "letter.txt"))

    assert [deed.what for deed in deeds] == ["read", "hash set", "written", "failed"]
    assert [deed.run.run for deed in deeds] == [lived[i].run for i in (0, 0, 1, 2)]
    assert deeds[1].digests == {"md5": "0" * 32}
    assert deeds[2].version_id == file["version_id"] != deeds[0].version_id
    assert deeds[0].digests["sha256"] != deeds[2].digests["sha256"]
    assert "torn" in deeds[3].detail


def test_another_file_s_history_is_empty(lived, source):
    assert list(history.of_file(source, "/lett")) == []
    assert list(history.of_file(source, "999999")) == []


def test_a_record_that_cannot_be_read_is_told_and_hides_no_other(lived, copied):
    home = copied()
    next(home.glob("provenance/read/*/record.json")).write_text("[")
    next(home.glob("provenance/a-write/*/record.json")).unlink()
    rows = list(history.runs(archive.at(str(home))))

    assert [row.status for row in rows[:3]] == ["unreadable", "unreadable", "failed"]
    assert [row.job for row in rows[:2]] == [lived[0].job, lived[1].job]
    assert "no record.json" in rows[1].problem


def test_a_run_that_left_no_record_comes_last(lived, copied):
    home = copied()
    for path in next(home.glob("provenance/read/*/record.json")).parent.iterdir():
        path.unlink()
    rows = list(history.runs(archive.at(str(home))))

    assert (rows[-1].status, rows[-1].run, rows[-1].job) == ("begun", lived[0].run, lived[0].job)


def test_the_command_prints_a_line_a_run(lived, copied):
    home = copied()
    plain, lines = invoke(home), invoke(home, "--json").stdout.splitlines()

    assert plain.stdout.splitlines()[0].split("\t") == list(telling.COLUMNS)
    assert len(plain.stdout.splitlines()) == 4
    assert [json.loads(each)["run"] for each in lines] == [run.run for run in lived]
    assert json.loads(lines[0])["files"] == {"ok": 1, "failed": 0, "skipped": 0}


def test_a_page_beside_a_copy_links_the_reports_that_are_there(lived, copied, tmp_path):
    home = copied()
    report = next(home.glob("provenance/read/*/record.json")).parent / "report.html"
    report.write_text("<p>")
    assert invoke(home, "--html", home / "runs.html").exit_code == 0
    page = (home / "runs.html").read_text()

    assert f'href="{report.relative_to(home)}"' in page
    assert page.count("<tr id=") == 3
    assert "<script" not in page
    assert str(tmp_path) not in page
    assert lived[2].evidence in page


def test_a_page_elsewhere_has_addresses_in_place_of_links(lived, copied, tmp_path):
    home = copied()
    (next(home.glob("provenance/read/*/record.json")).parent / "report.html").write_text("<p>")
    (tmp_path / "away").mkdir()
    invoke(home, "--file", "/letter.txt", "--html", tmp_path / "away" / "letter.html")
    page = (tmp_path / "away" / "letter.html").read_text()

    assert "report.html" not in page
    assert lived[0].evidence in page
    assert page.count("<tr id=") == 4


def test_a_record_s_words_are_text_on_a_page_and_move_no_cursor(lived, copied):
    home = copied()
    path = next(home.glob("provenance/read/*/record.json"))
    body = json.loads(path.read_text())
    body["function"]["title"] = "<script>alert(1)</script>\x1b[2J\n[red]"
    path.write_text(json.dumps(body))
    invoke(home, "--html", home / "runs.html")

    assert "<script" not in (home / "runs.html").read_text()
    assert "\x1b" not in invoke(home).stdout
    assert len(invoke(home).stdout.splitlines()) == 4


def test_a_terminal_gets_a_table(lived, source, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)

    assert telling.show(history.runs(source), telling.COLUMNS) == 3
    assert "\t" not in capsys.readouterr().out


@pytest.mark.parametrize("place", ["libsafe://", "libsafe://x/y", "/no/such/folder", "12/34"])
def test_what_is_no_container_is_refused(place):
    with pytest.raises(UsageError, match=re.escape(place)):
        archive.at(place)


def test_an_empty_container_is_no_error(tmp_path):
    done = invoke(tmp_path)

    assert (done.exit_code, done.stdout) == (0, "")
    assert "no runs" in done.stderr
