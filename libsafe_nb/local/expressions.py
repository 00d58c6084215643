"""
Expressions that users write for paths and names, searched for a bounded time: the whole platform waits for each.

The language is that of Python's `re`: what `re` does not take is refused. They are searched by `regex`, whose search can
be given a time.
"""

from __future__ import annotations

import functools
import re
import warnings

import regex

SECONDS = 0.05
"""Of one search; an ordinary one takes some microseconds."""
_OTHER_BRACE = re.compile(r"(?<!\\)(?:\\\\)*\{(?!\d*,?\d*\})")
"""A brace that `re` takes as it stands, and `regex` as the beginning of a fuzzy match."""


def check(expression: str) -> None:
    """
    Raises
    ------
    ValueError
        It is none, or the two libraries would read it differently.
    """
    with warnings.catch_warnings():
        # What `re` warns of is what it may read differently one day, and `regex` does today.
        warnings.simplefilter("error")
        try:
            re.compile(expression)
            _compiled(expression)
        except (re.error, regex.error, RecursionError, OverflowError, MemoryError, Warning) as exc:
            raise ValueError(str(exc) or type(exc).__name__) from exc
    if _OTHER_BRACE.search(expression):
        raise ValueError("a brace that begins no repetition is written \\{")


def found(expression: str, where: str) -> bool:
    """
    Whether it matches anywhere.

    Raises
    ------
    TimeoutError
        It was still being searched after `SECONDS`.
    ValueError
        It cannot be searched: it is none, as one that was never checked may be, or asks for too much memory.
    """
    try:
        return _compiled(expression).search(where, timeout=SECONDS) is not None
    except TimeoutError as exc:
        raise TimeoutError(f"was still being searched after {SECONDS * 1000:.0f} ms") from exc
    except (regex.error, RecursionError, MemoryError) as exc:
        raise ValueError(f"could not be searched ({str(exc) or type(exc).__name__})") from exc


@functools.lru_cache(maxsize=1000)
def _compiled(expression: str) -> regex.Pattern[str]:
    return regex.compile(expression, regex.VERSION0)
