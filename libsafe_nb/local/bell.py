"""
The bell of the queue: who waits for a call to come, or for one to end, is woken when it does, and looks at nothing until then.

Rung within the transaction that makes the change; who waits runs when that has been committed, as no transaction lasts
longer than one turn of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

HURRIED = 1000
"""Names of questions that are to be answered at once and may not have arrived yet; the oldest are forgotten."""


class Bell:
    """For the event loop's thread alone."""

    def __init__(self) -> None:
        self._for_work: set[asyncio.Event] = set()
        self._for_ends: dict[int, set[asyncio.Event]] = {}
        self._questions: dict[str, asyncio.Event] = {}
        self._hurried: dict[str, None] = {}

    def work(self) -> None:
        """A call may be there to be claimed: one came, or the end of another made room."""
        for event in self._for_work:
            event.set()

    def ended(self, call: int) -> None:
        for event in self._for_ends.get(call, ()):
            event.set()
        self.work()

    async def wait_for_work(self, seconds: float) -> None:
        """Until there may be a call to be claimed, or the time is over."""
        event = asyncio.Event()
        self._for_work.add(event)
        try:
            await _rung(event, seconds)
        finally:
            self._for_work.discard(event)

    def hurry(self, question: str) -> None:
        """Who waits for ends by this name waits no more, also if the question has not arrived yet."""
        if question in self._questions:
            self._questions[question].set()
        self._hurried[question] = None
        for oldest in list(self._hurried)[:-HURRIED]:
            del self._hurried[oldest]

    def is_hurried(self, question: str | None) -> bool:
        return question in self._hurried

    async def wait_for_end(self, calls: Iterable[int], seconds: float, question: str | None = None) -> None:
        """Until one of the calls has ended, or the time is over, or somebody has the question of this name hurry."""
        event, calls = asyncio.Event(), set(calls)
        if question in self._hurried:
            return
        if question is not None:
            self._questions[question] = event
        for call in calls:
            self._for_ends.setdefault(call, set()).add(event)
        try:
            await _rung(event, seconds)
        finally:
            self._questions.pop(question or "", None)
            for call in calls:
                self._for_ends[call].discard(event)
                if not self._for_ends[call]:
                    del self._for_ends[call]


async def _rung(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
