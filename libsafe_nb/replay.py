"""
A recorded run, repeated: the same code with the same parameters over the same file versions, and what came out otherwise.

    evidence ── check ──▶ environment, inputs ── run (writes stubbed) ──▶ evidence of its own ── compare ──▶ a verdict

    same                             every cell's output, every write and the status
    same except declared-volatile    what differs was declared so by the author (`comparison.py`)
    differs                          told cell by cell
    not runnable                     the evidence was changed, an input is not what it was, or the run could not be
                                     executed to its end

What a function changes through the stand-in (`libnova`) is noted in the replay's record with `stubbed` and not done,
unless writes are allowed. What it changes by other ways, such as boto3 or the network, cannot be held back. Python
kernels only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from libsafe_nb import archive, comparison, environment, evidence, kernels, linkage, record, runner
from libsafe_nb.comparison import CellDifference
from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import LibsafeError, NotebookError, ObjectNotFound
from libsafe_nb.models import Replay, Run
from libsafe_nb.papermill_io import split
from libsafe_nb.settings import Settings

Verdict = Literal["same", "same except declared-volatile", "differs", "not runnable"]

EXIT_CODES: dict[Verdict, int] = {
    "same": 0,
    "same except declared-volatile": 0,
    "differs": 1,
    "not runnable": 3,
}

COPY = 8 * 1024 * 1024


@dataclass(frozen=True)
class Replayed:
    """
    What a replay found.

    Attributes
    ----------
    reasons
        Why it is not runnable, or what differs beside the cells: the status, what was or would be written.
    environment
        What changed in the kernel's environment, a sentence each; where no evidence of the replay is there to tell it,
        as far as it was known before.
    notes
        What a reader should know and does not change the verdict.
    secrets
        The secrets that the recorded run had: `{"name", "via"}`.
    run
        The replay's own run, None where it did not begin.
    """

    verdict: Verdict
    original: str
    reasons: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    cells: tuple[CellDifference, ...] = ()
    secrets: tuple[Mapping[str, str], ...] = ()
    run: Run | None = None

    @property
    def exit_code(self) -> int:
        """Of a replay that was interrupted or terminated, 130 or 143."""
        if self.run is not None and self.run.status == "cancelled":
            return self.run.exit_code
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        return {
            "result": self.verdict,
            "original": self.original,
            "reasons": list(self.reasons),
            "environment": list(self.environment),
            "notes": list(self.notes),
            "cells": [dataclasses.asdict(each) for each in self.cells],
            "secrets": [dict(each) for each in self.secrets],
            "run": self.run.to_json() if self.run else None,
        }


class _NotRunnable(Exception):
    """The reasons."""

    def __init__(self, *reasons: str) -> None:
        super().__init__(*reasons)
        self.reasons = reasons


@dataclass(frozen=True)
class _Recorded:
    """One run's evidence, as far as a replay needs it."""

    place: str
    body: dict[str, Any]
    node: dict[str, Any]
    environment: dict[str, Any]
    record_sha256: str
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return Path(str(self.body["function"]["name"])).name

    @property
    def container(self) -> str:
        return str(self.body["container"]["id"])


Surroundings = tuple[str, ...] | None
"""What changed in an environment, a sentence each; None where it is not known."""


def replay(
    place: str,
    *,
    allow_writes: bool = False,
    settings: Settings | None = None,
    on_environment: Callable[[Surroundings], None] | None = None,
) -> Replayed:
    """
    Repeat the run whose evidence lies at `place`, a local folder or a `libsafe://` address, and compare.

    It runs on the platform of `settings`, else the configured or the local one, as a job of its own, and leaves
    evidence of its own that names the original.

    Parameters
    ----------
    on_environment
        Called before anything is run, and before the inputs are looked at, with what changed in the environment
        since: as the kernel's Python tells it, which is not started as a kernel for that. The result tells it as the
        kernel did, which can be more.

    Raises
    ------
    UsageError
        There is no evidence of one run at `place`.
    """
    with contextlib.closing(archive.at(place, settings=settings)) as source:
        folder = archive.one(source)
        try:
            found = _read(source, folder)
        except _NotRunnable as exc:
            return Replayed("not runnable", source.place, reasons=exc.reasons)
    known = _foreseen(found)
    if on_environment is not None:
        on_environment(known)
    try:
        return _repeat(found, known, allow_writes=allow_writes, settings=settings)
    except _NotRunnable as exc:
        secrets = tuple(found.body.get("secrets") or ())
        return Replayed(
            "not runnable", source.place, reasons=exc.reasons, environment=known or (), secrets=secrets
        )


# The environment ------------------------------------------------------------------------------------------------

_ASK = "import json; from libsafe_nb import environment; print(json.dumps(environment.take()))"


def _foreseen(found: _Recorded) -> Surroundings:
    """What changed in the environment, as far as the kernel's Python can tell before there is a kernel."""
    spec = found.node["metadata"].get("kernelspec") or {}
    try:
        said = kernels.ask(kernels.check(spec.get("name"), spec.get("language")), _ASK)
        told = environment.told(json.loads(said or ""))
    except (NotebookError, ValueError, AttributeError):
        # The run will say what is wrong with the kernel.
        return None
    if told["taken"] == "none":
        return None
    now = environment.complete(told, os.environ.get(environment.IMAGE))
    return tuple(comparison.environments(found.environment, now))


# The evidence ---------------------------------------------------------------------------------------------------


def _read(source: archive.Archive, folder: str) -> _Recorded:
    """
    Raises
    ------
    _NotRunnable
        A file is missing, or is not the one that the record tells of; a changed cell is named.
    """
    raw = {}
    for name in ("record.json", "executed.ipynb", environment.FILE, evidence.SUMS):
        try:
            raw[name] = source.read(folder + name)
        except ObjectNotFound:
            raise _NotRunnable(f"{source.place}: there is no {name}") from None
    sums = dict(
        line.split("  ", 1)[::-1] for line in raw[evidence.SUMS].decode().splitlines() if "  " in line
    )
    if sums.get("record.json") != record.digest(raw["record.json"]):
        raise _NotRunnable(f"record.json: its sha256 is not the one in {evidence.SUMS}")
    try:
        body, node, surroundings = (
            json.loads(raw[name]) for name in ("record.json", "executed.ipynb", environment.FILE)
        )
        _check(body, node, raw)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise _NotRunnable(
            f"{source.place}: expected the evidence of a run, found what cannot be read ({type(exc).__name__}: {exc})"
        ) from exc
    # A folder that was taken out of its container says only which one that was.
    where = f"libsafe://{body['container']['id']}/{folder}" if folder.startswith("provenance/") else ""
    return _Recorded(where, body, node, surroundings, record.digest(raw["record.json"]))


def _check(body: Mapping[str, Any], node: Mapping[str, Any], raw: Mapping[str, bytes]) -> None:
    if body["schema"] != record.SCHEMA:
        raise _NotRunnable(f"record.json: expected schema {record.SCHEMA}, found {body['schema']}")
    wanted = {each["cell_id"]: each["source_sha256"] for each in body["cells"]}
    code = [cell for cell in node["cells"] if cell["cell_type"] == "code"]
    changed = [
        f"cell {cell['id']}: its source is not the one that was recorded"
        for cell in code
        if cell["id"] in wanted and record.digest(record.source(cell).encode()) != wanted[cell["id"]]
    ]
    if changed:
        raise _NotRunnable(*changed)
    if record.code_hash(node["cells"]) != body["function"]["executed_code_sha256"]:
        raise _NotRunnable("executed.ipynb: its code is not the one that was recorded: a cell came or went")
    if record.digest(raw["executed.ipynb"]) != body["notebook"]["sha256"]:
        raise _NotRunnable(
            "executed.ipynb: its code is the recorded, but an output or its metadata was changed since"
        )
    if record.digest(raw[environment.FILE]) != body["env"]["packages_sha256"]:
        raise _NotRunnable(f"{environment.FILE}: it is not the one that was recorded")
    language = (body["env"].get("kernel") or {}).get("language") or "python"
    if language != "python":
        raise _NotRunnable(f"the function's kernel speaks {language}; only Python kernels are replayed")


def _stripped(node: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook as it was before it was executed: without outputs, and without the cells that papermill added."""
    cells = []
    for cell in node["cells"]:
        if record.ADDED & set(cell.get("metadata", {}).get("tags", ())):
            continue
        metadata = {
            name: value
            for name, value in cell.get("metadata", {}).items()
            if name not in ("papermill", "execution")
        }
        fresh: dict[str, Any] = (
            {"outputs": [], "execution_count": None} if cell["cell_type"] == "code" else {}
        )
        cells.append({**cell, "metadata": metadata, **fresh})
    metadata = {name: value for name, value in node["metadata"].items() if name != "papermill"}
    return {**node, "cells": cells, "metadata": metadata}


# The inputs -----------------------------------------------------------------------------------------------------


def _pins(found: _Recorded, connection: Connection) -> dict[str, dict[str, Any]]:
    """
    The version of each input that the replay reads, checked.

    Raises
    ------
    _NotRunnable
        One is missing or holds other bytes; all such are named.
    """
    pins, reasons = {}, []
    for each in found.body["inputs"]:
        problem = _input(found, each, connection)
        if problem:
            reasons.append(problem)
        elif each.get("version_id") is not None:
            pins[str(each["id"])] = {name: each.get(name) for name in ("path", "version_id", "size")}
    if reasons:
        raise _NotRunnable(*reasons)
    return pins


def _input(found: _Recorded, entry: Mapping[str, Any], connection: Connection) -> str | None:
    path, version, wanted = str(entry.get("path")), entry.get("version_id"), entry.get("sha256")
    container = str(entry.get("container") or found.container)
    name = f"input {path} (file {entry['id']}, version {version or 'unknown'})"
    try:
        here = connection.storage.head(container, path, version_id=version)
        if entry.get("size") is not None and here.size != entry["size"]:
            return f"{name}: expected {entry['size']} bytes, found {here.size}"
        if wanted:
            got = _sha256(connection, container, path, version)
            if got != wanted:
                return f"{name}: expected sha256 {wanted}, found {got}"
        elif entry.get("read") != "none":
            found.notes.append(f"{name}: was read in part, so its bytes are not compared, only its size")
        if version is not None and connection.storage.head(container, path).version_id != version:
            found.notes.append(f"{name}: a newer version is stored; the recorded one is read")
    except ObjectNotFound:
        return f"{name}: is not in container {container} (any more)"
    except LibsafeError as exc:
        return f"{name}: cannot be read ({exc})"
    return None


def _sha256(connection: Connection, container: str, path: str, version: str | None) -> str:
    digest = hashlib.sha256()
    with connection.storage.open(container, path, version_id=version) as stream:
        while block := stream.read(COPY):
            digest.update(block)
    return digest.hexdigest()


def _call(entry: Mapping[str, Any], connection: Connection) -> dict[str, Any]:
    """A call of the recorded run with the scraps that it gave, or why they are not known."""
    if entry.get("evidence") is None:
        return {**entry, "scraps": {}}
    try:
        container, path = split(str(entry["evidence"]))
        told = connection.storage.get(container, f"{path}record.json")
        body, data = json.loads(told), connection.storage.get(container, f"{path}executed.ipynb")
        if body["id"] != f"urn:uuid:{entry.get('run')}" or body["notebook"]["sha256"] != record.digest(data):
            raise ValueError("it is not the notebook of that run")
        # The record has the first files only of what was written.
        return {**entry, "scraps": record.scraps(json.loads(data)), "wrote": linkage.outputs(told)}
    except (LibsafeError, ValueError, KeyError, TypeError, AttributeError) as exc:
        return {**entry, "scraps": None, "unread": f"its evidence {entry['evidence']} cannot be read ({exc})"}


# The run --------------------------------------------------------------------------------------------------------


def _repeat(
    found: _Recorded, known: Surroundings, *, allow_writes: bool, settings: Settings | None
) -> Replayed:
    try:
        declared = comparison.volatile(found.node, found.name)
        connection = connect(settings=settings)
    except NotebookError as exc:
        raise _NotRunnable(str(exc)) from exc
    try:
        pins = _pins(found, connection)
        calls = (
            [] if allow_writes else [_call(each, connection) for each in record.entries(found.body, "calls")]
        )
    finally:
        connection.close()
    origin = {
        "record": f"{found.place}record.json" if found.place else found.body["id"],
        "record_sha256": found.record_sha256,
    }
    try:
        how = Replay(origin, stub=not allow_writes, pins=pins, calls=calls)
        run = _run(found, how, connection.settings)
    except LibsafeError as exc:
        names = ", ".join(f"{each['name']} ({each['via']})" for each in found.body.get("secrets") or ())
        raise _NotRunnable(
            str(exc), *([f"the recorded run had these secrets: {names}"] if names else ())
        ) from exc
    return _compared(found, run, connection, declared, known)


def _run(found: _Recorded, how: Replay, settings: Settings) -> Run:
    recorded = found.body["payload"]
    data = {**recorded["function_data"], "job": {"id": ""}}
    payload = {"api": {}, "function_data": data, "function_params": recorded["function_params"]}
    with tempfile.TemporaryDirectory(prefix="libsafe-nb-replay-") as folder:
        notebook = Path(folder) / f"{Path(found.name).stem}.ipynb"
        notebook.write_text(json.dumps(_stripped(found.node)), encoding="utf-8")
        return runner.run(payload, notebook, settings=settings, replay=how)


def _compared(
    found: _Recorded, run: Run, connection: Connection, declared: comparison.Volatile, known: Surroundings
) -> Replayed:
    place = found.place or str(found.body["id"])
    secrets = tuple(found.body.get("secrets") or ())
    if run.evidence is None:
        reason = "the replay ran, but its evidence could not be stored yet; libsafe-nb recover stores it"
        return Replayed(
            "not runnable", place, reasons=(reason,), environment=known or (), secrets=secrets, run=run
        )
    prefix = run.evidence.removeprefix(f"libsafe://{run.container}/")
    stored = archive.Container(connection.storage, run.container, prefix)
    body, node, now = (
        json.loads(stored.read(prefix + name)) for name in ("record.json", "executed.ipynb", environment.FILE)
    )
    connection.close()
    cells = tuple(comparison.cells(found.node, node, declared))
    reasons = tuple(_otherwise(found.body, body, declared))
    verdicts = {each.verdict for each in cells}
    verdict: Verdict = "same except declared-volatile" if "volatile" in verdicts else "same"
    if reasons or "differs" in verdicts:
        verdict = "differs"
    if run.status in ("errored", "timeout", "cancelled") and run.status != found.body["status"]:
        verdict = "not runnable"
    return Replayed(
        verdict,
        place,
        reasons=reasons,
        environment=tuple(comparison.environments(found.environment, now)),
        notes=tuple(found.notes),
        cells=cells,
        secrets=secrets,
        run=run,
    )


def _otherwise(
    recorded: Mapping[str, Any], replayed: Mapping[str, Any], declared: comparison.Volatile
) -> Iterator[str]:
    """What differs beside the cells."""
    if recorded["status"] != replayed["status"]:
        error = replayed.get("error") or {}
        why = f" ({error.get('type')}: {error.get('message')})" if error else ""
        yield f"status: {recorded['status']} became {replayed['status']}{why}"
    if recorded.get("job_result") != replayed.get("job_result"):
        yield f"job_end: {recorded.get('job_result')} became {replayed.get('job_result')}"
    for line in comparison.writes(recorded, replayed, declared):
        yield f"{'recorded' if line[0] == '-' else 'replayed'} only: {line[2:].strip()}"
