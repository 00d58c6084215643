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
from typing import Any

from libsafe_nb.redact.matching import SecretSet, Span, redact_pieces
from libsafe_nb.redact.values import Redaction, left_out, redact_value

MOST_HELD = 64 * 1024
"""Characters held back at most, so that a stream that teases a form forever still flows."""

_FEW = 6

_Pieces = list[tuple[str, str]]
"""Texts with their stream's name, in the order in which they arrived."""


class LiveFilter:
    """
    Filters the outputs of one run as they arrive. Stateful: one per run, used by one thread at a time.

    For text use `segments`, which keeps the order of stdout and stderr exactly. `stream` is for a caller that can
    take only the text of the stream it asks about: text of the other stream then follows with its next message.
    Before anything that is no stream (a display, an error, `clear_output`), append what `flush` returns.
    """

    def __init__(self, secrets: SecretSet) -> None:
        self._secrets = secrets
        self._held: dict[str, _Pieces] = {}
        self._owed: dict[str, _Pieces] = {}
        self._counts: collections.Counter[tuple[str | None, str, str, str]] = collections.Counter()

    @property
    def redactions(self) -> list[Redaction]:
        """What was replaced so far, by cell, place, form and secret."""
        return [Redaction(*key, count) for key, count in self._counts.items()]

    def segments(self, cell_id: str, name: str, text: str) -> _Pieces:
        """What may be appended to the streams now, in this order, given that `text` arrived on stream `name`."""
        pieces = _joined([*self._held.pop(cell_id, []), (name, text)])
        ready, held = self._divided(cell_id, pieces)
        if held:
            self._held[cell_id] = held
        return _joined(ready)

    def stream(self, cell_id: str, name: str, text: str) -> str:
        """What may be appended to stream `name` now."""
        ready = self._owed.pop(cell_id, []) + self.segments(cell_id, name, text)
        others = [(other, part) for other, part in ready if other != name]
        if others:
            self._owed[cell_id] = others
        return "".join(part for own, part in ready if own == name)

    def flush(self, cell_id: str) -> _Pieces:
        """All that is held back or owed, because something else than text follows."""
        pieces = self._held.pop(cell_id, [])
        return _joined(self._owed.pop(cell_id, []) + self._redacted(cell_id, pieces))

    def end_cell(self, cell_id: str) -> _Pieces:
        """The remainders, because the cell has ended: `(stream, text)` in order."""
        return self.flush(cell_id)

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

    def _divided(self, cell_id: str, pieces: _Pieces) -> tuple[_Pieces, _Pieces]:
        """What is certain of the pieces, redacted, and the end of them that is not."""
        position, spans = self._certain(pieces)
        length = sum(len(text) for _, text in pieces)
        if length - position > MOST_HELD:
            position = length
        before, after = _cut(pieces, position)
        # Nearly always there is nothing to replace, and the text is not looked through a second time.
        return self._redacted(cell_id, before) if spans else before, after

    def _certain(self, pieces: _Pieces) -> tuple[int, int]:
        """How many characters of the pieces no form covers that goes on, or could; and how many forms there are."""
        certain, spans = self._closed([text for _, text in pieces])
        last = pieces[-1][0] if pieces else ""
        for name in {name for name, _ in pieces if len(pieces) > 1}:
            own = [text if each == name else "" for each, text in pieces]
            length, more = self._closed(own)
            spans += more
            end = "".join(own)[length:]
            # One letter may always be the first of a form. Text of the other stream is not kept waiting for that.
            if name == last or sum(map(str.isalnum, end)) >= _FEW:
                certain = min(certain, _position(own, length, pieces))
        return certain, spans

    def _closed(self, parts: Iterable[str]) -> tuple[int, int]:
        text = "".join(parts)
        position, spans = self._secrets.open_end(text), self._secrets.find(text)
        for span in spans:
            # A form that reaches the end may go on, with its last characters or as a longer form.
            if span.start < position and (span.end > position or span.end == len(text)):
                position = span.start
        return position, len(spans)

    def _redacted(self, cell_id: str, pieces: _Pieces) -> _Pieces:
        names = sorted({name for name, _ in pieces})
        texts = [text for _, text in pieces]
        for name in names if len(names) > 1 else []:
            own = [index for index, (each, _) in enumerate(pieces) if each == name]
            clean, found = redact_pieces(self._secrets, [texts[index] for index in own])
            for index, text in zip(own, clean, strict=True):
                texts[index] = text
            self._count_streams(cell_id, name, found)
        texts, found = redact_pieces(self._secrets, texts)
        self._count_streams(cell_id, "+".join(names), found)
        return _joined((name, text) for (name, _), text in zip(pieces, texts, strict=True))

    def _count_streams(self, cell_id: str, name: str, found: list[Span]) -> None:
        for span in found:
            self._count(cell_id, name, span)


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


def _position(own: list[str], length: int, pieces: _Pieces) -> int:
    """Where, in all pieces together, the character number `length` of one stream's own text stands."""
    position = 0
    for mine, (_, text) in zip(own, pieces, strict=True):
        if mine and length < len(mine):
            return position + length
        length -= len(mine)
        position += len(text)
    return position
