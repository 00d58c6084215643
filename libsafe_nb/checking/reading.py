"""Parameters that do nothing: never read, read only before a run has put them in place, or lost before they are read."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from libsafe_nb.checking.examined import Examined, Found
from libsafe_nb.checking.parameters import parameters
from libsafe_nb.checking.params import reads
from libsafe_nb.notebook import PAYLOAD_NAMES

_IN_QUERY = re.compile(r"@([^\W\d]\w*)")


def unused(examined: Examined) -> Iterator[Found]:
    program, known = examined.program, parameters(examined)
    if not known.declared or program.is_dynamic or any(cell.unread for cell in program.cells):
        return
    entries = reads(program)
    if entries.whole:
        return
    lines = {**(known.entries or {}), **{each.name: each.line for each in known.assigned}}
    read: dict[str, list[int]] = {}
    for node in program.nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            read.setdefault(node.id, []).append(node.lineno)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            read.setdefault(node.target.id, []).append(node.lineno)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # pandas: `table.query("size > @limit")`
            for name in _IN_QUERY.findall(node.value):
                read.setdefault(name, []).append(node.end_lineno or node.lineno)
    for name in known.declared:
        if name in entries.by_key or name in program.words or name not in lines:
            continue
        after = [line for line in read.get(name, ()) if known.cell is None or line > known.cell.last]
        if after:
            continue
        where = program.place(lines[name])
        if known.cell is not None and any(line < known.cell.first for line in read.get(name, ())):
            yield (
                *where,
                f"the parameter {name} is read only before the parameters cell, where a run has not set it: read it"
                " further down",
            )
        else:
            yield (*where, f"the parameter {name} is never read: use it, or take it out")


def lost(examined: Examined) -> Iterator[Found]:
    """What a run puts in place and the notebook overwrites, in a statement of its own, before anything names it."""
    program, known = examined.program, parameters(examined)
    if known.cell is None:
        return
    waiting = {each.name for each in known.assigned}
    for statement in program.body:
        if statement.lineno <= known.cell.last:
            continue
        named = [each for each in ast.walk(statement) if isinstance(each, ast.Name) and each.id in waiting]
        value = statement.value if isinstance(statement, (ast.Assign, ast.AnnAssign)) else None
        if value is not None and all(isinstance(each.ctx, ast.Store) for each in named):
            # A run puts its own payload in place of one that is written out a second time.
            kept = PAYLOAD_NAMES if isinstance(value, ast.Dict) else ()
            for name in dict.fromkeys(each.id for each in named if each.id not in kept):
                yield (
                    *program.place(statement.lineno),
                    f"{name} is overwritten before it is read, so the value of a run is lost: take this out, or"
                    " give it another name",
                )
        waiting -= {each.id for each in named}


def undeclared(examined: Examined) -> Iterator[Found]:
    """Entries of `function_params` that are read and not declared: `--param` refuses them."""
    program, known = examined.program, parameters(examined)
    if known.payload is None or known.entries is None:
        return
    for name, line in reads(program).by_key.items():
        if name not in known.entries and name not in known.declared:
            yield (
                *program.place(line),
                f"function_params has no {name!r}: declare it with a default in {known.payload.name}, or as a name of"
                " the parameters cell",
            )
