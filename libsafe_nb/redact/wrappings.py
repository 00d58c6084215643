"""
What a text holds that is not in plain sight: runs of base64 and hex, byte strings, and the containers in them.

    "img: iVBORw0KGgo…"  ── run ──▶ base64 ──▶ png ──▶ its text chunk ──▶ a secret?
    "H4sIAAAA…"          ── run ──▶ base64 ──▶ gzip ──▶ "gASV…" ──▶ base64 ──▶ pickle ──▶ its strings ──▶ a secret?

Plain base64 and hex of a secret are found by `matching` already; here it is about what lies deeper, to depth 4 and
64 MiB. A container that cannot be opened, or lies deeper than that, is reported as undecidable.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from libsafe_nb import syntax
from libsafe_nb.redact.containers import (
    BEGINNINGS,
    Allowance,
    Unreadable,
    begins_container,
    contents,
    embedded,
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

_DIGESTS = frozenset((32, 40, 56, 64, 96, 128))
_HEX = b"0123456789abcdefABCDEF"
_IN_RUN = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"
_RUNS = bytes(97 if code in _IN_RUN else 32 for code in range(256))
_SHORTEST_CUT = 12
_CUTS = bytes(97 if code in _IN_RUN else code for code in range(256))
_URLSAFE = bytes.maketrans(b"-_", b"+/")
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")

_WRAPPED_AT = 56
"""Lines of this length and more may go on in the next one: base64 is wrapped at 64 or 76 characters."""

_HEADS = frozenset(
    head
    for first in BEGINNINGS
    for encoded in (base64.b64encode(first + bytes([low])) for low in range(0, 256, 64))
    for head in (
        encoded[:3],
        encoded[:3].translate(_TO_URLSAFE),
        first.hex().encode()[:3],
        first.hex().upper().encode()[:3],
    )
)
"""With what base64 and hex of the containers begin."""

_BATCH = 1024 * 1024

_MOST_EMBEDDED = 64
_PRINTABLE = bytes(range(32, 127)) + b"\r\n\t"
_NEXT_LINE = re.compile(rb"\r?\n[ \t]*([A-Za-z0-9+/_-]+)")
_LINE = re.compile(rb"[A-Za-z0-9+/_-]+")
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
        ) * b"a"
        self._max_depth = max_depth
        self._allowance = Allowance(max_unpacked)

    def text(self, text: str) -> list[Wrapped]:
        """The wrappings in a text that hold a secret or cannot be opened."""
        data = text.encode("ascii", "replace")  # one byte for each character, so that positions are the same
        found = self._runs(data, ())
        if "\\" in text:
            found += self._byte_strings(text)
            if not any(wrapped.findings.secrets for wrapped in found) and _cut_by_escapes(data):
                # What an escape cuts in two may be whole when it is undone, so that reading has the last word.
                read = plain(text).encode("ascii", "replace")
                found = self._undone(text) if self._runs(read, ()) else []
        return found

    def _undone(self, text: str) -> list[Wrapped]:
        """The runs of the text with its escapes undone, at the places in the text that they come from."""
        *_, (_, view) = views(text)
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
        self._look_inside(data, chain, findings)
        if len(chain) < self._max_depth:
            for wrapped in self._runs(data, chain):
                findings.secrets += wrapped.findings.secrets
                findings.undecidable += wrapped.findings.undecidable

    def _look_inside(self, data: bytes, chain: tuple[str, ...], findings: Findings) -> None:
        """Containers in the middle of other bytes. Each member of a zip looks like one, so the first stands for all."""
        starts = [start for start in embedded(data) if start]
        zips = {start for start in starts if data.startswith(b"PK", start)}
        starts = [start for start in starts if start not in zips or start == min(zips)]
        if len(starts) > _MOST_EMBEDDED:
            findings.undecidable.append(": ".join([*chain, "it holds too many containers"]))
        for start in starts[:_MOST_EMBEDDED]:
            self._opened(data[start:], chain, findings)

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
        digests: list[tuple[int, bytes]] = []
        done = 0
        # Plain steps, as a listing of digests has ten thousand of them in a megabyte.
        mapped = data.translate(_RUNS)
        find, shortest = mapped.find, self._shortest_run
        start = find(shortest)
        while start >= 0:
            end = find(b" ", start)
            run = data[start:end] if end >= 0 else data[start:]
            if run[:3] in _HEADS and start >= done and _begins_container(run):
                wrapped, opened = self._container(data, start, start + len(run), chain)
                found += [wrapped] if wrapped else []
                done = max(done, opened)
            if len(run) in _DIGESTS and start >= done:
                digests.append((start, run))
            elif len(run) >= _WORTH_DECODING and start >= done:
                others.append((start, _wrapped_end(data, start, start + len(run))))
                done = others[-1][1]
            start = find(shortest, end) if end >= 0 else -1
        others += self._unlike_digests(data, digests, chain)
        if others and self._holds([data[start:end] for start, end in others], chain):
            for start, end in others:
                found += self._each(data, start, end, chain)
        return found

    def _each(self, data: bytes, start: int, end: int, chain: tuple[str, ...]) -> Iterator[Wrapped]:
        """What is found in each line of a run alone, or else in all of them together."""
        lines = [(start + line.start(), start + line.end()) for line in _LINE.finditer(data[start:end])]
        alone = [self._alone(first, last, _decoded(data[first:last]), chain) for first, last in lines]
        if len(lines) > 1 and not any(alone):
            alone = [self._alone(start, end, _decoded(data[start:end]), chain)]
        return filter(None, alone)

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
        overlap = 4 * self._secrets.reach
        return any(self._some_hold(batch, chain) for batch in _batches(runs, overlap))

    def _some_hold(self, runs: list[bytes], chain: tuple[str, ...]) -> bool:
        lines = [line for run in runs if b"\n" in run for line in run.split()]
        decoded = [each for run in runs + lines for _, each in _decoded(run)]
        together = b"\n".join(decoded)
        if self._secrets.suspects(together) or any(True for _ in embedded(together)):
            return True
        texts = list(filter(None, map(_as_text, decoded)))
        return self._secrets.suspects_text("\n".join(texts)) or self._holds_deeper(
            together, (*chain, "base64")
        )

    def _unlike_digests(
        self, data: bytes, found: list[tuple[int, bytes]], chain: tuple[str, ...]
    ) -> list[tuple[int, int]]:
        """
        Of runs as long as digests, where those stand that are none or that hold something.

        There are too many of them to take each alone, so they are tried all joined. They hold no container, as they
        would begin like one.
        """
        if not found:
            return []
        digits = b"".join([run for _, run in found])
        if digits.translate(None, _HEX):
            digits = b"".join([run for _, run in found if not run.translate(None, _HEX)])
            others = [(start, run) for start, run in found if run.translate(None, _HEX)]
        else:
            others = []
        decoded = bytes.fromhex(digits.decode())
        if self._secrets.suspects(decoded) or self._holds_deeper(decoded, (*chain, "hex")):
            others = found
        places: list[tuple[int, int]] = []
        for start, run in others:
            if not places or start >= places[-1][1]:
                places.append((start, _wrapped_end(data, start, start + len(run))))
        return places

    def _holds_deeper(self, decoded: bytes, chain: tuple[str, ...]) -> bool:
        return len(chain) < self._max_depth and bool(self._runs(decoded, chain))

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
                    data = syntax.literal(match[0])
                except (ValueError, SyntaxError):
                    continue
                wrapped = self._alone(match.start(), match.end(), [("bytes", data)], ())
                found += [wrapped] if wrapped else []
        return found


def _batches(runs: list[bytes], overlap: int) -> Iterator[list[bytes]]:
    """
    The runs in batches of some `_BATCH` bytes, as a batch is decoded in several ways and read in more: ten megabytes at
    once would take a hundred and fifty. A longer run is cut, with an overlap of at least so many bytes.
    """
    batch: list[bytes] = []
    size = 0
    for run in runs:
        for piece in _pieces(run, overlap) if len(run) > _BATCH else (run,):
            if batch and size + len(piece) > _BATCH:
                yield batch
                batch, size = [], 0
            batch.append(piece)
            size += len(piece)
    if batch:
        yield batch


def _pieces(run: bytes, overlap: int) -> Iterator[bytes]:
    """A long run in parts: all its lines joined, cut where four characters, which are three bytes, end; then its lines."""
    lines = run.split()
    whole = b"".join(lines)
    back = -(-overlap // 4) * 4
    for start in range(0, len(whole), _BATCH):
        yield whole[max(0, start - back) : start + _BATCH]
    if len(lines) > 1:
        many = max(1, _BATCH // (len(lines[0]) + 1))
        for start in range(0, len(lines), many):
            yield b"\n".join(lines[start : start + many])


def _cut_by_escapes(data: bytes) -> bool:
    """Whether a run that could be part of a longer one ends at a backslash, as the lines of base64 in JSON do."""
    # Some JSON writers escape base64's own signs, as \/ or \u002b. Those may stand near the start of a run, where what
    # precedes them is too short to tell: in a gzip the time stamp decides.
    if b"\\/" in data or b"\\u002" in data:
        return True
    return b"a" * _SHORTEST_CUT + b"\\" in data.translate(_CUTS)


def _wrapped_end(data: bytes, start: int, end: int) -> int:
    """Where a run ends that goes on over lines: all of the same length, save the last, which may be shorter."""
    if data[end : end + 1] not in (b"\n", b"\r"):
        return end
    length = end - start
    while (match := _NEXT_LINE.match(data, end)) and len(match[1]) <= length:
        end = match.end()
        if len(match[1]) < length:
            break
    return end


def _begins_container(run: bytes) -> bool:
    return any(begins_container(data) for _, data in _decoded(run[:32]))


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
