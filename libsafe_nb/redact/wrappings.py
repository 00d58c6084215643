"""
What a text holds that is not in plain sight: runs of base64 and hex, byte strings, and the containers in them.

    "img: iVBORw0KGgo…"  ── run ──▶ base64 ──▶ png ──▶ its text chunk ──▶ a secret?
    "H4sIAAAA…"          ── run ──▶ base64 ──▶ gzip ──▶ "gASV…" ──▶ base64 ──▶ pickle ──▶ its strings ──▶ a secret?

Plain base64 and hex of a secret are found by `matching` already; here it is about what lies deeper, to depth 4 and
64 MiB. A container that cannot be opened, or lies deeper than that, is reported as undecidable.
"""

from __future__ import annotations

import ast
import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from libsafe_nb.redact.containers import (
    BEGINNINGS,
    EMBEDDED,
    Allowance,
    Unreadable,
    begins_container,
    contents,
)
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.redact.reading import plain, views

MAX_DEPTH = 4
MAX_UNPACKED = 64 * 1024 * 1024

TAG = re.compile(r"<[^<>]{0,2000}>")

_SHORTEST_RUN = 20
"""The shortest container with a secret in it: 8 characters in zlib, 16 bytes, 22 characters of base64."""

_SHORTEST_STRONG_RUN = 30
"""The same for a secret of 16 characters. File paths are runs, too: the longer, the fewer."""

_WORTH_DECODING = 40
"""Shorter runs can hold no form that `matching` does not find in them as they stand."""

_WRAPPED_AT = 56
"""Lines of this length and more may go on in the next one: base64 is wrapped at 64 or 76 characters."""

_HEADS = frozenset(
    head
    for first in BEGINNINGS
    for encoded in (binascii.b2a_base64(first), base64.urlsafe_b64encode(first))
    for head in (encoded[:2], first.hex().encode()[:2], first.hex().upper().encode()[:2])
)
"""With what base64 and hex of the containers begin."""

_MOST_EMBEDDED = 64
_HEX = b"0123456789abcdefABCDEF"
_PRINTABLE = bytes(range(32, 127)) + b"\r\n\t"
_NEXT_LINE = re.compile(rb"\r?\n[ \t]*([A-Za-z0-9+/_-]+)")
_LINE = re.compile(rb"[A-Za-z0-9+/_-]+")
_IN_RUN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
_RUNS = bytes(97 if code in _IN_RUN else 32 for code in range(256))
_URLSAFE = bytes.maketrans(b"-_", b"+/")
_BYTES = re.compile(r"""\bb(['"])((?:\\[^\n]|(?!\1)[^\\\n])*)\1""")


@dataclass
class Findings:
    """What was found in one piece of data: forms of secrets as `(secret, chain of forms)`, and what stayed shut."""

    secrets: list[tuple[str, str]] = field(default_factory=list)
    undecidable: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.secrets or self.undecidable)


@dataclass(frozen=True)
class Wrapped:
    """Characters `start` to `end` of a text wrap something that was found."""

    start: int
    end: int
    findings: Findings

    @property
    def holds_container(self) -> bool:
        """Whether there is more than text encodings between the text and the secret."""
        return any(set(chain.split(">")[:-1]) - {"base64", "hex"} for _, chain in self.findings.secrets)


class Unwrapping:
    """Looks into the wrappings of one document, whose containers share one allowance."""

    def __init__(
        self, secrets: SecretSet, *, max_depth: int = MAX_DEPTH, max_unpacked: int = MAX_UNPACKED
    ) -> None:
        self._secrets = secrets
        self._shortest_run = (
            _SHORTEST_RUN if any(not each.strong for each in secrets.secrets) else _SHORTEST_STRONG_RUN
        )
        self._max_depth = max_depth
        self._allowance = Allowance(max_unpacked)

    def text(self, text: str) -> list[Wrapped]:
        """The wrappings in a text that hold a secret or cannot be opened."""
        data = text.encode("ascii", "replace")  # one byte for each character, so that positions are the same
        found = self._runs(data, ())
        if "\\" in text:
            found += self._byte_strings(text)
            read = plain(text)
            if read != text and not any(wrapped.findings.secrets for wrapped in found):
                # What an escape cuts in two may be whole when it is undone, so that reading has the last word.
                found = self._undone(text) if self._runs(read.encode("ascii", "replace"), ()) else []
        return found

    def _undone(self, text: str) -> list[Wrapped]:
        """The runs of the text with its escapes undone, at the places in the text that they come from."""
        *_, view = views(text)
        runs = self._runs(view.text.encode("ascii", "replace"), ())
        return [Wrapped(*view.span(run.start, run.end), run.findings) for run in runs]

    def examine(self, data: bytes, chain: tuple[str, ...] = ()) -> Findings:
        """All that is found in data of any kind, in what they hold, and so on."""
        findings = Findings()
        self._examine(data, chain, findings)
        return findings

    def _examine(self, data: bytes, chain: tuple[str, ...], findings: Findings) -> None:
        for secret, form in self._plain_sight(data):
            findings.secrets.append((secret, ">".join([*chain, form])))
        if self._opened(data, chain, findings):
            return
        for number, match in enumerate(EMBEDDED.finditer(data)):
            if number == _MOST_EMBEDDED:
                findings.undecidable.append(">".join(chain) + ": it holds too many containers")
                break
            if match.start():
                self._opened(data[match.start() :], chain, findings)
        if len(chain) < self._max_depth:
            for wrapped in self._runs(data, chain):
                findings.secrets += wrapped.findings.secrets
                findings.undecidable += wrapped.findings.undecidable

    def _plain_sight(self, data: bytes) -> Iterator[tuple[str, str]]:
        text = _as_text(data)
        if text is None:
            found = self._secrets.find_bytes(data)
        else:
            found = self._secrets.find(text) or (
                self._secrets.find(TAG.sub("", text)) if "</" in text else []
            )
        return ((span.secret, span.form) for span in found)

    def _opened(self, data: bytes, chain: tuple[str, ...], findings: Findings) -> bool:
        """Whether the data begin with a container; if so it is looked into."""
        try:
            opened = contents(data, self._allowance)
            if opened is None:
                return False
            name, items = opened
            if len(chain) >= self._max_depth:
                raise Unreadable(f"it is {name} nested deeper than {self._max_depth}")
        except Unreadable as exc:
            findings.undecidable.append(": ".join(filter(None, [">".join(chain), str(exc)])))
            return True
        for item in items:
            if item:
                self._examine(item, (*chain, name), findings)
        return True

    def _runs(self, data: bytes, chain: tuple[str, ...]) -> list[Wrapped]:
        """
        The runs of base64 and hex that hold something.

        What begins like a container is looked into alone. The rest, the digests and long words of ordinary text, is
        decoded and looked into all together, and one by one only if there is something.
        """
        found: list[Wrapped] = []
        others: list[tuple[int, int]] = []
        opened = joined = 0
        for start, end in _long_runs(data, self._shortest_run):
            if start < opened:
                continue
            if data[start : start + 2] in _HEADS:
                wrapped, opened = self._container(data, start, end, chain)
                found += [wrapped] if wrapped else []
            if start >= max(opened, joined) and end - start >= _WORTH_DECODING:
                if end - start >= _WRAPPED_AT:
                    joined = end = _wrapped_end(data, start, end)
                others.append((start, end))
        if others and self._holds([data[start:end] for start, end in others], chain):
            for start, end in others:
                lines = [
                    (start + line.start(), start + line.end()) for line in _LINE.finditer(data[start:end])
                ]
                each = [self._alone(first, last, _decoded(data[first:last]), chain) for first, last in lines]
                together = (
                    [self._alone(start, end, _decoded(data[start:end]), chain)] if len(lines) > 1 else []
                )
                found += filter(None, each) if any(each) else filter(None, together)
        return found

    def _container(
        self, data: bytes, start: int, end: int, chain: tuple[str, ...]
    ) -> tuple[Wrapped | None, int]:
        """
        What is found in the container that a run begins, and where the container ends; 0 if the run begins none.

        A run may go on in the next line. Whether it does is told by what it holds: one line that opens is whole.
        """
        whole = _wrapped_end(data, start, end)
        for stop in sorted({end, whole}):
            run = b"".join(data[start:stop].split())
            decoded = [(name, each) for name, each in _decoded(run) if begins_container(each)]
            if not decoded:
                return None, 0
            wrapped = self._alone(start, stop, decoded, chain)
            if wrapped is None or not wrapped.findings.undecidable:
                break
        return wrapped, stop

    def _holds(self, runs: list[bytes], chain: tuple[str, ...]) -> bool:
        """Whether any of the runs is likely to hold something; the answer errs on the side of yes."""
        lines = [line for run in runs if b"\n" in run for line in run.split()]
        decoded = [_base64(run) for run in runs + lines]
        together = b"\n".join(decoded)
        texts = "\n".join(filter(None, map(_as_text, decoded)))
        digits = b"".join(
            [run for run in runs + lines if len(run) % 2 == 0 and not run.translate(None, _HEX)]
        )
        together += b"\n" + bytes.fromhex(digits.decode())
        if (
            self._secrets.suspects(together)
            or self._secrets.suspects_text(texts)
            or EMBEDDED.search(together)
        ):
            return True
        return len(chain) + 1 < self._max_depth and bool(self._runs(together, (*chain, "base64")))

    def _alone(
        self, start: int, end: int, decoded: list[tuple[str, bytes]], chain: tuple[str, ...]
    ) -> Wrapped | None:
        findings = Findings()
        for name, data in decoded:
            self._examine(data, (*chain, name), findings)
        return Wrapped(start, end, findings) if findings else None

    def _byte_strings(self, text: str) -> list[Wrapped]:
        r"""Python's `b'\x1f\x8b…'`, as `print` shows compressed or pickled bytes."""
        found: list[Wrapped] = []
        for match in _BYTES.finditer(text) if "\\x" in text else ():
            if "\\x" in match[2]:
                try:
                    data = ast.literal_eval(match[0])
                except (ValueError, SyntaxError):
                    continue
                wrapped = self._alone(match.start(), match.end(), [("bytes", data)], ())
                found += [wrapped] if wrapped else []
        return found


def _long_runs(data: bytes, shortest: int) -> Iterator[tuple[int, int]]:
    """Where runs of base64's characters stand. Text without any so long is passed over at a byte a cycle."""
    mapped = data.translate(_RUNS)
    needle = b"a" * shortest
    start = mapped.find(needle)
    while start >= 0:
        end = mapped.find(b" ", start)
        end = len(mapped) if end < 0 else end
        yield start, end
        start = mapped.find(needle, end)


def _wrapped_end(data: bytes, start: int, end: int) -> int:
    """Where a run ends that goes on over lines: all of the same length, save the last, which may be shorter."""
    length = end - start
    while (match := _NEXT_LINE.match(data, end)) and len(match[1]) <= length:
        end = match.end()
        if len(match[1]) < length:
            break
    return end


def _decoded(run: bytes) -> list[tuple[str, bytes]]:
    """A run as base64 and as hex; of one in several lines, each line alone as well."""
    lines = run.split()
    whole = b"".join(lines)
    found = [("base64", _base64(whole))]
    if len(lines) > 1:
        found.append(("base64", b"\n".join([_base64(line) for line in lines])))
    if not whole.translate(None, _HEX):
        found.append(("hex", bytes.fromhex(whole[: len(whole) // 2 * 2].decode())))
    return found


def _as_text(data: bytes) -> str | None:
    """Data that are text, as text: in UTF-8, or in Latin-1 if most of it is ASCII; None if they are something else."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1") if len(data.translate(None, _PRINTABLE)) * 4 < len(data) else None


def _base64(run: bytes) -> bytes:
    run = run.translate(None, b"\r\n\t =")
    if b"-" in run or b"_" in run:
        run = run.translate(_URLSAFE)
    whole = len(run) - (len(run) % 4 == 1)
    return binascii.a2b_base64(run[:whole] + b"=" * (-whole % 4))
