"""
`SecretSet`: all forms of all secrets at once, and where a text holds them.

Almost no text holds a secret, so the question asked of every byte is only whether one *may* be there (`needles`).
That costs the same for one secret as for ten: with the folding 2 ms/MB (`benchmarks/filter.py`), where a search for
each of the hundred forms of two secrets takes 20 and more. Only where the answer is yes is the text cut into windows
and each window read closely.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from libsafe_nb.redact import derived
from libsafe_nb.redact.forms import Probe, probes
from libsafe_nb.redact.needles import Needles
from libsafe_nb.redact.reading import (
    INVISIBLE,
    Fold,
    View,
    has_escapes,
    readings,
    to_bytes,
    to_text,
    unfinished,
    views,
)
from libsafe_nb.secrets import Secret

_GRAM = 8
_WINDOW = 4096
_PASSES = 4
_BETWEEN_CHARACTERS = frozenset(" \t\r\n'\",;:|-")


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` of a text are a form of `secret`."""

    start: int
    end: int
    secret: str
    form: str

    @property
    def mark(self) -> str:
        return f"[redacted:{self.secret}]"


class SecretSet:
    """
    What is looked for in a run: build it once, it is read-only afterwards and safe in many threads.

    An empty set still finds derived tokens (signatures, login headers).
    """

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self.secrets = tuple(secrets)
        self._values = [(secret.reveal(), secret.name) for secret in self.secrets]
        self._beyond_ascii = not all(value.isascii() for value, _ in self._values)
        found = [probe for secret in self.secrets for probe in probes(secret)]
        self._probes = {fold: [probe for probe in found if probe.fold is fold] for fold in Fold}
        self._folds = [fold for fold in Fold if self._probes[fold]]
        self._needles = {fold: _least(found, fold) for fold in Fold}
        self._minds_invisible = bool(self._probes[Fold.WIDE] or self._probes[Fold.DENSE])
        self._suspected = Needles(
            self._needles[Fold.ALNUM], short=derived.CLUES, long=derived.CLUES_WITH_NEIGHBOURS
        )
        leads = {probe.lead for probe in found}
        self._leads = {lead[:length] for lead in leads for length in range(1, len(lead) + 1)}
        self._before = 8 + 6 * max(map(len, self._leads), default=0)
        self._endings = {
            fold: _Endings(_beginnings(self._probes[fold], fold), before=self._before) for fold in Fold
        }
        longest = max((len(probe.text) for probe in found), default=0)
        self._shortest = min((len(probe.needle) for probe in found), default=8)
        self.reach = max(2048, 8 * longest)
        """No form that is looked for as text arrives spans more characters than this."""

    def __repr__(self) -> str:
        return f"SecretSet({', '.join(secret.name for secret in self.secrets)})"

    def suspects(self, data: bytes) -> bool:
        """Whether the bytes may hold a form as they stand: never False when they do, seldom True when they do not."""
        if len(data) < min(self._shortest, 8):
            return False
        if self._suspected.any_in(Fold.ALNUM.apply(data)):
            return True
        for fold in (Fold.WIDE, Fold.DENSE, Fold.EXACT):
            if self._needles[fold]:
                folded = fold.apply(data)
                if any(needle in folded for needle in self._needles[fold]):
                    return True
        return False

    def suspects_text(self, text: str) -> bool:
        """`suspects`, of every reading of the text."""
        return any(self.suspects(to_bytes(read)) for _, read in self._readings(text))

    def find(self, text: str) -> list[Span]:
        """Where the forms stand, in order, none overlapping another."""
        if len(text) < min(self._shortest, 8) or not self.suspects_text(text):
            return []
        found: list[Span] = []
        for start, end in self._windows(text, 0, len(text)):
            found += [
                Span(start + span.start, start + span.end, span.secret, span.form)
                for span in self._read(text[start:end])
            ]
        return _merged(found)

    def find_bytes(self, data: bytes) -> list[Span]:
        """`find` in bytes of any kind; the positions are those of characters in one reading of the bytes."""
        found = self.find(to_text(data)) if self.suspects(data) else []
        if found:
            return found
        # UTF-16 of ASCII shows once its zero bytes are folded away, that of other letters does not.
        for encoding in ("utf-16-le", "utf-16-be") if self._beyond_ascii else ():
            for offset in (0, 1):
                found += self.find(data[offset:].decode(encoding, "ignore"))
        return found

    def redact(self, text: str) -> tuple[str, list[Span]]:
        """The text with each form replaced by its mark, and what was replaced; the same text if there was none."""
        replaced: list[Span] = []
        for _ in range(_PASSES):
            spans = self.find(text)
            if not spans:
                break
            text = replace(text, spans)
            replaced += spans
        return text, replaced

    def clean(self, text: str) -> str:
        """The text with each form replaced: for messages, logs and errors."""
        return self.redact(text)[0]

    def open_end(self, text: str) -> int:
        """
        From where on the end of a text could be the beginning of a form; the text's length if it could not.

        Looks back over at most `reach` characters.
        """
        offset = max(0, len(text) - self.reach)
        tail = text[offset:]
        begin = cut = unfinished(tail)
        # What is cut off may belong to a form that began before it, so the part before is looked at as well.
        for part in {tail, tail[:cut]}:
            for step, read in self._readings(part):
                first = self._open_end(read)
                if first < len(read):
                    begin = min(begin, self._place(part, step, len(read) - first))
        folded = Fold.ALNUM.apply(to_bytes(tail))
        if any(clue in folded for clue in derived.CLUES):
            begin = min(begin, derived.unfinished(tail))
        return offset + begin

    def _open_end(self, text: str) -> int:
        cut = unfinished(text)
        starts = [cut]
        for part in {text, text[:cut]}:
            starts += [self._endings[fold].start(part, fold) for fold in {*self._folds, Fold.ALNUM}]
            starts.append(self._lead(part))
        return min(starts)

    def _lead(self, text: str) -> int:
        """Where the end of a text could be what stands before a needle, such as the first signs of a key."""
        if not self._leads:
            return len(text)
        near = range(max(0, len(text) - self._before), len(text))
        places = [index for index in near if text[index] not in _BETWEEN_CHARACTERS]
        signs = "".join(text[index] for index in places)
        longest = max((len(lead) for lead in self._leads if signs.endswith(lead)), default=0)
        return places[-longest] if longest else len(text)

    def _place(self, text: str, step: int, count: int) -> int:
        """Where the last `count` characters of the reading of this step begin in the text itself."""
        if step == 0:
            return len(text) - count
        size = 64
        while True:
            # Only the end is viewed; an escape that is cut at its beginning shows as a few strange characters there.
            size = min(4 * size + count, len(text))
            found = views(text[-size:], invisible=self._minds_invisible)
            *_, (_, view) = itertools.takewhile(lambda each: each[0] <= step, found)
            if size == len(text) or len(view.text) >= count + 32:
                index = max(0, len(view.text) - count)
                return len(text) - size + view.span(index, index + 1)[0]

    def _readings(self, text: str) -> Iterator[tuple[int, str]]:
        return readings(text, invisible=self._minds_invisible)

    def _windows(self, text: str, start: int, end: int) -> list[tuple[int, int]]:
        """Parts of the text, each with a form in it or the whole of what may be one."""
        if end - start <= max(_WINDOW, 4 * self.reach):
            return [(start, end)]
        middle = (start + end) // 2
        found: list[tuple[int, int]] = []
        for low, high in ((start, middle + self.reach), (middle - self.reach, end)):
            if self.suspects_text(text[low:high]):
                found += self._windows(text, low, high)
        # A form may be spread wider than `reach`: then neither half shows it, and the whole is read.
        return found or [(start, end)]

    def _read(self, text: str) -> list[Span]:
        """Read one window closely."""
        found = list(self._verbatim(text))
        if found and not self.suspects_text(replace(text, _merged(found))):
            return found
        found += [Span(start, end, derived.NAME, "derived") for start, end in derived.values(text)]
        for _, view in views(text):
            for fold in self._folds:
                found += self._in_view(text, view, fold)
        return found

    def _verbatim(self, text: str) -> Iterator[Span]:
        for value, name in self._values:
            position = text.find(value)
            while position >= 0:
                yield Span(position, position + len(value), name, "verbatim")
                position = text.find(value, position + len(value))

    def _in_view(self, text: str, view: View, fold: Fold) -> Iterator[Span]:
        folded = fold.apply(to_bytes(view.text))
        present = [probe for probe in self._probes[fold] if probe.needle in folded]
        if not present:
            return
        folded, owners = view.folded(fold)
        for probe in present:
            position = folded.find(probe.needle)
            while position >= 0:
                last = position + len(probe.needle)
                first, after = _widened(view.text, owners[position], owners[last - 1] + 1, probe)
                start, end = view.span(first, after)
                yield Span(start, end, probe.secret, _form(text[start:end], probe))
                position = folded.find(probe.needle, position + 1)


class _Endings:
    """Which ends of a folded text are the beginning of a needle."""

    def __init__(self, needles: Iterable[bytes], *, before: int) -> None:
        self._before = before
        found = sorted(set(needles))
        self._all = b"".join(found)
        self._ends = list(itertools.accumulate(map(len, found)))
        self._firsts = {needle[:length] for needle in found for length in (1, 2)}

    def start(self, text: str, fold: Fold) -> int:
        """The character with which the longest such end begins, and one before it that may hold a part of a secret."""
        length = self._overlap(fold.apply(to_bytes(text)))
        if not length:
            return len(text)
        index = len(text)
        while length > 0:
            index -= 1
            if fold.keeps(text[index]):
                length -= len(fold.apply(to_bytes(text[index])))
        for steps in range(self._before):
            if index == 0 or (steps and fold.keeps(text[index])):
                break
            index -= 1
        return index

    def _overlap(self, folded: bytes) -> int:
        """
        Of how many bytes the longest end is that a needle begins with.

        Looked for are the last three bytes, in all needles at once: that is one search where a try of every end, 200
        and more, took as long as all else that is done with a message.
        """
        longest = 0
        last = folded[-3:]
        at = self._all.find(last) if len(last) == 3 else -1
        while at >= 0:
            needle = bisect.bisect_right(self._ends, at)
            start = self._ends[needle - 1] if needle else 0
            length = at + 3 - start
            if (
                longest < length
                and at + 3 <= self._ends[needle]
                and folded.endswith(self._all[start : at + 3])
            ):
                longest = length
            at = self._all.find(last, at + 1)
        return longest or next(
            (length for length in (2, 1) if folded[-length:] in self._firsts and len(folded) >= length), 0
        )


def replace(text: str, spans: Iterable[Span]) -> str:
    """The text with each span replaced by its mark; the spans are in order and do not overlap."""
    parts: list[str] = []
    position = 0
    for span in spans:
        parts += text[position : span.start], span.mark
        position = span.end
    return "".join([*parts, text[position:]])


def redact_pieces(
    secrets: SecretSet, pieces: list[str], *, between: str = ""
) -> tuple[list[str], list[Span]]:
    """
    Pieces that a reader sees as one text, each without what it holds of a form.

    The mark stands in the first piece that a form touches. `between` is what joins them, such as a line end.
    """
    spans = secrets.find(between.join(pieces))
    return (replace_in_pieces(pieces, spans, between=between), spans) if spans else (pieces, [])


def replace_in_pieces(pieces: list[str], spans: list[Span], *, between: str = "") -> list[str]:
    """Pieces with each span of their joined text replaced by its mark."""
    clean: list[str] = []
    offset = 0
    for piece in pieces:
        parts: list[str] = []
        position = 0
        for span in spans:
            start, end = max(span.start - offset, 0), min(span.end - offset, len(piece))
            if start < end:
                parts += piece[position:start], span.mark if span.start >= offset else ""
                position = end
        clean.append("".join([*parts, piece[position:]]))
        offset += len(piece) + len(between)
    return clean


def _beginnings(found: list[Probe], fold: Fold) -> Iterator[bytes]:
    """The needles, those of base64 also with each character that may stand before and hold a part of the secret."""
    if fold is Fold.ALNUM:
        yield from derived.BEGINNINGS
    for probe in found:
        for before in ("", *probe.edges[0]):
            yield fold.apply(to_bytes(before)) + probe.needle


def _least(found: list[Probe], wanted: Fold) -> list[bytes]:
    """The needles to ask for first: those of the probes that this fold leaves long enough, none holding another."""
    needles: set[bytes] = set()
    for probe in found:
        data = to_bytes(probe.text)
        fold = next(
            (fold for fold in (Fold.ALNUM, Fold.WIDE, Fold.DENSE) if len(fold.apply(data)) >= _GRAM),
            Fold.EXACT,
        )
        if fold is wanted:
            needles.add(fold.apply(data))
    least: list[bytes] = []
    for needle in sorted(needles, key=len):
        if not any(each in needle for each in least):
            least.append(needle)
    return least


def _widened(text: str, start: int, end: int, probe: Probe) -> tuple[int, int]:
    """A match with the characters at its ends that belong to the form but not to its folded needle."""
    for char in reversed(probe.lead):
        before = start
        while before and text[before - 1] in _BETWEEN_CHARACTERS and not _same(text[before - 1], char):
            before -= 1
        if not before or not _same(text[before - 1], char):
            break
        start = before - 1
    for char in probe.trail:
        after = end
        while after < len(text) and text[after] in _BETWEEN_CHARACTERS and not _same(text[after], char):
            after += 1
        if after == len(text) or not _same(text[after], char):
            break
        end = after + 1
    lead, trail = probe.edges
    if lead and start and text[start - 1] in lead:
        start -= 1
    if trail and end < len(text) and text[end] in trail:
        end += 1
    return start, end


def _same(found: str, wanted: str) -> bool:
    return found == wanted or found + wanted in ("-+", "_/")


def _form(raw: str, probe: Probe) -> str:
    """What to call a match: a form as it stands, or what was done to it."""
    if probe.text in raw or probe.form != "verbatim":
        return probe.form
    if "\x1b" in raw or INVISIBLE.search(raw):
        return "invisible"
    if "\0" in raw:
        return "utf-16"
    if has_escapes(raw):
        return "escaped"
    return "case" if probe.text.lower() == raw.lower() else "spaced"


def _merged(spans: Iterable[Span]) -> list[Span]:
    """In order, overlapping ones joined: the longer one gives the name, a known secret before a derived token."""
    merged: list[Span] = []
    for span in sorted(set(spans), key=lambda span: (span.start, -span.end)):
        last = merged[-1] if merged else None
        if last is None or span.start >= last.end:
            merged.append(span)
            continue
        best = max((last, span), key=lambda each: (each.form != "derived", each.end - each.start))
        merged[-1] = Span(last.start, max(last.end, span.end), best.secret, best.form)
    return merged
