"""A workflow for a terminal and for programs: a tree of lines, and one object of JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from libsafe_nb import flow
from libsafe_nb.flow import Node
from libsafe_nb.report.markup import duration

SIBLINGS = 40
"""Calls of one run that are told line by line; of more, those of one function together."""
TOLD = 20
"""Of those, as many as did not complete are told by themselves."""


def lines(
    nodes: Sequence[Node], *, every: bool = False, siblings: int = SIBLINGS, told: int = TOLD
) -> Iterator[str]:
    """
    A line a run, indented below its caller.

    Parameters
    ----------
    every
        Each call, however many there are.
    siblings, told
        Calls of one run beyond which those of one function are told together, and how many of those that did not complete
        are told by themselves then.
    """
    below = _below(nodes)
    yield _line(nodes[0])
    yield from _branch(nodes[0], below, "", most=len(nodes) if every else siblings, told=told)


def printable(line: str) -> str:
    """The line with nothing in it that moves a cursor: its words are others' words."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)


def tree(nodes: Sequence[Node]) -> dict[str, Any]:
    """The first node as an object, with those that it called in its `calls`, and so on."""
    below = _below(nodes)

    def told(node: Node) -> dict[str, Any]:
        return {**node.to_json(), "calls": [told(each) for each in below.get(node.id, ())]}

    return told(nodes[0])


def _below(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in nodes[1:]:
        found.setdefault(str(node.caller), []).append(node)
    return found


def _branch(node: Node, below: dict[str, list[Node]], indent: str, *, most: int, told: int) -> Iterator[str]:
    shown = below.get(node.id, [])
    if len(shown) > most:
        shown = _together(shown, told)
    for each in shown:
        last = each is shown[-1]
        yield f"{indent}{'└─' if last else '├─'} {_line(each)}"
        yield from _branch(each, below, indent + ("   " if last else "│  "), most=most, told=told)


def _together(nodes: Sequence[Node], told: int) -> list[Node]:
    """Groups by function, and the first of those that did not complete; of a run that goes on, what failed comes first."""
    groups = [
        node for node in flow.condensed(nodes, 1 + len({node.function for node in nodes})) if node.counts
    ]
    alone = {each.function.rpartition(" ×")[0] for each in groups}
    single = [node for node in nodes if node.function not in alone]
    other = [node for node in nodes if node.function in alone and node.status not in ("completed", "waiting")]
    other.sort(key=lambda node: node.status == "underway")
    return [*groups, *single, *other[:told]]


def _line(node: Node) -> str:
    used = ", ".join(node.after[:8]) + (" …" if len(node.after) > 8 else "")
    told = [
        node.label,
        node.function,
        node.words if node.counts else f"{node.mark} {node.words}",
        duration(node.seconds) if node.seconds is not None else "",
        f"job {node.job}" if node.job and not node.counts else "",
        f"after {used}" if used and not node.counts else "",
        node.error[:200] if node.error and not node.counts else "",
        f"({node.problem})" if node.problem else "",
        node.evidence if node.evidence and not node.counts else "",
    ]
    return "  ".join(filter(None, told))
