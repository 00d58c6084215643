"""What the parameters cell declares, and how a pasted literal gives way to the injected payload."""

from typing import Any, Literal

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from libsafe_nb import notebook as notebooks
from libsafe_nb import record
from libsafe_nb.errors import NotebookError, ParameterError

LITERAL = 'json_sample = {\n  "api": {"key_user": "x"},\n  "function_params": {"size": 3}\n}'


def make(*cells, tag=0, **metadata):
    made = [new_code_cell(source) for source in cells]
    if tag is not None:
        made[tag].metadata["tags"] = ["parameters"]
    node = new_notebook(cells=made, metadata=metadata)
    return notebooks.parse(nbformat.writes(node).encode(), name="f.ipynb")


def test_parameters_and_their_types_are_read_from_the_cell():
    found = make(
        f"{LITERAL}\nname: str = 'a'\ncount = 3\nmode: Literal['x', 'y'] = 'x'\nlimit: int | None = None"
    )

    types = {name: each.type for name, each in found.parameters.items()}
    assert types == {"size": int, "name": str, "count": int, "mode": Literal["x", "y"], "limit": int | None}
    assert found.payload_name == "json_sample"
    assert found.substitutions == ()


def test_a_description_that_is_no_object_describes_nothing():
    assert make(LITERAL, libsafe="f").metadata == {}


def test_payload_is_the_other_name():
    assert make('payload = {"function_params": {}}').payload_name == "payload"


@pytest.mark.parametrize(
    ("declared", "given", "bound"),
    [
        ("n: int = 1", "5", 5),
        ("n: float = 1.0", "2", 2),
        ("n: bool = True", "false", False),
        ("n: list[int] = []", "[1, 2]", [1, 2]),
        ("n: int | None = 1", "none", None),
        ("n: str = ''", "5", "5"),
        ("n = {}", '{"a": {"b": null}}', {"a": {"b": None}}),
        ("n = None", "anything", "anything"),
    ],
)
def test_strings_become_what_is_declared(declared, given, bound):
    found = make(f"{LITERAL}\n{declared}")

    assert notebooks.bind(found, {"n": given}, known_only=True)["n"] == bound


@pytest.mark.parametrize(
    ("declared", "given"),
    [
        ("n: int = 1", "x"),
        ("n: int = 1", True),
        ("n: int = 1", 1.5),
        ("n: Literal['a'] = 'a'", "b"),
        ("n: str = ''", 5),
        ("n: list[int] = []", '["a"]'),
        ("n: 'int' = 1", "x"),
    ],
)
def test_ill_typed_values_are_refused(declared, given):
    with pytest.raises(ParameterError, match=r"function_params\.n: expected"):
        notebooks.bind(make(f"{LITERAL}\n{declared}"), {"n": given}, known_only=True)


def test_unknown_parameters_are_refused_or_passed_on():
    found = make(LITERAL)

    assert notebooks.bind(found, {"new": 1}, known_only=False) == {"size": 3, "new": 1}
    with pytest.raises(ParameterError, match="declared are: size"):
        notebooks.bind(found, {"new": 1}, known_only=True)


def test_an_annotation_is_never_executed():
    found = make(f"{LITERAL}\nn: __import__('os').abort() = 1")

    assert found.parameters["n"].type is Any


@pytest.mark.parametrize("tag", [0, None])
def test_a_literal_amid_other_code_gives_way_to_the_injected_payload(tag):
    found = make(f"import json\n{LITERAL}\nprint(json_sample)\n1/0", tag=tag)

    source = found.node.cells[0].source
    assert '"key_user"' not in source
    assert source.split("\n").index("1/0") == 6, "later lines keep their numbers"
    assert (found.substitutions[0].first_line, found.substitutions[0].last_line) == (2, 5)
    assert "parameters" not in found.node.cells[0].metadata.get("tags", [])


def test_a_script_is_a_one_cell_notebook():
    found = notebooks.from_script(f"{LITERAL}\nprint(1)".encode(), name="s.py")

    assert len(found.node.cells) == 1
    assert found.substitutions[0].name == "json_sample"


def test_code_hash_ignores_outputs():
    node = new_notebook(cells=[new_code_cell("1", id="a")])
    before = record.code_hash(node.cells)
    node.cells[0].outputs = [nbformat.v4.new_output("stream", text="1")]

    assert record.code_hash(node.cells) == before


@pytest.mark.parametrize(
    "source",
    [b"", b"{", b"\xff", b'{"cells": "no", "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', b"[]"],
)
def test_what_is_not_a_notebook_is_refused_in_one_sentence(source):
    with pytest.raises(NotebookError, match=r"f\.ipynb") as caught:
        notebooks.parse(source, name="f.ipynb")

    assert "\n" not in str(caught.value)


def test_two_tagged_cells_are_refused():
    node = new_notebook(cells=[new_code_cell("a = 1", metadata={"tags": ["parameters"]}) for _ in range(2)])

    with pytest.raises(NotebookError, match="got 2"):
        notebooks.parse(nbformat.writes(node).encode(), name="f.ipynb")


def test_not_python_is_refused():
    with pytest.raises(NotebookError, match="expected a Python script"):
        notebooks.from_script(b"def", name="s.py")


PASTED = "kZ8vQ2rT5wY9bN3mX7cL4pD6"


@pytest.mark.parametrize(
    "literal",
    [
        f'{{"api": {{"url": "http://x", "key_user": "{PASTED}", "é": "ä", "key_root": "{PASTED}"}}}}',
        f'{{"é": 1, "api": {{"key_user":\n  "{PASTED[:12]}"\n  "{PASTED[12:]}"}}, "function_params": {{"a": 1}}}}',
    ],
    ids=["one line", "joined over lines"],
)
def test_a_pasted_key_is_taken_out_of_the_copy_that_runs(literal):
    found = make(f"json_sample = {literal}\nafter = 1")

    source = found.node.cells[0].source
    assert PASTED not in source.replace('"', "").replace("\n", "").replace(" ", "")
    assert source.count("[redacted]") == len(found.substitutions) >= 1
    assert source.split("\n").index("after = 1") == f"json_sample = {literal}".count("\n") + 1
    assert set(found.pasted.values()) >= {PASTED}
    assert found.substitutions[0].name == "json_sample.api.key_user"
    exec(source, {})


def test_the_documented_sample_key_is_no_key():
    sample = "1234567890abcdefghijklmnopqrstuvwxyz"

    assert make(f'json_sample = {{"api": {{"key_user": "{sample}"}}}}').substitutions == ()


@pytest.mark.parametrize("minor", range(6))
def test_what_other_writers_and_older_formats_leave_out_is_filled_in(minor):
    source = (
        b'{"cells": [{"cell_type": "code", "source": "1", "metadata": {}}, '
        b'{"cell_type": "markdown", "source": "2", "metadata": {}}], "metadata": {}, "nbformat": 4, "nbformat_minor": %d}'
        % minor
    )
    found = notebooks.parse(source, name="f.ipynb")
    cell = found.node.cells[0]

    assert (cell.outputs, cell.execution_count) == ([], None)
    assert [each.id for each in found.node.cells] == ["cell-0", "cell-1"]
    assert notebooks.parse(source, name="f.ipynb").code_sha256 == found.code_sha256
