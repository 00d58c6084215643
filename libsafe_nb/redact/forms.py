"""
The forms in which one secret is looked for: a `Probe` for each.

    Zq7/Lm…  ── verbatim, reversed ──────────────────────────▶ "zq7lm…"
             ── escaped as JSON, Python, URL, HTML, shell do ▶ "zq72flm…"
             ── hex, decimal, UTF-16 ────────────────────────▶ "5a71372f…"
             ── base64, base32 at each alignment ────────────▶ the characters that hold nothing but the secret
             ── two of these, one upon the other

A base64 text has three shapes of the same bytes, by where they lie in it. Of each the inner characters are fixed;
the outermost ones also hold bits of their neighbours and are known only as sets (`Probe.edges`).
"""

from __future__ import annotations

import base64
import html
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus

from libsafe_nb.redact.reading import Fold, to_bytes
from libsafe_nb.secrets import Secret

MIN_FOLDED = 12
"""A folded form of fewer bytes is not distinctive enough: a weaker fold is taken."""

_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_URLSAFE = str.maketrans("+/", "-_")


@dataclass(frozen=True)
class Probe:
    """One form of one secret. `needle` is `text` folded; text is masked in the repr, as all forms give it away."""

    secret: str
    form: str
    fold: Fold
    text: str = field(repr=False)
    needle: bytes = field(repr=False)
    edges: tuple[str, str] = field(default=("", ""), repr=False)
    """The characters that may stand before and after and then hold a part of the secret."""

    @property
    def lead(self) -> str:
        """What stands before the first character that the fold keeps."""
        return self.text[: next(index for index, char in enumerate(self.text) if self.fold.keeps(char))]

    @property
    def trail(self) -> str:
        """What stands after the last character that the fold keeps."""
        kept = next(index for index, char in enumerate(reversed(self.text)) if self.fold.keeps(char))
        return self.text[len(self.text) - kept :]


def probes(secret: Secret) -> list[Probe]:
    """
    All forms of a secret that are looked for, without doubles.

    A secret of fewer than 16 characters is looked for as it stands, escaped, in base64 and in hex, each exactly.
    """
    found: dict[tuple[Fold, bytes], Probe] = {}
    forms = _strong_forms(secret.reveal()) if secret.strong else _short_forms(secret.reveal())
    for form, text, edges in forms:
        fold = _fold_for(text) if secret.strong else Fold.EXACT
        needle = fold.apply(to_bytes(text))
        if form == "escaped" and any(
            probe.needle in probe.fold.apply(to_bytes(text)) for probe in found.values()
        ):
            continue  # what is found in it already, such as a key of letters and digits in any quotes
        found.setdefault((fold, needle), Probe(secret.name, form, fold, text, needle, edges))
    return list(found.values())


_Form = tuple[str, str, tuple[str, str]]


def _strong_forms(value: str) -> Iterator[_Form]:
    none = ("", "")
    data, wide = to_bytes(value), value.encode("utf-16-le", "surrogatepass")
    yield "verbatim", value, none
    yield "reversed", value[::-1], none
    yield "hex", data.hex(), none
    yield "hex", "".join(f"0x{code:02x}" for code in data), none
    yield "hex", wide.hex(), none
    yield "reversed hex", data.hex()[::-1], none
    yield "decimal", " ".join(map(str, data)), none
    for text in escapes(value):
        yield "escaped", text, none
    for inner, source in (("", data), ("reversed ", data[::-1]), ("utf-16 ", wide)):
        for text, edges in aligned(source, bits=6, alphabet=_BASE64):
            yield inner + "base64", text, edges
    for text, edges in aligned(data, bits=6, alphabet=_BASE64):
        yield "reversed base64", text[::-1], (edges[1], edges[0])
        yield "base64 in hex", text.encode().hex(), none
        for outer, outer_edges in aligned(text.encode(), bits=6, alphabet=_BASE64):
            yield "base64 in base64", outer, outer_edges
    for digits in (data.hex(), data.hex().upper()):
        for text, edges in aligned(digits.encode(), bits=6, alphabet=_BASE64):
            yield "hex in base64", text, edges
    yield "hex in hex", data.hex().encode().hex(), none
    for text, edges in aligned(data, bits=5, alphabet=_BASE32):
        yield "base32", text, edges


def _short_forms(value: str) -> Iterator[_Form]:
    none = ("", "")
    data = to_bytes(value)
    yield "verbatim", value, none
    for text in escapes(value):
        yield "escaped", text, none
    for case in (data.hex(), data.hex().upper()):
        pairs = [case[index : index + 2] for index in range(0, len(case), 2)]
        for separator in ("", ":", " ", "-"):
            yield "hex", separator.join(pairs), none
    for text, edges in aligned(data, bits=6, alphabet=_BASE64):
        yield "base64", text, edges
        yield "base64", text.translate(_URLSAFE), edges


def escapes(value: str) -> Iterator[str]:
    """The value as JSON, Python, URLs, HTML and the shell write it, each alone and the usual ones within another."""
    data = to_bytes(value)
    ascii_json, wide_json = json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]
    yield from (ascii_json, wide_json, ascii_json.replace("/", "\\/"), wide_json.replace("/", "\\/"))
    twice, wide_twice = json.dumps(ascii_json)[1:-1], json.dumps(wide_json, ensure_ascii=False)[1:-1]
    yield from (twice, wide_twice)
    # A run of backslashes is read as one escape, so a backslash of the key's own is looked for as it is written.
    yield from (json.dumps(twice)[1:-1], json.dumps(wide_twice, ensure_ascii=False)[1:-1])
    yield from (repr(value)[1:-1], ascii(value)[1:-1], repr(data)[2:-1], json.dumps(repr(data)[2:-1])[1:-1])
    for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
        yield quoted
        yield _lower_percents(quoted)
        yield quote(quoted, safe="")
    yield from (
        html.escape(value),
        html.escape(value, quote=False),
        html.escape(value).replace("&#x27;", "&apos;"),
    )
    yield html.escape(html.escape(value))
    yield value.encode("ascii", "xmlcharrefreplace").decode()
    yield html.escape(value).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")
    yield shlex.quote(value).removeprefix("'").removesuffix("'")
    yield value.replace("'", "'\\''")
    yield "".join(f"%{code:02x}" for code in data)
    yield "".join(f"%{code:02X}" for code in data)
    yield "".join(f"\\x{code:02x}" for code in data)
    yield "".join(f"\\{code:03o}" for code in data)
    units = value.encode("utf-16-be", "surrogatepass")
    for digits in (units.hex(), units.hex().upper()):
        yield "".join(f"\\u{digits[index : index + 4]}" for index in range(0, len(digits), 4))
    yield "".join(f"&#{ord(char)};" for char in value)
    yield "".join(f"&#x{ord(char):x};" for char in value)


def aligned(data: bytes, *, bits: int, alphabet: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """
    The fixed characters of `data` within a longer base64 (6 bits) or base32 (5 bits) text, for each way to lie in it.

    Yields each text with the characters that its two neighbours can be: those that share the bits they hold of `data`.
    """
    group = 3 if bits == 6 else 5
    for offset in range(group):
        before, total = 8 * offset, 8 * (offset + len(data))
        number = int.from_bytes(bytes(offset) + data, "big") << (-total % bits)
        count = -(-total // bits)
        digits = [number >> (bits * (count - 1 - index)) & ((1 << bits) - 1) for index in range(count)]
        first, last = -(-before // bits), total // bits
        low, high = bits * first - before, total - bits * last
        lead = [
            char for code, char in enumerate(alphabet) if low and (code ^ digits[first - 1]) % (1 << low) == 0
        ]
        trail = [
            char for code, char in enumerate(alphabet) if high and (code ^ digits[-1]) >> (bits - high) == 0
        ]
        yield "".join(alphabet[digit] for digit in digits[first:last]), ("".join(lead), "".join(trail))


def basic_auth(user: str, value: str) -> str:
    """The token of HTTP Basic authentication, for tests and documentation: its secret is found as base64."""
    return base64.b64encode(to_bytes(f"{user}:{value}")).decode()


def _fold_for(text: str) -> Fold:
    data = to_bytes(text)
    for fold in (Fold.ALNUM, Fold.WIDE, Fold.DENSE):
        if len(fold.apply(data)) >= MIN_FOLDED:
            return fold
    return Fold.EXACT


def _lower_percents(text: str) -> str:
    parts = text.split("%")
    return "%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])
