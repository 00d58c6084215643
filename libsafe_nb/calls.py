"""
`libsafe_nb.call`: a function calls another one, whose run is a job with evidence of its own.

Inside a run the runner asks the platform, through the door, and records the call. Anywhere else this process does, with
the job of the session's payload as the parent if there is one.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from libsafe_nb import children, door, recordedcalls
from libsafe_nb.compat import others
from libsafe_nb.errors import ExecutionError, LibsafeError, RunCancelled, RunFailed, UsageError
from libsafe_nb.models import describe

if TYPE_CHECKING:
    from libsafe_nb.client import Client

SOON, LATE = 0.05, 1.0
"""Seconds between two looks at a call that is waited for: first the one, in the end the other."""
ANSWER = 180.0
"""Seconds that the runner has to answer: longer than one call to the platform with all its repetitions."""


@dataclass(frozen=True)
class Called:
    """
    How a call ended.

    Attributes
    ----------
    status
        `completed`; `failed` (the function's own verdict); `cancelled`; `dead` (it could not be executed).
    error
        `{"type", "message", "cell_id"}`, or None.
    run
        The id of the run; None where none began.
    evidence
        `libsafe://CONTAINER/provenance/…/`, or None where there is none (yet).
    scraps
        What its notebook glued, by name.
    """

    call: str
    function: str
    container: str
    job: str
    status: str
    error: Mapping[str, Any] | None = None
    run: str | None = None
    evidence: str | None = None
    scraps: Mapping[str, Any] = field(default_factory=dict)

    def raise_for_failure(self) -> Called:
        """
        Return it if it completed.

        Raises
        ------
        RunFailed, RunCancelled, ExecutionError
            By status; the message names function and job.
        """
        if self.status == "completed":
            return self
        kinds: dict[str, type[LibsafeError]] = {"failed": RunFailed, "cancelled": RunCancelled}
        raise kinds.get(self.status, ExecutionError)(
            f"{self.function}, job {self.job}: {self.status}: {describe(self.error)}", run=self.run
        )


@dataclass(frozen=True)
class Call:
    """
    A call that was queued. Safe to use from any thread.

    Attributes
    ----------
    id
        The platform's number of the call.
    job
        The job of its first attempt; one that could not be executed is attempted again, with another job.
    """

    id: str
    job: str
    function: str
    container: str
    _client: Client | None = field(default=None, repr=False, compare=False)

    @property
    def status(self) -> str:
        """`queued`, `running`, `completed`, `failed`, `cancelled` or `dead`, as it is now."""
        return str(self._ask("call_get")["status"])

    def result(self, timeout: float | None = None) -> Called:
        """
        Wait for its end, and return how it ended.

        Parameters
        ----------
        timeout
            Seconds; by default it waits as long as it takes.

        Raises
        ------
        TimeoutError
            It has not ended by then; it goes on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = SOON
        while (found := self._ask("call_get"))["status"] not in recordedcalls.ENDED:
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(
                    f"{self.function}, job {self.job}: expected its end within {timeout:g} s, found it {found['status']}"
                )
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LATE)
        told: dict[str, Any] = {
            name: found.get(name) for name in ("job", "status", "error", "run", "evidence")
        }
        return Called(self.id, self.function, self.container, **told, scraps=found.get("scraps") or {})

    def cancel(self) -> None:
        """End it, and all that it asked for; after its end this does nothing. Returns at once."""
        self._ask("call_cancel")

    def _ask(self, what: str) -> dict[str, Any]:
        if self._client is None:
            return _knock(what, call=self.id)
        return (children.look if what == "call_get" else children.cancel)(self._client, self.id)

    def __reduce__(self) -> tuple[Any, ...]:
        # A client holds a key; another process of the same run knocks at the door by itself.
        return Call, (self.id, self.job, self.function, self.container)


def call(
    function: str,
    *,
    files: Any = (),
    params: Mapping[str, Any] | None = None,
    container: str | None = None,
    version: int | None = None,
    priority: int = 0,
) -> Call:
    """
    Have the platform run a published function; returns as soon as it is queued.

    The call is a job with its own evidence, and both records name the other. If the caller's job is cancelled the call is
    too. A caller that ends otherwise leaves it to go on.

    Parameters
    ----------
    function
        The key under which it is published.
    files
        Ids, paths with a leading slash (a folder stands for all in it), or files of `libnova`; one or several.
    params
        Its `function_params`: those that it declares, each of its type. A key of the run among them is refused, and so is a
        value for a secret parameter: secrets come from where the worker's machine keeps them.
    container
        By default that of the run, or of the session's payload.
    version
        By default the one that is current when it starts.
    priority
        From -100 to 100; the highest comes first.

    Raises
    ------
    NotFound
        There is no such function, file or container.
    Conflict
        The function is disabled, or functions call each other 32 deep already.
    UsageError
        `files` or `params` are not as above, or none that the function takes.
    PlatformError
        This platform has no functions to call, or is away, or so many calls of the function wait that it took no further one
        within a minute (`Unreachable`).
    """
    if params is not None and not isinstance(params, Mapping):
        raise UsageError(f"params: expected names and values, got {type(params).__name__}")
    try:
        json.dumps(dict(params or {}), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as exc:
        raise UsageError(f"params: expected what JSON can hold, got something else ({exc})") from exc
    order: dict[str, Any] = {
        "files": list(_named(files)),
        "params": dict(params or {}),
        "version": version,
        "priority": priority,
    }
    others.has_begun()
    if os.environ.get(door.VARIABLE):
        made = _knock("call", function=function, container=_id(container), **order)
        return Call(made["call"], made["job"], function, made["container"])
    # Imported here: it brings the ways to find a platform, and a kernel in a run needs none.
    from libsafe_nb.interactive.payload import for_call

    client, where, secrets = for_call(_id(container))
    children.refuse_keys(secrets, function, params)
    made = children.ask(client, function, container=where, **order)
    return Call(made["call"], made["job"], function, where, client)


def _knock(what: str, **fields: Any) -> dict[str, Any]:
    """
    Ask the runner. Each time by a connection of its own: threads do not wait for each other, nor do forked processes mix.
    """
    path = os.environ.get(door.VARIABLE)
    if not path:
        raise ExecutionError("the run that made this call is not here")
    with contextlib.closing(door.connect(path, timeout=ANSWER)) as speaker:
        found: dict[str, Any] = speaker.call(what, **fields)
        return found


def _id(container: Any) -> str | None:
    return None if container is None else str(getattr(container, "id", container))


def _named(files: Any) -> Iterable[str]:
    several = files if isinstance(files, Iterable) and not isinstance(files, (str, bytes)) else [files]
    for each in several:
        name = str(getattr(each, "id", each))
        if not (name.startswith("/") or (name.isascii() and name.isdecimal())):
            raise UsageError(f"files: expected ids, paths with a leading slash or files, got {name[:80]!r}")
        yield name
