"""
Python's own parser, for one thread at a time.

In Python 3.11 the depth of the tree that `ast.parse` builds is counted in one place for all threads. Another thread gets
in between where the collector runs Python code, and the answer is `SystemError: AST constructor recursion depth mismatch`
for source that is right: seen in one of some thousand runs of several at once.
"""

from __future__ import annotations

import ast
import threading
from typing import Any

_ONE = threading.Lock()


def parse(source: str | bytes) -> ast.Module:
    """As `ast.parse`."""
    with _ONE:
        return ast.parse(source)


def parse_expression(source: str) -> ast.Expression:
    """As `ast.parse` with the mode `eval`."""
    with _ONE:
        return ast.parse(source, mode="eval")


def literal(source: str) -> Any:
    """As `ast.literal_eval`."""
    return ast.literal_eval(parse_expression(source.lstrip(" \t")))
