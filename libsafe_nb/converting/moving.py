"""Code moved as its author wrote it, comments included: by lines and columns of its syntax tree. Pure."""

from __future__ import annotations

import ast
import functools
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from libsafe_nb import syntax
from libsafe_nb.errors import NotebookError

T = TypeVar("T")


def guarded(convert: Callable[[bytes, str], T]) -> Callable[[bytes, str], T]:
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


def lines_of(text: str) -> str:
    """The text with the ends of lines that Python reads all of them as."""
    return re.sub("\r\n?", "\n", text)


def first(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(each.lineno for each in decorators)])


def parts(
    lines: list[str], statements: Iterable[ast.stmt], *, after: int = 0, left_out: Iterable[ast.stmt] = ()
) -> Iterator[str]:
    """The source of statements, cut where a blank line stands before one; comments stay with what follows them."""
    part: list[str] = []
    last = after
    skipped = list(left_out)
    for each in statements:
        end = each.end_lineno or 0
        if each in skipped:
            last = end
            continue
        between = lines[last : first(each) - 1]
        if part and any(not line.strip() for line in between):
            yield "\n".join(part)
            part = []
        while between and not between[0].strip():
            between.pop(0)
        # Of two statements on one line, that line is there already.
        part += [*between, *lines[max(last, first(each) - 1) : end]]
        last = end
    if part:
        yield "\n".join(part)


def same(made: Iterable[str], statements: Iterable[ast.stmt]) -> bool:
    """Whether texts mean the statements that they were taken from."""
    try:
        again = [each for part in made for each in syntax.parse(part).body]
    except SyntaxError:
        return False
    return [ast.dump(each) for each in again] == [ast.dump(each) for each in statements]


def replaced(text: str, statement: ast.stmt, by: str = "") -> str:
    """The text with another in a statement's place; where nothing else stands on its lines, that may be nothing."""
    lines = text.encode().split(b"\n")
    start, end = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
    before, behind = lines[start][: statement.col_offset], lines[end][statement.end_col_offset :]
    alone = not before.strip() and (not behind.strip() or behind.lstrip().startswith(b"#"))
    lines[start : end + 1] = [before + (by or ("" if alone else "pass")).encode() + behind]
    return b"\n".join(lines).decode()


def expression(text: str, node: ast.expr) -> str:
    """An expression as it was written; written anew where it means that only within the brackets around it."""
    written = ast.get_source_segment(text, node) or ""
    try:
        is_same = ast.dump(syntax.parse_expression(written).body) == ast.dump(node)
    except SyntaxError:
        is_same = False
    return written if is_same else ast.unparse(node)


def indented(text: str) -> str:
    """Python four columns to the right; the inner lines of texts that span several stay as they are."""
    inside: set[int] = set()
    for each in ast.walk(syntax.parse(text)):
        if isinstance(each, (ast.Constant, ast.JoinedStr)) and (each.end_lineno or 0) > each.lineno:
            if isinstance(each, ast.Constant) and not isinstance(each.value, (str, bytes)):
                continue
            inside.update(range(each.lineno + 1, (each.end_lineno or 0) + 1))
    return "\n".join(
        line if number in inside or not line.strip() else f"    {line}"
        for number, line in enumerate(text.split("\n"), 1)
    )
