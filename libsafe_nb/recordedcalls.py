"""The calls that a recorded run made of other functions, as a replay answers them. Pure."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from libsafe_nb import record
from libsafe_nb.errors import ExecutionError

ENDED = ("completed", "failed", "cancelled", "dead")
OVER = (*ENDED, "refused")
"""How a call can have ended for its caller: the platform may not take one that was held back."""
NOT_TAKEN, NOT_TOLD = "[not taken]", "[not told]"
"""In a record, for the value of a name that the function does not take; and for another that may be a secret."""
FACTS = (
    "call",
    "job",
    "version",
    "sha256",
    "status",
    "run",
    "started",
    "ended",
    "evidence",
    "error",
    "attempts",
)
OF_RECORD = ("record_sha256", "code_sha256", "inputs", "outputs")
"""What is kept of the called run's own record (`linkage.account`); a replay tells it as it was recorded."""

Shape = dict[str, Any]


class RecordedCalls:
    """The calls of the run that is replayed, each answered once; in order, but for threads that took other turns."""

    def __init__(self, calls: Sequence[Mapping[str, Any]]) -> None:
        self._left = [dict(each) for each in calls]
        self._by_call = {str(each["call"]): each for each in self._left if each.get("call")}
        self._lock = threading.Lock()

    def take(self, event: Shape) -> Shape:
        """
        Raises
        ------
        ExecutionError
            The recorded run made no further call of that function.
        """
        alike = ("function", "container", "files")
        with self._lock:
            same = [each for each in self._left if each.get("function") == event["function"]]
            if not same:
                raise ExecutionError(
                    f"a replay starts nothing, and the recorded run made no further call of {event['function']}"
                )
            found = next(
                (
                    each
                    for each in same
                    if all(each.get(name) == event[name] for name in alike)
                    and told_again(event["params"], each) == _params(each)
                ),
                same[0],
            )
            self._left.remove(found)
            return found

    def get(self, call: str) -> Shape:
        """
        Raises
        ------
        ExecutionError
            The recorded run ended before the call did, or the call's evidence could not be read.
        """
        return self.told(self._by_call.get(call), call)

    def has(self, function: str) -> bool:
        """Whether the recorded run made a further call of that function."""
        with self._lock:
            return any(each.get("function") == function for each in self._left)

    def told(self, found: Mapping[str, Any] | None, call: str | None = None) -> Shape:
        """As `get`, of what `take` answered."""
        name = call or (found or {}).get("call") or (found or {}).get("number")
        if found is None or found.get("status") not in OVER:
            status = found.get("status") if found else "not told of"
            raise ExecutionError(
                f"call {name}: in the recorded run it was {status} to the end, so a replay knows no result of it"
            )
        if found.get("scraps") is None:
            raise ExecutionError(f"call {name}: {found.get('unread') or 'its evidence was not read'}")
        facts = {name: found.get(name) for name in (*FACTS, "scraps") if name != "call"}
        return {**facts, "error": in_order(facts["error"])}


def told_again(params: Mapping[str, Any], entry: Mapping[str, Any]) -> Shape:
    """
    Parameters of a replayed call as its record may hold them: what the recorded call's record holds, where it is the same
    or not told there; nobody is asked which of the others are secrets.
    """
    recorded, told = _params(entry), {}
    for name, value in record.plain(params).items():
        before = recorded.get(name, NOT_TOLD)
        masked = before in (f"[redacted:{name}]", NOT_TAKEN, NOT_TOLD)
        told[name] = before if masked or record.canonical(before) == record.canonical(value) else NOT_TOLD
    return told


def _params(entry: Mapping[str, Any]) -> Shape:
    """Those of a recorded call."""
    found = entry.get("params")
    return dict(record.plain(found)) if isinstance(found, Mapping) else {}


def in_order(error: Any) -> Any:
    """An error as `look` tells it: a record sorts its names, and a function may print it."""
    if not isinstance(error, Mapping):
        return error
    return {**dict.fromkeys(name for name in ("type", "message", "cell_id") if name in error), **error}
