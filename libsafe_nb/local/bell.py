"""
The bell of the queue: who waits for a call to come, or for one to end, is woken when it does, and looks at nothing until then.

Rung within the transaction that makes the change; who waits runs when that has been committed, as no transaction lasts
longer than one turn of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable


class Bell:
    """For the event loop's thread alone."""

    def __init__(self) -> None:
        self._for_work: set[asyncio.Event] = set()
        self._for_ends: dict[int, set[asyncio.Event]] = {}

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

    async def wait_for_end(self, calls: Iterable[int], seconds: float) -> None:
        """Until one of the calls has ended, or the time is over."""
        event, calls = asyncio.Event(), set(calls)
        for call in calls:
            self._for_ends.setdefault(call, set()).add(event)
        try:
            await _rung(event, seconds)
        finally:
            for call in calls:
                self._for_ends[call].discard(event)
                if not self._for_ends[call]:
                    del self._for_ends[call]


async def _rung(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
