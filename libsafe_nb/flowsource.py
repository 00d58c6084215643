"""
What can be told of a workflow that has not run, from its source by syntax tree: the functions that it calls. Pure.

How often, and whether at all, only a run can say: a call in a loop, a branch or a function is told once, with the place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

from libsafe_nb import notebook
from libsafe_nb.checking.cells import Program
from libsafe_nb.checking.examined import Examined
from libsafe_nb.flow import ROOT, Node

CALLING = ("call", "map_call")
"""Names of `libsafe_nb` that call a function by the key that they are given first."""

NOT_RUN = "not run"

_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_BRANCHES = (ast.If, ast.IfExp, ast.Match, ast.Try, ast.TryStar)
_BODIES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def of_notebook(source: bytes, name: str) -> list[Node]:
    """
    The notebook, and each place where it calls a function.

    Raises
    ------
    NotebookError
        It is no notebook.
    """
    examined = Examined(name, notebook.read(source, name=name))
    root = Node(ROOT, PurePosixPath(name).stem, NOT_RUN, problem="as its source tells it" + _unread(examined))
    found = sorted(_calls(examined.program), key=lambda call: (call.lineno, call.col_offset))
    return [root, *(_node(number, call, examined.program) for number, call in enumerate(found, 1))]


def _unread(examined: Examined) -> str:
    if not examined.is_python:
        return f", of which {examined.language} is not read"
    return (
        ", of which some cells cannot be read" if any(cell.error for cell in examined.program.cells) else ""
    )


def _calls(program: Program) -> Iterator[ast.Call]:
    modules, names = set(), set()
    for node in program.nodes:
        if isinstance(node, ast.Import):
            modules |= {each.asname or each.name for each in node.names if each.name == "libsafe_nb"}
        elif isinstance(node, ast.ImportFrom) and node.module == "libsafe_nb":
            names |= {each.asname or each.name for each in node.names if each.name in CALLING}
    for node in program.nodes:
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id=name) if name in names:
                yield node
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules and name in CALLING:
                yield node


def _node(number: int, call: ast.Call, program: Program) -> Node:
    given = [*call.args[:1], *(each.value for each in call.keywords if each.arg == "function")]
    key = given[0] if given else None
    literal = isinstance(key, ast.Constant) and isinstance(key.value, str)
    function = (
        str(key.value)
        if literal and isinstance(key, ast.Constant)
        else f"({ast.unparse(key)[:60]})"
        if key
        else "(?)"
    )
    cell, line = program.place(call.lineno)
    told = [f"cell {cell}, line {line}"]
    for kinds, words in ((_LOOPS, "in a loop"), (_BRANCHES, "in a branch"), (_BODIES, "in a function")):
        if any(isinstance(above, kinds) for above in program.above(call)):
            told.append(words)
    return Node(str(number), function, NOT_RUN, number=number, caller=ROOT, problem=", ".join(told))
