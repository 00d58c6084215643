"""How a map stands, on a terminal: batches and files done, how many a second, how long it will take, how many failed."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from libsafe_nb.mapping.course import View


class Shown:
    """One line that is kept up to date and removed at the end; with `quiet` nothing."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._task: Any = None
        self._began = time.monotonic()
        self._before = 0

    def __enter__(self) -> Shown:
        if not self._quiet:
            # Imported here: only a terminal needs it.
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[told]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not self._quiet:
            self._bar.stop()

    def show(self, view: View) -> None:
        if self._quiet:
            return
        if self._task is None:
            self._task = self._bar.add_task(f"map {view.plan.notebook}", total=view.plan.files, told="")
            self._began, self._before = time.monotonic(), view.counts.done
        self._bar.update(
            self._task,
            completed=view.counts.done,
            told=line(view, time.monotonic() - self._began, view.counts.done - self._before),
        )


def line(view: View, seconds: float, since: int) -> str:
    """`12/50 batches, 1,200/5,000 files, 40.0 files/s, 1:35 left, 3 failed`; `since` files ended in these seconds."""
    plan, counts = view.plan, view.counts
    told = [f"{counts.batches:,}/{plan.batches:,} batches", f"{counts.done:,}/{plan.files:,} files"]
    if since and seconds > 0:
        rate = since / seconds
        told += [f"{rate:,.1f} files/s", f"{_span((plan.files - counts.done) / rate)} left"]
    if counts.not_completed:
        told.append(f"{counts.not_completed:,} failed")
    return ", ".join(told)


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
