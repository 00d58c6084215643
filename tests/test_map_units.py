"""Batches and pieces: each file ends in exactly one result, whatever the runs do."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb.mapping.choosing import Chosen
from libsafe_nb.mapping.shown import line
from libsafe_nb.mapping.units import Unit, above, batch_of, name_of, pieces


@given(
    st.integers(1, 40),
    st.integers(0, 3),
    st.data(),
)
def test_each_file_has_exactly_one_result(count, retries, data):
    """Runs end as they like and name what they like; the taking apart ends, and loses and doubles no file."""
    files = tuple(str(number) for number in range(count))
    waiting, results, names = [Unit(name_of(7), files)], Counter(), set()
    while waiting:
        unit = waiting.pop()
        assert unit.name not in names
        names.add(unit.name)
        status = data.draw(st.sampled_from(["completed", "failed", "errored", "timeout"]))
        named = data.draw(st.sets(st.sampled_from([*files, "stranger"])))
        parts = pieces(unit, status, named, retries=retries)
        assert {above(each.name) for each in parts} <= {unit.name}
        assert {batch_of(each.name) for each in parts} <= {7}
        assert sum((each.files for each in parts), ()) == () or Counter(
            sum((each.files for each in parts), ())
        ) == Counter(unit.files)
        if not parts:
            results.update(unit.files)
        waiting += parts

    assert results == Counter(files)
    assert len(names) <= 2 * count + retries * count


def test_a_completed_unit_is_not_taken_apart():
    assert pieces(Unit("00000001", ("1", "2")), "completed", {"1"}, retries=2) == []


def test_what_the_function_named_is_tried_alone_and_the_others_together():
    found = pieces(Unit("00000001", ("1", "2", "3")), "failed", {"2", "9"}, retries=2)

    assert found == [Unit("00000001.0", ("2",)), Unit("00000001.1", ("1", "3"))]


def test_what_names_nothing_is_halved():
    assert [each.files for each in pieces(Unit("b", ("1", "2", "3")), "errored", (), retries=2)] == [
        ("1", "2"),
        ("3",),
    ]


@pytest.mark.parametrize(("status", "tries"), [("errored", 3), ("failed", 1), ("timeout", 1)])
def test_one_file_is_tried_again_only_where_it_was_not_the_function_that_said_no(status, tries):
    unit, count = Unit("b", ("1",)), 1
    while parts := pieces(unit, status, {"1"}, retries=2):
        (unit,) = parts
        count += 1

    assert count == tries


ROW = {"fullpath": "/a/photo.TIF", "filename": "photo.TIF", "mime": "image/tiff", "size": 10, "type": "FILE"}


@pytest.mark.parametrize(
    ("chosen", "fits"),
    [
        ({}, True),
        ({"path_regex": "^/a/"}, True),
        ({"path_regex": "^a/"}, False),
        ({"name_regex": r"\.tif$"}, False),
        ({"name_regex": r"(?i)\.tif$"}, True),
        ({"mime": "image/*"}, True),
        ({"mime": "text/*"}, False),
        ({"size_min": 10, "size_max": 10}, True),
        ({"size_min": 11}, False),
        ({"size_max": 9}, False),
    ],
)
def test_files_are_chosen_as_triggers_choose_them(chosen, fits):
    assert Chosen(**chosen).fits(ROW) is fits


@pytest.mark.parametrize("change", [{"type": "FOLDER"}, {"fullpath": "/provenance/started/1.json"}])
def test_folders_and_evidence_are_never_chosen(change):
    assert not Chosen().fits({**ROW, **change})


def test_the_line_tells_rate_time_left_and_failures():
    from libsafe_nb.mapping.counts import Counts
    from libsafe_nb.mapping.course import View
    from libsafe_nb.mapping.layout import Map

    plan = Map("m", "1", "f.ipynb", "", {}, 10, 2, None, batches=100, files=1000, created="")
    view = View(plan, "1", Counts(files={"completed": 190, "failed": 10}, batches=20))

    assert line(view, 10.0, 100) == "20/100 batches, 200/1,000 files, 10.0 files/s, 1:20 left, 10 failed"
    assert line(view, 0.0, 0) == "20/100 batches, 200/1,000 files, 10 failed"
