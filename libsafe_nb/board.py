"""`functions watch`: the queue, the running jobs, rates, what is wrong and the last failures, as they change."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from libsafe_nb.errors import PlatformError
from libsafe_nb.functions import Functions

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

WINDOW = 60.0
"""Seconds over which rates are taken."""
SHARE = 4
"""So many times as long as a look took nothing is asked, so that it is no burden."""
SHOWN = 8
"""Of running jobs and of failures."""
FUNCTIONS = 12
"""Of functions: those with work come first."""
COUNTED = ("completed", "failed", "dead", "cancelled", "pruned")


@dataclass(frozen=True)
class Look:
    """What was seen at one time (`at` is monotonic)."""

    at: float
    queue: dict[str, Any]
    functions: list[dict[str, Any]]
    running: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    trouble: list[str] = field(default_factory=list)
    """What is wrong: of the platform, and triggers that it disabled."""

    def to_json(self) -> dict[str, Any]:
        """`queue`, `functions`, `running`, `failures` and `trouble`, as the platform tells them."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "at"}


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
        # Calls that are queued again are taken back from the count.
        return max(0, ended - before) * 60 / (look.at - at) if look.at > at else None


def look(functions: Functions) -> Look:
    running = list(islice(functions.calls(status="running"), SHOWN))
    for each in running:
        each["job"] = functions.job(each["job_id"])
    failures = [
        each
        for status in ("failed", "dead")
        for each in islice(functions.calls(status=status, order="newest"), SHOWN)
    ]
    failures.sort(key=lambda each: each["date_end"] or "", reverse=True)
    queue = functions.queue()
    trouble = list(queue["trouble"])
    for trigger in functions.triggers():
        if trigger["error"]:
            trouble.append(f"trigger {trigger['id']} of {trigger['function']}: {trigger['error']}")
    return Look(time.monotonic(), queue, list(functions.all()), running, failures[:SHOWN], trouble)


def render(seen: Look, rate: float | None) -> RenderableType:
    """The view; text of others (titles, errors) is shown as it is, and is no markup."""
    from rich.console import Group
    from rich.text import Text

    queue = seen.queue
    waiting = f"{queue['queued']} queued   {queue['running']} running   {queue['events']} events waiting"
    ended = f"{queue['completed']} completed   {queue['failed']} failed   {queue['cancelled']} cancelled   {queue['dead']} dead"
    if rate is not None:
        ended += f"   {rate:.0f} a minute"
    parts: list[RenderableType] = [Text(waiting)]
    if queue["paused"]:
        parts.append(Text("PAUSED: nothing is started until `functions resume`", style="bold yellow"))
    parts += [Text(ended), *(Text(f"! {each}", style="red") for each in seen.trouble), Text("")]
    parts += [*_functions(seen), Text(""), *_running(seen), Text(""), *_failures(seen)]
    return Group(*parts)


def _functions(seen: Look) -> list[RenderableType]:
    from rich.text import Text

    if not seen.functions:
        return [Text("no functions are published")]
    numbers = ("queued", "running", "dead")
    # Those with work, then by name.
    ordered = sorted(
        seen.functions, key=lambda each: (not any(each[name] for name in numbers), str(each["key"]))
    )
    table = _table("function", "state", rest="function", version=4, queued=6, running=7, dead=4)
    for each in ordered[:FUNCTIONS]:
        state = "disabled" if not each["enabled"] else "paused" if each["paused"] else "enabled"
        table.add_row(
            Text(each["key"]),
            Text(state, style="" if state == "enabled" else "yellow"),
            f"v{each['version']}",
            *(str(each[name]) for name in numbers),
        )
    more = len(ordered) - FUNCTIONS
    return [table, Text(f"and {more} more: functions list")] if more > 0 else [table]


def _running(seen: Look) -> list[RenderableType]:
    from rich.text import Text

    if not seen.running:
        return [Text("nothing runs")]
    table = _table("running", "trigger", rest="running", job=5, container=9, files=5, done=4, time=7)
    for each in seen.running:
        job = each["job"]
        done = "" if job["progress"] is None else f"{job['progress']:.0%}"
        table.add_row(
            Text(each["function"]),
            each["trigger"]["type"],
            each["job_id"],
            each["container_id"],
            str(each["files"]),
            done,
            _since(job["date_start"]),
        )
    more = seen.queue["running"] - len(seen.running)
    return [table, Text(f"and {more} more: functions calls --status running")] if more > 0 else [table]


def _failures(seen: Look) -> list[RenderableType]:
    from rich.text import Text

    if not seen.failures:
        return [Text("nothing failed")]
    table = _table("last failures (UTC)", "job", "function", "error", rest="error")
    for each in seen.failures:
        error = (each["error"] or "").splitlines()[:1]
        table.add_row(
            f"{each['date_end'] or ''}"[:19],
            each["job_id"],
            Text(each["function"]),
            Text("".join(error)[:300]),
        )
    return [table]


def _table(*words: str, rest: str, **numbers: int) -> Table:
    """Each row is one line: columns of words and numbers are as wide as what is in them, `rest` takes what is left."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    for name in words:
        table.add_column(
            name,
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if name == rest else None,
            max_width=None if name == rest else 24,
        )
    for name, width in numbers.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    return table


def _since(started: str | None) -> str:
    if not started:
        return ""
    began = datetime.datetime.fromisoformat(started).replace(tzinfo=datetime.UTC)
    seconds = max(0, int((datetime.datetime.now(datetime.UTC) - began).total_seconds()))
    return str(datetime.timedelta(seconds=seconds))


def watch(
    functions: Functions, *, every: float = 1.0, once: bool = False, console: Console | None = None
) -> None:
    """
    Show until interrupted; a platform that is away for a while is waited for. Once where `console` is no terminal: what
    replaces itself there is of no use in a file.
    """
    from rich.console import Console

    console, rates = console or Console(), Rates()
    if once or not console.is_terminal:
        seen = look(functions)
        console.print(render(seen, rates.add(seen)))
        return

    def draw() -> tuple[RenderableType, bool]:
        seen = look(functions)
        return render(seen, rates.add(seen)), True

    with contextlib.suppress(KeyboardInterrupt):
        redraw(draw, console=console, every=every)


def redraw(
    draw: Callable[[], tuple[RenderableType, bool]], *, console: Console, every: float, screen: bool = True
) -> None:
    """
    Show what `draw` gives, in place, until it says that it was the last. While the platform is away, that is shown.

    Parameters
    ----------
    every
        Seconds between two looks; more where a look takes long.
    screen
        On the whole screen, which then comes back as it was; else below what is there, and it is taken away in the end.
    """
    from rich.live import Live
    from rich.text import Text

    going = True
    with Live(
        console=console, screen=screen, transient=not screen, auto_refresh=False, vertical_overflow="crop"
    ) as live:
        while going:
            began = time.monotonic()
            try:
                shown, going = draw()
            except PlatformError as exc:
                shown = Text(f"the platform does not answer: {exc}")
            live.update(shown, refresh=True)
            if going:
                time.sleep(max(every, SHARE * (time.monotonic() - began)))
