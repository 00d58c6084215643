"""Terminal colours (ECMA-48 SGR) as HTML. Other control sequences are taken out."""

from __future__ import annotations

import re
from collections.abc import Iterator

from libsafe_nb.report.markup import text

_SEQUENCE = re.compile(
    r"\x1b\[(?P<sgr>[0-9;:]*)m"
    r"|\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC, only where it ends: an open one must not swallow what follows
    r"|\x1b"
)
_STYLES = {1: "b", 3: "i", 4: "u", 7: "r"}
_ENDS = {22: "b", 23: "i", 24: "u", 27: "r"}


def ansi(raw: str) -> str:
    """Text with colours as spans: classes for the sixteen that a theme may choose, styles for exact ones."""
    if "\x1b" not in raw:
        return text(raw)
    pieces, state, position = [], dict[str, str](), 0
    for found in _SEQUENCE.finditer(raw):
        pieces.append(_span(raw[position : found.start()], state))
        position = found.end()
        if found["sgr"] is not None:
            _apply(state, found["sgr"])
    pieces.append(_span(raw[position:], state))
    return "".join(pieces)


def _span(raw: str, state: dict[str, str]) -> str:
    if not raw or not state:
        return text(raw)
    classes = [f"a{value}" for value in state.values() if ":" not in value]
    styles = [value for value in state.values() if ":" in value]
    given = f' class="{" ".join(classes)}"' if classes else ""
    given += f' style="{";".join(styles)}"' if styles else ""
    return f"<span{given}>{text(raw)}</span>"


def _apply(state: dict[str, str], parameters: str) -> None:
    codes = iter([int(each[:4] or 0) for each in parameters.replace(":", ";").split(";")])
    for code in codes:
        if code == 0:
            state.clear()
        elif code in _STYLES:
            state[_STYLES[code]] = _STYLES[code]
        elif code in _ENDS:
            state.pop(_ENDS[code], None)
        elif code in (38, 48):
            _exact(state, "f" if code == 38 else "g", codes)
        elif code in (39, 49):
            state.pop("f" if code == 39 else "g", None)
        elif 30 <= code <= 37 or 90 <= code <= 97:
            state["f"] = f"f{code % 10 + (8 if code >= 90 else 0)}"
        elif 40 <= code <= 47 or 100 <= code <= 107:
            state["g"] = f"g{code % 10 + (8 if code >= 100 else 0)}"


def _exact(state: dict[str, str], ground: str, codes: Iterator[int]) -> None:
    """`38;5;n` of the 256 colours, or `38;2;r;g;b`."""
    kind = next(codes, 0)
    if kind == 5:
        number = min(next(codes, 0), 255)
        if number < 16:
            state[ground] = f"{ground}{number}"
            return
        red, green, blue = _of_256(number)
    elif kind == 2:
        red, green, blue = (min(next(codes, 0), 255) for _ in range(3))
    else:
        return
    name = "color" if ground == "f" else "background-color"
    state[ground] = f"{name}:#{red:02x}{green:02x}{blue:02x}"


def _of_256(number: int) -> tuple[int, int, int]:
    if number >= 232:
        grey = 8 + 10 * (number - 232)
        return grey, grey, grey
    levels = (0, 95, 135, 175, 215, 255)
    red, rest = divmod(number - 16, 36)
    return levels[red], levels[rest // 6], levels[rest % 6]
