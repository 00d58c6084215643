"""
One run from payload to verdict: the waist that alone knows the whole path. `docs/journey-of-a-run.md` follows it.

Evidence comes before the verdict: the job is COMPLETED only when its evidence is stored. When the evidence cannot be
stored the job stays RUNNING with a message that says so, and the verdict stays in the journal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import atomic, evidence, kernels, record
from libsafe_nb.connection import Connection
from libsafe_nb.desk import Desk
from libsafe_nb.door import VARIABLE, Door
from libsafe_nb.errors import ExecutionError, LibsafeError, PlatformError, RunCancelled, StorageError
from libsafe_nb.interrupts import Interrupts
from libsafe_nb.journal import Journal
from libsafe_nb.models import Run, describe
from libsafe_nb.payload import Payload
from libsafe_nb.plan import Plan, prepare, within
from libsafe_nb.settings import Settings

if TYPE_CHECKING:
    from libsafe_nb.execution import CellState, Execution, Limits, Outcome

AWAKE_EVERY = 60.0
"""Seconds between signs of life to a local platform, which ends when it has been idle for ten minutes."""

JOB_STATUS = {"completed": "COMPLETED", "cancelled": "CANCELLED"}
EXIT_CODES = {"completed": 0, "failed": 1, "errored": 3, "timeout": 4, "cancelled": 130}


def run(
    payload: Payload | str | bytes | Mapping[str, Any] | None,
    notebook: str | Path,
    *,
    container: str | None = None,
    files: Sequence[str] = (),
    uploads: Sequence[str | Path] = (),
    params: Mapping[str, Any] | None = None,
    job: str | None = None,
    timeout: float | None = None,
    limits: Limits | None = None,
    settings: Settings | None = None,
    script: bool = False,
    on_cell: Callable[[CellState], None] | None = None,
    on_start: Callable[[Execution], None] | None = None,
) -> Run:
    """
    Run one function notebook, store its evidence and end its job.

    Parameters
    ----------
    payload
        The platform's JSON; None makes that of a manual run.
    notebook
        A local path or `libsafe://CONTAINER/path.ipynb`.
    files
        Ids or paths (with a leading slash) of files in the container, beside those of the payload.
    uploads
        Local files, stored as `/{basename}` and added to the run's files; equal bytes are not stored again.
    params
        Function parameters; one that the notebook does not declare is refused.
    job
        An existing job; by default the payload's, else a new one.
    timeout
        Seconds for the whole execution; none by default.
    script
        `notebook` is a plain Python script, run as a one-cell notebook.
    on_start
        Given the `Execution` before the kernel starts, so that another thread can cancel it.

    Returns
    -------
    Run
        Also when the function failed; `Run.raise_for_failure` makes that an exception.

    Raises
    ------
    UsageError
        Bad payload, notebook or parameters: nothing was started.
    PlatformError, StorageError, LocalPlatformError
        The platform could not be reached before the first cell ran.
    """
    began = time.monotonic()
    with Interrupts() as interrupts:
        plan = prepare(
            payload,
            notebook,
            container=container,
            files=files,
            uploads=[Path(each) for each in uploads],
            params=params or {},
            job=job,
            limits=within(limits, timeout),
            settings=settings,
            script=script,
            on_cell=on_cell,
        )
        return _journey(plan, interrupts, began, on_start)


# The run itself -------------------------------------------------------------------------------------------------


def _journey(
    plan: Plan, interrupts: Interrupts, began: float, on_start: Callable[[Execution], None] | None
) -> Run:
    started = datetime.now(UTC)
    with contextlib.ExitStack() as cleanup:
        try:
            journal = cleanup.enter_context(Journal(plan.folder))
            journal.write(
                "begun", run=plan.run, job=plan.payload.job, container=plan.payload.container, pid=os.getpid()
            )
            _announce(plan, started)
            journal.write("started")
            desk, outcome = _at_the_door(plan, interrupts, on_start)
        except BaseException as exc:
            # Signals as well: a job that was announced is never left open.
            cancelled = isinstance(exc, (RunCancelled, KeyboardInterrupt))
            reason = str(exc) or type(exc).__name__
            _close_job(
                plan, "CANCELLED" if cancelled else "FAILED", message=f"the run could not start: {reason}"
            )
            shutil.rmtree(plan.folder, ignore_errors=True)
            raise
        interrupts.finishing = True
        journal.write("executed", status=outcome.status, verdict=desk.verdict)
        try:
            return _finish(plan, journal, desk, outcome, started, began)
        except Exception as exc:
            # A fault of ours. What was executed is on this machine, so the job says where rather than that it failed.
            text = _say_pending(plan, exc)
            raise ExecutionError(
                f"run {plan.run}: {text} ({type(exc).__name__}; kept in {plan.folder})"
            ) from exc


def _at_the_door(
    plan: Plan, interrupts: Interrupts, on_start: Callable[[Execution], None] | None
) -> tuple[Desk, Outcome]:
    with tempfile.TemporaryDirectory(prefix="lsnb-", dir=socket_folder()) as sockets:
        keys = {
            "key_user": plan.connection.settings.key_user,
            "key_root": plan.connection.settings.key_root or "",
        }
        desk = Desk(
            plan.connection,
            run=plan.run,
            job=plan.payload.job,
            api={**plan.payload.api, **keys},
            log=plan.folder / "events.jsonl",
            secrets=plan.secrets,
        )
        with contextlib.closing(desk):
            door = Path(sockets) / "door"
            with Door(door, desk.answer), _awake(plan.connection):
                return desk, _execute(plan, desk, door, interrupts, on_start)


def socket_folder() -> str:
    """
    Where a run's socket may lie: a folder that exists, can be written and is short.

    A socket's path is at most 107 bytes (unix(7)); `$XDG_RUNTIME_DIR` may name a folder of another login.
    """
    for folder in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108 - the last resort
        if folder and len(os.fsencode(folder)) <= 60 and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise ExecutionError(
        "no folder for the run's socket: expected one that can be written, with a path of at most 60 bytes"
    )


@contextlib.contextmanager
def _awake(connection: Connection) -> Iterator[None]:
    """Keep the local platform from ending during a long cell that asks nothing of it."""
    ended = threading.Event()

    def knock() -> None:
        while not ended.wait(AWAKE_EVERY):
            with contextlib.suppress(LibsafeError):
                # Not `health`: anybody may ask that, so the platform does not take it for work.
                connection.client.me()

    thread = threading.Thread(target=knock, name="awake", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _announce(plan: Plan, started: datetime) -> None:
    """The start record, before cell 1: a run whose machine is lost is known by it."""
    client = plan.connection.client
    body = {
        "schema": "libsafe-nb-started/1",
        "run": plan.run,
        "job": plan.payload.job,
        "container": plan.payload.container,
        "function": {"key": plan.payload.function_key, "notebook_sha256": plan.function.sha256},
        "started": record.timestamp(started),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }
    path = f"provenance/started/{plan.run}.json"
    evidence.put_once(plan.connection.storage, plan.payload.container, path, record.canonical(body))
    client.update_job(plan.payload.job, status="RUNNING")
    for warning in plan.warnings:
        client.message(plan.payload.job, warning, type="WARNING")


def _execute(
    plan: Plan, desk: Desk, door: Path, interrupts: Interrupts, on_start: Callable[[Execution], None] | None
) -> Outcome:
    # Imported here: papermill costs most of a second.
    import nbformat
    import papermill

    from libsafe_nb.execution import Execution
    from libsafe_nb.redact.live import LiveFilter

    work = plan.folder / "work"
    work.mkdir(mode=0o700)
    # It warns of parameters that it cannot see in the cell; ours were checked, and stderr is the user's.
    papermill.utils.logger.setLevel("ERROR")
    source = plan.folder / "in.ipynb"
    atomic.write_text(source, nbformat.writes(plan.function.node))
    fill = (
        "__import__('libsafe_nb.compat.keys', fromlist=['fill']).fill("
        f"globals(), {str(door)!r}, {desk.nonce!r}, {plan.function.payload_name!r})"
    )
    execution = Execution(
        limits=plan.limits,
        save_to=plan.folder / "executed.ipynb",
        cwd=work,
        env={**kernels.environment(), VARIABLE: str(door)},
        after_parameters=(lambda: fill) if plan.function.language == "python" else None,
        output_filter=LiveFilter(plan.secrets),
        on_cell=plan.on_cell,
    )
    interrupts.execution = execution
    if on_start:
        on_start(execution)
    # The engine keeps the outcome, and papermill's own exception would say less.
    with contextlib.suppress(papermill.exceptions.PapermillException, LibsafeError):
        papermill.execute_notebook(
            str(source),
            None,
            parameters=_parameters(plan),
            engine_name="libsafe",
            kernel_name=plan.function.kernel_name or "python3",
            language=plan.function.language,
            progress_bar=False,
            execution=execution,
        )
    assert execution.outcome is not None
    return execution.outcome


def _parameters(plan: Plan) -> dict[str, Any]:
    """What papermill injects: the payload with placeholders for keys, and the typed parameters that were given."""
    names = {"key_user", "key_root", *plan.payload.api} - {"url"}
    api = {"url": plan.payload.api["url"], **{name: {"$secret": name} for name in sorted(names)}}
    own = {
        name: plan.payload.params[name]
        for name, declared in plan.function.parameters.items()
        if not declared.in_payload and name in plan.payload.params
    }
    return {plan.function.payload_name: plan.payload.replace(api=api).to_dict(), **own}


# After the last cell --------------------------------------------------------------------------------------------


def _finish(
    plan: Plan, journal: Journal, desk: Desk, outcome: Outcome, started: datetime, began: float
) -> Run:
    status = "failed" if outcome.status == "completed" and desk.verdict is False else outcome.status
    function_key = plan.payload.function_key or Path(plan.function.name).stem
    prefix = evidence.folder(function=function_key, started=started, job=plan.payload.job)
    executed = _executed(plan)
    scraps = _scraps(executed)
    body = _record(plan, desk, outcome, status=status, started=started, executed=executed)
    target = plan.folder / "evidence"
    files = {"executed.ipynb": executed, "record.json": _scrubbed(plan, record.canonical(body))}
    evidence.freeze(target, files)
    journal.write("frozen", prefix=prefix, names=list(files), status=status)
    error = dict(outcome.error) if outcome.error else None
    result = Run(
        run=plan.run,
        job=plan.payload.job,
        container=plan.payload.container,
        status=status,
        error=error,
        evidence=f"libsafe://{plan.payload.container}/{prefix}/",
        seconds=time.monotonic() - began,
        scraps=scraps,
        cause=outcome.cause or "",
        exit_code=143 if outcome.cause == "terminated" else EXIT_CODES[status],
    )
    try:
        evidence.store(plan.connection.storage, plan.payload.container, prefix, target, list(files))
        journal.write("stored")
        _end(plan, result)
    except (StorageError, PlatformError) as exc:
        return _pending(plan, result, exc)
    journal.write("ended")
    journal.close()
    shutil.rmtree(plan.folder, ignore_errors=True)
    return dataclasses.replace(result, seconds=time.monotonic() - began)


def _executed(plan: Plan) -> bytes:
    """The notebook as the engine left it, without this machine's paths; as it was given where no kernel started."""
    saved = plan.folder / "executed.ipynb"
    node = json.loads((saved if saved.exists() else plan.folder / "in.ipynb").read_bytes())
    node["metadata"].setdefault("papermill", {})["input_path"] = Path(plan.function.name).name
    return _scrubbed(plan, json.dumps(node, ensure_ascii=False, indent=1).encode() + b"\n")


def _end(plan: Plan, result: Run) -> None:
    """Say what happened to the job and close it, unless it is closed already (the vendor's library does so)."""
    from libsafe_nb.redact.values import redact_value

    client, scrub = plan.connection.client, plan.secrets.clean
    if result.error:
        client.message(result.job, scrub(describe(result.error)), type="ERROR")
    if result.scraps:
        client.message(result.job, scrub(json.dumps({"scraps": result.scraps}, default=str)))
    client.message(result.job, f"evidence: {result.evidence}")
    if client.job(result.job)["status"] in ("QUEUED", "RUNNING"):
        outcome, _ = redact_value(result.to_json(), plan.secrets)
        client.update_job(result.job, status=JOB_STATUS.get(result.status, "FAILED"), result=outcome)


def _pending(plan: Plan, result: Run, exc: LibsafeError) -> Run:
    """The evidence is safe on this machine but not in the container; the job stays RUNNING and says so."""
    text = f"{_say_pending(plan, exc)} (kept in {plan.folder})"
    error = {"type": type(exc).__name__, "message": text, "cell_id": None}
    return dataclasses.replace(result, evidence=None, error=error, exit_code=3)


def _say_pending(plan: Plan, exc: Exception) -> str:
    text = plan.secrets.clean(f"evidence pending on {socket.gethostname()}: {exc}")
    with contextlib.suppress(PlatformError):
        plan.connection.client.message(plan.payload.job, text, type="WARNING")
    return text


def _close_job(plan: Plan, status: str, *, message: str) -> None:
    """Best effort: the error that led here matters more than one more."""
    client = plan.connection.client
    with contextlib.suppress(LibsafeError):
        client.message(plan.payload.job, plan.secrets.clean(message), type="ERROR")
        client.update_job(plan.payload.job, status=status)


def _record(
    plan: Plan, desk: Desk, outcome: Outcome, *, status: str, started: datetime, executed: bytes
) -> dict[str, Any]:
    import platform
    from importlib.metadata import version

    payload = plan.payload.replace(api=_parameters(plan)[plan.function.payload_name]["api"]).to_dict()
    versions = {name: version(name) for name in ("libsafe-nb", "papermill", "nbclient", "ipykernel")}
    body = {
        "schema": record.SCHEMA,
        "id": f"urn:uuid:{plan.run}",
        "job": {"id": plan.payload.job},
        "container": {"id": plan.payload.container},
        "trigger": plan.payload.trigger,
        "function": {
            "id": plan.payload.function_id,
            "key": plan.payload.function_key,
            "name": Path(plan.function.name).name,
            "notebook_sha256": plan.function.sha256,
            "code_sha256": plan.function.code_sha256,
            "substitutions": [dataclasses.asdict(each) for each in plan.function.substitutions],
        },
        "agent": {"user": {"id": plan.payload.user}, "runner": versions},
        "payload": record.plain(payload),
        "payload_sha256": record.digest(record.canonical(record.plain(payload))),
        "secrets": [
            {"name": name, "via": "kernel"} for name in plan.connection.secrets() if name.startswith("key_")
        ],
        "started": record.timestamp(started),
        "ended": record.timestamp(datetime.now(UTC)),
        "clock": "host, not attested",
        "status": status,
        "cause": outcome.cause,
        "error": outcome.error,
        "job_result": desk.verdict,
        "inputs": record.inputs(desk.events, plan.files),
        "outputs": record.outputs(desk.events),
        "files": record.files(desk.events, [each["id"] for each in plan.files]),
        "platform_writes": record.platform_writes(desk.events),
        "cells": [dataclasses.asdict(each) for each in outcome.cells],
        "messages": [event for event in desk.events if event.get("kind") == "message"],
        "env": {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "kernel": outcome.kernel,
        },
        "notebook": {"path": "executed.ipynb", "sha256": record.digest(executed), "size": len(executed)},
        "truncated": outcome.truncated,
        "not_captured": record.NOT_CAPTURED,
    }
    found: dict[str, Any] = record.plain(body)
    return found


def _scraps(executed: bytes) -> dict[str, Any]:
    """Values that the notebook glued with scrapbook, by name, read from the MIME bundles of its outputs."""
    found: dict[str, Any] = {}
    for cell in json.loads(executed)["cells"]:
        for output in cell.get("outputs", []):
            for kind, scrap in output.get("data", {}).items():
                # One MIME type an encoder: application/scrapbook.scrap.json+json, …text+json, ….
                if (
                    kind.startswith("application/scrapbook.scrap.")
                    and isinstance(scrap, dict)
                    and "name" in scrap
                ):
                    found[str(scrap["name"])] = scrap.get("data")
    return found


# Keys stay out --------------------------------------------------------------------------------------------------


def _scrubbed(plan: Plan, data: bytes) -> bytes:
    """A JSON document without the secrets; its bytes stay as they are where there is none in it."""
    from libsafe_nb.redact.values import redact_value

    clean, found = redact_value(json.loads(data), plan.secrets)
    return json.dumps(clean, ensure_ascii=False, indent=1).encode() if found else data
