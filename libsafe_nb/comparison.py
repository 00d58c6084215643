"""
Two executions of one notebook, compared cell by cell. Pure: no disk, no network.

Compared are what people see: the text of streams, results and displays by MIME type, and errors by type and message.
Execution counts, times, ids, the order in which standard output and standard error took turns, tracebacks and memory
addresses (`<object at 0x7f…>`) are not.

An author declares what may differ each time: a cell tagged `volatile`, or in the notebook's metadata

    {"libsafe": {"volatile": {"cells": ["cell-id"], "patterns": ["took [0-9.]+ s"], "writes": ["/log.txt"]}}}

where text that matches a pattern counts as equal, and `writes` are paths whose bytes may differ.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from libsafe_nb import record
from libsafe_nb.errors import NotebookError

MAX_LINES = 400
"""Lines of a cell's output that are compared line by line, after what both begin and end with."""

_ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

CellVerdict = Literal["same", "volatile", "differs"]


@dataclass(frozen=True)
class CellDifference:
    """A code cell, counted from 1 among the author's cells; `diff` is empty where both are the same."""

    cell_id: str
    number: int
    verdict: CellVerdict
    diff: tuple[str, ...] = ()


@dataclass(frozen=True)
class Volatile:
    """What an author declared to differ each time."""

    cells: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()
    writes: frozenset[str] = frozenset()


def volatile(node: Mapping[str, Any], name: str) -> Volatile:
    """
    Raises
    ------
    NotebookError
        The declaration is not as above.
    """
    where = f"{name}: metadata.libsafe.volatile"
    found = (node.get("metadata", {}).get("libsafe") or {}).get("volatile") or {}
    if isinstance(found, str) or found is True:
        # Says why the function is not reused (`fingerprint.py`), as may the words of a list, which are no cells' ids.
        found = []
    known = {"cells": found} if isinstance(found, list) else found
    if not isinstance(known, Mapping) or set(known) - {"cells", "patterns", "writes"}:
        raise NotebookError(
            f"{where}: expected a list of cell ids, or cells, patterns and writes, found {found!r}"
        )
    lists = {each: known.get(each) or [] for each in ("cells", "patterns", "writes")}
    for each, values in lists.items():
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise NotebookError(f"{where}.{each}: expected a list of texts, found {values!r}")
    try:
        patterns = tuple(re.compile(each) for each in lists["patterns"])
    except re.error as exc:
        raise NotebookError(
            f"{where}.patterns: expected regular expressions, found {exc.pattern!r} ({exc})"
        ) from exc
    tagged = {cell["id"] for cell in node["cells"] if "volatile" in cell.get("metadata", {}).get("tags", ())}
    return Volatile(frozenset({*tagged, *lists["cells"]}), patterns, frozenset(lists["writes"]))


def author_cells(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The code cells that papermill did not add."""
    return [
        cell
        for cell in node["cells"]
        if cell["cell_type"] == "code" and not record.ADDED & set(cell.get("metadata", {}).get("tags", ()))
    ]


def cells(
    recorded: Mapping[str, Any], replayed: Mapping[str, Any], declared: Volatile
) -> Iterator[CellDifference]:
    """Each code cell of the recorded notebook, with what became of it."""
    now = {cell["id"]: cell for cell in author_cells(replayed)}
    for number, cell in enumerate(author_cells(recorded), 1):
        one, two = _shown(cell), _shown(now.get(cell["id"], {}))
        if one == two:
            yield CellDifference(cell["id"], number, "same")
            continue
        excused = cell["id"] in declared.cells and _errors(cell) == _errors(now.get(cell["id"], {}))
        excused = excused or _masked(one, declared.patterns) == _masked(two, declared.patterns)
        yield CellDifference(cell["id"], number, "volatile" if excused else "differs", _diff(one, two))


def writes(recorded: Mapping[str, Any], replayed: Mapping[str, Any], declared: Volatile) -> list[str]:
    """What the two did, or would have done, to files otherwise: a line each, as in a diff."""
    one, two = (_effects(each, declared) for each in (recorded, replayed))
    return [line for line in difflib.ndiff(one, two) if line[0] in "-+"]


def _effects(body: Mapping[str, Any], declared: Volatile) -> list[str]:
    found = []
    for each in body.get("outputs") or ():
        told = "any bytes" if each.get("path") in declared.writes else f"sha256 {each.get('sha256')}"
        found.append(f"wrote {each.get('path')}: {told}")
    for each in body.get("platform_writes") or ():
        rest = {name: value for name, value in each.items() if name not in ("at", "stubbed")}
        found.append(json.dumps(rest, sort_keys=True, ensure_ascii=False))
    for each in body.get("calls") or ():
        asked = {name: each.get(name) for name in ("function", "container", "files", "params")}
        found.append(f"called {json.dumps(asked, sort_keys=True, ensure_ascii=False)}: {each.get('status')}")
    for each in body.get("files") or ():
        found.append(f"file {each.get('id')} {each.get('path') or ''}: {each.get('outcome')}")
    return found


def environments(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two `environment.json`, a sentence each; none where nothing did."""
    found = []
    for name in ("python", "platform", "image", "env_vars"):
        one, two = recorded.get(name), now.get(name)
        if one != two:
            found.append(f"{name}: {_words(one)} became {_words(two)}")
    one, two = _packages(recorded), _packages(now)
    if one is None or two is None:
        return [*found, "packages: not known for both, so not compared"]
    for name in sorted({*one, *two}):
        if name not in two:
            found.append(f"package {name} {one[name]}: removed")
        elif name not in one:
            found.append(f"package {name} {two[name]}: added")
        elif one[name] != two[name]:
            found.append(f"package {name}: {one[name]} became {two[name]}")
    return found


def _packages(found: Mapping[str, Any]) -> dict[str, str] | None:
    rows = found.get("packages")
    return None if rows is None else {str(each["name"]): str(each["version"]) for each in rows}


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in sorted(value.items())) or "nothing"
    return "unknown" if value is None else str(value)


# A cell's outputs -----------------------------------------------------------------------------------------------


def _shown(cell: Mapping[str, Any]) -> list[str]:
    """A cell's outputs as lines: standard output, standard error, then the others in order."""
    outputs = cell.get("outputs", ())
    lines = []
    for name in ("stdout", "stderr"):
        text = "".join(_text(each.get("text", "")) for each in outputs if each.get("name") == name)
        lines += _lines(name, text)
    for each in outputs:
        if each["output_type"] in ("execute_result", "display_data"):
            for kind, value in sorted(each.get("data", {}).items()):
                lines += _lines(kind, _value(kind, value))
    return lines + _errors(cell)


def _errors(cell: Mapping[str, Any]) -> list[str]:
    found = [each for each in cell.get("outputs", ()) if each["output_type"] == "error"]
    return [line for each in found for line in _lines("error", f"{each.get('ename')}: {each.get('evalue')}")]


def _lines(name: str, text: str) -> list[str]:
    clean = _ADDRESS.sub("at 0x…", _ANSI.sub("", text))
    return [f"{name}: {line}" for line in clean.split("\n")] if text else []


def _value(kind: str, value: Any) -> str:
    if isinstance(value, (dict, int, float, bool)) or value is None:
        return json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1)
    text = _text(value)
    if kind.startswith(("image/", "audio/", "video/", "application/pdf")) and not kind.endswith("+xml"):
        return f"{len(text)} characters, sha256 {hashlib.sha256(text.strip().encode()).hexdigest()}"
    return text


def _text(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value)


def _masked(lines: Sequence[str], patterns: Sequence[re.Pattern[str]]) -> str:
    text = "\n".join(lines)
    for pattern in patterns:
        text = pattern.sub("…", text)
    return text


def _diff(one: Sequence[str], two: Sequence[str]) -> tuple[str, ...]:
    """A unified diff. What both begin and end with is left out first: comparing lines takes time by their square."""
    first = next(
        (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two))
    )
    start = max(0, first - 3)
    before, after = (each[start : start + MAX_LINES] for each in (one, two))
    found = list(difflib.unified_diff(before, after, "recorded", "replayed", n=3, lineterm=""))
    more = max(len(one), len(two)) - start - MAX_LINES
    if start and len(found) > 2:
        found.insert(2, f"(the first {start} lines are equal)")
    return (*found, *([f"(up to {more} further lines are not shown)"] if more > 0 else ()))
