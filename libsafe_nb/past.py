"""
What earlier runs have done of a run's work: calls that an interrupted run of the same workflow made (`lineage.py`), and runs
that stand for a call as nothing of it has changed (`reuse.py`).
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from libsafe_nb import evidence, fingerprint, lineage
from libsafe_nb.errors import Conflict, NotFound, ObjectNotFound, PlatformError
from libsafe_nb.functions import Functions
from libsafe_nb.recordedcalls import ENDED

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.drafts import Order
    from libsafe_nb.lineage import Lineage
    from libsafe_nb.reuse import Answer, Reuse
    from libsafe_nb.storage import Storage

AGAIN = 16
"""How often a call that could not be executed, or whose files were changed, is asked for anew over all its resumptions."""

Shape = dict[str, Any]


class Past:
    """
    The earlier runs of one run. Thread-safe; nothing is looked up before the run makes a call.

    Parameters
    ----------
    client
        With the run's job.
    found
        Looks the lineage up, and notes this run in it.
    tell
        Where events go.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        storage: Storage,
        *,
        run: str,
        found: Callable[[], Lineage],
        reuse: Reuse,
        tell: Callable[[Shape], None],
    ) -> None:
        self._client, self._storage, self._run = client, storage, run
        self._found, self._reuse, self._tell = found, reuse, tell
        self._lock = threading.Lock()
        self._lineage: Lineage | None = None
        self._asked: Counter[str] = Counter()
        self._keys: dict[int, tuple[str, str]] = {}
        """By a call's number its digest and its key."""
        self._free: dict[str, list[str]] = {}
        """By digest the keys under which the platform may have made a call that its caller was told is none."""
        self._versions: dict[tuple[str, int | None], str | None] = {}

    def earlier(self, order: Order) -> Answer:
        """The run that stands for a call; for a call with `reuse="unchanged"` only."""
        return self._reuse.find(
            order.function,
            container=order.container,
            files=order.files,
            params=order.params,
            version=order.version,
        )

    def ask(self, order: Order, make: Callable[[str], Shape]) -> Shape:
        """
        Have a call made, or answered by the one that an interrupted run made.

        Parameters
        ----------
        make
            Asks the platform, under an idempotency key: what it answers, with `parent`, the job that asked first.

        Returns
        -------
        dict
            What `make` answered; with `resumed`, the run that asked for it, where that was an interrupted one.
        """
        lineage_ = self._of()
        key = self._key(order, lineage_)
        made = make(key)
        for number in range(1, AGAIN):
            before = lineage_.runs.get(str(made.get("parent")))
            if before is None:
                return made
            again = self._again(made, lineage_)
            if again is None:
                return {**made, "resumed": before}
            made = make(f"{key}/{again}-{number}")
        return made

    def release(self, number: int) -> None:
        """
        Nobody answered whether this call was made, and its caller was told so: the next of its kind is asked for under the
        same key, so that a caller who tries again starts nothing twice.
        """
        with self._lock:
            if number in self._keys:
                digest, key = self._keys.pop(number)
                self._free.setdefault(digest, []).append(key)

    def _again(self, made: Shape, lineage_: Lineage) -> str | None:
        """Why a call of an interrupted run is asked for once more; None where it stands. One that is open is ours from now on."""
        functions = Functions(self._client())
        try:
            found = functions.get_call(made["call"])
        except NotFound:
            # Pruned, with all that was known of it.
            return "gone"
        if found["status"] not in ENDED:
            try:
                functions.adopt(made["call"], self._run)
            except Conflict:
                # It has ended in this moment.
                found = functions.get_call(made["call"])
        if found["status"] == "dead":
            return "dead"
        if found["status"] != "completed":
            return None
        result = self._client().job(found["job_id"])["result"]
        place = evidence.place_of(result.get("evidence") if isinstance(result, dict) else None)
        if place is None:
            return None
        try:
            body = json.loads(self._storage.get(place[0], f"{place[1]}record.json"))
        except (ObjectNotFound, ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            # Of what it has read nobody can tell whether it is the same.
            return "changed"
        changed = lineage.changed_by_others(self._client(), self._storage, lineage_, body)
        return "changed" if changed else None

    def _of(self) -> Lineage:
        """The lineage; looked up at the first call, as most runs make none."""
        with self._lock:
            if self._lineage is None:
                self._lineage = self._found()
                if self._lineage.event is not None:
                    self._tell(self._lineage.event)
            return self._lineage

    def _key(self, order: Order, lineage_: Lineage) -> str:
        """By which the platform knows the call, whichever run of the lineage asks for it."""
        digest = fingerprint.of_order(
            order.function,
            self._sha256(order.function, order.version),
            container=order.container,
            params=order.params,
            files=order.files,
        )
        with self._lock:
            if order.number not in self._keys:
                # Once for a call, however often the platform has to be asked.
                if free := self._free.get(digest):
                    key = free.pop(0)
                else:
                    self._asked[digest] += 1
                    key = f"{lineage_.name}/{digest}/{self._asked[digest]}"
                self._keys[order.number] = digest, key
            return self._keys[order.number][1]

    def _sha256(self, function: str, version: int | None) -> str | None:
        """Of the version that is asked for, as it is when the function is first called: a new one is another call."""
        known = (function, version)
        with self._lock:
            if known in self._versions:
                return self._versions[known]
        try:
            functions = Functions(self._client())
            about: Mapping[str, Any] = (
                functions.get(function)
                if version is None
                else next(each for each in functions.versions(function) if each["number"] == version)
            )
            found = str(about["sha256"])
        except (PlatformError, StopIteration, KeyError):
            # Who makes the call is told.
            return None
        with self._lock:
            self._versions[known] = found
        return found
