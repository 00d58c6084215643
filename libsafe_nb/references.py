"""
What a call may be given of other calls before they have ended: files that they write, and their scraps. Pure.

    call.outputs, call.outputs.matching("*.csv")     in `files=`
    call.scraps["pages"]                             as a value in `params=`, however deep

Both name the call by its key. In `params` each stands in a place of its own, told beside the parameters
(`taken`, `filled`): no value of an author's can be taken for a reference.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from libsafe_nb.errors import UsageError

MAX_PARAMS = 1024 * 1024
"""Bytes of a call's parameters as JSON: they stand in the queue, the payload and the record."""
DEEPEST = 90
"""Levels of parameters, as many as the platform takes."""

Shape = dict[str, Any]


@dataclass(frozen=True)
class Outputs:
    """
    The files that a call writes, all or those that fit, known when it has ended.

    Attributes
    ----------
    call
        The call's key.
    pattern
        `fnmatch` on the path, with or without its leading slash; None for all.
    """

    call: str
    pattern: str | None = None

    def matching(self, pattern: str) -> Outputs:
        """
        Those whose path fits: `*.csv`, `/out/*`, `report-[0-9].txt` (`fnmatch`, case counts, `*` goes through folders).

        A call of whose outputs none fits is made with no files.
        """
        return dataclasses.replace(self, pattern=pattern)

    def told(self) -> Shape:
        return {"call": self.call, "matching": self.pattern}


@dataclass(frozen=True)
class Scrap:
    """A value that a call's notebook glues, known when it has completed."""

    call: str
    name: str


@dataclass(frozen=True)
class Scraps:
    """The scraps of a call, by name."""

    call: str

    def __getitem__(self, name: str) -> Scrap:
        if not isinstance(name, str):
            raise TypeError(f"scraps: expected the name of one, got {type(name).__name__}")
        return Scrap(self.call, name)


def taken(params: Mapping[str, Any]) -> tuple[Shape, list[Shape]]:
    """
    Parameters without the references in them, and these: `at` (the way to it), `call` and `name`. None stands for each.

    Raises
    ------
    UsageError
        Something stands in them that belongs elsewhere, or they nest deeper than the platform takes.
    """
    places: list[Shape] = []

    def walk(value: Any, at: tuple[str | int, ...]) -> Any:
        if isinstance(value, Scrap):
            places.append({"at": list(at), "call": value.call, "name": value.name})
            return None
        if isinstance(value, Outputs):
            raise UsageError(f"params: {_way(at)}: a call's outputs are files; name them in files=")
        if isinstance(value, Scraps):
            raise UsageError(f"params: {_way(at)}: expected one scrap, by its name, got all of a call's")
        if len(at) > DEEPEST:
            raise UsageError(f"params: expected at most {DEEPEST} levels, got more")
        if isinstance(value, Mapping):
            _refuse_other_names(value, at)
            return {name: walk(each, (*at, name)) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(each, (*at, index)) for index, each in enumerate(value)]
        return value

    _refuse_other_names(params, ())
    return {name: walk(value, (name,)) for name, value in params.items()}, places


def _refuse_other_names(value: Mapping[Any, Any], at: tuple[str | int, ...]) -> None:
    """JSON would make text of them, and a scrap would not be found again."""
    for name in value:
        if not isinstance(name, str):
            where = f"params: {_way(at)}" if at else "params"
            raise UsageError(f"{where}: expected names as text, got {name!r}, {type(name).__name__}")


def check_values(params: Mapping[str, Any]) -> None:
    """
    Raises
    ------
    UsageError
        Parameters that are no JSON, or longer than the platform takes.
    """
    try:
        size = len(json.dumps(params, allow_nan=False, ensure_ascii=False).encode())
    except (TypeError, ValueError) as exc:
        raise UsageError(f"params: expected what JSON can hold, got something else ({exc})") from exc
    if size > MAX_PARAMS:
        raise UsageError(
            f"params: expected at most {MAX_PARAMS:,} bytes as JSON, got {size:,}; store them as a file and name it"
        )


def filled(params: Mapping[str, Any], places: Iterable[Mapping[str, Any]], values: Sequence[Any]) -> Shape:
    """`params` with a value in each place; what was given is left as it is."""
    known = {_key(each["at"]): value for each, value in zip(places, values, strict=True)}
    if not known:
        return dict(params)

    def walk(value: Any, at: tuple[str | int, ...]) -> Any:
        if at in known:
            return known[at]
        if isinstance(value, Mapping):
            return {name: walk(each, (*at, name)) for name, each in value.items()}
        if isinstance(value, list):
            return [walk(each, (*at, index)) for index, each in enumerate(value)]
        return value

    return {name: walk(value, (name,)) for name, value in params.items()}


def fitting(outputs: Iterable[Mapping[str, Any]], pattern: str | None) -> list[Mapping[str, Any]]:
    """The files that a pattern means, each once: a path that was written again counts as it was left."""
    last = {(str(each.get("container")), slashed(each.get("path"))): each for each in outputs}
    return [
        each
        for (_, path), each in last.items()
        if pattern is None or fnmatchcase(path, pattern) or fnmatchcase(path[1:], pattern)
    ]


def slashed(path: Any) -> str:
    """A path as functions know it: with a leading slash."""
    return f"/{str(path).lstrip('/')}"


def _key(at: Iterable[str | int]) -> tuple[str | int, ...]:
    return tuple(at)


def _way(at: Iterable[str | int]) -> str:
    return ".".join(map(str, at))
