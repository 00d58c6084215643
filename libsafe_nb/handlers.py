"""
Plain handlers: a `.py` with `def handler(context, event)`, as functions of the vendor's platform are written. Pure.

Nuclio imports such a file and calls its handler. Here it becomes a notebook whose one cell of the author's is the file,
byte for byte; a line before it makes it a module as an import would, a line after it calls the handler
(`compat/called.py`). So it is run, checked and recorded as any notebook is.

Which of three a `.py` is: with `# %%` cells or jupytext's header a notebook (`percent.py`), whatever it defines; else with
a handler, this; else a plain script, for `libsafe-nb exec`.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from libsafe_nb import syntax
from libsafe_nb.errors import NotebookError

NAME = "handler"
BEGIN = "init_context"
MARK = "libsafe_nb"
"""In the notebook's metadata: `{"kind": "handler"}`."""

_CALLED = '__import__("libsafe_nb.compat.called", fromlist=["called"])'
_SPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}

UNPARSED = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What `ast.parse` raises for text that is no Python; the last two for expressions that are nested too deep."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def is_handler(source: bytes) -> bool:
    """Whether Python text defines a `handler` that can be called with a context and an event."""
    try:
        return find(tree(source)) is not None
    except UNPARSED:
        return False


def tree(source: str | bytes) -> ast.Module:
    """Python as a syntax tree, or one of `UNPARSED`; the author's escapes in strings are no warnings of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return syntax.parse(source)


def find(module: ast.Module) -> Function | ast.Lambda | None:
    """
    What is called as the handler: the last that the file binds to the name, as it counts when the file is imported.

    A `def`, also in a branch or a `try:`; another function or lambda that is given the name; the `__call__` of an object that is.
    """
    found = list(_bound(module.body, {}))
    return found[-1] if found and _takes_two(found[-1]) else None


def is_async(module: ast.Module) -> bool:
    """Whether the handler is an `async def`, whichever of its definitions counts."""
    found = list(_bound(module.body, {}))
    return bool(found) and all(
        isinstance(each, ast.AsyncFunctionDef) and each.name != "__call__" for each in found
    )


_Known = dict[str, "Function | ast.Lambda | ast.ClassDef"]


def _bound(statements: list[ast.stmt], known: _Known) -> Iterator[Function | ast.Lambda]:
    """What the statements of a module bind to the handler's name, as far as they show what it is, in order."""
    for each in _at_import(statements):
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            known[each.name] = each
            if each.name == NAME and not isinstance(each, ast.ClassDef):
                yield each
        elif isinstance(each, (ast.Assign, ast.AnnAssign)):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            value = _callable(each.value, known)
            for target in targets:
                if isinstance(target, ast.Name) and value is not None:
                    known[target.id] = value
                    if target.id == NAME and not isinstance(value, ast.ClassDef):
                        yield value


def _at_import(statements: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module with those of its branches, loops and `try:`, save what is for `__main__` alone."""
    for each in statements:
        yield each
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        is_main = isinstance(each, ast.If) and ast.unparse(each.test) == "__name__ == '__main__'"
        yield from _at_import([] if is_main else getattr(each, "body", []))
        for handler in getattr(each, "handlers", []):
            yield from _at_import(handler.body)
        yield from _at_import(getattr(each, "orelse", []))
        yield from _at_import(getattr(each, "finalbody", []))


def _callable(value: ast.expr | None, known: _Known) -> Function | ast.Lambda | ast.ClassDef | None:
    if isinstance(value, ast.Lambda):
        return value
    if isinstance(value, ast.Name):
        return known.get(value.id)
    made = (
        known.get(value.func.id) if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) else None
    )
    if isinstance(made, ast.ClassDef):
        calls = [one for one in made.body if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
        return next((one for one in calls if one.name == "__call__"), None)
    return None


def _takes_two(function: Function | ast.Lambda) -> bool:
    arguments = function.args
    # Of a method, the object itself comes first.
    own = 1 if getattr(function, "name", "") == "__call__" else 0
    places = len(arguments.posonlyargs) + len(arguments.args) - own
    needed = places - len(arguments.defaults)
    return needed <= 2 and (places >= 2 or arguments.vararg is not None)


def does_nothing_alone(source: bytes) -> bool:
    """Whether a script only defines things: run by itself, as `exec` does, nothing would happen."""
    allowed = (
        ast.Import,
        ast.ImportFrom,
        ast.Assign,
        ast.AnnAssign,
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
    )
    return all(
        isinstance(each, allowed) or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in tree(source).body
    )


def as_notebook(source: bytes, name: str) -> Any:
    """
    The notebook (format 4) that runs a handler.

    Parameters
    ----------
    name
        Its path or address; the stem is the module's name, as on Nuclio.

    Raises
    ------
    NotebookError
        Not Python in UTF-8, or without a handler.
    """
    import nbformat.v4

    text = decoded(source, name)
    module = parsed(text, name)
    if find(module) is None:
        raise NotebookError(
            f"{name}: expected def handler(context, event), found no such function", notebook=name
        )
    cells = [
        nbformat.v4.new_code_cell(
            "# The next cell is a handler. It is called as Nuclio calls one, with the payload as the event's body.\n"
            f"{_CALLED}.as_module(globals(), {module_name(name)!r})",
            id="module",
        ),
        nbformat.v4.new_code_cell(text, id=NAME, metadata={"tags": [NAME]}),
        nbformat.v4.new_code_cell(call(module, _CALLED), id="call"),
    ]
    metadata = {"kernelspec": dict(_SPEC), MARK: {"kind": NAME}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def call(module: ast.Module, called: str) -> str:
    """The line that calls the handler of a file; `called` stands for the module `compat/called.py`."""
    more = ", init_context" if begins(module) else ""
    if is_async(module):
        return f"await {called}.call_async({NAME}, json_sample{more})"
    return f"{called}.call({NAME}, json_sample{more})"


def begins(module: ast.Module) -> bool:
    """Whether the file has an `init_context`, however it came by the name."""
    for each in _at_import(module.body):
        names = [each.name] if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) else []
        if isinstance(each, (ast.Assign, ast.AnnAssign)):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        elif isinstance(each, (ast.Import, ast.ImportFrom)):
            names = [alias.asname or alias.name for alias in each.names]
        if BEGIN in names:
            return True
    return False


def is_made(metadata: Mapping[str, Any]) -> bool:
    """Whether a notebook, of which this is the metadata, is one that `as_notebook` made."""
    mark = metadata.get(MARK)
    return isinstance(mark, dict) and mark.get("kind") == NAME


def decoded(source: bytes, name: str) -> str:
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise NotebookError(
            f"{name}: expected Python in UTF-8, got byte 0x{source[exc.start]:02x}", notebook=name
        ) from exc


def parsed(text: str, name: str) -> ast.Module:
    try:
        return tree(text)
    except UNPARSED as exc:
        what = str(exc) or "nested too deep"
        raise NotebookError(f"{name}: expected Python, got something else ({what})", notebook=name) from exc


def module_name(name: str) -> str:
    return re.sub(r"\W", "_", PurePosixPath(name).stem) or NAME
