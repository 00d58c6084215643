"""
`watch`: a run and all that it called, as it goes on.

    Following    what is known of the tree, brought up to date by one question a look
    show         the tree on a terminal, in place
    tell         a line, or an object of JSON, for each change
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from libsafe_nb import board, flow, flowtext, record
from libsafe_nb.errors import Unreachable
from libsafe_nb.functions import Functions, Shape
from libsafe_nb.report.markup import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

ENDED = ("completed", "failed", "cancelled", "dead")
EXIT_CODES = {"completed": 0, "failed": 1, "timeout": 4, "cancelled": 130}
"""By how the run ended; it could not be executed otherwise."""
LIVE = {"queued": "waiting", "running": "underway"}
"""The words of a run that goes on: those of a record tell of one that has ended before them."""
DENSITIES = ((flowtext.SIBLINGS, flowtext.TOLD), (20, 10), (8, 5), (2, 2), (1, 0))
"""Of calls of one run, how many are told line by line and, of more, how many of those that did not complete."""
EVERY = 1.0
"""Seconds between two looks."""


def named(run: str) -> dict[str, str]:
    """
    What RUN names, as the platform is asked for it: a job's number, a run's id, evidence (whose folder tells the job), a
    notebook by its file's name, else a function by its key.
    """
    if run.isascii() and run.isdecimal():
        return {"job": run}
    if re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", run.removeprefix("urn:uuid:")):
        return {"run": run.removeprefix("urn:uuid:")}
    folder = re.search(r"(?:^|/)provenance/[^/]+/[0-9TZ]+-job([0-9]+)(?:/|$)", run)
    return {"job": folder[1]} if folder else {"function": run.rpartition("/")[2]}


@dataclass(frozen=True)
class Live(flow.Node):
    """
    A run that goes on.

    Attributes
    ----------
    progress
        From 0 to 1; None where it has not said.
    """

    progress: float | None = None

    @property
    def label(self) -> str:
        """None: a record numbers calls as its run asked for them, which the queue does not know."""
        return ""

    @property
    def words(self) -> str:
        done = "" if self.progress is None or self.status != "underway" else f" {self.progress:.0%}"
        return super().words + done


class Following:
    """
    Parameters
    ----------
    of
        Which run (`named`); nothing for the newest that runs.

    Raises
    ------
    NotFound
        There is no such run.
    """

    def __init__(self, functions: Functions, of: Mapping[str, str]) -> None:
        self._functions, self._of = functions, dict(of)
        self.root: Shape = {}
        self.calls: dict[str, Shape] = {}
        self._next: dict[str, str] = {}
        self.now = ""

    @property
    def ended(self) -> bool:
        return self.root.get("status") in ENDED

    @property
    def outcome(self) -> str:
        return _outcome(self.root)

    @property
    def exit_code(self) -> int:
        """As `run` ends for the same outcome."""
        return EXIT_CODES.get(self.outcome, 3)

    def look(self) -> list[Shape]:
        """Ask once, and tell what is new or another than before: the root (whose `caller` and `id` are null), and calls."""
        known = {"": self.root, **self.calls}
        running = {id for id, each in self.calls.items() if each["status"] == "running"}
        told = self._ask()
        if not self.ended and running - told:
            # Ended, and not told: a clock was set back. What there is is asked for as a whole.
            self._next = {}
            self._ask()
        if self.ended:
            # The tree that stays is told by one moment, after the end.
            self._next = {}
            self._ask()
        found = {"": self.root, **self.calls}
        return [each for id, each in found.items() if each != known.get(id)]

    def _ask(self) -> set[str]:
        told: set[str] = set()
        since, more = None, True
        while more:
            found = self._functions.workflow(**self._of, **self._next)
            self.root, self.now, more = found["root"], found["now"], found["more"]
            # From now on it is this run, whatever else begins.
            self._of = {"job": self.root["job_id"]}
            since = since or found["since"]
            self._next = {"after": str(found["after"]), "since": since}
            for each in found["calls"]:
                self.calls[each["id"]] = each
                told.add(each["id"])
        return told

    def nodes(self) -> list[flow.Node]:
        """The tree; calls stand below who called them, in the order in which they were queued."""
        calls = (self.calls[id] for id in sorted(self.calls, key=int))
        return [self._node(self.root), *map(self._node, calls)]

    def _node(self, row: Shape) -> Live:
        outcome, is_root = _outcome(row), row is self.root
        return Live(
            id="root" if is_root else row["id"],
            function=record.name_of(row["function"]),
            status=LIVE.get(outcome, outcome),
            # It is a call, that can be told together with others.
            number=None if is_root else int(row["id"]),
            # One that is called from where the user may not look hangs on the root.
            caller=None if is_root else row["caller"] if row["caller"] in self.calls else "root",
            seconds=self._seconds(row),
            job=row["job_id"],
            run=row["run"],
            evidence=row["evidence"],
            attempts=row["attempts"],
            error=row["error"],
            progress=row["progress"],
        )

    def _seconds(self, row: Shape) -> float | None:
        if not row["date_start"]:
            return None
        first, last = (
            datetime.datetime.fromisoformat(each) for each in (row["date_start"], row["date_end"] or self.now)
        )
        return max(0.0, (last - first).total_seconds())

    def summary(self) -> str:
        """How many calls there are, by status."""
        counts = Counter(map(_outcome, self.calls.values()))
        known = [name for name in ("running", "queued", "completed") if counts[name]]
        parts = [f"{counts[name]:,} {name}" for name in (*known, *sorted(set(counts) - {*known}))]
        return f"{len(self.calls):,} calls: {', '.join(parts)}" if parts else "no calls so far"

    def line(self, row: Shape) -> str:
        """A line about a change."""
        node = self._node(row)
        told = [
            self.now[11:19],
            node.function,
            f"{node.mark} {node.words}",
            duration(node.seconds) if node.seconds is not None and _outcome(row) not in LIVE else "",
            f"job {node.job}",
            (node.error or "")[:200],
        ]
        return flowtext.printable("  ".join(filter(None, told)))

    def to_json(self, row: Shape) -> Shape:
        """An object about a change."""
        kind = "run" if row is self.root else "call"
        return {"kind": kind, "at": self.now, **row, "status": _outcome(row), "seconds": self._seconds(row)}


def _outcome(row: Mapping[str, Any]) -> str:
    """The call's status; of one that failed or is no call, how its run ended."""
    status, outcome = str(row["status"]), row.get("outcome")
    if status == "failed" and outcome in ("timeout", "errored"):
        return str(outcome)
    return status


# On a terminal, and elsewhere -----------------------------------------------------------------------------------------


def show(following: Following, console: Console, *, every: float = EVERY) -> None:
    """Draw it in place until it has ended, and leave the last tree there."""
    following.look()

    def draw() -> tuple[RenderableType, bool]:
        if not following.ended:
            following.look()
        shown = [*fitting(following.nodes(), console.height - 2), following.summary()]
        return _text(shown), not following.ended

    board.redraw(draw, console=console, every=every, screen=False)
    console.print(_text([*flowtext.lines(following.nodes()), following.summary()]), soft_wrap=True)


def _text(lines: Iterable[str]) -> Text:
    from rich.text import Text

    return Text("\n".join(map(flowtext.printable, lines)), no_wrap=True, overflow="ellipsis")


def fitting(nodes: list[flow.Node], most: int) -> list[str]:
    """The tree in at most so many lines: the more calls there are, the more of them are told together."""
    lines: list[str] = []
    for siblings, told in DENSITIES:
        lines = list(flowtext.lines(nodes, siblings=siblings, told=told))
        if len(lines) <= most:
            return lines
    return [*lines[: most - 1], f"and {len(lines) - most + 1:,} more lines"]


def tell(
    following: Following, write: Callable[[str], None], *, as_json: bool = False, every: float = EVERY
) -> None:
    """
    Write a line for each change until it has ended.

    Of a run that says how much is done, that alone is a change for JSON only.
    """
    states: dict[str, tuple[str, str]] = {}
    for row in _changes(following, every):
        whose, state = "" if row is following.root else row["id"], (_outcome(row), row["job_id"])
        if as_json:
            write(json.dumps(following.to_json(row), ensure_ascii=False))
        elif states.get(whose) != state:
            write(following.line(row))
        states[whose] = state


def _changes(following: Following, every: float) -> Iterator[Shape]:
    yield from following.look()
    while not following.ended:
        began = time.monotonic()
        # One that is away for a while comes back, or is stopped by whoever looks.
        with contextlib.suppress(Unreachable):
            yield from following.look()
        time.sleep(0 if following.ended else max(every, board.SHARE * (time.monotonic() - began)))
