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
import signal
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from libsafe_nb import evidence, kernels, record
from libsafe_nb import notebook as notebooks
from libsafe_nb.connection import Connection, connect
from libsafe_nb.desk import Desk
from libsafe_nb.door import VARIABLE, Door
from libsafe_nb.errors import LibsafeError, NotebookError, NotFound, PlatformError, StorageError, UsageError
from libsafe_nb.journal import Journal
from libsafe_nb.models import Run, describe
from libsafe_nb.notebook import FunctionNotebook
from libsafe_nb.papermill_io import split
from libsafe_nb.payload import Payload
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.secrets import Secret
from libsafe_nb.settings import Settings

if TYPE_CHECKING:
    from libsafe_nb.execution import CellState, Execution, Limits, Outcome

DEFAULT_CONTAINER = "1"
"""The local platform's default container."""

LISTED_WITHIN = 60.0
"""Seconds that the platform has to list a file after it was put to S3."""

AWAKE_EVERY = 60.0
"""Seconds between signs of life to a local platform, which ends when it has been idle for ten minutes."""

JOB_STATUS = {"completed": "COMPLETED", "cancelled": "CANCELLED"}
EXIT_CODES = {"completed": 0, "failed": 1, "errored": 3, "timeout": 4, "cancelled": 130}


@dataclass(frozen=True)
class _Plan:
    """All that is settled before the job starts."""

    run: str
    connection: Connection
    function: FunctionNotebook
    payload: Payload
    files: list[dict[str, Any]]
    warnings: list[str]
    secrets: SecretSet
    limits: Limits
    on_cell: Callable[[CellState], None] | None
    folder: Path


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
    with contextlib.ExitStack() as cleanup:
        plan = _prepare(
            payload,
            notebook,
            container=container,
            files=files,
            uploads=[Path(each) for each in uploads],
            params=params or {},
            job=job,
            limits=_limits(limits, timeout),
            settings=settings,
            script=script,
            on_cell=on_cell,
        )
        journal = cleanup.enter_context(Journal(plan.folder))
        journal.write(
            "begun", run=plan.run, job=plan.payload.job, container=plan.payload.container, pid=os.getpid()
        )
        return _journey(plan, journal, began, on_start)


def _limits(limits: Limits | None, timeout: float | None) -> Limits:
    from libsafe_nb.execution import Limits

    found = limits or Limits()
    return dataclasses.replace(found, timeout=timeout) if timeout is not None else found


# Before the job starts ------------------------------------------------------------------------------------------


def _prepare(
    payload: Payload | str | bytes | Mapping[str, Any] | None,
    notebook: str | Path,
    *,
    container: str | None,
    files: Sequence[str],
    uploads: list[Path],
    params: Mapping[str, Any],
    job: str | None,
    limits: Limits,
    settings: Settings | None,
    script: bool,
    on_cell: Callable[[CellState], None] | None,
) -> _Plan:
    given = (
        payload if isinstance(payload, Payload) else Payload.parse(payload) if payload is not None else None
    )
    _check_uploads(uploads)
    remote = str(notebook).startswith("libsafe://")
    # What needs no platform is checked before one is started.
    function = None if remote else _parse(_read_local(Path(notebook)), str(notebook), script=script)
    bound, warnings = _bind(function, given, params) if function else ({}, [])
    connection = connect(given, settings=settings)
    # A key too weak to be told from ordinary text is refused here, before anything is stored.
    secrets = SecretSet([Secret(name, value) for name, value in connection.secrets().items()])
    if function is None:
        function = _parse(_read_remote(connection, str(notebook)), str(notebook), script=script)
        bound, warnings = _bind(function, given, params)
    base = given or Payload.manual(container=container or DEFAULT_CONTAINER)
    base = base.replace(container=container, params=bound)
    found = _find_files(connection, base, files, uploads)
    base = base.replace(
        api={**base.api, "url": connection.settings.url},
        file_ids=[each["id"] for each in found],
        file_paths=[each["fullpath"] for each in found],
    )
    run_id = str(uuid.uuid4())
    base = base.replace(job=job or base.job or _create_job(connection, base, function))
    return _Plan(
        run=run_id,
        connection=connection,
        function=function,
        payload=base,
        files=found,
        warnings=warnings,
        secrets=secrets,
        limits=limits,
        on_cell=on_cell,
        folder=connection.settings.home / "runs" / run_id,
    )


def _check_uploads(uploads: list[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in uploads:
        if not path.is_file():
            raise UsageError(
                f"--upload {path}: expected a file, found {'a folder' if path.is_dir() else 'nothing'}"
            )
        if path.name in seen:
            raise UsageError(
                f"--upload {path}: {seen[path.name]} has the same name; both would be stored as /{path.name}"
            )
        seen[path.name] = path


def _read_local(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise NotebookError(f"{path}: cannot be read ({exc.strerror or exc})", notebook=str(path)) from exc


def _read_remote(connection: Connection, address: str) -> bytes:
    container, path = split(address)
    return connection.storage.get(container, path)


def _parse(source: bytes, name: str, *, script: bool) -> FunctionNotebook:
    function = notebooks.from_script(source, name=name) if script else notebooks.parse(source, name=name)
    kernels.check(function.kernel_name, function.language)
    return function


def _bind(
    function: FunctionNotebook, given: Payload | None, params: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    strict = bool(function.metadata.get("strict_params"))
    bound = notebooks.bind(function, given.params if given else {}, known_only=strict)
    unknown = [name for name in bound if name not in function.parameters]
    bound.update(
        {
            name: notebooks.bind(function, {name: value}, known_only=True)[name]
            for name, value in params.items()
        }
    )
    return bound, [
        f"function_params.{name} is not declared by the notebook; it was passed on as it is"
        for name in unknown
    ]


def _create_job(connection: Connection, payload: Payload, function: FunctionNotebook) -> str:
    created = connection.client.create_job(
        payload.container, name=Path(function.name).name, function_key=payload.function_key or None
    )
    return created["id"]


def _find_files(
    connection: Connection, payload: Payload, files: Sequence[str], uploads: list[Path]
) -> list[dict[str, Any]]:
    """The run's files as the platform knows them, in order, each once. Uploads come last: a typing error stores nothing."""
    wanted = [*(payload.file_ids or payload.file_paths), *files]
    by_id = {each["id"]: each for each in _by_ids(connection, [name for name in wanted if name.isdigit()])}
    found = [
        by_id[name] if name.isdigit() else _by_path(connection, payload.container, name) for name in wanted
    ]
    for path in uploads:
        connection.storage.upload(payload.container, f"/{path.name}", path)
        found.append(_await_file(connection, payload.container, f"/{path.name}"))
    return list({each["id"]: each for each in found}.values())


def _by_path(connection: Connection, container: str, path: str) -> dict[str, Any]:
    try:
        return dict(connection.client.file_by_path(container, path))
    except NotFound as exc:
        raise UsageError(f"container {container}: expected a file at {path!r}, found none") from exc


def _await_file(connection: Connection, container: str, path: str) -> dict[str, Any]:
    """A file that was just put to S3, as soon as the platform lists it; how soon that is, is not ours to say."""
    deadline = time.monotonic() + LISTED_WITHIN
    while True:
        try:
            return dict(connection.client.file_by_path(container, path))
        except NotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _by_ids(connection: Connection, ids: list[str]) -> Iterator[dict[str, Any]]:
    for start in range(0, len(ids), 500):
        batch = ids[start : start + 500]
        found = connection.client.search(
            [{"property": "id", "operator": "in", "value": batch}], page=len(batch)
        )
        known = {row["id"]: dict(row) for row in found}
        for each in batch:
            if each not in known:
                raise UsageError(f"file {each}: the platform has no such file, or the key may not see it")
            yield known[each]


# The run itself -------------------------------------------------------------------------------------------------


def _journey(
    plan: _Plan, journal: Journal, began: float, on_start: Callable[[Execution], None] | None
) -> Run:
    started = datetime.now(UTC)
    try:
        _announce(plan, started)
        journal.write("started")
    except BaseException as exc:
        # Ctrl-C as well: a job that was announced is never left open.
        _close_job(plan, "FAILED", message=f"the run could not start: {exc or type(exc).__name__}")
        raise
    with tempfile.TemporaryDirectory(prefix="lsnb-", dir=os.environ.get("XDG_RUNTIME_DIR")) as sockets:
        api = {
            **plan.payload.api,
            "key_user": plan.connection.settings.key_user,
            "key_root": plan.connection.settings.key_root or "",
        }
        desk = Desk(
            plan.connection,
            run=plan.run,
            job=plan.payload.job,
            api=api,
            log=plan.folder / "events.jsonl",
            secrets=plan.secrets,
        )
        try:
            door = Path(sockets) / "door"
            with Door(door, desk.answer), _awake(plan.connection):
                outcome = _execute(plan, desk, door, on_start)
        finally:
            desk.close()
    journal.write("executed", status=outcome.status, verdict=desk.verdict)
    with _patience():
        try:
            return _finish(plan, journal, desk, outcome, started, began)
        except Exception as exc:
            # A fault of ours. What was executed is on this machine, so the job says where rather than that it failed.
            _say_pending(plan, exc)
            raise


@contextlib.contextmanager
def _awake(connection: Connection) -> Iterator[None]:
    """Keep the local platform from ending during a long cell that asks nothing of it."""
    ended = threading.Event()

    def knock() -> None:
        while not ended.wait(AWAKE_EVERY):
            with contextlib.suppress(LibsafeError):
                connection.client.health()

    thread = threading.Thread(target=knock, name="awake", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _announce(plan: _Plan, started: datetime) -> None:
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


def _execute(plan: _Plan, desk: Desk, door: Path, on_start: Callable[[Execution], None] | None) -> Outcome:
    # Imported here: papermill costs most of a second.
    import nbformat
    import papermill

    from libsafe_nb.execution import Execution
    from libsafe_nb.redact.live import LiveFilter

    work = plan.folder / "work"
    work.mkdir(mode=0o700)
    source = plan.folder / "in.ipynb"
    nbformat.write(plan.function.node, source)
    fill = (
        "__import__('libsafe_nb.compat.keys', fromlist=['fill']).fill("
        f"globals(), {str(door)!r}, {desk.nonce!r}, {plan.function.payload_name!r})"
    )
    execution = Execution(
        limits=plan.limits,
        save_to=plan.folder / "executed.ipynb",
        cwd=work,
        env=_environment(door),
        after_parameters=(lambda: fill) if plan.function.language == "python" else None,
        output_filter=LiveFilter(plan.secrets),
        on_cell=plan.on_cell,
    )
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


def _parameters(plan: _Plan) -> dict[str, Any]:
    """What papermill injects: the payload with placeholders for keys, and the typed parameters that were given."""
    api = {**plan.payload.api, "key_user": {"$secret": "key_user"}, "key_root": {"$secret": "key_root"}}
    own = {
        name: plan.payload.params[name]
        for name, declared in plan.function.parameters.items()
        if not declared.in_payload and name in plan.payload.params
    }
    return {plan.function.payload_name: plan.payload.replace(api=api).to_dict(), **own}


def _environment(door: Path) -> dict[str, str]:
    """The kernel's environment: ours without any LIBSAFE_* and with the door."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIBSAFE_")}
    return {**kept, VARIABLE: str(door)}


# After the last cell --------------------------------------------------------------------------------------------


def _finish(
    plan: _Plan, journal: Journal, desk: Desk, outcome: Outcome, started: datetime, began: float
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


def _executed(plan: _Plan) -> bytes:
    """The notebook as the engine left it, without this machine's paths; as it was given where no kernel started."""
    saved = plan.folder / "executed.ipynb"
    node = json.loads((saved if saved.exists() else plan.folder / "in.ipynb").read_bytes())
    node["metadata"].setdefault("papermill", {})["input_path"] = Path(plan.function.name).name
    return _scrubbed(plan, json.dumps(node, ensure_ascii=False, indent=1).encode() + b"\n")


def _end(plan: _Plan, result: Run) -> None:
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


def _pending(plan: _Plan, result: Run, exc: LibsafeError) -> Run:
    """The evidence is safe on this machine but not in the container; the job stays RUNNING and says so."""
    text = f"{_say_pending(plan, exc)} (kept in {plan.folder})"
    error = {"type": type(exc).__name__, "message": text, "cell_id": None}
    return dataclasses.replace(result, evidence=None, error=error, exit_code=3)


def _say_pending(plan: _Plan, exc: Exception) -> str:
    text = plan.secrets.clean(f"evidence pending on {socket.gethostname()}: {exc}")
    with contextlib.suppress(PlatformError):
        plan.connection.client.message(plan.payload.job, text, type="WARNING")
    return text


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """
    Let the evidence be stored before a signal ends the program; the second signal ends it at once.

    Only the main thread gets signals, so elsewhere there is nothing to do.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def wait(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)] or signal.SIG_DFL)

    for number in before:
        signal.signal(number, wait)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _close_job(plan: _Plan, status: str, *, message: str) -> None:
    """Best effort: the error that led here matters more than one more."""
    client = plan.connection.client
    with contextlib.suppress(LibsafeError):
        client.message(plan.payload.job, plan.secrets.clean(message), type="ERROR")
        client.update_job(plan.payload.job, status=status)


def _record(
    plan: _Plan, desk: Desk, outcome: Outcome, *, status: str, started: datetime, executed: bytes
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
        "payload": payload,
        "payload_sha256": record.digest(record.canonical(payload)),
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
    return json.loads(json.dumps(body, default=str))  # type: ignore[no-any-return]


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


def _scrubbed(plan: _Plan, data: bytes) -> bytes:
    """A JSON document without the secrets; its bytes stay as they are where there is none in it."""
    from libsafe_nb.redact.values import redact_value

    clean, found = redact_value(json.loads(data), plan.secrets)
    return json.dumps(clean, ensure_ascii=False, indent=1).encode() if found else data
