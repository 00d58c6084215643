"""What the cells of a notebook hold, and which of it the one function of a handler cannot: that is refused. Pure."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from libsafe_nb import handlers
from libsafe_nb.converting import moving, names
from libsafe_nb.errors import NotebookError

PARAMETERS, EXPECTED, SKIPPED, INJECTED = (
    "parameters",
    "raises-exception",
    "skip-execution",
    "injected-parameters",
)


@dataclass(frozen=True)
class Cell:
    """A code cell: where it is (`f.ipynb, cell 2`), and its code without the `future` imports, which stand first in a file."""

    place: str
    tags: frozenset[str]
    text: str
    tree: ast.Module
    future: tuple[str, ...] = ()


def read(cells: Iterable[object], name: str) -> Iterator[Cell]:
    """The code cells that a run executes."""
    for number, cell in enumerate(cells, 1):
        tags = frozenset(cell.metadata.get("tags", []))  # type: ignore[attr-defined]
        if cell.cell_type != "code" or tags & {SKIPPED, INJECTED}:  # type: ignore[attr-defined]
            continue
        place = f"{name}, cell {number}"
        text = moving.lines_of(cell.source)  # type: ignore[attr-defined]
        found = [
            each
            for each in tree(text, place).body
            if isinstance(each, ast.ImportFrom) and each.module == "__future__"
        ]
        for each in reversed(found):
            text = moving.replaced(text, each)
        yield Cell(place, tags, text, tree(text, place), tuple(ast.unparse(each) for each in found))


def tree(text: str, place: str) -> ast.Module:
    """
    A cell's syntax tree.

    Raises
    ------
    NotebookError
        It is not what Python takes at a module's top.
    """
    try:
        found = handlers.tree(text)
        compile(text, place, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except handlers.UNPARSED as exc:
        raise NotebookError(
            f"{place}: expected plain Python, as a handler has no magics, got something else ({exc})"
        ) from exc
    return found


_MODULES = {
    "libsafe_nb": "which is not where the vendor's functions run",
    "IPython": "which is not where the vendor's functions run",
    "ipywidgets": "which is not where the vendor's functions run",
    "scrapbook": "which is not where the vendor's functions run",
    "__main__": "which is another module in a handler",
    "builtins": "whose names are not those of a handler's function",
    "atexit": "which does nothing while the handler's worker lives on",
    "signal": "which would change the worker that runs the handler",
}
_ENDING = frozenset(
    {"_exit", "abort", "execv", "execve", "execvp", "execvpe", "execl", "execlp", "fork", "forkpty"}
)
_FREE = names.OF_FILES | {"input", handlers.NAME, "__builtins__", "__annotations__"}


def check(cells: list[Cell]) -> names.Scope:
    """
    The names of the cells taken together.

    Raises
    ------
    NotebookError
        Something means another thing in one function of a handler; the cell and the line are named.
    """
    scope = names.Scope(ast.Module([each for cell in cells for each in cell.tree.body], []))
    for cell in cells:
        for used in sorted(names.words([cell.tree]) & (scope.free | scope.bound)):
            _check_name(cell, used, scope)
        for each in ast.walk(cell.tree):
            why = _refused(each)
            if why:
                raise NotebookError(f"{cell.place}, line {getattr(each, 'lineno', 1)}: {why}")
        _check_top(cell, scope)
        late = sorted({"singledispatch", "singledispatchmethod", "pydantic"} & names.words([cell.tree]))
        if late and any(each.future for each in cells):
            raise NotebookError(
                f"{cell.place}: {late[0]} reads annotations that are text, and would not find the cells' names in a handler"
            )
    _check_annotated(cells)
    return scope


def _check_name(cell: Cell, used: str, scope: names.Scope) -> None:
    why = None
    if used in scope.free:
        if names.KERNEL.fullmatch(used):
            why = f"uses {used}, which only Jupyter has"
        elif used in _FREE or used in names.frames(cell.tree):
            why = f"uses {used}, which is another thing in a handler"
    elif names.HISTORY.fullmatch(used):
        why = f"uses the name {used}, which Jupyter sets to something else"
    elif used in scope.read_before_bound():
        why = f"a class both reads and binds {used}, which it would not find in a handler; rename one of them"
    line = names.line_of(cell.tree, used)
    if why and line:
        raise NotebookError(f"{cell.place}, line {line}: {why}")


def _refused(each: ast.AST) -> str | None:
    """Why a node cannot be in a handler."""
    if isinstance(each, (ast.Import, ast.ImportFrom)):
        return _refused_import(each)
    if isinstance(each, ast.Global):
        return f"'global {each.names[0]}' would be another name in a handler; hand it over instead"
    if isinstance(each, (ast.Attribute, ast.Name)):
        word = each.attr if isinstance(each, ast.Attribute) else each.id
        of = ast.unparse(each.value) if isinstance(each, ast.Attribute) else ""
        if word in names.INSPECTING:
            return f"uses {word}, which tells something else in a handler"
        if word in _ENDING and of:
            return f"uses {of}.{word}, which would end or double the worker that runs the handler"
        if (of, word) in (("os", "chdir"), ("sys", "argv"), ("sys", "modules")):
            return f"uses {of}.{word}, which is the worker's that runs the handler"
        if word == "set_status":
            return "sets a job's status, which a handler does by job_end"
        if word == "ProcessPoolExecutor" or (word == "Pool" and _is_multiprocessing(of)):
            return f"uses {word}, to which a handler cannot send the functions of cells"
    if isinstance(each, ast.Call) and isinstance(each.func, ast.Attribute):
        texts = [
            one.value
            for one in ast.walk(each)
            if isinstance(one, ast.Constant) and isinstance(one.value, str)
        ]
        if each.func.attr in ("put", "post", "patch") and any(
            one.lstrip("/").startswith("job/") for one in texts
        ):
            return "changes a job over the API, which a handler does by its Request"
        if each.func.attr in ("query", "eval") and any("@" in one for one in texts):
            return f"names a variable in the text of {each.func.attr}, which it may not find in a handler"
    if isinstance(each, ast.Call) and ast.unparse(each.func) in (
        "__import__",
        "import_module",
        "importlib.import_module",
    ):
        module = getattr(each.args[0], "value", None) if each.args else None
        if isinstance(module, str) and module.split(".")[0] in _MODULES:
            return f"imports {module}, {_MODULES[module.split('.')[0]]}"
    if isinstance(each, ast.Constant) and isinstance(each.value, str) and each.value.startswith("__main__."):
        return "names something of __main__, which is another module in a handler"
    return None


def _is_multiprocessing(module: str) -> bool:
    return module in ("multiprocessing", "mp") or "get_context" in module


def _refused_import(each: ast.Import | ast.ImportFrom) -> str | None:
    if isinstance(each, ast.ImportFrom) and each.level:
        return "imports from its own package, which a notebook has not"
    if isinstance(each, ast.ImportFrom) and any(alias.name == "*" for alias in each.names):
        return f"'from {each.module} import *' cannot stand in a function; name what it brings"
    modules = [each.module or ""] if isinstance(each, ast.ImportFrom) else [one.name for one in each.names]
    for module in modules:
        if module.split(".")[0] in _MODULES:
            return f"imports {module}, {_MODULES[module.split('.')[0]]}"
    for alias in each.names if isinstance(each, ast.ImportFrom) else []:
        word = f"{each.module}.{alias.name}" if isinstance(each, ast.ImportFrom) else alias.name
        if alias.name in names.INSPECTING | _ENDING | {"set_status"} or word in (
            "os.chdir",
            "sys.argv",
            "sys.modules",
        ):
            return f"imports {word}, which does something else in a handler"
        if alias.name == "ProcessPoolExecutor" or word == "multiprocessing.Pool":
            return f"imports {word}, to which a handler cannot send the functions of cells"
    return None


def _check_top(cell: Cell, scope: names.Scope) -> None:
    """What stands outside of functions."""

    def refuse(each: ast.AST, why: str) -> None:
        raise NotebookError(f"{cell.place}, line {getattr(each, 'lineno', 1)}: {why}")

    if names.awaits(cell.tree.body):
        refuse(cell.tree, "awaits at its top, which a handler does not")
    of_builtins = set(dir(builtins))
    for each in names.own(cell.tree.body):
        deleted = isinstance(each, ast.Name) and isinstance(each.ctx, ast.Del) and each.id
        dropped = isinstance(each, ast.ExceptHandler) and each.name
        if (deleted or dropped) in of_builtins:
            refuse(each, f"deletes {deleted or dropped}, which in a handler does not bring back the builtin")
        if isinstance(each, ast.AnnAssign) and any(
            isinstance(one, ast.Call) or (isinstance(one, ast.Name) and one.id in scope.free - of_builtins)
            for one in ast.walk(each.annotation)
        ):
            refuse(each, "has an annotation that a notebook evaluates and a handler does not")


def _check_annotated(cells: list[Cell]) -> None:
    """`from __future__ import …` counts in a notebook from its cell on, in a file everywhere."""
    earlier = False
    for cell in cells:
        if cell.future and earlier:
            raise NotebookError(f"{cell.place}: {cell.future[0]} must come before the first annotation")
        # Those of variables of its own are evaluated by no function.
        variables = [each for each in names.own(cell.tree.body) if isinstance(each, ast.AnnAssign)]
        classes = [each for each in ast.walk(cell.tree) if isinstance(each, ast.ClassDef)]
        of_classes = [one for each in classes for one in ast.walk(each)]
        earlier = earlier or any(
            getattr(each, field, None) is not None
            for each in ast.walk(cell.tree)
            if each not in variables or each in of_classes
            for field in ("annotation", "returns")
        )
