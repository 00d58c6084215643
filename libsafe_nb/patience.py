"""
How long one call is repeated: pauses that grow, within a budget of seconds, and what a server itself asks for.

Shared by both ways to a platform, REST (`transport.py`) and S3 (`s3wire.py`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

BUDGET = 60.0
"""Seconds for one call with all its repetitions."""

FIRST, LONGEST = 0.1, 5.0
"""Seconds of the first pause, and of the longest: 16 tries fit into 60 s."""


class Patience:
    """One call's: made when the call begins; `tries` counts the attempts begun."""

    def __init__(self, budget: float = BUDGET) -> None:
        self.budget = budget
        self.tries = 0
        self.begin()

    def begin(self) -> None:
        """The budget counts from now on."""
        self.deadline = time.monotonic() + self.budget

    @property
    def left(self) -> float:
        return self.deadline - time.monotonic()

    def pause(self, *, least: float | None = None, most: float = LONGEST) -> float | None:
        """
        Seconds to wait before the next try, or None when that would begin after the budget's end.

        Each is twice the last, up to `most`, and up to a half shorter by chance: many clients that met one fault do
        not come back at one moment. `least` is the server's own wish (`retry_after`); less than ours it is not
        followed, since a server that is away may say "0" for a minute.
        """
        ours = min(FIRST * 2 ** (self.tries - 1), most) * random.uniform(0.5, 1)  # noqa: S311 - no secret
        pause = max(ours, least or 0)
        return pause if pause < self.left else None

    def spent(self) -> str:
        """For an error message: `3 tries and 60 s`."""
        return f"{self.tries} {'try' if self.tries == 1 else 'tries'} and {self.budget:g} s"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """
    Seconds that an answer asks to wait, from its `Retry-After`; None when it says nothing that can be used.

    A point in time is read against the answer's own `Date`: the server's clock wrote both, and ours may differ by
    hours. Without a `Date` it is not used.
    """
    value = (headers.get("Retry-After") or headers.get("retry-after") or "").strip()
    if value.isdecimal():
        return float(value)
    until, then = moment(value), moment(headers.get("Date") or headers.get("date"))
    return None if until is None or then is None else max(until - then, 0.0)


def moment(http_date: str | None) -> float | None:
    """An HTTP date as seconds since 1970; None for what is none."""
    try:
        found = parsedate_to_datetime(http_date or "")
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
