"""
One call on its way to the platform: held back, resolved, answered by an earlier run or asked for, and each step noted first.

    {"kind": "child", "key": …, "function": …, …}    before the platform is asked
    {"kind": "child", "key": …, "call": …, …}        what it answered; again, when that changes (`callnotes.py`)

All lines of one key are one call (`record.calls`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from libsafe_nb import asking, declared, errors, references
from libsafe_nb.callnotes import CallNotes
from libsafe_nb.drafts import Draft, Find, Order
from libsafe_nb.errors import Conflict, LibsafeError, PlatformError, StorageUnreachable, Unreachable
from libsafe_nb.holding import FULL
from libsafe_nb.recordedcalls import ENDED, FACTS, OF_RECORD, RecordedCalls, Shape, told_again

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.redact.matching import SecretSet
    from libsafe_nb.reuse import Answer


class Past(Protocol):
    """What earlier runs have done of this one's work (`past.py`)."""

    def earlier(self, order: Order) -> Answer:
        """The earlier run that stands for a call that may be reused, or why there is none."""

    def ask(self, order: Order, make: Callable[[str], Shape]) -> Shape:
        """Have a call made under the key that it chooses, or answered by the one that an interrupted run made."""

    def release(self, number: int) -> None:
        """The next call of this one's kind has its key: nobody answered, and its caller was told that there is none."""


@dataclass(frozen=True)
class Caller:
    """
    Who makes calls, and what it makes them with.

    Attributes
    ----------
    run
        The run's id; None for a process that is no run.
    find
        The call of a key, of those that it has made.
    tell
        Where events go.
    recorded
        What answers in a replay; None where the platform is asked.
    past
        None where each call is made anew.
    """

    run: str | None
    secrets: SecretSet
    find: Find
    tell: Callable[[Shape], None]
    notes: CallNotes
    recorded: RecordedCalls | None
    past: Past | None


class Making:
    """
    Parameters
    ----------
    client
        Of the one who makes the call, with the job whose child it becomes.
    """

    def __init__(self, caller: Caller, client: Callable[[], Client], draft: Draft) -> None:
        self._caller, self._client, self._draft = caller, client, draft
        self._told = False
        self._asked_once = False
        self.doubtful = False
        """Whether the platform may have made it though it has not answered."""
        self._refused_as: str | None = None
        """What was told last of why it was not taken."""
        self._shown: Shape | None = None
        """The parameters as the record has them so far."""

    def tell_held(self) -> None:
        """
        Written down as held back.

        Raises
        ------
        LibsafeError
            What the platform would say of it already: no such function, one that is disabled, parameters that it does
            not take.
        """
        draft, client = self._draft, self._client()
        event = draft.event(self._caller.find, status="held")
        try:
            about = asking.about_function(client, draft.function, draft.version)
        except Unreachable:
            # It is asked for later.
            about = {}
        if not about.get("enabled", True):
            raise Conflict(f"function {draft.function} is disabled")
        if about:
            filled = {each["at"][0] for each in draft.scraps}
            plain = {name: value for name, value in draft.params.items() if name not in filled}
            handler = about.get("kind") == "handler"
            declared.check_queued(draft.function, about.get("parameters", ()), plain, handler=handler)
        self._shown = asking.tellable_of(about, event["params"])
        self._caller.tell({**event, "params": self._shown})
        self._told = True

    def start(self) -> Shape:
        """As `Held.start`: notes it, has it made, notes what the platform says."""
        caller, draft = self._caller, self._draft
        error = draft.blocked(caller.find) if caller.recorded is None else None
        if error is not None:
            found = {"status": "cancelled", "error": error}
            caller.tell({**self._first("cancelled"), **found})
            return found
        try:
            if caller.recorded is not None:
                return self._as_recorded(caller.recorded)
            return self._made(draft.order(caller.find, caller.notes.wrote))
        except LibsafeError as exc:
            if self._told:
                self._refused(exc)
            raise

    def _made(self, order: Order) -> Shape:
        caller, key = self._caller, self._draft.key
        if self._draft.scraps:
            asking.refuse_keys(caller.secrets, order.function, order.params)
            # What others have glued may be long.
            references.check_values(order.params)
        given = dict(order.params)
        found, looked = self._earlier(order)
        event = {**self._first("asked"), "files": len(order.files), **looked}
        if found is not None:
            # Nobody reuses a function that takes secrets.
            caller.tell({**event, "params": given})
            caller.notes.note(key, found)
            return found
        if self._shown is None or self._draft.scraps:
            self._shown = event["params"] = asking.tellable(
                self._client(), order.function, given, order.version
            )
        if not self._asked_once:
            caller.tell(event)
            self._asked_once = True
        self.doubtful = True
        try:
            made = self._asked(order)
        except LibsafeError as exc:
            self.doubtful = isinstance(exc, Unreachable) and exc.status != FULL
            raise
        self.doubtful = False
        if self._shown != given:
            # The platform took them, so none is a secret.
            caller.tell({"kind": "child", "key": key, "params": given})
        caller.notes.note(key, made)
        if made["status"] not in ENDED:
            return made
        # One that an interrupted run made, or that was asked for before.
        try:
            return {**made, **caller.notes.seen(made["call"], asking.look)}
        except asking.Unreadable:
            # Looked after like any other.
            return {**made, "status": "running"}

    def _earlier(self, order: Order) -> tuple[Shape | None, Shape]:
        """
        What an earlier run's record tells of the same call, as `look` tells of one that has ended, or None to have it run; and
        what the record says of that.

        Asked just before the call would be made, with all that it refers to resolved.
        """
        if order.reuse is None or self._caller.past is None:
            return None, {}
        answer = self._caller.past.earlier(order)
        looked: Shape = {"fingerprint": answer.fingerprint, "not_reused": answer.why or None}
        if answer.earlier is None:
            return None, looked
        facts = answer.earlier.facts
        found: Shape = {name: facts.get(name) for name in (*FACTS, "reused")}
        return {**found, "scraps": answer.earlier.scraps}, looked

    def _asked(self, order: Order) -> Shape:
        caller = self._caller

        def make(idempotency_key: str) -> Shape:
            return asking.ask(
                self._client(),
                order.function,
                container=order.container,
                files=order.files,
                params=order.params,
                version=order.version,
                priority=order.priority,
                timeout=order.timeout,
                attempts=None if order.retries is None else order.retries + 1,
                run=caller.run,
                key=idempotency_key,
            )

        return make(self._draft.key) if caller.past is None else caller.past.ask(order, make)

    def _first(self, status: str) -> Shape:
        """The event with all that is known, if none was told yet."""
        if self._told:
            return {"kind": "child", "key": self._draft.key, "status": status}
        self._told = True
        return self._draft.event(self._caller.find, status=status)

    def _refused(self, exc: LibsafeError) -> None:
        away = isinstance(exc, (Unreachable, StorageUnreachable))
        # Where nobody answered it may have been made all the same.
        status = "held" if getattr(exc, "status", None) == FULL else "asked" if away else "refused"
        if status == self._refused_as:
            # A full queue is asked ten times a second.
            return
        self._refused_as = status
        error = {"type": type(exc).__name__, "message": str(exc), "cell_id": None}
        self._caller.tell({"kind": "child", "key": self._draft.key, "status": status, "error": error})

    def _as_recorded(self, recorded: RecordedCalls) -> Shape:
        """In a replay: as it was in the recorded run, which also says what it takes of others."""
        caller, draft = self._caller, self._draft
        event = self._first("asked")
        for entry in (caller.find(key).found.get("entry") for key in draft.uses):
            if entry is not None:
                # Of a call that had not ended nothing is known: that is said here.
                recorded.told(entry)
        if draft.blocked(caller.find) is None:
            order = draft.order(caller.find, lambda held: held.found["entry"].get("wrote") or ())
            event |= {"files": len(order.files), "params": dict(order.params)}
        found = recorded.take(event)
        told = told_again(event["params"], found)
        facts = {name: found.get(name) for name in (*FACTS, *OF_RECORD)}
        caller.tell({**event, **facts, "params": told, "stubbed": True})
        if found.get("status") == "refused" and not draft.before:
            error = found.get("error") or {}
            kind = getattr(errors, str(error.get("type")), PlatformError)
            raise kind(str(error.get("message")))
        # One that went on to the end of the recorded run counts as ended here: what is asked of it is refused.
        return {
            **{name: found.get(name) for name in ("call", "job", "version", "status", "error", "evidence")},
            "scraps": found.get("scraps"),
            "entry": found,
            "over": True,
        }
