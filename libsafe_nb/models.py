"""What a run leaves in the caller's hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from libsafe_nb.errors import ExecutionError, LibsafeError, RunCancelled, RunFailed, RunTimeout

OUTCOMES = {
    "completed": "COMPLETED",
    "failed": "FAILED",
    "errored": "ERRORED",
    "timeout": "TIMEOUT",
    "cancelled": "CANCELLED",
}


@dataclass(frozen=True)
class Run:
    """
    One finished execution and where its record lies.

    Attributes
    ----------
    status
        `completed`; `failed` (the function's own verdict); `errored` (it could not be executed);
        `timeout`; `cancelled`.
    evidence
        `libsafe://CONTAINER/provenance/…/`, or None when it could not be stored yet.
    seconds
        Wall time of the whole run, evidence included.
    """

    run: str
    job: str
    container: str
    status: str
    error: Mapping[str, Any] | None
    evidence: str | None
    seconds: float
    scraps: Mapping[str, Any] = field(default_factory=dict)
    cause: str = ""
    exit_code: int = 0

    def raise_for_failure(self) -> Run:
        """
        Return the run if it completed.

        Raises
        ------
        RunFailed, RunTimeout, RunCancelled, ExecutionError
            By status; the message names the cell.
        """
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


def describe(error: Mapping[str, Any] | None) -> str:
    """One line for people: the cell, the type and the message."""
    if not error:
        return "the function ended the job as failed"
    cell = f"cell {error['cell_id']}: " if error.get("cell_id") else ""
    message = str(error.get("message") or "").strip()
    return f"{cell}{error.get('type')}: {message}" if message else f"{cell}{error.get('type')}"
