"""Pages of long lists: none sorts, or looks at, all that the pages before it held."""

import pytest

from libsafe_nb.local import filecalls, files, imports, search
from libsafe_nb.local.indexer import Ids

CONTAINER = ("container_id", "eq", 1)
PATHS = [f"/rows/{number:04d}.txt" for number in range(0, 3000, 7)]


def conditions(*given):
    return [dict(zip(("property", "operator", "value"), each, strict=True)) for each in given]


@pytest.fixture
def filled(db):
    rows = [
        {"path": f"rows/{number:04d}.txt", "size": number, "mime": None, "etag": None, "date": "2026"}
        for number in range(3000)
    ]
    imports.take(db, 1, rows, {})
    return db


def plan(db, sql, values):
    return [row[3] for row in db.all(f"EXPLAIN QUERY PLAN {sql}", values)]


@pytest.mark.parametrize("user", [1, None])
@pytest.mark.parametrize(
    "given",
    [
        [],
        [CONTAINER],
        [CONTAINER, ("type", "eq", "FILE"), ("size", "gt", 2)],
        [("container_id", "in", [1, 2])],
        [("parent", "eq", 1)],
        [("parent", "in", [1, 2])],
        [("parent", "gt", 1)],
        [CONTAINER, ("fullpath", "starts_with", "/rows")],
        [CONTAINER, ("metadata.who", "eq", "Ada")],
        [("storage_class_id", "!eq", "1")],
    ],
)
def test_a_page_of_a_search_sorts_nothing(filled, given, user):
    found = plan(filled, *search.query(conditions(*given), user=user, after=1500, limit=1001))

    assert "USE TEMP B-TREE FOR ORDER BY" not in found


@pytest.mark.parametrize("user", [1, None])
@pytest.mark.parametrize(
    ("given", "index"),
    [
        ([("id", "in", list(range(500)))], "INTEGER PRIMARY KEY (rowid=?)"),
        ([CONTAINER, ("id", "eq", 7)], "INTEGER PRIMARY KEY (rowid=?)"),
        ([CONTAINER, ("fullpath", "in", PATHS)], "INDEX file_path (container_id=? AND path=?)"),
        ([CONTAINER, ("fullpath", "eq", "/rows/0007.txt")], "INDEX file_path (container_id=? AND path=?)"),
    ],
)
def test_files_that_are_named_are_looked_up_and_not_searched_for(filled, given, index, user):
    found = plan(filled, *search.query(conditions(*given), user=user, after=0, limit=501))

    assert found[0] == f"SEARCH file USING {index}"


def test_the_contents_of_a_folder_come_in_pages_while_they_are_marked(filled):
    filled.execute(
        "INSERT INTO file SELECT NULL, 1, parent, 'rows.txt', 'rows.txt', 'FILE', 0, NULL, NULL, NULL, '', '', 0, '1', NULL, NULL, 0 FROM file LIMIT 1"
    )
    folder = files.find(filled, 1, "rows", folder=True)
    seen = []
    for page in filecalls._inside(filled, folder, deleted=False):
        assert len(page) <= filecalls.INSIDE
        seen += [row["path"] for row in page]
        filled.execute(
            f"UPDATE file SET deleted = 1 WHERE id IN ({','.join(str(row['id']) for row in page)})"
        )

    assert seen == [f"rows/{number:04d}.txt" for number in range(3000)]


def test_a_set_of_ids_is_a_bit_each():
    found = Ids()
    assert 0 not in found
    for number in (1, 7, 8, 1_000_000, 500_000):
        found.add(number)

    assert [number for number in range(1_000_010) if number in found] == [1, 7, 8, 500_000, 1_000_000]
    assert len(found._bits) < 140_000


def test_whole_paths_are_those_that_are_shown(filled):
    def found(operator, value):
        sql, values = search.query(conditions(("fullpath", operator, value)), user=1, after=0, limit=10)
        return [row["path"] for row in filled.all(sql, values)]

    assert found("in", ["/rows/0007.txt", "rows/0014.txt", "/none", "/rows"]) == ["rows", "rows/0007.txt"]
    assert found("eq", "rows/0007.txt") == found("eq", "//rows/0007.txt") == found("eq", None) == []
