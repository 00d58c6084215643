"""
The entry point of a Nuclio function that is a notebook or a plain handler: `libsafe_nb.nuclio:handler`.

`LIBSAFE_NB_FUNCTION` names the file. The event's body is the platform's payload, as text, as bytes, or as the object that
Nuclio makes of a body which is told to be JSON. What comes back is what `libsafe-nb run --json` prints, and a status:

    200   it ran: `status` says whether it completed, failed, was cancelled or timed out
    400   the payload, or what it names, is not as it should be: nothing was started
    500   the deployment is wrong: no such notebook, no such kernel, settings that contradict each other
    503   it could not be executed, or its evidence not be stored; the same call may be made again
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb.compat.called import Response
from libsafe_nb.errors import LibsafeError, NotebookError, PayloadError, SettingsError, UsageError
from libsafe_nb.payloads import Payload

if TYPE_CHECKING:
    from libsafe_nb.models import Run

FUNCTION = "LIBSAFE_NB_FUNCTION"
TIMEOUT = "LIBSAFE_NB_TIMEOUT"


def init_context(context: Any) -> None:
    """
    Nuclio calls this once, before the first event: a deployment that cannot work does not become ready.

    Raises
    ------
    SettingsError, NotebookError
        The function's file is not named, is none, or there is no kernel for it; the time-out is no number.
    """
    from libsafe_nb import plan

    plan.read_local(configured(os.environ))
    _timeout(os.environ)


def handler(context: Any, event: Any) -> Any:
    """
    Run the function for one event, store its evidence and end its job.

    Parameters
    ----------
    context
        Nuclio's; its logger is told how each run ended, and its `Response` is used. None will do.
    event
        Anything with a `body`.

    Returns
    -------
    context.Response
        JSON: `run`, `job`, `container`, `status`, `outcome`, `error`, `evidence`, `seconds` and `scraps`, or, where
        nothing was started, `{"error": {"type", "message"}}`.
    """
    try:
        path, timeout = configured(os.environ), _timeout(os.environ)
    except SettingsError as exc:
        return _answered(context, 500, refusal(exc))
    status, body = answer(getattr(event, "body", None), path, timeout=timeout)
    return _answered(context, status, body)


def configured(environ: Mapping[str, str]) -> Path:
    """The function's file."""
    if not environ.get(FUNCTION):
        raise SettingsError(f"{FUNCTION}: expected the path of a notebook or a handler; it is not set")
    return Path(environ[FUNCTION])


def _timeout(environ: Mapping[str, str]) -> float | None:
    given = environ.get(TIMEOUT)
    if not given:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise SettingsError(f"{TIMEOUT}: expected seconds above 0, got {given!r}")
    return seconds


def answer(body: Any, path: Path, **options: Any) -> tuple[int, dict[str, Any]]:
    """Run the function at `path` for a payload: status and JSON of the answer. `options` are those of `libsafe_nb.run`."""
    from libsafe_nb import runner

    payload = None
    try:
        if not isinstance(body, (Payload, str, bytes, bytearray, dict)):
            raise PayloadError(f"payload: expected a JSON object, got {type(body).__name__}", path="")
        payload = body if isinstance(body, Payload) else Payload.parse(_plain(body))
        run: Run = runner.run(payload, path, **options)
    except LibsafeError as exc:
        return status(exc), refusal(exc, payload)
    return 503 if run.exit_code == 3 else 200, run.to_json()


def status(exc: LibsafeError) -> int:
    """The answer's status where a run did not begin."""
    if isinstance(exc, (NotebookError, SettingsError)):
        return 500
    return 400 if isinstance(exc, UsageError) else 503


def _plain(body: str | bytes | bytearray | dict[str, Any]) -> str | bytes | dict[str, Any]:
    return bytes(body) if isinstance(body, bytearray) else body


def refusal(exc: LibsafeError, payload: Payload | None = None) -> dict[str, Any]:
    """An error as JSON, without the keys of the settings and of the payload: a server may have quoted one in its answer."""
    return {"error": {"type": type(exc).__name__, "message": clean(str(exc), payload)}}


def clean(text: str, payload: Payload | None = None) -> str:
    """Text without the keys of the settings and of the payload."""
    from libsafe_nb.check import configured_secrets
    from libsafe_nb.redact.matching import SecretSet
    from libsafe_nb.secrets import SAMPLE_KEY, Secret, weakness

    api = payload.api if payload else {}
    given = {name: api.get(name) for name in ("key_user", "key_root")}
    text = SecretSet(
        Secret(name, value)
        for name, value in given.items()
        if isinstance(value, str) and value != SAMPLE_KEY and not weakness(value)
    ).clean(text)
    # Where the settings themselves are what is wrong, no key was read from them.
    with contextlib.suppress(LibsafeError):
        text = configured_secrets().clean(text)
    return text


def _answered(context: Any, status: int, body: dict[str, Any]) -> Any:
    logger = getattr(context, "logger", None)
    if logger is not None:
        told = {name: body[name] for name in ("job", "status", "error", "evidence") if body.get(name)}
        say = logger.info_with if status == 200 and body.get("status") == "completed" else logger.warn_with
        say("libsafe-nb", **told)
    kind = getattr(context, "Response", Response)
    return kind(
        headers={},
        body=json.dumps(body, ensure_ascii=False, default=str),
        content_type="application/json",
        status_code=status,
    )
