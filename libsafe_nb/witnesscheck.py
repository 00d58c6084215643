"""
What lies beside the links of a chain (`witness.py`): signatures and time stamps, against their links and against whom
the reader trusts.

None is told as missing as long as nobody is trusted: a container need not have any. Where somebody is, the first link
that has one tells when that was begun. What came before is `not-checked`; what lacks one afterwards is `missing`, and
so is every link where there is none at all, since who may write to the container can take them away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from libsafe_nb import chain, record, signing, timestamping
from libsafe_nb.archive import Archive
from libsafe_nb.checks import Check
from libsafe_nb.errors import ObjectNotFound, SettingsError
from libsafe_nb.spilled import Spilled

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from libsafe_nb.signing import PublicKey

MAX_ENVELOPE = 64 * 1024
"""Bytes of an envelope: ours have about 1,000."""

PATHS = {"signature": chain.envelope, "timestamp": chain.stamp}
WORDS = {"signature": "signature", "timestamp": "time stamp"}
"""By the name of the check."""


@dataclass(frozen=True)
class Trust:
    """Whose signatures and time stamps are believed; without keys, or roots, none of that kind is checked."""

    keys: tuple[PublicKey, ...] = ()
    roots: tuple[Certificate, ...] = ()

    def asks(self, name: str) -> bool:
        return bool(self.keys if name == "signature" else self.roots)


class Beside:
    """Asked for link by link, in order, then for the rest. What is held of the links lies on the disk."""

    def __init__(self, archive: Archive, trust: Trust) -> None:
        self._archive, self._trust = archive, trust
        self._sizes = {name: Spilled() for name in PATHS}
        """By the link's path."""
        with contextlib.suppress(ObjectNotFound):
            for place, size in archive.list(f"{chain.FOLDER}/"):
                name, seq = _which(place)
                if name:
                    self._sizes[name][chain.path(seq)] = size
        self._first = {name: chain.number(next(iter(sizes), "")) or 0 for name, sizes in self._sizes.items()}
        self._before: dict[str, tuple[int, int]] = {}
        """The first and the last link without any, before the first that has one."""
        self._told = Spilled()

    def check(self, seq: int, link: bytes, body: Mapping[str, Any] | None) -> Iterator[Check]:
        """`body` is None where the link is not well-formed."""
        for name, path in PATHS.items():
            if chain.path(seq) in self._sizes[name]:
                yield self._one(name, seq, link, body)
            elif self._trust.asks(name) and seq < self._first[name]:
                self._before[name] = (self._before.get(name, (seq,))[0], seq)
            elif self._trust.asks(name):
                self._told.add(path(seq))
                yield Check(name, "missing", path(seq), f"link {seq} has no {WORDS[name]}")

    def rest(self, links: Spilled, deleted: Spilled) -> Iterator[Check]:
        """What was not told with a link of `links`, by their paths; `deleted` are paths that were there."""
        for name, path in PATHS.items():
            word, before = WORDS[name], self._before.get(name)
            if before:
                first, last = before
                these = f"link {first}" if first == last else f"links {first} to {last}"
                detail = (
                    f"{these} without a {word}: that of link {self._first[name]} is the first. It was begun there, or "
                    "those before were taken away"
                )
                yield Check(name, "not-checked", chain.FOLDER, detail)
            for link in self._sizes[name]:
                if link in links:
                    continue
                seq = chain.number(link) or 0
                yield Check(
                    name, "changed", path(seq), f"a {word} of link {seq} is there, and the link is not"
                )
            for place in deleted:
                if _which(place)[0] == name and place not in self._told:
                    yield Check(name, "missing", place, f"the {word} was deleted")

    def _one(self, name: str, seq: int, link: bytes, body: Mapping[str, Any] | None) -> Check:
        place, size = PATHS[name](seq), self._sizes[name][chain.path(seq)]
        most = MAX_ENVELOPE if name == "signature" else timestamping.MAX_ANSWER
        if size > most:
            return Check(name, "changed", place, f"expected at most {most} bytes, found {size}")
        data = self._archive.read(place)
        if name == "timestamp":
            return _timestamp(place, data, link, self._trust)
        if body is None:
            return Check(name, "not-checked", place, "its link is not as it should be, so it signs none")
        return _signature(
            place, data, signing.subjects(chain.path(seq), record.digest(link), body), self._trust
        )


def _which(place: str) -> tuple[str | None, int]:
    """The check of what lies there, and the number of its link; None for anything else."""
    for name, end in (("signature", chain.ENVELOPE), ("timestamp", chain.STAMP)):
        seq = chain.number(f"{place.removesuffix(end)}.json") if place.endswith(end) else None
        if seq is not None:
            return name, seq
    return None, 0


def _signature(place: str, envelope: bytes, subjects: Mapping[str, str], trust: Trust) -> Check:
    """An envelope over the link, its record and the record's sums, signed by one of the keys."""
    problem = signing.subject_problem(envelope, subjects)
    if problem:
        return Check("signature", "changed", place, problem)
    if not trust.keys:
        detail = "it is of this link; no key is at hand to check it with"
        return Check("signature", "not-checked", place, detail)
    key = signing.signed_by(envelope, trust.keys)
    if key is None:
        return Check(
            "signature", "changed", place, "expected a signature by a key that was given, found none"
        )
    return Check("signature", "ok", place, f"signed by key {key.id}")


def _timestamp(place: str, answer: bytes, link: bytes, trust: Trust) -> Check:
    """A time stamp of the link's digest, by an authority whose certificate leads to one of the roots."""
    try:
        signing.check_installed("a time stamp")
    except SettingsError as exc:
        return Check("timestamp", "not-checked", place, str(exc))
    found = timestamping.decoded(answer)
    if found is None or found.status != 0:
        return Check("timestamp", "changed", place, "is no time stamp (RFC 3161)")
    problem = timestamping.imprint_problem(found, link)
    if problem:
        return Check("timestamp", "changed", place, problem)
    told = f"stamped {timestamping.time_of(found)}"
    if not trust.roots:
        detail = f"it is of this link, {told}; no authority's certificate is at hand to check it with"
        return Check("timestamp", "not-checked", place, detail)
    problem = timestamping.signature_problem(found, link, trust.roots)
    return Check("timestamp", "changed" if problem else "ok", place, problem or told)
