"""What has become of a map's files, counted; and the coordinator's way through units that ended before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from libsafe_nb.mapping import units
from libsafe_nb.mapping.ledger import Ledger


@dataclass
class Counts:
    """
    Attributes
    ----------
    files
        By status: `completed`, `failed`, `errored`, `timeout`.
    batches
        That have ended, with all their pieces.
    runs
        Results of units, those that were taken apart included.
    """

    files: dict[str, int] = field(default_factory=dict)
    batches: int = 0
    runs: int = 0
    _open: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def done(self) -> int:
        return sum(self.files.values())

    @property
    def not_completed(self) -> int:
        return self.done - self.files.get(units.COMPLETED, 0)

    def opened(self, unit: str) -> None:
        """A unit is to be run."""
        batch = units.batch_of(unit)
        self._open[batch] = self._open.get(batch, 0) + 1

    def ended(self, unit: str, status: str, files: int, pieces: int) -> None:
        """A unit, which was opened, has ended; its pieces are opened by now."""
        self.runs += 1
        if not pieces:
            self.files[status] = self.files.get(status, 0) + files
        batch = units.batch_of(unit)
        self._open[batch] -= 1
        if not self._open[batch]:
            del self._open[batch]
            self.batches += 1


def open_units(ledger: Ledger, counts: Counts, *, fresh: bool) -> Iterator[str]:
    """
    The units that have not ended, in the order of their batches; those that have are counted.

    What ended is listed side by side with the batches, so memory does not grow with them. With `fresh` nothing has.
    """
    if fresh:
        for name in ledger.plan.units():
            counts.opened(name)
            yield name
        return
    done = _by_batch(ledger.shelf.names("done"))
    apart = _by_batch(ledger.shelf.names("apart"))
    ended, odd = next(done, None), next(apart, None)
    for name in ledger.plan.units():
        batch = units.batch_of(name)
        while ended is not None and ended[0] < batch:
            ended = next(done, None)
        while odd is not None and odd[0] < batch:
            odd = next(apart, None)
        known = ended[1] if ended is not None and ended[0] == batch else set()
        looked_at = odd[1] if odd is not None and odd[0] == batch else set()
        counts.opened(name)
        yield from _walk(ledger, counts, name, ledger.plan.size(batch), known, looked_at)


def _walk(
    ledger: Ledger, counts: Counts, name: str, files: int, known: set[str], looked_at: set[str]
) -> Iterator[str]:
    """The open units of one that was opened: itself, or those in its place."""
    if name not in known:
        yield name
        return
    result = ledger.result(name) if name in looked_at else None
    pieces = () if result is None else result.pieces
    for each in pieces:
        counts.opened(each.name)
    counts.ended(name, units.COMPLETED if result is None else result.status, files, len(pieces))
    for each in pieces:
        yield from _walk(ledger, counts, each.name, len(each.files), known, looked_at)


def _by_batch(names: Iterator[str]) -> Iterator[tuple[int, set[str]]]:
    for batch, found in groupby(names, units.batch_of):
        yield batch, set(found)
