"""
Who works on which unit of a map, and how units ended: all of it in the container, by conditional writes.

A unit is begun by whoever puts its claim first, and ended by whoever puts its result first, however often it was begun.
A claim names its run, so nothing of its own has to be renewed: the run's lease (`lease.py`) says whether it goes on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from libsafe_nb import record
from libsafe_nb.errors import PreconditionFailed, StorageError
from libsafe_nb.mapping import units
from libsafe_nb.mapping.layout import Map, Shelf
from libsafe_nb.mapping.units import Unit
from libsafe_nb.processes import ProcessId, boot_id


@dataclass(frozen=True)
class Claim:
    """Who began a unit for the `attempt`-th time, from 0; `run` is the id of its run."""

    unit: str
    attempt: int
    run: str
    host: str
    process: ProcessId

    @property
    def path(self) -> str:
        return f"claims/{self.unit}.{self.attempt:03d}.json"

    @property
    def here(self) -> bool:
        """Whether its process can be seen from here: not if it is of another machine, or container."""
        return self.host == socket.gethostname() and self.process.boot == boot_id()


@dataclass(frozen=True)
class Result:
    """
    How a unit ended.

    Attributes
    ----------
    status
        That of the run, or of one that did not begin: `errored`.
    job, run, evidence
        None where no run began, or it left no evidence.
    pieces
        What is run in its place; if there are any, they tell the results of its files, and this one does not.
    """

    unit: Unit
    status: str
    job: str | None
    run: str | None
    evidence: str | None
    error: Mapping[str, Any] | None
    pieces: Sequence[Unit] = ()

    @property
    def plain(self) -> bool:
        """Whether nothing more is to be said than that it completed."""
        return self.status == units.COMPLETED

    def to_json(self) -> dict[str, Any]:
        told = {
            "unit": self.unit.name,
            "files": list(self.unit.files),
            "tries": self.unit.tries,
            "status": self.status,
            "job": self.job,
            "run": self.run,
            "evidence": self.evidence,
            "error": dict(self.error) if self.error else None,
            "pieces": [
                {"unit": each.name, "files": list(each.files), "tries": each.tries} for each in self.pieces
            ],
        }
        plain: dict[str, Any] = record.plain(told)
        return plain

    @classmethod
    def of_json(cls, found: Mapping[str, Any]) -> Result:
        return cls(
            unit=_unit(found),
            pieces=tuple(_unit(each) for each in found["pieces"]),
            **{name: found[name] for name in ("status", "job", "run", "evidence", "error")},
        )


def _unit(found: Mapping[str, Any]) -> Unit:
    return Unit(found["unit"], tuple(found["files"]), found["tries"])


class Ledger:
    """The claims and results of one map. Safe to use from several threads."""

    def __init__(self, shelf: Shelf, plan: Map) -> None:
        self.shelf, self.plan = shelf, plan
        self._chunk = lru_cache(maxsize=2)(lambda first: shelf.chunk(plan, first)[1])
        self._parts = lru_cache(maxsize=8)(self._pieces_of)

    def unit(self, name: str) -> Unit:
        """
        A unit by its name.

        Raises
        ------
        StorageError
            There is none of that name.
        """
        whole = units.above(name)
        if whole:
            found = next((each for each in self._parts(whole) if each.name == name), None)
        else:
            batch = units.batch_of(name)
            first = batch - batch % self.plan.per_chunk
            found = (
                Unit(name, tuple(self._chunk(first)[batch - first])) if batch < self.plan.batches else None
            )
        if found is None:
            raise StorageError(f"map {self.plan.map}: expected a unit {name}, found none")
        return found

    def _pieces_of(self, name: str) -> Sequence[Unit]:
        found = self.result(name)
        if found is None:
            raise StorageError(f"map {self.plan.map}: expected a result of {name}, found none")
        return found.pieces

    def claim(self, unit: str, attempt: int, run: str) -> Claim | None:
        """Begin a unit for the `attempt`-th time; None where another did."""
        claim = Claim(unit, attempt, run, socket.gethostname(), ProcessId.of(os.getpid()))
        body = {
            "unit": unit,
            "attempt": attempt,
            "run": run,
            "host": claim.host,
            "process": claim.process.as_dict(),
            "at": record.timestamp(datetime.now(UTC)),
        }
        try:
            self.shelf.put(claim.path, body)
        except PreconditionFailed:
            return None
        return claim

    def last_claim(self, unit: str) -> Claim | None:
        """Who began a unit last."""
        attempts = [
            int(name.rpartition(".")[2])
            for name in self.shelf.names("claims", f"{unit}.")
            # Not those of its pieces.
            if units.above(name) == unit
        ]
        if not attempts:
            return None
        found = self.shelf.get(f"claims/{unit}.{max(attempts):03d}.json")
        process = ProcessId.parse(found["process"])
        assert process is not None
        return Claim(unit, found["attempt"], found["run"], found["host"], process)

    def result(self, unit: str) -> Result | None:
        """How a unit ended; None where it has not."""
        found = self.shelf.get(f"done/{unit}.json")
        return None if found is None else Result.of_json(found)

    def end(self, result: Result) -> Result:
        """Record how a unit ended; what comes back is what stands there, which may be another's."""
        name = result.unit.name
        if not result.plain:
            # Before the result, so that whoever sees that one knows whether it is to be looked at.
            self.shelf.leave(f"apart/{name}.json", {"unit": name})
        try:
            self.shelf.put(f"done/{name}.json", result.to_json())
        except PreconditionFailed:
            found = self.result(name)
            assert found is not None
            return found
        return result
