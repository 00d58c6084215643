"""
What keeps the secrets of a run out of everything that is stored. Pure: data in, data out.

    reading     how a text may be read: escapes undone, what lies between characters left out
    forms       the encodings of one secret that are looked for
    derived     tokens made from a secret: signatures, presigned URLs, login headers
    needles     whether a text may hold one of hundreds of forms, fast
    matching    SecretSet: all of these at once
    values      lists, dictionaries and outputs of strings
    live        LiveFilter: the outputs of a run, as they arrive
    containers  gzip, zip, pickle, PNG … opened without trusting them
    wrappings   runs of base64 and hex, and the containers in them, to depth 4 and 64 MiB
    sweep, cells, scan    scan_document, redact_document: all that is about to be stored
    files       StreamScanner: files that a function writes
    patterns    find_pasted_keys: keys in a notebook whose value is not known
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from libsafe_nb.redact.files import FileScan, StreamScanner
from libsafe_nb.redact.live import LiveFilter
from libsafe_nb.redact.matching import SecretSet, Span
from libsafe_nb.redact.patterns import SAMPLE_VALUES, PastedKey, find_pasted_keys
from libsafe_nb.redact.scan import Redacted, ScanResult, redact_document, scan_document
from libsafe_nb.redact.sweep import Dropped
from libsafe_nb.redact.values import Redaction

__all__ = [
    "KNOWN_IMPOSSIBLE",
    "SAMPLE_VALUES",
    "Dropped",
    "FileScan",
    "LiveFilter",
    "PastedKey",
    "Redacted",
    "Redaction",
    "ScanResult",
    "SecretSet",
    "Span",
    "StreamScanner",
    "find_pasted_keys",
    "redact_document",
    "scan_document",
]

KNOWN_IMPOSSIBLE: Mapping[str, str] = MappingProxyType(
    {
        "drawn": "A secret drawn into the pixels of a picture, played as sound or shown in a film.",
        "cipher": "A secret changed by a rule of the author's own: encrypted, XORed, shifted, looked up in a table.",
        "part": "A part of a secret, such as its first characters.",
        "digest": "A digest of a secret, or anything else that was computed from it and is not a login token.",
        "padding": "A secret with letters, digits or, if it has fewer than 12 of these, other signs between its characters.",
        "places": "A secret whose parts stand in different cells, in different files or in different messages.",
        "encoding": "Text encodings that are not listed (base85, base58, Morse, EBCDIC), and those nested deeper than four.",
        "compression": "Compressed data without a header, or of a format that is not listed (zstd, brotli, LZ4, 7z, PDF streams).",
        "short": "A secret of 8 to 15 characters that is reversed, spaced out, in decimal or with invisible characters inside.",
        "large": "Wrappings such as gzip in a file of more than 64 MiB that the function itself writes; the record says so.",
    }
)
"""What no scan here finds, for the documentation. What is undecidable is another thing: that is left out."""
