"""
A call as its author wrote it, which may refer to others (`Draft`), and as the platform is asked for it (`Order`). Pure.

What it refers to is known when those calls have ended: then a draft is `blocked`, or becomes an order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from libsafe_nb import references
from libsafe_nb.errors import UsageError
from libsafe_nb.holding import Held, said
from libsafe_nb.record import name_of

Shape = dict[str, Any]
Find = Callable[[str], Held]
"""The call of a key."""


@dataclass(frozen=True)
class Order:
    """
    A call as the platform is asked for it: all that it refers to is known.

    Attributes
    ----------
    number
        Which call of its caller it is, from 1.
    files
        Ids, or paths with a leading slash.
    timeout
        Seconds of one execution; None for the function's own.
    retries
        Attempts beyond the first, where it could not be executed; None for the function's own.
    reuse
        `unchanged`, where an earlier run of the same may stand for it.
    """

    number: int
    function: str
    container: str
    files: Sequence[str] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    version: int | None = None
    priority: int = 0
    timeout: float | None = None
    retries: int | None = None
    reuse: str | None = None
    on_failure: str = "continue"


@dataclass(frozen=True)
class Draft:
    """
    Attributes
    ----------
    files
        Ids, paths, and what stands for a call's outputs (`Outputs.told`).
    params
        With None where a scrap belongs.
    scraps
        Which scraps belong where (`references.taken`).
    after
        Keys of the calls that it only waits for.
    """

    key: str
    number: int
    function: str
    container: str
    files: Sequence[Any] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    scraps: Sequence[Mapping[str, Any]] = ()
    after: Sequence[str] = ()
    version: int | None = None
    priority: int = 0
    timeout: float | None = None
    retries: int | None = None
    reuse: str | None = None
    on_failure: str = "continue"

    @property
    def uses(self) -> list[str]:
        """Keys of the calls of which it takes something, each once."""
        named = [each["call"] for each in self.files if not isinstance(each, str)]
        return list(dict.fromkeys([*named, *(each["call"] for each in self.scraps)]))

    @property
    def before(self) -> frozenset[str]:
        """Keys of all calls that must have ended first."""
        return frozenset((*self.uses, *self.after))

    def event(self, find: Find, *, status: str) -> Shape:
        """As a record tells of it first: what it takes of others is told by their numbers."""
        words = [f"[scrap {each['name']} of call {find(each['call']).number}]" for each in self.scraps]
        told: Shape = {
            "kind": "child",
            "key": self.key,
            "function": self.function,
            "version": self.version,
            "container": self.container,
            "files": sum(isinstance(each, str) for each in self.files),
            "params": references.filled(self.params, self.scraps, words),
            "status": status,
        }
        if self.uses:
            told["used"] = sorted(map(self._used, self.uses, map(find, self.uses)), key=_number)
        waited = sorted(
            {find(each).number for each in self.after} - {find(each).number for each in self.uses}
        )
        if waited:
            told["after"] = waited
        return told

    def _used(self, key: str, held: Held) -> Shape:
        names = sorted({str(each["name"]) for each in self.scraps if each["call"] == key})
        return {"number": held.number, **({"scraps": names} if names else {})}

    def blocked(self, find: Find) -> Shape | None:
        """
        Why it cannot be made, as a record tells an error: a call of which it takes something did not complete, or glued no
        such scrap.
        """
        for key in self.uses:
            held = find(key)
            if held.found.get("status") != "completed":
                return _failed(f"not made, as {said(held)}, and it takes something of it")
        for each in self.scraps:
            held = find(each["call"])
            scraps = held.found.get("scraps") or {}
            if each["name"] not in scraps:
                names = ", ".join(map(str, scraps)) or "none"
                return _failed(
                    f"not made, as call {held.number} ({name_of(held.function)}) glued no {each['name']!r}; it glued: {names}"
                )
        return None

    def order(self, find: Find, outputs: Callable[[Held], Iterable[Mapping[str, Any]]]) -> Order:
        """
        Parameters
        ----------
        outputs
            All files that a call wrote.

        Raises
        ------
        UsageError
            One of them lies in another container than that in which this call works.
        """
        files: dict[str, None] = {}
        for each in self.files:
            if isinstance(each, str):
                files[each] = None
                continue
            held = find(each["call"])
            for file in references.fitting(outputs(held), each.get("matching")):
                path = references.slashed(file["path"])
                if str(file["container"]) != self.container:
                    raise UsageError(
                        f"files: call {held.number} ({name_of(held.function)}) wrote {path} in container {file['container']},"
                        f" and {self.function} is to work in {self.container}; name that container, or narrow the"
                        " outputs with matching()"
                    )
                files[path] = None
        values = [find(each["call"]).found["scraps"][each["name"]] for each in self.scraps]
        return Order(
            self.number,
            self.function,
            self.container,
            list(files),
            references.filled(self.params, self.scraps, values),
            self.version,
            self.priority,
            self.timeout,
            self.retries,
            self.reuse,
            self.on_failure,
        )


def _failed(message: str) -> Shape:
    return {"type": "DependencyFailed", "message": message, "cell_id": None}


def _number(entry: Mapping[str, Any]) -> int:
    return int(entry["number"])
