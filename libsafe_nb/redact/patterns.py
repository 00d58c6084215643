"""
Keys pasted into a notebook: found by how they look, as their value is not known.

For `check`, before a notebook is uploaded or published. What a run stores is scanned for known values instead
(`scan`), since patterns miss keys and flag digests.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from libsafe_nb.secrets import SAMPLE_KEY

SAMPLE_VALUES: Mapping[str, str] = MappingProxyType(
    {
        SAMPLE_KEY: "LIBSAFE Go documentation, page 'Jupyter Notebooks': the sample payload's keys",
    }
)
"""Values that look like keys and are none, each with its source. The only literals that `find_pasted_keys` lets pass."""


@dataclass(frozen=True)
class PastedKey:
    """One finding; the key itself is not in it. `line` and `column` count from 1 within the text."""

    line: int
    column: int
    kind: str
    name: str
    """The variable, entry or header it is the value of; empty if there is none."""

    @property
    def message(self) -> str:
        """One sentence for the author."""
        of = f" of {self.name}" if self.name else ""
        return f"{_SENTENCES[self.kind]}{of}: take it from the payload or the environment instead"


_SENTENCES = {
    "platform-key": "a key of the platform stands in the text as the value",
    "literal": "what looks like a key stands in the text as the value",
    "aws-key": "an AWS access key stands in the text",
    "bearer": "a login token stands in the text",
    "private-key": "a private key stands in the text",
    "signature": "a signature that grants access for a while stands in the text",
    "token": "an access token stands in the text",
}

# Bounded, and tried at the beginning of a word only: outputs hold words of a million characters.
_NAME = r"(?<![A-Za-z0-9_.\-])[A-Za-z_][A-Za-z0-9_.\-]{0,80}"
_ASSIGNED = re.compile(
    rf"""(?P<name>{_NAME})\\*["']?\]?(?:\s*:\s*str)?\s*(?:=|:|,)\s*[rbfuRBFU]{{0,2}}\\*(?P<quote>["'])(?P<value>[^"'\\\n]{{8,1024}})(?P=quote)?"""
)
_PLATFORM = re.compile(r"key_(?:user|root)$", re.IGNORECASE)
_SHAPES = (
    ("aws-key", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    ("bearer", re.compile(r"\b(?:Bearer|Basic)\s+(?P<value>[A-Za-z0-9._~+/\-]{16,}=*)")),
    ("private-key", re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")),
    (
        "signature",
        re.compile(
            r"\bX-Amz-Signature=[0-9a-f]{32,}|\bAWSAccessKeyId=[^&\s]+&(?:\S*&)?Signature=[^&\s]{16,}"
        ),
    ),
    (
        "token",
        re.compile(
            r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}|xox[abpr]-[A-Za-z0-9-]{20,}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"
        ),
    ),
)
_TEMPLATE = re.compile(r"<[^>]*>|\$?\{.*\}|%\(?\w*\)?s|\[redacted:[^\]]*\]|\.+|…+|\*+|[xX]+")
"""Values that are none: to be filled in, or taken out."""
_KEY_WORDS = frozenset(
    [
        "key",
        "keys",
        "apikey",
        "accesskey",
        "secretkey",
        "privatekey",
        "token",
        "secret",
        "password",
        "passwd",
        "passphrase",
        "pwd",
        "credential",
        "credentials",
    ]
)
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")
_WORDS = re.compile(r"[a-z]+(?:[ _./:-][a-z]+)*|[A-Z]+(?:[ _./:-][A-Z]+)*|[A-Z]?[a-z]+(?:[A-Z][a-z]+)*")
_CODE = re.compile(r"\w\([^()]*\)|\),\w")
"""Between two quotes of one line there is code as well: `warn("bad key: "+t),t.substr(0,1)+"x"`, as plotly's output has it."""
_MIN_ENTROPY = 2.75
"""Bits a character. Words have 3 to 4 as well, and are told apart by their letters; a repeated password has 2.8."""


def find_pasted_keys(text: str) -> list[PastedKey]:
    """
    Where keys stand in a notebook's source or output text, in order.

    Found are values of `key_user` and `key_root`, random-looking values of names like key, token, secret or password,
    and the known shapes of AWS keys, login headers, private keys, presigned URLs and access tokens. Templates such as
    `<key>` and the values of `SAMPLE_VALUES` are not.
    """
    found: dict[int, PastedKey] = {}
    for start, kind, name in _candidates(text):
        line = text.count("\n", 0, start) + 1
        column = start - (text.rfind("\n", 0, start) + 1) + 1
        found.setdefault(start, PastedKey(line, column, kind, name))
    return [found[start] for start in sorted(found)]


def _candidates(text: str) -> Iterator[tuple[int, str, str]]:
    for match in _ASSIGNED.finditer(text):
        value, name = match["value"], match["name"].strip(".-")
        if value in SAMPLE_VALUES or _TEMPLATE.fullmatch(value):
            continue
        if _PLATFORM.search(name):
            yield match.start("value"), "platform-key", name
        elif _names_a_key(name) and _is_random(value):
            yield match.start("value"), "literal", name
    for kind, shape in _SHAPES:
        for match in shape.finditer(text):
            value = match.groupdict().get("value") or match[0]
            if value not in SAMPLE_VALUES and not (kind == "bearer" and not _is_random(value)):
                yield match.start("value") if "value" in match.groupdict() else match.start(), kind, ""


def _names_a_key(name: str) -> bool:
    return any(part.lower() in _KEY_WORDS for part in _PARTS.findall(name))


def _is_random(value: str) -> bool:
    """Whether a value is no words and has the spread of characters of a key."""
    if _WORDS.fullmatch(value) or " " in value or _CODE.search(value):
        return False
    counts = Counter(value)
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return entropy >= min(_MIN_ENTROPY, math.log2(len(value)) * 0.85)
