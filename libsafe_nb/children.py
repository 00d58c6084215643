"""
Calls that a function makes of other functions, on the runner's side: asked for, looked after, and noted.

    {"kind": "child", "key": …, "function": …, …}    before the platform is asked
    {"kind": "child", "key": …, "call": …, …}        what it answered; again, when what is known of the call changes

All lines of one key are one call (`record.calls`). The platform knows a call by another key, of what it asks for and which of
its kind it is: so a repetition within this run makes no second call, nor does a run that goes on after this one (`past.py`).
What a call refers to is resolved just before it is asked for (`drafts.py`); `holding.py` knows when that is.
"""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from libsafe_nb import asking, declared, errors, evidence, linkage, record, references
from libsafe_nb.drafts import Draft, Order
from libsafe_nb.errors import (
    Conflict,
    LibsafeError,
    NotebookError,
    ObjectNotFound,
    PlatformError,
    StorageUnreachable,
    Unreachable,
    UsageError,
)
from libsafe_nb.functions import Functions, key_by_path
from libsafe_nb.holding import FULL, LONGEST_WAIT, MOST, Held, Holding, said
from libsafe_nb.recordedcalls import (
    ENDED,
    FACTS,
    OF_RECORD,
    RecordedCalls,
    Shape,
    told_again,
)

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.models import Replay
    from libsafe_nb.redact.matching import SecretSet
    from libsafe_nb.reuse import Answer

Publish = Callable[["Client", str, bytes, str], Mapping[str, Any]]
"""Publishes a function that is called by its path: its key, its bytes and its file's name; answers its `version`."""


class Past(Protocol):
    """What earlier runs have done of this one's work (`past.py`)."""

    def earlier(self, order: Order) -> Answer:
        """The earlier run that stands for a call that may be reused, or why there is none."""

    def ask(self, order: Order, make: Callable[[str], Shape]) -> Shape:
        """Have a call made under the key that it chooses, or answered by the one that an interrupted run made."""

    def release(self, number: int) -> None:
        """The next call of this one's kind has its key: nobody answered, and its caller was told that there is none."""


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
        self._secrets, self._tell, self._read, self._past = secrets, tell, read, past
        self._publish, self._beside, self._in_run = publish, beside, in_run
        self._recorded = RecordedCalls(replay.calls) if replay is not None and replay.stub else None
        self._lock = threading.Lock()
        self._made = 0
        self._last: dict[str, tuple[str, Shape]] = {}
        self._unread: set[str] = set()
        self._away = False
        self._wrote: dict[str, list[Shape]] = {}
        """By a call's key all that it wrote."""
        self._versions: dict[tuple[str, str], int] = {}
        """Of functions that were called by their path, by key and digest."""
        self._publishing = threading.Lock()
        self._holding = Holding(
            ends=self._ends,
            wake=lambda question: Functions(self._client()).hurry(question),
            cancel=lambda call: self._seen(call, asking.cancel),
            tell=lambda held, found: self._tell({"kind": "child", "key": held.key, **_kept(found)}),
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
            function, version = self._by_path(client, code)
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
        making = _Making(self, client, draft)
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

    def _answered_earlier(self, order: Order) -> tuple[Shape | None, Shape]:
        """
        What an earlier run's record tells of the same call, as `look` tells of one that has ended, or None to have it run; and
        what the record says of that.

        Asked just before the call would be made, with all that it refers to resolved.
        """
        if order.reuse is None or self._past is None:
            return None, {}
        answer = self._past.earlier(order)
        looked: Shape = {"fingerprint": answer.fingerprint, "not_reused": answer.why or None}
        if answer.earlier is None:
            return None, looked
        facts = answer.earlier.facts
        found: Shape = {name: facts.get(name) for name in (*FACTS, "reused")}
        return {**found, "scraps": answer.earlier.scraps}, looked

    def _by_path(self, client: Callable[[], Client], code: Mapping[str, str]) -> tuple[str, int | None]:
        """Key and version of a function that is called by its path; its bytes are read once, and published."""
        key = key_by_path(code["name"])
        if self._recorded is not None:
            return key, None
        data = self._code(code)
        sha256 = record.digest(data)
        with self._publishing:
            if (key, sha256) not in self._versions:
                assert self._publish is not None
                self._versions[key, sha256] = int(self._publish(client(), key, data, code["name"])["version"])
            return key, self._versions[key, sha256]

    def _code(self, code: Mapping[str, str]) -> bytes:
        if "data" in code:
            return base64.b64decode(code["data"])
        address = code.get("address")
        if address is None:
            if self._beside is None:
                raise NotebookError(f"{code['path']}: there is no such notebook", notebook=code["path"])
            if not self._beside.startswith("libsafe://"):
                try:
                    return (Path(self._beside) / code["path"]).read_bytes()
                except OSError as exc:
                    raise NotebookError(
                        f"{code['path']}: cannot be read, neither from the working directory nor from where the caller's"
                        f" notebook lies ({exc.strerror or exc})",
                        notebook=code["path"],
                    ) from exc
            address = f"{self._beside}/{code['path'].removeprefix('./')}"
        container, _, path = address.removeprefix("libsafe://").partition("/")
        if not (container.isascii() and container.isdecimal() and path):
            raise NotebookError(
                f"{address}: expected libsafe://CONTAINER/path of a notebook", notebook=address
            )
        assert self._read is not None
        try:
            return self._read(container, path)
        except ObjectNotFound as exc:
            raise NotebookError(f"{address}: there is no such notebook", notebook=address) from exc

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
                return {**self._seen(call, asking.look), **about}

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
            return self._recorded.get(call) if self._recorded is not None else self._seen(call, asking.look)
        if held.state == "open" and held.id is not None:
            found = self._seen(held.id, asking.look)
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
            return {**self._reply(held), "outputs": self._outputs(held)}
        return self._reply(held)

    def _cancel(self, *, call: str) -> Shape:
        if self._recorded is not None:
            return self._get(call=call)
        held = self._holding.get(call)
        if held is None:
            return self._seen(call, asking.cancel)
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

    def _all_outputs(self, held: Held) -> list[Shape]:
        """
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

    def _outputs(self, held: Held) -> list[Shape]:
        """The files that it wrote, each once, with their ids as far as the platform tells them."""
        found = [dict(each) for each in references.fitting(self._all_outputs(held), None)]
        missing: dict[str, list[Shape]] = {}
        for each in found:
            each["path"] = references.slashed(each["path"])
            if "id" not in each:
                missing.setdefault(str(each["container"]), []).append(each)
        for container, files in missing.items():
            ids: dict[str, str] = {}
            if self._recorded is None:
                with contextlib.suppress(PlatformError):
                    ids = asking.ids_of(self._client(), container, [each["path"] for each in files])
            for each in files:
                each["id"] = ids.get(each["path"])
        self._wrote[held.key] = found
        return found

    # Looked after

    def _ends(self, calls: Sequence[str], seconds: float, question: str) -> Iterator[tuple[str, Shape]]:
        client = self._client()
        wrong: Exception | None = None
        for each in Functions(client).look(calls, ended=True, wait=seconds, question=question):
            try:
                found = asking.seen(client, each, each["job"])
            except (LookupError, TypeError, ValueError) as exc:
                # An answer that makes no sense keeps no other call from its end.
                wrong = exc
                continue
            yield each["id"], self._saw(each["id"], found)
        if wrong is not None:
            raise wrong

    def _seen(self, call: str, what: Callable[[Client, str], Shape]) -> Shape:
        return self._saw(call, what(self._client(), call))

    def _saw(self, call: str, found: Shape) -> Shape:
        """Note what has become of a call, if it is news."""
        with self._lock:
            key, before = self._last.get(call, ("", {}))
            unread = call in self._unread
        if key and (unread or before != _kept(found)):
            self._note(key, {"call": call, **found})
        return found

    def _note(self, key: str, found: Shape) -> None:
        account = self._account(key, found)
        call = found.get("call")
        if call is not None:
            with self._lock:
                self._last[call] = (key, _kept(found))
                (self._unread.add if found.get("evidence") and not account else self._unread.discard)(call)
        self._tell({"kind": "child", "key": key, "call": call, **_kept(found), **account})

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
            for call in left:
                self._seen(call, asking.look)
            while (left := self._storing()) and time.monotonic() < deadline and not unless():
                time.sleep(LOOK)
                for call in left:
                    self._seen(call, asking.look)

    def _storing(self) -> list[str]:
        with self._lock:
            return [
                call
                for call, (_, seen) in self._last.items()
                if seen["status"] == "cancelled" and seen.get("started") and not seen.get("evidence")
            ]

    def close(self) -> None:
        """Look after no call any more."""
        self._holding.close()


DOUBT = 3.0
"""Seconds in which a call of which nobody knows whether it was made is asked for again, to be cancelled."""
STORES = 10.0
"""Seconds in which the evidence of a call that was cancelled while it ran is waited for."""
LOOK = 0.2
"""Seconds between two looks for it."""
_NOT_MADE = {"status": "held", "call": None, "job": None}


class _Making:
    """One call on its way to the platform."""

    def __init__(self, calls: Children, client: Callable[[], Client], draft: Draft) -> None:
        self._calls, self._client, self._draft = calls, client, draft
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
        event = draft.event(self._calls._find, status="held")
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
        self._calls._tell({**event, "params": self._shown})
        self._told = True

    def start(self) -> Shape:
        """As `Held.start`: notes it, has it made, notes what the platform says."""
        calls, draft = self._calls, self._draft
        error = draft.blocked(calls._find) if calls._recorded is None else None
        if error is not None:
            found = {"status": "cancelled", "error": error}
            calls._tell({**self._first("cancelled"), **found})
            return found
        try:
            if calls._recorded is not None:
                return self._as_recorded(calls._recorded)
            return self._made(draft.order(calls._find, calls._all_outputs))
        except LibsafeError as exc:
            if self._told:
                self._refused(exc)
            raise

    def _made(self, order: Order) -> Shape:
        calls, key = self._calls, self._draft.key
        if self._draft.scraps:
            asking.refuse_keys(calls._secrets, order.function, order.params)
            # What others have glued may be long.
            references.check_values(order.params)
        given = dict(order.params)
        found, looked = calls._answered_earlier(order)
        event = {**self._first("asked"), "files": len(order.files), **looked}
        if found is not None:
            # Nobody reuses a function that takes secrets.
            calls._tell({**event, "params": given})
            calls._note(key, found)
            return found
        if self._shown is None or self._draft.scraps:
            self._shown = event["params"] = asking.tellable(
                self._client(), order.function, given, order.version
            )
        if not self._asked_once:
            calls._tell(event)
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
            calls._tell({"kind": "child", "key": key, "params": given})
        calls._note(key, made)
        # One that an interrupted run made, or that was asked for before, may have ended.
        return {**made, **calls._seen(made["call"], asking.look)} if made["status"] in ENDED else made

    def _asked(self, order: Order) -> Shape:
        calls = self._calls

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
                run=calls._run if calls._in_run else None,
                key=idempotency_key,
            )

        return make(self._draft.key) if calls._past is None else calls._past.ask(order, make)

    def _first(self, status: str) -> Shape:
        """The event with all that is known, if none was told yet."""
        if self._told:
            return {"kind": "child", "key": self._draft.key, "status": status}
        self._told = True
        return self._draft.event(self._calls._find, status=status)

    def _refused(self, exc: LibsafeError) -> None:
        away = isinstance(exc, (Unreachable, StorageUnreachable))
        # Where nobody answered it may have been made all the same.
        status = "held" if getattr(exc, "status", None) == FULL else "asked" if away else "refused"
        if status == self._refused_as:
            # A full queue is asked ten times a second.
            return
        self._refused_as = status
        error = {"type": type(exc).__name__, "message": str(exc), "cell_id": None}
        self._calls._tell({"kind": "child", "key": self._draft.key, "status": status, "error": error})

    def _as_recorded(self, recorded: RecordedCalls) -> Shape:
        """In a replay: as it was in the recorded run, which also says what it takes of others."""
        calls, draft = self._calls, self._draft
        event = self._first("asked")
        for key in draft.uses:
            # Of a call that had not ended nothing is known: that is said here.
            calls._reply(calls._find(key))
        if draft.blocked(calls._find) is None:
            order = draft.order(calls._find, lambda held: held.found["entry"].get("wrote") or ())
            event |= {"files": len(order.files), "params": dict(order.params)}
        found = recorded.take(event)
        told = told_again(event["params"], found)
        facts = {name: found.get(name) for name in (*FACTS, *OF_RECORD)}
        calls._tell({**event, **facts, "params": told, "stubbed": True})
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


def _kept(found: Shape) -> Shape:
    """What the record says of a call; its scraps are in its own evidence."""
    return {name: found[name] for name in (*FACTS, "reused", "resumed") if name in found and name != "call"}
