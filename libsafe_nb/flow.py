"""
A workflow as a graph: a node for the run and one for each call that it made, from its record. Pure.

    of_record    the nodes of a record
    layers       how far each is from the beginning
    condensed    at most so many nodes to draw or list: many calls of one function become one
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from libsafe_nb import record

DRAWN = 40
"""Nodes of a picture that can be read; of more, those of one function and layer are drawn as one."""

ROOT = "0"
"""The id of the run whose calls they are; a call's is its number, that of a call of a call `3.1`."""

STATES = {
    "completed": ("good", "✓", "completed"),
    "failed": ("bad", "✗", "failed"),
    "dead": ("bad", "!", "could not be executed"),
    "errored": ("bad", "!", "could not be executed"),
    "refused": ("bad", "✗", "refused"),
    "timeout": ("late", "◷", "ran out of time"),
    "cancelled": ("late", "■", "cancelled"),
    "reused": ("good", "↺", "reused"),
    "queued": ("idle", "…", "still queued"),
    "running": ("idle", "…", "still running"),
    "held": ("idle", "…", "held back"),
    "asked": ("idle", "?", "no answer known"),
    "not run": ("idle", "○", "not run"),
    "waiting": ("idle", "…", "queued"),
    "underway": ("idle", "▸", "running"),
}
"""
Of a status the tone in which it is drawn, its mark and its words; `reused` is none of a call, but of those in a group, and
`waiting` and `underway` are those of a workflow that goes on.
"""
_WORST = ("bad", "late", "idle", "good")


@dataclass(frozen=True)
class Node:
    """
    A run, or a group of calls.

    Attributes
    ----------
    number
        Of the call within its caller; None of the workflow itself, and of a group.
    caller
        The id of who called it.
    after
        Ids of the calls whose outputs it used or that it waited for.
    seconds
        From start to end; None where nobody knows, and of a call that was not run anew.
    reused
        It was not run: an earlier run's record stands for it.
    problem
        Why more is not known of it.
    counts
        Of a group how many calls there are of each status, the worst first; empty of a single node.
    """

    id: str
    function: str
    status: str
    number: int | None = None
    caller: str | None = None
    after: tuple[str, ...] = ()
    seconds: float | None = None
    job: str | None = None
    run: str | None = None
    evidence: str | None = None
    attempts: int | None = None
    error: str | None = None
    reused: bool = False
    stubbed: bool = False
    problem: str | None = None
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def tone(self) -> str:
        """That of the worst in a group."""
        return min(map(_tone, self.counts or (self.status,)), key=_WORST.index)

    @property
    def label(self) -> str:
        """The number by which others name it, in their `after` too; empty where it has none."""
        return "" if self.number is None else self.id

    @property
    def mark(self) -> str:
        return "↺" if self.reused else STATES.get(self.status, ("", "?", ""))[1]

    @property
    def words(self) -> str:
        """How it ended, in words, and how often."""
        if self.counts:
            return ", ".join(f"{count:,} {words(status)}" for status, count in self.counts.items())
        told = [words(self.status)]
        told += ["reused"] if self.reused else []
        told += ["as recorded"] if self.stubbed else []
        told += [f"attempt {self.attempts}"] if self.attempts and self.attempts > 1 else []
        return ", ".join(told)

    def to_json(self) -> dict[str, Any]:
        found = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        del found["counts"]
        return {**found, "after": list(self.after)}


def words(status: str) -> str:
    return STATES.get(status, ("", "", status))[2]


def counted(nodes: Iterable[Node]) -> dict[str, int]:
    """How many there are of each status, the worst first; one that was reused counts as that and nothing else."""
    found = Counter("reused" if node.reused else node.status for node in nodes)
    return dict(sorted(found.items(), key=lambda each: (_WORST.index(_tone(each[0])), each[0])))


def _tone(status: str) -> str:
    return STATES.get(status, ("idle",))[0]


# From a record -------------------------------------------------------------------------------------------------------


def of_record(body: Mapping[str, Any], *, id: str = ROOT, address: str | None = None) -> list[Node]:
    """The run of a record and the calls that it made. A record may hold anything: what is not as expected is left out."""
    function, error = record.section(body, "function"), record.section(body, "error")
    root = Node(
        id=id,
        function=record.name_of(
            str(function.get("key") or function.get("title") or function.get("name") or "function")
        ),
        status=str(body.get("status")),
        seconds=_seconds(body),
        job=_text(record.section(body, "job").get("id")),
        run=str(body.get("id")).removeprefix("urn:uuid:"),
        evidence=address,
        error=_error(error),
    )
    return [root, *calls_of(body, caller=id)]


def calls_of(body: Mapping[str, Any], *, caller: str = ROOT) -> list[Node]:
    """The calls of a record alone. Records from before calls had numbers tell none of what they used."""
    entries = record.entries(body, "calls")
    numbers = [_number(each, position) for position, each in enumerate(entries, 1)]
    if len(set(numbers)) < len(numbers):
        # Two of one number, which no run writes.
        numbers = list(range(1, len(entries) + 1))
    known = {number: _id(caller, number) for number in numbers}
    return [_call(each, number, caller, known) for each, number in zip(entries, numbers, strict=True)]


def _call(call: Mapping[str, Any], number: int, caller: str, known: Mapping[int, str]) -> Node:
    used = [each.get("number") for each in record.entries(call, "used")]
    waited = call.get("after")
    wanted = [*used, *(waited if isinstance(waited, (list, tuple)) else ())]
    before = {one: None for one in wanted if isinstance(one, int) and one in known and one != number}
    reused, attempts = bool(call.get("reused")), call.get("attempts")
    return Node(
        id=known[number],
        function=record.name_of(str(call.get("function"))),
        status=str(call.get("status")),
        number=number,
        caller=caller,
        after=tuple(known[one] for one in before),
        seconds=None if reused else _seconds(call),
        job=_text(call.get("job")),
        run=_text(call.get("run")),
        evidence=_text(call.get("evidence")),
        attempts=attempts if isinstance(attempts, int) else None,
        error=_error(record.section(call, "error")),
        reused=reused,
        stubbed=call.get("stubbed") is True,
    )


def _number(call: Mapping[str, Any], position: int) -> int:
    told = call.get("number")
    return told if isinstance(told, int) and not isinstance(told, bool) else position


def _id(caller: str, number: int) -> str:
    return str(number) if caller == ROOT else f"{caller}.{number}"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _error(error: Mapping[str, Any]) -> str | None:
    return f"{error.get('type')}: {error.get('message')}" if error else None


def _seconds(entry: Mapping[str, Any]) -> float | None:
    try:
        first, last = (datetime.fromisoformat(str(entry.get(name))) for name in ("started", "ended"))
        return max(0.0, (last - first).total_seconds())
    except (ValueError, TypeError):
        return None


# The graph -----------------------------------------------------------------------------------------------------------


def before(node: Node) -> tuple[str, ...]:
    """What an arrow leads from: the calls that it used, else who called it."""
    return node.after or ((node.caller,) if node.caller is not None else ())


def layers(nodes: Sequence[Node]) -> dict[str, int]:
    """
    By id the longest way from the beginning, from 0; a caller comes before all that it called.

    What goes round in a circle, as only a record that nobody wrote in a run can have it, is cut where it is met.
    """
    known = {node.id: node for node in nodes}
    ways = {
        node.id: [
            each for each in dict.fromkeys([*node.after, node.caller]) if each in known and each != node.id
        ]
        for node in nodes
    }
    following: dict[str, list[str]] = {id: [] for id in known}
    for id, sources in ways.items():
        for each in sources:
            following[str(each)].append(id)
    open_, found = {id: len(sources) for id, sources in ways.items()}, dict.fromkeys(known, 0)
    ready = [id for id, count in open_.items() if not count]
    done: set[str] = set()
    left = iter(known)
    while len(done) < len(known):
        if not ready:
            ready = [next(id for id in left if id not in done)]
        id = ready.pop()
        if id in done:
            continue
        done.add(id)
        for each in following[id]:
            if each not in done:
                found[each] = max(found[each], found[id] + 1)
                open_[each] -= 1
                if not open_[each]:
                    ready.append(each)
    return found


def condensed(nodes: Sequence[Node], most: int = DRAWN) -> list[Node]:
    """
    The nodes, or at most `most` of them: those of one function become one that tells how many there are of each status.

    First those of one layer, then, where that is not enough, those of one function anywhere, at last the smallest groups
    of all.
    """
    if len(nodes) <= most:
        return list(nodes)
    depth = layers(nodes)
    for depths in (depth, dict.fromkeys(depth, 0)):
        parts: dict[tuple[str, int], list[Node]] = {}
        for node in nodes:
            # A workflow is drawn by itself.
            named = (node.function, depths[node.id]) if node.number is not None else (node.id, -1)
            parts.setdefault(named, []).append(node)
        if len(parts) <= most:
            return _joined(parts.values())
    large = sorted(parts.values(), key=lambda part: (part[0].number is not None, -len(part)))
    rest = [node for part in large[most - 1 :] for node in part]
    return _joined([*large[: most - 1], rest])


def _joined(parts: Iterable[Sequence[Node]]) -> list[Node]:
    parts = list(parts)
    name = {node.id: part[0].id for part in parts for node in part}
    return [_group(part, name) for part in parts]


def _group(part: Sequence[Node], name: Mapping[str, str]) -> Node:
    first = part[0]
    after = dict.fromkeys(name[each] for node in part for each in node.after if each in name)
    after.pop(first.id, None)
    caller = name.get(first.caller or "")
    found = dataclasses.replace(first, after=tuple(after), caller=None if caller == first.id else caller)
    if len(part) == 1:
        return found
    functions = dict.fromkeys(node.function for node in part)
    function = first.function if len(functions) == 1 else f"{len(functions)} more functions"
    return Node(
        id=first.id,
        function=f"{function} ×{len(part):,}",
        status=first.status,
        caller=found.caller,
        after=found.after,
        counts=counted(part),
    )
