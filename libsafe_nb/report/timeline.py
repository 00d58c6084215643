"""The run as a picture: a bar a cell on one axis of time. SVG in the page itself; pattern and words go with each colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from libsafe_nb.report.cells import Places
from libsafe_nb.report.markup import duration, note, tag, text

ROWS = 150
_LEFT, _RIGHT, _WIDTH, _ROW, _TOP = 92, 150, 960, 24, 30
_SPAN = _WIDTH - _LEFT - _RIGHT
_TONES = {
    "completed": "good",
    "exited": "good",
    "expected-error": "good",
    "failed": "bad",
    "killed": "bad",
    "timed-out": "late",
    "interrupted": "late",
    "running": "late",
}
_PATTERNS = (
    '<defs><pattern id="t-bad" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect width="7" height="7" class="bad"/><rect width="2.5" height="7" class="stripe"/></pattern>'
    '<pattern id="t-late" width="6" height="6" patternUnits="userSpaceOnUse">'
    '<rect width="6" height="6" class="late"/><circle cx="3" cy="3" r="1.3" class="stripe"/></pattern></defs>'
)


def timeline(body: Mapping[str, Any], places: Places) -> str:
    """The picture; of very many cells the longest and all that did not complete."""
    cells = list(body.get("cells") or ())
    if not cells or not body.get("ended"):
        return ""
    begin = _second(body["started"])
    last = max([_second(body["ended"]), *(_second(each["ended"]) for each in cells if each.get("ended"))])
    scale = _Scale(begin, max(last - begin, 0.001))
    kept = _most_telling(cells)
    left_out = len(cells) - len(kept)
    told = note(f"{left_out:,} shorter cells are not in the picture.") if left_out else ""
    return tag("div", _picture(kept, scale, places), class_="wide timeline") + told


class _Scale:
    """Seconds since the run began, on the picture."""

    def __init__(self, begin: float, length: float) -> None:
        self.begin, self.length = begin, length

    def at(self, second: float) -> float:
        return round(_LEFT + (second - self.begin) / self.length * _SPAN, 2)

    def ticks(self) -> list[float]:
        """Four to nine round distances from the beginning."""
        step = next(each for each in _steps() if self.length / each < 9)
        return [step * number for number in range(int(self.length / step) + 1)]


def _steps() -> list[float]:
    small = [factor * 10.0**power for power in range(-3, 2) for factor in (1, 2, 5)]
    return [*small[:-1], 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400, 604800, 1e9]


def _second(stamp: Any) -> float:
    return datetime.fromisoformat(str(stamp)).timestamp()


def _length(cell: Mapping[str, Any]) -> float:
    if not cell.get("started") or not cell.get("ended"):
        return 0.0
    return _second(cell["ended"]) - _second(cell["started"])


def _most_telling(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len(cells) <= ROWS:
        return list(cells)

    def weight(place: int) -> tuple[bool, float]:
        cell = cells[place]
        return _TONES.get(str(cell.get("status"))) in ("bad", "late"), _length(cell)

    chosen = sorted(range(len(cells)), key=weight, reverse=True)[:ROWS]
    return [cells[place] for place in sorted(chosen)]


def _picture(cells: Sequence[Mapping[str, Any]], scale: _Scale, places: Places) -> str:
    bottom = _TOP + _ROW * len(cells)
    axis = "".join(_tick(second, scale, bottom) for second in scale.ticks())
    bars = "".join(_bar(cell, _TOP + _ROW * row, scale, places) for row, cell in enumerate(cells))
    first = next((_second(each["started"]) for each in cells if each.get("started")), None)
    return tag(
        "svg",
        tag("title", f"Timeline of {len(cells)} cells over {duration(scale.length)}"),
        _PATTERNS,
        axis,
        _before(first, scale, bottom),
        bars,
        viewBox=f"0 0 {_WIDTH} {bottom + 8}",
        role="img",
        id="timeline-picture",
    )


def _tick(second: float, scale: _Scale, bottom: int) -> str:
    x = scale.at(scale.begin + second)
    label = "0" if second == 0 else duration(second).replace(".0 s", " s")
    return f'<line x1="{x}" x2="{x}" y1="{_TOP - 6}" y2="{bottom}" class="grid"/>' + tag(
        "text", text(label), x=x, y=_TOP - 12, class_="axis"
    )


def _before(first: float | None, scale: _Scale, bottom: int) -> str:
    """The time before the first cell: the kernel starts, the keys are delivered."""
    if first is None or scale.at(first) - _LEFT < 2:
        return ""
    width = round(scale.at(first) - _LEFT, 2)
    area = f'<rect x="{_LEFT}" y="{_TOP - 4}" width="{width}" height="{bottom - _TOP + 4}" class="before">'
    label = tag("text", "starting", x=_LEFT + 8, y=_TOP + 16, class_="took") if width > 70 else ""
    return f"{area}<title>before the first cell: {text(duration(first - scale.begin))}</title></rect>{label}"


def _bar(cell: Mapping[str, Any], y: int, scale: _Scale, places: Places) -> str:
    status = str(cell.get("status"))
    tone = _TONES.get(status, "idle")
    name = places.name(cell.get("cell_id"))
    words = status.replace("-", " ")
    began = scale.at(_second(cell["started"])) if cell.get("started") else None
    took = duration(_length(cell)) if cell.get("ended") else ""
    title = tag("title", text(" · ".join(filter(None, [name, words, took]))))
    shown = words if tone != "good" else ""
    label = " · ".join(filter(None, [took, shown])) or words
    start = _LEFT if began is None else began
    width = max(round(_length(cell) / scale.length * _SPAN, 2), 3)
    bar = f'<rect x="{start}" y="{y + 4}" width="{width}" height="{_ROW - 8}" rx="2" class="bar {tone}"/>'
    row = [
        title,
        f'<rect x="0" y="{y}" width="{_WIDTH}" height="{_ROW}" class="row"/>',
        tag("text", text(name), x=_LEFT - 12, y=y + 16, class_="name"),
        bar if began is not None else "",
        tag(
            "text",
            text(label),
            x=start + (width + 7 if began is not None else 7),
            y=y + 16,
            class_=f"took {tone}",
        ),
    ]
    anchor = places.anchor(cell.get("cell_id"))
    return tag("a", *row, href=f"#{anchor}") if anchor else tag("g", *row)
