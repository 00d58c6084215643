"""What a cell keeps of its outputs: everything under the bound, head and tail over it, lines as JupyterLab shows them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import NotebookNode

from libsafe_nb import outputs
from libsafe_nb.outputs import Budget, CellOutputs

MIB = 1024 * 1024


def cell(limit=10 * MIB, budget=100 * MIB):
    return CellOutputs(limit, Budget(budget))


def shown(data, **metadata):
    return NotebookNode(output_type="display_data", data=NotebookNode(data), metadata=NotebookNode(metadata))


def image(size, *, fill="A"):
    """An image of `size` bytes, as its base64 text stands in a notebook."""
    return shown({"image/png": fill * (size * 4 // 3)})


def printed(*texts):
    kept = cell()
    for text in texts:
        kept.stream("stdout", text)
    (output,) = kept.render()
    return output["text"]


def stored(kept):
    return sum(
        outputs.measure(each) for each in kept.render() if "libsafe_nb" not in each.get("metadata", {})
    )


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["a", "b\n", "c"], "ab\nc"),
        (["10%\r20%\r30%\n"], "30%\n"),
        (["10%", "\r20%", "\r", "30%", "\ndone\n"], "30%\ndone\n"),
        (["done 100%\rx\n"], "xone 100%\n"),
        (["before\n 1%\r 2%"], "before\n 2%"),
        (["windows\r\nlines\r\n"], "windows\nlines\n"),
        (["split\r", "\nline end\n"], "split\nline end\n"),
        (["abc\b\bX\n"], "aXc\n"),
        (["\b\bX\n"], "X\n"),
        (["a\n\bX"], "a\nX"),
        (["a long line\rshort", "er\n"], "shorterline\n"),
        (["x" * 100_000 + "\ry\n"], "x" * 100_000 + "\ry\n"),
    ],
)
def test_a_line_is_overwritten_as_in_jupyterlab(texts, expected):
    assert printed(*texts) == expected


@given(st.lists(st.text(st.sampled_from("ab\r\b\n")), max_size=8))
def test_how_the_kernel_cuts_the_text_makes_no_difference(texts):
    assert cell_text(texts) == cell_text(["".join(texts)])


def cell_text(texts):
    kept = cell()
    for text in texts:
        kept.stream("stdout", text)
    return "".join(each["text"] for each in kept.render())


def test_streams_that_take_turns_stay_in_their_order():
    kept = cell()
    for name, text in [("stdout", "a"), ("stdout", "b"), ("stderr", "c"), ("stdout", "d")]:
        kept.stream(name, text)

    assert [(each["name"], each["text"]) for each in kept.render()] == [
        ("stdout", "ab"),
        ("stderr", "c"),
        ("stdout", "d"),
    ]


def test_over_the_bound_head_and_tail_are_kept_and_the_marker_tells_the_rest():
    whole = "".join(f"line {number:07}\n" for number in range(200_000))
    kept = cell(limit=MIB)
    for start in range(0, len(whole), 5000):
        kept.stream("stdout", whole[start : start + 5000])

    head, marker, tail = kept.render()
    facts = marker["metadata"]["libsafe_nb"]

    assert whole.startswith(head["text"])
    assert whole.endswith(tail["text"])
    assert len(head["text"]) == MIB // 2
    assert len(head["text"]) + len(tail["text"]) + facts["cut"] == len(whole)
    assert facts["streams"] == {
        "stdout": {"bytes": len(whole), "sha256": hashlib.sha256(whole.encode()).hexdigest()}
    }
    assert f"{facts['cut']:,} bytes" in marker["data"]["text/plain"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(st.characters(codec="utf-8"), max_size=60)),
        max_size=60,
    ),
    st.integers(0, 300),
)
def test_what_is_kept_and_what_is_cut_are_the_whole(pieces, limit):
    budget = Budget(10_000)
    kept = CellOutputs(limit, budget)
    for name, text in pieces:
        kept.stream(name, text.replace("\r", "").replace("\b", ""))
    whole = sum(len(text.replace("\r", "").replace("\b", "").encode()) for _, text in pieces)

    assert stored(kept) + kept.cut == whole
    assert stored(kept) == kept.size == budget.used
    # A character is never cut in two, so that a few bytes less may be kept.
    assert kept.size <= limit
    assert kept.cut == 0 or kept.size > limit - 8 or whole - kept.cut == kept.size


def test_all_cells_together_stay_under_the_notebooks_bound():
    budget = Budget(MIB)
    cells = [CellOutputs(MIB // 2, budget) for _ in range(8)]
    for each in cells:
        for _ in range(100):
            each.stream("stdout", "x" * 9999 + "\n")

    assert sum(map(stored, cells)) == budget.used <= MIB
    assert all(each.cut for each in cells)


@pytest.mark.parametrize("size", [10_000_000, 10 * MIB])
def test_an_image_of_ten_megabytes_is_kept_as_it_is(size):
    kept = cell()
    picture = image(size)
    kept.add(picture)

    assert kept.render() == [picture]
    assert not kept.cut


def test_an_image_over_the_bound_is_a_notice():
    kept = cell(limit=MIB)
    kept.stream("stdout", "before\n")
    kept.add(image(2 * MIB))

    before, notice = kept.render()

    assert before["text"] == "before\n"
    assert "2,097,1" in notice["data"]["text/plain"]
    assert kept.describe_cut()["outputs_left_out"] == 1


def test_of_many_images_the_first_stays_and_the_others_are_told():
    kept = cell(limit=MIB)
    for fill in "ABCDE":
        kept.add(image(900_000, fill=fill))

    first, *others = kept.render()

    assert first["data"]["image/png"].startswith("A")
    assert all("libsafe_nb" in each["metadata"] for each in others)
    assert kept.describe_cut()["outputs_left_out"] == 4


def test_a_flood_of_small_outputs_is_cut_by_number():
    kept = cell()
    for number in range(30_000):
        kept.stream("stdout" if number % 2 else "stderr", "x")

    assert len(kept.render()) <= outputs.MAX_OUTPUTS + 1
    assert kept.cut


def test_clear_output_forgets_and_gives_the_room_back():
    budget = Budget(MIB)
    kept = CellOutputs(MIB, budget)
    kept.stream("stdout", "x" * 2 * MIB)
    kept.clear()

    assert kept.render() == []
    assert (kept.size, kept.cut, budget.used) == (0, 0, 0)


def test_clear_output_with_wait_forgets_when_the_next_output_comes():
    kept = cell()
    kept.stream("stdout", "old")
    kept.clear(wait=True)

    assert [each["text"] for each in kept.render()] == ["old"]

    kept.stream("stdout", "new")

    assert [each["text"] for each in kept.render()] == ["new"]


def test_a_display_is_updated_in_its_place():
    kept = cell()
    first = kept.add(shown({"text/plain": "1"}))
    kept.stream("stdout", "after\n")
    kept.replace(first, {"text/plain": "2"}, {})

    assert [each.get("text") or each["data"]["text/plain"] for each in kept.render()] == ["2", "after\n"]


def test_an_update_of_what_was_cleared_changes_nothing():
    budget = Budget(MIB)
    kept = CellOutputs(MIB, budget)
    first = kept.add(shown({"text/plain": "1"}))
    kept.clear()
    kept.replace(first, {"text/plain": "much longer"}, {})

    assert (kept.render(), budget.used) == ([], 0)
