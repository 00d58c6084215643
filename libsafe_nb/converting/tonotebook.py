"""A plain handler as a parameterized notebook. Pure."""

from __future__ import annotations

import ast
import builtins
import textwrap
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from libsafe_nb import handlers
from libsafe_nb.converting import moving, names
from libsafe_nb.converting.moving import guarded
from libsafe_nb.errors import NotebookError
from libsafe_nb.handlers import Function
from libsafe_nb.notebook import PAYLOAD_NAMES, asks_for_payload

SHIM, RETURN, CALL = "nuclio-shim", "nuclio-return", "nuclio-call"
"""Tags of the cells that stand for what a notebook has not: a context and an event, a return, and a call of the handler."""

PAYLOAD = """\
# The payload of a run by hand; a run puts its own in its place.
json_sample = {
    "api": {"url": "", "key_user": "", "key_root": ""},
    "function_data": {
        "container": {"id": "1"},
        "user": {"id": "1"},
        "files": {"ids": [], "paths": []},
        "job": {"id": ""},
        "trigger": {"id": "0", "type": "", "regex": ""},
        "function": {"id": "0", "key": ""},
    },
    "function_params": {},
}"""

_BUILTINS = frozenset(dir(builtins))


@guarded
def to_notebook(source: bytes, name: str) -> Any:
    """
    The notebook (format 4) that does what a handler does.

    Its cells are the payload, what stands before the handler, and the handler's body, a cell for each part between blank lines.
    A body that cells may not mean the same (a return in its middle, a name that is used elsewhere) stays a function, which
    the last cell calls.

    Raises
    ------
    NotebookError
        Not Python in UTF-8, no handler, or it uses what a notebook has not (`__file__`); the line is named.
    """
    import nbformat.v4

    text = moving.lines_of(handlers.decoded(source, name))
    tree = handlers.parsed(text, name)
    if handlers.find(tree) is None:
        raise NotebookError(
            f"{name}: expected def handler(context, event), found no such function", notebook=name
        )
    about = ast.get_docstring(tree)
    described = tree.body[:1] if about else []
    guards = [each for each in tree.body if _is_guard(each)]
    run = ast.Module([each for each in tree.body if each not in guards and each not in described], [])
    scope = names.Scope(run)
    _check(run, scope, name)
    added = names.prefix([tree])
    lines = text.split("\n")
    called = f"from libsafe_nb.compat import called as {added}called\n\n"
    # Where the module's own name counts, the notebook is given it, as it is where a handler runs as it is.
    is_named = "__name__" in scope.looked_up or any(
        isinstance(each, ast.Attribute) and each.attr in names.INSPECTING for each in ast.walk(run)
    )
    body = None if is_named else _body(lines, run, scope)
    made: list[tuple[str, str | None]] = [(PAYLOAD, "parameters")]
    if is_named:
        made.append((f"{called}{added}called.as_module(globals(), {handlers.module_name(name)!r})", SHIM))
    left_out = [*described, *([] if is_named else guards)]
    if body is not None:
        function, parts, returned = body
        made += [(each, None) for each in _module(lines, tree, [*left_out, function], name)]
        made += [(each, SHIM) for each in _shim(function, called, f"{added}called")]
        made += [(each, None) for each in parts]
        if returned:
            made.append((f"{called}{added}called.record({returned})", RETURN))
    else:
        made += [(each, None) for each in _module(lines, tree, left_out, name)]
        made.append((called + handlers.call(tree, f"{added}called"), CALL))
    title = PurePosixPath(name).stem.replace("_", " ")
    cells = [nbformat.v4.new_markdown_cell(f"# {title}" + (f"\n\n{about}" if about else ""))]
    cells += [nbformat.v4.new_code_cell(code, metadata={"tags": [tag]} if tag else {}) for code, tag in made]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})


def _is_guard(statement: ast.stmt) -> bool:
    """`if __name__ == "__main__":` and nothing else, which is not run where the file is imported."""
    return (
        isinstance(statement, ast.If)
        and not statement.orelse
        and ast.unparse(statement.test) in ("__name__ == '__main__'", "'__main__' == __name__")
    )


def _is_payload(statement: ast.stmt) -> bool:
    """Whether it assigns what a run would take for the payload and replace."""
    targets = [*getattr(statement, "targets", []), getattr(statement, "target", None)]
    named = any(isinstance(each, ast.Name) and each.id in PAYLOAD_NAMES for each in targets)
    value = getattr(statement, "value", None)
    return named and (isinstance(value, ast.Dict) or asks_for_payload(value))


def _check(run: ast.Module, scope: names.Scope, name: str) -> None:
    """Refuse what would be another thing in a notebook, or what the notebook would take for its own."""

    def refuse(line: int | None, why: str) -> None:
        raise NotebookError(f"{name}, line {line or 1}: {why}", notebook=name)

    for each in run.body:
        if _is_payload(each):
            refuse(
                each.lineno,
                "assigns an object to the payload's own name in a notebook; rename it first",
            )
    for used in sorted(scope.bound | scope.looked_up):
        line = names.line_of(run, used)
        if used == PAYLOAD_NAMES[0]:
            refuse(line, f"uses {used}, which is the payload's own name in a notebook; rename it first")
        if used in scope.free and used in names.OF_FILES:
            refuse(line, f"uses {used}, which a notebook has not")
        if used in scope.free and names.KERNEL.fullmatch(used):
            refuse(line, f"uses {used}, which means something else in a notebook")
        if names.HISTORY.fullmatch(used):
            refuse(line, f"uses the name {used}, which Jupyter sets to something else; rename it first")
    for node in ast.walk(run):
        if isinstance(node, ast.ImportFrom) and node.level:
            refuse(node.lineno, "imports from its own package, which a notebook has not")
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "__main__" in modules:
            refuse(node.lineno, "imports __main__, which is another module in a notebook")


def _module(lines: list[str], tree: ast.Module, left_out: list[ast.stmt], name: str) -> list[str]:
    parts = list(moving.parts(lines, tree.body, left_out=left_out))
    kept = [each for each in tree.body if each not in left_out]
    if moving.same(parts, kept):
        return parts
    # Two statements on a line of which one is left out.
    parts = [ast.unparse(each) for each in kept]
    if not moving.same(parts, kept):
        raise NotebookError(
            f"{name}: expected code that can be cut into cells, got other code", notebook=name
        )
    return parts


def _body(lines: list[str], run: ast.Module, scope: names.Scope) -> tuple[Function, list[str], str] | None:
    """The handler's def, its body's parts and what it returns at its end; None where cells may not mean the same."""
    function = handlers.find(run)
    if not isinstance(function, ast.FunctionDef) or function not in run.body or handlers.begins(run):
        return None
    others = names.Scope(ast.Module([each for each in run.body if each is not function], []))
    if handlers.NAME in scope.looked_up | others.bound or function.name != handlers.NAME:
        return None
    if not _is_plain(function, scope):
        return None
    statements = list(function.body)
    after = function.body[0].lineno - 1
    while after > function.lineno and lines[after - 1].lstrip().startswith(("#", "\n")):
        after -= 1
    if ast.get_docstring(function) is not None:
        after = statements[0].end_lineno or after
        statements = statements[1:]
    last = statements[-1] if statements else None
    returned = ""
    if isinstance(last, ast.Return):
        statements = statements[:-1]
        returned = moving.expression("\n".join(lines), last.value) if last.value is not None else ""
        if isinstance(last.value, ast.Tuple):
            # Or its parts would be arguments.
            returned = ast.unparse(last.value)
    if not _may_be_cells(statements, others) or function.lineno > after:
        return None
    local = scope.of_function(function.name)
    shared = others.bound | others.by_others
    if (local - _same_imports(statements, run)) & shared or local & _BUILTINS:
        # It would become the other code's name too, or be found where the function has no such variable yet.
        return None
    if any(names.KERNEL.fullmatch(each) or each == PAYLOAD_NAMES[0] for each in local - {"_"}):
        return None
    if any(_is_payload(each) for each in statements):
        return None
    parts = [textwrap.dedent(each) for each in moving.parts(lines, statements, after=after)]
    # Not the same: a text of several lines whose indentation is its own.
    return (function, parts, returned) if moving.same(parts, statements) else None


def _is_plain(function: ast.FunctionDef, scope: names.Scope) -> bool:
    """Whether nothing happens where it is defined, and a call binds two names, which are all that it needs."""
    given = function.args
    if len([*given.posonlyargs, *given.args]) != 2 or given.kwonlyargs or given.vararg or given.kwarg:
        return False
    if given.defaults or function.decorator_list or getattr(function, "type_params", []):
        return False
    annotations = [each.annotation for each in (*given.posonlyargs, *given.args)] + [function.returns]
    return all(_is_known(each, scope, attributes=True) for each in annotations if each is not None)


def _is_known(annotation: ast.expr, scope: names.Scope, *, attributes: bool = False) -> bool:
    """Whether nothing can come of evaluating an annotation, or of not doing so."""
    allowed = (ast.Name, ast.Constant, ast.Subscript, ast.BinOp, ast.BitOr, ast.Tuple, ast.List, ast.Load)
    return all(
        isinstance(each, (*allowed, ast.Attribute) if attributes else allowed)
        and (not isinstance(each, ast.Name) or each.id in scope.bound | _BUILTINS)
        for each in ast.walk(annotation)
    )


def _may_be_cells(statements: list[ast.stmt], others: names.Scope) -> bool:
    """Whether statements mean at a module's top what they mean in a function, but for their names."""
    for each in names.own(statements):
        if isinstance(each, (ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.ClassDef)):
            return False
        if isinstance(each, ast.AnnAssign) and not _is_known(each.annotation, others):
            # A function evaluates none.
            return False
    for each in (inner for statement in statements for inner in ast.walk(statement)):
        if isinstance(each, (ast.Global, ast.Nonlocal)):
            return False
    if names.frames(ast.Module([*statements, *others.statements], [])):
        return False
    return not any(
        isinstance(each, ast.ImportFrom) and each.names[0].name == "*" for each in others.statements
    )


def _same_imports(statements: Iterable[ast.stmt], run: ast.Module) -> set[str]:
    """Names that the body binds by imports alone, and by those that stand at the file's top as well."""

    def imported(body: Iterable[ast.AST]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for each in names.own(body):
            if isinstance(each, (ast.Import, ast.ImportFrom)):
                for alias in each.names:
                    bound = (alias.asname or alias.name).split(".")[0]
                    found.setdefault(bound, set()).add(f"{getattr(each, 'module', '')} {ast.unparse(alias)}")
        return found

    here, there = imported(statements), imported(run.body)
    stored = {
        getattr(each, "id", None) or getattr(each, "name", None)
        for each in names.own([*statements, *run.body])
        if not isinstance(getattr(each, "ctx", None), ast.Load) and not isinstance(each, ast.alias)
    }
    return {name for name, of in here.items() if of == there.get(name)} - stored


def _shim(function: Function, head: str, called: str) -> list[str]:
    """A cell that stands for what Nuclio gives, as far as the body uses it."""
    context, event = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    used = {each.id for each in ast.walk(function) if isinstance(each, ast.Name)}
    made = [f"{context} = {called}.Context()"] if context in used else []
    made += [f"{event} = {called}.Event(json_sample)"] if event in used else []
    return [head + "\n".join(made)] if made else []
