"""
The units of a map: its batches, and the pieces into which one that did not complete is taken apart. Pure.

A unit's name is its batch's number, then the place of the piece in what was taken apart: `00000017`, `00000017.0`,
`00000017.0.1`. Each file of a batch is in exactly one unit that is not taken apart further: that one tells its result.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

COMPLETED = "completed"

AGAIN = frozenset({"errored"})
"""How a run of one file ends that is tried again: it was not the function that said no."""


@dataclass(frozen=True)
class Unit:
    """
    Files for one run.

    Attributes
    ----------
    files
        Their ids.
    tries
        How often this file has been tried alone before; 0 for several.
    """

    name: str
    files: tuple[str, ...]
    tries: int = 0


def name_of(batch: int) -> str:
    """The name of a batch, so that names are in the order of their numbers."""
    return f"{batch:08d}"


def batch_of(name: str) -> int:
    """The number of the batch that a unit is, or is of."""
    return int(name.partition(".")[0])


def above(name: str) -> str:
    """The unit that was taken apart into this one and others; empty for a batch."""
    return name.rpartition(".")[0]


def pieces(unit: Unit, status: str, named: Collection[str], *, retries: int) -> list[Unit]:
    """
    What is to be run in place of a unit that ended so; nothing if its result stands.

    Parameters
    ----------
    named
        Files that the function itself named in its errors: each is tried alone, the others together. Where it named none
        the unit is halved.
    retries
        How often one file, whose run could not be executed, is tried again.
    """
    if status == COMPLETED:
        return []
    if len(unit.files) == 1:
        again = status in AGAIN and unit.tries < retries
        return [Unit(f"{unit.name}.0", unit.files, unit.tries + 1)] if again else []
    alone = [each for each in unit.files if each in named]
    others = [each for each in unit.files if each not in named]
    half = (len(unit.files) + 1) // 2
    groups = (
        [[each] for each in alone] + [others] if alone else [list(unit.files[:half]), list(unit.files[half:])]
    )
    return [Unit(f"{unit.name}.{at}", tuple(group)) for at, group in enumerate(groups) if group]
