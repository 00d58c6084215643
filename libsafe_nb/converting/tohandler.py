"""A notebook as a plain handler. Pure."""

from __future__ import annotations

import ast
import builtins
import dataclasses
from collections.abc import Iterator
from pathlib import PurePosixPath

from libsafe_nb import handlers, notebook, syntax
from libsafe_nb.converting import cells, moving, names, written
from libsafe_nb.converting.cells import EXPECTED, PARAMETERS, Cell
from libsafe_nb.converting.moving import guarded, indented
from libsafe_nb.converting.tonotebook import CALL, RETURN, SHIM
from libsafe_nb.errors import NotebookError
from libsafe_nb.notebook import PAYLOAD_NAMES, FunctionNotebook

_OURS = "libsafe_nb"


@guarded
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
    # The cells as a run has them: a payload literal amid other code has given way to the run's.
    found = list(cells.read(function.node.cells, name))
    added = names.prefix(
        [each.tree for each in found if not (_is_ours(each) and {SHIM, CALL, RETURN} & each.tags)]
    )
    body, author, returns, awaited = _body(function, found, added)
    scope = cells.check(author)
    before = []
    for each in sorted(scope.bound & set(dir(builtins))):
        # Before it is bound, it is the builtin.
        before.append(f"{each} = _nb_builtins.{each}".replace("_nb_", added))
    if "__name__" in scope.free and not any("__name__ = " in each for each in body):
        before.append('__name__ = "__main__"')
    title = str(function.metadata.get("title") or PurePosixPath(name).stem)
    around = (
        written.head(
            title=_quoted(title),
            name=_quoted(PurePosixPath(name).name),
            future=[each for cell in found for each in cell.future],
            awaited=awaited,
            added=added,
        )
        + written.bound(
            function.parameters, strict=bool(function.metadata.get("strict_params")), name=name, added=added
        )
        + written.named(classes=any(f"{added}named(" in each for each in body), added=added)
        + written.answer(returns=returns, added=added)
        + f"{'async ' if awaited else ''}def {added}run({added}context, {added}event, {added}payload):\n"
    )
    all_ = [*(["\n".join(before)] if before else []), *body]
    if returns:
        all_.append(written.RETURN.replace("_nb_", added))
    made = around + "\n\n".join(indented_(each) for each in all_) + "\n"
    try:
        compile(made, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as exc:
        raise NotebookError(
            f"{name}: its cells cannot be one function ({exc.msg if isinstance(exc, SyntaxError) else exc})",
            notebook=name,
        ) from exc
    return made


def _quoted(text: str) -> str:
    """Text that can stand in a docstring."""
    return text.replace("\\", "").replace('"', "'").replace("\0", "")


def indented_(text: str) -> str:
    if text.startswith("return "):
        return f"    {text}"
    return indented(text)


def _body(
    function: FunctionNotebook, found: list[Cell], added: str
) -> tuple[list[str], list[Cell], bool, bool]:
    """What the function does, part by part; the author's own cells; whether it returns something, and awaits."""
    body: list[str] = []
    author: list[Cell] = []
    returns = awaited = False
    injected = written.injected(function.payload_name, function.parameters).replace("_nb_", added)
    has_parameters = any(
        "parameters" in cell.metadata.get("tags", [])
        for cell in function.node.cells
        if cell.cell_type == "code"
    )
    if not has_parameters:
        # There a run puts its payload.
        body.append(injected)
    whole = ast.Module([each for cell in found for each in cell.tree.body], [])
    hidden = bool(names.Scope(whole).bound & {"Exception", "SystemExit"})
    for cell in found:
        if SHIM in cell.tags and _is_ours(cell):
            body += list(_shim(cell, added))
        elif CALL in cell.tags and _is_ours(cell):
            awaited = handlers.is_async(whole) or _begins_async(whole)
            returns = True
            body.append(_call(whole, awaited).replace("_nb_", added))
        elif RETURN in cell.tags and (value := _returned(cell)) is not None:
            returns = True
            body.append(f"{added}result = {moving.expression(cell.text, value)}")
            author.append(dataclasses.replace(cell, tree=ast.Module([ast.Expr(value)], [])))
        elif PARAMETERS in cell.tags:
            own = _own(cell, found)
            author.append(own)
            body += [own.text.strip("\n")] if own.tree.body else []
            body.append(injected)
        else:
            own = _glued(cell, added)
            author.append(own)
            if not own.tree.body:
                continue
            text = _named(own, added).strip("\n")
            if EXPECTED in cell.tags:
                text = written.expected(indented(text), added=added, hidden=hidden)
            body.append(text)
    if has_parameters and injected not in body:
        # The parameters cell is skipped, and what is given stands after it all the same.
        body.insert(0, injected)
    return body, author, returns, awaited


def _is_ours(cell: Cell) -> bool:
    """Whether a cell is as a conversion made it: one import of ours and what is done with it."""
    imported: set[str] = set()
    for each in cell.tree.body:
        if isinstance(each, ast.ImportFrom) and (each.module or "").startswith(f"{_OURS}.compat"):
            imported |= {alias.asname or alias.name for alias in each.names}
        elif isinstance(each, (ast.Assign, ast.Expr)):
            value = each.value.value if isinstance(each.value, ast.Await) else each.value
            is_none = isinstance(value, ast.Constant) and value.value is None
            if not is_none and not (
                isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[0] in imported
            ):
                return False
        else:
            return False
    return True


def _shim(cell: Cell, added: str) -> Iterator[str]:
    for each in cell.tree.body:
        if isinstance(each, ast.Assign):
            is_event = isinstance(each.value, ast.Call) and ast.unparse(each.value.func).endswith("Event")
            yield f"{ast.unparse(each.targets[0])} = {added}{'event' if is_event else 'context'}"
        elif isinstance(each, ast.Expr) and isinstance(each.value, ast.Call):
            yield f"__name__ = {ast.unparse(each.value.args[-1])}"


def _returned(cell: Cell) -> ast.expr | None:
    """What the cell that stands for a return gives back."""
    last = cell.tree.body[-1] if cell.tree.body else None
    if not isinstance(last, ast.Expr):
        return None
    if len(cell.tree.body) == 1:
        return last.value
    call = last.value
    if _is_ours(cell) and isinstance(call, ast.Call) and ast.unparse(call.func).endswith("called.record"):
        return call.args[0] if len(call.args) == 1 and not call.keywords else None
    return None


def _begins_async(whole: ast.Module) -> bool:
    return any(isinstance(each, ast.AsyncFunctionDef) and each.name == handlers.BEGIN for each in whole.body)


def _call(whole: ast.Module, awaited: bool) -> str:
    """The call of a handler that stayed a function."""
    made = []
    if handlers.begins(whole):
        made.append(written.BEGIN_AWAITED if awaited else written.BEGIN_PLAIN)
    made.append(written.CALL)
    return "\n".join([*made, written.AWAITED] if awaited else made)


def _glued(cell: Cell, added: str) -> Cell:
    """The cell with `import scrapbook as sb`, which is no part of the vendor's platform, replaced by what logs."""
    text = cell.text
    for each in reversed(cell.tree.body):
        if isinstance(each, ast.Import) and [alias.name for alias in each.names] == ["scrapbook"]:
            alone = moving.replaced(text, each) != moving.replaced(text, each, "pass")
            if not alone:
                continue
            name = each.names[0].asname or "scrapbook"
            text = moving.replaced(text, each, written.GLUE.format(name=name).replace("_nb_", added))
    if text == cell.text:
        return cell
    return dataclasses.replace(cell, text=text, tree=cells.tree(text, cell.place))


def _named(cell: Cell, added: str) -> str:
    """The cell's text with a line after each class that gives it the name it has in a notebook."""
    lines = cell.text.split("\n")
    classes = [each for each in names.own(cell.tree.body) if isinstance(each, ast.ClassDef)]
    inner = {one for each in classes for one in ast.walk(each) if one is not each}
    for each in sorted(classes, key=lambda one: one.lineno, reverse=True):
        if each not in inner:
            lines.insert(each.end_lineno or each.lineno, f"{_margin(lines, each)}{added}named({each.name})")
    return "\n".join(lines)


def _margin(lines: list[str], statement: ast.stmt) -> str:
    return lines[statement.lineno - 1].encode()[: statement.col_offset].decode()


def _own(cell: Cell, found: list[Cell]) -> Cell:
    """The parameters cell without the sample payload and the library's types, which no handler needs."""
    text = cell.text
    ours: set[str] = set()
    for each in reversed(cell.tree.body):
        if isinstance(each, (ast.Import, ast.ImportFrom)) and _OURS in ast.unparse(each):
            ours |= {(alias.asname or alias.name).split(".")[0] for alias in each.names}
            text = moving.replaced(text, each)
        elif _is_sample(each, cell):
            text = moving.replaced(text, each)
    own = dataclasses.replace(cell, text=text, tree=cells.tree(text, cell.place))
    plain = syntax.parse(text)
    for each in plain.body:
        if isinstance(each, ast.AnnAssign):
            each.annotation = ast.Constant(None)
    for other, tree in [(own, plain), *((each, each.tree) for each in found if each is not cell)]:
        if {SHIM, CALL, RETURN} & other.tags:
            continue
        for name in sorted(ours & names.words([tree])):
            raise NotebookError(
                f"{other.place}: uses {name} of {_OURS}, which is not where the vendor's functions run"
            )
    if ours:
        # The annotations are the library's, and evaluated by nobody in a function.
        own = dataclasses.replace(own, tree=plain)
    return own


def _is_sample(statement: ast.stmt, cell: Cell) -> bool:
    """Whether it assigns the payload's sample and nothing in its cell uses that."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    target = targets[0] if len(targets) == 1 else None
    if not isinstance(target, ast.Name) or target.id not in PAYLOAD_NAMES:
        return False
    value = getattr(statement, "value", None)
    if notebook.asks_for_payload(value):
        return True
    try:
        ast.literal_eval(value)  # type: ignore[arg-type]  # None is refused as well
    except (ValueError, TypeError, SyntaxError):
        return False
    return not any(
        isinstance(each, ast.Name) and each.id == target.id and isinstance(each.ctx, ast.Load)
        for each in ast.walk(cell.tree)
    )
