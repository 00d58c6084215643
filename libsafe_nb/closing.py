"""
The end of a run: its evidence is frozen on this machine, stored in the container, linked to the chain of its records,
told to the job, and the job closed.

Each step is written to the journal when it is done, and each can be done again: objects are put under a condition
that equal bytes fulfil, and every call that writes carries a key made of the run's id, by which a platform that knows
such keys tells a repetition. (One that does not may get a message twice: at least once.) So whoever comes to it, the
runner or a recovery, begins where the journal ends.

Evidence comes before the verdict: the job is closed only after its evidence is stored. Where that cannot be done now,
the job stays RUNNING and says where the evidence waits.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from libsafe_nb import chain, deliveries, evidence, lease, record, reuse
from libsafe_nb.connection import KNOCK, Connection
from libsafe_nb.deliveries import Write
from libsafe_nb.errors import (
    AccessDenied,
    ExecutionError,
    LibsafeError,
    PlatformError,
    PreconditionFailed,
    SecretsRemain,
    StorageError,
    StorageUnreachable,
    Unreachable,
)
from libsafe_nb.facts import Facts
from libsafe_nb.journal import Journal
from libsafe_nb.models import Run, describe
from libsafe_nb.patience import BUDGET
from libsafe_nb.processes import ProcessId
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.sealing import Sealed
from libsafe_nb.witness import Witness

JOB_STATUS = {"completed": "COMPLETED", "cancelled": "CANCELLED"}
OPEN = ("QUEUED", "RUNNING")
REFUSALS = (400, 413, 422)
"""What a platform answers to a text that it does not take, now or later."""

LONGEST = 10_000
"""Characters of a message of ours."""

PENDING = "evidence pending on"
"""A job message that begins so says that the run is not lost: its evidence waits on a machine."""


def close(
    journal: Journal,
    connection: Connection,
    secrets: SecretSet,
    *,
    facts: Facts,
    job: str,
    seal: Callable[[], Sealed],
    unsent: Sequence[Write],
    witness: Witness,
) -> Run:
    """
    Bring a run to its end, from wherever its journal stands; the folder is removed when all is done.

    Parameters
    ----------
    job
        The run's; it may have been created after the facts were settled.
    seal
        Makes the evidence; called if it is not frozen yet.
    unsent
        What the function said, and changed of files, and has not arrived (`deliveries.py`), in order.
    witness
        Who signs and stamps the link.

    Returns
    -------
    Run
        With exit code 3, and no evidence, if it could not be stored or told now: it is kept in the journal's folder.
        Likewise if it may never be stored, as it holds a key: its job is closed as FAILED then.

    Raises
    ------
    ExecutionError
        The frozen evidence is damaged.
    """
    try:
        refused = journal.step("refused")
        if refused is not None:
            raise SecretsRemain(str(refused["message"]))
        prefix, files, result = _frozen(journal, seal)
    except SecretsRemain as exc:
        if refused is None:
            # A recovery knows fewer keys than the runner: it must not come to another end.
            _note(journal, "refused", message=str(exc))
        return _refused(journal, connection, secrets, Run(facts.run, job, facts.container), exc)
    try:
        end = None
        _begun(journal, connection, facts, job)
        if not journal.step("stored"):
            # Where the chain ends is looked for meanwhile: most of the time goes by in waiting for the storage.
            with ThreadPoolExecutor(1, thread_name_prefix="chain") as beside:
                looked = beside.submit(chain.end, connection.storage, result.container)
                evidence.store(connection.storage, result.container, prefix, files)
            # Forced to the disk with the next step, which comes before anything else is put.
            _note(journal, "stored", forced=False)
            end = looked.result()
        link = _linked(journal, connection, result, prefix, files, end)
        if not journal.step("told"):
            # Meanwhile: it is one more put, and what is told goes to the platform.
            with ThreadPoolExecutor(1, thread_name_prefix="reuse") as beside:
                beside.submit(reuse.offer, connection.storage, result.container, prefix, files, link)
                warnings = _attested(journal, connection, witness, result, prefix, files, link)
                _tell(journal, connection, secrets, result, unsent, link, warnings)
            _note(journal, "told")
        _close_job(connection, result)
    except (StorageError, PlatformError) as exc:
        return pending(journal, connection, secrets, result, exc)
    journal.remove()
    return result


def _refused(
    journal: Journal, connection: Connection, secrets: SecretSet, result: Run, exc: SecretsRemain
) -> Run:
    """The evidence may not be stored: the job says so and has failed, and what there is stays on this machine."""
    error = {"type": type(exc).__name__, "message": str(exc), "cell_id": None}
    result = dataclasses.replace(result, status="errored", cause="secrets", error=error, exit_code=3)
    try:
        connection.client.message(
            result.job, str(exc), type="ERROR", idempotency_key=key(result.run, "message-error")
        )
        _close_job(connection, result)
    except PlatformError as away:
        return pending(journal, connection, secrets, result, away)
    with contextlib.suppress(OSError):
        error["message"] = f"{exc} (kept in {journal.set_aside()})"
    return result


def pending(
    journal: Journal, connection: Connection, secrets: SecretSet, result: Run, exc: LibsafeError
) -> Run:
    """The evidence is safe on this machine but not in the container; the job stays RUNNING and says so."""
    away = isinstance(exc, (Unreachable, StorageUnreachable))
    text = say_pending(connection, secrets, result.run, result.job, exc, brief=away)
    error = {
        "type": type(exc).__name__,
        "message": f"{text} (kept in {journal.folder}; finish it with: libsafe-nb recover)",
        "cell_id": None,
    }
    return dataclasses.replace(result, evidence=None, error=error, exit_code=3)


def say_pending(
    connection: Connection, secrets: SecretSet, run: str, job: str, exc: Exception, *, brief: bool
) -> str:
    """
    Tell the job that the evidence waits on this machine; answers what was told.

    With `brief` a platform that was just found to be away gets some seconds only.
    """
    text = secrets.clean(f"{PENDING} {socket.gethostname()}: {exc}")
    with (
        contextlib.closing(connection.within(KNOCK if brief else BUDGET)) as own,
        contextlib.suppress(PlatformError),
    ):
        own.client.message(job, text, type="WARNING", idempotency_key=key(run, "pending"))
    return text


def key(run: str, step: str) -> str:
    """The idempotency key of one of a run's own writes: the same whoever does it, and whenever."""
    return f"{run}/{step}"


# The steps ------------------------------------------------------------------------------------------------------


def _frozen(journal: Journal, seal: Callable[[], Sealed]) -> tuple[str, Mapping[str, bytes], Run]:
    """The evidence as it was frozen, and the run's result; frozen now if it was not."""
    step = journal.step("frozen")
    if step is None:
        sealed = seal()
        # Where this machine's disk is full or gone, the evidence is stored from memory all the same.
        with contextlib.suppress(OSError):
            evidence.freeze(journal.folder / "evidence", sealed.files)
            digests = {name: record.digest(data) for name, data in sealed.files.items()}
            journal.write("frozen", prefix=sealed.prefix, digests=digests, result=sealed.result)
            # These were filtered as they came; what was frozen was scanned as well.
            for name in ("executed.ipynb", "in.ipynb"):
                (journal.folder / name).unlink(missing_ok=True)
        return sealed.prefix, sealed.files, Run(**sealed.result)
    files = {name: _thawed(journal.folder, name, sha256) for name, sha256 in step["digests"].items()}
    return step["prefix"], files, Run(**step["result"])


def _thawed(folder: Path, name: str, sha256: str) -> bytes:
    path = folder / "evidence" / name
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise ExecutionError(f"{path}: the frozen evidence cannot be read ({exc.strerror or exc})") from exc
    if record.digest(data) != sha256:
        raise ExecutionError(
            f"{path}: expected the bytes that were frozen (sha256 {sha256}), found {record.digest(data)}"
        )
    return data


def _begun(journal: Journal, connection: Connection, facts: Facts, job: str) -> None:
    """The start record of a run that ended before it had put its own: a record without one looks as if it had been taken away."""
    runner = ProcessId.parse(journal.step("begun"))
    if journal.step("started") or runner is None:
        return
    # Where another lies, or none may be put, the record is worth more than its start.
    with contextlib.suppress(AccessDenied, PreconditionFailed):
        lease.begin(connection.storage, facts, job, runner.pid)


def _linked(
    journal: Journal,
    connection: Connection,
    result: Run,
    prefix: str,
    files: Mapping[str, bytes],
    end: chain.End | None,
) -> chain.Link:
    """The link of the evidence in the container's chain; put there now if it was not."""
    step = journal.step("linked")
    if step is None:
        found = chain.link(
            connection.storage,
            result.container,
            run=result.run,
            prefix=prefix,
            files=files,
            last=end,
            tried=[each for each in journal.steps if each["step"] == "linking"],
            trying=lambda seq, sha256: _note(journal, "linking", seq=seq, sha256=sha256),
        )
        # What was tried is on the disk, and tells as much.
        _note(journal, "linked", forced=False, seq=found.seq, sha256=found.sha256)
        return found
    return chain.Link(step["seq"], step["sha256"])


def _attested(
    journal: Journal,
    connection: Connection,
    witness: Witness,
    result: Run,
    prefix: str,
    files: Mapping[str, bytes],
    link: chain.Link,
) -> dict[str, str]:
    """Sign and stamp the link, each once; what the job is to be warned of, by step."""
    storage, warnings = connection.storage, {}
    if not journal.step("signed"):
        warnings["signature"] = witness.sign(storage, result.container, link, prefix=prefix, files=files)
        if witness.signer is not None and not warnings["signature"]:
            _note(journal, "signed")
    if not journal.step("stamped"):
        warnings["time-stamp"] = witness.stamp(storage, result.container, link)
        if witness.authority is not None and not warnings["time-stamp"]:
            _note(journal, "stamped")
    return {step: text for step, text in warnings.items() if text}


def _tell(
    journal: Journal,
    connection: Connection,
    secrets: SecretSet,
    result: Run,
    unsent: Sequence[Write],
    link: chain.Link,
    warnings: Mapping[str, str],
) -> None:
    """
    The function's own messages that are still here, then ours: error, scraps, where the evidence is, what is missing
    beside it, and the head of the container's chain, which so lies outside the container as well.
    """
    client = connection.client
    _deliver(journal, connection, result.job, unsent)
    told = {
        "evidence": (f"evidence: {result.evidence}", "INFO"),
        **{step: (text, "WARNING") for step, text in warnings.items()},
        "chain": (link.head, "INFO"),
    }
    if result.scraps:
        scraps = json.dumps({"scraps": result.scraps}, default=str)
        if len(scraps) > LONGEST:
            scraps = (
                f"scraps: {len(scraps)} characters, too many for a message; they are in the executed notebook"
            )
        told = {"scraps": (scraps, "INFO"), **told}
    if result.error:
        told = {"error": (describe(result.error), "ERROR"), **told}
    for step, (text, kind) in told.items():
        try:
            client.message(
                result.job, secrets.clean(text), type=kind, idempotency_key=key(result.run, f"message-{step}")
            )
        except PlatformError as exc:
            # It would be refused by every recovery as well, and the evidence tells it.
            if exc.status not in REFUSALS:
                raise


def _deliver(journal: Journal, connection: Connection, job: str, unsent: Sequence[Write]) -> None:
    """What the function said and changed and has not arrived; the job is told of what is refused."""
    delivered = {key for each in journal.steps if each["step"] == "delivered" for key in each["keys"]}
    waiting = [each for each in unsent if each["key"] not in delivered]
    notices: list[Write] = []

    def became(write: Write, refusal: LibsafeError | None) -> None:
        notice = None if refusal is None else deliveries.notice(write, refusal)
        notices.extend([] if notice is None else [notice])

    sending = deliveries.Sending(connection.client, job, became)
    for start in range(0, len(waiting), deliveries.MOST):
        batch = waiting[start : start + deliveries.MOST]
        sending.send(batch)
        told = list(notices)
        notices.clear()
        sending.send(told)
        _note(journal, "delivered", keys=[each["key"] for each in batch])


def _close_job(connection: Connection, result: Run) -> None:
    """Close the job, unless it is closed already (the vendor's library does so)."""
    client = connection.client
    if client.job(result.job)["status"] not in OPEN:
        return
    status = JOB_STATUS.get(result.status, "FAILED")
    try:
        client.update_job(
            result.job, status=status, result=result.to_json(), idempotency_key=key(result.run, "end")
        )
    except PlatformError as exc:
        if exc.status not in REFUSALS:
            raise
        client.update_job(result.job, status=status, idempotency_key=key(result.run, "end-alone"))


def _note(journal: Journal, step: str, *, forced: bool = True, **facts: Any) -> None:
    """Write a step down if that can be done: without it the step would be done again, which does no harm."""
    with contextlib.suppress(OSError):
        journal.write(step, forced=forced, **facts)
