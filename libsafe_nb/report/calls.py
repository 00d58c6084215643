"""The functions that a run called, and the runs whose outputs it read: as a graph, a table and a list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from libsafe_nb import evidence, flow
from libsafe_nb.flow import Node
from libsafe_nb.record import entries, section
from libsafe_nb.report import flowpicture
from libsafe_nb.report.markup import ROWS, bounded_table, clip, code, dash, duration, note, short, tag, text

USED = 8
"""Numbers of the calls that one used, in its row."""

Body = Mapping[str, Any]


def used(body: Body) -> str:
    """The runs whose outputs it read, each leading to its report."""
    home, found = _home(body), []
    for each in entries(body, "used")[:ROWS]:
        shown = tag("code", text(each.get("evidence") or each.get("run")))
        href = _report(each.get("evidence"), home)
        link = tag("a", shown, href=href) if href else shown
        found.append(tag("div", text(f"{each.get('function')}, job {each.get('job')} "), link))
    return "".join(found)


def calls(body: Body) -> str:
    """The functions that this one called, as a graph and as a table: jobs with evidence of their own."""
    made = entries(body, "calls")
    if not made:
        return ""
    nodes = flow.of_record(body)
    home = _home(body)
    drawn = flowpicture.picture(nodes, lambda node: "#calls-table" if node.counts else _beside(node, home))
    heads = ["", "Function", "Version", "Parameters", "Files", "Status", "Took", "Used", "Job", "Evidence"]
    rows = (_call(each, node, home) for each, node in zip(made, nodes[1:], strict=False))
    return (
        tag("div", drawn, class_="wide")
        + note("A box leads to the report of that run where the container's evidence is copied as a whole.")
        + tag("div", bounded_table(heads, rows, len(made)), id="calls-table")
    )


def _beside(node: Node, home: str) -> str | None:
    return None if node.caller is None else _report(node.evidence, home)


def _report(address: object, home: str) -> str | None:
    """From a report to that of another run in the same container, which lies beside it in every copy of it."""
    place = evidence.place_of(address)
    if place is None or place[0] != home:
        return None
    return f"../../{quote(place[1].removeprefix('provenance/'))}report.html"


def _call(call: Mapping[str, Any], node: Node, home: str) -> tuple[str, ...]:
    params = json.dumps(call.get("params") or {}, ensure_ascii=False, sort_keys=True)
    error = call.get("error") or {}
    why = clip(f"{error.get('type')}: {error.get('message')}", 500) if error else ""
    status, href = node.words, _beside(node, home)
    shown = code(call.get("evidence")) or dash()
    return (
        text(node.number),
        code(call.get("function")) or dash(),
        (text(call.get("version") or "") or dash())
        + (" " + short(call["sha256"]) if call.get("sha256") else ""),
        tag("code", text(clip(params, 2000))),
        text(call.get("files") or 0),
        text(status) + (tag("div", text(why), class_="detail") if why else ""),
        text(duration(node.seconds).replace(" ", "\N{NO-BREAK SPACE}"))
        if node.seconds is not None
        else dash(),
        text(
            ", ".join(node.after[:USED])
            + (f" and {more:,} more" if (more := len(node.after) - USED) > 0 else "")
        )
        or dash(),
        text(call.get("job") or "") or dash(),
        tag("a", shown, href=href) if href else shown,
    )


def _home(body: Body) -> str:
    return str(section(body, "container").get("id"))
