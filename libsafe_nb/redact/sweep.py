"""
`Sweep`: one way through one document, and what it found on the way.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from libsafe_nb.redact.matching import SecretSet, Span, replace
from libsafe_nb.redact.values import LEFT_OUT, Redaction, redact_value
from libsafe_nb.redact.wrappings import TAG, Unwrapping

_PASSES = 4


@dataclass(frozen=True)
class Dropped:
    """Something was left out, since it could not be told whether it holds a secret, or since it cannot do without."""

    cell: str | None
    where: str
    reason: str


class Sweep:
    """
    Cleans strings and JSON values, and keeps count.

    `text` puts down what it could not look into; whoever called says with `drop` what was done about it.
    """

    def __init__(self, secrets: SecretSet) -> None:
        self.secrets = secrets
        self.unwrapping = Unwrapping(secrets)
        self.dropped: list[Dropped] = []
        self._undecided: list[tuple[str, str]] = []
        self._counts: collections.Counter[tuple[str | None, str, str, str]] = collections.Counter()

    @property
    def hits(self) -> tuple[Redaction, ...]:
        return tuple(Redaction(*key, count) for key, count in self._counts.items())

    def count(self, cell: str | None, found: Iterable[tuple[str, Span]]) -> None:
        for where, span in found:
            self._counts[cell, where, span.form, span.secret] += 1

    def drop(self, cell: str | None, where: str, reason: str) -> None:
        self.dropped.append(Dropped(cell, where, reason))

    def value(self, value: Any, where: str, cell: str | None) -> Any:
        """Any JSON value without secrets; a string with something undecidable in it becomes a notice."""
        clean, found = redact_value(value, self.secrets, where=where, redact=self.text)
        self.count(cell, found)
        for place, reason in self.undecided():
            self.drop(cell, place, reason)
        return clean

    def undecided(self) -> list[tuple[str, str]]:
        """Places and reasons of what could not be looked into since this was last asked."""
        found, self._undecided = self._undecided, []
        return found

    def text(self, text: str, where: str) -> tuple[str, list[Span]]:
        """One string without secrets, and what was replaced; a notice if it holds something undecidable."""
        clean = text
        found: list[Span] = []
        for _ in range(_PASSES):
            spans = self._spans(clean, where)
            if spans is None:
                return LEFT_OUT.format(reason=self._undecided[-1][1]), found
            if not spans:
                break
            clean = replace(clean, spans)
            found += spans
        if "</" in clean:
            # Tags between the characters hide them from a search, not from a reader.
            behind = self.secrets.find(TAG.sub("", clean))
            if behind:
                found += [Span(0, len(clean), span.secret, "between tags") for span in behind]
                clean = behind[0].mark
        return clean, found

    def across(self, pieces: list[str]) -> list[Span]:
        """What is to be replaced in the joined text of several strings because no single one of them holds it."""
        text = "".join(pieces)
        ends = list(itertools.accumulate(map(len, pieces)))
        wrapped = [each for each in self.unwrapping.text(text) if each.findings.secrets]
        found = [Span(each.start, each.end, *each.findings.secrets[0]) for each in wrapped]
        found += self.secrets.find(text)
        return _apart([span for span in found if any(span.start < end < span.end for end in ends)])

    def _spans(self, text: str, where: str) -> list[Span] | None:
        """What is to be replaced in a string; None if that cannot be told."""
        found = self.secrets.find(text)
        for wrapped in self.unwrapping.text(text):
            if wrapped.findings.undecidable:
                self._undecided.append((where, wrapped.findings.undecidable[0]))
                return None
            # A container goes as a whole: with only the secret taken out of it, it would be damaged.
            inside = [span for span in found if wrapped.start < span.end and span.start < wrapped.end]
            if wrapped.holds_container or not inside:
                found = [span for span in found if span not in inside]
                found.append(Span(wrapped.start, wrapped.end, *wrapped.findings.secrets[0]))
        return _apart(found)


def _apart(spans: list[Span]) -> list[Span]:
    """In order; of those that overlap the first, widened over the others."""
    apart: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.start, -each.end)):
        if apart and span.start < apart[-1].end:
            apart[-1] = dataclasses.replace(apart[-1], end=max(apart[-1].end, span.end))
        else:
            apart.append(span)
    return apart
