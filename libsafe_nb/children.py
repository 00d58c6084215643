"""
Calls that a function makes of other functions, on the runner's side: asked for, looked after, and noted.

    {"kind": "child", "key": …, "function": …, …}    before the platform is asked
    {"kind": "child", "key": …, "call": …, …}        what it answered; again, when what is known of the call changes

All lines of one key are one call (`record.calls`). The platform knows a call by another key, of what it asks for and which of
its kind it is: so a repetition within this run makes no second call, nor does a run that goes on after this one (`past.py`).
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from libsafe_nb import errors, evidence, linkage, record
from libsafe_nb.compat.writing import refuse
from libsafe_nb.errors import (
    Conflict,
    Forbidden,
    LibsafeError,
    PlatformError,
    StorageUnreachable,
    Unauthorized,
    Unreachable,
    UsageError,
)
from libsafe_nb.functions import Functions
from libsafe_nb.recordedcalls import (
    ENDED,
    FACTS,
    NOT_TAKEN,
    NOT_TOLD,
    OF_RECORD,
    RecordedCalls,
    Shape,
    in_order,
    told_again,
)

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.models import Replay
    from libsafe_nb.redact.matching import SecretSet
    from libsafe_nb.reuse import Answer

EVIDENCE = "evidence: "
"""How the job's message begins that says where its evidence is."""


# What the platform is asked -------------------------------------------------------------------------------------------


def ask(
    client: Client,
    function: str,
    *,
    container: str,
    files: Sequence[str] = (),
    params: Mapping[str, Any] | None = None,
    version: int | None = None,
    priority: int = 0,
    run: str | None = None,
    key: str | None = None,
) -> Shape:
    """
    Queue a call, as the child of the client's job if it has one; what is known of it.

    Raises
    ------
    PlatformError
        The platform's sentence: no such function (`NotFound`), one that is disabled, too deep (`Conflict`), or a platform
        that knows no functions to call.
    UsageError
        The function takes no such parameters or files.
    """
    functions = Functions(client)
    try:
        made = functions.call(
            function,
            container=container,
            files=files,
            params=params,
            version=version,
            priority=priority,
            run=run,
            idempotency_key=key,
        )
    except (Unreachable, Unauthorized, Forbidden, Conflict):
        raise
    except PlatformError as exc:
        if exc.status == 400:
            raise UsageError(exc.message) from exc
        if _has_functions(functions):
            raise
        raise PlatformError(
            f"{client.url}: {function} cannot be called, for this platform offers no way to call a function; "
            "the local platform does (libsafe-nb local serve)"
        ) from exc
    return {
        "call": made["id"],
        "job": made["job_id"],
        "version": made["version"],
        "status": made["status"],
        "parent": made.get("parent_job_id"),
    }


def refuse_keys(secrets: SecretSet, function: str, params: Mapping[str, Any] | None) -> None:
    """
    The platform keeps parameters, plainly.

    Raises
    ------
    SecretFound
        A key stands in them.
    """
    text = json.dumps(params or {}, ensure_ascii=False, default=str)
    refuse(((span.secret, span.form) for span in secrets.find(text)), f"the parameters for {function}")


def tellable(client: Client, function: str, params: Mapping[str, Any], version: int | None) -> Shape:
    """
    Parameters as a record may hold them before the platform took them: the values of those that the function declares, and
    not as secrets. A secret may be given under a mistyped name, or where the function's parameters cannot be seen.
    """
    if not params:
        return {}
    functions = Functions(client)
    try:
        about = (
            functions.get(function)
            if version is None
            else next((each for each in functions.versions(function) if each["number"] == version), {})
        )
    except PlatformError:
        about = {}
    declared = {each.get("name"): bool(each.get("secret")) for each in about.get("parameters", ())}
    # A handler declares nothing, and takes it all the same.
    unknown = NOT_TAKEN if about.get("kind") == "notebook" else NOT_TOLD
    return {
        name: (f"[redacted:{name}]" if declared[name] else value) if name in declared else unknown
        for name, value in params.items()
    }


def _has_functions(functions: Functions) -> bool:
    try:
        return isinstance(functions.queue(), dict)
    except Unreachable:
        return True
    except PlatformError:
        return False


def look(client: Client, call: str) -> Shape:
    """What became of a call: `status`, `job`, `version` and, once it has ended, `run`, `evidence`, `error` and `scraps`."""
    found = Functions(client).get_call(call)
    told: Shape = {
        "status": found["status"],
        "job": found["job_id"],
        "version": found["version"],
        "sha256": found["sha256"],
        "attempts": found.get("attempts"),
    }
    if found["status"] not in ENDED:
        return told
    job = client.job(found["job_id"])
    result = job["result"]
    result = result if isinstance(result, dict) else {}
    error = in_order(result.get("error"))
    if error is None and found["error"]:
        error = {"type": "Queue", "message": found["error"], "cell_id": None}
    return {
        **told,
        "run": result.get("run"),
        "started": _moment(job["date_start"]),
        "ended": _moment(job["date_end"]),
        "evidence": result.get("evidence") or _evidence(client, found["job_id"]),
        "error": error,
        "scraps": result.get("scraps") or {},
    }


def _moment(text: str | None) -> str | None:
    """A time of the platform's, which are UTC, as a record writes it."""
    return None if not text else record.timestamp(datetime.fromisoformat(text).replace(tzinfo=UTC))


def _evidence(client: Client, job: str) -> str | None:
    """Of a job that was ended before its run had: the run says it in a message, when it has come so far."""
    texts = (str(each["message"]) for each in client.messages(job))
    return next((text.removeprefix(EVIDENCE) for text in texts if text.startswith(EVIDENCE)), None)


def cancel(client: Client, call: str) -> Shape:
    """Cancel a call and all that it asked for; one that has ended stays as it is."""
    with contextlib.suppress(Conflict):
        Functions(client).cancel(call)
    return look(client, call)


# Within a run ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """
    A call as the platform is asked for it: all that it refers to is known.

    Attributes
    ----------
    number
        Which call of its caller it is, from 1.
    files
        Ids, or paths with a leading slash.
    timeout
        Seconds of one execution; None for the function's own.
    retries
        Attempts beyond the first, where it could not be executed; None for the function's own.
    reuse
        `unchanged`, where an earlier run of the same may stand for it.
    """

    number: int
    function: str
    container: str
    files: Sequence[str] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    version: int | None = None
    priority: int = 0
    timeout: float | None = None
    retries: int | None = None
    reuse: str | None = None
    on_failure: str = "continue"


class Past(Protocol):
    """What earlier runs have done of this one's work (`past.py`)."""

    def earlier(self, order: Order) -> Answer:
        """The earlier run that stands for a call that may be reused, or why there is none."""

    def ask(self, order: Order, make: Callable[[str], Shape]) -> Shape:
        """Have a call made under the key that it chooses, or answered by the one that an interrupted run made."""


class Children:
    """
    The calls of one run. Thread-safe.

    Parameters
    ----------
    client
        With the run's job, whose children they become.
    container
        Where a call works that names no other.
    tell
        Where events go.
    read
        The bytes of a container's object, for the records of the called runs; None where they are not looked at.
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
        past: Past | None = None,
    ) -> None:
        self._client, self._run, self._container = client, run, container
        self._secrets, self._tell, self._read, self._past = secrets, tell, read, past
        self._recorded = RecordedCalls(replay.calls) if replay is not None and replay.stub else None
        self._lock = threading.Lock()
        self._made = 0
        self._last: dict[str, tuple[str, Shape]] = {}
        self._unread: set[str] = set()
        self._reused: dict[str, Shape] = {}
        self._away = False
        self.known: dict[str, Callable[..., Any]] = {
            "call": self._call,
            "call_get": self._get,
            "call_cancel": self._cancel,
        }

    def _call(
        self,
        *,
        function: str,
        container: str | None = None,
        files: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
        version: int | None = None,
        priority: int = 0,
        timeout: float | None = None,
        retries: int | None = None,
        reuse: str | None = None,
        on_failure: str = "continue",
    ) -> Shape:
        refuse_keys(self._secrets, function, params)
        with self._lock:
            self._made += 1
            number = self._made
        order = Order(
            number,
            function,
            container or self._container,
            files,
            dict(params or {}),
            version,
            priority,
            timeout,
            retries,
            reuse,
            on_failure,
        )
        key = self._name(number)
        event: Shape = {
            "kind": "child",
            "key": key,
            "function": function,
            "version": version,
            "container": order.container,
            "files": len(files),
            "params": dict(order.params),
            "status": "asked",
        }
        if self._recorded is not None:
            return self._answered(event)
        found, looked = self._answered_earlier(order)
        event.update(looked)
        if found is not None:
            self._tell(event)
            self._note(key, found)
            return {**found, "container": order.container}
        told = tellable(self._client(), function, order.params, version)
        self._tell({**event, "params": told})
        made = self._ask(order, key)
        if told != event["params"]:
            # The platform took them, so none is a secret.
            self._tell({"kind": "child", "key": key, "params": event["params"]})
        self._note(key, made)
        return {**made, "container": order.container}

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
        # The platform knows no such call; whoever asks for its result asks here.
        call = f"reused-{order.number}"
        found = {**answer.earlier.facts, "call": call, "scraps": answer.earlier.scraps}
        with self._lock:
            self._reused[call] = found
        return found, looked

    def _ask(self, order: Order, key: str) -> Shape:
        def make(idempotency_key: str) -> Shape:
            return ask(
                self._client(),
                order.function,
                container=order.container,
                files=order.files,
                params=order.params,
                version=order.version,
                priority=order.priority,
                run=self._run,
                key=idempotency_key,
            )

        try:
            return make(key) if self._past is None else self._past.ask(order, make)
        except LibsafeError as exc:
            # Where nobody answered it may have been made all the same.
            status = "asked" if isinstance(exc, Unreachable) else "refused"
            error = {"type": type(exc).__name__, "message": str(exc), "cell_id": None}
            self._tell({"kind": "child", "key": key, "status": status, "error": error})
            raise

    def _get(self, *, call: str) -> Shape:
        return self._recorded.get(call) if self._recorded is not None else self._seen(call, look)

    def _cancel(self, *, call: str) -> Shape:
        return self._recorded.get(call) if self._recorded is not None else self._seen(call, cancel)

    def _seen(self, call: str, what: Callable[[Client, str], Shape]) -> Shape:
        with self._lock:
            earlier = self._reused.get(call)
        if earlier is not None:
            return {name: earlier.get(name) for name in (*FACTS, "scraps") if name != "call"}
        found = what(self._client(), call)
        with self._lock:
            key, before = self._last.get(call, ("", {}))
            unread = call in self._unread
        if key and (unread or before != _kept(found)):
            self._note(key, {"call": call, **found})
        return found

    def _note(self, key: str, found: Shape) -> None:
        call, account = found["call"], self._account(found)
        with self._lock:
            self._last[call] = (key, _kept(found))
            (self._unread.add if found.get("evidence") and not account else self._unread.discard)(call)
        told = None if found.get("reused") else call
        self._tell({"kind": "child", "key": key, "call": told, **_kept(found), **account})

    def _account(self, found: Shape) -> Shape:
        """What the called run's record tells, once it is stored; that of a run that was cancelled may come later."""
        place = evidence.place_of(found.get("evidence"))
        if self._read is None or place is None or self._away:
            return {}
        try:
            return linkage.account(self._read(place[0], f"{place[1]}record.json"))
        except StorageUnreachable:
            # Asked again at the run's end; a function does not wait for it at each of its calls.
            self._away = True
        except LibsafeError:
            pass
        return {}

    def settle(self) -> None:
        """At the run's end: see what has become of those of which no end is known."""
        with self._lock:
            left = [
                call
                for call, (_, seen) in self._last.items()
                if seen["status"] not in ENDED or call in self._unread
            ]
        self._away = False
        with contextlib.suppress(PlatformError):
            for call in left:
                self._get(call=call)

    def _answered(self, event: Shape) -> Shape:
        """In a replay: as it was in the recorded run."""
        assert self._recorded is not None
        found = self._recorded.take(event)
        told = told_again(event["params"], found)
        facts = {name: found.get(name) for name in (*FACTS, *OF_RECORD)}
        self._tell({**event, **facts, "params": told, "stubbed": True})
        if found.get("status") == "refused":
            error = found.get("error") or {}
            kind = getattr(errors, str(error.get("type")), PlatformError)
            raise kind(str(error.get("message")))
        return {name: found.get(name) for name in ("call", "job", "version", "container", "status")}


def _kept(found: Shape) -> Shape:
    """What the record says of a call; its scraps are in its own evidence."""
    return {name: found[name] for name in (*FACTS, "reused", "resumed") if name in found and name != "call"}
