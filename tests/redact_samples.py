"""
Secrets, and the ways in which one leaks: shared by the tests of redaction.

`LEAKS` maps a way to a function from the secret to the text that holds it. What a function returns is the leak and
nothing else, so that a test can put it between other text.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import html
import io
import json
import lzma
import pickle
import shlex
import struct
import zipfile
import zlib
from collections.abc import Callable
from urllib.parse import quote, quote_plus

from libsafe_nb.redact import SecretSet
from libsafe_nb.secrets import Secret

ALNUM = "Zq7Lm2vXc9Rt4Bn8Ks1Wd6Yh3Pg5Jf0Tx4Ue"
AWS_LIKE = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzKEYab9/+="
QUOTES = "a'b\"c\\d&e<f>g/h+i=j%k l;m"
UNICODE = "schlüssel-ключ-鍵-für-das-Archiv-7261"
CYRILLIC = "ключотархиваиещёслова"
PUNCTUATION = "!@#$%^&*()_+{}|:<>?-=[]./~"
LONG = "".join(f"{index:x}G{index * 7919 % 1000}z" for index in range(110))[:512]
SIXTEEN = "k3Y-16-ch@racter"

STRONG = {
    "alnum": ALNUM,
    "aws": AWS_LIKE,
    "quotes": QUOTES,
    "unicode": UNICODE,
    "cyrillic": CYRILLIC,
    "punctuation": PUNCTUATION,
    "long": LONG,
    "sixteen": SIXTEEN,
}
SHORT = {
    "eight": "aB3/x+9=",
    "fifteen": "p4ss'w\"ord-é-42",
    "digits": "314159265358",
    "plain": "q7w8e9r1t2",
    "backslash": 'q7\\w8"e9',
}


def secret_set(value: str, name: str = "key_user") -> SecretSet:
    return SecretSet([Secret(name, value)])


def b64(data: bytes | str) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def png(kind: bytes, body: bytes, *, pixels: bytes = b"\0\1\2\3") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\2\0\0\0")
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + chunk(kind, body)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def jpeg(marker: int, body: bytes) -> bytes:
    start = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    return (
        start
        + bytes([0xFF, marker])
        + struct.pack(">H", len(body) + 2)
        + body
        + b"\xff\xda\0\2\x11\x22\xff\xd9"
    )


def zipped(data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", data)
    return target.getvalue()


def exif(text: bytes) -> bytes:
    """A user comment, in the UTF-16 that cameras write."""
    return (
        b"Exif\0\0II*\0\x08\0\0\0\1\0\x86\x92\7\0"
        + struct.pack("<I", len(text))
        + b"\x1a\0\0\0\0\0\0\0"
        + b"UNICODE\0"
        + text
    )


Leak = Callable[[str], str]

PLAIN: dict[str, Leak] = {
    "verbatim": lambda key: key,
    "repr": repr,
    "json": json.dumps,
    "json-wide": lambda key: json.dumps(key, ensure_ascii=False),
    "json-slash": lambda key: json.dumps(key).replace("/", "\\/"),
    "json-in-json": lambda key: json.dumps(json.dumps({"key": key})),
    "json-in-json-in-json": lambda key: json.dumps(json.dumps(json.dumps([key]))),
    "unicode-escapes": lambda key: "".join(
        f"\\u{unit:04x}"
        for unit in struct.unpack(f"<{len(key.encode('utf-16-le')) // 2}H", key.encode("utf-16-le"))
    ),
    "python-bytes": lambda key: repr(key.encode()),
    "hex-escapes": lambda key: "".join(f"\\x{code:02x}" for code in key.encode()),
    "octal-escapes": lambda key: "".join(f"\\{code:03o}" for code in key.encode()),
    "url": lambda key: quote(key, safe=""),
    "url-path": quote,
    "url-form": quote_plus,
    "url-lower": lambda key: "".join(
        f"%{code:02x}" if not chr(code).isalnum() or code > 127 else chr(code) for code in key.encode()
    ),
    "url-twice": lambda key: quote(quote(key, safe=""), safe=""),
    "url-all": lambda key: "".join(f"%{code:02X}" for code in key.encode()),
    "html": html.escape,
    "html-twice": lambda key: html.escape(html.escape(key)),
    "html-numbers": lambda key: "".join(f"&#{ord(char)};" for char in key),
    "html-hex": lambda key: "".join(f"&#x{ord(char):X};" for char in key),
    "shell": shlex.quote,
    "base64-0": b64,
    "base64-1": lambda key: b64("x" + key),
    "base64-2": lambda key: b64("xy" + key + "z"),
    "base64-url": lambda key: base64.urlsafe_b64encode(b"u:" + key.encode()).decode(),
    "base64-unpadded": lambda key: b64(key).rstrip("="),
    "hex": lambda key: key.encode().hex(),
    "hex-upper": lambda key: key.encode().hex().upper(),
    "hex-colons": lambda key: key.encode().hex(":"),
    "hex-spaces": lambda key: key.encode().hex(" ").upper(),
}
"""Ways that are caught for secrets of any length."""

STRONG_ONLY: dict[str, Leak] = {
    "reversed": lambda key: key[::-1],
    "one-a-line": "\n".join,
    "spaced": " ".join,
    "listed": lambda key: str(list(key)),
    "dashed": lambda key: "-".join(key) if "-" not in key else ", ".join(key),
    "upper": lambda key: key.upper() if len(key.upper()) == len(key) and key.isascii() else key,
    "colours": lambda key: "\x1b[31m" + "\x1b[0m\x1b[32m".join(key) + "\x1b[0m",
    "colours-escaped": lambda key: json.dumps("\x1b[1m".join(key)),
    "zero-width": "\u200b".join,
    "zero-width-escaped": lambda key: json.dumps("\u200d\ufeff".join(key)),
    "soft-hyphens": lambda key: key[:3] + "\u00ad" + key[3:],
    "lines-escaped": lambda key: repr("\n".join(key)),
    "utf-16": lambda key: "\0".join(key) if key.isascii() else key,
    "utf-16-hex": lambda key: key.encode("utf-16-le").hex(),
    "utf-16-base64": lambda key: b64(key.encode("utf-16")),
    "decimal": lambda key: str(list(key.encode())),
    "hex-list": lambda key: ", ".join(f"0x{code:02x}" for code in key.encode()),
    "hex-dump": lambda key: "\n".join(
        key.encode().hex(" ")[at : at + 48] for at in range(0, 3 * len(key.encode()), 48)
    ),
    "base32": lambda key: base64.b32encode(key.encode()).decode(),
    "base64-lines": lambda key: "\n".join(b64("ab" + key)[at : at + 11] for at in range(0, 999, 11)).strip(),
    "base64-twice": lambda key: b64(b64("pre" + key + "post")),
    "base64-of-hex": lambda key: b64("k=" + key.encode().hex()),
    "base64-reversed": lambda key: b64(key[::-1].encode()) if key.isascii() else b64(key),
    "base64-of-json": lambda key: (
        b64(json.dumps({"key": key}, ensure_ascii=False)) if json.dumps(key) == f'"{key}"' else b64(key)
    ),
    "hex-of-base64": lambda key: b64(key).encode().hex(),
}
"""Ways that are caught for secrets of 16 characters and more."""

WRAPPED: dict[str, Leak] = {
    "gzip": lambda key: b64(gzip.compress(key.encode())),
    "gzip-hex": lambda key: gzip.compress(key.encode()).hex(),
    "gzip-bytes": lambda key: repr(gzip.compress(key.encode())),
    "gzip-lines": lambda key: base64.encodebytes(gzip.compress((key * 3).encode())).decode().strip(),
    "zlib": lambda key: b64(zlib.compress(key.encode())),
    "zlib-url": lambda key: base64.urlsafe_b64encode(zlib.compress(key.encode(), 9)).decode(),
    "bzip2": lambda key: b64(bz2.compress(key.encode())),
    "xz": lambda key: b64(lzma.compress(key.encode())),
    "zip": lambda key: b64(zipped(key.encode())),
    **{
        f"pickle-{protocol}": (lambda key, protocol=protocol: b64(pickle.dumps({"k": [key]}, protocol)))
        for protocol in range(6)
    },
    "pickle-gzip": lambda key: b64(pickle.dumps([gzip.compress(key.encode())])),
    "gzip-pickle": lambda key: b64(gzip.compress(pickle.dumps({"k": key}))),
    "gzip-json-base64-zlib": lambda key: b64(
        gzip.compress(json.dumps({"k": b64(zlib.compress(key.encode()))}).encode())
    ),
    "gzip-gzip-gzip": lambda key: b64(gzip.compress(gzip.compress(gzip.compress(key.encode())))),
    "base64-four": lambda key: b64(b64(b64(b64(key)))),
    "base64-spaced": lambda key: b64("    ".join(key)),
    "base64-escaped": lambda key: b64("".join(f"\\u{ord(char):04x}" for char in key if ord(char) < 0x10000)),
    "png-text": lambda key: b64(png(b"tEXt", b"Comment\0" + key.encode())),
    "png-ztxt": lambda key: b64(png(b"zTXt", b"Comment\0\0" + zlib.compress(key.encode()))),
    "png-itxt": lambda key: b64(png(b"iTXt", b"Comment\0\1\0en\0\0" + zlib.compress(key.encode()))),
    "png-itxt-plain": lambda key: b64(png(b"iTXt", b"Comment\0\0\0\0\0" + key.encode())),
    "png-exif": lambda key: b64(png(b"eXIf", exif(key.encode())[6:])),
    "png-trailer": lambda key: b64(png(b"tEXt", b"a\0b") + gzip.compress(key.encode())),
    "jpeg-comment": lambda key: b64(jpeg(0xFE, key.encode())),
    "jpeg-exif": lambda key: b64(jpeg(0xE1, exif(key.encode("utf-16-le")))),
    "data-url": lambda key: (
        "data:image/png;base64," + b64(png(b"zTXt", b"C\0\0" + zlib.compress(key.encode())))
    ),
    "json-of-gzip": lambda key: json.dumps(
        {"blob": base64.encodebytes(gzip.compress(key.encode())).decode()}
    ).replace("/", "\\/"),
}
"""Ways that only the final scan sees."""

DERIVED: dict[str, tuple[str, str]] = {
    "presigned": (
        "GET https://s3.example/b/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=" + "9f" * 32 + "&x=1",
        "9f9f9f9f",
    ),
    "presigned-credential": (
        "?X-Amz-Credential=AKIAQWERTY%2F20260101%2Feu&X-Amz-Signature=" + "ab" * 32,
        "AKIAQWERTY",
    ),
    "presigned-escaped": ("X-Amz-Signature%3D" + "9f" * 32, "9f9f9f9f"),
    "presigned-v2": (
        "https://s3.example/b/k?AWSAccessKeyId=AK&Signature=Zq7Lm2vXc9Rt4Bn8%2BKs1%3D&Expires=17",
        "Zq7Lm2vXc9Rt4Bn8",
    ),
    "session-token": ("'X-Amz-Security-Token': b'IQoJb3JpZ2luX2VjEJr'", "IQoJb3JpZ2luX2VjEJr"),
    "header-v4": (
        "Authorization: AWS4-HMAC-SHA256 Credential=AKIAQW/2026/s3/aws4_request, SignedHeaders=host, Signature="
        + "c4" * 32,
        "c4c4c4c4",
    ),
    "header-v4-credential": (
        "AWS4-HMAC-SHA256 Credential=AKIAQWERTY/2026/s3/aws4_request, SignedHeaders=host",
        "AKIAQWERTY",
    ),
    "bearer": ("send: b'GET / HTTP/1.1\\r\\nAuthorization: Bearer mF9AB5f4q1JqM\\r\\n'", "mF9AB5f4q1JqM"),
    "bearer-dict": ("{'Authorization': 'Bearer mF9AB5f4q1JqM', 'Accept': '*/*'}", "mF9AB5f4q1JqM"),
    "bearer-json": (json.dumps(json.dumps({"Authorization": "Bearer mF9AB5f4q1JqM"})), "mF9AB5f4q1JqM"),
    "basic": ("authorization: Basic dXNlcjpwYXNzd29yZA==", "dXNlcjpwYXNzd29yZA"),
}
"""Texts with a token that grants access, and the part of it that must go. Whichever key it was made from."""
