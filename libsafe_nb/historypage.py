"""
A history as one page: a timeline in SVG and a table, with nothing to load and no script. Pure: no disk, no network.

What is in it comes from records that others may have written, so all of it is escaped, and a link is only ever made
from what the caller says that it leads to.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

WIDTH, LEFT, LANE = 1000, 220, 26

SHAPES = {
    "completed": '<circle cx="{x}" cy="{y}" r="5" class="completed"/>',
    "failed": '<path d="M{x} {y}m-5-5l10 10m0-10l-10 10" class="failed"/>',
    "begun": '<circle cx="{x}" cy="{y}" r="4.5" class="begun"/>',
}
OTHER = '<path d="M{x} {y}m0-6l6 6l-6 6l-6-6z" class="errored"/>'
"""Of runs that neither completed nor failed. The form tells as much as the colour."""

STYLE = """
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:75rem;padding:0 1rem}
h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;
border-bottom:1px solid #8885;overflow-wrap:break-word}td a{overflow-wrap:anywhere}.wide{overflow-x:auto}svg{min-width:40rem;width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:currentColor}.grid{stroke:#8885}.completed{fill:#1a7f4b}
.failed{stroke:#c0392b;stroke-width:3;fill:none}.errored{fill:#b06a00}.begun{fill:none;stroke:#666;stroke-width:2}
tr:target{background:#fc35}
"""


@dataclass(frozen=True)
class Cell:
    """A table's cell; `link` is a URL relative to the page."""

    text: str
    link: str | None = None


@dataclass(frozen=True)
class Entry:
    """One row of the table and its mark on the timeline; `moment` as the record writes times, or empty."""

    moment: str
    lane: str
    status: str
    cells: Sequence[Cell]


def page(title: str, lead: str, columns: Sequence[str], entries: Sequence[Entry]) -> str:
    """The whole page, for `entries` oldest first."""
    head = "".join(f"<th scope=col>{_text(name)}</th>" for name in columns)
    body = "\n".join(
        f'<tr id="n{number}">{"".join(map(_cell, entry.cells))}</tr>' for number, entry in enumerate(entries)
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(title)}</title>\n'
        '<meta name="viewport" content="width=device-width">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<style>{STYLE}</style></head>\n<body><h1>{_text(title)}</h1>\n<p>{_text(lead)}</p>\n"
        f'<div class="wide">{_drawing(entries)}</div>\n'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'
        "</body></html>\n"
    )


def _cell(cell: Cell) -> str:
    text = _text(cell.text)
    return f'<td><a href="{_text(cell.link)}">{text}</a></td>' if cell.link else f"<td>{text}</td>"


def _drawing(entries: Sequence[Entry]) -> str:
    """A lane a function; marks of one kind that would fall on one another are drawn once, and lead to the first."""
    placed = [(_seconds(entry.moment), number, entry) for number, entry in enumerate(entries)]
    known = [(at, number, entry) for at, number, entry in placed if at is not None]
    if not known:
        return ""
    first, last = min(at for at, _, _ in known), max(at for at, _, _ in known)
    lanes = {name: row for row, name in enumerate(dict.fromkeys(entry.lane for _, _, entry in known))}
    height = LANE * len(lanes) + 30
    drawn = [_lane(name, row) for name, row in lanes.items()]
    seen: set[tuple[int, int, str]] = set()
    for at, number, entry in known:
        x = LEFT + 10 + round((at - first) / ((last - first) or 1) * (WIDTH - LEFT - 20))
        place = (x, lanes[entry.lane], entry.status)
        if place not in seen:
            seen.add(place)
            drawn.append(_mark(entry, number, x, lanes[entry.lane]))
    ends = zip((first, last), (LEFT + 10, WIDTH - 10), ("start", "end"), strict=True)
    for at, x, anchor in list(ends)[: 1 if first == last else 2]:
        day = datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
        drawn.append(f'<text x="{x}" y="{height - 8}" text-anchor="{anchor}">{day}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="timeline">{"".join(drawn)}</svg>'
    )


def _lane(name: str, row: int) -> str:
    y = LANE * row + LANE // 2
    short = name if len(name) <= 30 else f"{name[:29]}…"
    return (
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}" class="grid"/>'
        f'<text x="0" y="{y + 4}">{_text(short)}</text>'
    )


def _mark(entry: Entry, number: int, x: int, row: int) -> str:
    shape = SHAPES.get(entry.status, OTHER).format(x=x, y=LANE * row + LANE // 2)
    told = _text(f"{entry.moment} {entry.lane}: {entry.status}")
    return f'<a href="#n{number}"><title>{told}</title>{shape}</a>'


def _seconds(moment: str) -> float | None:
    try:
        found = datetime.fromisoformat(moment)
        return found.timestamp() if found.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _text(text: str | None) -> str:
    # Half characters cannot be written in UTF-8.
    return html.escape((text or "").encode("utf-8", "replace").decode())
