"""
`Sweep`: one way through one document, and what it found on the way.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from libsafe_nb.redact.matching import SecretSet, Span, replace
from libsafe_nb.redact.values import LEFT_OUT, Redaction, redact_value
from libsafe_nb.redact.wrappings import TAG, Unwrapping


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
        # A wrapping goes as a whole: with only the secret taken out of it, it would be damaged.
        wrapped = self.unwrapping.text(text)
        reasons = [reason for each in wrapped for reason in each.findings.undecidable]
        found = [
            Span(each.start, each.end, *each.findings.secrets[0]) for each in wrapped if each.findings.secrets
        ]
        clean, more = self.secrets.redact(replace(text, _apart(found)) if found else text)
        found += more
        if reasons:
            self._undecided.append((where, reasons[0]))
            return LEFT_OUT.format(reason=reasons[0]), found
        if "</" in clean:
            # Tags between the characters hide them from a search, not from a reader.
            behind = self.secrets.find(TAG.sub("", clean))
            if behind:
                found += [Span(0, len(clean), span.secret, "between tags") for span in behind]
                clean = behind[0].mark
        return clean, found


def _apart(spans: list[Span]) -> list[Span]:
    """In order; of those that overlap the first, widened over the others."""
    apart: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.start, -each.end)):
        if apart and span.start < apart[-1].end:
            apart[-1] = dataclasses.replace(apart[-1], end=max(apart[-1].end, span.end))
        else:
            apart.append(span)
    return apart
