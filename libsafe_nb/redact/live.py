"""
The live filter: no output reaches a save of the notebook with a secret in it, however it is cut into messages.

    kernel ── stream "abc…"  ──▶ hold back "…" if a form could begin there ──▶ "abc" to the notebook
           ── stream "…xyz"  ──▶ the form is whole: its mark;   it is not one: "…xyz" as it was
           ── display, error ──▶ every string in it, whatever its MIME type

What is held back is only an end that may be the beginning of a form; it is given out, in its place, as soon as the
next text shows that it is not, and at the latest with the end of the cell. Where stdout and stderr take turns, each
is looked at alone and both together.
"""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from libsafe_nb.redact.matching import SecretSet, Span
from libsafe_nb.redact.values import Redaction, left_out, redact_value

MOST_HELD = 64 * 1024
"""Characters held back at most, so that a stream that teases a form forever still flows."""

_FEW = 6
_PASSES = 4

_Pieces = list[tuple[str, str]]
"""Texts with their stream's name, in the order in which they arrived."""


class LiveFilter:
    """
    Filters the outputs of one run as they arrive. Stateful: one per run, used by one thread at a time.

    It is an `OutputFilter` of `libsafe_nb.execution`.
    """

    def __init__(self, secrets: SecretSet) -> None:
        self._secrets = secrets
        self._held: dict[str, _Pieces] = {}
        self._counts: collections.Counter[tuple[str | None, str, str, str]] = collections.Counter()

    @property
    def redactions(self) -> list[Redaction]:
        """What was replaced so far, by cell, place, form and secret."""
        return [Redaction(*key, count) for key, count in self._counts.items()]

    def segments(self, cell_id: str, name: str, text: str) -> _Pieces:
        """What may be appended to the streams now, in this order, given that `text` arrived on stream `name`."""
        pieces = _joined([*self._held.pop(cell_id, []), (name, text)])
        found, certain = self._read(pieces)
        before, after = _cut(pieces, certain)
        if after:
            self._held[cell_id] = after
        return self._redacted(cell_id, before, [each for each in found if each.end <= certain])

    def end_cell(self, cell_id: str) -> _Pieces:
        """What is held back: to be asked at the end of a cell, and before a rich output, so that the order stays."""
        held = self._held.pop(cell_id, [])
        return self._redacted(cell_id, held, self._read(held)[0]) if held else []

    def output(self, cell_id: str, output: Any) -> Any:
        """
        An output without secrets: the same object if it held none, else a changed copy.

        Looked at are all its strings and keys: every MIME type, nested JSON, error name, value and traceback,
        metadata. What still holds a form after that, such as a list with one character each, is left out and a
        notice stands in its place.
        """
        clean, found = redact_value(output, self._secrets)
        if found and self._secrets.find(json.dumps(clean, ensure_ascii=False, default=str)):
            clean = left_out(output, "it holds a secret that cannot be taken out of it")
        for where, span in found:
            self._count(cell_id, where, span)
        return clean

    def text(self, text: str, *, where: str = "text", cell_id: str | None = None) -> str:
        """Any other text of the run without secrets: a message, an error, a line of the log."""
        clean, found = self._secrets.redact(text)
        for span in found:
            self._count(cell_id, where, span)
        return clean

    def _count(self, cell_id: str | None, where: str, span: Span) -> None:
        self._counts[cell_id, where, span.form, span.secret] += 1

    def _read(self, pieces: _Pieces) -> tuple[list[_Found], int]:
        """
        The forms in the pieces, and how many characters are certain: no form goes on, or could, after them.

        All streams are read together as they arrived, and each alone.
        """
        names = sorted({name for name, _ in pieces})
        certain = length = sum(len(text) for _, text in pieces)
        found: list[_Found] = []
        for group in [names, *([name] for name in names if len(names) > 1)]:
            reading = _Reading(pieces, group)
            spans = self._secrets.find(reading.text)
            found += [reading.found(span) for span in spans]
            # A form that reaches the end may go on, with its last characters or as a longer form.
            ends = [span.start for span in spans if span.end == len(reading.text)]
            end = min([self._secrets.open_end(reading.text), *ends])
            # One letter may always be the first of a form. Text of another stream is not kept waiting for that.
            interrupted = group != names and group[0] != pieces[-1][0]
            if end < len(reading.text) and not (interrupted and _is_little(reading.text[end:])):
                certain = min(certain, reading.parts(end, end + 1)[0][0])
        if length - certain > MOST_HELD:
            return found, length
        while crossing := [each.start for each in found if each.start < certain < each.end]:
            certain = min(crossing)
        return found, certain

    def _redacted(self, cell_id: str, pieces: _Pieces, found: list[_Found]) -> _Pieces:
        for _ in range(_PASSES):
            if not found:
                break
            pieces = self._without(cell_id, pieces, found)
            found = self._read(pieces)[0]
        return pieces

    def _without(self, cell_id: str, pieces: _Pieces, found: list[_Found]) -> _Pieces:
        """The pieces with each form replaced: its mark stands where it begins."""
        cuts = _cuts(found)
        for each in cuts:
            if each.found:
                self._count(cell_id, each.found.where, each.found.span)
        clean: list[tuple[str, str]] = []
        offset = 0
        for name, text in pieces:
            parts: list[str] = []
            position = 0
            for cut in cuts:
                if offset <= cut.start < offset + len(text):
                    parts += text[position : cut.start - offset], cut.found.span.mark if cut.found else ""
                    position = cut.end - offset
            clean.append((name, "".join([*parts, text[position:]])))
            offset += len(text)
        return _joined(clean)


@dataclass(frozen=True)
class _Found:
    """A form, the places of its parts in all pieces together, in order, and the streams that they stand in."""

    span: Span
    parts: list[tuple[int, int]]
    where: str

    @property
    def start(self) -> int:
        return self.parts[0][0]

    @property
    def end(self) -> int:
        return self.parts[-1][1]


@dataclass(frozen=True)
class _Cut:
    """A part of one piece that goes, and the form that begins with it, if one does."""

    start: int
    end: int
    found: _Found | None


class _Reading:
    """Some of the streams as one text that knows where each character stands in all pieces together."""

    def __init__(self, pieces: _Pieces, names: list[str]) -> None:
        self._places: list[tuple[int, int, int, str]] = []
        texts: list[str] = []
        own = position = 0
        for name, text in pieces:
            if name in names:
                self._places.append((own, own + len(text), position - own, name))
                texts.append(text)
                own += len(text)
            position += len(text)
        self.text = "".join(texts)

    def found(self, span: Span) -> _Found:
        streams = {name for first, last, _, name in self._places if first < span.end and span.start < last}
        return _Found(span, self.parts(span.start, span.end), "+".join(sorted(streams)))

    def parts(self, start: int, end: int) -> list[tuple[int, int]]:
        """Where characters `start` to `end` of this text stand."""
        return [
            (max(start, first) + shift, min(end, last) + shift)
            for first, last, shift, _ in self._places
            if first < end and start < last
        ]


def _cuts(found: list[_Found]) -> list[_Cut]:
    """The parts of all forms in order; those that overlap, since several readings show them, as one with one mark."""
    cuts: list[_Cut] = []
    places = [_Cut(*part, each if part is each.parts[0] else None) for each in found for part in each.parts]
    for cut in sorted(places, key=lambda cut: (cut.start, cut.found is not None)):
        if cuts and cut.start < cuts[-1].end:
            cuts[-1] = _Cut(cuts[-1].start, max(cut.end, cuts[-1].end), cuts[-1].found)
        else:
            cuts.append(cut)
    return cuts


def _is_little(text: str) -> bool:
    return sum(map(str.isalnum, text)) < _FEW


def _joined(pieces: Iterable[tuple[str, str]]) -> _Pieces:
    """Neighbours of one stream as one piece; empty ones gone."""
    joined: _Pieces = []
    for name, text in pieces:
        if joined and joined[-1][0] == name:
            joined[-1] = (name, joined[-1][1] + text)
        elif text:
            joined.append((name, text))
    return joined


def _cut(pieces: _Pieces, position: int) -> tuple[_Pieces, _Pieces]:
    before, after = [], []
    for name, text in pieces:
        before.append((name, text[:position]))
        after.append((name, text[position:]))
        position = max(0, position - len(text))
    return _joined(before), _joined(after)
