"""What a way through a program has found true: two `if` of one test go the same way. Pure."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping

from libsafe_nb import syntax
from libsafe_nb.checking.cells import called_name, names_in

Known = frozenset[tuple[str, bool]]
"""Tests, as text, with what they gave."""

ALWAYS: Known = frozenset((("__name__ == '__main__'", True),))

MOST_TESTS = 6

_OPPOSITE: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.NotEq: ast.Eq,
    ast.IsNot: ast.Is,
    ast.NotIn: ast.In,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
}
_PURE = (
    ast.Name, ast.Attribute, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Subscript,
    ast.expr_context, ast.cmpop, ast.boolop, ast.unaryop,
)  # fmt: skip
_STEADY = ("len", "bool", "isinstance", "any", "all")


def test(node: ast.expr) -> tuple[str | None, bool]:
    """A test as text, and whether it is that text or its opposite; None where it may give another answer next time."""
    is_plain = True
    while isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node, is_plain = node.operand, not is_plain
    for each in ast.walk(node):
        if not isinstance(each, _PURE) and not (isinstance(each, ast.Call) and called_name(each) in _STEADY):
            return None, True
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPPOSITE:
        opposite = ast.Compare(node.left, [_OPPOSITE[type(node.ops[0])]()], node.comparators)
        return ast.unparse(opposite), not is_plain
    return ast.unparse(node), is_plain


def also(known: Known, text: str | None, value: bool) -> Known:
    return known if text is None or len(known) >= MOST_TESTS else known | {(text, value)}


def changed(statement: ast.stmt) -> set[str]:
    """Names of which nothing is known after a statement: it binds them anew, or calls something on them."""
    found = set()
    for each in ast.walk(statement):
        if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
            found.add(each.id)
        elif isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
            found |= {each.func.value.id} if isinstance(each.func.value, ast.Name) else set()
    return found


def without(known: Known, names: set[str]) -> Known:
    return frozenset(each for each in known if names.isdisjoint(_named(each[0])))


@functools.lru_cache(1000)
def _named(text: str) -> set[str]:
    return names_in(syntax.parse_expression(text))
