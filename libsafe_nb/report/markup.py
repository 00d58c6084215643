"""HTML, made piece by piece: what goes in as text comes out as text. The pieces are strings of HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
"""Control characters, half characters, and what turns or hides text: an archivist must see that it is there."""


def _shown(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x20:
        return chr(0x2400 + code)
    # Joiners and direction marks are part of ordinary writing; overrides and isolates reorder what is read.
    return found[0] if code in (0x200C, 0x200D, 0x200E, 0x200F) else f"[U+{code:04X}]"


def text(value: Any) -> str:
    """`value` as HTML text, safe in an attribute too; characters that cannot be seen are shown."""
    return html.escape(_UNSEEN.sub(_shown, str(value)))


_RUN = "".join(map(chr, [*range(48, 58), *range(65, 91), *range(97, 123)])) + "+/=_-%\\\r\n"
"""The characters of base64 and hex, and what breaks their lines."""


def clip(raw: str, limit: int) -> str:
    """The beginning of a text, with an ellipsis where it is cut; see `beginning`."""
    return raw if len(raw) <= limit else beginning(raw, limit) + "…"


def beginning(raw: str, limit: int) -> str:
    """
    At most `limit` characters, not ending within a run of base64 or hex.

    Half of an encoded file cannot be opened: a search of the page for keys could not tell what is in it.
    """
    return raw if len(raw) <= limit else raw[:limit].rstrip(_RUN)


def ending(raw: str, limit: int) -> str:
    """The same for the end of a text."""
    return raw if len(raw) <= limit else raw[len(raw) - limit :].lstrip(_RUN)


def tag(name: str, *children: str, **attributes: Any) -> str:
    """
    An element. Attributes are escaped, the children are HTML already.

    `class_` is written `class`, an underscore inside a name as a hyphen; None and False leave an attribute out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text("" if value is True else value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return f"<{name}{given}>" if name == "img" else f"<{name}{given}>{''.join(children)}</{name}>"


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    class_: str | None = None,
    style: str | None = None,
) -> str:
    """A table of HTML cells, each in the given style, under heads of plain text; wide ones scroll by themselves."""
    head = tag("thead", tag("tr", *(tag("th", text(each), scope="col", style=style) for each in heads)))
    body = tag("tbody", *(tag("tr", *(tag("td", cell, style=style) for cell in row)) + "\n" for row in rows))
    return tag("div", tag("table", head, body, class_=class_), class_="wide")


ROWS = 1000
"""Rows of one table; record.json and messages.jsonl hold all."""


def bounded_table(heads: Sequence[str], rows: Iterable[Sequence[str]], count: int | None = None) -> str:
    """The first `ROWS` rows, and a line that tells how many more the record holds."""
    kept = [row for _, row in zip(range(ROWS), rows, strict=False)]
    more = (count or 0) - len(kept)
    return table(heads, kept) + (
        note(f"{more:,} more rows are in record.json or messages.jsonl.") if more > 0 else ""
    )


def facts(rows: Iterable[tuple[str, str | None]]) -> str:
    """A list of names and values, HTML; what has no value is left out."""
    pairs = (tag("div", tag("dt", text(name)), tag("dd", value)) for name, value in rows if value)
    return tag("dl", *pairs, class_="facts")


def code(value: Any) -> str | None:
    return tag("code", text(value)) if value not in (None, "") else None


def short(digest: Any, length: int = 12) -> str:
    """The beginning of a digest or version; the whole is its title."""
    if not digest:
        return dash()
    whole = str(digest)
    return tag("code", text(whole[:length]), "…" if len(whole) > length else "", title=whole)


def dash() -> str:
    return '<span class="none">–</span>'


def note(sentence: str) -> str:
    """A sentence about the page itself."""
    return tag("p", text(sentence), class_="note")


def size(count: Any) -> str:
    """`10.2 kB`, with the bytes as title."""
    if not isinstance(count, (int, float)):
        return dash()
    return tag("span", text(measure(count)), title=f"{count:,} bytes")


def measure(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def moment(stamp: Any) -> str | None:
    """`2026-11-23 07:08:10 UTC`, with the whole timestamp as title."""
    if not stamp:
        return None
    told = str(stamp)
    return tag("time", text(f"{told[:10]} {told[11:19]} UTC"), datetime=told, title=told)


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
