"""
Calls that a function makes of other functions, on the runner's side: the words of the door, and what a run asks of its calls.

Each has a key in its caller's run, by which its events tell of it. The platform knows it by another key, of what it asks for
and which of its kind it is: so a repetition within this run makes no second call, nor does a run that goes on after this one
(`past.py`). What a call refers to is resolved just before it is asked for (`drafts.py`); `holding.py` knows when that is,
`making.py` how it is asked for, `callnotes.py` what has become of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from libsafe_nb import asking
from libsafe_nb.bypath import ByPath, Publish
from libsafe_nb.callnotes import CallNotes, kept
from libsafe_nb.drafts import Draft
from libsafe_nb.errors import Conflict, LibsafeError, UsageError
from libsafe_nb.functions import Functions, key_by_path
from libsafe_nb.holding import LONGEST_WAIT, MOST, Held, Holding, said
from libsafe_nb.making import Caller, Making, Past
from libsafe_nb.recordedcalls import ENDED, RecordedCalls, Shape

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.models import Replay
    from libsafe_nb.redact.matching import SecretSet


class Children:
    """
    The calls of one run, or of a process that is none. Thread-safe.

    Parameters
    ----------
    client
        With the run's job, whose children they become.
    run
        The run's id, or another name of which nobody has a second.
    container
        Where a call works that names no other.
    tell
        Where events go.
    read
        The bytes of a container's object, for the records of the called runs; None where they are not looked at.
    publish
        For functions that are called by their path.
    beside
        The folder, or the address, in which a path is looked for that the caller does not find; None for none.
    in_run
        False for a process that is no run.
    past
        None where each call is made anew.

    Attributes
    ----------
    known
        The words that the door knows.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        *,
        run: str,
        container: str,
        secrets: SecretSet,
        replay: Replay | None,
        tell: Callable[[Shape], None],
        read: Callable[[str, str], bytes] | None = None,
        publish: Publish | None = None,
        beside: str | None = None,
        past: Past | None = None,
        in_run: bool = True,
    ) -> None:
        self._client, self._run, self._container = client, run, container
        self._secrets, self._past, self._in_run = secrets, past, in_run
        self._recorded = RecordedCalls(replay.calls) if replay is not None and replay.stub else None
        self._lock = threading.Lock()
        self._made = 0
        self._by_path = ByPath(publish, read, beside)
        self._notes = CallNotes(client, tell, read, in_replay=self._recorded is not None)
        self._caller = Caller(
            run if in_run else None, secrets, self._find, tell, self._notes, self._recorded, past
        )
        self._holding = Holding(
            ends=self._ends,
            wake=lambda question: Functions(self._client()).hurry(question),
            cancel=lambda call: self._notes.seen(call, asking.cancel),
            tell=lambda held, found: tell({"kind": "child", "key": held.key, **kept(found)}),
        )
        self.known: dict[str, Callable[..., Any]] = {
            "call": self._call,
            "call_known": self._known,
            "call_get": self._get,
            "call_wait": self._wait,
            "call_cancel": self._cancel,
        }

    # Made

    def _call(self, **fields: Any) -> Shape:
        return self.make(self._client, **fields)

    def make(
        self,
        client: Callable[[], Client],
        *,
        function: str,
        code: Mapping[str, str] | None = None,
        container: str | None = None,
        files: Sequence[Any] = (),
        params: Mapping[str, Any] | None = None,
        scraps: Sequence[Mapping[str, Any]] = (),
        after: Sequence[str] = (),
        version: int | None = None,
        priority: int = 0,
        timeout: float | None = None,
        retries: int | None = None,
        reuse: str | None = None,
        on_failure: str = "continue",
    ) -> Shape:
        """
        Make a call, or hold it back; `key`, and of the platform's answer what there is.

        Parameters
        ----------
        code
            Of a function that is called by its path: its file's `name`, and its bytes as `data` (base64) or where they are
            found, as `address` (`libsafe://…`) or `path`.
        files, params, scraps, after
            As in `Draft`.

        Raises
        ------
        LibsafeError
            The platform would not take it, or nobody answered; of one that is held back what can be told beforehand.
        """
        asking.refuse_keys(self._secrets, function, params)
        if code is not None:
            if self._recorded is not None:
                function, version = key_by_path(code["name"]), None
            else:
                function, version = self._by_path.publish(client(), code)
        self._refuse_more(function)
        named = [each["call"] for each in (*files, *scraps) if not isinstance(each, str)]
        for each in (*named, *after):
            if self._holding.get(each) is None:
                raise UsageError(
                    f"call of {function}: it refers to a call of another run or process ({each})"
                )
        with self._lock:
            if self._made >= MOST:
                raise UsageError(
                    f"call of {function}: expected at most {MOST:,} calls of one run, got one more; give a call several files"
                )
            self._made += 1
            number = self._made
        draft = Draft(
            self._name(number),
            number,
            function,
            container or self._container,
            files,
            dict(params or {}),
            scraps,
            after,
            version,
            priority,
            timeout,
            retries,
            reuse,
            on_failure,
        )
        making = Making(self._caller, client, draft)
        held = Held(
            draft.key,
            number,
            function,
            draft.before,
            on_failure == "stop",
            making.start,
            lambda: making.doubtful,
            {**_NOT_MADE, "container": draft.container},
        )
        if self._recorded is None and not all(self._find(key).state == "ended" for key in draft.before):
            making.tell_held()
        try:
            self._holding.add(held)
        except LibsafeError:
            if making.doubtful and self._past is not None:
                self._past.release(number)
            raise
        told = {name: held.found.get(name) for name in ("call", "job", "version", "status")}
        return {**told, "key": draft.key, "container": draft.container}

    def _refuse_more(self, function: str) -> None:
        # In a replay all that was called is known to have ended as soon as it is called.
        if self._holding.stopped is not None and (self._recorded is None or not self._recorded.has(function)):
            raise Conflict(
                f"no further call is made: {said(self._holding.stopped)}, and its on_failure is stop"
            )

    def _find(self, key: str) -> Held:
        held = self._holding.get(key)
        assert held is not None
        return held

    def _name(self, number: int) -> str:
        """By which a call of this run is known, in its events too."""
        return f"{self._run}/call-{number}"

    # Asked about

    def adopt(self, call: str) -> Shape:
        """Look after a call that another process made, by the platform's number, as after one of its own; its key is the number."""
        found = Functions(self._client()).get_call(call)
        about = {"call": call, "function": found["function"], "container": found["container_id"]}
        if not self.has(call):
            with self._lock:
                self._made += 1
                number = self._made

            def start() -> Shape:
                return {**self._notes.seen(call, asking.look), **about}

            self._holding.add(Held(call, number, found["function"], frozenset(), False, start))
        return {**about, "job": found["job_id"]}

    def _known(self, *, call: str) -> Shape:
        """Of a call of this run what does not change."""
        held = self._holding.get(call)
        if held is None:
            raise UsageError(f"this run has made no call {call[:80]!r}")
        return {"function": held.function, "container": held.found.get("container")}

    def has(self, key: str) -> bool:
        return self._holding.get(key) is not None

    def _get(self, *, call: str) -> Shape:
        held = self._holding.get(call)
        if held is None:
            return (
                self._recorded.get(call)
                if self._recorded is not None
                else self._notes.seen(call, asking.look)
            )
        if held.state == "open" and held.id is not None:
            found = self._notes.seen(held.id, asking.look)
            if found["status"] in ENDED:
                self._holding.end(held, found)
            else:
                return {**self._reply(held), **found}
        return self._reply(held)

    def _wait(self, *, call: str, seconds: float) -> Shape:
        """What became of it, within so many seconds or a minute; with `outputs` if it has ended."""
        held = self._holding.get(call)
        if held is None and self._recorded is None and not self._in_run:
            # Of another process: looked after from now on, so that it is waited for and its outputs are told.
            self.adopt(call)
            held = self._holding.get(call)
        if held is None:
            return self._get(call=call)
        if self._holding.wait(held, min(seconds, LONGEST_WAIT)):
            return {**self._reply(held), "outputs": self._notes.outputs(held)}
        return self._reply(held)

    def _cancel(self, *, call: str) -> Shape:
        if self._recorded is not None:
            return self._get(call=call)
        held = self._holding.get(call)
        if held is None:
            return self._notes.seen(call, asking.cancel)
        error = {"type": "Queue", "message": "the call was cancelled", "cell_id": None}
        self._holding.cancel(held, error)
        return self._reply(held)

    def _reply(self, held: Held) -> Shape:
        """What a caller is told of a call."""
        if self._recorded is not None and held.found.get("entry") is not None:
            entry = held.found["entry"]
            return {
                **self._recorded.told(entry),
                "call": entry.get("call"),
                "container": entry.get("container"),
            }
        return dict(held.found)

    # Looked after

    def _ends(
        self, calls: Sequence[str], seconds: float, question: str
    ) -> Iterator[tuple[str, Shape | LibsafeError]]:
        client = self._client()
        for each in Functions(client).look(calls, ended=True, wait=seconds, question=question):
            try:
                call = str(each["id"])
            except (LookupError, TypeError):
                # Of no call that is asked about.
                continue
            try:
                yield call, self._notes.saw(call, asking.seen(client, each, each.get("job")))
            except asking.Unreadable as exc:
                yield call, exc

    # At the end

    @property
    def stopped(self) -> Shape | None:
        """Why this run has failed whatever its notebook says: a call did whose `on_failure` is stop."""
        held = self._holding.stopped
        if held is None:
            return None
        return {"type": "CallFailed", "message": f"{said(held)}, and its on_failure is stop", "cell_id": None}

    def wait_for_all(self, seconds: float | None, unless: Callable[[], bool]) -> bool:
        """Whether all calls have ended within so many seconds (None: however long it takes), and before `unless` says so."""
        return self._holding.wait_for_all(seconds, unless)

    def wait_for_held(self) -> None:
        """Until no call is held back."""
        self._holding.wait_for_held()

    def cancel_all(self, why: str) -> None:
        """Cancel all calls that have not ended; one whose answer was lost has some seconds to be found again."""
        self._holding.cancel_all({"type": "RunCancelled", "message": why, "cell_id": None})
        self._holding.wait_for_doubtful(DOUBT)

    def settle(self, unless: Callable[[], bool] = lambda: False) -> None:
        """At the run's end, as `CallNotes.settle`."""
        self._notes.settle(unless)

    def close(self) -> None:
        """Look after no call any more."""
        self._holding.close()


DOUBT = 3.0
"""Seconds in which a call of which nobody knows whether it was made is asked for again, to be cancelled."""
_NOT_MADE = {"status": "held", "call": None, "job": None}
