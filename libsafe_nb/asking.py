"""
What the platform is asked about a call: that it be made, what became of it, that it be cancelled.

What it answers comes back as plain data under the names that a record has for it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from libsafe_nb import record
from libsafe_nb.compat.writing import refuse
from libsafe_nb.errors import (
    Conflict,
    Forbidden,
    PlatformError,
    Unauthorized,
    Unreachable,
    UsageError,
)
from libsafe_nb.functions import Functions
from libsafe_nb.recordedcalls import (
    ENDED,
    NOT_TAKEN,
    NOT_TOLD,
    Shape,
    in_order,
)

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.redact.matching import SecretSet

EVIDENCE = "evidence: "
"""How the job's message begins that says where its evidence is."""
PATHS = 1000
"""Files whose ids are asked for at once."""


def ask(
    client: Client,
    function: str,
    *,
    container: str,
    files: Sequence[str] = (),
    params: Mapping[str, Any] | None = None,
    version: int | None = None,
    priority: int = 0,
    timeout: float | None = None,
    attempts: int | None = None,
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
    Unreachable
        Nobody answered; or so many calls of the function wait that it took no further one: `status` is 429.
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
            timeout=timeout,
            attempts=attempts,
            run=run,
            idempotency_key=key,
            when_full=False,
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
    try:
        about = about_function(client, function, version)
    except PlatformError:
        about = {}
    return tellable_of(about, params)


def tellable_of(about: Mapping[str, Any], params: Mapping[str, Any]) -> Shape:
    """As `tellable`, of a function that was asked about."""
    declared = {each.get("name"): bool(each.get("secret")) for each in about.get("parameters", ())}
    # A handler declares nothing, and takes it all the same.
    unknown = NOT_TAKEN if about.get("kind") == "notebook" else NOT_TOLD
    return {
        name: (f"[redacted:{name}]" if declared[name] else value) if name in declared else unknown
        for name, value in params.items()
    }


def about_function(client: Client, function: str, version: int | None) -> Shape:
    """What the platform tells of a function, or of one of its versions; empty where there is no such version."""
    functions = Functions(client)
    if version is None:
        return functions.get(function)
    return next((each for each in functions.versions(function) if each["number"] == version), {})


def _has_functions(functions: Functions) -> bool:
    try:
        return isinstance(functions.queue(), dict)
    except Unreachable:
        return True
    except PlatformError:
        return False


class Unreadable(PlatformError):
    """What the platform tells of a call makes no sense."""


def look(client: Client, call: str) -> Shape:
    """What became of a call: `status`, `job`, `version` and, once it has ended, `run`, `evidence`, `error` and `scraps`."""
    return seen(client, Functions(client).get_call(call))


def seen(client: Client, found: Shape, job: Mapping[str, Any] | None = None) -> Shape:
    """
    As `look`, of a call that the platform has told; asked for its job if that was not told.

    Raises
    ------
    Unreadable
        What it told makes no sense.
    """
    with _reading(client):
        told: Shape = {
            "status": found["status"],
            "job": found["job_id"],
            "version": found["version"],
            "sha256": found["sha256"],
            "attempts": found.get("attempts"),
        }
        ended = told["status"] in ENDED
    if not ended:
        return told
    job = cast("Mapping[str, Any]", client.job(told["job"])) if job is None else job
    with _reading(client):
        result = job["result"] if isinstance(job["result"], Mapping) else {}
        error = _error(result.get("error") or found["error"])
        scraps = result.get("scraps")
        told |= {
            "run": result.get("run"),
            "started": _moment(job["date_start"]),
            "ended": _moment(job["date_end"]),
            "evidence": result.get("evidence") or job.get("evidence"),
            "error": error,
            "scraps": scraps if isinstance(scraps, Mapping) else {},
        }
    if told["evidence"] is None and "evidence" not in job:
        told["evidence"] = _evidence(client, told["job"])
    return told


@contextlib.contextmanager
def _reading(client: Client) -> Iterator[None]:
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise Unreadable(
            f"{client.url}: expected of a call its status, job and times, got what cannot be read ({type(exc).__name__}: {exc})"
        ) from exc


def _error(told: Any) -> Any:
    """As a record has it; the platform's own, of what it could not execute, is a text."""
    if isinstance(told, Mapping):
        return in_order(told)
    return {"type": "Queue", "message": str(told), "cell_id": None} if told else None


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


def ids_of(client: Client, container: str, paths: Sequence[str]) -> dict[str, str]:
    """By path the ids of files of a container."""
    found: dict[str, str] = {}
    for start in range(0, len(paths), PATHS):
        rows: Iterable[Any] = client.search(
            [
                {"property": "container_id", "operator": "eq", "value": container},
                {"property": "fullpath", "operator": "in", "value": list(paths[start : start + PATHS])},
            ]
        )
        found |= {str(each["fullpath"]): str(each["id"]) for each in rows}
    return found
