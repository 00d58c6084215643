"""
Findings that an author switches off, as other linters have it. Keys cannot be: a key is a key.

    import helpers  # noqa: LSN013             this line, or the whole of a text that ends on it
    # libsafe-nb: noqa: LSN010, LSN011         the whole notebook, in a line of its own in any code cell
"""

from __future__ import annotations

import ast
import re

from libsafe_nb.checking.examined import Examined, lines_of

_LINE = re.compile(r"#.*?\bnoqa\b(?::(?P<codes>[\sA-Z0-9,]*))?", re.IGNORECASE)
_WHOLE = re.compile(r"(?m)^\s*#\s*libsafe-nb:\s*noqa:(?P<codes>[\sA-Z0-9,]*)$", re.IGNORECASE)
_CODE = re.compile(r"[A-Z]+[0-9]+")


class Silence:
    """What the author of a notebook switched off."""

    def __init__(self, examined: Examined) -> None:
        self._lines: dict[int, list[str]] = {}
        self._whole: set[str] = set()
        for number, cell in examined.code_cells:
            source = lines_of(cell)
            if "noqa" not in source.lower():
                continue
            self._lines[number] = source.split("\n")
            for match in _WHOLE.finditer(source):
                self._whole |= set(_CODE.findall(match["codes"].upper()))
        self._ends = self._ends_of_texts(examined) if self._lines else {}

    def covers(self, cell: int | None, line: int, code: str) -> bool:
        if code in self._whole:
            return True
        lines = self._lines.get(cell or 0, [])
        at = self._ends.get((cell or 0, line), line)
        return any(_names(lines[each - 1], code) for each in {line, at} if 0 < each <= len(lines))

    def _ends_of_texts(self, examined: Examined) -> dict[tuple[int, int], int]:
        """The last line of a text over several, by each of its lines: no comment can stand within it."""
        program = examined.program
        ends: dict[tuple[int, int], int] = {}
        for node in program.nodes:
            if not isinstance(node, (ast.Constant, ast.JoinedStr)) or node.end_lineno in (None, node.lineno):
                continue
            number, first = program.place(node.lineno)
            last = first + (node.end_lineno or node.lineno) - node.lineno
            ends |= {(number, line): last for line in range(first, last)}
        return ends


def _names(line: str, code: str) -> bool:
    found = _LINE.search(line)
    if found is None or _WHOLE.search(line):
        return False
    codes = _CODE.findall((found["codes"] or "").upper())
    # A bare `noqa` is of all codes, as flake8 and ruff have it.
    return not codes or code in codes
