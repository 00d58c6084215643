"""
What interrupted runs left behind, brought to its end: evidence stored, job closed with the true verdict.

A run is interrupted if the lock of its journal is free, its runner is dead or has given it up, and nothing lives in
its kernel's process group. What is known of it decides how it ends:

    its evidence was frozen        exactly these bytes are stored, and the verdict is the one they tell
    its last cell had ended        the evidence is made from what the runner wrote down
    cells were running             they are told killed; the run is errored, cause `runner-died`
    there is no job yet            the job that was asked for is found by its key and ended, or there is none

Of runs whose whole machine is lost `lost.py` knows.

Safe to repeat, and to do at once from any number of processes and machines.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import closing, deliveries, desk, lease, record, supplied
from libsafe_nb import journal as journals
from libsafe_nb import lost as lost_
from libsafe_nb import settings as settings_
from libsafe_nb import witness as witnesses
from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import (
    ExecutionError,
    Forbidden,
    LibsafeError,
    NotFound,
    ObjectNotFound,
    RunCancelled,
    SettingsError,
    UsageError,
    sentence,
)
from libsafe_nb.facts import Facts
from libsafe_nb.journal import FOLDER, SOCKETS, Journal, read_lines
from libsafe_nb.models import Recovered
from libsafe_nb.processes import boot_id
from libsafe_nb.redact import Redaction, SecretSet
from libsafe_nb.sealing import Sealed, Story, outcome_of, seal
from libsafe_nb.secrets import Secret
from libsafe_nb.settings import Settings
from libsafe_nb.witness import Witness

if TYPE_CHECKING:
    from libsafe_nb.execution import Outcome

Connected = Callable[[Facts], Connection]
"""Opens the platform of a run."""

GROUP_ENDS = 3.0
"""Seconds that a kernel's group has to end after its runner; its guard kills it within one."""

PATIENCE = 10.0
"""Seconds after which no further interrupted run is taken up before a run."""


def recover(
    runs: Sequence[str] = (),
    *,
    settings: Settings | None = None,
    abandon: bool = False,
    lost: bool = True,
) -> Iterator[Recovered]:
    """
    Finish the interrupted runs of this machine, then end those whose machine is lost; tells each as it is done.

    Parameters
    ----------
    runs
        Ids of runs; none means all.
    settings
        Of the platform; by default each run's own platform as the settings know it. Links are signed and stamped with
        what this machine's settings name, be it the same as the runner's or nothing.
    abandon
        Close the jobs of what cannot be finished as FAILED, without evidence. What there is of it is kept, in
        `$LIBSAFE_NB_HOME/abandoned`.
    lost
        Look for runs whose machine is lost, in all containers that the key may see.

    Raises
    ------
    UsageError
        There is no such run on this machine, or the signing key that is set cannot be used.
    """
    witness = witnesses.load(settings or settings_.load())
    home = settings.home if settings else settings_.home()
    folders = journals.folders(home)
    for run in runs:
        if run not in {each.name for each in folders}:
            raise UsageError(f"run {run!r}: expected one of {home / FOLDER}, found none")
    for folder in folders:
        if not runs or folder.name in runs:
            found = _one(folder, lambda facts: _connect(facts, settings), witness, abandon=abandon)
            if found is not None:
                yield found
    if lost and not runs:
        yield from lost_.recover(settings, witness)


def quietly(connection: Connection, witness: Witness) -> list[Recovered]:
    """
    Before a run: finish what was interrupted on the same platform.

    What cannot be finished now stays as it is, and after some seconds so does the rest: somebody waits for the run.
    """
    done = []
    deadline = time.monotonic() + PATIENCE
    with contextlib.ExitStack() as ending:

        def hasty(facts: Facts) -> Connection:
            return ending.enter_context(contextlib.closing(connection.within(PATIENCE)))

        for folder in journals.folders(connection.settings.home):
            found = _one(folder, hasty, witness, abandon=False, only_url=connection.settings.url)
            if found is not None:
                done.append(found)
            if time.monotonic() > deadline:
                break
    return done


def _one(
    folder: Path, connected: Connected, witness: Witness, *, abandon: bool, only_url: str | None = None
) -> Recovered | None:
    """
    Finish one; None if it is not interrupted (it runs), is already finished, or is another platform's.

    Whatever is wrong with it, the others are still to be finished.
    """
    try:
        journal = Journal(folder)
    except (BlockingIOError, FileNotFoundError):
        return None
    except OSError as exc:
        return Recovered(folder.name, "", "", "waiting", None, f"{folder}: {exc.strerror or exc}")
    with journal:
        if not folder.exists():
            # Another recovery was here in between.
            return None
        facts = Facts.read(folder)
        if not journal.step("begun") and (facts or not journal.steps):
            journal.remove()
            return Recovered(folder.name, "", "", "nothing", None, "it had not begun")
        if only_url is not None and (facts is None or facts.url != only_url):
            return None
        if journal.runner is not None and journal.runner.alive:
            return None
        run, job, container = folder.name, journal.job, ""
        try:
            if facts is None:
                raise ExecutionError("facts.json is damaged, or of another version")
            job, container = job or facts.job, facts.container
            _see_kernel_dead(journal)
            connection = connected(facts)
            _see_machine_gone(journal, facts, connection)
            _remove_sockets(journal)
            found = _finish(journal, facts, connection, witness)
        except RunCancelled:
            raise
        except Exception as exc:
            job = journal.job or job
            found = Recovered(run, job, container, "waiting", None, f"{sentence(exc)} (in {folder})")
        if found.done or not abandon:
            return found
        try:
            return _abandon(journal, facts, connected, found)
        except RunCancelled:
            raise
        except Exception as exc:
            return dataclasses.replace(
                found, message=f"{found.message}; nor could it be abandoned: {sentence(exc)}"
            )


def _see_machine_gone(journal: Journal, facts: Facts, connection: Connection) -> None:
    """
    A run of another machine that shares the folder is its own as long as its lease lasts.

    Not every shared file system carries locks from one machine to the other, and of its processes nothing is seen here.
    """
    runner = journal.runner
    if runner is None or runner.boot == boot_id() or facts.host == socket.gethostname():
        return
    try:
        started = json.loads(connection.storage.get(facts.container, lease.path(facts.run)))
        over = lease.over(connection, facts.container, facts.run, started)
    except ObjectNotFound:
        over = time.time() - _last_sign(journal.folder) > lease.FIRST
    if not over:
        raise ExecutionError(
            f"run {facts.run}: {facts.host} may still be at it; recover it there, or here when its lease is over"
        )


def _see_kernel_dead(journal: Journal) -> None:
    """Wait until nothing lives in the kernel's group; what its guard did not end is ended here."""
    kernel = journal.kernel
    if kernel is None:
        return
    deadline = time.monotonic() + GROUP_ENDS
    while kernel.group_alive:
        if time.monotonic() > deadline:
            raise ExecutionError(
                f"run {journal.folder.name}: its kernel's process group {kernel.pid} still lives"
            )
        if time.monotonic() > deadline - GROUP_ENDS / 2 and kernel.alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(kernel.pid, signal.SIGKILL)
        time.sleep(0.02)


def _remove_sockets(journal: Journal) -> None:
    """The folder of the run's socket, which a killed runner leaves behind; by its name, so that it is no other."""
    folder = Path(str((journal.step("sockets") or {}).get("folder", "")))
    if folder.is_absolute() and folder.name.startswith(SOCKETS) and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def _finish(journal: Journal, facts: Facts, connection: Connection, witness: Witness) -> Recovered:
    secrets, missing = _secrets(connection, facts, witness)
    # Before anything is written here, which would pass for a sign of life.
    last_sign = record.timestamp(datetime.fromtimestamp(_last_sign(journal.folder), UTC))
    job = _job(journal, facts, connection)
    if not job:
        journal.remove()
        return Recovered(
            facts.run, "", facts.container, "nothing", None, "no job is known of it, and no cell of it ran"
        )
    lines = _delivered(journal, connection, job)

    def sealed() -> Sealed:
        return seal(_story(journal, facts, job, lines, last_sign, missing), secrets)

    done = closing.close(
        journal,
        connection,
        secrets,
        facts=facts,
        job=job,
        seal=sealed,
        unsent=deliveries.unsent(lines),
        witness=witness,
    )
    if done.evidence is None and done.cause == "secrets":
        return Recovered(
            facts.run, job, facts.container, "errored", None, str((done.error or {}).get("message"))
        )
    if done.evidence is None:
        message = str((done.error or {}).get("message"))
        return Recovered(facts.run, job, facts.container, "waiting", None, message)
    return Recovered(
        facts.run, job, facts.container, done.status, done.evidence, "evidence stored, job ended"
    )


def _delivered(journal: Journal, connection: Connection, job: str) -> list[dict[str, Any]]:
    """
    The lines of `events.jsonl`, after what the function said and changed was delivered, if the evidence may still tell
    what became of it.
    """
    place = journal.folder / "events.jsonl"
    lines = list(read_lines(place))
    waiting = deliveries.unsent(lines)
    if not waiting or journal.step("frozen") or journal.step("refused"):
        return lines
    at = datetime.now(UTC).isoformat(timespec="milliseconds")

    def became(write: deliveries.Write, refusal: LibsafeError | None) -> None:
        notice = None if refusal is None else deliveries.notice(write, refusal)
        told = [*deliveries.lines_of(write, refusal), *([] if notice is None else [notice])]
        lines.extend({**each, "at": at} for each in told)
        if refusal is not None and write["kind"] != "message":
            lines.append({"kind": "verdict", "ok": False})

    sending = deliveries.Sending(connection.client, job, became)
    for start in range(0, len(waiting), deliveries.MOST):
        known = len(lines)
        try:
            sending.send(waiting[start : start + deliveries.MOST])
        finally:
            # Begins on a line of its own: the runner died within one, perhaps.
            text = "".join("\n" + json.dumps(each) for each in lines[known:])
            with contextlib.suppress(OSError), place.open("a") as file:
                file.write(text + "\n")
    return lines


def _job(journal: Journal, facts: Facts, connection: Connection) -> str:
    """The run's job. One that was asked for, and whose answer did not come back, is asked for again under its key."""
    job = journal.job or facts.job
    if job or not connection.client.honours_idempotency():
        return job
    made = connection.client.create_job(
        facts.container,
        name=facts.notebook,
        function_key=facts.record["function"]["key"] or None,
        parent=(facts.record.get("parent") or {}).get("job"),
        idempotency_key=closing.key(facts.run, "job"),
    )
    journal.write("job", job=made["id"])
    return str(made["id"])


def _story(
    journal: Journal, facts: Facts, job: str, lines: list[dict[str, Any]], last_sign: str, missing: list[str]
) -> Story:
    """The run's story, as its runner would have told it if it had lived."""
    from libsafe_nb.account import latest

    executed = journal.step("executed")
    recovered: dict[str, Any] = {"at": record.timestamp(datetime.now(UTC)), "host": socket.gethostname()}
    if missing:
        recovered["not_searched_for"] = missing
    if executed is not None:
        outcome = outcome_of(executed["outcome"])
        # What was refused since then lowers it.
        verdict = False if desk.verdict(lines) is False else executed["verdict"]
        redactions = [Redaction(**each) for each in executed["redactions"]]
        data = _notebook(journal.folder)
        reason = "its runner ended after the last cell, before the evidence was stored"
    else:
        outcome, data = _broken_off(journal.folder, lines, last_sign)
        verdict, redactions = desk.verdict(lines), []
        reason = "its runner ended while it ran"
        saved = journals.changed(journal.folder / "executed.ipynb")
        if saved:
            recovered["outputs_until"] = record.timestamp(datetime.fromtimestamp(saved, UTC))
    # The last sign is the time of a file, whose clock may be coarser than the engine's: a cell may have begun after it.
    ended = datetime.fromisoformat(latest((last_sign, facts.started), outcome.cells))
    seconds = ended - datetime.fromisoformat(facts.started)
    return Story(
        facts=facts,
        job=job,
        outcome=outcome,
        events=[each for each in lines if each.get("kind") not in desk.OWN],
        verdict=verdict,
        executed=data,
        redactions=redactions,
        ended=record.timestamp(ended),
        seconds=seconds.total_seconds(),
        recovered={**recovered, "reason": reason},
    )


def _broken_off(folder: Path, lines: list[dict[str, Any]], last_sign: str) -> tuple[Outcome, bytes]:
    """What the last save tells, with the cell that was running told killed."""
    import nbformat

    from libsafe_nb.account import Account
    from libsafe_nb.saving import encode

    node = nbformat.reads(_notebook(folder).decode(), as_version=4)
    account = Account.resume(node, _version(), told=desk.cells(lines), last_sign=last_sign)
    error: dict[str, str | None] = {
        "type": "RunnerDied",
        "message": "the runner's process ended before it could say how the run went",
        "cell_id": next((each.cell_id for each in account.cells if each.status == "running"), None),
    }
    outcome = account.end("errored", "runner-died", error)
    return outcome, encode(nbformat.v4.writes(node))


def _notebook(folder: Path) -> bytes:
    """The notebook as it was last saved; as it was given if nothing of it was executed yet."""
    for name in ("executed.ipynb", "in.ipynb"):
        with contextlib.suppress(FileNotFoundError):
            return (folder / name).read_bytes()
    raise ExecutionError(f"{folder}: its notebook is gone")


def _last_sign(folder: Path) -> float:
    names = ("journal.jsonl", "events.jsonl", "executed.ipynb")
    return max(journals.changed(folder / name) for name in names)


def _version() -> str:
    from importlib.metadata import version

    return version("libsafe-nb")


def _connect(facts: Facts, settings: Settings | None) -> Connection:
    """The run's platform, as the settings know it; a local one is started again."""
    if settings is not None:
        return connect(settings=settings)
    if facts.platform is not None:
        from libsafe_nb import local

        return connect(settings=local.ensure(Path(facts.platform).parent))
    found = settings_.load()
    if found.url != facts.url:
        raise SettingsError(
            f"run {facts.run}: its platform is {facts.url}, and the settings name {found.url or 'none'}; set LIBSAFE_URL and its keys"
        )
    return connect(settings=found)


def _secrets(
    connection: Connection, facts: Facts, witness: Witness = witnesses.NOBODY
) -> tuple[SecretSet, list[str]]:
    """
    What must not be stored, as far as it is known here, and the names of what is not: the keys that the payload brought
    are gone with the runner, and so may be the author's own. Plainly printed, they were taken out as they came.
    """
    known = {name: Secret(name, value) for name, value in connection.secrets().items()}
    given = {
        name
        for name, value in facts.record.get("payload", {}).get("api", {}).items()
        if isinstance(value, dict)
    }
    names = given | {each["name"] for each in facts.record.get("secrets", [])}
    missing = []
    for name in sorted(names - {"key_user", "key_root"}):
        try:
            known[name] = supplied.secret(name)
        except LibsafeError:
            missing.append(name)
    return SecretSet([*known.values(), *witness.secrets().values()]), missing


def _abandon(journal: Journal, facts: Facts | None, connected: Connected, found: Recovered) -> Recovered:
    """
    Close the job as FAILED without evidence; what there is of the run is kept aside.

    Without facts nothing is known of its platform, to which it is then a run whose machine is lost.
    """
    job, reason = found.job, found.message
    if job and facts is not None:
        connection = connected(facts)
        text = _secrets(connection, facts)[0].clean(
            f"abandoned on {socket.gethostname()} without evidence: {reason}"
        )
        client = connection.client
        # A job that is gone, or no longer ours to touch, needs no closing.
        with contextlib.suppress(NotFound, Forbidden):
            client.message(job, text, type="ERROR", idempotency_key=closing.key(facts.run, "abandoned"))
            if client.job(job)["status"] in closing.OPEN:
                client.update_job(job, status="FAILED", idempotency_key=closing.key(facts.run, "end"))
    aside = journal.set_aside()
    return dataclasses.replace(found, status="abandoned", message=f"{reason}; kept in {aside}")
