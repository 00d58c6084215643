"""
What a run's outcome depends on, as one digest: equal fingerprints, equal work. Pure.

    code          the author's code cells with their tags, the kernel, and how parameters reach it
    params        as the injected cell holds them
    inputs        the container and the files that were given, in order: id, path, version and size
    environment   Python, packages, platform, image, and the variables that change results

Not in it: the run, its job, user, trigger and the key under which the function is published. What a function depends on
besides (a network, the time, metadata of files), nobody sees: its author declares it `volatile` in the notebook's
metadata, and then it has no fingerprint. Neither has what may differ in a replay (`comparison.py`), which is declared under
the same name, nor what cannot be told: see `why`.

    "libsafe": {"volatile": ["network", "time"], "irrelevant_packages": ["jupyter*", "rich"]}
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from libsafe_nb import record
from libsafe_nb.secrets import PLACEHOLDER

SCHEMA = "libsafe-nb-fingerprint/1"

PARTS = ("code", "params", "inputs", "environment")

UNSEEN = {
    "call": "it asked the platform for what nobody can look at afterwards",
    "create": "it made a container or a folder",
    "delete": "it deleted or restored a file",
    "failure": "something that it wrote was refused",
    "child": "it called other functions; their calls are reused one by one",
}
"""Kinds of events after which a run stands for no other, and why."""

Shape = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """
    What is known of a run before it starts.

    Attributes
    ----------
    code, params, inputs
        Their digests; empty where `why` says why there is none.
    irrelevant
        Patterns of packages that the author declares irrelevant.
    """

    code: str = ""
    params: str = ""
    inputs: str = ""
    irrelevant: tuple[str, ...] = ()
    why: str | None = None

    @property
    def key(self) -> str:
        """Of all but the environment: under it an earlier run is looked for."""
        return _digest({"code": self.code, "params": self.params, "inputs": self.inputs})

    def whole(self, surroundings: str) -> str:
        """The fingerprint, in an environment of this digest (`of_environment`)."""
        parts = (self.code, self.params, self.inputs, surroundings)
        return _digest(dict(zip(PARTS, parts, strict=True)))

    def to_json(self) -> Shape:
        if self.why is not None:
            return {"why": self.why}
        told = {"code": self.code, "params": self.params, "inputs": self.inputs}
        return {**told, "irrelevant_packages": list(self.irrelevant)}


class Code(Protocol):
    """What counts of a function, as `notebook.FunctionNotebook` has it."""

    @property
    def code_sha256(self) -> str: ...
    @property
    def tags(self) -> Sequence[Sequence[str]]: ...
    @property
    def language(self) -> str: ...
    @property
    def kernel_name(self) -> str | None: ...
    @property
    def is_handler(self) -> bool: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


def of_work(
    function: Code,
    *,
    secrets: Iterable[str],
    container: str,
    params: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
) -> Work:
    """
    Parameters
    ----------
    secrets
        Names of the secret parameters: their values are told to nobody, so nobody can say that they are the same.
    params
        `function_params` as the run's payload holds them.
    files
        The run's files as they stand at its start, in order: `id`, `fullpath`, `version_id`, `size`.
    """
    volatile = _volatile(function)
    hidden = sorted({*secrets, *_placeholders(params)})
    unversioned = next((each for each in files if not each.get("version_id")), None)
    if volatile is not None:
        return Work(why=volatile)
    if hidden:
        return Work(why=f"it takes secret parameters: {', '.join(hidden)}")
    if unversioned is not None:
        return Work(why=f"{unversioned.get('fullpath')} has no version that is known")
    inputs = [
        [str(each["id"]), each.get("fullpath"), str(each["version_id"]), each.get("size")] for each in files
    ]
    return Work(
        code=_digest(_code(function)),
        params=_digest(exact(params)),
        inputs=_digest(exact([container, inputs])),
        irrelevant=names_of(function.metadata, "irrelevant_packages"),
    )


def of_environment(found: Mapping[str, Any], irrelevant: Iterable[str] = ()) -> str | None:
    """
    The digest of an environment (`environment.complete`) without the packages that fit one of the patterns, such as
    `jupyter*`; None of one that nobody knows, as that of a kernel in another language.
    """
    packages = found.get("packages")
    if not isinstance(packages, list):
        return None
    patterns = [_normal(each) for each in irrelevant]
    kept = [
        [each.get("name"), each.get("version")]
        for each in packages
        if not any(fnmatch.fnmatchcase(str(each.get("name")), pattern) for pattern in patterns)
    ]
    told = {name: found.get(name) for name in ("python", "platform", "image", "env_vars")}
    return _digest({**told, "packages": kept})


def of_run(
    told: Mapping[str, Any] | None,
    surroundings: Mapping[str, Any],
    events: Iterable[Mapping[str, Any]],
    files: Iterable[Mapping[str, Any]],
    *,
    replay: bool,
) -> Shape:
    """
    What a run's record says of its fingerprint, at its end: `sha256` and its parts, or null and `why` it has none.

    Parameters
    ----------
    told
        `Work.to_json` of the run; None of a run of an older version.
    surroundings
        Its `environment.json`.
    files
        As `of_work` was given them: the run must have read these very versions.
    """
    work, events = of_json(told), list(events)
    found = of_environment(surroundings, work.irrelevant)
    why = work.why or ("it is a replay" if replay else None) or _seen(events, files)
    why = why or ("its environment is not known" if found is None else None)
    if why is not None or found is None:
        return {"sha256": None, "why": why}
    parts = dict(zip(PARTS, (work.code, work.params, work.inputs, found), strict=True))
    return {
        "sha256": work.whole(found),
        "why": None,
        **{f"{name}_sha256": value for name, value in parts.items()},
        "irrelevant_packages": list(work.irrelevant),
        "metadata": [
            {name: event.get(name) for name in ("target", "id", "iecodes", "sha256")}
            for event in events
            if event.get("kind") == "left"
        ],
    }


def of_record(body: Mapping[str, Any]) -> Work:
    """The work of a run by its record."""
    found = record.section(body, "fingerprint")
    if not found.get("sha256"):
        return Work(why=str(found.get("why") or "its record tells no fingerprint"))
    told = {name: found.get(f"{name}_sha256") for name in PARTS}
    return of_json({**told, "irrelevant_packages": found.get("irrelevant_packages")})


def of_json(told: Mapping[str, Any] | None) -> Work:
    """The reverse of `Work.to_json`; of anything else a `Work` that says so."""
    if not isinstance(told, Mapping):
        return Work(why="nothing is known of what it depends on")
    if told.get("why") is not None:
        return Work(why=str(told["why"]))
    patterns = told.get("irrelevant_packages")
    texts = [told.get(name) for name in ("code", "params", "inputs")]
    if not all(isinstance(each, str) and each for each in texts) or not isinstance(patterns, (list, tuple)):
        return Work(why="nothing is known of what it depends on")
    code, params, inputs = map(str, texts)
    return Work(code, params, inputs, tuple(map(str, patterns)))


def names_of(metadata: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of texts of a notebook's metadata, each once, sorted; one text is a list of one."""
    found = metadata.get(name)
    texts = [found] if isinstance(found, str) else found if isinstance(found, (list, tuple)) else []
    return tuple(sorted({each for each in texts if isinstance(each, str) and each}))


def exact(value: Any) -> Any:
    """
    A JSON value in a form whose canonical JSON tells apart what Python does: 1 from 1.0 and True, and whole numbers of any
    size from their text.
    """
    if isinstance(value, Mapping):
        return {"object": [[str(name), exact(value[name])] for name in sorted(value, key=str)]}
    if isinstance(value, (list, tuple)):
        return {"list": [exact(each) for each in value]}
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float)):
        return {type(value).__name__: repr(value)}
    if isinstance(value, str):
        # Half characters, which no canonical JSON holds, in another form.
        return value if _whole(value) else {"str": ascii(value)}
    return {"other": repr(value)}


def _whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def of_workflow(
    function: Code,
    *,
    container: str,
    user: str,
    params: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
) -> str:
    """
    Of two runs of one digest the later one goes on where the earlier was interrupted (`lineage.py`): the same code, asked for by
    the same user with the same parameters and files. The files' versions do not count, as the workflow itself may write some.
    """
    given = [str(each["id"]) for each in files]
    return _digest(["workflow", _code(function), container, user, exact(params), given])


def of_order(
    function: str, sha256: str | None, *, container: str, params: Mapping[str, Any], files: Sequence[str]
) -> str:
    """
    What a call asks for, as one digest: the function and the digest of its version, and its parameters and files as they were
    named. Of two of one digest within a workflow the second is told by its number.
    """
    return _digest(["order", function, sha256, container, exact(params), exact(list(files))])


def _code(function: Code) -> list[Any]:
    # A tag may say that a cell is skipped, or may fail.
    tags = [sorted(each) for each in function.tags]
    return [
        function.code_sha256,
        exact(tags),
        function.language,
        function.kernel_name or "",
        function.is_handler,
    ]


def _volatile(function: Code) -> str | None:
    """Why a function is never reused, if its author declares anything of it volatile: by words, or as replay knows it."""
    told = function.metadata.get("volatile")
    if told:
        parts = tuple(sorted(map(str, told))) if isinstance(told, Mapping) else ()
        names = ", ".join(parts or names_of(function.metadata, "volatile"))
        return f"the function is declared volatile{': ' if names else ''}{names}"
    if any("volatile" in each for each in function.tags):
        return "a cell of the function is tagged volatile"
    return None


def _digest(value: Any) -> str:
    return record.digest(record.canonical([SCHEMA, value]))


def _normal(pattern: str) -> str:
    """As `environment.packages` writes names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", pattern).lower()


def _placeholders(params: Mapping[str, Any]) -> set[str]:
    return {name for name, value in params.items() if isinstance(value, Mapping) and PLACEHOLDER in value}


def _seen(events: Iterable[Mapping[str, Any]], files: Iterable[Mapping[str, Any]]) -> str | None:
    """Why what happened in a run speaks against another run's taking its place."""
    given = {str(each["id"]): each.get("version_id") for each in files}
    for event in events:
        kind = event.get("kind")
        if kind in UNSEEN:
            return UNSEEN[str(kind)]
        if event.get("stubbed"):
            return "it changed nothing, as a replay does"
        if kind == "read" and not event.get("version_id"):
            return f"{event.get('path')}, which it read, has no version that is known"
        if (
            kind == "read"
            and given.get(str(event.get("file_id")), event["version_id"]) != event["version_id"]
        ):
            return f"{event.get('path')} was given in another version than the one that it read"
    return None
