"""
The tree of a workflow: each called run's evidence, and whether the two records say the same of each other.

    node     one run's evidence as a whole: the worst of what was found there
    call     what a caller's record says of a called run, and that run's record of its caller
    used     the record of a run whose outputs another one read

The evidence that was asked for is checked by `verifying.py`; what is called from there and lies elsewhere is opened here,
each once, however often and from wherever it was called or reused.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from libsafe_nb import archive as archives
from libsafe_nb import evidence, record, recordcheck
from libsafe_nb.archive import ALL, Archive, Container
from libsafe_nb.chaincheck import Chain, run_of
from libsafe_nb.checks import FOLDER, NODE, Check, differs
from libsafe_nb.errors import ObjectNotFound
from libsafe_nb.record import entries, name_of, section
from libsafe_nb.recordedcalls import NOT_TAKEN, NOT_TOLD

DEPTH = 64
"""Calls of calls that are followed; the platform allows 32, and what was reused may have called in its turn."""

OPEN = ("held", "asked", "queued", "running")
"""States of a call whose end its caller's record does not know."""

_OF_RUN = {"completed": ("completed",), "failed": ("failed", "timeout")}
"""Of a call's status that of its run's record; the others may have been told to the platform by somebody else."""

Body = Mapping[str, Any]


class Tree:
    """
    Parameters
    ----------
    asked
        The archive whose records below its `start` are checked by who made this tree.
    chain
        That archive's.
    opened
        Reads the chain of another container.
    checked
        All checks of one record's folder.

    A few hundred bytes a run are held, not the records, but for those from the one that was asked for to the one at hand.
    """

    def __init__(
        self,
        asked: Archive,
        chain: Chain,
        *,
        opened: Callable[[Chain, Archive], Iterable[Check]],
        checked: Callable[[Archive, Chain, str, Mapping[str, bytes], Any], Iterable[Check]],
    ) -> None:
        self._asked, self._opened, self._checked = asked, opened, checked
        self._chains = {_name(asked): (asked, chain)}
        self._seen: set[str] = set()
        self._callers: set[str] = set()
        self._vague: set[str] = set()
        self._named: set[str] = set()
        self._claims: dict[str, tuple[str, str]] = {}

    @property
    def others(self) -> list[tuple[Archive, Chain]]:
        """The other containers that were opened."""
        return list(self._chains.values())[1:]

    def place(self, where: Archive, path: str) -> str:
        """A path of the container that was asked about; of another one with its address."""
        if _name(where) == _name(self._asked) or not isinstance(where, Container):
            return path
        return f"libsafe://{where.container}/{path}"

    def node(self, archive: Archive, folder: str, body: Any, checks: Iterable[Check]) -> Iterator[Check]:
        """The checks of one record that was asked for, its verdict, and the same for all that it called and that is not."""
        yield from self._node(archive, folder, body, checks, ())

    def rest(self) -> Iterator[Check]:
        """At the end: runs that name a caller whose record does not name them."""
        for run, (caller, place) in self._claims.items():
            if caller in self._callers and caller not in self._vague and run not in self._named:
                detail = f"its record names run {caller} as its caller, whose record does not name it"
                yield Check("call", "changed", place, detail)

    def _node(
        self, archive: Archive, folder: str, body: Any, checks: Iterable[Check], above: tuple[str, ...]
    ) -> Iterator[Check]:
        place = self.place(archive, folder)
        found: Counter[str] = Counter()
        own = _used(archive, place, body) if isinstance(body, dict) else iter(())
        for checks_ in (checks, own):
            for each in checks_:
                if each.name != FOLDER:
                    found[each.result] += 1
                yield each
        worst = next((each for each in ("changed", "missing", "not-checked") if found[each]), "ok")
        told = ", ".join(f"{count} {result}" for result, count in sorted(found.items()))
        yield Check(NODE, worst, place, f"{_title(body)}: {told}")  # type: ignore[arg-type] # one of the results
        if isinstance(body, dict):
            self._note(place, body)
            yield from self._calls(archive, folder, body, (*above, place))

    def _note(self, place: str, body: Body) -> None:
        run, calls = run_of(body), entries(body, "calls")
        caller = section(body, "parent").get("run")
        # One that could not be executed is followed by another attempt, and that is named.
        if caller and body.get("status") != "errored":
            self._claims[run] = (str(caller), place)
        if calls:
            self._callers.add(run)
        for each in calls:
            if each.get("run"):
                self._named.add(str(each["run"]))
            if each.get("status") in OPEN or not each.get("run"):
                self._vague.add(run)

    def _calls(self, archive: Archive, folder: str, body: Body, above: tuple[str, ...]) -> Iterator[Check]:
        runs = {
            each.get("number"): str(each.get("run")) for each in entries(body, "calls") if each.get("run")
        }
        for position, call in enumerate(entries(body, "calls"), 1):
            if call.get("stubbed") and body.get("replay_of"):
                continue
            name = f"call {call.get('number') or position} ({call.get('function')}) of {above[-1]}"
            if not call.get("run") and call.get("status") in _OF_RUN:
                yield Check(
                    "call", "not-checked", above[-1], f"{name}: it is told as {call['status']}, but of no run"
                )
                continue
            if not (call.get("run") or (call.get("job") and call.get("status") in OPEN)):
                # Nothing of it was started, or nothing that anybody could know.
                continue
            yield from self._call(archive, name, call, body, runs, above)

    def _call(
        self,
        archive: Archive,
        name: str,
        call: Body,
        caller: Body,
        runs: Mapping[Any, str],
        above: tuple[str, ...],
    ) -> Iterator[Check]:
        home = str(section(caller, "container").get("id"))
        address = call.get("evidence") or _by_job(archive, home, call)
        found = archives.beside(archive, home, address)
        if found is None:
            detail = f"{name}: {f'its evidence, {address}, is not at hand' if address else 'where its evidence lies is not known'}"
            yield Check("call", "not-checked", above[-1], detail)
            return
        where, folder = found
        place = self.place(where, folder)
        try:
            data = where.read(f"{folder}record.json")
        except ObjectNotFound:
            yield Check("call", "missing", place, f"{name}: its record is not there")
            return
        body = recordcheck.parsed(data)
        problem = recordcheck.guarded(_problem, call, caller, data, body, runs)
        yield Check("call", "changed" if problem else "ok", place, f"{name}: {problem}" if problem else name)
        if call.get("reused") and not call.get("record_sha256"):
            yield Check(
                "call",
                "not-checked",
                place,
                f"{name}: it was reused, and the digest of its record is not told",
            )
        if place in above:
            yield Check("call", "changed", place, f"{name}: it is called by what it called itself")
        elif len(above) >= DEPTH:
            yield Check("call", "not-checked", place, f"{name}: it is more than {DEPTH} calls deep")
        elif not self._is_asked(where, folder) and place not in self._seen:
            self._seen.add(place)
            yield from self._elsewhere(where, folder, body, above)

    def _elsewhere(self, where: Archive, folder: str, body: Any, above: tuple[str, ...]) -> Iterator[Check]:
        """A run that was not asked for, but called."""
        name = _name(where)
        if name not in self._chains:
            chain = Chain()
            for each in self._opened(chain, where):
                yield dataclasses.replace(each, place=self.place(where, each.place))
            self._chains[name] = (where, chain)
        where, chain = self._chains[name]
        contents = {path.removeprefix(folder): where.read(path) for path, _ in where.list(folder)}
        checks = (
            dataclasses.replace(each, place=self.place(where, each.place))
            for each in self._checked(where, chain, folder, contents, body)
        )
        yield from self._node(where, folder, body, checks, above)

    def _is_asked(self, where: Archive, folder: str) -> bool:
        return _name(where) == _name(self._asked) and folder.startswith(self._asked.start or ALL)


def _name(archive: Archive) -> str:
    return archive.container if isinstance(archive, Container) else ""


def _title(body: Any) -> str:
    if not isinstance(body, dict):
        return "no record that can be read"
    function = section(body, "function")
    return f"{name_of(str(function.get('key') or function.get('name')))}, job {section(body, 'job').get('id')}, {body.get('status')}"


def _by_job(archive: Archive, home: str, call: Body) -> str | None:
    """
    The address of a called run's evidence where its caller's record does not have it: the run ended later.

    Folders are named after function and job (contract 5).
    """
    container = str(call.get("container") or home)
    top = f"libsafe://{container}/{ALL}{evidence.slug(str(call.get('function')))}/any/"
    found = archives.beside(archive, home, top)
    if found is None:
        return None
    where, folder = found
    for path, _ in where.list(folder.removesuffix("any/")):
        if path.endswith((f"-job{call.get('job')}/record.json", f"-job{call.get('job')}-lost/record.json")):
            return f"libsafe://{container}/{path.removesuffix('record.json')}"
    return None


def _problem(call: Body, caller: Body, data: bytes, body: Any, runs: Mapping[Any, str]) -> str | None:
    """What caller and called say of each other."""
    if not isinstance(body, dict):
        return "its record is no JSON object"
    function, published = section(body, "function"), section(section(body, "function"), "published")
    told: list[tuple[str, Any, Any]] = [("record_sha256", call.get("record_sha256"), record.digest(data))]
    told += [("run", call.get("run"), run_of(body)), ("job", call.get("job"), section(body, "job").get("id"))]
    told += [("code_sha256", call.get("code_sha256"), function.get("code_sha256"))]
    if function.get("published") is not None:
        told += [(name, call.get(name), published.get(name)) for name in ("version", "sha256")]
    problem = next(
        (differs(name, one, other) for name, one, other in told if one is not None and one != other), None
    )
    if problem:
        return problem
    if run_of(body) == run_of(caller):
        return "it is its caller"
    expected = _OF_RUN.get(str(call.get("status")))
    if expected and body.get("status") not in expected:
        return f"status: its caller says {call.get('status')}, its record {body.get('status')}"
    if recordcheck.is_lost(body):
        # Its machine was lost, and with it what it knew of its caller.
        return None
    problem = _params_problem(call, body)
    if problem:
        return problem
    if call.get("reused"):
        return differs("reused", call["reused"], call.get("evidence")) or _reuse_problem(call, body)
    return _parent_problem(call, caller, section(body, "parent")) or _used_problem(call, body, runs)


def _reuse_problem(call: Body, body: Body) -> str | None:
    """
    An earlier run may stand for a call. Under which key it ran is not asked: equal code of two keys is the same work.
    """
    if body.get("fingerprint") is not None and not section(body, "fingerprint").get("sha256"):
        return "it was reused, and its record says that it stands for no other run"
    home, container = section(body, "container").get("id"), call.get("container")
    if container is not None and home is not None and str(container) != str(home):
        return f"it was reused from another container: {differs('container', str(container), str(home))}"
    return None


def _parent_problem(call: Body, caller: Body, parent: Body) -> str | None:
    """Who asked for it: its caller, or the interrupted run of the same workflow that either of the two took it over from."""
    run, job = run_of(caller), section(caller, "job").get("id")
    if call.get("resumed") and not section(caller, "resumes").get("run"):
        return "it was taken over, but its caller's record resumes no run"
    if call.get("resumed") and parent.get("run") != run:
        resumes = section(caller, "resumes")
        run, job = str(call["resumed"]), resumes.get("job") if call["resumed"] == resumes.get("run") else None
    elif call.get("status") in OPEN and caller.get("status") == "errored" and parent.get("run") != run:
        # It went on when its caller was interrupted; whose record must name it then is told by `Tree.rest`.
        return None
    return differs("its record's parent.run", run, parent.get("run")) or (
        None if job is None else differs("its record's parent.job", job, parent.get("job"))
    )


def _params_problem(call: Body, body: Body) -> str | None:
    """It was given what its caller gave it, but for what neither record tells."""
    given = section(section(body, "payload"), "function_params")
    for name, value in section(call, "params").items():
        if value in (f"[redacted:{name}]", NOT_TAKEN, NOT_TOLD) or isinstance(given.get(name), Mapping):
            continue
        problem = differs(f"params: {name}", value, given.get(name))
        if problem:
            return problem
    return None


def _used_problem(call: Body, body: Body, runs: Mapping[Any, str]) -> str | None:
    """Which other calls' outputs it read, by their numbers in the one record and by their runs in the other."""
    if call.get("used") is None or call.get("record_sha256") is None or "used" not in body:
        # Without its record the caller knew what it was given, not yet what it would read.
        return None
    told = {runs.get(each.get("number")) for each in entries(call, "used") if each.get("files")}
    found = {each.get("run") for each in entries(body, "used") if each.get("files")} & set(runs.values())
    return differs("the calls whose outputs it read", sorted(map(str, told)), sorted(map(str, found)))


def _used(archive: Archive, place: str, body: Body) -> Iterator[Check]:
    """The records of the runs whose outputs were read are as they were then, and wrote what was read."""
    home = str(section(body, "container").get("id"))
    read = _versions(entries(body, "inputs"), home)
    for each in entries(body, "used"):
        named = f"run {each.get('run')} ({each.get('function')}), whose outputs it read"
        found = archives.beside(archive, home, each.get("evidence"))
        if found is None:
            yield Check("used", "not-checked", place, f"{named}: its evidence is not at hand")
            continue
        where, folder = found
        try:
            data = where.read(f"{folder}record.json")
        except ObjectNotFound:
            yield Check("used", "missing", place, f"{named}: its record, in {folder}, is not there")
            continue
        problem = recordcheck.guarded(_writer_problem, each, data, read)
        yield Check("used", "changed" if problem else "ok", place, f"{named}: {problem}" if problem else "")


def _writer_problem(used: Body, data: bytes, read: set[tuple[str, str, str]]) -> str | None:
    body = recordcheck.parsed(data)
    problem = differs("record_sha256", used.get("record_sha256"), record.digest(data)) or differs(
        "run", used.get("run"), run_of(body)
    )
    if problem or not used.get("files"):
        return problem
    wrote = _versions(entries(body, "outputs"), str(section(body, "container").get("id")))
    return None if read & wrote else "its record names nothing of it among its outputs"


def _versions(files: Iterable[Body], home: str) -> set[tuple[str, str, str]]:
    return {
        (str(each.get("container") or home), str(each.get("path")).lstrip("/"), str(each.get("version_id")))
        for each in files
        if each.get("version_id")
    }
