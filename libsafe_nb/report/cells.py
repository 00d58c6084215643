"""The notebook as one reads it in Jupyter: markdown, code, outputs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from libsafe_nb import record
from libsafe_nb.report.markup import duration, note, tag, text
from libsafe_nb.report.outputs import output, plain
from libsafe_nb.report.room import Room, cut
from libsafe_nb.report.untrusted import markdown

_LABELS = {"parameters": "default parameters", "injected-parameters": "parameters of this run"}


class Places:
    """Where the cells of a notebook stand on the page, and what people call them."""

    def __init__(self, node: Mapping[str, Any] | None) -> None:
        self._cells = {
            str(cell.get("id")): (number, cell)
            for number, cell in enumerate((node or {}).get("cells", ()), 1)
        }

    def anchor(self, cell_id: Any) -> str | None:
        """An id of the page; never one from the notebook, which could name another part of the page."""
        found = self._cells.get(str(cell_id))
        return f"cell-{found[0]}" if found else None

    def name(self, cell_id: Any) -> str:
        """`In [3]`, or where the cell was not executed its place in the notebook."""
        number, cell = self._cells.get(str(cell_id), (0, {}))
        if cell.get("execution_count") is not None:
            return f"In [{cell['execution_count']}]"
        return f"cell {number}" if number else f"cell {cell_id}"

    def link(self, cell_id: Any) -> str:
        """The cell's name, leading to it."""
        anchor = self.anchor(cell_id)
        return tag("a", text(self.name(cell_id)), href=f"#{anchor}") if anchor else text(self.name(cell_id))


def notebook(node: Mapping[str, Any], body: Mapping[str, Any], places: Places, room: Room) -> str:
    """All cells that fit, and always the one that failed."""
    states = {str(state.get("cell_id")): state for state in body.get("cells") or ()}
    failed = str((body.get("error") or {}).get("cell_id"))
    language = str((node.get("metadata", {}).get("language_info") or {}).get("name") or "python")
    return "".join(_cells(node, states, failed, language, places, room))


def _cells(
    node: Mapping[str, Any],
    states: Mapping[str, Mapping[str, Any]],
    failed: str,
    language: str,
    places: Places,
    room: Room,
) -> Iterator[str]:
    left_out = 0
    for cell in node.get("cells", ()):
        name = str(cell.get("id"))
        fits = room.enter()
        if not fits and name != failed:
            left_out += 1
            continue
        yield cut(left_out, "cells")
        left_out = 0
        inside = room if fits else Room(text=200_000, images=0, rich=0)
        if cell.get("cell_type") == "code":
            yield _code(cell, states.get(name, {}), language, places, inside)
        else:
            yield _words(cell, places, inside)
    yield cut(left_out, "cells")


def _words(cell: Mapping[str, Any], places: Places, room: Room) -> str:
    """A markdown cell rendered; a raw or a very long one as it is written."""
    source = record.source(cell)
    if cell.get("cell_type") != "markdown" or not room.colour(source):
        shown = plain(source, room)
    else:
        room.text -= len(source)
        clean, left = markdown(source, cell.get("attachments") or {})
        shown = clean + (note(f"Left out of this page's view: {', '.join(left)}.") if left else "")
    return tag("div", shown, id=places.anchor(cell.get("id")), class_="cell words")


def _code(
    cell: Mapping[str, Any], state: Mapping[str, Any], language: str, places: Places, room: Room
) -> str:
    status = str(state.get("status") or "")
    number = cell.get("execution_count")
    prompt = tag("div", f"In [{text(number)}]" if number is not None else "In [ ]", class_="prompt")
    labels = [
        label for name, label in _LABELS.items() if name in (cell.get("metadata", {}).get("tags") or ())
    ]
    told = [*labels, _told(state)]
    line = tag("div", text(" · ".join(filter(None, told))), class_="told")
    shown = "".join(_outputs(cell, room))
    return tag(
        "div",
        prompt,
        tag("div", line, _source(cell, language, room), shown, class_="body"),
        id=places.anchor(cell.get("id")),
        class_=f"cell code {_tone(status)}".rstrip(),
    )


def _outputs(cell: Mapping[str, Any], room: Room) -> Iterator[str]:
    outputs = cell.get("outputs") or ()
    for number, each in enumerate(outputs):
        # What was raised is told however little room there is.
        if not room.enter() and each.get("output_type") != "error":
            yield cut(len(outputs) - number, "outputs")
            return
        yield output(each, room)


def _source(cell: Mapping[str, Any], language: str, room: Room) -> str:
    source = record.source(cell)
    if not source.strip():
        return ""
    if not room.colour(source):
        return plain(source, room, "source")
    room.text -= len(source)
    return tag("pre", _coloured(source, language), class_="source")


def _coloured(source: str, language: str) -> str:
    """Source with its keywords, strings and comments marked; as it is where the language is not known."""
    lexer = _lexer(language)
    if lexer is None:
        return text(source)
    pieces = []
    for mark, tokens in itertools.groupby(lexer.get_tokens(source), key=lambda token: _mark(token[0])):
        value = text("".join(each for _, each in tokens))
        pieces.append(f'<span class="{mark}">{value}</span>' if mark else value)
    return "".join(pieces).rstrip("\n")


@functools.cache
def _lexer(language: str) -> Any:
    # Its tables are the dearest import of the report, and a notebook without code needs none.
    if language == "python":
        from pygments.lexers.python import PythonLexer

        return PythonLexer(stripnl=False)
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return None


@functools.cache
def _mark(kind: Any) -> str:
    """The class of a token: what it is, without the finer kinds."""
    name = str(kind).removeprefix("Token.")
    marks = {
        "Keyword": "k",
        "Operator.Word": "k",
        "Literal.String": "s",
        "Literal.Number": "m",
        "Comment": "c",
        "Name.Function": "n",
        "Name.Class": "n",
        "Name.Decorator": "d",
        "Name.Builtin": "d",
    }
    return next((mark for start, mark in marks.items() if name.startswith(start)), "")


def seconds(state: Mapping[str, Any]) -> float | None:
    """How long a cell took."""
    if not state.get("started") or not state.get("ended"):
        return None
    began, ended = (datetime.fromisoformat(str(state[name])) for name in ("started", "ended"))
    return (ended - began).total_seconds()


def _told(state: Mapping[str, Any]) -> str:
    took = seconds(state)
    status = str(state.get("status") or "").replace("-", " ")
    return " · ".join(filter(None, [status, "" if took is None else duration(took)]))


def _tone(status: str) -> str:
    if status in ("failed", "timed-out", "killed"):
        return "bad"
    return "idle" if status in ("not-run", "skipped", "interrupted") else ""
