"""
What a verification found: one `Check` a question, and a `Report` of those that are not well. Plain data.

    ok            it was looked at, and is as it was recorded
    changed       it is there, and is not what was recorded, or two accounts of it contradict each other
    missing       it was recorded, and is not there
    not-checked   it could not be looked at; that is never ok
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Result = Literal["ok", "changed", "missing", "not-checked"]

FOLDER = "folder"
"""Name of the one check that may stay open: a record's folder alone, away from its container (contract 2)."""

KEPT = 10_000
"""Checks that a report holds; more are counted."""

NODE = "node"
"""Name of the check that sums up one run's evidence in a tree of them (`--deep`): it tells nothing new, and is counted apart."""


@dataclass(frozen=True)
class Check:
    """
    Attributes
    ----------
    name
        What was asked, one word: see docs/verification.md.
    place
        The file or folder, as a path in the container.
    detail
        A sentence: what was expected and what was found.
    """

    name: str
    result: Result
    place: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.result}  {self.place}: {self.detail or 'as recorded'} [{self.name}]"


@dataclass(frozen=True)
class Report:
    """
    Attributes
    ----------
    checks
        Those that are not ok, the first `KEPT` of them; of the others only their number is kept, however many records
        there are. `verify(…, seen=…)` is told of each.
    counts
        How many checks had which result.
    nodes
        Of a tree of runs, how many runs' evidence had which result.
    """

    place: str
    checks: tuple[Check, ...]
    counts: Mapping[str, int]
    nodes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, place: str, checks: Iterable[Check]) -> Report:
        counts: Counter[str] = Counter()
        kept: list[Check] = []
        nodes: Counter[str] = Counter()
        for each in checks:
            (nodes if each.name == NODE else counts)[each.result] += 1
            if each.result != "ok" and len(kept) < KEPT:
                kept.append(each)
        return cls(place, tuple(kept), dict(counts), dict(nodes))

    @property
    def exit_code(self) -> int:
        """0 verified, 1 something is changed or missing, 5 something could not be checked (contract 2)."""
        if self.counts.get("changed") or self.counts.get("missing"):
            return 1
        looked = self.counts.get("ok", 0) > 0
        open_ = self.left_out or any(each.name != FOLDER for each in self.checks)
        return 0 if looked and not open_ else 5

    @property
    def left_out(self) -> int:
        """How many checks are not ok and not in `checks`."""
        return sum(count for result, count in self.counts.items() if result != "ok") - len(self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "place": self.place,
            "exit_code": self.exit_code,
            "counts": dict(self.counts),
            "left_out": self.left_out,
            **({"nodes": dict(self.nodes)} if self.nodes else {}),
            "checks": [asdict(each) for each in self.checks],
        }


def differs(what: str, told: Any, found: Any) -> str | None:
    """A sentence where the two are not equal."""
    if told == found:
        return None
    return f"{what}: expected {short(told)}, found {short(found)}"


def short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"
