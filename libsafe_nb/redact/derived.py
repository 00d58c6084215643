"""
Tokens that are made from a secret and are as good as one for a while: signatures, presigned URLs, login headers.

Their value is not known beforehand, so they are known by what stands before it. Only the value is taken out:
`…&X-Amz-Signature=[redacted:signature]&…`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

NAME = "signature"
"""By this name the mark of a derived token goes, whichever secret it was made from."""

CLUES = (b"signature", b"securitytoken", b"authorization", b"hmacsha256credential")
"""Every pattern below holds one of these once it is folded (`Fold.ALNUM`)."""

CLUES_WITH_NEIGHBOURS = (
    b"signature",
    b"xamzsecuritytoken",
    b"hmacsha256credential",
    *(b"authorization" + after for after in (b"be", b"ba", b"to", b"bb", b"bt", b"3d", b"u0", b"61")),
)
"""The same with what is beside each in the patterns below: `Authorization=b'Basic …`, `Authorization%3DBearer …`."""

BEGINNINGS = (
    b"xamzsignature",
    b"xamzcredential",
    b"xamzsecuritytoken",
    b"aws4hmacsha256credential",
    b"signature",
    b"authorizationbearer",
    b"authorizationbasic",
    b"authorizationtoken",
    b"authorizationaws4hmacsha256credential",
)
"""The folded texts that a value follows: an end of a stream that could grow into one of them is held back."""

_IS = r"""(?:\\*["'])?(?:\s{0,4}[:=,]\s{0,4}|%3[dD]|\\+u003[dD]|&#61;)(?:b?\\*["'])?"""
_BEFORE = re.compile(
    rf"X-Amz-(?:Signature|Credential|Security-Token){_IS}"
    r"|AWS4-HMAC-SHA256\s{1,4}Credential="
    rf"|\bSignature{_IS}"
    rf"|Authorization{_IS}\s{{0,4}}(?:Bearer|Basic|Token)\s{{1,4}}",
    re.IGNORECASE,
)
_VALUE = re.compile(r"(?:[A-Za-z0-9._~+/=-]|%[0-9A-Fa-f]{2}|\\+/)*")
_SHORTEST = {"s": 16, "a": 8, "x": 8}
"""By the first letter of what stands before: fewer characters are a word of prose, not a token."""


def values(text: str) -> Iterator[tuple[int, int]]:
    """Where the values of derived tokens stand."""
    for before in _BEFORE.finditer(text):
        value = _VALUE.match(text, before.end())
        if value and value.end() - value.start() >= _SHORTEST[before[0][0].lower()]:
            yield value.span()


def unfinished(text: str) -> int:
    """Where a token begins whose value reaches the end of the text and may go on; the text's length if none does."""
    for before in _BEFORE.finditer(text):
        value = _VALUE.match(text, before.end())
        if value and value.end() >= len(text) - 2:
            return before.start()
    return len(text)
