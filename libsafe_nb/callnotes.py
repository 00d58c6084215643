"""
What is known of a run's calls: asked of the platform, read in the records of the called runs, and written down.

A change of what is known is told once, as an event `{"kind": "child", "key": …, "call": …, …}`.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from libsafe_nb import asking, evidence, linkage, references
from libsafe_nb.errors import LibsafeError, NotFound, ObjectNotFound, PlatformError, StorageUnreachable
from libsafe_nb.holding import Held
from libsafe_nb.recordedcalls import ENDED, FACTS, Shape

if TYPE_CHECKING:
    from libsafe_nb.client import Client


class CallNotes:
    """
    Thread-safe.

    Parameters
    ----------
    client
        With the run's job.
    tell
        Where events go.
    read
        The bytes of a container's object, for the records of the called runs; None where they are not looked at.
    in_replay
        The platform is asked for nothing.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        tell: Callable[[Shape], None],
        read: Callable[[str, str], bytes] | None,
        *,
        in_replay: bool,
    ) -> None:
        self._client, self._tell, self._read, self._in_replay = client, tell, read, in_replay
        self._lock = threading.Lock()
        self._last: dict[str, tuple[str, Shape]] = {}
        """By the platform's number the call's key, and what was told of it last."""
        self._unread: set[str] = set()
        """Of those with evidence, the calls whose record was not to be read."""
        self._away = False
        self._wrote: dict[str, list[Shape]] = {}
        """By a call's key all that it wrote."""

    def seen(self, call: str, what: Callable[[Client, str], Shape]) -> Shape:
        """Ask the platform of a call, by its number, and note the answer if it is news."""
        return self.saw(call, what(self._client(), call))

    def saw(self, call: str, found: Shape) -> Shape:
        """As `seen`, of what the platform has told already."""
        with self._lock:
            key, before = self._last.get(call, ("", {}))
            unread = call in self._unread
        if key and (unread or before != kept(found)):
            self.note(key, {"call": call, **found})
        return found

    def note(self, key: str, found: Shape) -> None:
        """Write down what has become of the call of this key."""
        account = self._account(key, found)
        call = found.get("call")
        if call is not None:
            with self._lock:
                self._last[call] = (key, kept(found))
                (self._unread.add if found.get("evidence") and not account else self._unread.discard)(call)
        self._tell({"kind": "child", "key": key, "call": call, **kept(found), **account})

    def _account(self, key: str, found: Shape) -> Shape:
        """What the called run's record tells, once it is stored; that of a run that was cancelled may come later."""
        place = evidence.place_of(found.get("evidence"))
        if self._read is None or place is None or self._away:
            return {}
        try:
            data = self._read(place[0], f"{place[1]}record.json")
            self._wrote[key] = linkage.outputs(data)
            return linkage.account(data)
        except StorageUnreachable:
            # Asked again at the run's end; a function does not wait for it at each of its calls.
            self._away = True
        except LibsafeError:
            pass
        return {}

    def wrote(self, held: Held) -> list[Shape]:
        """
        All that a call wrote, as its record tells it.

        Raises
        ------
        StorageUnreachable
            Its record cannot be read now.
        """
        if held.key not in self._wrote:
            place = evidence.place_of(held.found.get("evidence"))
            found: list[Shape] = []
            if self._read is not None and place is not None:
                with contextlib.suppress(ObjectNotFound):
                    found = linkage.outputs(self._read(place[0], f"{place[1]}record.json"))
            self._wrote[held.key] = found
        return self._wrote[held.key]

    def outputs(self, held: Held) -> list[Shape]:
        """The files that it wrote, each once, with their ids as far as the platform tells them."""
        found = [dict(each) for each in references.fitting(self.wrote(held), None)]
        missing: dict[str, list[Shape]] = {}
        for each in found:
            each["path"] = references.slashed(each["path"])
            if "id" not in each:
                missing.setdefault(str(each["container"]), []).append(each)
        for container, files in missing.items():
            ids: dict[str, str] = {}
            if not self._in_replay:
                with contextlib.suppress(PlatformError):
                    ids = asking.ids_of(self._client(), container, [each["path"] for each in files])
            for each in files:
                each["id"] = ids.get(each["path"])
        self._wrote[held.key] = found
        return found

    def settle(self, unless: Callable[[], bool] = lambda: False) -> None:
        """
        At the run's end: see what has become of those of which no end is known, and wait some seconds for the evidence of those
        that were cancelled while they ran; not if `unless` says so.
        """
        deadline = time.monotonic() + STORES
        with self._lock:
            left = [
                call
                for call, (_, seen) in self._last.items()
                if seen["status"] not in ENDED or call in self._unread
            ]
        self._away = False
        with contextlib.suppress(PlatformError):
            self._look(left)
            while (left := self._storing()) and time.monotonic() < deadline and not unless():
                time.sleep(LOOK)
                self._look(left)

    def _look(self, calls: Iterable[str]) -> None:
        for call in calls:
            # What it tells of one keeps nobody from the others.
            with contextlib.suppress(asking.Unreadable, NotFound):
                self.seen(call, asking.look)

    def _storing(self) -> list[str]:
        with self._lock:
            return [
                call
                for call, (_, seen) in self._last.items()
                if seen["status"] == "cancelled" and seen.get("started") and not seen.get("evidence")
            ]


STORES = 10.0
"""Seconds in which the evidence of a call that was cancelled while it ran is waited for."""
LOOK = 0.2
"""Seconds between two looks for it."""


def kept(found: Shape) -> Shape:
    """What the record says of a call; its scraps are in its own evidence."""
    return {name: found[name] for name in (*FACTS, "reused", "resumed") if name in found and name != "call"}
