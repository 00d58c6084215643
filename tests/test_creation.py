"""The two calls by which the Lab begins a function."""

import json

import pytest
import requests

from libsafe_nb import template

pytest.importorskip("jupyterlab", reason="the extra `lab` is not installed")


@pytest.fixture
def ask(lab_place):
    base, _, rest = lab_place[0].partition("/lab")
    token = rest.partition("token=")[2]

    def ask(method, call, body=None, *, headers=None):
        headers = {"Authorization": f"token {token}"} if headers is None else headers
        return requests.request(method, f"{base}/libsafe/{call}", json=body, headers=headers, timeout=60)

    return ask


@pytest.fixture
def read(lab_place, connection):
    return lambda path: json.loads(connection.storage.get(lab_place[1], path))


def test_the_templates_are_told_with_the_blank_one_first(ask):
    told = ask("GET", "templates").json()

    assert [each["name"] for each in told] == template.names()
    assert told[0] == {"name": "blank", "description": template.describe("blank")}


def test_a_notebook_of_a_template_is_stored_in_the_folder(ask, read):
    answer = ask("POST", "new", {"template": "per_file", "folder": "a/b", "title": "Each  page"})
    stored = read("a/b/each-page.ipynb")

    assert answer.status_code == 201
    assert answer.json()["path"] == "a/b/each-page.ipynb"
    assert stored["metadata"]["libsafe"]["title"] == "Each page"
    assert all(not cell.get("outputs") for cell in stored["cells"])


def test_a_name_that_is_taken_gets_a_number(ask, read):
    made = [ask("POST", "new", {"title": "Twice"}).json()["path"] for _ in range(3)]

    assert made == ["twice.ipynb", "twice-1.ipynb", "twice-2.ipynb"]
    assert read("twice.ipynb") == read("twice-2.ipynb")


def test_the_functions_that_a_workflow_calls_are_begun_beside_it_once(ask, read):
    made = [
        ask("POST", "new", {"template": "workflow", "folder": "flow", "title": "Take in"}) for _ in range(2)
    ]

    assert [each.json()["path"] for each in made] == ["flow/take-in.ipynb", "flow/take-in-1.ipynb"]
    for each in template.BESIDE["workflow"]:
        stored = ["".join(cell["source"]) for cell in read(f"flow/{each}.ipynb")["cells"]]
        assert stored == [cell.source for cell in template.notebook(each, key=each).cells]
    assert ask("POST", "new", {"folder": "flow", "title": "Per file"}).json()["path"] == "flow/per-file.ipynb"


def test_nothing_said_is_the_blank_one_under_its_own_title(ask, read):
    path = ask("POST", "new", {}).json()["path"]

    assert read(path)["metadata"]["libsafe"]["title"] == template.notebook().metadata["libsafe"]["title"]


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"template": "none"}, 400, "there is no template 'none'"),
        ({"title": "x" * 201}, 400, "title: expected at most 200 characters, found 201"),
        ({"folder": 1}, 400, "folder: expected text"),
        (["blank"], 400, "expected text, in a JSON object"),
        ({"folder": "provenance/x", "title": "Evidence"}, 403, "never changed"),
        ({"folder": "../2", "title": "Elsewhere"}, 400, ".."),
    ],
)
def test_what_cannot_be_made_is_told(body, status, told, ask):
    answer = ask("POST", "new", body)

    assert answer.status_code == status
    assert told in answer.json()["message"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "token wrong"}])
@pytest.mark.parametrize(("method", "call"), [("GET", "templates"), ("POST", "new")])
def test_without_the_token_nothing_is_told_or_made(method, call, headers, ask, connection, lab_place):
    answer = ask(method, call, {"title": "Unasked"}, headers=headers)

    assert answer.status_code == 403
    assert not connection.storage.exists(lab_place[1], "unasked.ipynb")
