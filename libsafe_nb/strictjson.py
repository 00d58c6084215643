"""JSON from outside, read strictly (RFC 8259, I-JSON of RFC 7493, 2.3): no NaN, and each name of an object once."""

from __future__ import annotations

import json
from typing import Any, NoReturn


class NotStrictError(ValueError):
    """Python's parser would take it, and what reads it after us may take it for something else."""


def loads(text: str | bytes) -> Any:
    """
    Raises
    ------
    NotStrictError
        NaN or an infinity, or an object that names something twice.
    ValueError, RecursionError
        As `json.loads`.
    """
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_each_once)


def _no_constant(name: str) -> NoReturn:
    raise NotStrictError(f"{name}, which JSON does not have")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise NotStrictError(f"an object that names {name[:40]!r} twice")
            seen.add(name)
    return found
