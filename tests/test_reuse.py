"""Runs that stand for later ones: what makes two runs the same, and what is looked at before one is believed."""

from __future__ import annotations

import json
from typing import ClassVar

import pytest
from conftest import REQUEST
from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb import environment, fingerprint, reuse
from libsafe_nb.fingerprint import of_environment, of_work

GLUE = """
from IPython.display import display
def glue(name, data):
    display({"application/scrapbook.scrap.json+json": {"name": name, "data": data, "encoder": "json", "version": 1}}, raw=True)
"""
UPPER = f"""{REQUEST}{GLUE}
import libsafe_nb
from libnova.common.api import Job
from libnova.common.filesystem import S3
import pathlib
"""


class Code:
    code_sha256, language, kernel_name, is_handler = "a" * 64, "python", "python3", False
    metadata: ClassVar[dict] = {}

    def __init__(self, **changes):
        vars(self).update(changes)


FILES = [
    {"id": "1", "fullpath": "/a", "version_id": "v1", "size": 1},
    {"id": "2", "fullpath": "/b", "version_id": "v2", "size": 2},
]


def work(function=None, **changes):
    return of_work(
        function or Code(), **{"secrets": (), "container": "1", "params": {"x": 1}, "files": FILES, **changes}
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values), st.dictionaries(st.text(), json_values))
def test_params_have_the_same_digest_exactly_if_their_json_is_the_same(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)

    assert (work(params=one).params == work(params=other).params) is same
    assert work(params=dict(reversed(one.items()))).key == work(params=one).key


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (0, False), (0.0, -0.0), (2**60, str(2**60)), ("\ud800", "?"), ([], {})],
)
def test_values_that_a_function_tells_apart_are_told_apart(one, other):
    assert work(params={"x": one}).params != work(params={"x": other}).params


@pytest.mark.parametrize(
    "changes",
    [
        {"function": Code(code_sha256="b" * 64)},
        {"function": Code(kernel_name="other")},
        {"function": Code(is_handler=True)},
        {"container": "2"},
        {"params": {}},
        {"files": FILES[::-1]},
        {"files": FILES[:1]},
        {"files": [FILES[0], {**FILES[1], "version_id": "v3"}]},
        {"files": [FILES[0], {**FILES[1], "fullpath": "/c"}]},
    ],
)
def test_what_changes_the_work_changes_its_key(changes):
    assert work(**changes).why is None
    assert work(**changes).key != work().key


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"function": Code(metadata={"volatile": ["time", "network"]})}, "declared volatile: network, time"),
        ({"secrets": ["token"]}, "secret parameters: token"),
        ({"params": {"token": {"$secret": "token"}}}, "secret parameters: token"),
        ({"files": [{**FILES[0], "version_id": None}]}, "/a has no version"),
    ],
)
def test_what_nobody_can_compare_has_no_fingerprint_and_says_why(changes, why):
    assert why in work(**changes).why


@given(st.sets(st.sampled_from(["jupyter-core", "numpy", "rich", "nbclient", "pandas"])), st.booleans())
def test_a_package_declared_irrelevant_changes_nothing_and_any_other_does(changed, named):
    names = ["jupyter-core", "nbclient", "numpy", "pandas", "rich"]
    surroundings = {
        "packages": [{"name": each, "version": "1"} for each in names],
        "python": {},
        "platform": "p",
    }
    after = [{"name": each, "version": "2" if each in changed else "1"} for each in names]
    patterns = ["Jupyter_*", "rich"] if named else []
    seen = changed - ({"jupyter-core", "rich"} if named else set())

    same = of_environment(surroundings, patterns) == of_environment(
        {**surroundings, "packages": after}, patterns
    )
    assert same is not bool(seen)


def test_an_environment_that_nobody_knows_has_no_digest_and_variables_and_python_count():
    known = environment.complete(environment.take(), None)

    assert of_environment(environment.complete(environment.unknown(), None)) is None
    for name in ("python", "platform", "image", "env_vars"):
        assert of_environment({**known, name: {"other": "one"}}) != of_environment(known)


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "create", "target": "container"},
        {"kind": "call", "method": "POST"},
        {"kind": "delete", "file_id": "9"},
        {"kind": "child", "key": "k"},
        {"kind": "failure", "effect": {}},
        {"kind": "write", "stubbed": True},
        {"kind": "read", "file_id": "1", "version_id": "v9"},
        {"kind": "read", "file_id": "7", "version_id": None},
    ],
)
def test_what_a_run_did_may_speak_against_its_reuse(event):
    surroundings = environment.complete(environment.take(), None)
    told = work().to_json()
    plain = fingerprint.of_run(
        told, surroundings, [{"kind": "read", "file_id": "1", "version_id": "v1"}], FILES, replay=False
    )
    found = fingerprint.of_run(told, surroundings, [event], FILES, replay=False)

    assert plain["sha256"] == work().whole(plain["environment_sha256"])
    assert fingerprint.of_record({"fingerprint": plain}) == work()
    assert found["sha256"] is None
    assert found["why"]
    assert fingerprint.of_run(told, surroundings, [], FILES, replay=True)["why"] == "it is a replay"
    assert fingerprint.of_run(None, surroundings, [], FILES, replay=False)["sha256"] is None


def test_a_kernels_environment_is_known_before_it_runs(run, notebook, stored):
    done = run(notebook("print(1)"))

    assert reuse.take("python3") == json.loads(stored(done, "environment.json"))
