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
from collections.abc import Iterable, Iterator, Sequence

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
    """All but white space, control characters, quotes, commas and backslashes, letters in lower case: for keys of few
    letters and digits."""
    WIDE = "wide"
    """ASCII letters, in lower case, digits, and all beyond ASCII: for keys in other alphabets."""
    ALNUM = "alnum"
    """ASCII letters, in lower case, and digits. Separators, line ends, zero bytes and all else are gone."""

    def apply(self, data: bytes) -> bytes:
        if self is Fold.EXACT:
            return data
        if self is Fold.DENSE:
            return data.translate(_LOWER, _BETWEEN)
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

_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,512}(?:\x07|\x1b\\)|[@-Z\\-_])")
_HIDDEN = re.compile(f"{_TERMINAL.pattern}|{INVISIBLE.pattern}")

# Each alternative begins with a literal, so that the search skips ordinary text quickly.
_ESCAPE = re.compile(
    r"\\+(?:u(?:[dD][89abAB][0-9a-fA-F]{2}\\+u[dD][c-fC-F][0-9a-fA-F]{2}|[0-9a-fA-F]{4})"
    r"|x[0-9a-fA-F]{2}|U00[01][0-9a-fA-F]{5}|[0-3][0-7]{2}|[\s\S])"
    r"|%(?:25)*[c-fC-F][0-9a-fA-F](?:%(?:25)*[89abAB][0-9a-fA-F]){1,3}"
    r"|%(?:25)*[0-9a-fA-F]{2}"
    r"|&(?:amp;)*(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
)
_PERCENTS = re.compile("%(?:25)*([0-9a-fA-F]{2})")
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
    """Whether there is more than one reading of a text without invisible characters. Four scans for one character each: nearly free."""
    return "\\" in text or "%" in text or "&" in text or "\x1b" in text


def readings(text: str, *, invisible: bool = True) -> Iterator[tuple[int, str]]:
    """
    The text as it stands, then each further reading that differs: terminal codes left out, escapes undone, and again.

    Each comes with the number of its step, by which `views` can be asked for the same one. `invisible` characters are
    left out with the terminal codes. A fold that keeps ASCII only does so anyway, and looking for them costs 10 ms/MB of
    text beyond ASCII.
    """
    yield 0, text
    for step in range(1, 2 * ROUNDS, 2):
        before = text
        if "\x1b" in text:
            text = _TERMINAL.sub("", text)
        if invisible and not text.isascii():
            text = INVISIBLE.sub("", text)
        if text != before:
            yield step, text
        if not ("\\" in text or "%" in text or "&" in text):
            return
        undone = _ESCAPE.sub(lambda match: _MEANINGS[match[0]], text)
        if undone == text:
            return
        text = undone
        yield step + 1, text


def plain(text: str) -> str:
    """The last of the `readings`, with invisible characters left in."""
    *_, (_, last) = readings(text, invisible=False)
    return last


def unfinished(text: str) -> int:
    """Where an escape begins that the end of the text cuts off; the text's length if none does."""
    tail = max(0, len(text) - 600)
    if not has_escapes(text[tail:]):
        return len(text)
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

    def without(self, tokens: Iterable[tuple[int, int, str]]) -> View:
        """The view with each token, `(start, end, meaning)`, replaced by what it means."""
        parts: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        position = 0
        for start, end, meaning in [*tokens, (len(self.text), len(self.text), "")]:
            parts += self.text[position:start], meaning
            starts += self._starts[position:start]
            ends += self._ends[position:start]
            if meaning:
                starts += [self._starts[start]] * len(meaning)
                ends += [self._ends[end - 1]] * len(meaning)
            position = end
        return View("".join(parts), starts, ends)

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


def views(text: str, *, invisible: bool = True) -> Iterator[tuple[int, View]]:
    """The `readings`, each as a view. A thousand times slower: for windows, not for whole texts."""
    view = View(text)
    yield 0, view
    hidden = _HIDDEN if invisible else _TERMINAL
    for step in range(1, 2 * ROUNDS, 2):
        found = [(match.start(), match.end(), "") for match in hidden.finditer(view.text)]
        if found:
            view = view.without(found)
            yield step, view
        found = [(match.start(), match.end(), _meaning(match[0])) for match in _ESCAPE.finditer(view.text)]
        after = view.without(found)
        if after.text == view.text:
            return
        view = after
        yield step + 1, view


def to_bytes(text: str) -> bytes:
    """UTF-8, also of the lone surrogates that JSON lets through."""
    return text.encode("utf-8", "surrogatepass")


def to_text(data: bytes) -> str:
    """Text of bytes of any kind, one reading of which is certain: ASCII stays ASCII."""
    return data.decode("utf-8", "surrogateescape")


class _Meanings(dict[str, str]):
    """Escapes that were met and what they mean, for a text has few different ones. Bounded."""

    def __missing__(self, escape: str) -> str:
        if len(self) > 4096:
            self.clear()
        meaning = self[escape] = _meaning(escape)
        return meaning


_MEANINGS = _Meanings()


def _meaning(escape: str) -> str:
    """What one escape stands for."""
    if escape[0] == "%":
        return bytes.fromhex("".join(_PERCENTS.findall(escape))).decode("utf-8", "surrogateescape")
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
