"""Triggers' expressions mean what they mean to Python's `re`, and none holds the platform up."""

import re
import time

import pytest

from libsafe_nb.local import expressions, firing

from .conftest import eventually
from .rows import fire, new_file, trigger

PATHS = (
    "/",
    "/in/a.tif",
    "/in/A.TIFF",
    "/in/2021-03-04 Ñandú (2).jpg",
    "/in/日本.txt",
    "/in/{draft}.txt",
    "/in/line\nbreak.txt",
    "/a/b/c/d/e.tar.gz",
    "/x" * 200,
)
ORDINARY = (
    r"\.tiff?$",
    r"(?i)\.TIFF?$",
    r"^/in/",
    r"^/in/[^/]+$",
    r"\d{4}-\d{2}-\d{2}",
    r"\b(in|out)\b",
    r"(?<!\d)\d(?!\d)",
    r"^(?P<first>.)[\w ñúÑ.()/-]*$",
    r"(.)\1",
    r"^(?:/[a-z])+\.",
    r"a{2,}|x{,3}y",
    r"\{draft\}",
    r"(?s)^/in/line.break",
    r"(?x) \. txt  # text",
    r"a++b?",
    r"(?>a|ab)c",
    "",
    "日",
)


@pytest.mark.parametrize("expression", ORDINARY)
def test_ordinary_expressions_find_what_re_finds(expression):
    expressions.check(expression)
    for path in PATHS:
        assert expressions.found(expression, path) == bool(re.search(expression, path)), path


@pytest.mark.parametrize(
    "expression",
    [
        "(",
        r"\p{L}",
        "a(?i)b",
        "[[:alpha:]]",
        "(?:tif){e<=1}",
        "x{draft}",
        "[{]",
        "(?|a|b)",
        "(" * 1000,
        "[a--b]",
    ],
)
def test_what_is_none_or_would_be_read_differently_is_refused(expression):
    with pytest.raises(ValueError, match=r"\S"):
        expressions.check(expression)


CATASTROPHIC = (r"(a+)+$", r"([a/]+)+$", r"(([a-z])+.)+[A-Z]([a-z])+$")
LONG = "a" * 5000 + "!"
DEEP = "/".join(["a" * 100] * 9) + "!"


@pytest.mark.parametrize("column", ["path_regex", "name_regex"])
@pytest.mark.parametrize("expression", CATASTROPHIC)
def test_one_that_takes_for_ever_disables_its_trigger_and_says_at_which_file(
    db, function, expression, column
):
    expressions.check(expression)
    made = function()
    slow = trigger(db, made, type="file_created", **{column: expression})
    other = trigger(db, made, type="file_created", path_regex="!$")
    fire(db, new_file(db, LONG))
    fire(db, new_file(db, "b" + LONG))

    found = db.one("SELECT enabled, error FROM function_trigger WHERE id = ?", (slow,))
    assert found["enabled"] == 0
    assert f"still being searched after 50 ms in '…{LONG[-100:]}'" in found["error"]
    assert "of container 1" in found["error"]
    assert [each["trigger_id"] for each in db.all("SELECT trigger_id FROM event")] == [other, other]
    assert firing.gather(db, time.time() + 10) == 1


@pytest.mark.parametrize("expression", ["(", "a(?i)b\\p{None}"])
def test_one_that_was_never_checked_disables_its_trigger_and_holds_nothing_up(db, function, expression):
    trigger(db, function(), type="file_created", path_regex=expression)
    trigger(db, function("g"), type="file_created")
    fire(db, new_file(db, "a"))

    first, other = db.all("SELECT enabled, error FROM function_trigger ORDER BY id")
    assert first["enabled"] == 0
    assert "its expression could not be searched (" in first["error"]
    assert tuple(other) == (1, None)
    assert len(db.all("SELECT * FROM event")) == 1


def test_the_platform_answers_while_one_is_searched_and_the_trigger_says_why_it_is_disabled(
    rest, s3, served, container
):
    key = "slow-expression"
    rest.ok("POST", "/function", json={"key": key, "content": "e30=", "kind": "notebook", "name": "f.ipynb"})
    rest.ok("PUT", f"/function/{key}", json={"paused": True})
    about = {"function": key, "type": "file_created", "container_id": container}
    slow = rest.ok("POST", "/trigger", json={**about, "path_regex": CATASTROPHIC[1]})["id"]
    fine = rest.ok("POST", "/trigger", json={**about, "name_regex": "!$", "batch_seconds": 0})["id"]
    s3.put_object(Bucket=served.settings.s3.bucket, Key=f"{container}/{DEEP}", Body=b"x")

    found = eventually(lambda: (seen := rest.ok("GET", f"/trigger/{slow}"))["error"] and seen)
    assert found["enabled"] is False
    [call] = eventually(lambda: rest.ok("GET", "/call", params={"function": key}))
    assert call["trigger"]["id"] == fine
    rest.ok("PUT", f"/call/{call['id']}", json={"status": "cancelled"})
    again = rest.ok("PUT", f"/trigger/{slow}", json={"enabled": True})
    assert (again["enabled"], again["error"]) == (True, None)
    for each in (slow, fine):
        rest.ok("DELETE", f"/trigger/{each}")
