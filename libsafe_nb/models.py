"""What a run leaves in the caller's hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from libsafe_nb.errors import ExecutionError, LibsafeError, RunCancelled, RunFailed, RunTimeout

OUTCOMES = {
    "running": "RUNNING",
    "completed": "COMPLETED",
    "failed": "FAILED",
    "errored": "ERRORED",
    "timeout": "TIMEOUT",
    "cancelled": "CANCELLED",
}


@dataclass(frozen=True)
class Replay:
    """
    What makes a run the repetition of an earlier one (`replay.py`).

    Attributes
    ----------
    origin
        `{"record", "record_sha256"}` of the earlier run, for this one's record.
    stub
        What the function would change is noted, with `stubbed`, and not done.
    pins
        By file id the `path`, `version_id` and `size` that the earlier run had, which are read in place of the current.
    calls
        The record's `calls`, each with the `scraps` that its evidence holds; with `stub` calls are answered from these.
    """

    origin: Mapping[str, str]
    stub: bool = True
    pins: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calls: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Published:
    """
    The version of a function that the platform has published and a run is to execute, and no other bytes.

    `sha256` is of the notebook's file.
    """

    version: int
    sha256: str


@dataclass(frozen=True)
class Parent:
    """Whose function called this one: its job, and where they are known its run and its key."""

    job: str
    run: str | None = None
    function: str | None = None


class Course(Protocol):
    """A run that is under way."""

    def cancel(self, reason: str) -> None:
        """Ask it to end; returns at once."""

    def wait(self, timeout: float | None) -> None:
        """Return when it has ended, or raise what it raised; `TimeoutError` after `timeout` seconds."""


@dataclass
class Run:
    """
    One execution and where its record lies.

    Attributes
    ----------
    status
        `running`; `completed`; `failed` (the function's own verdict); `errored` (it could not be executed);
        `timeout`; `cancelled`.
    evidence
        `libsafe://CONTAINER/provenance/…/`, or None when it could not be stored yet.
    seconds
        Wall time of the whole run, evidence included.
    number
        Of a run by `run_many`: the place of its payload, from 0.
    """

    run: str
    job: str
    container: str
    status: str = "running"
    error: Mapping[str, Any] | None = None
    evidence: str | None = None
    seconds: float = 0.0
    scraps: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    exit_code: int = 0
    number: int | None = None
    course: Course | None = field(default=None, repr=False, compare=False)

    def cancel(self, reason: str = "cancelled") -> None:
        """
        End it: its kernel is interrupted, after a grace killed with all that it started, and the record and the job
        say cancelled. Returns at once, from any thread; after the run's end it does nothing.
        """
        if self.course is not None:
            self.course.cancel(reason)

    def wait(self, timeout: float | None = None) -> Run:
        """
        Return the run when it has ended.

        Raises
        ------
        TimeoutError
            It has not ended within `timeout` seconds; it goes on.
        LibsafeError
            What `libsafe_nb.run` would have raised.
        """
        if self.course is not None:
            self.course.wait(timeout)
        return self

    def raise_for_failure(self) -> Run:
        """
        Return the run if it completed, waiting for its end if need be.

        Raises
        ------
        RunFailed, RunTimeout, RunCancelled, ExecutionError
            By status; the message names the cell.
        """
        self.wait()
        if self.status == "completed" and self.exit_code == 0:
            return self
        kinds: dict[str, type[LibsafeError]] = {
            "failed": RunFailed,
            "timeout": RunTimeout,
            "cancelled": RunCancelled,
        }
        raise kinds.get(self.status, ExecutionError)(
            f"job {self.job}: {self.status}: {describe(self.error)}", run=self.run
        )

    def to_json(self) -> dict[str, Any]:
        """The object that `run --json` prints (contract 2)."""
        return {
            "run": self.run,
            "job": self.job,
            "container": self.container,
            "status": self.status,
            "outcome": OUTCOMES[self.status],
            "error": dict(self.error) if self.error else None,
            "evidence": self.evidence,
            "seconds": round(self.seconds, 3),
            "scraps": dict(self.scraps),
        }

    def __getstate__(self) -> dict[str, Any]:
        # What is under way stays in its process.
        return {**self.__dict__, "course": None}


def describe(error: Mapping[str, Any] | None) -> str:
    """One line for people: the cell, the type and the message."""
    if not error:
        return "the function ended the job as failed"
    cell = f"cell {error['cell_id']}: " if error.get("cell_id") else ""
    message = str(error.get("message") or "").strip()
    if len(message) > 2000:
        message = f"{message[:2000]}… ({len(message)} characters)"
    return f"{cell}{error.get('type')}: {message}" if message else f"{cell}{error.get('type')}"


@dataclass(frozen=True)
class Recovered:
    """
    What became of one interrupted run.

    `status` is that of the run; `waiting` if it could not be finished now, `nothing` if there was nothing to finish,
    `abandoned` if its job was closed without evidence. `message` says more, for people.
    """

    run: str
    job: str
    container: str
    status: str
    evidence: str | None
    message: str

    @property
    def done(self) -> bool:
        return self.status != "waiting"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
