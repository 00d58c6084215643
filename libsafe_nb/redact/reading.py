r"""
How a text may be read: with its escapes undone, and with what lies between its characters left out.

A secret seldom stands in an output as it is. It stands as `%2F`, `\u002f`, `&#47;`, with a colour code or a
zero-width space inside, or one character a line. Rather than a pattern for each, the text is *read* (`plain`,
and `View` which remembers where each character came from) and then *folded* to what those ways of writing share:

    "a\n1\n%2F\nB"  ── plain ──▶  "a\n1\n/\nB"  ── Fold.ALNUM ──▶  b"a1b"

Folding commutes with taking substrings, so a folded secret is always a substring of the folded text that holds it.
"""

from __future__ import annotations

import enum
import html
import re
from collections.abc import Iterator, Sequence

ROUNDS = 3
"""Escapes within escapes are undone this often; runs of backslashes, `%2525` and `&amp;amp;` count as one."""

_ALNUM = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LOWER = bytes(code + 32 if 65 <= code <= 90 else code for code in range(256))
_BETWEEN = bytes(range(33)) + b"'\",;\\`\x7f"


class Fold(enum.Enum):
    """What is left of a text before a secret is looked for in it."""

    EXACT = "exact"
    """All of it."""
    DENSE = "dense"
    """All but white space, control characters, quotes, commas and backslashes: for keys of few letters and digits."""
    WIDE = "wide"
    """ASCII letters, in lower case, digits, and all beyond ASCII: for keys in other alphabets."""
    ALNUM = "alnum"
    """ASCII letters, in lower case, and digits. Separators, line ends, zero bytes and all else are gone."""

    def apply(self, data: bytes) -> bytes:
        if self is Fold.EXACT:
            return data
        if self is Fold.DENSE:
            return data.translate(None, _BETWEEN)
        return data.translate(_LOWER, _NOT_WIDE if self is Fold.WIDE else _NOT_ALNUM)

    def keeps(self, char: str) -> bool:
        """Whether anything of this character is left."""
        if self is Fold.EXACT:
            return True
        if not char.isascii():
            return self is not Fold.ALNUM
        return ord(char) not in _BETWEEN_CODES if self is Fold.DENSE else char.isalnum()


_NOT_ALNUM = bytes(code for code in range(256) if code not in _ALNUM)
_NOT_WIDE = bytes(code for code in _NOT_ALNUM if code < 128)
_BETWEEN_CODES = frozenset(_BETWEEN)

INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff]+"
)
"""Characters that a reader does not see: zero-width, direction marks, variation selectors, soft hyphens, tags."""

# Each alternative begins with a literal, so that the search skips ordinary text quickly.
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,512}(?:\x07|\x1b\\)|[@-Z\\-_])"
    r"|\\+u[dD][89abAB][0-9a-fA-F]{2}\\+u[dD][c-fC-F][0-9a-fA-F]{2}"
    r"|\\+(?:u[0-9a-fA-F]{4}|U00[01][0-9a-fA-F]{5}|x[0-9a-fA-F]{2}|[0-3][0-7]{2}|[\s\S])"
    r"|%(?:25)*[c-fC-F][0-9a-fA-F](?:%(?:25)*[89abAB][0-9a-fA-F]){1,3}"
    r"|%(?:25)*[0-9a-fA-F]{2}"
    r"|&(?:amp;)*(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
)
_PERCENTS = re.compile("%(?:25)*")
_AMPERSANDS = re.compile("^&(?:amp;)*")
_DIGITS = re.compile("[0-9a-fA-F]{2,8}")
_CONTROL = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "a": "\a",
    "e": "\x1b",
    "0": "\0",
}
_UNFINISHED = re.compile(
    r"(?:\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,512}\x1b?)?"
    r"|\\+(?:[uUxX]?[0-9a-fA-F]{0,8})"
    r"|(?:%(?:25)*[0-9a-fA-F]{0,2})+"
    r"|&(?:amp;)*(?:#?[0-9a-zA-Z]{0,31}))\Z"
)


def has_escapes(text: str) -> bool:
    """Whether `plain` could differ from the text. Four scans for one character each: nearly free."""
    return "\\" in text or "%" in text or "&" in text or "\x1b" in text


def plain(text: str) -> str:
    """The text with its escapes undone and its terminal codes left out."""
    for _ in range(ROUNDS):
        if not has_escapes(text):
            return text
        before, text = text, _ESCAPE.sub(lambda match: _meaning(match[0]), text)
        if before == text:
            return text
    return text


def unfinished(text: str) -> int:
    """Where an escape begins that the end of the text cuts off; the text's length if none does."""
    tail = max(0, len(text) - 600)
    match = _UNFINISHED.search(text, tail)
    return match.start() if match else len(text)


class View:
    """One reading of a text, in which each character knows the part of the text that it came from."""

    def __init__(
        self, text: str, starts: Sequence[int] | None = None, ends: Sequence[int] | None = None
    ) -> None:
        self.text = text
        self._starts = range(len(text)) if starts is None else starts
        self._ends = range(1, len(text) + 1) if ends is None else ends

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The part of the original text that characters `start` to `end` came from."""
        return self._starts[start], self._ends[end - 1]

    def undone(self) -> View:
        """The next reading: one round of escapes undone, invisible characters left out; itself if there are none."""
        parts: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        position = 0
        for start, end, meaning in [*_tokens(self.text), (len(self.text), len(self.text), "")]:
            parts += self.text[position:start], meaning
            starts += self._starts[position:start]
            ends += self._ends[position:start]
            if meaning:
                starts += [self._starts[start]] * len(meaning)
                ends += [self._ends[end - 1]] * len(meaning)
            position = end
        text = "".join(parts)
        return self if text == self.text else View(text, starts, ends)

    def folded(self, fold: Fold) -> tuple[bytes, list[int]]:
        """The folded bytes, and for each byte the index of the character that it came from."""
        if self.text.isascii():
            if fold is Fold.EXACT:
                return self.text.encode(), list(range(len(self.text)))
            kept = [index for index, char in enumerate(self.text) if fold.keeps(char)]
            return fold.apply(self.text.encode()), kept
        pieces: list[bytes] = []
        owners: list[int] = []
        for index, char in enumerate(self.text):
            piece = fold.apply(to_bytes(char)) if fold.keeps(char) else b""
            pieces.append(piece)
            owners += [index] * len(piece)
        return b"".join(pieces), owners


def views(text: str) -> Iterator[View]:
    """The text as it stands, then with each further round of escapes undone."""
    view = View(text)
    yield view
    for _ in range(ROUNDS):
        after = view.undone()
        if after is view:
            return
        view = after
        yield view


def to_bytes(text: str) -> bytes:
    """UTF-8, also of the lone surrogates that JSON lets through."""
    return text.encode("utf-8", "surrogatepass")


def to_text(data: bytes) -> str:
    """Text of bytes of any kind, one reading of which is certain: ASCII stays ASCII."""
    return data.decode("utf-8", "surrogateescape")


def _tokens(text: str) -> Iterator[tuple[int, int, str]]:
    found = [(match.start(), match.end(), _meaning(match[0])) for match in _ESCAPE.finditer(text)]
    if not text.isascii():
        hidden = [(match.start(), match.end(), "") for match in INVISIBLE.finditer(text)]
        found = sorted(found + hidden)
    position = 0
    for start, end, meaning in found:
        if start >= position:
            yield start, end, meaning
            position = end


def _meaning(escape: str) -> str:
    """What one escape stands for; nothing for a terminal code."""
    if escape[0] == "\x1b":
        return ""
    if escape[0] == "%":
        return bytes.fromhex(_PERCENTS.sub("", escape)).decode("utf-8", "surrogateescape")
    if escape[0] == "&":
        name = _AMPERSANDS.sub("", escape)
        return html.unescape("&" + name) if name else "&"
    body = escape.lstrip("\\")
    if not body:
        return "\\"
    if len(body) == 1:
        return _CONTROL.get(body, body)
    if body[0] in "uUx":
        code, *low = (int(digits, 16) for digits in _DIGITS.findall(body))
        if low:
            return chr(0x10000 + ((code & 0x3FF) << 10) + (low[0] & 0x3FF))
        return chr(code) if code < 0x110000 else ""
    return chr(int(body, 8))
