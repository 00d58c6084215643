"""`functions watch`: the queue, the running jobs, rates and the last failures, as they change."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from libsafe_nb.errors import PlatformError
from libsafe_nb.functions import Functions

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

WINDOW = 60.0
"""Seconds over which rates are taken."""
SHOWN = 8
COUNTED = ("completed", "failed", "dead", "cancelled")


@dataclass(frozen=True)
class Look:
    """What was seen at one time (`at` is monotonic)."""

    at: float
    queue: dict[str, Any]
    functions: list[dict[str, Any]]
    running: list[dict[str, Any]]
    failures: list[dict[str, Any]]


@dataclass
class Rates:
    """Calls a minute that came to an end, from the counts of the last minute."""

    seen: deque[tuple[float, int]] = field(default_factory=deque)

    def add(self, look: Look) -> float | None:
        """The rate with this look; None as long as there is nothing to compare with."""
        ended = sum(int(look.queue[name]) for name in COUNTED)
        self.seen.append((look.at, ended))
        while look.at - self.seen[0][0] > WINDOW and len(self.seen) > 2:
            self.seen.popleft()
        at, before = self.seen[0]
        return (ended - before) * 60 / (look.at - at) if look.at > at else None


def look(functions: Functions) -> Look:
    running = list(islice(functions.calls(status="running"), SHOWN))
    for each in running:
        each["progress"] = functions.job_progress(each["job_id"])
    failures = [
        each
        for status in ("failed", "dead")
        for each in islice(functions.calls(status=status, order="newest"), SHOWN)
    ]
    failures.sort(key=lambda each: each["date_end"] or "", reverse=True)
    return Look(time.monotonic(), functions.queue(), list(functions.all()), running, failures[:SHOWN])


def render(seen: Look, rate: float | None) -> RenderableType:
    """The view; text of others (titles, errors) is shown as it is, and is no markup."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    queue = seen.queue
    speed = "-" if rate is None else f"{rate:.0f}"
    head = Text(
        f"{queue['queued']} queued   {queue['running']} running   {queue['events']} events waiting   "
        f"{queue['completed']} completed   {queue['failed']} failed   {queue['dead']} dead   {speed} a minute"
        + ("   PAUSED" if queue["paused"] else "")
    )
    table = Table("function", "version", "state", "queued", "running", "dead", expand=True)
    for each in seen.functions:
        state = "disabled" if not each["enabled"] else "paused" if each["paused"] else "enabled"
        numbers = (str(each[name]) for name in ("queued", "running", "dead"))
        table.add_row(Text(each["key"]), str(each["version"]), state, *numbers)
    jobs = Table("running job", "function", "container", "trigger", "files", "done", expand=True)
    for each in seen.running:
        done = "" if each["progress"] is None else f"{each['progress']:.0%}"
        jobs.add_row(
            each["job_id"],
            Text(each["function"]),
            each["container_id"],
            each["trigger"]["type"],
            str(each["files"]),
            done,
        )
    failures = Table("last failure", "function", "job", "error", expand=True)
    for each in seen.failures:
        error = (each["error"] or "").splitlines()[:1]
        failures.add_row(
            f"{each['date_end'] or ''}"[:19],
            Text(each["function"]),
            each["job_id"],
            Text("".join(error)[:200]),
        )
    return Group(head, table, jobs, failures)


def watch(
    functions: Functions, *, every: float = 1.0, once: bool = False, console: Console | None = None
) -> None:
    """Show until interrupted; a platform that is away for a while is waited for."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console, rates = console or Console(), Rates()
    if once:
        seen = look(functions)
        console.print(render(seen, rates.add(seen)))
        return
    with (
        Live(console=console, screen=console.is_terminal, auto_refresh=False) as live,
        contextlib.suppress(KeyboardInterrupt),
    ):
        while True:
            try:
                seen = look(functions)
                live.update(render(seen, rates.add(seen)), refresh=True)
            except PlatformError as exc:
                live.update(Text(f"the platform does not answer: {exc}"), refresh=True)
            time.sleep(every)
