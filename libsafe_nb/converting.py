"""
A plain handler as a parameterized notebook, and a notebook as a handler: `libsafe-nb convert`. Pure: text in, text out.

What cannot be carried over with the same meaning is refused, with the cell or line named. Code stays as its author wrote it,
comments included: it is moved by lines and then compared, as a syntax tree, with what it was.
"""

from __future__ import annotations

import ast
import builtins
import functools
import symtable
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, TypeVar

from libsafe_nb import handlers, notebook
from libsafe_nb.declared import Parameter
from libsafe_nb.errors import NotebookError
from libsafe_nb.handlers import Function
from libsafe_nb.notebook import PAYLOAD_NAMES, FunctionNotebook

T = TypeVar("T")

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


def _guarded(convert: Callable[[bytes, str], T]) -> Callable[[bytes, str], T]:
    """
    Refuses what the parser takes and a walk through its tree does not: a sum of a thousand terms is nested so deep. Warnings
    of the author's escapes in strings are for whoever runs the code.
    """

    @functools.wraps(convert)
    def checked(source: bytes, name: str) -> T:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return convert(source, name)
        except (RecursionError, MemoryError) as exc:
            raise NotebookError(
                f"{name}: holds an expression that is nested too deep to be converted", notebook=name
            ) from exc

    return checked


# A handler as a notebook ----------------------------------------------------------------------------------------


@_guarded
def to_notebook(source: bytes, name: str) -> Any:
    """
    The notebook (format 4) that does what a handler does.

    Its cells are the payload, what stands before the handler, and the handler's body, a cell for each part between blank lines.
    A body that a cell cannot hold (a return in its middle, a name that is global elsewhere) stays a function, which the
    last cell calls.

    Raises
    ------
    NotebookError
        Not Python in UTF-8, or no handler.
    """
    import nbformat.v4

    text = handlers.decoded(source, name).replace("\r\n", "\n")
    tree = handlers.parsed(text, name)
    function = handlers.find(tree)
    if function is None:
        raise NotebookError(
            f"{name}: expected def handler(context, event), found no such function", notebook=name
        )
    title = PurePosixPath(name).stem.replace("_", " ")
    about = ast.get_docstring(tree)
    cells = [
        nbformat.v4.new_markdown_cell(f"# {title}" + (f"\n\n{about}" if about else "")),
        nbformat.v4.new_code_cell(PAYLOAD, metadata={"tags": ["parameters"]}),
    ]
    lines = text.split("\n")
    left_out = [function, *(each for each in tree.body if _is_guard(each)), *(tree.body[:1] if about else [])]
    for each in tree.body:
        if each not in left_out and _is_payload(each):
            raise NotebookError(
                f"{name}, line {each.lineno}: assigns an object to the payload's own name in a notebook; rename it first",
                notebook=name,
            )
    cells += [nbformat.v4.new_code_cell(each) for each in _parts(lines, tree.body, left_out=left_out)]
    body = _body(lines, tree, function)
    arguments = [each.arg for each in (*function.args.posonlyargs, *function.args.args)][:2]
    if body is not None:
        shim = _shim(function, arguments)
        if shim:
            cells.append(nbformat.v4.new_code_cell(shim, metadata={"tags": [SHIM]}))
        parts, returned = body
        cells += [nbformat.v4.new_code_cell(each) for each in parts]
        if returned:
            cells.append(nbformat.v4.new_code_cell(returned, metadata={"tags": [RETURN]}))
    else:
        cells += [
            nbformat.v4.new_code_cell(each)
            for each in _parts(lines, [function], after=_before(tree, function))
        ]
        call = f"from libsafe_nb.compat import called\n\n{handlers.call(tree, function, 'called')}"
        cells.append(nbformat.v4.new_code_cell(call, metadata={"tags": [CALL]}))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec})


def _is_guard(statement: ast.stmt) -> bool:
    """`if __name__ == "__main__":`, which is not run where the file is imported."""
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def _is_payload(statement: ast.stmt) -> bool:
    """Whether it assigns what a run would take for the payload and replace."""
    targets = [*getattr(statement, "targets", []), getattr(statement, "target", None)]
    named = any(isinstance(each, ast.Name) and each.id in PAYLOAD_NAMES for each in targets)
    return named and isinstance(getattr(statement, "value", None), ast.Dict)


def _first(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])


def _before(tree: ast.Module, function: Function) -> int:
    """The last line of what stands before the handler."""
    return max([0, *(each.end_lineno or 0 for each in tree.body if each.lineno < function.lineno)])


def _parts(
    lines: list[str], statements: list[ast.stmt], *, after: int = 0, left_out: list[ast.stmt] | None = None
) -> Iterator[str]:
    """The source of statements, cut where a blank line stands before one; comments stay with what follows them."""
    part: list[str] = []
    last = after
    for each in statements:
        end = each.end_lineno or 0
        if each in (left_out or []):
            last = end
            continue
        between = lines[last : _first(each) - 1]
        if part and any(not line.strip() for line in between):
            yield "\n".join(part)
            part = []
        while between and not between[0].strip():
            between.pop(0)
        # Of two statements on one line, that line is there already.
        part += [*between, *lines[max(last, _first(each) - 1) : end]]
        last = end
    if part:
        yield "\n".join(part)


def _body(lines: list[str], tree: ast.Module, function: Function) -> tuple[list[str], str] | None:
    """The body's parts and what it returns at its end; None where cells would not mean the same."""
    statements = list(function.body)
    after = function.body[0].lineno - 1
    while after > function.lineno and lines[after - 1].lstrip().startswith(("#", "\n")):
        after -= 1
    if isinstance(function, ast.AsyncFunctionDef) or function.decorator_list:
        return None
    given = function.args
    if len([*given.posonlyargs, *given.args]) != 2 or given.kwonlyargs or given.vararg or given.kwarg:
        # Names that only a call binds.
        return None
    if handlers.begins(tree):
        return None
    if ast.get_docstring(function) is not None:
        after = statements[0].end_lineno or after
        statements = statements[1:]
    last = statements[-1] if statements else None
    returned = ""
    if isinstance(last, ast.Return):
        statements = statements[:-1]
        returned = _expression("\n".join(lines), last.value) if last.value is not None else ""
    if any(isinstance(each, (ast.Return, ast.Yield, ast.YieldFrom, ast.Await)) for each in _own(statements)):
        return None
    if any(isinstance(each, (ast.Global, ast.Nonlocal)) for each in ast.walk(function)):
        return None
    if _assigned(statements) & _module_names(tree, function):
        # It would become the other code's name too.
        return None
    if any(_is_payload(each) for each in statements) or function.lineno > after:
        return None
    parts = [textwrap.dedent(each) for each in _parts(lines, statements, after=after)]
    try:
        again = [each for part in parts for each in ast.parse(part).body]
    except SyntaxError:
        return None
    if [ast.dump(each) for each in again] != [ast.dump(each) for each in statements]:
        # A text of several lines whose indentation is its own.
        return None
    return parts, returned


def _expression(text: str, node: ast.expr) -> str:
    """An expression as it was written; written anew where it means that only within the brackets around it."""
    written = ast.get_source_segment(text, node) or ""
    try:
        same = ast.dump(ast.parse(written, mode="eval").body) == ast.dump(node)
    except SyntaxError:
        same = False
    return written if same else ast.unparse(node)


def _own(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes, without those within functions that are defined there."""
    for each in statements:
        yield each
        if not isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _own(ast.iter_child_nodes(each))


def _assigned(statements: Iterable[ast.AST]) -> set[str]:
    """Names that statements bind in their own scope; those of comprehensions count too, which does no harm."""
    found: set[str] = set()
    for each in _own(statements):
        if isinstance(each, ast.Name) and not isinstance(each.ctx, ast.Load):
            found.add(each.id)
        elif isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(each.name)
        elif isinstance(each, ast.alias):
            found.add((each.asname or each.name).split(".")[0])
        elif isinstance(each, ast.ExceptHandler) and each.name:
            found.add(each.name)
    return found


def _module_names(tree: ast.Module, function: Function) -> set[str]:
    """Names that the rest of the file shares: a cell of the body that bound one would change what it means there."""
    others = ast.Module([each for each in tree.body if each is not function], [])
    imported = _assigned(each for each in others.body if isinstance(each, (ast.Import, ast.ImportFrom)))
    shared: set[str] = set()
    tables = [symtable.symtable(ast.unparse(others), "handler", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        of_module = table.get_type() == "module"
        shared |= {
            each.get_name()
            for each in table.get_symbols()
            if (of_module and (each.is_assigned() or each.is_namespace()))
            or (not of_module and each.is_global())
        }
    # An import of both binds the same.
    return shared - imported


def _shim(function: Function, arguments: list[str]) -> str:
    """A cell that stands for what Nuclio gives, as far as the body uses it."""
    context, event = [*arguments, "context", "event"][:2]
    nodes = list(ast.walk(function))
    names = [each.id for each in nodes if isinstance(each, ast.Name)]
    used = {
        each.value.id
        for each in nodes
        if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name)
    }
    made = []
    needed = []
    if context in used:
        needed.append("Context")
        made.append(f"{context} = Context()")
    elif context in names:
        # Only handed on, as to the library's Request, which does without.
        made.append(f"{context} = None")
    if event in names:
        needed.append("Event")
        made.append(f"{event} = Event(json_sample)")
    head = [f"from libsafe_nb.compat.called import {', '.join(needed)}", ""] if needed else []
    return "\n".join([*head, *made])


# A notebook as a handler ----------------------------------------------------------------------------------------

_HEAD = '''\
"""{title}

A handler for Nuclio, made of {name} by libsafe-nb convert. It needs the vendor's libnova only.
"""

import json
'''

_PARAMETER = '''

def _parameter(payload, name, default, kind):
    """A parameter of this call; where the platform sends text for a number, a truth value, a list or an object, that."""
    value = payload.get("function_params", {{}}).get(name, default)
    if isinstance(value, str) and kind is not None and kind is not str:
        value = kind(json.loads(value.lower() if kind is bool else value))
    return value
'''

_HANDLER = """

def handler(context, event):
    payload = event.body if isinstance(event.body, dict) else json.loads(event.body)
    try:
        return _run(context, event, payload)
    except BaseException:
        # Or the job would stay RUNNING.
        _request(context, event).job_end(False)
        raise


def _request(context, event):
    from {library} import Request

    return Request(context, event)

"""


@_guarded
def to_handler(source: bytes, name: str) -> str:
    """
    A `.py` with `def handler(context, event)` that does what a notebook does, with the vendor's `libnova` alone.

    Each call runs all cells afresh, in one function. The job ends as the cells say; where they say nothing it is COMPLETED, and
    where one raises, FAILED.

    Raises
    ------
    NotebookError
        A cell holds what only Jupyter or libsafe-nb has (magics, `display`, `libsafe_nb`), or what a function cannot hold;
        the cell is named.
    """
    function = notebook.parse(source, name=name)
    if function.language != "python":
        raise NotebookError(
            f"{name}: expected a notebook in Python, got one in {function.language}", notebook=name
        )
    body: list[str] = []
    lifted: list[str] = []
    used = ""
    # The cells as a run has them: a payload literal amid other code has given way to the run's.
    for number, cell in enumerate(function.node.cells, 1):
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or {SHIM, "injected-parameters"} & set(tags):
            continue
        place = f"{name}, cell {number}"
        if "parameters" in tags:
            body += _parameters(function, _tree(cell.source, place), place)
            continue
        if CALL in tags:
            body += _call(function.node.cells)
            continue
        text, future = _without_future(_glue_logged(cell.source, place), place)
        lifted += future
        tree = _tree(text, place)
        _check(tree, place)
        used += text + "\n"
        if RETURN in tags and len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr):
            body.append(f"return {_expression(text, tree.body[0].value)}")
        elif "raises-exception" in tags:
            body.append(
                "try:\n" + _indented(text) + "\nexcept Exception:\n    pass  # as the notebook expects"
            )
        elif tree.body:
            body.append(text.strip("\n"))
    library = "libnova.common.nuclio.Request" if "libnova.common" in used else "libnova.com.Nuclio.Request"
    if "job_end" not in used:
        end = "_request(context, event).job_end(True)"
        body.insert(len(body) - 1 if body and body[-1].startswith("return ") else len(body), end)
    if function.payload_name != "payload":
        body.insert(0, f"{function.payload_name} = payload")
    title = (
        str(function.metadata.get("title") or PurePosixPath(name).stem).replace("\\", "").replace('"', "'")
    )
    made = (
        _HEAD.format(title=title, name=PurePosixPath(name).name.replace("\\", "").replace('"', "'"))
        + (_PARAMETER.format() if any("_parameter(" in each for each in body) else "")
        + _HANDLER.format(library=library)
        + "\ndef _run(context, event, payload):\n"
        + "\n\n".join(_indented(each) for each in body)
        + "\n"
    )
    if lifted:
        made = made.replace(
            "\n\nimport json\n", "\n\n" + "\n".join(dict.fromkeys(lifted)) + "\n\nimport json\n", 1
        )
    try:
        compile(made, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as exc:
        raise NotebookError(
            f"{name}: its cells cannot be one function ({exc.msg if isinstance(exc, SyntaxError) else exc})",
            notebook=name,
        ) from exc
    return made


def _tree(text: str, place: str) -> ast.Module:
    try:
        return handlers.tree(text)
    except handlers.UNPARSED as exc:
        raise NotebookError(
            f"{place}: expected plain Python, as a handler has no magics, got something else ({exc})"
        ) from exc


def _without_future(text: str, place: str) -> tuple[str, list[str]]:
    """The cell without its `from __future__` lines, and those: they must stand first in the file."""
    found = [
        each
        for each in _tree(text, place).body
        if isinstance(each, ast.ImportFrom) and each.module == "__future__"
    ]
    lines = text.split("\n")
    for each in found:
        for number in range(each.lineno - 1, each.end_lineno or each.lineno):
            lines[number] = ""
    return "\n".join(lines), [ast.unparse(each) for each in found]


_GLUE = """class {name}:  # scrapbook's glue: results go to the log
    glue = staticmethod(lambda name, data, *more, **options: context.logger.info("%s = %s", name, data))"""


def _glue_logged(text: str, place: str) -> str:
    """The cell with `import scrapbook as sb`, which is no part of the vendor's platform, replaced by what logs."""
    for each in _tree(text, place).body:
        if isinstance(each, ast.Import) and [alias.name for alias in each.names] == ["scrapbook"]:
            lines = text.split("\n")
            if lines[each.lineno - 1].strip() == ast.unparse(each):
                lines[each.lineno - 1] = _GLUE.format(name=each.names[0].asname or "scrapbook")
                return _glue_logged("\n".join(lines), place)
    return text


_JUPYTER = {"display", "get_ipython", "In", "Out", "exit", "quit"}


def _check(tree: ast.Module, place: str) -> None:
    for each in ast.walk(tree):
        if isinstance(each, ast.Import):
            modules = [alias.name for alias in each.names]
        elif isinstance(each, ast.ImportFrom):
            modules = [each.module or ""]
            if any(alias.name == "*" for alias in each.names):
                raise NotebookError(
                    f"{place}: 'from {each.module} import *' cannot stand in a function; name what it brings"
                )
        else:
            modules = []
        for module in modules:
            if module.split(".")[0] in ("libsafe_nb", "IPython", "scrapbook"):
                raise NotebookError(
                    f"{place}: imports {module}, which is not where the vendor's functions run"
                )
        if isinstance(each, ast.Name) and each.id in _JUPYTER:
            raise NotebookError(f"{place}: uses {each.id}, which only Jupyter has")
        if isinstance(each, ast.Call) and ast.unparse(each.func) in ("sys.exit", "os._exit"):
            raise NotebookError(
                f"{place}: calls {ast.unparse(each.func)}, which would end the worker that runs the handler"
            )
        if isinstance(each, ast.Global):
            raise NotebookError(
                f"{place}: 'global {each.names[0]}' would be another name in a handler; hand it over instead"
            )
    if any(isinstance(each, (ast.Await, ast.AsyncFor, ast.AsyncWith)) for each in _own(tree.body)):
        raise NotebookError(f"{place}: awaits at its top, which a handler does not; use asyncio.run")


def _parameters(function: FunctionNotebook, tree: ast.Module, place: str) -> list[str]:
    """The parameters cell: the payload is the call's, and each further name takes its value from it."""
    made: list[str] = []
    for each in tree.body:
        targets = (
            each.targets
            if isinstance(each, ast.Assign)
            else [each.target]
            if isinstance(each, ast.AnnAssign)
            else []
        )
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        if not targets:
            if isinstance(each, (ast.Import, ast.ImportFrom)) and "libsafe_nb" in ast.unparse(each):
                continue
            made.append(ast.unparse(each))
            continue
        if set(names) & set(PAYLOAD_NAMES):
            default = getattr(each, "value", None)
            made += _defaults(function, default)
            continue
        value = ast.unparse(each.value) if getattr(each, "value", None) is not None else "None"  # type: ignore[attr-defined]
        for name in names:
            declared = function.parameters.get(name)
            if declared is None:
                raise NotebookError(f"{place}: {name} is not declared as a parameter")
            made.append(f"{name} = _parameter(payload, {name!r}, {value}, {_kind(declared)})")
    return ["\n".join(made)] if made else []


def _call(cells: Iterable[Any]) -> list[str]:
    """The call of a handler that stayed a function."""
    tree = ast.parse(
        "\n".join(each.source for each in cells if each.cell_type == "code" and "def " in each.source)
    )
    made = ["init_context(context)"] if handlers.begins(tree) else []
    if any(isinstance(each, ast.AsyncFunctionDef) and each.name == handlers.BEGIN for each in tree.body):
        made = ["import asyncio", "asyncio.run(init_context(context))"]
    if isinstance(handlers.find(tree), ast.AsyncFunctionDef):
        return [*made, "import asyncio", "return asyncio.run(handler(context, event))"]
    return [*made, "return handler(context, event)"]


def _defaults(function: FunctionNotebook, literal: ast.expr | None) -> list[str]:
    """Parameters of the sample payload: their defaults count in a run, so they do here."""
    found: Mapping[str, Any] = {
        each.name: each.default for each in function.parameters.values() if each.in_payload
    }
    if not found:
        return []
    return [
        f'{function.payload_name}["function_params"] = '
        f'{{**{dict(found)!r}, **payload.get("function_params", {{}})}}'
    ]


def _kind(parameter: Parameter) -> str:
    kind = parameter.type
    return (
        kind.__name__
        if isinstance(kind, type)
        and kind.__name__ in ("int", "float", "bool", "list", "dict")
        and hasattr(builtins, kind.__name__)
        else "None"
    )


def _indented(text: str) -> str:
    """Python four columns to the right; the inner lines of texts that span several stay as they are."""
    inside: set[int] = set()
    for each in ast.walk(ast.parse(text)):
        if isinstance(each, (ast.Constant, ast.JoinedStr)) and (each.end_lineno or 0) > each.lineno:
            if isinstance(each, ast.Constant) and not isinstance(each.value, (str, bytes)):
                continue
            inside.update(range(each.lineno + 1, (each.end_lineno or 0) + 1))
    return "\n".join(
        line if number in inside or not line.strip() else f"    {line}"
        for number, line in enumerate(text.split("\n"), 1)
    )
