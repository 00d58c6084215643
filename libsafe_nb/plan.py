"""All that is settled before a run's job starts: what is wrong is told here, and nothing was started."""

from __future__ import annotations

import dataclasses
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import declared, kernels, supplied, witness
from libsafe_nb import notebook as notebooks
from libsafe_nb import settings as settings_
from libsafe_nb.connection import Connection, connect
from libsafe_nb.errors import Forbidden, NotebookError, NotFound, ObjectNotFound, UsageError
from libsafe_nb.notebook import FunctionNotebook
from libsafe_nb.papermill_io import split
from libsafe_nb.payloads import Payload
from libsafe_nb.redact.matching import SecretSet
from libsafe_nb.secrets import SAMPLE_KEY, Secret, weakness
from libsafe_nb.settings import Settings
from libsafe_nb.trees import laid_out
from libsafe_nb.witness import Witness

if TYPE_CHECKING:
    from libsafe_nb.execution import CellState, Limits
    from libsafe_nb.models import Parent, Published, Replay
    from libsafe_nb.shapes import Condition

DEFAULT_CONTAINER = "1"
"""The local platform's default container."""

MOST_FILES = 100_000
"""
Files of one run, as many as the local platform's calls take. What a run keeps of each, some 2 kB of evidence and 15 kB of
memory at its end (docs/performance.md), would else fill the machine after hours, and nothing would be left of them.
"""

KNOWN = ("id", "fullpath", "size", "version_id")
"""What is kept of a file."""

LISTED_WITHIN = 60.0
"""Seconds that the platform has to list a file after it was put to S3."""


@dataclass(frozen=True)
class Plan:
    """All that is settled before the job starts; `payload.job` is empty where one is to be created."""

    run: str
    connection: Connection
    function: FunctionNotebook
    payload: Payload
    files: list[dict[str, Any]]
    warnings: list[str]
    secrets: SecretSet
    supplied: dict[str, Secret]
    """Values of the author's own secret parameters, by the parameter's name; the payload holds placeholders."""
    limits: Limits
    on_cell: Callable[[CellState], None] | None
    folder: Path
    witness: Witness
    """Who signs and stamps; the key is read before the run, so that it is there at its end."""
    lent: bool = False
    """The connection is the caller's, and stays open."""
    replay: Replay | None = None
    published: Published | None = None
    parent: Parent | None = None
    fresh: bool = False
    """Not to go on where an interrupted run of the same workflow stopped."""


def within(limits: Limits | None, timeout: float | None) -> Limits:
    from libsafe_nb.execution import Limits

    if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
        raise UsageError(f"timeout: expected a number of seconds above 0, got {timeout}")
    found = limits or Limits()
    return dataclasses.replace(found, timeout=timeout) if timeout is not None else found


def prepare(
    payload: Payload | str | bytes | Mapping[str, Any] | None,
    notebook: str | Path | FunctionNotebook,
    *,
    container: str | None,
    files: Sequence[str],
    uploads: list[Path],
    params: Mapping[str, Any],
    job: str | None,
    limits: Limits,
    settings: Settings | None,
    connection: Connection | None = None,
    script: bool,
    on_cell: Callable[[CellState], None] | None,
    allow_deleted: bool = False,
    run: str | None = None,
) -> Plan:
    given = (
        payload if isinstance(payload, Payload) else Payload.parse(payload) if payload is not None else None
    )
    container = container or None
    lent = connection is not None
    settings = connection.settings if connection is not None else settings
    local = laid_out(uploads)
    # What needs no platform is checked before one is started.
    function = None
    if isinstance(notebook, FunctionNotebook):
        function = notebook
    elif not is_remote(notebook):
        function = read_local(Path(notebook), script=script)
    bound, warnings = bind(function, given, params) if function else ({}, [])
    witnessed = witness.load(settings or settings_.load())
    connection = connection or connect(given, settings=settings)
    check_target(
        connection,
        container or (given.container if given else DEFAULT_CONTAINER),
        job or (given.job if given else ""),
    )
    if function is None:
        function = parse(read_remote(connection, str(notebook)), str(notebook), script=script)
        bound, warnings = bind(function, given, params)
    bound, own = _supplied(function, bound)
    secrets = _secrets(connection, given, function, {**own, **witnessed.secrets()})
    base = given or Payload.manual(container=container or DEFAULT_CONTAINER)
    base = base.replace(container=container, params=bound)
    found = find_files(connection, base, files, local, allow_deleted=allow_deleted)
    base = base.replace(
        api={**base.api, "url": connection.settings.url},
        file_ids=[each["id"] for each in found],
        file_paths=[each["fullpath"] for each in found],
    )
    run_id = run or str(uuid.uuid4())
    base = base.replace(job=job or base.job)
    return Plan(
        run=run_id,
        connection=connection,
        function=function,
        payload=base,
        files=found,
        warnings=warnings,
        secrets=secrets,
        supplied=own,
        limits=limits,
        on_cell=on_cell,
        folder=connection.settings.home / "runs" / run_id,
        witness=witnessed,
        lent=lent,
    )


def check_target(connection: Connection, container: str, job: str) -> None:
    """The container and the job are there, and the job has not ended."""
    try:
        connection.client.container(_id("container", container))
        found = connection.client.job(_id("job", job)) if job else None
    except (NotFound, Forbidden) as exc:
        raise UsageError(f"container {container}, job {job or 'new'}: {exc}") from exc
    if found and found["status"] in ("COMPLETED", "FAILED", "CANCELLED"):
        raise UsageError(f"job {job}: expected one that has not ended, found it {found['status']}")


def _id(what: str, text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise UsageError(f"{what}: expected a number, got {text[:40]!r}")
    return text


def _supplied(function: FunctionNotebook, bound: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Secret]]:
    """Secret parameters: each becomes a placeholder, its value one that the payload gave or that is supplied here."""
    values: dict[str, Secret] = {}
    for name in sorted(name for name, each in function.parameters.items() if each.secret):
        value = bound.get(name)
        given = isinstance(value, str) and bool(value)
        values[name] = Secret(name, str(value)) if given else supplied.of_parameter(name)
        bound = {**bound, name: values[name].placeholder}
    return bound, values


def _secrets(
    connection: Connection,
    given: Payload | None,
    function: FunctionNotebook,
    own: Mapping[str, Secret],
) -> SecretSet:
    """
    Everything that must not be stored: the connection's keys, the payload's, those pasted into the notebook, and the
    author's own.

    A connection's key that is too weak to be told from ordinary text is refused here, before anything is stored;
    of the others, what is too weak to be a key is none.
    """
    secrets = {name: Secret(name, value) for name, value in connection.secrets().items()}
    known = {secret.reveal() for secret in secrets.values()}
    for source, values in (("payload", given.api if given else {}), ("notebook", function.pasted)):
        for name, value in values.items():
            if (
                name != "url"
                and isinstance(value, str)
                and value not in known | {SAMPLE_KEY}
                and not weakness(value)
            ):
                secrets[f"{source}.{name}"] = Secret(f"{source}.{name}", value)
    return _set_of((*secrets.values(), *own.values()))


@lru_cache(maxsize=4)
def _set_of(secrets: tuple[Secret, ...]) -> SecretSet:
    """Made once for one run after the other: all forms of two keys take as long as a kernel's start."""
    return SecretSet(secrets)


def read_local(path: Path, *, script: bool = False) -> FunctionNotebook:
    """A function in a local file, ready to be run; `NotebookError` where it is none or there is no kernel for it."""
    return parse(read_bytes(path), str(path), script=script)


def is_remote(notebook: str | Path) -> bool:
    return str(notebook).startswith("libsafe://")


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise NotebookError(f"{path}: cannot be read ({exc.strerror or exc})", notebook=str(path)) from exc


def read_remote(connection: Connection, address: str) -> bytes:
    container, path = split(address)
    try:
        return connection.storage.get(container, path)
    except ObjectNotFound as exc:
        raise NotebookError(f"{address}: there is no such notebook", notebook=address) from exc


def parse(source: bytes, name: str, *, script: bool = False) -> FunctionNotebook:
    """A function of these bytes; `NotebookError` where they are none or there is no kernel for it."""
    function = notebooks.from_script(source, name=name) if script else notebooks.parse(source, name=name)
    try:
        kernels.check(function.kernel_name, function.language)
    except NotebookError as exc:
        raise NotebookError(f"{name}: {exc}", notebook=name) from exc
    return function


def bind(
    function: FunctionNotebook, given: Payload | None, params: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The parameters of a run, those of the payload first, and what its job is to be warned of."""
    own = given.params if given else {}
    declared.refuse_placeholders({**own, **params}, function.parameters)
    if function.is_handler:
        # Nothing says what it takes.
        return {**own, **params}, []
    strict = bool(function.metadata.get("strict_params"))
    bound = notebooks.bind(function, own, known_only=strict)
    # What the notebook's own payload holds is no value of this machine's either.
    declared.refuse_placeholders(bound, function.parameters)
    declared.refuse_secrets(function.name, function.parameters, params)
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


def find_files(
    connection: Connection,
    payload: Payload,
    files: Sequence[str],
    uploads: Mapping[str, Path],
    *,
    allow_deleted: bool = False,
) -> list[dict[str, Any]]:
    """
    The run's files as the platform knows them (`KNOWN`), in order, each once. Uploads come last: a typing error stores nothing.

    One that is deleted by now is no error where a trigger named it, or where `allow_deleted` says that the choice is old.
    """
    wanted = [*(payload.file_ids or payload.file_paths), *files]
    if len(wanted) + len(uploads) > MOST_FILES:
        raise UsageError(
            f"files: expected at most {MOST_FILES:,} in one run, got {len(wanted) + len(uploads):,}; "
            "libsafe-nb map gives them to several"
        )
    by_id = {
        each["id"]: each
        for each in _by_ids(
            connection,
            payload.container,
            [_id("file", name) for name in wanted if _is_id(name)],
            allow_deleted=allow_deleted or payload.trigger["type"] not in ("", "on_demand"),
        )
    }
    found = [
        by_id[name] if _is_id(name) else _by_path(connection, payload.container, name) for name in wanted
    ]
    for name, path in uploads.items():
        try:
            connection.storage.upload(payload.container, name, path)
        except OSError as exc:
            raise UsageError(f"{path}: cannot be read ({exc.strerror or exc})") from exc
        found.append(_await_file(connection, payload.container, name))
    return list({each["id"]: each for each in found}.values())


def _by_path(connection: Connection, container: str, path: str) -> dict[str, Any]:
    try:
        found = dict(connection.client.file_by_path(container, path))
    except NotFound as exc:
        raise UsageError(f"container {container}: expected a file at {path!r}, found none") from exc
    return _file_of(found, container)


def _known(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in KNOWN}


def _await_file(connection: Connection, container: str, path: str) -> dict[str, Any]:
    """A file that was just put to S3, as soon as the platform lists it; how soon that is, is not ours to say."""
    deadline = time.monotonic() + LISTED_WITHIN
    while True:
        try:
            return _known(connection.client.file_by_path(container, path))
        except NotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _by_ids(
    connection: Connection, container: str, ids: list[str], *, allow_deleted: bool
) -> Iterator[dict[str, Any]]:
    for start in range(0, len(ids), 500):
        batch = ids[start : start + 500]
        # A trigger may have named them for being deleted, or they were meanwhile: the others are to be handled all the same.
        chosen: list[Condition] = [{"property": "id", "operator": "in", "value": batch}]
        if allow_deleted:
            chosen.append({"property": "deleted", "operator": "in", "value": [0, 1]})
        found = connection.client.search(chosen, page=len(batch))
        known = {row["id"]: dict(row) for row in found}
        for each in batch:
            if each not in known:
                raise UsageError(f"file {each}: the platform has no such file, or the key may not see it")
            yield _file_of(known[each], container)


def _is_id(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _file_of(row: dict[str, Any], container: str) -> dict[str, Any]:
    if row.get("type") == "FOLDER" or str(row.get("container_id", container)) != container:
        place = f"a {row.get('type', '').lower()} of container {row.get('container_id')}"
        raise UsageError(f"file {row['id']}: expected a file of container {container}, found {place}")
    return _known(row)
