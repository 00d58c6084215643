"""The order of cells: as it was run, and as a run will have it."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator
from typing import Any

from libsafe_nb.checking.cells import AUTOMAGIC, Program, binds
from libsafe_nb.checking.examined import Examined, Found
from libsafe_nb.notebook import PAYLOAD_NAMES

_ALWAYS = AUTOMAGIC | {
    "get_ipython",
    "display",
    "In",
    "Out",
    "_dh",
    "_oh",
    "_ih",
    "__",
    "___",
    "_i",
    "_ii",
    "_iii",
    "_",
}
_ALWAYS |= {"__name__", "__doc__", "__builtin__", "__spec__", "__loader__", "__package__", *PAYLOAD_NAMES}  # fmt: skip
"""Names that a kernel has at its start beside those of Python, or a run gives it."""

_COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")
_MOST_FUNCTIONS = 100
"""Called by one another that are followed."""
_CATCHING = ("NameError", "Exception", "BaseException")


def counts(examined: Examined) -> Iterator[Found]:
    """Cells that were run in another order than they stand in: their outputs are of a state that no run has."""
    highest, of = 0, 0
    for number, cell in examined.code_cells:
        count = cell.get("execution_count")
        if not isinstance(count, int) or count < 1 or not str(cell.get("source", "")).strip():
            continue
        if count <= highest:
            yield (
                number,
                1,
                f"was run as [{count}], before or with cell {of}, which was run as [{highest}]: restart the kernel"
                " and run all cells",
            )
        else:
            highest, of = count, number


def undefined(examined: Examined) -> Iterator[Found]:
    """Names that a run does not have where they are used: a cell further down defines them, or none does any more."""
    program = examined.program
    if not program.body:
        return
    given = _ALWAYS.union(program.maybe_bound)
    told: set[str] = set()
    for line, name, later in sorted(_unknown(program, given), key=lambda each: each[:2]):
        if name in told or _is_numbered(name) or (program.is_dynamic and not later):
            continue
        told.add(name)
        yield (
            *program.place(line),
            f"{name} is used before {_where(program, later, line)} defines it: move that up"
            if later
            else f"{name} is used and no cell above defines it: a run starts with nothing that an earlier session had",
        )
    for line, function, name, later in _called_early(program):
        if name not in told and name not in given:
            told.add(name)
            yield (
                *program.place(line),
                f"{function}() reads {name}, which {_where(program, later, line)} defines: move that up",
            )


def _unknown(program: Program, given: set[str] | frozenset[str]) -> Iterator[tuple[int, str, int]]:
    """Line and name of each use that pyflakes sees no definition for, and the line of one that comes later, or 0."""
    # Here, as most of what imports this module checks nothing.
    from pyflakes import checker, messages

    class Names(checker.Checker):  # type: ignore[misc]  # has no types
        def AWAIT(self, node: ast.Await) -> None:  # noqa: N802  # pyflakes calls it so
            # In a notebook it may stand outside of functions.
            self.handleChildren(node)

    seen: Any = Names(ast.Module(program.body, []), builtins=given)
    defined = next(scope for scope in seen.deadScopes if isinstance(scope, checker.ModuleScope))
    # Names in annotations that are texts are reported where the text stands; no run reads those.
    uses = {(node.lineno, node.col_offset): node for node in program.nodes if isinstance(node, ast.Name)}
    for node in uses.values():
        # pyflakes thinks of modules; a kernel runs no file.
        if (
            node.id == "__file__"
            and "__file__" not in program.bound
            and not program.is_tried(node, _CATCHING)
        ):
            yield node.lineno, node.id, 0
    loops: dict[ast.AST, set[str]] = {}
    for message in seen.messages:
        use = uses.get((message.lineno, message.col))
        if not isinstance(message, messages.UndefinedName) or use is None:
            continue
        if program.is_tried(use, _CATCHING) or _bound_in_a_round_before(program, use, loops):
            continue
        binding = defined.get(use.id)
        line = getattr(getattr(binding, "source", None), "lineno", 0)
        yield use.lineno, use.id, line if line > use.lineno else 0


def _bound_in_a_round_before(program: Program, node: ast.Name, bound: dict[ast.AST, set[str]]) -> bool:
    """`for n in x: if n: print(last); last = n`; `bound` keeps what each loop binds."""
    for above in program.above(node):
        if isinstance(above, (ast.For, ast.AsyncFor, ast.While)):
            if above not in bound:
                bound[above] = {name for each in ast.walk(above) for name in binds(each)}
            if node.id in bound[above]:
                return True
    return False


def _called_early(program: Program) -> Iterator[tuple[int, str, str, int]]:
    """Calls of a function of the notebook that reads a name which is bound only after: line, function, name, line of that."""
    functions: dict[str, ast.stmt | None] = {}
    for statement in program.body:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            # None: there are two.
            functions[statement.name] = None if statement.name in functions else statement
    if program.is_dynamic:
        return
    read: dict[str, frozenset[str]] = {}
    later = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    for node in program.nodes:
        if not (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and functions.get(node.func.id)
        ):
            continue
        if any(isinstance(above, later) for above in program.above(node)) or program.is_tried(
            node, _CATCHING
        ):
            continue
        name = node.func.id
        if name not in read:
            read[name] = frozenset(_reads(name, functions))
        for each in sorted(read[name]):
            if program.bound.get(each, 0) > (node.end_lineno or node.lineno):
                yield node.lineno, name, each, program.bound[each]


def _reads(name: str, functions: dict[str, ast.stmt | None]) -> Iterator[str]:
    """Names of the top level that a call of a function reads, also through those that it calls."""
    seen, ahead = {name}, [name]
    while ahead and len(seen) < _MOST_FUNCTIONS:
        function = functions[ahead.pop()]
        if function is None:
            continue
        globals_ = _globals(function)
        yield from globals_
        called = {
            node.func.id
            for node in ast.walk(function)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        more = (called & globals_ & set(functions)) - seen
        seen |= more
        ahead += more


def _globals(function: ast.stmt) -> set[str]:
    """What the body of a function reads of the top level; functions within it may be called whenever."""
    found: set[str] = set()
    tables = symtable.symtable(ast.unparse(function), "<cell>", "exec").get_children()[-1:]
    while tables:
        table = tables.pop()
        found |= {
            each.get_name() for each in table.get_symbols() if each.is_global() and each.is_referenced()
        }
        tables += [each for each in table.get_children() if each.get_name() in _COMPREHENSIONS]
    return found


def _where(program: Program, later: int, line: int) -> str:
    cell, _ = program.place(later)
    return "a later line" if cell == program.place(line)[0] else f"cell {cell}"


def _is_numbered(name: str) -> bool:
    """`_3`, `_i3`: earlier outputs and inputs."""
    return name.startswith("_") and name.lstrip("_i").isdigit()
