"""
A workflow as a picture in SVG: a box for each call, in layers of how they depend on each other.

Layers are columns, or rows where that makes the picture less wide than a page. Within one the order is that of what leads
there (the barycenter method, Sugiyama, Tagawa and Toda 1981), and an arrow over several layers goes between the boxes of
those that it passes. Mark and words go with each colour.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from libsafe_nb import flow
from libsafe_nb.flow import Node
from libsafe_nb.report.markup import duration, tag, text

WIDTH, HEIGHT = 206, 50
"""Of a box, in CSS pixels."""
PAGE = 990
"""What a page has room for; a wider picture is scrolled."""
SMALLEST = 0.7
"""Of a picture's size, to which a page may shrink it: letters of 9 pixels are still read."""
PASSING = 12
"""Of an arrow's place between the boxes of a layer that it passes."""
EDGE = 8
SWEEPS = 6

Link = Callable[[Node], str | None]


@dataclass(frozen=True)
class _Frame:
    """
    Which way the layers go: `down` the page, or to the right.

    `size` and `gap` are along that way, `breadth` and `space` across it.
    """

    down: bool
    size: int
    gap: int
    breadth: int
    space: int


ACROSS, DOWN = _Frame(False, WIDTH, 54, HEIGHT, 14), _Frame(True, HEIGHT, 40, WIDTH, 20)


@dataclass(eq=False)
class _Place:
    """A box, or where an arrow passes a layer; `at` is how far across the layers' way it begins."""

    layer: int
    breadth: float
    node: Node | None = None
    at: float = 0.0
    before: list[_Place] = field(default_factory=list)
    after: list[_Place] = field(default_factory=list)
    called: bool = False

    @property
    def middle(self) -> float:
        return self.at + self.breadth / 2


def picture(
    nodes: Sequence[Node], link: Link = lambda _: None, *, style: str = "", most: int = flow.DRAWN
) -> str:
    """
    The `svg` element.

    Parameters
    ----------
    nodes
        `flow.of_record`, whose first is the workflow itself.
    link
        Where a box leads; None where it leads nowhere.
    style
        CSS that the picture brings along; a page has its own.
    most
        Boxes, at most: of more, calls are drawn together.
    """
    drawn = flow.condensed(nodes, most)
    frame, layers, width, height = min(
        (_laid_out(drawn, frame) for frame in (ACROSS, DOWN)), key=lambda found: max(found[2], PAGE)
    )
    places = [place for layer in layers for place in layer]
    told = f"{_sentence(nodes)} Each box tells a call's number, function and outcome; arrows lead from what a call used."
    return tag(
        "svg",
        tag("title", text(f"Graph of the calls of {nodes[0].function}"), id="flow-title"),
        tag("desc", text(told), id="flow-desc"),
        f"<style>{style}</style>" if style else "",
        _ARROW,
        *(_arrow(one, place, frame) for place in places for one in place.before),
        *(_box(place, frame, link) for place in places if place.node is not None),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        # A little less, where the page has room for no more; then it is scrolled.
        style=f"max-width:100%;min-width:{_number(width * SMALLEST)}px;height:auto",
        class_="flow",
        role="group",
        aria_labelledby="flow-title flow-desc",
    )


def standalone(nodes: Sequence[Node], link: Link = lambda _: None, *, most: int = flow.DRAWN) -> str:
    """The picture as a file of its own."""
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return head + picture(nodes, link, style=css(), most=most) + "\n"


@functools.cache
def css() -> str:
    """The picture's style sheet, part of the package."""
    import importlib.resources

    return (importlib.resources.files("libsafe_nb") / "data" / "flow.css").read_text("utf-8")


def _sentence(nodes: Sequence[Node]) -> str:
    told = ", ".join(f"{count:,} {flow.words(status)}" for status, count in flow.counted(nodes[1:]).items())
    return f"{len(nodes) - 1:,} calls: {told or 'none'}."


# Where everything stands ---------------------------------------------------------------------------------------------


def _laid_out(nodes: Sequence[Node], frame: _Frame) -> tuple[_Frame, list[list[_Place]], float, float]:
    """The layers, each in its order and with all places set, and the width and height of the picture."""
    layers = _joined(nodes, frame)
    for sweep in range(SWEEPS):
        _order(layers, back=bool(sweep % 2))
    for layer in layers:
        _stack(layer, frame.space)
    for sweep in range(SWEEPS):
        _pull(layers, frame.space, back=not sweep % 2)
    places = [place for layer in layers for place in layer]
    least = min(place.at for place in places)
    for place in places:
        place.at = _number(place.at - least + EDGE)
    along = 2 * EDGE + len(layers) * (frame.size + frame.gap) - frame.gap
    across = _number(max(place.at + place.breadth for place in places) + EDGE)
    return frame, layers, *((across, along) if frame.down else (along, across))


def _joined(nodes: Sequence[Node], frame: _Frame) -> list[list[_Place]]:
    """The boxes by layer, with a place for each arrow in the layers that it passes."""
    depth = flow.layers(nodes)
    # Where calls are drawn together a layer may be left without any.
    levels = {layer: level for level, layer in enumerate(sorted(set(depth.values())))}
    boxes = {node.id: _Place(levels[depth[node.id]], frame.breadth, node) for node in nodes}
    layers: list[list[_Place]] = [[] for _ in levels]
    for box in boxes.values():
        layers[box.layer].append(box)
    passing: dict[tuple[str, bool, int], _Place] = {}
    for node in nodes:
        target, called = boxes[node.id], not node.after
        for each in flow.before(node):
            last = boxes.get(each)
            if last is None or last.layer >= target.layer:
                continue
            # What leads from one box goes together as far as it can.
            for between in range(last.layer + 1, target.layer):
                place = passing.get((each, called, between))
                if place is None:
                    place = passing[each, called, between] = _Place(between, PASSING)
                    layers[between].append(place)
                _join(last, place, called=called)
                last = place
            _join(last, target, called=called)
    return layers


def _join(source: _Place, target: _Place, *, called: bool) -> None:
    if source not in target.before:
        source.after.append(target)
        target.before.append(source)
        target.called = called


def _order(layers: list[list[_Place]], *, back: bool) -> None:
    """Each layer in the order of the mean places of its neighbours in the one before, or after."""
    for layer in reversed(layers) if back else layers:
        _stack(layer, 0)
        layer.sort(key=lambda place: _mean(place.after if back else place.before, place.middle))
        _stack(layer, 0)


def _mean(places: Sequence[_Place], otherwise: float) -> float:
    return sum(place.middle for place in places) / len(places) if places else otherwise


def _stack(layer: Iterable[_Place], space: float) -> None:
    at = 0.0
    for place in layer:
        place.at = at
        at += place.breadth + space


def _pull(layers: list[list[_Place]], space: float, *, back: bool) -> None:
    """Move what stands in a layer towards its neighbours, in its order, and nothing onto anything else."""
    for layer in reversed(layers) if back else layers:
        wished = [
            _mean(each.after if back else each.before, each.middle) - each.breadth / 2 for each in layer
        ]
        # Pushed on from the one end and from the other; the mean of both keeps order and distance.
        low, high = list(wished), list(wished)
        for index in range(1, len(layer)):
            low[index] = max(low[index], low[index - 1] + layer[index - 1].breadth + space)
        for index in range(len(layer) - 2, -1, -1):
            high[index] = min(high[index], high[index + 1] - layer[index].breadth - space)
        for place, first, last in zip(layer, low, high, strict=True):
            place.at = (first + last) / 2


# What is drawn -------------------------------------------------------------------------------------------------------

_ARROW = (
    '<defs><marker id="flow-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 .5L7.5 4L0 7.5z" class="head"/></marker></defs>'
)


def _arrow(source: _Place, target: _Place, frame: _Frame) -> str:
    """From the end of a place to the beginning of the next; at a box it ends with a head."""
    start = EDGE + source.layer * (frame.size + frame.gap) + frame.size
    end = EDGE + target.layer * (frame.size + frame.gap)
    half = (start + end) / 2
    points = [(start, source.middle), (half, source.middle), (half, target.middle), (end, target.middle)]
    if target.node is None:
        points.append((end + frame.size, target.middle))
    first, *others = (
        f"{_number(y)} {_number(x)}" if frame.down else f"{_number(x)} {_number(y)}" for x, y in points
    )
    d = f"M{first}C{' '.join(others[:3])}" + (f"L{others[3]}" if target.node is None else "")
    head = "url(#flow-arrow)" if target.node is not None else None
    return tag("path", d=d, class_="way called" if target.called else "way", marker_end=head)


def _box(place: _Place, frame: _Frame, link: Link) -> str:
    node, along = place.node, EDGE + place.layer * (frame.size + frame.gap)
    assert node is not None
    x, y = (_number(place.at), along) if frame.down else (along, _number(place.at))
    number = f"{node.id} · " if node.number is not None else ""
    took = duration(node.seconds) if node.seconds is not None else ""
    second = " · ".join(filter(None, [f"{node.mark} {node.words}" if not node.counts else node.words, took]))
    group = " group" if node.counts else ""
    root = " root" if node.caller is None else ""
    parts = [
        tag("title", text(_told(node))),
        f'<rect x="{_number(x + 4)}" y="{_number(y + 4)}" width="{WIDTH}" height="{HEIGHT}" rx="6" class="under"/>'
        if group
        else "",
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" class="box"/>',
        f'<path d="M{_number(x + 6)} {y}a6 6 0 0 0 -6 6v{HEIGHT - 12}a6 6 0 0 0 6 6z" class="tone"/>',
        tag(
            "text",
            text(_fitting(f"{number}{node.function}", 13.0, 0.64)),
            x=_number(x + 15),
            y=_number(y + 20),
            class_="what",
        ),
        tag("text", text(_fitting(second, 12.0, 0.57)), x=_number(x + 15), y=_number(y + 38), class_="how"),
    ]
    classes = f"node {node.tone}{' reused' if node.reused else ''}{group}{root}"
    href = link(node)
    return tag("a", *parts, href=href, class_=classes) if href else tag("g", *parts, class_=classes)


def _told(node: Node) -> str:
    """All that is known of a node; a pointer that rests on it shows this, and what reads the page aloud says it."""
    told = [node.id if node.number is not None else "", node.function, node.words]
    told += [duration(node.seconds)] if node.seconds is not None else []
    told += [f"job {node.job}"] if node.job and not node.counts else []
    told += [node.error[:300]] if node.error and not node.counts else []
    told += [node.problem] if node.problem else []
    told += [node.evidence] if node.evidence and not node.counts else []
    return " · ".join(filter(None, told))


def _fitting(words: str, size: float, width: float) -> str:
    """As much as fits into a box, of letters that are on the mean `width` of their size wide: fonts differ."""
    room = WIDTH - 26.0
    for index, letter in enumerate(words):
        wide = unicodedata.east_asian_width(letter) in ("W", "F")
        room -= size * (1 if wide else width * 1.15 if letter.isupper() else width)
        if room < size * 0.8 and index < len(words) - 1:
            return words[:index].rstrip() + "…"
    return words


def _number(value: float) -> float | int:
    """To a tenth, so that the same evidence makes the same bytes."""
    found = round(value, 1)
    return int(found) if found == int(found) else found
