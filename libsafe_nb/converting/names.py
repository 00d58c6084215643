"""Which names code binds and which it looks up elsewhere, as Python itself sees it (`symtable`). Pure."""

from __future__ import annotations

import ast
import re
import symtable
from collections.abc import Iterable, Iterator

KERNEL = re.compile(r"_|__|___|_i+|_i?\d+|_ih|_oh|_dh|In|Out|get_ipython|display|exit|quit|open_ipython")
"""Names that IPython gives a notebook, and, those of the history, sets anew after each cell."""

HISTORY = re.compile(r"_i+|_i?\d+|_ih|_oh|_dh|In|Out")

OF_FILES = frozenset(
    {"__file__", "__doc__", "__spec__", "__loader__", "__package__", "__path__", "__cached__"}
)
"""What a file that is imported has and a notebook has not, or has with another value."""

_FRAMES = frozenset({"globals", "locals", "vars", "dir", "exec", "eval", "breakpoint"})
"""Builtins that see, by name, where names are kept."""

INSPECTING = frozenset(
    [
        "_getframe",
        "currentframe",
        "getsource",
        "getsourcelines",
        "get_type_hints",
        "__globals__",
        "__closure__",
        "__code__",
        "__module__",
        "__qualname__",
    ]
)
"""Attributes that tell a function's place or its names."""


class Scope:
    """
    The names of one module's code.

    Attributes
    ----------
    bound
        Bound at its top, or by a `global` within.
    looked_up
        Looked up there or among the builtins: by the code at the top, and by all that is defined in it.
    by_others
        The same without the code at the top.
    """

    def __init__(self, tree: ast.Module) -> None:
        self.statements = tree.body
        top = symtable.symtable(ast.unparse(tree), "code", "exec")
        self._tables = list(_tables(top))
        self.bound = {each.get_name() for each in top.get_symbols() if binds(each)}
        self.by_others: set[str] = set()
        for table in self._tables[1:]:
            for each in table.get_symbols():
                if each.is_global():
                    self.by_others.add(each.get_name())
                    if each.is_declared_global() and each.is_assigned():
                        self.bound.add(each.get_name())
        used = {each.get_name() for each in top.get_symbols() if each.is_referenced()}
        self.looked_up = used | self.by_others

    @property
    def free(self) -> set[str]:
        """Looked up, and bound nowhere: builtins, and what the surroundings provide."""
        return self.looked_up - self.bound

    def of_function(self, name: str) -> set[str]:
        """The local names of the last function of that name at the top."""
        found = [each for each in self._tables[0].get_children() if each.get_name() == name]
        return {each.get_name() for each in found[-1].get_symbols() if each.is_local()} if found else set()

    def read_before_bound(self) -> set[str]:
        """Names that a class body both reads and binds: in a module the reading finds the module's, in a function it does not."""
        return {
            each.get_name()
            for table in self._tables
            if table.get_type() == "class"
            for each in table.get_symbols()
            if binds(each) and each.is_referenced()
        }


def binds(symbol: symtable.Symbol) -> bool:
    return symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace() or symbol.is_annotated()


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for each in table.get_children():
        yield from _tables(each)


def own(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes, without those within functions that are defined there."""
    for each in statements:
        yield each
        if not isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from own(ast.iter_child_nodes(each))


def awaits(statements: Iterable[ast.AST]) -> bool:
    """Whether something is awaited there, outside of functions."""
    return any(
        isinstance(each, (ast.Await, ast.AsyncFor, ast.AsyncWith)) or getattr(each, "is_async", 0) == 1
        for each in own(statements)
    )


def words(trees: Iterable[ast.AST]) -> set[str]:
    """All identifiers there are."""
    return {
        word
        for tree in trees
        for each in ast.walk(tree)
        for value in vars(each).values()
        for word in (value if isinstance(value, list) else [value])
        if isinstance(word, str) and not isinstance(each, ast.Constant)
    }


def frames(tree: ast.AST) -> set[str]:
    """Builtins that are used there and see where names are kept; `vars` and `dir` of something do not."""
    of_something = {
        each.func
        for each in ast.walk(tree)
        if isinstance(each, ast.Call) and each.args and _is_listing(each.func)
    }
    return {
        each.id
        for each in ast.walk(tree)
        if isinstance(each, ast.Name) and each.id in _FRAMES and each not in of_something
    }


def _is_listing(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and function.id in ("vars", "dir")


def prefix(trees: Iterable[ast.AST]) -> str:
    """How the names begin that a conversion adds: as none of the author's does."""
    taken = words(trees)
    number, found = 1, "_nb_"
    while any(each.startswith(found) for each in taken):
        number += 1
        found = f"_nb{number}_"
    return found


def line_of(tree: ast.AST, name: str) -> int | None:
    """Where a name is first used or bound."""
    lines = [
        each.lineno
        for each in ast.walk(tree)
        if isinstance(each, (ast.expr, ast.stmt, ast.ExceptHandler, ast.alias, ast.arg))
        and name in (getattr(each, field, None) for field in ("id", "name", "arg", "asname"))
    ]
    return min(lines, default=None)
