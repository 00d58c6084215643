"""
A function notebook: its parameters cell, and the copy of it that is executed. Pure: no disk, no network.

One cell tagged `parameters` assigns the payload to `json_sample` (the vendor page's name) or `payload`; further
names assigned there are typed parameters (contract 4). papermill injects the real values after that cell. A cell
that assigns the payload *and* does other work, as the vendor page's sample does, would undo the injection, so there
the literal is replaced (by syntax tree) with the injected value, and the record says so.
"""

from __future__ import annotations

import ast
import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from libsafe_nb import declared, handlers, languages, percent, record, syntax
from libsafe_nb.declared import Parameter, annotation, type_of
from libsafe_nb.errors import NotebookError
from libsafe_nb.secrets import SAMPLE_KEY, weakness

PAYLOAD_NAMES = ("json_sample", "payload")
MAX_BYTES = 256 * 1024 * 1024
BLANK = "[redacted]"
"""What stands where a pasted key was taken out."""


@dataclass(frozen=True)
class Substitution:
    """
    Where the source was changed: cell id, 1-based first and last line.

    `name` is the payload's where its literal gave way to the injected one, or the path within it, such as
    `json_sample.api.key_user`, where a pasted key was taken out.
    """

    cell: str
    name: str
    first_line: int
    last_line: int


@dataclass(frozen=True)
class FunctionNotebook:
    """
    A notebook ready to run.

    Attributes
    ----------
    node
        The notebook to give to papermill: literals substituted, nothing injected yet.
    payload_name
        `json_sample` or `payload`; `json_sample` where the notebook assigns neither.
    code_sha256
        Of the code cells as the author wrote them (`record.code_hash`).
    """

    name: str
    node: Any
    payload_name: str
    parameters: Mapping[str, Parameter]
    substitutions: tuple[Substitution, ...]
    language: str
    kernel_name: str | None
    sha256: str
    code_sha256: str
    metadata: Mapping[str, Any]
    pasted: Mapping[str, Any]
    """What the payload literal in the notebook holds under `api`: keys that must not be stored."""
    is_handler: bool = False
    """Made of a plain handler (`handlers.py`), which declares no parameters: it takes what it is given."""

    @property
    def tags(self) -> tuple[tuple[str, ...], ...]:
        """Those of each of the code cells that are the author's, in order."""
        tags = (tuple(cell.metadata.get("tags", ())) for cell in self.node.cells if cell.cell_type == "code")
        return tuple(each for each in tags if not record.ADDED & set(each))


def parse(source: bytes, *, name: str) -> FunctionNotebook:
    """
    Read a notebook file's bytes, to run it.

    Raises
    ------
    NotebookError
        Not a notebook, too large, or two cells tagged `parameters`.
    """
    return _prepare(read(source, name=name), name=name, sha256=hashlib.sha256(source).hexdigest())


def read(source: bytes, *, name: str) -> Any:
    """
    A notebook file's bytes as a notebook of format 4, whatever its cells hold: here alone notebooks are read.

    Parameters
    ----------
    name
        Its path or address. One that ends in `.py` is read as a notebook in percent format (`percent.py`) or, where it has
        no such cells, as a handler (`handlers.py`).

    Raises
    ------
    NotebookError
        Not a notebook, or too large.
    """
    import nbformat

    if len(source) > MAX_BYTES:
        raise NotebookError(f"{name}: expected at most {MAX_BYTES} bytes, got {len(source)}", notebook=name)
    try:
        with warnings.catch_warnings():
            # Of what is mended here.
            warnings.simplefilter("ignore")
            text = source.decode("utf-8-sig")
            found = None if percent.is_script(name) else json.loads(text)
            if percent.is_script(name) and not percent.is_notebook(source) and handlers.is_handler(source):
                node = handlers.as_notebook(source, name)
            elif percent.is_script(name):
                node = percent.read(source, name=name)
            elif isinstance(found, dict) and found.get("nbformat") == 4:
                # Not by `reads`, which gives chance ids to cells that have none.
                node = nbformat.v4.to_notebook(found)
            else:
                node = nbformat.reads(text, as_version=4)
                for cell in node.cells:
                    cell.pop("id", None)
            _mend(node)
            _, node = nbformat.validator.normalize(node)
            nbformat.validate(node)
    except UnicodeDecodeError as exc:
        raise NotebookError(
            f"{name}: expected a notebook in UTF-8, got byte 0x{source[exc.start]:02x}", notebook=name
        ) from exc
    except NotebookError:
        raise
    except Exception as exc:  # nbformat raises whatever the damage leads to: AttributeError, KeyError …
        raise NotebookError(
            f"{name}: expected a Jupyter notebook, got something else ({_reason(exc)})", notebook=name
        ) from exc
    return node


def _reason(exc: Exception) -> str:
    try:
        lines = str(exc).strip().splitlines()
    except RecursionError:
        # jsonschema's errors show what they are of, however deep that is.
        lines = []
    return lines[0][:160] if lines else type(exc).__name__


def _mend(node: Any) -> None:
    """
    Give cells what other writers leave out, as papermill does, and what formats before 4.5 do not have.

    Ids come from the cell's place: chance ones would give the same notebook another code hash each time.
    """
    taken = {cell.get("id") for cell in node.cells}
    for index, cell in enumerate(node.cells):
        if cell.cell_type == "code":
            cell.setdefault("outputs", [])
            cell.setdefault("execution_count", None)
        if "id" not in cell:
            names = (f"cell-{index}{tail}" for tail in ("", *range(1000)))
            cell["id"] = next(name for name in names if name not in taken)
            taken.add(cell["id"])
    node["nbformat_minor"] = max(5, node.get("nbformat_minor", 0))


def from_script(source: bytes, *, name: str) -> FunctionNotebook:
    """
    A plain Python script as a one-cell notebook (contract 2, `exec`).

    Raises
    ------
    NotebookError
        Not Python, or a handler, which nothing in the file calls.
    """
    import nbformat.v4

    try:
        text = source.decode("utf-8-sig")
        syntax.parse(text)
    except (UnicodeDecodeError, SyntaxError, ValueError) as exc:
        raise NotebookError(
            f"{name}: expected a Python script, got something else ({exc})", notebook=name
        ) from exc
    if handlers.is_handler(source) and handlers.does_nothing_alone(source):
        raise NotebookError(
            f"{name}: expected a script that does something, got a handler that nothing calls; "
            f"run it with: libsafe-nb run {name}",
            notebook=name,
        )
    cell = nbformat.v4.new_code_cell(text, id="script")
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    node = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": spec})
    return _prepare(node, name=name, sha256=hashlib.sha256(source).hexdigest())


def _prepare(node: Any, *, name: str, sha256: str) -> FunctionNotebook:
    try:
        code_sha256 = record.code_hash(node.cells)
    except ValueError as exc:
        raise NotebookError(
            f"{name}: expected a notebook whose code is text, got half a character (a lone surrogate) in it",
            notebook=name,
        ) from exc
    spec = node.metadata.get("kernelspec", {})
    language = (
        spec.get("language")
        or node.metadata.get("language_info", {}).get("name")
        or languages.OF_KERNELS.get(spec.get("name"), "python")
    )
    tagged = [cell for cell in node.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) > 1:
        raise NotebookError(
            f"{name}: expected one cell tagged 'parameters', got {len(tagged)}", notebook=name
        )
    is_handler = handlers.is_made(node.metadata)
    found = _python(node, tagged) if language == "python" else _other(tagged, language)
    if is_handler:
        # What is assigned in a handler's file is its own: the payload comes with the event.
        found.name, found.parameters = None, {}
    described = node.metadata.get("libsafe")
    return FunctionNotebook(
        name=name,
        node=node,
        payload_name=found.name or PAYLOAD_NAMES[0],
        parameters=found.parameters,
        substitutions=tuple(found.substitutions),
        language=language,
        kernel_name=spec.get("name"),
        sha256=sha256,
        code_sha256=code_sha256,
        metadata=described if isinstance(described, dict) else {},
        pasted=found.pasted,
        is_handler=is_handler,
    )


class _Found:
    def __init__(self) -> None:
        self.name: str | None = None
        self.parameters: dict[str, Parameter] = {}
        self.substitutions: list[Substitution] = []
        self.pasted: dict[str, Any] = {}


def _python(node: Any, tagged: list[Any]) -> _Found:
    found = _Found()
    is_handler = handlers.is_made(node.metadata)
    for cell in node.cells:
        if cell.cell_type != "code" or "injected-parameters" in cell.metadata.get("tags", []):
            continue
        body = _statements(cell.source)
        assigned = {target: (statement, value) for statement, target, value in _assignments(body)}
        payload = next((each for each in PAYLOAD_NAMES if each in assigned), None)
        is_tagged = cell in tagged
        if payload and found.name is None:
            found.name = payload
            _declare_payload(found, _sample(assigned[payload][1]))
        if is_tagged and _only_parameters(body):
            if payload:
                found.substitutions += _blank_keys(cell, payload, assigned[payload][1])
            for target, (statement, value) in assigned.items():
                if target not in PAYLOAD_NAMES:
                    found.parameters[target] = declared = _declare(target, statement, value)
                    if declared.secret and isinstance(declared.default, str):
                        found.pasted[target] = declared.default
            found.substitutions += _blank_secrets(cell, found)
        elif (
            payload
            and not is_handler
            and (_is_literal(assigned[payload][1]) or asks_for_payload(assigned[payload][1]))
        ):
            # Who asks for the payload is given the run's; a literal gives way to it.
            if not asks_for_payload(assigned[payload][1]):
                found.substitutions.append(_substitute(cell, payload, assigned[payload][0]))
            if is_tagged:
                cell.metadata["tags"] = [tag for tag in cell.metadata["tags"] if tag != "parameters"]
    return found


def _other(tagged: list[Any], language: str) -> _Found:
    """In another language the payload is JSON text, and what the language tells of a value is its type (`languages.py`)."""
    found = _Found()
    for cell in tagged:
        assigned = languages.declared(language, cell.source)
        found.name = next((each for each in PAYLOAD_NAMES if each in assigned), None)
        sample = languages.payload_text(assigned.get(found.name) if found.name else None)
        _declare_payload(found, sample)
        for name, value in found.pasted.items():
            written = json.dumps(value)[1:-1] if isinstance(value, str) else ""
            if name != "url" and written in cell.source and _may_be_key(value):
                first = cell.source[: cell.source.index(written)].count("\n") + 1
                cell.source = cell.source.replace(written, BLANK)
                found.substitutions.append(Substitution(cell.id, f"{found.name}.api.{name}", first, first))
        for name, value in assigned.items():
            if name not in PAYLOAD_NAMES:
                # Of bash's values, which are all text, nothing is known.
                kind = Any if language == languages.BASH else type_of(value)
                found.parameters[name] = Parameter(name, kind, value, in_payload=False)
    return found


def _statements(source: str) -> list[ast.stmt]:
    """The cell's top-level statements; none where it holds magics, which are not Python, or nests too deep for the parser."""
    try:
        with warnings.catch_warnings():
            # Of the author's escapes in strings and the like; the kernel tells them.
            warnings.simplefilter("ignore")
            return syntax.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _assignments(body: list[ast.stmt]) -> Iterable[tuple[ast.stmt, str, ast.expr | None]]:
    for statement in body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    yield statement, target.id, statement.value
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement, statement.target.id, statement.value


def _only_parameters(body: list[ast.stmt]) -> bool:
    allowed = (ast.Assign, ast.AnnAssign, ast.Import, ast.ImportFrom)
    return all(
        isinstance(each, allowed) or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in body
    )


def _is_literal(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Dict)


def asks_for_payload(value: ast.expr | None) -> bool:
    """Whether it is `libsafe_nb.payload(…)`, by which a notebook gets its payload in an interactive session."""
    return isinstance(value, ast.Call) and ast.unparse(value.func) in ("libsafe_nb.payload", "payload")


def _substitute(cell: Any, name: str, statement: ast.stmt) -> Substitution:
    """Replace the literal by the injected value; the number of lines stays, so tracebacks still fit."""
    first, last = statement.lineno, statement.end_lineno or statement.lineno
    lines = cell.source.split("\n")
    lines[first - 1 : last] = [f"{name} = {name}  # the literal here was replaced by libsafe-nb"] + [""] * (
        last - first
    )
    cell.source = "\n".join(lines)
    return Substitution(cell=cell.id, name=name, first_line=first, last_line=last)


def _blank_keys(cell: Any, name: str, literal: ast.expr | None) -> list[Substitution]:
    """
    Take pasted keys out of a payload literal, which the injected cell overrides: no working file may hold one.

    The documented sample value stays, and so does what is too weak to be a key (`secrets.weakness`).
    """
    pasted = [
        (f"{name}.api.{key}", value)
        for key, value in _items(_item(literal, "api"))
        if key != "url" and isinstance(value, ast.Constant) and _may_be_key(value.value)
    ]
    _blank(cell, [value for _, value in pasted])
    return [
        Substitution(cell.id, path, value.lineno, value.end_lineno or value.lineno) for path, value in pasted
    ]


def _blank(cell: Any, values: list[ast.expr]) -> None:
    """Put a mark in the place of each literal; the number of lines stays."""
    lines = cell.source.encode().split(b"\n")
    # From the last to the first, so that positions before it stay. The syntax tree counts columns in bytes of UTF-8.
    for value in sorted(values, key=lambda each: (each.lineno, each.col_offset), reverse=True):
        first, last = value.lineno - 1, (value.end_lineno or value.lineno) - 1
        before, after = lines[first][: value.col_offset], lines[last][value.end_col_offset :]
        lines[first : last + 1] = [before + f'"{BLANK}"'.encode() + after] + [b""] * (last - first)
    cell.source = b"\n".join(lines).decode()


def _blank_secrets(cell: Any, found: _Found) -> list[Substitution]:
    """Take out what is pasted as the default of a secret parameter: one after the other, as positions move."""
    taken: list[Substitution] = []
    while True:
        for statement, target, value in _assignments(_statements(cell.source)):
            pasted = isinstance(value, ast.Constant) and _may_be_key(value.value) and value.value != BLANK
            if (
                target in found.parameters
                and found.parameters[target].secret
                and value is not None
                and pasted
            ):
                _blank(cell, [value])
                taken.append(
                    Substitution(cell.id, target, statement.lineno, statement.end_lineno or statement.lineno)
                )
                break
        else:
            return taken


def _items(literal: ast.expr | None) -> list[tuple[Any, ast.expr]]:
    if not isinstance(literal, ast.Dict):
        return []
    return [
        (key.value, value)
        for key, value in zip(literal.keys, literal.values, strict=True)
        if isinstance(key, ast.Constant)
    ]


def _item(literal: ast.expr | None, name: str) -> ast.expr | None:
    return next((value for key, value in _items(literal) if key == name), None)


def _may_be_key(value: Any) -> bool:
    return isinstance(value, str) and value != SAMPLE_KEY and not weakness(value)


def _declare_payload(found: _Found, default: Any) -> None:
    """Take keys and declared parameters from the payload that the notebook holds, as far as it is one."""
    api, declared = (
        default.get(name) if isinstance(default, dict) else None for name in ("api", "function_params")
    )
    if isinstance(api, dict):
        found.pasted.update(api)
    if isinstance(declared, dict):
        for name, each in declared.items():
            found.parameters[str(name)] = Parameter(str(name), type_of(each), each, in_payload=True)


def _sample(value: ast.expr | None) -> Any:
    """The payload that is written out there; of one that is asked for, the parameters that it is asked with."""
    if isinstance(value, ast.Call) and asks_for_payload(value):
        return {
            "function_params": next(
                (_literal(each.value) for each in value.keywords if each.arg == "params"), {}
            )
        }
    return _literal(value)


def _literal(value: ast.expr | None) -> Any:
    """What is written out there; None for what is computed: nothing can be known of it before it runs."""
    try:
        return ast.literal_eval(value) if value is not None else None
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return None


def _declare(name: str, statement: ast.stmt, value: ast.expr | None) -> Parameter:
    default = _literal(value)
    if isinstance(statement, ast.AnnAssign):
        return Parameter(name, annotation(ast.unparse(statement.annotation)), default, in_payload=False)
    return Parameter(name, type_of(default), default, in_payload=False)


def bind(notebook: FunctionNotebook, given: Mapping[str, Any], *, known_only: bool) -> dict[str, Any]:
    """`given` as the notebook's parameters take it (`declared.bind`)."""
    return declared.bind(notebook.name, notebook.parameters, given, known_only=known_only)
