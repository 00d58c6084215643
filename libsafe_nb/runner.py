"""
One run from payload to verdict: the waist that alone knows the whole path. `docs/journey-of-a-run.md` follows it.

Everything that must survive this process is in the run's folder before the next step begins (`journal.py`); what comes
after the last cell is in `closing.py`, where a recovery takes it up as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import (
    atomic,
    closing,
    environment,
    fingerprint,
    kernels,
    languages,
    lease,
    lineage,
    publishing,
    record,
    recover,
    reuse,
)
from libsafe_nb.description import described
from libsafe_nb.desk import Desk
from libsafe_nb.door import STUB, VARIABLE, Door
from libsafe_nb.errors import (
    ExecutionError,
    LibsafeError,
    NotebookError,
    PlatformError,
    RunCancelled,
    StorageUnreachable,
    Unreachable,
)
from libsafe_nb.facts import Facts
from libsafe_nb.hosts import Hosts
from libsafe_nb.interrupts import Interrupts
from libsafe_nb.journal import SOCKETS, Journal
from libsafe_nb.lineage import Lineage
from libsafe_nb.models import Parent, Published, Replay, Run
from libsafe_nb.notebook import FunctionNotebook
from libsafe_nb.past import Past
from libsafe_nb.payloads import Payload
from libsafe_nb.plan import Plan, prepare, within
from libsafe_nb.processes import ProcessId
from libsafe_nb.redact import LiveFilter, Redaction, redact_document
from libsafe_nb.reuse import Reuse
from libsafe_nb.sealing import Sealed, Story, seal
from libsafe_nb.settings import Settings

if TYPE_CHECKING:
    from libsafe_nb.client import Client
    from libsafe_nb.connection import Connection
    from libsafe_nb.errands import Begun
    from libsafe_nb.execution import CellState, Limits, Outcome, RunStatus
    from libsafe_nb.storage import Storage

HURRY = 10.0
"""Seconds for each call after a signal."""

COMMANDS = "bin"
"""Folder within the run's that comes first in the kernel's PATH."""


def run(
    payload: Payload | str | bytes | Mapping[str, Any] | None,
    notebook: str | Path | FunctionNotebook,
    *,
    container: str | None = None,
    files: Sequence[str] = (),
    uploads: Sequence[str | Path] = (),
    params: Mapping[str, Any] | None = None,
    job: str | None = None,
    timeout: float | None = None,
    limits: Limits | None = None,
    settings: Settings | None = None,
    connection: Connection | None = None,
    script: bool = False,
    wait: bool = True,
    on_cell: Callable[[CellState], None] | None = None,
    on_start: Callable[[Run], None] | None = None,
    replay: Replay | None = None,
    published: Published | None = None,
    parent: Parent | None = None,
    queued: bool = False,
    identity: str | None = None,
    workers: int | None = None,
    dask: str | None = None,
    fresh: bool = False,
) -> Run:
    """
    Run one function notebook, store its evidence and end its job.

    What runs on this machine were interrupted before (`recover.py`) is finished first.

    Parameters
    ----------
    payload
        The platform's JSON; None makes that of a manual run.
    notebook
        A local path or `libsafe://CONTAINER/path.ipynb`; or a notebook that was read already.
    files
        Ids or paths (with a leading slash) of files in the container, beside those of the payload.
    uploads
        Local files, stored as `/{basename}` and added to the run's files, and folders, of which each file is stored as
        `/{folder}/{path within it}`; equal bytes are not stored again.
    params
        Function parameters; one that the notebook does not declare is refused.
    job
        An existing job; by default the payload's, else a new one.
    timeout
        Seconds for the whole execution; none by default.
    connection
        Set by a map: an open one, with its settings, which stays open for the next run. By default each run has its own.
    script
        `notebook` is a plain Python script, run as a one-cell notebook.
    wait
        With False the run goes on in a thread, and what is returned has the status `running` until it has ended:
        `Run.wait` waits, `Run.cancel` cancels. SIGINT and SIGTERM then remain the caller's. If this process ends
        before it, the run is interrupted, and a recovery ends its job.
    on_start
        Given the `Run`, still `running`, before the kernel starts.
    replay
        Set by `libsafe_nb.replay`, for a run that repeats another.
    published
        Set by the platform's worker: the version that the notebook must be, byte for byte.
    parent
        Set by the platform's worker and by a map: whose function called this one, or whose batch this is, for the record and
        for the job, where it is created here.
    queued
        Set by the platform's worker and by a map: the files were chosen a while ago, and those that were deleted since are
        handed over as such, as a trigger's are.
    identity
        Set by a map: the run's id (a UUID), by which its claim names it. By default a new one.
    workers
        Of a workflow: the calls that it makes, and what these call, are run by so many processes of this run, and not by the
        platform's workers; a call that waits for calls of its own is none of them. They end with the run.
    dask
        The same by the workers of a Dask cluster: the address of its scheduler, or `local`, where `workers` says how many.
    fresh
        Of a workflow: make each call anew. By default a run takes over the calls of an interrupted run of the same code,
        parameters and files; of any other run nothing is taken over.

    Returns
    -------
    Run
        Also when the function failed; `Run.raise_for_failure` makes that an exception.

    Raises
    ------
    UsageError
        Bad payload, notebook or parameters: nothing was started.
    PlatformError, StorageError, LocalPlatformError
        The platform could not be reached, or refused, before there was a job.
    """
    began = time.monotonic()
    with Interrupts(active=wait) as interrupts:
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
            connection=connection,
            script=script,
            on_cell=on_cell,
            allow_deleted=queued,
            run=identity,
        )
        plan = dataclasses.replace(
            plan, replay=replay, published=_exactly(published, plan), parent=parent, fresh=fresh
        )
        recover.quietly(plan.connection, plan.witness)
        course = _Course(plan, interrupts, began, on_start, Hosts(plan.connection, workers, dask))
        if wait:
            return course.travel()
        course.start()
        return course.run


def _exactly(published: Published | None, plan: Plan) -> Published | None:
    if published is not None and plan.function.sha256 != published.sha256:
        raise NotebookError(
            f"{plan.function.name}: expected version {published.version} as it was published (sha256"
            f" {published.sha256[:12]}…), found other bytes ({plan.function.sha256[:12]}…)",
            notebook=plan.function.name,
        )
    return published


class _Course:
    """One run under way, in this thread or in one of its own."""

    def __init__(
        self,
        plan: Plan,
        interrupts: Interrupts,
        began: float,
        on_start: Callable[[Run], None] | None,
        hosts: Hosts,
    ) -> None:
        from libsafe_nb.execution import Execution

        self.plan, self.interrupts, self.began, self.on_start = plan, interrupts, began, on_start
        self.hosts = hosts
        self.execution = Execution(limits=plan.limits)
        self.run = Run(plan.run, plan.payload.job, plan.payload.container, course=self)
        self.fault: Exception | None = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._fault: BaseException | None = None

    def cancel(self, reason: str) -> None:
        self.execution.cancel(reason)

    def wait(self, timeout: float | None) -> None:
        if self._thread is None or self._thread is threading.current_thread():
            return
        # Not `join`: a KeyboardInterrupt in it makes Python (to 3.12) take the thread for ended.
        if not self._ended.wait(timeout):
            raise TimeoutError(f"run {self.run.run} has not ended within {timeout:g} s")
        if self._fault is not None:
            raise self._fault

    def start(self) -> None:
        self._thread = threading.Thread(target=self._in_thread, name=f"run-{self.run.run}", daemon=True)
        self._thread.start()

    def _in_thread(self) -> None:
        try:
            self.travel()
        except BaseException as exc:
            self._fault = exc
            self.run.error = {"type": type(exc).__name__, "message": str(exc), "cell_id": None}
            self.run.exit_code = exc.exit_code if isinstance(exc, LibsafeError) else 3
            self.run.status = "errored"
        finally:
            self._ended.set()

    def travel(self) -> Run:
        """The whole run; its `Run`, brought up to date. What a listener of the caller's raised is raised at its end."""
        with contextlib.ExitStack() as ending:
            if not self.plan.lent:
                ending.callback(self.plan.connection.close)
            found = _journey(self)
        if self.fault is not None and not isinstance(self.fault, (LibsafeError, OSError)):
            raise self.fault
        # The status comes last: who looks on from another thread sees all of it then. What has ended is let go:
        # a caller may keep the runs, but need not keep their notebooks and connections.
        done = {**vars(found), "seconds": time.monotonic() - self.began, "course": None}
        for name in sorted(done, key=lambda name: name == "status"):
            setattr(self.run, name, done[name])
        return self.run


def _journey(course: _Course) -> Run:
    plan = course.plan
    started = datetime.now(UTC)
    facts = _facts(plan, started)
    try:
        journal = _begin(plan, facts)
    except OSError as exc:
        raise ExecutionError(
            f"{plan.folder}: cannot hold the run's journal ({exc.strerror or exc}); nothing was started"
        ) from exc
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(journal.release)
        try:
            sockets = Path(
                cleanup.enter_context(
                    tempfile.TemporaryDirectory(
                        prefix=SOCKETS, dir=socket_folder(), ignore_cleanup_errors=True
                    )
                )
            )
        except OSError as exc:
            journal.remove()
            raise ExecutionError(
                f"no folder for the run's socket can be made ({exc.strerror or exc}); nothing was started"
            ) from exc
        except BaseException:
            journal.remove()
            raise
        with contextlib.suppress(OSError):
            # A killed runner leaves it behind; whoever recovers the run takes it away.
            journal.write("sockets", forced=False, folder=str(sockets))
        course.interrupts.hold()
        # They outlive the job's end: a call that was cancelled with it still stores its evidence.
        cleanup.enter_context(course.hosts)
        try:
            plan = course.plan = _with_job(plan, journal)
        except PlatformError as exc:
            if not isinstance(exc, Unreachable):
                # Refused: there is no job. One that may have been made all the same is for a recovery to end.
                journal.remove()
            raise
        course.run.job = plan.payload.job
        desk, outcome, executed = _at_the_door(course, journal, facts, sockets)

        def sealed() -> Sealed:
            return seal(
                Story(
                    facts=facts,
                    job=plan.payload.job,
                    outcome=outcome,
                    events=desk.events,
                    verdict=desk.verdict,
                    executed=executed,
                    redactions=_redactions(course),
                    ended=record.timestamp(datetime.now(UTC)),
                    seconds=time.monotonic() - course.began,
                ),
                plan.secrets,
            )

        connection = plan.connection
        if outcome.cause in ("terminated", "interrupted") or course.interrupts.seen:
            # Who sends a signal does not wait for minutes; what cannot be stored now is for a recovery.
            connection = cleanup.enter_context(contextlib.closing(connection.within(HURRY)))
        try:
            return closing.close(
                journal,
                connection,
                plan.secrets,
                facts=facts,
                job=plan.payload.job,
                seal=sealed,
                unsent=desk.unsent,
                witness=plan.witness,
            )
        except Exception as exc:
            # A fault of ours. What was executed is on this machine, so the job says where rather than that it failed.
            text = closing.say_pending(
                plan.connection, plan.secrets, plan.run, plan.payload.job, exc, brief=False
            )
            raise ExecutionError(
                f"run {plan.run}: {text} ({type(exc).__name__}; kept in {journal.folder})"
            ) from exc


# Before the first cell ------------------------------------------------------------------------------------------


def _facts(plan: Plan, started: datetime) -> Facts:
    payload, function, connection = plan.payload, plan.function, plan.connection
    stored = _payload(plan)
    versions = {
        name: environment.version(name) for name in ("libsafe-nb", "papermill", "nbclient", "ipykernel")
    }
    known = {
        "trigger": payload.trigger,
        "function": {
            "id": payload.function_id,
            "key": payload.function_key,
            "name": Path(function.name).name,
            **described(function.metadata, Path(function.name).stem),
            "notebook_sha256": function.sha256,
            "code_sha256": function.code_sha256,
            "published": dataclasses.asdict(plan.published) if plan.published else None,
            "substitutions": [dataclasses.asdict(each) for each in function.substitutions],
        },
        "agent": {"user": {"id": payload.user}, "runner": versions},
        "payload": stored,
        "secrets": [
            {"name": name, "via": "kernel"}
            for name in [*(each for each in connection.secrets() if each.startswith("key_")), *plan.supplied]
        ],
        "image": os.environ.get(environment.IMAGE),
        "s3": connection.s3.endpoint,
        "replay_of": dict(plan.replay.origin) if plan.replay else None,
        "parent": dataclasses.asdict(plan.parent) if plan.parent else None,
        "fingerprint": fingerprint.of_work(
            function,
            secrets=plan.supplied,
            container=payload.container,
            params=payload.params,
            files=plan.files,
        ).to_json(),
    }
    clean = redact_document(plan.secrets, record.plain(known)).data
    assert connection.settings.url is not None
    return Facts(
        run=plan.run,
        container=payload.container,
        job=payload.job,
        function=payload.function_key or Path(function.name).stem,
        notebook=Path(function.name).name,
        url=connection.settings.url,
        platform=connection.platform_file,
        host=socket.gethostname(),
        started=record.timestamp(started),
        files=plan.files,
        record=clean,
    )


def _begin(plan: Plan, facts: Facts) -> Journal:
    """The run's folder, with all in it that a recovery would need."""
    import nbformat

    journal = Journal.create(plan.folder)
    try:
        facts.write(journal.folder)
        atomic.write_text(journal.folder / "in.ipynb", nbformat.writes(plan.function.node))
        (journal.folder / "work").mkdir(mode=0o700)
        _put_command(journal.folder / COMMANDS)
        journal.write("begun", **ProcessId.of(os.getpid()).as_dict())
    except BaseException:
        journal.remove()
        raise
    return journal


def _put_command(folder: Path) -> None:
    """
    `libsafe-nb` for cells, that of this very Python: its own folder need not be in the PATH, and another one in it would
    be another version.
    """
    folder.mkdir(mode=0o700)
    program = folder / "libsafe-nb"
    # -P: a module that the function writes into its directory is not taken for one of ours.
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m libsafe_nb "$@"\n')
    program.chmod(0o700)


def _with_job(plan: Plan, journal: Journal) -> Plan:
    """The plan with its job; a new one is asked for under a key, so that a recovery finds the same."""
    job = plan.payload.job
    if not job:
        job = plan.connection.client.create_job(
            plan.payload.container,
            name=Path(plan.function.name).name,
            function_key=plan.payload.function_key or None,
            parent=plan.parent.job if plan.parent else None,
            idempotency_key=closing.key(plan.run, "job"),
        )["id"]
    with contextlib.suppress(OSError):
        # Tried again where a full disk is told to the job: here, the job would be lost with this process.
        journal.write("job", job=job)
    return dataclasses.replace(plan, payload=plan.payload.replace(job=job))


def _announce(plan: Plan, facts: Facts) -> None:
    """The start record, before cell 1: a run whose machine is lost is known by it."""
    client, job = plan.connection.client, plan.payload.job
    lease.begin(plan.connection.storage, facts, job, os.getpid())
    client.update_job(job, status="RUNNING", idempotency_key=closing.key(plan.run, "running"))
    for number, warning in enumerate(plan.warnings):
        client.message(
            job, warning, type="WARNING", idempotency_key=closing.key(plan.run, f"warning-{number}")
        )


# The cells ------------------------------------------------------------------------------------------------------


def _at_the_door(
    course: _Course, journal: Journal, facts: Facts, sockets: Path
) -> tuple[Desk, Outcome, bytes]:
    """Execute, with the kernel's keys and messages going through the door; what came of it, and the notebook."""
    plan = course.plan
    keys = {
        "key_user": plan.connection.settings.key_user,
        "key_root": plan.connection.settings.key_root or "",
    }
    desk = Desk(
        plan.connection,
        run=plan.run,
        job=plan.payload.job,
        api={**plan.payload.api, **keys},
        params=plan.supplied,
        log=journal.folder / "events.jsonl",
        secrets=plan.secrets,
        payload=_payload(plan),
        files=plan.files,
        replay=plan.replay,
        publish=publishing.by_path,
        beside=_beside(plan),
        past=None if plan.replay is not None else _past(plan),
    )
    with contextlib.closing(desk):
        door = sockets / "door"
        try:
            course.interrupts.check()
            if not journal.job:
                journal.write("job", job=plan.payload.job)
            _announce(plan, facts)
            course.hosts.begin(plan.payload.job)
            course.interrupts.check()
            journal.write("started")
            with Door(door, desk.answer), lease.kept(plan.connection, plan.payload.container, plan.run):
                outcome = _execute(course, journal, desk, door)
                desk.take_all()
        except Exception as exc:
            course.interrupts.finishing = True
            # Whatever it is, there is a job, and it is told and closed like any other.
            course.fault = exc
            outcome = course.execution.outcome or _not_executed(plan, exc)
        course.interrupts.finishing = True
        signalled = outcome.cause in ("terminated", "interrupted")
        desk.finish(lambda: signalled or course.interrupts.seen)
        executed = _executed(course, journal, outcome)
        if not signalled:
            desk.tell_reads()
            desk.tell_left(reuse.left)
            desk.settle_calls(lambda: course.interrupts.seen)
            if plan.parent is not None:
                desk.tell_used()
    with contextlib.suppress(OSError):
        journal.write(
            "executed",
            outcome=dataclasses.asdict(outcome),
            verdict=desk.verdict,
            redactions=[dataclasses.asdict(each) for each in _redactions(course)],
        )
    return desk, outcome, executed


def _past(plan: Plan) -> Begun:
    """What earlier runs have done of this one's work, for the calls that it makes."""
    function, payload = plan.function, plan.payload
    run, job, container = plan.run, payload.job, payload.container

    def finish(left: str) -> None:
        with contextlib.suppress(LibsafeError):
            list(recover.recover([left], settings=plan.connection.settings, lost=False))

    def begun(client: Callable[[], Client], storage: Storage, tell: Callable[[dict[str, Any]], None]) -> Past:
        def found() -> Lineage:
            if client().job(job).get("call_id") is not None:
                return lineage.of_queued(client(), job=job)
            digest = fingerprint.of_workflow(
                function, container=container, user=payload.user, params=payload.params, files=plan.files
            )
            return lineage.of_workflow(
                client(),
                storage,
                digest=digest,
                container=container,
                run=run,
                job=job,
                finish=finish,
                fresh=plan.fresh,
            )

        irrelevant = fingerprint.names_of(function.metadata, "irrelevant_packages")
        return Past(
            client, storage, run=run, found=found, reuse=Reuse(client, storage, irrelevant), tell=tell
        )

    return begun


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


def _execute(course: _Course, journal: Journal, desk: Desk, door: Path) -> Outcome:
    plan, execution = course.plan, course.execution
    execution.platform = plan.connection.settings.platform_folder
    if "papermill" not in sys.modules:
        # Meanwhile; else the engine does it, at once.
        kernels.prepare(plan.function.kernel_name or "python3", platform=execution.platform)
    # Imported here: papermill costs most of a second.
    import papermill

    # It warns of parameters that it cannot see in the cell; ours were checked, and stderr is the user's.
    papermill.log.logger.setLevel("ERROR")
    fill = (
        "__import__('libsafe_nb.compat.keys', fromlist=['fill']).fill("
        f"globals(), {str(door)!r}, {desk.nonce!r}, {plan.function.payload_name!r})"
    )

    def on_kernel(pid: int) -> None:
        # It may have ended already, or the disk be full: neither is a reason to stop here.
        with contextlib.suppress(ProcessLookupError, OSError):
            journal.write("kernel", forced=False, **ProcessId.of(pid).as_dict())

    def on_cell(state: CellState) -> None:
        desk.cell(state)
        if plan.on_cell is not None:
            plan.on_cell(state)

    began = time.monotonic()

    def at_end(status: RunStatus) -> Ended | None:
        left = (
            None if execution.limits.timeout is None else execution.limits.timeout + began - time.monotonic()
        )
        return _calls_ended(course, desk, status, left)

    execution.save_to = journal.folder / "executed.ipynb"
    execution.cwd = journal.folder / "work"
    execution.env = {**kernels.environment(), VARIABLE: str(door)}
    commands = (journal.folder / COMMANDS).absolute()
    execution.env["PATH"] = f"{commands}{os.pathsep}{execution.env.get('PATH', os.defpath)}"
    if plan.replay is not None and plan.replay.stub:
        # In the environment, so that cells before the payload's and processes that a cell starts change nothing either.
        execution.env[STUB] = "1"
    first = fill if plan.function.language == "python" else languages.FIRST.get(plan.function.language)
    execution.after_parameters = (lambda: first) if first else None
    execution.output_filter = LiveFilter(plan.secrets)
    execution.on_kernel = on_kernel
    execution.on_cell = on_cell
    execution.at_end = at_end
    course.interrupts.execution = execution
    course.interrupts.check()
    if course.on_start:
        course.on_start(course.run)
    # The engine keeps the outcome, and papermill's own exception would say less.
    with contextlib.suppress(papermill.exceptions.PapermillException, LibsafeError):
        papermill.execute_notebook(
            str(journal.folder / "in.ipynb"),
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


Ended = tuple["RunStatus", str, dict[str, str | None]]


def _calls_ended(course: _Course, desk: Desk, status: RunStatus, left: float | None) -> Ended | None:
    """
    A run has ended when all that it called has; what has become of it meanwhile.

    Parameters
    ----------
    left
        Seconds until its time is over; None for no limit.
    """
    execution, calls = course.execution, desk.calls
    became: Ended | None = None
    if status not in ("cancelled", "timeout") and not calls.wait_for_all(
        left, lambda: execution.cancellation is not None
    ):
        if (told := execution.cancellation) is not None:
            became = _became("cancelled", told.cause, f"the run was {told.cause}: {told.reason}")
        else:
            limit = f"{execution.limits.timeout:g} s"
            became = _became(
                "timeout", "run-timeout", f"what it called had not ended after the run's {limit}"
            )
    if became is not None or status in ("cancelled", "timeout"):
        calls.cancel_all(f"the run that made it ended as {became[0] if became else status}")
    elif status == "completed" and calls.stopped is not None:
        return "failed", "call-failed", calls.stopped
    return became


def _became(status: RunStatus, cause: str, message: str) -> Ended:
    kind = "RunCancelled" if status == "cancelled" else "RunTimeout"
    return status, cause, {"type": kind, "message": message, "cell_id": None}


def _beside(plan: Plan) -> str | None:
    """Where a function lies that this one calls by a path of its own side: in the folder of its notebook."""
    name = plan.function.name
    if plan.published is not None:
        return None
    return name.rpartition("/")[0] if name.startswith("libsafe://") else str(Path(name).absolute().parent)


def _redactions(course: _Course) -> list[Redaction]:
    """What the live filter replaced; nothing where no cell ran."""
    found = course.execution.output_filter
    return found.redactions if isinstance(found, LiveFilter) else []


def _not_executed(plan: Plan, exc: Exception) -> Outcome:
    """The outcome of a run that was given up before its first cell."""
    from libsafe_nb.account import ended_before_it_began

    status: RunStatus = "errored"
    cause = "internal"
    if isinstance(exc, RunCancelled):
        status, cause = "cancelled", "terminated" if exc.exit_code == 143 else "interrupted"
    elif isinstance(exc, (Unreachable, StorageUnreachable)):
        cause = "platform-unreachable"
    error: dict[str, str | None] = {
        "type": type(exc).__name__,
        "message": plan.secrets.clean(f"the run could not start: {exc}"),
        "cell_id": None,
    }
    return ended_before_it_began(plan.function.node, status=status, cause=cause, error=error)


def _executed(course: _Course, journal: Journal, outcome: Outcome) -> bytes:
    """
    The notebook's bytes: as the engine saved them; from memory where it could not (the disk is full, or the folder
    gone); as it was given where nothing was executed.
    """
    saved = journal.folder / "executed.ipynb"
    if outcome.cause != "save":
        with contextlib.suppress(OSError):
            return saved.read_bytes()
    import nbformat

    from libsafe_nb.saving import encode

    node = course.execution.notebook or course.plan.function.node
    return encode(nbformat.v4.writes(node))


def _payload(plan: Plan) -> dict[str, Any]:
    """The payload with placeholders for keys."""
    names = {"key_user", "key_root", *plan.payload.api} - {"url"}
    api = {"url": plan.payload.api["url"], **{name: {"$secret": name} for name in sorted(names)}}
    return plan.payload.replace(api=api).to_dict()


def _parameters(plan: Plan) -> dict[str, Any]:
    """What papermill injects: the payload, and the typed parameters that were given."""
    function, payload = plan.function, _payload(plan)
    given = {
        name: plan.payload.params[name]
        for name, declared in function.parameters.items()
        if not declared.in_payload and name in plan.payload.params
    }
    if function.language == "python":
        return {function.payload_name: payload, **given}
    if not languages.takes_parameters(function.kernel_name or "", function.language):
        return {}
    own = {name: languages.written(function.language, value) for name, value in given.items()}
    return {function.payload_name: json.dumps(payload), **own}
