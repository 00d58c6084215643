"""Names and bytes of the evidence."""

import re
from datetime import datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb import evidence


def test_the_folder_is_named_as_the_contract_says():
    started = datetime(2026, 11, 23, 8, 5, 6, 7000, tzinfo=timezone(timedelta(hours=1)))

    assert (
        evidence.folder(function="Hash files!", started=started, job="7")
        == "provenance/Hash-files/20261123T070506007Z-job7"
    )


@given(st.text())
def test_any_name_becomes_one_path_segment(name):
    found = evidence.slug(name)

    assert re.fullmatch(r"[A-Za-z0-9._-]{1,80}", found)
    assert found not in (".", "..")


def test_frozen_bytes_are_private_and_whole(tmp_path):
    evidence.freeze(tmp_path / "e", {"a.json": b"1", "b.json": b"2"})

    assert {path.name: path.read_bytes() for path in (tmp_path / "e").iterdir()} == {
        "a.json": b"1",
        "b.json": b"2",
    }
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "e").iterdir()} == {0o600}
