"""What is uploaded of folders: each file, under a path of its own."""

import pytest

from libsafe_nb import errors
from libsafe_nb.trees import laid_out


@pytest.fixture
def bag(tmp_path):
    folder = tmp_path / "bag"
    (folder / "data" / "é").mkdir(parents=True)
    for name in ("bagit.txt", "data/é/a.txt", "data.txt", "data/b.txt"):
        (folder / name).write_text(name)
    return folder


def test_a_folder_is_each_file_in_it_in_the_order_of_their_paths(bag, monkeypatch):
    names = ["/bag/bagit.txt", "/bag/data/b.txt", "/bag/data/é/a.txt", "/bag/data.txt"]
    (bag.parent / "letter.txt").write_text("letter")

    assert list(laid_out([bag, bag.parent / "letter.txt"])) == [*names, "/letter.txt"]
    assert laid_out([bag])[names[2]].read_text() == "data/é/a.txt"
    monkeypatch.chdir(bag / "data")
    for given in (".", "../data"):
        assert list(laid_out([type(bag)(given)])) == ["/data/b.txt", "/data/é/a.txt"]
    assert list(laid_out([type(bag)("..")])) == names


def test_a_link_within_a_folder_is_the_file_that_it_leads_to(bag, tmp_path):
    (bag / "again.txt").symlink_to("data/b.txt")
    (tmp_path / "linked").symlink_to(bag)

    assert laid_out([tmp_path / "linked"])["/linked/again.txt"].read_text() == "data/b.txt"


def test_a_link_out_of_a_folder_or_to_a_folder_is_refused(bag, tmp_path):
    (tmp_path / "secret.toml").write_text("secret")
    link = bag / "data" / "a"
    for target, told in (
        ("../../secret.toml", "secret.toml, which lies outside of it"),
        ("..", "the folder"),
    ):
        link.symlink_to(target)
        with pytest.raises(errors.UsageError, match=f"bag/data/a: expected .* found a link to .*{told}"):
            laid_out([bag])
        link.unlink()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda bag: [bag / "absent"], "expected a file or a folder, found nothing"),
        (lambda bag: [bag / "none"], "expected files in the folder, found none"),
        (lambda bag: [bag / "data.txt", bag / "same" / "data.txt"], "both would be stored as /data.txt"),
        (lambda bag: [bag, bag.parent / "other" / "bag"], "both would be stored as /bag"),
        (lambda bag: [bag / "same", bag.parent / "other" / "same"], "both would be stored as /same"),
        (lambda bag: [bag / "provenance"], "expected a plain name, got 'provenance/"),
        (lambda bag: [bag / "line"], "expected a plain name, got 'line/a"),
        (lambda bag: [bag / "gone"], "expected a file, found none that could be read"),
    ],
)
def test_what_cannot_be_stored_is_refused(bag, make, told):
    for name in ("same/data.txt", "provenance/a.txt", "line/a\nb", "../other/bag/data.txt", "../other/same"):
        (bag / name).parent.mkdir(parents=True, exist_ok=True)
        (bag / name).write_text(name)
    (bag / "none").mkdir()
    (bag / "gone").mkdir()
    (bag / "gone" / "link").symlink_to(bag / "nowhere")
    paths = make(bag)
    if bag in paths:
        (bag / "gone" / "link").unlink()
        (bag / "line" / "a\nb").unlink()
    with pytest.raises(errors.UsageError, match=told.replace("(", r"\(")):
        laid_out(paths)
