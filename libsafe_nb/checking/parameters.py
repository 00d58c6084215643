"""The parameters cell: that there is one, what the runner makes of it, and whether that is what its author wrote."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from libsafe_nb import description, notebook
from libsafe_nb.checking.cells import Cell
from libsafe_nb.checking.examined import Examined, Found, lines_of, tags
from libsafe_nb.checking.places import names_of_libnova
from libsafe_nb.declared import Parameter, convert
from libsafe_nb.errors import NotebookError, ParameterError

_MORE = "the payload of the run is put in place of it"


@dataclass(frozen=True)
class Assigned:
    name: str
    line: int
    """In the program."""
    value: ast.expr | None
    statement: ast.stmt


@dataclass(frozen=True)
class Parameters:
    """
    What is known of a notebook's parameters.

    Attributes
    ----------
    cell
        The one that is tagged, None where none is, or where it cannot be read as Python.
    declared
        As the runner has them (`notebook.FunctionNotebook.parameters`).
    payload
        The assignment of the payload that counts: the first in the notebook.
    """

    cell: Cell | None = None
    assigned: tuple[Assigned, ...] = ()
    declared: Mapping[str, Parameter] = field(default_factory=dict)
    payload: Assigned | None = None

    @property
    def entries(self) -> Mapping[str, int] | None:
        """`function_params` of the payload's default, with the line of each; None where they are not written out."""
        value = self.payload.value if self.payload else None
        parts: list[tuple[Any, ast.expr]]
        if isinstance(value, ast.Call) and notebook.asks_for_payload(value):
            # libsafe_nb.payload(params={…})
            parts = [("function_params", each.value) for each in value.keywords if each.arg == "params"]
            whole = all(each.arg is not None for each in value.keywords)
        elif isinstance(value, ast.Dict):
            parts = [
                (key.value, each)
                for key, each in zip(value.keys, value.values, strict=True)
                if isinstance(key, ast.Constant)
            ]
            whole = all(isinstance(key, ast.Constant) for key in value.keys)
        else:
            return None
        given = next((each for name, each in parts if name == "function_params"), None)
        if given is None:
            return {} if whole else None
        if not (isinstance(given, ast.Dict) and all(isinstance(name, ast.Constant) for name in given.keys)):
            return None
        return {str(name.value): name.lineno for name in given.keys if isinstance(name, ast.Constant)}


def tagged(examined: Examined) -> list[int]:
    """Numbers of the cells tagged `parameters`, of whatever kind: the runner counts them so."""
    return [number for number, cell in examined.cells if "parameters" in tags(cell)]


def parameters(examined: Examined) -> Parameters:
    """What is known of a Python notebook's parameters; little where it has two parameters cells."""
    return examined.once(_parameters)


def _parameters(examined: Examined) -> Parameters:
    numbers = tagged(examined)
    cells = examined.program.cells
    first = next(
        (each for cell in cells for each in _assigned(cell.body) if each.name in notebook.PAYLOAD_NAMES), None
    )
    cell = next((each for each in cells if numbers == [each.number] and not each.unread), None)
    try:
        declared = (
            notebook.parse(_sources(examined), name=examined.name).parameters if len(numbers) < 2 else {}
        )
    except NotebookError:
        declared = {}
    return Parameters(cell, tuple(_assigned(cell.body)) if cell else (), declared, first)


def _sources(examined: Examined) -> bytes:
    """The notebook's code that could be read, for the runner's own reading of it."""
    unread = {cell.number for cell in examined.program.cells if cell.unread}
    cells: list[dict[str, Any]] = [
        {
            "cell_type": "code",
            "metadata": {"tags": ["parameters"]} if "parameters" in tags(cell) else {},
            "source": "" if number in unread else lines_of(cell),
            "execution_count": None,
            "outputs": [],
        }
        for number, cell in examined.code_cells
    ]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def _assigned(body: list[ast.stmt]) -> Iterator[Assigned]:
    for statement in body:
        targets = (
            statement.targets
            if isinstance(statement, ast.Assign)
            else [statement.target]
            if isinstance(statement, ast.AnnAssign)
            else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(statement, (ast.Assign, ast.AnnAssign)):
                yield Assigned(target.id, statement.lineno, statement.value, statement)


# Rules ----------------------------------------------------------------------------------------------------------


def missing(examined: Examined) -> Iterator[Found]:
    # Kernels of other languages get the payload through `libsafe-nb job`.
    if not examined.is_python or tagged(examined):
        return
    known = parameters(examined).payload
    if known is None:
        yield (
            None,
            1,
            "no cell is tagged 'parameters': add one that assigns the payload, json_sample = {…}, and tag it",
        )
    else:
        number, line = examined.program.place(known.line)
        yield (
            number,
            line,
            f"{known.name} is assigned in a cell that is not tagged 'parameters': put it into a cell of its own and"
            " tag that",
        )


def several(examined: Examined) -> Iterator[Found]:
    first, *others = tagged(examined) or [0]
    for number in others:
        yield (
            number,
            1,
            f"cell {first} is tagged 'parameters' as well, and such a notebook is not run: keep the tag of one",
        )


def payload(examined: Examined) -> Iterator[Found]:
    """A parameters cell without the payload, with two, or with one that is computed."""
    known = parameters(examined) if examined.is_python else Parameters()
    if known.cell is None:
        return
    given = [each for each in known.assigned if each.name in notebook.PAYLOAD_NAMES]
    if not given:
        yield (
            known.cell.number,
            1,
            "the parameters cell assigns no payload: add json_sample = {…}, which a run replaces by its own",
        )
    for each in given:
        where = examined.program.place(each.line)
        if each.name != given[0].name:
            yield (
                *where,
                f"{each.name} is a second payload, and a run replaces {given[0].name} only: keep one",
            )
        elif not _is_literal(each.value) and not notebook.asks_for_payload(each.value):
            yield (
                *where,
                f"{each.name} is computed: write the payload out, as what is computed runs before {_MORE}",
            )


def ill_typed(examined: Examined) -> Iterator[Found]:
    """Parameters whose default cannot be known or is of another type, and what makes a parameters cell none."""
    known = parameters(examined) if examined.is_python else Parameters()
    if known.cell is None:
        return
    program = examined.program
    allowed = (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)
    for statement in known.cell.body:
        is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        if not isinstance(statement, allowed) and not is_text:
            yield (
                *program.place(statement.lineno),
                "the parameters cell does other work, and its names are no parameters then: move that to the next cell",
            )
            return
    for each in known.assigned:
        declared = known.declared.get(each.name)
        if each.name in notebook.PAYLOAD_NAMES or declared is None:
            continue
        where = program.place(each.line)
        if each.value is not None and not _is_literal(each.value):
            yield (
                *where,
                f"the default of {each.name} is computed: write it out, or compute it in the next cell, where the"
                " run's own values are known",
            )
        elif each.value is not None and not _fits(declared):
            yield (
                *where,
                f"the default of {each.name} is {_kind(declared.default)}, its annotation says"
                f" {_annotation(each.statement)}: make them agree",
            )


def _is_literal(value: ast.expr | None) -> bool:
    try:
        ast.literal_eval(value if value is not None else "None")
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _fits(parameter: Parameter) -> bool:
    if parameter.secret:
        return parameter.default is None or isinstance(parameter.default, str)
    try:
        # What the runner would convert, such as '3' for a number, is not of the type as it stands.
        return convert(parameter.default, parameter) is parameter.default
    except ParameterError:
        return False


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _annotation(statement: ast.stmt) -> str:
    return ast.unparse(statement.annotation)[:60] if isinstance(statement, ast.AnnAssign) else "another"


def described(examined: Examined) -> Iterator[Found]:
    """A function that does not describe itself; a notebook that is none has nothing to describe."""
    libsafe = examined.metadata.get("libsafe")
    if isinstance(libsafe, Mapping) and any(name in libsafe for name in (*description.TEXTS, "effects")):
        return
    if libsafe is not None and not isinstance(libsafe, Mapping):
        return
    if _is_function(examined):
        yield (
            None,
            1,
            "the function does not describe itself: add metadata.libsafe with title, description, version, author,"
            " license and effects",
        )


def _is_function(examined: Examined) -> bool:
    if examined.is_python:
        program = examined.program
        return parameters(examined).payload is not None or bool(names_of_libnova(program))
    return any("libsafe-nb job" in lines_of(cell) for _, cell in examined.code_cells)
