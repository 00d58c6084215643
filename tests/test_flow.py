"""Workflows as graphs: what a record's calls make, their picture and their lines, and what a source tells."""

import json
import re
import xml.etree.ElementTree as ElementTree
from types import SimpleNamespace

import nbformat
import pytest
from conftest import write_function
from test_report import Elements, assert_can_do_nothing, body, code_cell, node_of, page_of

from libsafe_nb import asking, callnotes, flow, flowsource, flowtext, linkage, origins, record, report
from libsafe_nb.errors import ObjectNotFound, StorageUnreachable
from libsafe_nb.evidence import place_of
from libsafe_nb.flow import Node
from libsafe_nb.report import flowpicture


def call(number, function="step", status="completed", used=(), **more):
    return {
        "number": number,
        "function": function,
        "status": status,
        "job": str(10 + number),
        "run": f"run-{number}",
        "container": "1",
        "started": "2026-11-25T09:22:05.000+00:00",
        "ended": "2026-11-25T09:22:06.500+00:00",
        "evidence": f"libsafe://1/provenance/{function}/20261125T092205000Z-job{10 + number}/",
        "used": [{"number": each, "files": 1} for each in used],
        "attempts": 1,
        **more,
    }


def nodes_of(*calls):
    return flow.of_record(body(calls=list(calls)))


FAN = [
    call(1, "list"),
    *(call(number, "one", "failed" if number in (7, 8) else "completed", [1]) for number in range(2, 202)),
    call(202, "report", used=range(2, 202)),
]
MANY = [call(number, f"f{number % 90}", used=[number - 1] if number > 1 else []) for number in range(1, 1001)]


# The graph -------------------------------------------------------------------------------------------------------


def test_a_record_makes_a_node_of_the_run_and_one_of_each_call():
    root, first, second = nodes_of(
        call(1, "a"), call(2, "b", "failed", [1], attempts=3, error={"type": "E", "message": "m"})
    )

    assert (root.id, root.function, root.seconds, root.caller) == ("0", "f", 4.0, None)
    assert (first.caller, first.after, first.seconds, first.tone, first.words) == (
        "0",
        (),
        1.5,
        "good",
        "completed",
    )
    assert (second.after, second.error, second.words) == (("1",), "E: m", "failed, attempt 3")


def test_a_reused_call_took_no_time_and_says_so():
    (_, node) = nodes_of(call(1, reused="libsafe://1/provenance/step/x/"))

    assert (node.seconds, node.words, node.mark) == (None, "completed, reused", "↺")


@pytest.mark.parametrize(
    "calls", [[{}], [{"number": "x", "used": 3}], [call(1, used=[1, 7])], [call(1), call(1)], 7]
)
def test_whatever_a_record_holds_makes_nodes(calls):
    found = flow.of_record({"calls": calls})

    assert len({each.id for each in found}) == len(found)
    assert flowpicture.picture(found)
    assert list(flowtext.lines(found))


def test_layers_are_the_longest_ways_and_circles_are_cut():
    found = flow.layers(nodes_of(call(1), call(2, used=[1]), call(3, used=[1, 2]), call(4)))
    assert found == {"0": 0, "1": 1, "2": 2, "3": 3, "4": 1}
    round_ = flow.layers([Node("1", "f", "x", after=("2",)), Node("2", "f", "x", after=("1",))])
    assert set(round_) == {"1", "2"}


def test_many_calls_of_one_function_are_one_that_counts():
    found = flow.condensed(nodes_of(*FAN))

    assert [each.function for each in found] == ["f", "list", "one ×200", "report"]
    assert found[2].words == "2 failed, 198 completed"
    assert (found[2].tone, found[2].after, found[3].after) == ("bad", ("1",), (found[2].id,))


@pytest.mark.parametrize("calls", [MANY, [call(number, f"f{number}") for number in range(1, 1001)]])
def test_never_more_are_drawn_than_can_be_read(calls):
    found = flow.condensed(nodes_of(*calls))

    assert len(found) <= flow.DRAWN
    assert sum(sum(each.counts.values()) or 1 for each in found) == 1001
    assert len(flowpicture.picture(nodes_of(*calls))) < 60_000


# The picture -----------------------------------------------------------------------------------------------------


def boxes(svg):
    """Of each box left, top, right and bottom."""
    found = re.findall(
        r'<rect x="([\d.]+)" y="([\d.]+)" width="(\d+)" height="(\d+)" rx="6" class="box"', svg
    )
    return [(float(x), float(y), float(x) + float(w), float(y) + float(h)) for x, y, w, h in found]


@pytest.mark.parametrize(
    "calls",
    [
        [call(1)],
        [call(1), call(2, used=[1]), call(3, used=[1]), call(4, used=[2]), call(5, used=[1, 2, 3, 4])],
        [call(number, used=[number // 2] if number > 1 else []) for number in range(1, 31)],
        FAN[:38],
        FAN,
        MANY,
    ],
    ids=["1", "5", "30", "fan of 37", "fan of 200", "1,000"],
)
def test_boxes_lie_within_the_picture_and_none_on_another(calls):
    svg = flowpicture.picture(nodes_of(*calls))
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())
    found = boxes(svg)

    assert len(found) == len(flow.condensed(nodes_of(*calls)))
    assert all(
        left >= 0 and top >= 0 and right <= width and bottom <= height for left, top, right, bottom in found
    )
    for index, one in enumerate(found):
        for other in found[index + 1 :]:
            assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_the_picture_is_whole_xml_with_a_title_a_description_and_nothing_that_acts():
    evil = "</title><script>alert(1)</script>\" onload='x"
    svg = flowpicture.standalone(
        nodes_of(call(1, evil, error={"type": evil, "message": evil}), call(2, status=evil, evidence=evil))
    )
    root = ElementTree.fromstring(svg)
    names = {each.tag.partition("}")[2] for each in root.iter()}

    assert names <= {"svg", "title", "desc", "style", "defs", "marker", "path", "g", "rect", "text"}
    assert root[0].tag.endswith("title")
    assert root[1].tag.endswith("desc")
    assert root.get("aria-labelledby") == f"{root[0].get('id')} {root[1].get('id')}"
    assert "2 calls" in root[1].text


def test_the_same_calls_make_the_same_bytes():
    assert flowpicture.standalone(nodes_of(*MANY)) == flowpicture.standalone(nodes_of(*MANY))


def test_the_report_leads_to_each_runs_report_and_where_it_cannot_it_does_not():
    page = page_of(
        code_cell(),
        calls=[
            call(1, "a"),
            call(2, "b", evidence="libsafe://7/provenance/b/x/"),
            call(3, "c", evidence="libsafe://1/provenance/../../x/"),
            call(4, "d", evidence=None),
        ],
    )
    links = [attributes["href"] for name, attributes in Elements(page).found if name == "a"]

    assert [each for each in links if not each.startswith("#")] == [
        "../../a/20261125T092205000Z-job11/report.html"
    ] * 2
    assert_can_do_nothing(page.replace('href="../../a/', 'href="#'))
    assert "box leads" in page


def test_a_report_without_calls_has_no_picture():
    assert 'class="flow"' not in page_of(code_cell(), calls=[])


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_graph_and_can_read_it(browser, tmp_path, scheme):
    made = report.build(
        body(calls=[call(1, "a"), call(2, "b", "failed", [1])]), node_of(code_cell()), [], None
    )
    (tmp_path / "report.html").write_bytes(made)
    asked = []
    page = browser.new_page(color_scheme=scheme)
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())
    picture = page.locator("svg.flow")
    colours = page.evaluate(
        """() => ["what", "how", "box"].map(name => {
          const style = getComputedStyle(document.querySelector(`.flow .bad .${name}`));
          return style.fill.match(/[0-9]+/g).map(Number)})"""
    )

    assert picture.is_visible()
    assert [each for each in asked if not each.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for text in colours[:2]:
        assert contrast(text, colours[2]) >= 4.5
    # Nothing of a text stands out of its box.
    assert page.evaluate(
        """() => [...document.querySelectorAll(".flow .node")].every(node => {
          const box = node.querySelector(".box").getBBox();
          return [...node.querySelectorAll("text")].every(text => text.getBBox().x + text.getBBox().width <= box.x + box.width)})"""
    )
    page.close()


def contrast(one, other):
    """Of two colours, as WCAG 2.2 reckons it (1.4.3 asks for 4.5)."""

    def light(colour):
        parts = [each / 255 for each in colour[:3]]
        parts = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# Lines -----------------------------------------------------------------------------------------------------------


def test_lines_are_a_tree_and_many_calls_one_line_of_it():
    few = list(
        flowtext.lines(
            nodes_of(call(1, "a"), call(2, "b", "failed", [1], error={"type": "E", "message": "m"}))
        )
    )
    many = list(flowtext.lines(nodes_of(*FAN)))

    assert few[1].startswith("├─ 1  a  ✓ completed  1.5 s  job 11  libsafe://")
    assert few[2].startswith("└─ 2  b  ✗ failed  1.5 s  job 12  after 1  E: m  libsafe://")
    assert "├─ one ×200  2 failed, 198 completed" in many
    assert len([line for line in many if "✗ failed" in line]) == 2
    assert len(many) == 6
    assert len(list(flowtext.lines(nodes_of(*FAN), every=True))) == 203


def test_json_has_the_calls_of_a_run_within_it():
    nodes = [*nodes_of(call(1, "a")), Node("1.1", "b", "completed", number=1, caller="1")]
    told = json.loads(json.dumps(flowtext.tree(nodes)))

    assert told["calls"][0]["calls"][0]["function"] == "b"
    assert told["calls"][0]["evidence"].startswith("libsafe://1/")


# Sources ---------------------------------------------------------------------------------------------------------


def test_a_source_tells_the_functions_that_it_calls_and_where(tmp_path):
    path = write_function(
        tmp_path / "w.ipynb",
        "%pip list\nimport libsafe_nb as nb\nfrom libsafe_nb import call as do, map_call\nimport other",
        "first = nb.call('validate-bags', files=['/a'])\nfor each in []:\n    do(function='normalise')",
        "if first:\n    map_call(key, [])\nother.call('no')\ncall('neither')\n[nb.call(f'x-{each}') for each in ()]",
    )
    root, *calls = flowsource.of_notebook(path.read_bytes(), str(path))

    assert (root.function, root.status) == ("w", "not run")
    assert [(each.function, each.status, each.problem) for each in calls] == [
        ("validate-bags", "not run", "cell 3, line 1"),
        ("normalise", "not run", "cell 3, line 3, in a loop"),
        ("(key)", "not run", "cell 4, line 2, in a branch"),
        ("(f'x-{each}')", "not run", "cell 4, line 5, in a loop"),
    ]


def test_a_notebook_of_another_language_says_that_it_is_not_read():
    node = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "bash", "language": "bash", "display_name": "b"}}
    )
    (root,) = flowsource.of_notebook(nbformat.writes(node).encode(), "w.ipynb")

    assert "bash is not read" in root.problem


# What the records of callers and called tell ---------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000])
def test_what_is_no_record_tells_a_caller_nothing(data):
    assert linkage.account(data) == {}


def test_of_a_calls_files_the_first_are_kept():
    files = [{"path": f"/{number}", "version_id": "v", "read": "full"} for number in range(50)]
    found = linkage.account(
        json.dumps({"container": {"id": "4"}, "inputs": files, "outputs": files}).encode()
    )

    assert len(found["inputs"]) == len(found["outputs"]) == linkage.FILES
    assert found["inputs"][0] == {
        "container": "4",
        "path": "/0",
        "version_id": "v",
        "size": None,
        "sha256": None,
    }


def test_what_a_caller_and_a_called_run_tell_of_what_was_used_is_told_together():
    def child(number, **more):
        return {"kind": "child", "key": f"r/call-{number}", "function": "f", "run": f"run-{number}", **more}

    events = [
        child(
            2,
            used=[{"number": 1, "scraps": ["pages"]}],
            used_runs=[{"run": "run-1", "files": 3}, {"run": "else"}],
        ),
        child(1, used_runs=[{"run": "run-1", "files": 1}]),
        child(3),
    ]
    assert {each["number"]: each["used"] for each in linkage.calls(events)} == {
        1: [],
        2: [{"number": 1, "scraps": ["pages"], "files": 3}],
        3: None,
    }


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("libsafe://1/provenance/a/b/", ("1", "provenance/a/b/")),
        ("libsafe://1/provenance/a/b", None),
        ("libsafe://1/provenance/../b/", None),
        ("libsafe://1/provenance/a/./", None),
        ("libsafe://1/provenance/a/b/c/", None),
        ("libsafe://x/provenance/a/b/", None),
        ("https://1/provenance/a/b/", None),
        (None, None),
    ],
)
def test_an_address_of_evidence_names_a_folder_below_provenance_and_nothing_else(address, place):
    assert place_of(address) == place


class Platform:
    """Tells of two calls that have ended, and of the jobs of those who wrote."""

    def __init__(self, result=None):
        self.result = result

    def call(self, name, **_):
        return {
            "status": "completed",
            "job_id": "2",
            "version": 1,
            "sha256": "a" * 64,
            "error": None,
            "attempts": 1,
            "id": "1",
        }

    def job(self, job):
        return {
            "result": self.result or {"run": "r", "evidence": "libsafe://1/provenance/f/x/"},
            "date_start": None,
            "date_end": None,
        }


def test_a_storage_that_is_away_is_asked_once_until_the_runs_end():
    asked, told = [], []

    def read(container, path):
        asked.append(path)
        raise StorageUnreachable("nobody answers")

    made = callnotes.CallNotes(Platform, told.append, read, in_replay=False)
    made.note("r/call-1", {"call": "1", "status": "running"})
    made.note("r/call-2", {"call": "2", "status": "running"})
    for call in ("1", "2", "1"):
        assert made.seen(call, asking.look)["status"] == "completed"
    assert len(asked) == 1
    made.settle()
    assert len(asked) == 2
    assert all("record_sha256" not in each for each in told)


def test_a_record_that_was_stored_later_is_read_at_the_runs_end():
    stored, told = {}, []

    def read(container, path):
        if path not in stored:
            raise ObjectNotFound("not yet")
        return stored[path]

    made = callnotes.CallNotes(Platform, told.append, read, in_replay=False)
    made.note("r/call-1", {"call": "1", "status": "running"})
    made.seen("1", asking.look)
    stored["provenance/f/x/record.json"] = b"{}"
    made.settle()

    assert told[-1]["record_sha256"] == record.digest(b"{}")


class Store:
    """Of each version who wrote it, and records."""

    def __init__(self, *, away=False, **records):
        self.away, self.records, self.asked = away, records, 0

    def head(self, container, path, *, version_id):
        self.asked += 1
        if self.away:
            raise StorageUnreachable("nobody answers")
        return SimpleNamespace(metadata={"libsafe-job": f"{version_id}:signature"})

    def get(self, container, path):
        return self.records["record"]


def a_read(number, **more):
    return {"kind": "read", "container": "1", "path": f"/{number}", "version_id": "2", "bytes": 1, **more}


def wrote(*paths):
    outputs = [{"path": path, "container": "1", "version_id": "2"} for path in paths]
    body = {"id": "urn:uuid:r", "function": {"key": "f"}, "outputs": outputs}
    return json.dumps(body).encode()


def test_who_wrote_what_was_read_is_told_as_far_as_their_record_agrees():
    reads = [
        a_read(1),
        a_read(2),
        a_read(3),
        a_read(3),
        a_read(4, bytes=0),
        a_read(5, version_id=None),
        {"kind": "write"},
    ]
    store = Store(record=wrote("1", "/2", "/9"))
    (found,) = origins.used(reads, job="7", client=Platform(), storage=store)

    assert store.asked == 3
    assert (found["run"], found["job"], found["function"], found["files"]) == ("r", "2", "f", 2)
    assert found["record_sha256"] == record.digest(store.records["record"])
    (told,) = linkage.used([found])
    assert told["evidence"] == "libsafe://1/provenance/f/x/"


@pytest.mark.parametrize("data", [wrote("9"), b"[]", b"{", wrote()])
def test_a_mark_alone_makes_nobody_the_writer(data):
    assert list(origins.used([a_read(1)], job="7", client=Platform(), storage=Store(record=data))) == []


def test_what_a_run_wrote_itself_it_has_of_nobody_and_a_storage_that_is_away_is_asked_once():
    assert list(origins.used([a_read(1)], job="2", client=Platform(), storage=Store(record=wrote("1")))) == []
    store = Store(away=True)
    assert list(origins.used([a_read(n) for n in range(9)], job="7", client=Platform(), storage=store)) == []
    assert store.asked == 1
