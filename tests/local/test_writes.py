"""What the front says that it let through, from one process to the other."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libsafe_nb.local import writes
from libsafe_nb.local.writes import Reader, Writer

STEPS = st.lists(
    st.one_of(st.tuples(st.integers(1, 9), st.text(min_size=1)), st.sampled_from(["flush", "read"]))
)


@given(STEPS)
def test_each_is_read_once_and_in_order(tmp_path_factory, steps):
    """Also over the beginning of a new file, as long as the reader looks in between."""
    path = tmp_path_factory.mktemp("writes") / "writes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writes, "MOST_BYTES", 200)
        writer, reader = Writer(path), Reader(path)
        said, read = [], []
        for step in [*steps, "flush", "read"]:
            if step == "flush":
                writer.flush()
                read += [place for _, place in reader.read()]
            elif step == "read":
                read += [place for _, place in reader.read()]
            else:
                container, name = step
                writer.note(str(container), name)
                said += [] if name.endswith("/") else [(container, name)]
        reader.close()

    assert read == said


def test_half_a_line_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / "writes"
    line = json.dumps([5, "1/a b"]) + "\n"
    path.write_text(line[:6])
    reader = Reader(path)

    assert reader.read() == []
    with path.open("a") as file:
        file.write(line[6:])
    assert reader.read() == [(5, (1, "a b"))]
    reader.close()


def test_a_line_that_was_cut_off_is_passed_over(tmp_path):
    path = tmp_path / "writes"
    whole = [json.dumps([number, f"1/{number}"]) for number in range(3)]
    path.write_text("\n".join([whole[0], '[1, "1/cu' + whole[1], "7", whole[2], ""]))
    reader = Reader(path)

    assert reader.read() == [(0, (1, "0")), (2, (1, "2"))]
    reader.close()


def test_nothing_is_there_yet(tmp_path):
    assert Reader(tmp_path / "writes").read() == []


def test_the_file_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(writes, "MOST_BYTES", 1000)
    writer = Writer(tmp_path / "writes")
    for number in range(200):
        writer.note("1", f"{number}.txt")
        writer.flush()

    assert (tmp_path / "writes").stat().st_size < 1100
