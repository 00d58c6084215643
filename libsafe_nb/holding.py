"""
The calls of one run, or of one process, that have not ended: held back until they may be made, and looked after.

    held ─ what it depends on has ended ─▶ open ─▶ ended
      └─ that did not complete; it was cancelled; the platform would not take it ─▶ ended

One thread asks the platform which of the open calls have ended, all in one question that the platform answers when there
is something to say. Whoever learns of an end starts what waited for it. What a call needs of another is for `start`
(`making.py`); here is only when.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from libsafe_nb.errors import LibsafeError, StorageUnreachable, Unreachable
from libsafe_nb.record import name_of
from libsafe_nb.recordedcalls import ENDED

LONG, SHORT = 10.0, 0.2
"""Seconds that the platform may wait before it answers that nothing has ended; the short one soon after a call was made."""
AGAIN = 1.0
"""Seconds after which a call is asked for again that could not be made yet; and after a question that nobody answered."""
MOST = 10_000
"""Calls that one run may make."""
SENSELESS = 60.0
"""Seconds after which a call of whose end the platform tells what makes no sense is given up."""
LONGEST_WAIT = 60.0
"""Seconds after which whoever waits for a call's end asks again."""
FULL = 429
"""What a platform answers when so many calls of a function wait that it takes no further one."""

Shape = dict[str, Any]


@dataclass(eq=False)
class Held:
    """
    One call.

    Attributes
    ----------
    key
        By which the caller knows it.
    number
        Which call of its caller it is.
    before
        Keys of the calls that must have ended first.
    stops
        Its failure stops all others.
    start
        Asks the platform for it; answers what is known of it. That may be how it ended; `over` says so where its status does
        not. Called again if nobody answered.
    doubtful
        Whether the platform may have made it though no answer came back. Such a call is asked for again, under its key, also
        to be cancelled.
    found
        What is known of it by now.
    """

    key: str
    number: int
    function: str
    before: frozenset[str]
    stops: bool
    start: Callable[[], Shape]
    doubtful: Callable[[], bool] = lambda: False
    found: Shape = field(default_factory=lambda: {"status": "held"})
    state: str = "held"
    cancelled: Shape | None = None
    """The error with which it ends, once it is to be cancelled."""
    senseless_since: float | None = None
    """When it was first told, by `time.monotonic`, that it had ended and not how."""
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> str | None:
        found = self.found.get("call")
        return None if found is None else str(found)

    @property
    def completed(self) -> bool:
        return self.state == "ended" and self.found.get("status") == "completed"


class Holding:
    """
    Thread-safe.

    Parameters
    ----------
    ends
        Of these calls, by the platform's numbers, those that have ended, each with what became of it, or with the error that says
        why that cannot be read; it may wait for so many seconds. The last is a name for this question.
    wake
        Has the question of this name answered at once; from another thread, and perhaps before it has arrived.
    tell
        Where it is told what became of a call that the platform was not asked for, or would not take.
    cancel
        Cancels a call of the platform's number, and answers what became of it.
    """

    def __init__(
        self,
        *,
        ends: Callable[[Sequence[str], float, str], Iterable[tuple[str, Shape | LibsafeError]]],
        wake: Callable[[str], None],
        tell: Callable[[Held, Shape], None],
        cancel: Callable[[str], Shape],
    ) -> None:
        self._ends, self._wake, self._tell, self._cancel = ends, wake, tell, cancel
        self._changed = threading.Condition()
        self._calls: dict[str, Held] = {}
        self._open: dict[str, Held] = {}
        """Those that the platform has, by its number."""
        self._following: dict[str, list[Held]] = {}
        """By a call's key those that wait for it."""
        self._ready: deque[Held] = deque()
        self._later: deque[Held] = deque()
        """Those that could not be made yet, as nobody answered or too many wait."""
        self._left = 0
        self._last_made = 0.0
        self._question: str | None = None
        """The name of the long one that the platform has at present."""
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self.stopped: Held | None = None
        """The call whose failure stopped all others."""

    def close(self) -> None:
        """Look after nothing any more; whoever waits for a call's end is let go."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            for held in self._calls.values():
                held.ended.set()
        self._hurry()

    def get(self, key: str) -> Held | None:
        with self._changed:
            return self._calls.get(key)

    def of_call(self, call: str) -> Held | None:
        """The open call of the platform's number."""
        with self._changed:
            return self._open.get(call)

    @property
    def idle(self) -> bool:
        return self._left == 0

    def add(self, held: Held) -> None:
        """
        Take a call: asked for at once, or when what it depends on has ended.

        Raises
        ------
        LibsafeError
            The platform would not take it, or nobody answered; then there is no such call. One that is not asked for at
            once ends as `refused` in the first case, and is asked for again in the second.
        """
        with self._changed:
            self._calls[held.key] = held
            self._left += 1
            waiting = [key for key in held.before if self._calls[key].state != "ended"]
            for key in waiting:
                self._following.setdefault(key, []).append(held)
            if not waiting:
                held.state = "starting"
            self._begin()
        if not waiting:
            try:
                found = held.start()
            except BaseException as exc:
                if not (isinstance(exc, LibsafeError) and _is_full(exc)):
                    with self._changed:
                        held.found = {**held.found, "status": "refused"}
                        self._leave(held)
                    raise
                self._put_off(held)
            else:
                self._started(held, found)
                self._start_ready()

    def wait(self, held: Held, seconds: float) -> bool:
        """Whether it has ended within so many seconds."""
        return held.ended.wait(seconds) and held.state == "ended"

    def wait_for_all(self, seconds: float | None, unless: Callable[[], bool]) -> bool:
        """Whether all have ended within so many seconds; looks every tenth of a second whether it need not wait any more."""
        deadline = None if seconds is None else time.monotonic() + seconds
        with self._changed:
            while self._left:
                if (
                    unless()
                    or self._closing.is_set()
                    or (deadline is not None and time.monotonic() >= deadline)
                ):
                    return False
                self._changed.wait(0.1)
        return True

    def end(self, held: Held, found: Shape) -> None:
        """What became of a call is known; starts what waited for it."""
        self._end(held, found)
        self._start_ready()

    def wait_for_held(self) -> None:
        """Until all have been asked for, or never will be."""
        with self._changed:
            while any(each.state in ("held", "starting") for each in self._calls.values()):
                self._changed.wait()

    def wait_for_doubtful(self, seconds: float) -> None:
        """Until those of which no answer came back have ended, or so many seconds."""
        deadline = time.monotonic() + seconds
        with self._changed:
            left = [each for each in self._calls.values() if each.state != "ended" and each.doubtful()]
        for held in left:
            held.ended.wait(max(0.0, deadline - time.monotonic()))

    def cancel(self, held: Held, error: Shape) -> None:
        """Cancel a call; one that was held back ends with this error and is never made."""
        with self._changed:
            if held.state == "ended":
                return
            held.cancelled = held.cancelled or error
            # A doubtful one is asked for again by the thread, and cancelled when its answer comes.
            mine, call = held.state == "held" and not held.doubtful(), held.id
            if mine:
                held.state = "starting"
        if mine:
            self._start(held)
            self._start_ready()
        elif call is not None:
            found = self._cancel(call)
            if found["status"] in ENDED:
                self.end(held, found)

    def cancel_all(self, error: Shape, *, besides: Held | None = None) -> None:
        """Cancel what has not ended, as far as the platform can be told; that of a job that is cancelled it ends by itself."""
        with self._changed:
            left = [each for each in self._calls.values() if each.state != "ended" and each is not besides]
            for held in left:
                # All at first: the end of one must start no other.
                held.cancelled = held.cancelled or error
        for held in left:
            try:
                self.cancel(held, error)
            except (Unreachable, StorageUnreachable):
                return
            except LibsafeError:
                continue

    # How a call goes on

    def _start_ready(self) -> None:
        # In a loop, not from end to end: a chain may have 10,000 calls.
        while True:
            with self._changed:
                held = self._ready.popleft() if self._ready else None
            if held is None:
                return
            self._start(held)

    def _start(self, held: Held) -> bool:
        """Whether it was settled: not if it is to be tried again."""
        if held.cancelled is not None and not held.doubtful():
            self._not_made(held, "cancelled", held.cancelled)
            return True
        try:
            found = held.start()
        except (Unreachable, StorageUnreachable):
            self._put_off(held)
            return False
        except BaseException as exc:
            self._not_made(
                held, "refused", {"type": type(exc).__name__, "message": str(exc), "cell_id": None}
            )
            if not isinstance(exc, Exception):
                raise
        else:
            self._started(held, found)
        return True

    def _not_made(self, held: Held, status: str, error: Shape) -> None:
        """It ends, also where that cannot be told."""
        found = {"status": status, "error": error}
        try:
            self._tell(held, found)
        finally:
            self._end(held, found)

    def _started(self, held: Held, found: Shape) -> None:
        if found["status"] in ENDED or found.get("over"):
            self._end(held, found)
            return
        with self._changed:
            held.found, held.state = {**held.found, **found}, "open"
            self._open[str(found["call"])] = held
            self._last_made = time.monotonic()
            self._changed.notify_all()
        self._hurry()
        if held.cancelled is not None:
            with contextlib.suppress(LibsafeError):
                self.cancel(held, held.cancelled)

    def _put_off(self, held: Held) -> None:
        with self._changed:
            held.state = "held"
            self._later.append(held)
            self._changed.notify_all()
        self._hurry()

    def _end(self, held: Held, found: Shape) -> None:
        with self._changed:
            if held.state == "ended":
                return
            held.found = {**held.found, **found}
            self._leave(held)
            for each in self._following.pop(held.key, ()):
                if each.state == "held" and all(self._calls[key].state == "ended" for key in each.before):
                    each.state = "starting"
                    self._ready.append(each)
            failed = held.found["status"] != "completed" and held.cancelled is None
            stops = held.stops and failed and self.stopped is None
            if stops:
                self.stopped = held
        if stops:
            self.cancel_all(_stopped(held), besides=held)

    def _leave(self, held: Held) -> None:
        """It has ended; the caller holds the lock."""
        held.state = "ended"
        self._open.pop(str(held.id), None)
        self._left -= 1
        held.ended.set()
        self._changed.notify_all()

    # The thread

    def _begin(self) -> None:
        """The caller holds the lock."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._look_after, name="calls", daemon=True)
            self._thread.start()

    def _look_after(self) -> None:
        while True:
            with self._changed:
                while not self._closing.is_set() and self._left:
                    if self._open or self._later or self._ready:
                        break
                    self._changed.wait()
                if self._closing.is_set() or not self._left:
                    self._thread = None
                    return
                calls = list(self._open)
                soon = self._later or time.monotonic() - self._last_made < AGAIN
                question = uuid.uuid4().hex
                self._question = None if soon else question
            try:
                if calls:
                    self._see(calls, question, soon=bool(soon))
                self._try_again(pause=not calls)
            except Exception:
                # Whatever it is, and be it a fault of ours: those who wait for an end are not left alone.
                self._closing.wait(AGAIN)
            finally:
                self._question = None

    def _see(self, calls: Sequence[str], question: str, *, soon: bool) -> None:
        """End those of these calls that have ended; waits for one of them, or until it is hurried."""
        asked, answered = time.monotonic(), False
        for call, found in self._ends(calls, SHORT if soon else LONG, question):
            answered = answered or not isinstance(found, LibsafeError)
            held = self.of_call(call)
            if held is None:
                # Whoever asked about it alone has learned of its end before.
                continue
            if isinstance(found, LibsafeError):
                self._senseless(held, found)
            else:
                self.end(held, found)
        hurried = not soon and self._question is None
        if not answered and not hurried and time.monotonic() - asked < SHORT / 2:
            # The platform knows none of them any more, perhaps, or tells nonsense: it has nothing to wait for.
            self._closing.wait(AGAIN)

    def _senseless(self, held: Held, exc: LibsafeError) -> None:
        """Nobody can tell how it ended; asked again for a while."""
        now = time.monotonic()
        if held.senseless_since is None:
            held.senseless_since = now
        if now - held.senseless_since >= SENSELESS:
            self._not_made(held, "dead", {"type": type(exc).__name__, "message": str(exc), "cell_id": None})
            self._start_ready()

    def _try_again(self, *, pause: bool) -> None:
        if self._later and pause:
            self._closing.wait(AGAIN)
        full: set[str] = set()
        for _ in range(len(self._later)):
            with self._changed:
                held = self._later.popleft()
                if held.state != "held":
                    continue
                if held.function in full or self._closing.is_set():
                    # Where one finds no room, or nobody answers, the others of that function need not ask.
                    self._later.append(held)
                    continue
                held.state = "starting"
            if not self._start(held):
                full.add(held.function)
        self._start_ready()

    def _hurry(self) -> None:
        """Have the thread see what has changed."""
        with self._changed:
            question, self._question = self._question, None
        if question is not None:
            with contextlib.suppress(LibsafeError):
                self._wake(question)


def _is_full(exc: LibsafeError) -> bool:
    return isinstance(exc, Unreachable) and exc.status == FULL


def _stopped(held: Held) -> Shape:
    return {
        "type": "CallFailed",
        "message": f"not made, as {said(held)}, and its on_failure is stop",
        "cell_id": None,
    }


def said(held: Held) -> str:
    """A call and how it ended, for a sentence: `call 3 (count) failed: ValueError: no`."""
    error = held.found.get("error") or {}
    why = f": {error.get('type')}: {error.get('message')}" if error else ""
    return (
        f"call {held.number} ({name_of(held.function)}) {_VERBS.get(str(held.found['status']), 'ended')}{why}"
    )


_VERBS = {
    "completed": "completed",
    "failed": "failed",
    "cancelled": "was cancelled",
    "dead": "could not be executed",
    "refused": "was refused",
}
