"""
Where code reads the payload's `function_params`. Pure.

    request.function_params.get("size")            json_sample["function_params"]["size"]
    params = request.function_params               params["size"], "size" in params
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from libsafe_nb.checking.cells import Program

NAME = "function_params"


@dataclass
class Reads:
    by_key: dict[str, int] = field(default_factory=dict)
    """Entries that are read by their name, with the first line."""
    whole: bool = False
    """All of it is given on, looped over or asked for a computed name: any entry may be read."""


def reads(program: Program) -> Reads:
    found = Reads()
    aliases = _aliases(program)
    for node in program.nodes:
        if _is_params(node, aliases):
            _use(node, program, aliases, found)
    return found


def _is_params(node: ast.AST, aliases: set[str]) -> bool:
    if isinstance(node, ast.Attribute):
        return node.attr == NAME and isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Subscript):
        return _text(node.slice) == NAME and isinstance(node.ctx, ast.Load)
    if isinstance(node, ast.Call):
        return (
            isinstance(node.func, ast.Attribute)
            and node.func.attr in ("get", "pop", "setdefault")
            and bool(node.args)
            and _text(node.args[0]) == NAME
        )
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in aliases


def _use(node: ast.AST, program: Program, aliases: set[str], found: Reads) -> None:
    parent = program.parents.get(node)
    while isinstance(parent, ast.BoolOp):
        # `request.function_params or {}`
        node, parent = parent, program.parents.get(parent)
    key: str | None = None
    if isinstance(parent, ast.Subscript) and parent.value is node:
        if not isinstance(parent.ctx, ast.Load):
            return
        key = _text(parent.slice)
    elif isinstance(parent, ast.Attribute) and parent.attr in ("get", "pop", "setdefault"):
        call = program.parents.get(parent)
        key = _text(call.args[0]) if isinstance(call, ast.Call) and call.args else None
    elif (
        isinstance(parent, ast.Compare)
        and len(parent.ops) == 1
        and isinstance(parent.ops[0], (ast.In, ast.NotIn))
    ):
        key = _text(parent.left)
    elif isinstance(parent, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and parent.value is node:
        targets = parent.targets if isinstance(parent, ast.Assign) else [parent.target]
        if all(isinstance(target, ast.Name) and target.id in aliases for target in targets):
            return
    elif isinstance(parent, ast.Expr):
        return
    if key is None:
        found.whole = True
    else:
        found.by_key.setdefault(key, getattr(parent, "lineno", 1))


def _aliases(program: Program) -> set[str]:
    """Names that stand for `function_params` wherever they are assigned."""
    values: dict[str, list[ast.expr | None]] = {}
    for node in program.nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            parent = program.parents.get(node)
            simple = isinstance(parent, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and not isinstance(
                node, (ast.Tuple, ast.List)
            )
            values.setdefault(node.id, []).append(parent.value if simple and parent is not None else None)  # type: ignore[attr-defined]
        elif isinstance(node, ast.arg):
            # An argument of that name is another thing.
            values.setdefault(node.arg, []).append(None)
    found: set[str] = set()
    for name, given in values.items():
        if all(each is not None and _stands_for(each) for each in given):
            found.add(name)
    return found


def _stands_for(value: ast.expr) -> bool:
    if isinstance(value, ast.BoolOp):
        return _stands_for(value.values[0])
    return _is_params(value, set())


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
