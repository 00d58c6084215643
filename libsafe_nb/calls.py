"""
`libsafe_nb.call`: a function calls another one, whose run is a job with evidence of its own.

Inside a run the runner asks the platform, through the door, and looks after the call. Anywhere else this process does, with
the job of the session's payload as the parent if there is one (`Children` is both).
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from libsafe_nb import door, recordedcalls, references
from libsafe_nb.compat import others
from libsafe_nb.errors import (
    DependencyFailed,
    ExecutionError,
    LibsafeError,
    NotebookError,
    RunCancelled,
    RunFailed,
    UsageError,
)
from libsafe_nb.holding import LONGEST_WAIT, MOST
from libsafe_nb.models import describe
from libsafe_nb.references import Outputs, Scraps

# `children`, `functions` and `connection` are imported where they are used: they bring the ways to a platform, and a cell in a
# run, or a shell's command, only knocks at its runner's door.
if TYPE_CHECKING:
    from libsafe_nb.children import Children
    from libsafe_nb.client import Client
    from libsafe_nb.connection import Connection

ANSWER = 180.0
"""Seconds that the runner has to answer: longer than one call to the platform with all its repetitions."""
LONGEST_TIMEOUT, MOST_RETRIES = 30 * 86400.0, 99
"""As the platform takes them."""


@dataclass(frozen=True)
class Called:
    """
    How a call ended.

    Attributes
    ----------
    status
        `completed`; `failed` (the function's own verdict, or out of time); `cancelled`; `dead` (it could not be executed);
        `refused` (it was held back, and the platform would not take it then).
    error
        `{"type", "message", "cell_id"}`, or None. `DependencyFailed` is one that was never made, as a call of which it takes
        something did not complete.
    run
        The id of the run; None where none began.
    evidence
        `libsafe://CONTAINER/provenance/…/`, or None where there is none (yet).
    scraps
        What its notebook glued, by name.
    outputs
        The files that it wrote, also where it failed: of each `container`, `path` (with a leading slash), `id`, `version_id`,
        `size` in bytes and `sha256`. `id` is None where the platform does not have it any more. `files=` takes them as they
        are.
    """

    call: str | None
    function: str
    container: str
    job: str | None
    status: str
    error: Mapping[str, Any] | None = None
    run: str | None = None
    evidence: str | None = None
    scraps: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[Mapping[str, Any]] = ()

    def raise_for_failure(self) -> Called:
        """
        Return it if it completed.

        Raises
        ------
        RunFailed, DependencyFailed, RunCancelled, ExecutionError
            By status; the message names function and job.
        """
        if self.status == "completed":
            return self
        kinds: dict[str, type[LibsafeError]] = {"failed": RunFailed, "cancelled": RunCancelled}
        kind = kinds.get(self.status, ExecutionError)
        if (self.error or {}).get("type") == "DependencyFailed":
            kind = DependencyFailed
        where = f"{self.function}, job {self.job}" if self.job else self.function
        raise kind(f"{where}: {self.status}: {describe(self.error)}", run=self.run)


@dataclass(frozen=True)
class Call:
    """
    A call that was made, or is held back until what it depends on has ended. Safe to use from any thread, and from a
    process that a run's function starts.

    Attributes
    ----------
    key
        A name of its own.
    function
        The key of the function.
    container
        Where it works.
    """

    key: str
    function: str
    container: str
    _told: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def id(self) -> str | None:
        """The platform's number of the call; None while it is held back, and of one that is never made."""
        return self._number("call")

    @property
    def job(self) -> str | None:
        """
        The job of its first attempt, likewise; one that could not be executed is attempted again, with another job, which
        `result` tells.
        """
        return self._number("job")

    @property
    def status(self) -> str:
        """`held`, `queued`, `running`, `completed`, `failed`, `cancelled`, `dead` or `refused`, as it is now."""
        return str(self._ask("call_get")["status"])

    @property
    def outputs(self) -> Outputs:
        """
        All files that it writes, for `files=` of another call, which is held back until this one has ended. They need not
        be known yet; `result().outputs` tells them.
        """
        return Outputs(self.key)

    @property
    def scraps(self) -> Scraps:
        """`call.scraps["pages"]` is what its notebook glues under that name, for `params=` of another call, likewise."""
        return Scraps(self.key)

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
        while True:
            left = LONGEST_WAIT if deadline is None else max(0.0, deadline - time.monotonic())
            found = self._ask("call_wait", seconds=left)
            if found["status"] in recordedcalls.OVER:
                break
            if deadline is not None and time.monotonic() >= deadline:
                job = f", job {found['job']}" if found.get("job") else ""
                raise TimeoutError(
                    f"{self.function}{job}: expected its end within {timeout:g} s, found it {found['status']}"
                )
        names = ("call", "job", "status", "error", "run", "evidence")
        told: dict[str, Any] = {name: found.get(name) for name in names}
        return Called(
            function=self.function,
            container=self.container,
            **told,
            scraps=found.get("scraps") or {},
            outputs=found.get("outputs") or [],
        )

    def cancel(self) -> None:
        """End it, and all that it asked for; after its end this does nothing. Returns at once."""
        self._ask("call_cancel")

    def _number(self, name: str) -> str | None:
        if self._told.get(name) is None:
            self._told[name] = self._ask("call_get").get(name)
        found = self._told[name]
        return None if found is None else str(found)

    def _ask(self, what: str, **more: Any) -> dict[str, Any]:
        if os.environ.get(door.VARIABLE):
            return _knock(what, call=self.key, **more)
        found: dict[str, Any] = _of_process().known[what](call=self._handle(), **more)
        return found

    def _handle(self) -> str:
        """Within a process that is no run: its own calls it knows by their keys, others by the platform's numbers."""
        if _of_process().has(self.key):
            return self.key
        if self._told.get("call") is None:
            raise ExecutionError(f"{self.function}: the run or process that made this call is not here")
        return str(self._told["call"])

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.key, self.function, self.container, dict(self._told))


def call(
    function: str | os.PathLike[str],
    *,
    files: Any = (),
    params: Mapping[str, Any] | None = None,
    after: Call | Iterable[Call] = (),
    container: str | None = None,
    version: int | None = None,
    priority: int = 0,
    timeout: float | None = None,
    retries: int | None = None,
    reuse: Literal["unchanged"] | None = None,
    on_failure: Literal["continue", "stop"] = "continue",
) -> Call:
    """
    Have the platform run a function; returns at once, also while what it depends on has not ended.

    The call is a job with its own evidence, and both records name the other. A run ends when all its calls have; if it is
    cancelled or out of time they are cancelled too.

    Parameters
    ----------
    function
        The key under which it is published; or the path of a notebook or a plain handler: one that ends in `.ipynb` or `.py`
        or holds a slash, or `libsafe://CONTAINER/path.ipynb`. A path is looked for in the working directory, then where the
        caller's notebook lies. Its bytes are read once, now.
    files
        Ids, paths with a leading slash (a folder stands for all in it), files of `libnova` or of `Called.outputs`; a `Call`,
        or its `outputs` or `outputs.matching("*.csv")`, for the files that it writes. One or several.
    params
        Its `function_params`: those that it declares, each of its type. `call.scraps["pages"]` stands, however deep, for what
        that call glues. A key of the run among them is refused, and so is a value for a secret parameter: secrets come from
        where the worker's machine keeps them. At most 1 MiB as JSON.
    after
        Calls that must have ended first, however they end.
    container
        By default that of the run, or of the session's payload.
    version
        By default the one that is current when it starts.
    priority
        From -100 to 100; the highest comes first.
    timeout
        Seconds that one execution may take; by default the function's. One that takes longer has failed.
    retries
        How often it is tried again if it could not be executed, up to 99; by default as the function says. One that failed is
        not.
    reuse
        `unchanged`: where a verified earlier run did the same with the same, that stands for this call.
    on_failure
        What happens if it does not complete. `continue`: nothing else is touched; calls that take something of it end as
        `cancelled` with the error `DependencyFailed`, those that are only `after` it are made. `stop`: all other calls of
        this run are cancelled, no further one is made, and the run ends as failed.

    Raises
    ------
    NotFound
        There is no such function, file or container.
    Conflict
        The function is disabled, functions call each other 32 deep already, or a call whose `on_failure` is stop failed.
    UsageError
        `files` or `params` are not as above, or none that the function takes; or the run has made 10,000 calls.
    NotebookError
        There is no function under that path.
    PlatformError
        This platform has no functions to call, or is away.
    """
    order: dict[str, Any] = {
        "files": list(_named(files)),
        **_given(params),
        "after": [_key(each) for each in ([after] if isinstance(after, Call) else after)],
        "version": version,
        "priority": priority,
        "timeout": _within("timeout", timeout, LONGEST_TIMEOUT),
        "retries": _within("retries", retries, MOST_RETRIES),
        "reuse": _one_of("reuse", reuse, (None, "unchanged")),
        "on_failure": _one_of("on_failure", on_failure, ("continue", "stop")),
    }
    name = os.fspath(function)
    if is_path(name):
        if version is not None:
            raise UsageError(f"version: {name} is a path, and what lies there is its only version")
        from libsafe_nb.functions import key_by_path

        order["code"] = _code(name)
        name = key_by_path(order["code"]["name"])
    others.has_begun()
    if os.environ.get(door.VARIABLE):
        made = _knock("call", function=name, container=_id(container), **order)
    else:
        from libsafe_nb.asking import refuse_keys
        from libsafe_nb.interactive.payload import for_call

        asking, where, secrets = for_call(_id(container))
        connection = _kept_open(asking)
        refuse_keys(secrets, name, params if not order["scraps"] else order["params"])
        made = _of_process(connection).make(
            lambda: connection.client, function=name, container=where, **order
        )
    told = {each: made[each] for each in ("call", "job") if made.get(each) is not None}
    return Call(made["key"], name, made["container"], told)


def earlier(handle: str) -> Call:
    """
    A call that another process made: inside a run by its `key`, of the same run; anywhere else by the platform's number.

    Raises
    ------
    NotFound, UsageError
        There is none.
    """
    if os.environ.get(door.VARIABLE):
        found = _knock("call_known", call=handle)
        return Call(handle, found["function"], found["container"])
    from libsafe_nb.interactive.payload import for_call

    # It has its container already; that of the session, which may have none, is not asked for.
    found = _of_process(for_call("0")[0]).adopt(handle)
    return Call(handle, found["function"], found["container"], {"call": handle, "job": found["job"]})


def gather(*calls: Call, timeout: float | None = None, return_failures: bool = False) -> list[Called]:
    """
    Wait for the end of several calls; how each ended, in the order in which they are given.

    Parameters
    ----------
    timeout
        Seconds for all of them together; by default it waits as long as it takes.
    return_failures
        Return those that did not complete as well. By default the first of them is raised when all have ended.

    Raises
    ------
    RunFailed, DependencyFailed, RunCancelled, ExecutionError
        As `Called.raise_for_failure`, of the first that did not complete.
    TimeoutError
        One has not ended by then; all go on.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    found = [
        each.result(None if deadline is None else max(0.0, deadline - time.monotonic())) for each in calls
    ]
    if not return_failures:
        for each in found:
            each.raise_for_failure()
    return found


def map_call(function: str | os.PathLike[str], files: Any, *, each: int = 1, **options: Any) -> list[Call]:
    """
    One call for each file, or for so many files; they run side by side as far as there are workers.

    Parameters
    ----------
    files
        As `call` takes them, but a folder counts as one, and the outputs of a call only when they are known
        (`call.result().outputs`).
    each
        Files of one call.
    options
        As `call` takes them, the same for all.

    Raises
    ------
    UsageError
        `files` holds what stands for a number of files that nobody knows yet, or more than 10,000 calls would be made.
    """
    if isinstance(each, bool) or not isinstance(each, int) or each < 1:
        raise UsageError(f"each: expected a number of files from 1 on, got {each!r}")
    named = list(_named(files))
    if any(not isinstance(one, str) for one in named):
        raise UsageError(
            "files: how many files a call writes is known when it has ended; give map_call its result().outputs"
        )
    groups = [named[start : start + each] for start in range(0, len(named), each)]
    if len(groups) > MOST:
        raise UsageError(
            f"files: expected at most {MOST:,} calls of one run, got {len(groups):,}; give each more files"
        )
    return [call(function, files=group, **options) for group in groups]


# What is given ---------------------------------------------------------------------------------------------------------


def is_path(function: str) -> bool:
    """Whether it is no key under which a function is published."""
    return "/" in function or function.endswith((".ipynb", ".py"))


def _code(function: str) -> dict[str, str]:
    name = function.rpartition("/")[2]
    if not name.endswith((".ipynb", ".py")):
        raise NotebookError(f"{function}: expected a notebook (.ipynb) or a handler (.py)", notebook=function)
    if function.startswith("libsafe://"):
        return {"name": name, "address": function}
    try:
        return {"name": name, "data": base64.b64encode(Path(function).read_bytes()).decode()}
    except FileNotFoundError as exc:
        if os.environ.get(door.VARIABLE) and not Path(function).is_absolute():
            # The runner knows where the caller's notebook lies.
            return {"name": name, "path": function}
        raise NotebookError(f"{function}: there is no such file", notebook=function) from exc
    except OSError as exc:
        raise NotebookError(f"{function}: cannot be read ({exc.strerror or exc})", notebook=function) from exc


def _given(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parameters without the references in them, and these."""
    if params is not None and not isinstance(params, Mapping):
        raise UsageError(f"params: expected names and values, got {type(params).__name__}")
    plain, scraps = references.taken(params or {})
    references.check_values(plain)
    return {"params": plain, "scraps": scraps}


def _named(files: Any) -> Iterable[Any]:
    one = isinstance(files, (str, bytes, Mapping, Call, Outputs)) or not isinstance(files, Iterable)
    for each in [files] if one else files:
        if isinstance(each, Call):
            each = each.outputs
        if isinstance(each, Outputs):
            yield each.told()
            continue
        if isinstance(each, Mapping):
            # Of `Called.outputs`.
            each = each.get("id") or each.get("path")
        name = str(getattr(each, "id", each))
        if not (name.startswith("/") or (name.isascii() and name.isdecimal())):
            raise UsageError(
                f"files: expected ids, paths with a leading slash, files or calls, got {name[:80]!r}"
            )
        yield name


def _key(call: Any) -> str:
    if not isinstance(call, Call):
        raise UsageError(f"after: expected calls, got {type(call).__name__}")
    return call.key


def _within(name: str, value: Any, most: float) -> Any:
    if value is None:
        return None
    least = 0 if name == "retries" else 0.001
    if isinstance(value, bool) or not isinstance(value, (int,) if name == "retries" else (int, float)):
        raise UsageError(f"{name}: expected a number, got {value!r}")
    if not least <= value <= most:
        raise UsageError(f"{name}: expected a number from {least:g} to {most:g}, got {value}")
    return value


def _one_of(name: str, value: Any, known: Sequence[Any]) -> Any:
    if value not in known:
        raise UsageError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")
    return value


def _id(container: Any) -> str | None:
    return None if container is None else str(getattr(container, "id", container))


# Who looks after it ----------------------------------------------------------------------------------------------------


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


_lock = threading.Lock()
_ours: dict[tuple[int, str], Children] = {}
"""By process and platform: a forked process looks after its own."""
_latest: list[Connection] = []
_kept: dict[tuple[int, str, str, str], Connection] = {}
"""By process, platform, user's key and job: a call needs it as long as it goes on, and a session may make thousands."""


def _kept_open(connection: Connection) -> Connection:
    """One that is open to the same platform in the same name, or this one."""
    settings = connection.settings
    who = (os.getpid(), str(settings.url), str(settings.key_user), str(connection.client.own_job))
    with _lock:
        kept = _kept.setdefault(who, connection)
    if kept is not connection:
        connection.close()
    return kept


def _of_process(connection: Connection | None = None) -> Children:
    """The calls of this process, which is no run; of the platform that it asked last, if none is given."""
    from libsafe_nb.interactive.payload import for_call

    with _lock:
        if connection is None:
            connection = _latest[-1] if _latest else None
    if connection is None:
        connection = for_call(None)[0]
    where = (os.getpid(), str(connection.settings.url))
    with _lock:
        _latest[:] = [connection]
        if where not in _ours:
            _ours[where] = _new(connection)
        return _ours[where]


def _new(connection: Connection) -> Children:
    from libsafe_nb import publishing
    from libsafe_nb.children import Children
    from libsafe_nb.lineage import Lineage
    from libsafe_nb.past import Past
    from libsafe_nb.redact.matching import SecretSet
    from libsafe_nb.reuse import Reuse
    from libsafe_nb.secrets import Secret

    run = f"session-{uuid.uuid4()}"

    def tell(event: dict[str, Any]) -> None:
        """Nothing: there is no record."""

    def client() -> Client:
        return connection.client

    made = Children(
        client,
        run=run,
        container="",
        secrets=SecretSet(Secret(name, value) for name, value in connection.secrets().items()),
        replay=None,
        tell=tell,
        read=lambda container, path: connection.storage.get(container, path),
        publish=publishing.by_path,
        past=Past(
            client,
            connection.storage,
            run=run,
            # It has no job, and goes on from no other.
            found=lambda: Lineage(run, ""),
            reuse=Reuse(client, connection.storage),
            tell=tell,
        ),
        in_run=False,
    )
    if "ipykernel" not in sys.modules:
        # A program is not to end before it has asked for what it holds back; a notebook's session, which waits for nobody, is.
        atexit.register(_last_calls, os.getpid(), made)
    return made


def _last_calls(process: int, calls: Children) -> None:
    if process == os.getpid():
        calls.wait_for_held()
