"""
Earlier runs in the place of new ones: a call is not run again where a completed run of the same fingerprint stands.

    provenance/reuse/{key}/{start}-{run}.json    left by each completed run that has a fingerprint, after its link

`key` is of the fingerprint's code, parameters and inputs. Such an object is a hint and no evidence: what it names is
verified against its sums and its link, each time, before it is believed. Without one a call is run.

    found            the newest of these whose environment is today's, but for packages declared irrelevant
    verified         all files of its folder, its record against them, its link and its start record
    still in effect  what it read is there in the versions that it read, what it wrote is there in those that it wrote, and
                     hashes, metadata and tags that it set are as it set them
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from libsafe_nb import chaincheck, environment, evidence, fingerprint, kernels, linkage, record, recordcheck
from libsafe_nb import notebook as notebooks
from libsafe_nb.archive import Container
from libsafe_nb.chaincheck import Chain
from libsafe_nb.errors import LibsafeError, ObjectNotFound
from libsafe_nb.functions import Functions

if TYPE_CHECKING:
    from libsafe_nb.chain import Link
    from libsafe_nb.client import Client
    from libsafe_nb.notebook import FunctionNotebook
    from libsafe_nb.storage import Storage

FOLDER = "provenance/reuse"
SCHEMA = "libsafe-nb-reuse/1"
NEWEST = 5
"""Earlier runs that are looked at, the newest first; each of the others began before them."""
AT_ONCE = 8
"""Questions to the storage at once."""
DESCRIBED = 1000
"""Files whose metadata is asked for in one request."""
ENVIRONMENT = 30.0
"""Seconds in which the kernel's Python has to tell its packages; it takes a tenth of one."""

Shape = dict[str, Any]


# What a run leaves ------------------------------------------------------------------------------------------------------


def offer(storage: Storage, container: str, prefix: str, files: Mapping[str, bytes], link: Link) -> None:
    """
    Leave the hint by which a run is found again, if it completed and has a fingerprint; `prefix` is the folder of its evidence.

    As well as can be: without it the work is done again, which does no harm.
    """
    with contextlib.suppress(LibsafeError, ValueError, KeyError, TypeError):
        body = json.loads(files["record.json"])
        work = fingerprint.of_record(body)
        if body.get("status") != "completed" or work.why is not None:
            return
        run = chaincheck.run_of(body)
        started = datetime.fromisoformat(body["started"])
        hint = {
            "schema": SCHEMA,
            "fingerprint": body["fingerprint"]["sha256"],
            "run": run,
            "evidence": f"{prefix}/",
            "record_sha256": record.digest(files["record.json"]),
            "link": link.seq,
        }
        name = f"{started:%Y%m%dT%H%M%S}{started.microsecond // 1000:03d}Z-{run}.json"
        evidence.put_once(storage, container, f"{FOLDER}/{work.key}/{name}", record.canonical(hint))


def left(client: Client, events: Iterable[Mapping[str, Any]]) -> Iterator[Shape]:
    """
    Events that tell how the metadata that a run has set reads back at its end, for who would reuse it: what a platform makes of
    a descriptor is not what was sent. As well as can be; without them the run is not reused.
    """
    set_: dict[tuple[str, str], set[str]] = {}
    for event in events:
        if event.get("kind") == "metadata":
            place = (str(event.get("target")), str(event.get("id")))
            set_.setdefault(place, set()).update(map(str, event.get("iecodes") or ()))
    with contextlib.suppress(LibsafeError):
        for place, sha256 in _described(client, set_).items():
            yield {
                "kind": "left",
                "target": place[0],
                "id": place[1],
                "iecodes": sorted(set_[place]),
                "sha256": sha256,
            }


def _described(client: Client, asked: Mapping[tuple[str, str], Iterable[str]]) -> dict[tuple[str, str], str]:
    """The digest of some descriptors of each of these files and containers as they are now."""
    files = [id for target, id in asked if target == "file"]
    found: dict[tuple[str, str], Any] = {}
    for start in range(0, len(files), DESCRIBED):
        batch = files[start : start + DESCRIBED]
        try:
            found |= {("file", id): told for id, told in client.metadata_of_many(batch).items()}
        except LibsafeError:
            found |= {("file", id): client.metadata(id) for id in batch}
    found |= {place: client.container_metadata(place[1]) for place in asked if place[0] == "container"}
    told = {}
    for place, iecodes in asked.items():
        wanted = set(iecodes)
        known = [each for each in found.get(place) or () if each.get("iecode") in wanted]
        told[place] = record.digest(
            record.canonical(record.plain(sorted(known, key=lambda each: str(each["iecode"]))))
        )
    return told


# What a caller finds ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Earlier:
    """
    A run that stands for a call.

    Attributes
    ----------
    facts
        What the caller's record says of it: `status`, `run`, `job`, `started`, `ended`, `evidence`, `version`, `sha256` and
        `reused`, and what `linkage.account` tells of its record.
    scraps
        What its notebook glued.
    body
        Its record.
    """

    facts: Mapping[str, Any]
    scraps: Mapping[str, Any]
    body: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Answer:
    """`earlier`, or `why` there is none that stands for the call. `fingerprint` is the one that was looked for, if it is known."""

    fingerprint: str | None = None
    earlier: Earlier | None = None
    why: str = ""


@dataclass(frozen=True)
class _Evidence:
    """What is read of a run's evidence once it was verified."""

    earlier: Earlier
    surroundings: Mapping[str, Any]


class _NoneError(Exception):
    """There is no run to be reused; the message says why."""


class Reuse:
    """
    Looks for earlier runs, for the calls of one run. Thread-safe.

    Parameters
    ----------
    client, storage
        The caller's. Who may not read the function's code reuses nothing.
    irrelevant
        Patterns of packages that the caller declares irrelevant for all its calls.
    """

    def __init__(
        self, client: Callable[[], Client], storage: Storage, irrelevant: Iterable[str] = ()
    ) -> None:
        self._client, self._storage, self._irrelevant = client, storage, tuple(irrelevant)
        self._lock = threading.Lock()
        self._functions: dict[tuple[str, str], FunctionNotebook] = {}
        self._surroundings: dict[str, Mapping[str, Any] | None] = {}

    def find(
        self,
        function: str,
        *,
        container: str,
        files: Sequence[str],
        params: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> Answer:
        """
        The earlier run that stands for a call as it would be made now. Whatever cannot be asked, or is not as it should be, is a
        reason to run it; nothing is raised for it.
        """
        try:
            work, surroundings, patterns = self._wanted(function, container, files, params, version)
        except (_NoneError, LibsafeError) as exc:
            return Answer(why=str(exc))
        except Exception as exc:
            return Answer(why=f"{function}: cannot be compared ({type(exc).__name__}: {exc})")
        wanted = work.whole(surroundings)
        why = ""
        try:
            for path in self._hints(container, work.key):
                try:
                    return Answer(wanted, self._earlier(container, path, work, wanted, patterns))
                except (_NoneError, LibsafeError) as exc:
                    # The newest's reason is told: what is older was in the same place before.
                    why = why or str(exc)
                except Exception as exc:
                    # What is not of the shape that we write was not written by us: it may be anything, and deep or large.
                    why = why or f"{path}: cannot be read ({type(exc).__name__}: {exc})"
        except LibsafeError as exc:
            why = str(exc)
        return Answer(wanted, why=why or "no earlier run of it is known")

    # What is to be done

    def _wanted(
        self,
        key: str,
        container: str,
        files: Sequence[str],
        params: Mapping[str, Any] | None,
        version: int | None,
    ) -> tuple[fingerprint.Work, str, tuple[str, ...]]:
        functions = Functions(self._client())
        told = functions.preview(key, container=container, files=files, params=params, version=version)
        function = self._function(functions, key, told)
        given = told["params"]
        if not function.is_handler:
            given = notebooks.bind(function, given, known_only=bool(function.metadata.get("strict_params")))
        work = fingerprint.of_work(
            function,
            secrets=[name for name, each in function.parameters.items() if each.secret],
            container=container,
            params=given,
            files=told["files"],
        )
        if work.why is not None:
            raise _NoneError(work.why)
        patterns = (*work.irrelevant, *self._irrelevant)
        surroundings = self._environment(function)
        found = None if surroundings is None else fingerprint.of_environment(surroundings, patterns)
        if found is None:
            raise _NoneError("the environment that it would run in is not known")
        return work, found, patterns

    def _function(self, functions: Functions, key: str, told: Mapping[str, Any]) -> FunctionNotebook:
        """The version's code; read once in a run, as equal bytes of one name are one function."""
        known = (str(told["sha256"]), PurePosixPath(str(told["name"])).suffix)
        with self._lock:
            found = self._functions.get(known)
        if found is None:
            found = notebooks.parse(functions.content(key, told["version"]), name=str(told["name"]))
            with self._lock:
                self._functions[known] = found
        return found

    def _environment(self, function: FunctionNotebook) -> Mapping[str, Any] | None:
        """
        Of the kernel that this machine would run the function with; None of another language's. Asked once in a run.

        Workers elsewhere may have another one: then their runs have other fingerprints, and nothing is found.
        """
        name = function.kernel_name or ""
        with self._lock:
            if name not in self._surroundings:
                found = take(name, function.language) if function.language == "python" else None
                self._surroundings[name] = found
            return self._surroundings[name]

    # What was done

    def _hints(self, container: str, key: str) -> list[str]:
        found = [each.path for each in self._storage.list(container, f"{FOLDER}/{key}/")]
        return sorted(found, reverse=True)[:NEWEST]

    def _earlier(
        self, container: str, path: str, work: fingerprint.Work, wanted: str, patterns: Sequence[str]
    ) -> Earlier:
        hint = json.loads(self._storage.get(container, path))
        place = evidence.place_of(f"libsafe://{container}/{hint['evidence']}")
        if hint.get("schema") != SCHEMA or place is None:
            raise _NoneError(f"{path}: is no hint to a run")
        archive = Container(self._storage, container)
        found = self._read(archive, place[1], hint)
        body = found.earlier.body
        if chaincheck.run_of(body) != hint["run"] or body.get("status") != "completed":
            raise _NoneError(f"{place[1]}: is not the completed run {hint['run']}")
        of_run = fingerprint.of_record(body)
        if of_run.why is not None or of_run.key != work.key:
            raise _NoneError(f"{place[1]}: its record tells another fingerprint")
        surroundings = fingerprint.of_environment(found.surroundings, patterns)
        if surroundings is None or work.whole(surroundings) != wanted:
            raise _NoneError(f"run {hint['run']} had another environment")
        self._in_effect(archive, body)
        return found.earlier

    def _read(self, archive: Container, folder: str, hint: Mapping[str, Any]) -> _Evidence:
        """A run's evidence, verified. Nothing of it is kept: a workflow may reuse thousands of runs, and each is asked for once."""
        names = [path for path, _ in archive.list(folder)]
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="reuse") as pool:
            data = pool.map(archive.read, names)
            contents = {name.removeprefix(folder): each for name, each in zip(names, data, strict=True)}
        if record.digest(contents.get(recordcheck.RECORD, b"")) != hint["record_sha256"]:
            raise _NoneError(f"{folder}record.json is not the one that was left there")
        for check in _checks(archive, folder, contents, int(hint["link"])):
            if check.result != "ok":
                raise _NoneError(f"its evidence is not as it was left: {check}")
        return _told(f"libsafe://{archive.container}/{folder}", contents)

    def _in_effect(self, archive: Container, body: Mapping[str, Any]) -> None:
        """
        Raises
        ------
        _NoneError
            What the run read, wrote or set is not so any more.
        """
        home = str(record.section(body, "container").get("id"))
        last: dict[tuple[str, str], str | None] = {}
        for name in ("inputs", "outputs"):
            for each in record.entries(body, name):
                if name == "inputs" and each.get("read") == "none":
                    continue
                place = (str(each.get("container") or home), str(each.get("path")).lstrip("/"))
                # Of a file that was written several times the last version counts; outputs come in order.
                last[place] = each.get("version_id")

        def current(place: tuple[str, str]) -> str | None:
            try:
                return archive.storage.head(*place).version_id
            except ObjectNotFound:
                return None

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="reuse") as pool:
            for place, version in zip(last, pool.map(current, last), strict=True):
                if version is None or version != last[place]:
                    found = "is gone" if version is None else "has another version by now"
                    raise _NoneError(f"/{place[1]} of container {place[0]}, which it read or wrote, {found}")
        described = record.entries(record.section(body, "fingerprint"), "metadata")
        changed = next(_undone(self._client(), record.entries(body, "platform_writes"), described), None)
        if changed is not None:
            raise _NoneError(changed)


def take(kernel: str, language: str = "python") -> Mapping[str, Any] | None:
    """The environment that a Python kernel of this name has on this machine (`environment.json`); None if it cannot be told."""
    try:
        spec = kernels.check(kernel or None, language)
    except LibsafeError:
        return None
    ask = "import json; from libsafe_nb import environment; print(json.dumps(environment.take()))"
    # In an empty folder, as a run's kernel begins in one.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            answer = subprocess.run(
                [spec.argv[0], "-c", ask],
                cwd=folder,
                env={**kernels.environment(), **spec.env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=ENVIRONMENT,
                check=True,
            ).stdout
            found = json.loads(answer)
        except (OSError, subprocess.SubprocessError, ValueError):
            return None
    return environment.complete(environment.told(found), os.environ.get(environment.IMAGE))


def _checks(archive: Container, folder: str, contents: Mapping[str, bytes], seq: int) -> Iterator[Any]:
    """The checks of one record's folder, its link and its start record; the rest of the chain is for `verify`."""
    chain = Chain()
    yield from recordcheck.check(folder, contents)
    yield from chain.read_link(archive, seq)
    yield from chain.check_record(folder, contents)
    yield chaincheck.check_start(archive, folder, json.loads(contents[recordcheck.RECORD]))


def _told(address: str, contents: Mapping[str, bytes]) -> _Evidence:
    body = json.loads(contents[recordcheck.RECORD])
    published = record.section(record.section(body, "function"), "published")
    facts = {
        "call": None,
        "job": record.section(body, "job").get("id"),
        "version": published.get("version"),
        "sha256": published.get("sha256"),
        "status": "completed",
        "run": chaincheck.run_of(body),
        "started": body.get("started"),
        "ended": body.get("ended"),
        "evidence": address,
        "error": None,
        "attempts": None,
        "reused": address,
        **linkage.account(contents[recordcheck.RECORD]),
    }
    scraps = record.scraps(json.loads(contents[recordcheck.NOTEBOOK]))
    return _Evidence(Earlier(facts, scraps, body), json.loads(contents[environment.FILE]))


def _undone(
    client: Client, writes: Sequence[Mapping[str, Any]], described: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """What a run set of files and containers that is not so any more, or of which that cannot be seen."""
    hashes = {
        (each["file_id"], each["algorithm"]): each["value"] for each in writes if each["kind"] == "hash"
    }
    tags = {
        (each["file_id"], each["tag"]): each["action"] == "add" for each in writes if each["kind"] == "tag"
    }
    files = sorted({str(file) for file, _ in (*hashes, *tags)})
    rows = {str(row["id"]): row for row in _rows(client, files)}
    for (file, algorithm), value in hashes.items():
        if (rows.get(str(file)) or {}).get("hashes", {}).get(str(algorithm).lower()) != str(value).lower():
            yield f"the {algorithm} of file {file} is not the one that it set"
    for (file, tag), there in tags.items():
        if (str(tag) in ((rows.get(str(file)) or {}).get("tags") or ())) is not there:
            yield f"tag {tag} of file {file} is not as it left it"
    asked = {(str(each["target"]), str(each["id"])): each for each in described}
    if {
        (str(each["target"]), str(each["id"])) for each in writes if each["kind"] == "metadata"
    } - asked.keys():
        yield "it set metadata, and how that reads back is not known"
    now = _described(client, {place: each["iecodes"] for place, each in asked.items()})
    for place, each in asked.items():
        if now[place] != each["sha256"]:
            yield f"metadata of {place[0]} {place[1]} is not as it left it"
    if any(each["kind"] == "delete" for each in writes):
        yield "it deleted or restored a file"


def _rows(client: Client, files: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    for start in range(0, len(files), 500):
        batch = list(files[start : start + 500])
        yield from client.search([{"property": "id", "operator": "in", "value": batch}], page=len(batch))
