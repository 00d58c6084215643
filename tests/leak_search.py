"""
A search for secrets that shares nothing with the one under test: forms and views are made here, in the plainest way.

A view is one reading of some bytes: escapes undone, colours and zero-width characters stripped, separators left out,
base64 and hex decoded, gzip, zip, pickle and the like opened, the streams and texts of a notebook's cell joined. Each
view is searched for each form. Slow, and meant to be.
"""

from __future__ import annotations

import base64
import binascii
import bz2
import html
import io
import json
import lzma
import pickletools
import re
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator

DEPTH = 6
MOST = 32 * 1024 * 1024

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
ZERO_WIDTH = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f"))
SEPARATORS = re.compile(r"[\s'\",;-]+")
BASE64_RUN = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
WRAPPED_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{60,76}(?:\\n|\r?\n)){1,}[A-Za-z0-9+/]*={0,2}")
HEX_RUN = re.compile(rb"(?:[0-9a-fA-F]{2}[ :]?){8,}")
TOKENS = re.compile(
    rb"X-Amz-Signature(?:=|%3D)[0-9a-f]{16}"
    rb"|AWS4-HMAC-SHA256 Credential=[A-Za-z0-9]{4}"
    rb"|Authorization['\"]?: ?b?['\"]?(?:Bearer|Basic) [A-Za-z0-9+/_.-]{12}",
)
"""Tokens that were made from a key. What follows each is its value; a mark begins with a bracket."""


def forms(value: str) -> dict[str, bytes]:
    """What to look for, by name. Of a value of fewer than 16 characters only the simple forms are promised."""
    data = value.encode()
    found: dict[str, bytes] = {
        "verbatim": data,
        "hex": data.hex().encode(),
        "HEX": data.hex().upper().encode(),
    }
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + data)
        # The characters that hold bits of a neighbour are cut off.
        inner = whole[(0, 2, 3)[shift] : (8 * (shift + len(data))) // 6]
        found[f"base64 {shift}"] = inner
        found[f"base64url {shift}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    found["json"] = json.dumps(value)[1:-1].encode()
    found["repr"] = repr(value)[1:-1].encode()
    found["url"] = urllib.parse.quote(value, safe="").encode()
    found["html"] = html.escape(value).encode()
    if len(value) >= 16:
        found["reversed"] = value[::-1].encode()
        found["decimal"] = ", ".join(map(str, data)).encode()
        found["hex list"] = ", ".join(f"0x{code:02x}" for code in data).encode()
        found["upper"] = value.upper().encode()
        found["utf-16"] = value.encode("utf-16-le")
        found["base32"] = base64.b32encode(data).rstrip(b"=")[:-1]
    return found


class Search:
    """Looks for the values, given by name."""

    def __init__(self, values: dict[str, str]) -> None:
        self._forms = {name: forms(value) for name, value in values.items()}
        self._strong = {name for name, value in values.items() if len(value) >= 16}

    def __call__(self, data: bytes, *, tokens: bool = False) -> list[str]:
        """`name: form, view` for each that is found. `tokens` made from a key count as well."""
        found: set[str] = set()
        seen: set[bytes] = set()
        for view, text in self._views(data, 0, "as is", seen):
            apart = view.endswith("separators")
            for name, its in self._forms.items():
                if apart and name not in self._strong:
                    continue
                for form, needle in its.items():
                    if needle in text or (
                        apart and SEPARATORS.sub("", needle.decode("latin-1")).encode("latin-1") in text
                    ):
                        found.add(f"{name}: {form}, {view}")
            if tokens and TOKENS.search(text):
                found.add(f"token, {view}")
        return sorted(found)

    def _views(self, data: bytes, depth: int, name: str, seen: set[bytes]) -> Iterator[tuple[str, bytes]]:
        if not data or len(data) > MOST or data in seen:
            return
        seen.add(data)
        yield name, data
        text = data.decode("utf-8", "replace")
        if b"\0" in data:
            yield f"{name} > no zeros", data.replace(b"\0", b"")
        if data.count(b"\0") * 8 < len(data):
            for view, read in _readings(text):
                encoded = read.encode("utf-8", "replace")
                if encoded not in seen:
                    seen.add(encoded)
                    yield f"{name} > {view}", encoded
                    if view in ("escapes", "escapes twice") and depth < DEPTH:
                        # What is wrapped may itself be written with escapes.
                        for kind, inner in _opened(encoded):
                            yield from self._views(inner, depth + 1, f"{name} > {view} > {kind}", seen)
        if depth == DEPTH:
            return
        for kind, inner in _opened(data):
            yield from self._views(inner, depth + 1, f"{name} > {kind}", seen)


def _readings(text: str) -> Iterator[tuple[str, str]]:
    bare = ANSI.sub("", text).translate(ZERO_WIDTH)
    yield "bare", bare
    for view, undo in (
        ("url", urllib.parse.unquote),
        ("form", urllib.parse.unquote_plus),
        ("url twice", lambda each: urllib.parse.unquote(urllib.parse.unquote(each))),
        ("html", html.unescape),
        ("html twice", lambda each: html.unescape(html.unescape(each))),
        ("escapes", _unescaped),
        ("escapes twice", lambda each: _unescaped(_unescaped(each))),
    ):
        yield view, undo(bare)
    once = ANSI.sub("", _unescaped(bare)).translate(ZERO_WIDTH).replace("\0", "")
    yield "bare escapes", once
    # Of bytes beyond ASCII that were written as escapes.
    yield "bytes", once.encode("latin-1", "ignore").decode("utf-8", "ignore")
    yield "bytes twice", _unescaped(once).encode("latin-1", "ignore").decode("utf-8", "ignore")
    for read in (bare, once, re.sub(r"<[^>]*>", "", bare)):
        yield "separators", SEPARATORS.sub("", read)


_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[0-7]{3}|.)", re.DOTALL)


def _unescaped(text: str) -> str:
    simple = {"n": "\n", "t": "\t", "r": "\r"}

    def meaning(match: re.Match[str]) -> str:
        body = match[1]
        if body[0] in "ux" and len(body) > 1:
            return chr(int(body[1:], 16))
        return chr(int(body, 8)) if body.isdigit() and len(body) == 3 else simple.get(body, body)

    return _ESCAPE.sub(meaning, text)


def _opened(data: bytes) -> Iterator[tuple[str, bytes]]:
    """All that the bytes wrap, wherever in them it begins."""
    yield from _notebook(data)
    for pattern, kind in ((BASE64_RUN, "base64"), (WRAPPED_BASE64, "base64 lines")):
        for run in pattern.findall(data):
            plain = re.sub(rb"\\n|\s|=", b"", run).translate(bytes.maketrans(b"-_", b"+/"))
            for start in range(4) if len(plain) < 4000 else (0,):
                part = plain[start:]
                with_padding = part[: len(part) - (len(part) % 4 == 1)]
                try:
                    yield kind, base64.b64decode(with_padding + b"=" * (-len(with_padding) % 4))
                except binascii.Error:
                    continue
    for run in HEX_RUN.findall(data):
        digits = re.sub(rb"[ :]", b"", run)
        yield "hex", bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
    for magic, kind, opened in (
        (b"\x1f\x8b\x08", "gzip", lambda each: zlib.decompressobj(31).decompress(each, MOST)),
        (b"BZh", "bzip2", lambda each: bz2.BZ2Decompressor().decompress(each, MOST)),
        (b"\xfd7zXZ", "xz", lambda each: lzma.LZMADecompressor().decompress(each, MOST)),
        (b"x\x9c", "zlib", lambda each: zlib.decompressobj().decompress(each, MOST)),
        (b"x\xda", "zlib", lambda each: zlib.decompressobj().decompress(each, MOST)),
        (b"PK\x03\x04", "zip", _unzipped),
        (b"\x80\x04\x95", "pickle", _unpickled),
        (b"\x80\x05\x95", "pickle", _unpickled),
        (b"\x89PNG", "png", _png_texts),
    ):
        for match in list(re.finditer(re.escape(magic), data))[:200]:
            try:
                yield kind, opened(data[match.start() :])
            except Exception:
                continue
    for literal in re.findall(rb"""b'((?:[^'\\\n]|\\[^\n])*)'""", data):
        if b"\\x" in literal:
            yield "bytes literal", _unescaped(literal.decode("latin-1")).encode("latin-1", "replace")


def _notebook(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Its strings on a line each, what each cell shows as one text, and each of its streams."""
    try:
        parsed = json.loads(data)
    except ValueError:
        return
    yield "strings", "\n".join(_strings(parsed)).encode("utf-8", "replace")
    for cell in parsed.get("cells", [parsed]) if isinstance(parsed, dict) else ():
        if not isinstance(cell, dict) or not isinstance(cell.get("outputs"), list):
            continue
        outputs = cell["outputs"]
        streams = [(each.get("name"), _joined(each.get("text", ""))) for each in outputs if "text" in each]
        shown = [_joined(each.get("data", {}).get("text/plain", "")) for each in outputs]
        for texts in (
            [text for name, text in streams if name == "stdout"],
            [text for name, text in streams if name == "stderr"],
            [text for _, text in streams],
            shown,
        ):
            yield "joined", "".join(texts).encode("utf-8", "replace")


def _joined(value: object) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        if value and all(isinstance(each, str) for each in value):
            yield "".join(value)
        for each in value:
            yield from _strings(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from _strings(each)


def _unzipped(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return b"\n".join(archive.read(name) for name in archive.namelist())


def _unpickled(data: bytes) -> bytes:
    found = [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, (str, bytes))]
    return b"\n".join(each.encode("utf-8", "replace") if isinstance(each, str) else each for each in found)


def _png_texts(data: bytes) -> bytes:
    texts, at = [], 8
    while at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        if kind == b"tEXt":
            texts.append(body)
        elif kind == b"zTXt":
            texts.append(zlib.decompress(body.partition(b"\0")[2][1:]))
        at += 12 + size
    return b"\n".join(texts)
