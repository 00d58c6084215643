"""
The executed notebook against the record: its code, its cells, its parameters, and the accounts that the engine and
papermill left in it. Pure: both parsed, a sentence out where they do not agree.
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from libsafe_nb import record, syntax
from libsafe_nb.checks import differs, short
from libsafe_nb.redact import find_pasted_keys

_PAPERMILL = {"completed": "completed", "failed": "failed", "not-run": "pending"}

Body = Mapping[str, Any]


def _code(body: Body, node: Any) -> str | None:
    """What was executed is the approved function (ISO 16363 4.4.2.2), but for what the record says was put in or out."""
    function, found = body["function"], record.code_hash(node["cells"])
    executed = differs("the code's digest", function["executed_code_sha256"], found)
    if executed:
        return executed
    excused = function.get("substitutions") or body["redactions"] or body["scan"]["left_out"]
    return None if excused else differs("the function's code", function["code_sha256"], found)


def _cells(body: Body, node: Any) -> str | None:
    """Each cell of the record is in the notebook, in its order, with its source; none that ran is unknown to the record."""
    told = {cell["cell_id"]: cell for cell in body["cells"]}
    found = {cell["id"]: cell for cell in node["cells"]}
    if len(told) != len(body["cells"]) or len(found) != len(node["cells"]):
        return "two cells have the same id"
    if [each for each in found if each in told] != list(told):
        return "the record's cells are not the notebook's, in its order"
    for name, cell in told.items():
        problem = differs(
            f"cell {name}: source_sha256",
            cell["source_sha256"],
            record.digest(record.source(found[name]).encode()),
        )
        if problem:
            return problem
        if cell["status"] == "not-run" and found[name].get("outputs"):
            return f"cell {name} was not run, and has outputs"
    for name, cell in found.items():
        if name not in told and (cell.get("outputs") or cell.get("execution_count") is not None):
            return f"cell {name} was run, and the record does not know it"
    return None


def _metadata(body: Body, node: Any) -> str | None:
    """The engine's and papermill's own accounts in the notebook say what the record says."""
    if body.get("recovered"):
        # The notebook of a runner that died was last saved while a cell was running.
        return None
    block = node["metadata"]["libsafe_nb"]
    told = {cell["cell_id"]: _state(cell) for cell in body["cells"]}
    cells = {name: _state(cell) for name, cell in block["cells"].items()}
    problem = differs("the notebook's account of its cells", told, cells)
    if problem:
        name = next((each for each in {**told, **cells} if told.get(each) != cells.get(each)), "")
        return f"cell {name}: the record says {short(told.get(name))}, the notebook {short(cells.get(name))}"
    judged = (body["status"], body.get("job_result"), body.get("cause"))
    if block["status"] != body["status"] and not (
        (block["status"] == "completed" and judged[:2] == ("failed", False))
        or (block["status"] == "failed" and judged[::2] == ("errored", "platform-unreachable"))
    ):
        return f"the record says {body['status']}, the notebook {block['status']}"
    if not body["redactions"] and block["error"] != body["error"]:
        return differs("the error", body["error"], block["error"])
    return _cells_metadata(told, node)


def _cells_metadata(told: Mapping[str, Body], node: Any) -> str | None:
    for cell in node["cells"]:
        state = told.get(cell["id"])
        if state is None:
            continue
        metadata = cell["metadata"]
        if "libsafe_nb" in metadata and _state(metadata["libsafe_nb"]) != state:
            return f"cell {cell['id']}: its own metadata do not say what the record says"
        papermill = (metadata.get("papermill") or {}).get("status")
        expected = _PAPERMILL.get(state["status"])
        if papermill is not None and expected is not None and papermill != expected:
            return f"cell {cell['id']}: the record says {state['status']}, papermill {papermill}"
    return None


def _state(cell: Body) -> dict[str, Any]:
    return {name: cell[name] for name in ("index", "status", "cause", "started", "ended")}


def _parameters(body: Body, node: Any) -> str | None:
    """The cell that papermill put in assigns the record's payload; papermill's own account of it as well."""
    accounts = []
    given = (node["metadata"].get("papermill") or {}).get("parameters") or {}
    if given:
        accounts.append(("papermill's account", given))
    for cell in node["cells"]:
        tags = cell["metadata"].get("tags", ())
        if "injected-parameters" in tags and _is_python(node):
            accounts.append((f"cell {cell['id']}", _assigned(record.source(cell))))
    for where, found in accounts:
        names = [each for each in ("json_sample", "payload") if each in found]
        problem = _parameter_problem(body["payload"], found, names)
        if problem:
            return f"{where}: {problem}"
    return None


def _parameter_problem(payload: Body, found: Body, names: Sequence[str]) -> str | None:
    for name in names:
        problem = differs(f"{name}, the record's payload", payload, record.plain(_parsed(found[name])))
        if problem:
            return f"{name} is not the record's payload"
    params = payload.get("function_params") or {}
    for name, value in found.items():
        if name not in names and name in params and record.plain(value) != params[name]:
            return f"{name}: expected {short(params[name])}, found {short(value)}"
    return None


def _parsed(value: Any) -> Any:
    """The payload; languages without objects get it as JSON."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _is_python(node: Any) -> bool:
    spec = node["metadata"].get("kernelspec") or {}
    return str(spec.get("language") or "python") == "python"


def _assigned(source: str) -> dict[str, Any]:
    """Names and literals of a parameters cell; papermill writes nothing else."""
    found = {}
    for statement in syntax.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            try:
                found[statement.targets[0].id] = ast.literal_eval(statement.value)
            except ValueError:
                # float('nan') and the like are calls.
                continue
        else:
            raise ValueError(f"expected assignments only, found {ast.unparse(statement)[:60]!r}")
    return found


def _secrets(body: Body, node: Any) -> str | None:
    """No key stands in the sources, and nothing in the outputs that has the known shape of one."""
    own = body["function"].get("key") or ""
    for cell in node["cells"]:
        # The function's key stands in the payload as the value of `key`, and in the record beside it: it is no secret.
        texts = [(record.source(cell).replace(f'"{own}"', '""'), False)]
        texts += [(text, True) for output in cell.get("outputs", ()) for text in _texts(output)]
        for text, is_output in texts:
            # What a function prints may well be called a key; only known shapes are told there.
            keys = [key for key in find_pasted_keys(text) if not (is_output and key.kind == "literal")]
            if keys:
                return f"cell {cell['id']} holds what looks like a key ({keys[0].kind} {keys[0].name})"
    return None


def _texts(output: Body) -> Iterator[str]:
    values = [output.get("text"), output.get("evalue"), output.get("traceback")]
    values += [value for kind, value in (output.get("data") or {}).items() if kind.startswith("text/")]
    for value in values:
        if value:
            yield value if isinstance(value, str) else "".join(map(str, value))


ASKS = {
    "code": _code,
    "cells": _cells,
    "metadata": _metadata,
    "parameters": _parameters,
    "secrets": _secrets,
}
"""By the checks' names."""
