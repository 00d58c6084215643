"""One output of a cell, by the richest of its types that can be shown without running anything."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from libsafe_nb.report.ansi import ansi
from libsafe_nb.report.markup import clip, note, tag, text
from libsafe_nb.report.room import Room, cut
from libsafe_nb.report.untrusted import empty, markdown, sanitised

_SCRAP = "application/scrapbook.scrap."
_LINE = re.compile(r"\S")


def joined(value: Any) -> str:
    """Notebook files hold text as a string or as a list of pieces."""
    return value if isinstance(value, str) else "".join(map(str, value or ()))


def output(found: Mapping[str, Any], room: Room) -> str:
    """An output as HTML."""
    kind = found.get("output_type")
    if kind == "stream":
        return _stream(found, room)
    if kind == "error":
        return _error(found, room)
    return _bundle(found, room)


def plain(raw: str, room: Room, class_: str = "") -> str:
    """Text with terminal colours; of a long one the beginning and the end."""
    part = room.part(raw)
    head = tag("pre", ansi(part.head), class_=class_ or None) if part.head else ""
    tail = tag("pre", ansi(part.tail), class_=class_ or None) if part.tail else ""
    return head + cut(part.left_out) + tail


def _stream(found: Mapping[str, Any], room: Room) -> str:
    name = str(found.get("name"))
    shown = plain(_overwritten(joined(found.get("text"))), room, "stderr" if name == "stderr" else "")
    label = tag("span", text(name), class_="which") if name != "stdout" else ""
    return tag("div", label, shown, class_="out stream")


def _overwritten(raw: str) -> str:
    """A terminal's view of carriage returns: what stood before them in the line is gone."""
    if "\r" not in raw:
        return raw
    rows = raw.replace("\r\n", "\n").split("\n")
    return "\n".join(row.rstrip("\r").rsplit("\r", 1)[-1] for row in rows)


def _error(found: Mapping[str, Any], room: Room) -> str:
    trace = "\n".join(map(str, found.get("traceback") or ()))
    trace = trace or f"{found.get('ename')}: {found.get('evalue')}"
    name = tag("p", tag("strong", text(found.get("ename", "Error"))), class_="raised")
    return tag("div", name, plain(trace, room, "trace"), class_="out error")


def _bundle(found: Mapping[str, Any], room: Room) -> str:
    """The first type of `_SHOWN` that gives something, with a line on what was taken out of it."""
    data = found.get("data") or {}
    metadata = found.get("metadata") or {}
    number = found.get("execution_count")
    label = tag("span", f"Out [{text(number)}]", class_="which") if number is not None else ""
    notes: list[str] = []
    for kind, show in _SHOWN.items():
        if kind in data:
            shown = show(kind, data, metadata, room, notes)
            if shown:
                return tag("div", label, shown, *map(note, notes), class_="out")
    glued = next((each for kind, each in data.items() if kind.startswith(_SCRAP)), None)
    if isinstance(glued, Mapping):
        told = json.dumps(glued.get("data"), ensure_ascii=False)
        return tag(
            "div",
            tag("span", "glued", class_="which"),
            plain(f"{glued.get('name')} = {told}", room),
            class_="out",
        )
    kinds = ", ".join(sorted(map(str, data))) or "nothing"
    return tag("div", label, note(f"Not shown on this page: {kinds}."), *map(note, notes), class_="out")


Show = Callable[[str, Mapping[str, Any], Mapping[str, Any], Room, list[str]], str]


def _html(
    kind: str, data: Mapping[str, Any], metadata: Mapping[str, Any], room: Room, notes: list[str]
) -> str:
    part = room.part(joined(data[kind]))
    # An end without its beginning is no HTML: only the beginning is shown.
    clean, left = sanitised(part.head)
    missing = part.left_out + len(part.tail)
    if left:
        notes.append(f"Left out of this page's view, because it could act: {', '.join(left)}.")
    if empty(clean):
        return ""
    return tag("div", clean, class_="rich") + cut(missing)


def _markdown(
    kind: str, data: Mapping[str, Any], metadata: Mapping[str, Any], room: Room, notes: list[str]
) -> str:
    source = joined(data[kind])
    if not room.colour(source):
        return plain(source, room)
    room.text -= len(source)
    clean, left = markdown(source, {})
    if left:
        notes.append(f"Left out of this page's view, because it could act: {', '.join(left)}.")
    return tag("div", clean, class_="rich")


def _image(
    kind: str, data: Mapping[str, Any], metadata: Mapping[str, Any], room: Room, notes: list[str]
) -> str:
    """A picture in an `<img>`: there a browser runs and loads nothing, in SVG neither."""
    raw = joined(data[kind])
    encoded = base64.b64encode(raw.encode("utf-8", "replace")).decode() if "svg" in kind else _base64(raw)
    if encoded is None:
        notes.append(f"The {kind} output is no base64 and is not shown.")
        return ""
    if not room.picture(encoded):
        notes.append(
            f"A picture of {len(encoded):,} characters ({kind}) is left out; executed.ipynb holds it."
        )
        return ""
    wanted = metadata.get(kind)
    sizes = (
        {name: _pixels(wanted.get(name)) for name in ("width", "height")}
        if isinstance(wanted, Mapping)
        else {}
    )
    title = clip(joined(data.get("text/plain")), 200) or kind
    return tag("p", tag("img", src=f"data:{kind};base64,{encoded}", alt=title, **sizes), class_="picture")


def _base64(raw: str) -> str | None:
    packed = "".join(raw.split())
    try:
        binascii.a2b_base64(packed, strict_mode=True)
    except ValueError:
        return None
    return packed


def _pixels(wanted: Any) -> int | None:
    return int(wanted) if isinstance(wanted, (int, float)) and 0 < wanted < 10_000 else None


def _json(
    kind: str, data: Mapping[str, Any], metadata: Mapping[str, Any], room: Room, notes: list[str]
) -> str:
    return plain(json.dumps(data[kind], ensure_ascii=False, indent=2), room)


def _text(
    kind: str, data: Mapping[str, Any], metadata: Mapping[str, Any], room: Room, notes: list[str]
) -> str:
    raw = joined(data[kind])
    return plain(raw, room) if _LINE.search(raw) else ""


_SHOWN: dict[str, Show] = {
    "text/html": _html,
    "image/svg+xml": _image,
    "image/png": _image,
    "image/jpeg": _image,
    "image/gif": _image,
    "image/webp": _image,
    "text/markdown": _markdown,
    "text/latex": _text,
    "application/json": _json,
    "text/plain": _text,
}
