"""
Formats that wrap bytes so that a search does not see them: opened here, without trusting what is in them.

`contents` says what a piece of data holds if it begins with gzip, zlib, bzip2, xz, zip, pickle, PNG or JPEG; of
pictures only the texts, not the pixels. A pickle is read with `pickletools`, never loaded.

Random bytes can begin like a format. So each is recognised by as much of its header as makes a chance hit unlikely
in a thousand gigabytes, or by having taken in 128 bytes without complaint; what then fails is `Unreadable`, anything else is no container.
"""

from __future__ import annotations

import bz2
import io
import lzma
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

_PROOF = 128
_PROVEN_STEPS = 8
_PIECE = 4096

_HEADER = re.compile(
    rb"\x1f\x8b\x08[\x00-\x1f].{4}[\x00\x02\x04][\x00-\x0d\xff]"
    rb"|PK\x03\x04[\x00-\x3f]\x00..[\x00\x08\x09\x0c\x0e\x5d\x5f]\x00"
    rb"|BZh[1-9]1AY&SY|\xfd7zXZ\x00|\x89PNG\r\n\x1a\n|\x80[\x04\x05]\x95.{4}\x00{4}",
    re.DOTALL,
)
_SIGNATURES = (
    b"\x1f\x8b\x08",
    b"PK\x03\x04",
    b"AY&SY",
    b"\xfd7zXZ\x00",
    b"\x89PNG\r\n",
    b"\x80\x04\x95",
    b"\x80\x05\x95",
)


class Unreadable(Exception):
    """A container that cannot be looked into; its message says why."""


class Allowance:
    """How many more bytes may be unpacked, all containers of one document together."""

    def __init__(self, most: int) -> None:
        self.left = most

    def take(self, size: int) -> None:
        if size > self.left:
            self.left = 0
            raise Unreadable("it unpacks to more than is looked through")
        self.left -= size


def contents(data: bytes, allowance: Allowance) -> tuple[str, list[bytes]] | None:
    """
    The name of the container that the data begin with, and what is in it; None if they begin with none.

    Raises
    ------
    Unreadable
        A container that is damaged, cut short, encrypted, or larger than the allowance.
    """
    for begins, name, read in _READERS if data[:1] in _FIRST else ():
        if begins(data):
            items = read(data, allowance)
            return None if items is None else (name, items)
    return None


def begins_container(data: bytes) -> bool:
    """Whether the first bytes are worth a call of `contents`; a quick test that errs on the side of yes."""
    return data[:1] in _FIRST and any(begins(data) for begins, _, _ in _READERS)


def embedded(data: bytes) -> Iterator[int]:
    """Where containers begin in the middle of other bytes: those whose header is certain enough for that."""
    # Searches for bytes are much faster than the expression.
    if any(signature in data for signature in _SIGNATURES):
        yield from (match.start() for match in _HEADER.finditer(data))


def _is_gzip(data: bytes) -> bool:
    return data[:3] == b"\x1f\x8b\x08" and _HEADER.match(data) is not None


def _is_zlib(data: bytes) -> bool:
    return (
        len(data) > 8
        and data[0] & 0x0F == 8
        and data[0] <= 0x78
        and not data[1] & 0x20
        and int.from_bytes(data[:2], "big") % 31 == 0
    )


def _gzip(data: bytes, allowance: Allowance) -> list[bytes]:
    items: list[bytes] = []
    while data and (_is_gzip(data) or not items):
        reader = zlib.decompressobj(31)
        try:
            item = reader.decompress(data, allowance.left + 1)
        except zlib.error as exc:
            raise Unreadable("it is damaged gzip") from exc
        allowance.take(len(item))
        if not reader.eof:
            raise Unreadable("it is gzip cut short")
        items.append(item)
        data = reader.unused_data
    return items


def _zlib(data: bytes, allowance: Allowance) -> list[bytes] | None:
    """Two bytes are a weak header, so a failure counts only after enough has come out."""
    reader, item, taken = zlib.decompressobj(), bytearray(), 0
    for piece in _pieces(data):
        try:
            item += reader.decompress(piece, allowance.left - len(item) + 1)
        except zlib.error as exc:
            if taken < _PROOF:
                return [bytes(item)] if item else None
            raise Unreadable("it is damaged zlib") from exc
        taken += len(piece)
        if len(item) > allowance.left:
            allowance.take(len(item))  # raises
        if reader.eof:
            break
    allowance.take(len(item))
    if not reader.eof and taken >= _PROOF:
        raise Unreadable("it is zlib cut short")
    return [bytes(item)]


def _pieces(data: bytes) -> Iterator[bytes]:
    """The beginning in small steps, as what came out before an error is lost with the call that raises it."""
    yield from (data[start : start + 16] for start in range(0, min(len(data), _PIECE), 16))
    yield from (data[start : start + _PIECE] for start in range(_PIECE, len(data), _PIECE))


def _bzip2(data: bytes, allowance: Allowance) -> list[bytes]:
    return _decompressed(bz2.BZ2Decompressor(), data, allowance, "bzip2")


def _xz(data: bytes, allowance: Allowance) -> list[bytes]:
    return _decompressed(lzma.LZMADecompressor(lzma.FORMAT_XZ), data, allowance, "xz")


def _decompressed(
    reader: bz2.BZ2Decompressor | lzma.LZMADecompressor, data: bytes, allowance: Allowance, name: str
) -> list[bytes]:
    try:
        item = reader.decompress(data, allowance.left + 1)
    except (OSError, lzma.LZMAError, EOFError) as exc:
        raise Unreadable(f"it is damaged {name}") from exc
    allowance.take(len(item))
    if not reader.eof:
        raise Unreadable(f"it is {name} cut short")
    return [item, reader.unused_data]


def _zip(data: bytes, allowance: Allowance) -> list[bytes]:
    items: list[bytes] = []
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.infolist():
                if member.flag_bits & 1:
                    raise Unreadable("it is an encrypted zip")
                items.append(
                    b"\n".join((member.filename.encode("utf-8", "replace"), member.comment, member.extra))
                )
                with archive.open(member) as stream:
                    item = stream.read(allowance.left + 1)
                allowance.take(len(item))
                items.append(item)
            items.append(archive.comment)
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        OSError,
        ValueError,
    ) as exc:
        raise Unreadable("it is a damaged zip") from exc
    return items


def _pickle(data: bytes, allowance: Allowance) -> list[bytes] | None:
    """The strings of one or several pickles, each alone and all joined, as code may write a text in parts."""
    strings: list[bytes] = []
    stream, steps = io.BytesIO(data), 0
    while data[stream.tell() : stream.tell() + 1] == b"\x80":
        try:
            for _, argument, _ in pickletools.genops(stream):
                steps += 1
                if isinstance(argument, str):
                    strings.append(argument.encode("utf-8", "surrogatepass"))
                elif isinstance(argument, (bytes, bytearray)):
                    strings.append(bytes(argument))
        except (ValueError, struct.error, UnicodeDecodeError, EOFError, IndexError, OverflowError) as exc:
            if steps < _PROVEN_STEPS:
                return None
            raise Unreadable("it is a damaged pickle") from exc
    rest = data[stream.tell() :]
    allowance.take(sum(map(len, strings)))
    return [*(each for each in strings if begins_container(each)), b"\n".join(strings), rest]


def _png(data: bytes, allowance: Allowance) -> list[bytes]:
    items: list[bytes] = []
    position = 8
    while position + 8 <= len(data):
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        body = data[position + 8 : position + 8 + size]
        position += 12 + size
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            items += _png_text(kind, body, allowance)
        elif kind not in (b"IDAT", b"fdAT"):
            items.append(body)
        if kind == b"IEND":
            break
    return [*items, data[position:]]


def _png_text(kind: bytes, body: bytes, allowance: Allowance) -> list[bytes]:
    keyword, _, rest = body.partition(b"\0")
    if kind == b"iTXt":
        compressed, rest = rest[:1] == b"\1", rest[2:]
        language, _, rest = rest.partition(b"\0")
        translated, _, text = rest.partition(b"\0")
        keyword += b"\n" + language + b"\n" + translated
    else:
        compressed, text = True, rest[1:]
    if not compressed:
        return [keyword, text]
    reader = zlib.decompressobj()
    try:
        item = reader.decompress(text, allowance.left + 1)
    except zlib.error as exc:
        raise Unreadable("it is a picture with a damaged text") from exc
    allowance.take(len(item))
    if not reader.eof:
        raise Unreadable("it is a picture with a text cut short")
    return [keyword, item]


def _jpeg(data: bytes, allowance: Allowance) -> list[bytes]:
    """Comments and application segments (Exif, XMP); beyond the start of scan there are pixels."""
    items: list[bytes] = []
    position = 2
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker, size = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            break
        items.append(data[position + 4 : position + 2 + size])
        position += 2 + size
    return [*items, data[data.rfind(b"\xff\xd9") + 2 :] if b"\xff\xd9" in data else b""]


_READERS: tuple[
    tuple[Callable[[bytes], bool], str, Callable[[bytes, Allowance], list[bytes] | None]], ...
] = (
    (_is_gzip, "gzip", _gzip),
    (lambda data: data[:2] == b"PK" and _HEADER.match(data) is not None, "zip", _zip),
    (lambda data: data[:3] == b"BZh" and _HEADER.match(data) is not None, "bzip2", _bzip2),
    (lambda data: data[:6] == b"\xfd7zXZ\0", "xz", _xz),
    (lambda data: data[:8] == b"\x89PNG\r\n\x1a\n", "png", _png),
    (lambda data: data[:3] == b"\xff\xd8\xff", "jpeg", _jpeg),
    (lambda data: data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5"), "pickle", _pickle),
    (_is_zlib, "zlib", _zlib),
)
BEGINNINGS = frozenset(
    [b"\x1f\x8b", b"PK", b"BZ", b"\xfd7", b"\x89P", b"\xff\xd8", b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5"]
    + [head for code in range(0x10000) if _is_zlib((head := code.to_bytes(2, "big")) + bytes(8))]
)
"""The first two bytes of all containers."""
_FIRST = frozenset(head[:1] for head in BEGINNINGS)
