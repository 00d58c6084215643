"""
A run for archives' systems: `premis.xml`, PREMIS 3.0. Pure: no disk, no network.

    objects   the container, the files that were read or touched, the files that were written, the executed notebook
    events    `exe` for the run · what was done to each file · `red` where keys were taken out of the evidence
    agents    who let it run (an id, no name) · this program · the function
    rights    under what authority it ran

Made from the record alone, so equal records give equal bytes. What the kernel told of is taken as it comes, whatever its
type: an author's odd event must not cost the run its evidence. Section numbers below are those of the PREMIS Data
Dictionary 3.0; the order of elements is that of `premis-v3-0.xsd`. Terms are from the vocabularies at
<http://id.loc.gov/vocabulary/preservation>.
"""

from __future__ import annotations

import functools
import mimetypes
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from libsafe_nb import record as record_
from libsafe_nb.description import EVENT_TYPES
from libsafe_nb.record import entries, section

FILE = "premis.xml"

NAMESPACE = "http://www.loc.gov/premis/v3"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
VOCABULARY = "http://id.loc.gov/vocabulary/preservation"

OUTCOMES = {"success": "suc", "failure": "fai", "warning": "war"}
"""Codes of `eventOutcome` (2.5.1)."""

ROLES = {"executing program": "exe", "authorizer": "aut"}
"""Codes of `eventRelatedAgentRole` (2.6.3)."""

PARTS = {"source": "sou", "outcome": "out"}
"""Codes of `eventRelatedObjectRole` (2.7.3)."""

WRITES = {"hash": ("mem", "mes"), "metadata": ("mem", "mee"), "tag": ("mem",), "delete": ("del",)}
"""
Which events tell of a write to the platform: those of these types that the function declares, else the first.

To store a hash with a file modifies what the platform knows of it, whoever calculated it.
"""

# XML 1.0, production 2: all that is no Char.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

_LONGEST = 2**63


@dataclass(frozen=True)
class _Link:
    """An identifier, and the part that what it names plays."""

    type: str
    value: str
    role: str | None = None


@dataclass(frozen=True)
class _File:
    """A file as it stood at one time; the first identifier is the one that is linked to."""

    identifiers: tuple[tuple[str, str], ...]
    place: tuple[str, str] | None = None
    size: Any = None
    sha256: Any = None
    format: str = "unknown"
    format_version: str | None = None
    format_note: str | None = None

    def link(self, role: str | None = None) -> _Link:
        return _Link(*self.identifiers[0], role)


@dataclass(frozen=True)
class _Event:
    id: tuple[str, str]
    code: str
    at: str
    outcome: str
    details: Sequence[str]
    notes: Sequence[str]
    agents: Sequence[_Link]
    objects: Sequence[_Link]


def build(record: Mapping[str, Any]) -> bytes:
    """
    `premis.xml` of a run.

    `record` may be that of a run whose machine was lost: what it does not tell is not told here either.
    """
    files = _Files(record)
    root = ElementTree.Element("premis", {"xmlns": NAMESPACE, "xmlns:xsi": INSTANCE, "version": "3.0"})
    _container(root, record)
    for file in files:
        _file(root, file)
    for event in _events(record, files):
        _event(root, event)
    _agents(root, record)
    _rights(root, record)
    # There may be thousands of files, and an event takes thirty lines.
    ElementTree.indent(root, " ")
    text = ElementTree.tostring(root, encoding="unicode")
    return f"<?xml version='1.0' encoding='UTF-8'?>\n{text}\n".encode()


def texts(document: bytes) -> list[str]:
    """All texts of a `premis.xml`; its attributes are of this module's own making."""
    # We made it a moment ago: no stranger's XML is read here.
    root = ElementTree.fromstring(document)  # noqa: S314
    return [text for text in root.itertext() if text.strip()]


# Objects --------------------------------------------------------------------------------------------------------


class _Files:
    """
    The files of a record: read or touched, written, and the executed notebook.

    A version that was written and read back is one object; a file that was read and then written anew is two.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record
        self._known = {str(each.get("id")): _read(each) for each in _touched(record)}
        versions = {each.identifiers[1]: each for each in self._known.values() if len(each.identifiers) > 1}
        written = [_written(each) for each in entries(record, "outputs")]
        self.outputs = {each.identifiers[0]: versions.get(each.identifiers[0], each) for each in written}
        self.notebook = _notebook(record)

    def __iter__(self) -> Iterator[_File]:
        """Each object once."""
        yield from self._known.values()
        known = {each.identifiers[0] for each in self._known.values()}
        yield from (each for each in self.outputs.values() if each.identifiers[0] not in known)
        if self.notebook:
            yield self.notebook

    def link(self, file_id: str) -> list[_Link]:
        return [self._known[file_id].link("source")] if file_id in self._known else []

    def links(self) -> list[_Link]:
        """All that went into the run, and all that came out of it."""
        made = [*self.outputs.values(), *([self.notebook] if self.notebook else [])]
        written = {each.identifiers[0] for each in made}
        used = [each.link("source") for each in self._known.values() if each.identifiers[0] not in written]
        return [*used, *(each.link("outcome") for each in made)]


def _touched(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The run's inputs, and the files that it did something to without reading them."""
    found = {str(each.get("id")): each for each in entries(record, "inputs")}
    for each in entries(record, "files"):
        found.setdefault(str(each.get("id")), each)
    for write in entries(record, "platform_writes"):
        target = _target(write)
        if target is not None:
            found.setdefault(target, {"id": target})
    return list(found.values())


def _read(entry: Mapping[str, Any]) -> _File:
    path, version = entry.get("path"), entry.get("version_id")
    identifiers = [("LIBSAFE file id", str(entry.get("id")))]
    if path and version:
        identifiers.append(_version(path, version))
    return _File(
        tuple(identifiers),
        place=("path in the container", str(path)) if path else None,
        size=entry.get("size"),
        sha256=entry.get("sha256"),
        **_by_name(path),
    )


def _written(entry: Mapping[str, Any]) -> _File:
    path = entry.get("path")
    return _File(
        (_version(path, entry.get("version_id")),),
        place=("path in the container", str(path)),
        size=entry.get("size"),
        sha256=entry.get("sha256"),
        **_by_name(path, entry.get("format")),
    )


def _version(path: Any, version: Any) -> tuple[str, str]:
    return "LIBSAFE file version", f"{path}?versionId={version}" if version else str(path)


@functools.cache
def _types_of_names() -> mimetypes.MimeTypes:
    """What Python brings with it, and not what a machine's `/etc/mime.types` adds."""
    return mimetypes.MimeTypes()


def _by_name(path: Any, known: Any = None) -> dict[str, str]:
    """
    A file's format, as far as its name tells; nobody looked into the file.

    """
    kind = known or _types_of_names().guess_type(str(path or ""))[0]
    return {"format": str(kind), "format_note": "from the file's name"} if kind else {}


def _notebook(record: Mapping[str, Any]) -> _File | None:
    found = record.get("notebook")
    if not found:
        return None
    return _File(
        (("URN", record_.urn(record.get("id"), "notebook")),),
        place=("URI reference, from this document's place", str(found.get("path"))),
        size=found.get("size"),
        sha256=found.get("sha256"),
        format="application/x-ipynb+json",
        format_version=str(found.get("nbformat")),
    )


def _file(root: ElementTree.Element, file: _File) -> None:
    """An object of category file (1.1, 1.5, 1.7)."""
    node = _add(root, "object", attributes={"xsi:type": "file"})
    for type, value in file.identifiers:
        _identifier(node, "objectIdentifier", type, value)
    facts = _add(node, "objectCharacteristics")
    if file.sha256:
        fixity = _add(facts, "fixity")
        _term(fixity, "messageDigestAlgorithm", "SHA-256", "cryptographicHashFunctions", "sha256")
        _add(fixity, "messageDigest", file.sha256)
        _add(fixity, "messageDigestOriginator", "libsafe-nb")
    if isinstance(file.size, int) and 0 <= file.size < _LONGEST:
        _add(facts, "size", str(int(file.size)))
    format = _add(facts, "format")
    designation = _add(format, "formatDesignation")
    _add(designation, "formatName", file.format)
    if file.format_version:
        _add(designation, "formatVersion", file.format_version)
    if file.format_note:
        _add(format, "formatNote", file.format_note)
    if file.place:
        location = _add(_add(node, "storage"), "contentLocation")
        _add(location, "contentLocationType", file.place[0])
        _add(location, "contentLocationValue", file.place[1])


def _container(root: ElementTree.Element, record: Mapping[str, Any]) -> None:
    """
    The container as an intellectual entity: what is done to it has an object to link to.

    The schema asks for one object at least, and this one even the record of a lost machine can name.
    """
    node = _add(root, "object", attributes={"xsi:type": "intellectualEntity"})
    link = _container_link(record)
    _identifier(node, "objectIdentifier", link.type, link.value)


def _container_link(record: Mapping[str, Any], id: str | None = None) -> _Link:
    return _Link("LIBSAFE container id", id or str(section(record, "container").get("id")))


# Events ---------------------------------------------------------------------------------------------------------


def _events(record: Mapping[str, Any], files: _Files) -> Iterator[_Event]:
    yield _run(record, files)
    writes: dict[str | None, list[Mapping[str, Any]]] = {}
    for write in entries(record, "platform_writes"):
        writes.setdefault(_target(write), []).append(write)
    for entry in entries(record, "files"):
        yield from _effects(record, files, entry, writes.get(str(entry.get("id")), []))
    yield from _undeclared(record, files)
    if entries(record, "redactions") or entries(section(record, "scan"), "left_out"):
        yield _redaction(record, files)


def _run(record: Mapping[str, Any], files: _Files) -> _Event:
    """The run as a whole (2.1-2.7). A failed function's run is a failure, whatever it did before."""
    function, ended = section(record, "function"), record.get("ended")
    details = [
        f"{function.get('title') or function.get('name') or 'a function'}, run as job {section(record, 'job').get('id')}",
        f"started {record.get('started')}, ended {ended or 'at a time that is not known'}",
    ]
    if record.get("payload_sha256"):
        details.append(f"payload, without keys, in record.json: sha256 {record['payload_sha256']}")
    if record.get("replay_of"):
        details.append(f"replay of {record['replay_of']}")
    parent = section(record, "parent")
    if parent:
        details.append(
            f"called by {parent.get('function') or 'a function'}, job {parent.get('job')}, run {parent.get('run')}"
        )
    details += [
        f"called {each.get('function')}, job {each.get('job')}: {each.get('status')}, evidence {each.get('evidence')}"
        + (f", sha256 of its record {each['record_sha256']}" if each.get("record_sha256") else "")
        + (", reused" if each.get("reused") else "")
        for each in entries(record, "calls")
    ]
    details += [
        f"read outputs of {each.get('function')}, job {each.get('job')}, evidence {each.get('evidence')}, "
        f"sha256 of its record {each.get('record_sha256')}"
        for each in entries(record, "used")
    ]
    details += [f"not captured: {each}" for each in _texts(record, "not_captured")]
    return _Event(
        ("URN", str(record.get("id"))),
        "exe",
        str(record.get("started")),
        "success" if record.get("status") == "completed" else "failure",
        details,
        list(_result(record)),
        _by(record),
        files.links() or [_container_link(record)],
    )


def _result(record: Mapping[str, Any]) -> Iterator[str]:
    yield f"status: {record.get('status')}"
    if record.get("cause"):
        yield f"cause: {record['cause']}"
    error = section(record, "error")
    if error:
        cell = f" (cell {error['cell_id']})" if error.get("cell_id") else ""
        yield f"error: {error.get('type')}: {error.get('message')}{cell}"
    recovered = section(record, "recovered")
    if recovered:
        yield f"told by a recovery at {recovered.get('at')}: {recovered.get('reason')}"
    for output in entries(record, "outputs"):
        if output.get("secrets_allowed"):
            yield f"{output.get('path')}: the function's author had it stored with a key in it"


def _effects(
    record: Mapping[str, Any], files: _Files, entry: Mapping[str, Any], writes: Sequence[Mapping[str, Any]]
) -> Iterator[_Event]:
    """What the function declares that it does to a file, an event each, with the writes that were seen."""
    file_id = str(entry.get("id"))
    outcome = {"success": "success", "failure": "failure"}.get(str(entry.get("outcome")), "warning")
    skipped = ["skipped: nothing was done to this file"] if outcome == "warning" else []
    notes = [*_texts(entry, "detail"), *skipped]
    for code in dict.fromkeys(_texts(entry, "event_types")):
        seen = [write for write in writes if code in _types(write)]
        yield _Event(
            ("URN", record_.urn(record.get("id"), "file", file_id, code)),
            code,
            _moment(record, seen),
            outcome,
            ["declared by the function", *(f"seen: {_what(write)}" for write in seen)],
            notes,
            _doers(record),
            files.link(file_id),
        )


def _undeclared(record: Mapping[str, Any], files: _Files) -> Iterator[_Event]:
    """What was written to the platform and no declared effect tells of: an event for each target and type."""
    declared = {str(each.get("id")): set(_texts(each, "event_types")) for each in entries(record, "files")}
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for write in entries(record, "platform_writes"):
        file_id = _target(write)
        if file_id is not None and not declared.get(file_id, set()).isdisjoint(_types(write)):
            continue
        target = ("file", file_id) if file_id is not None else ("container", str(write.get("id")))
        groups.setdefault((*target, _types(write)[0]), []).append(write)
    for (kind, id, code), writes in groups.items():
        yield _Event(
            ("URN", record_.urn(record.get("id"), "write", kind, id, code)),
            code,
            _moment(record, writes),
            "success",
            [f"seen: {_what(write)}" for write in writes],
            [],
            _doers(record),
            files.link(id) if kind == "file" else [_container_link(record, id)],
        )


def _redaction(record: Mapping[str, Any], files: _Files) -> _Event:
    """What was taken out of the evidence, so that nobody takes it for all that the run showed."""
    found, left_out = entries(record, "redactions"), entries(section(record, "scan"), "left_out")
    times = sum(each["count"] for each in found if isinstance(each.get("count"), int))
    by = section(record, "scan").get("by") or "libsafe-nb"
    details = [f"by {by}: {times} replaced in {len(found)} places, {len(left_out)} left out"]
    notes = [
        f"{_where(each)}: {each.get('name')} as {each.get('form')}, {each.get('count')} times ({each.get('by')})"
        for each in found
    ]
    notes += [f"{_where(each)}: left out, {each.get('reason')}" for each in left_out]
    return _Event(
        ("URN", record_.urn(record.get("id"), "redaction")),
        "red",
        _moment(record, []),
        "success",
        details,
        notes,
        [each for each in _by(record) if each.type == "package URL"],
        [files.notebook.link("outcome")] if files.notebook else [],
    )


def _where(entry: Mapping[str, Any]) -> str:
    return f"cell {entry['cell']}, {entry.get('where')}" if entry.get("cell") else str(entry.get("where"))


def _target(write: Mapping[str, Any]) -> str | None:
    """The file that a write to the platform was about; None for a container."""
    if write.get("file_id") is not None:
        return str(write["file_id"])
    return str(write.get("id")) if write.get("target") == "file" else None


def _types(write: Mapping[str, Any]) -> tuple[str, ...]:
    if write.get("action") == "restore":
        return ("mem",)
    return WRITES.get(str(write.get("kind")), ("mem",))


def _what(write: Mapping[str, Any]) -> str:
    """A write to the platform in words."""
    kind, action = write.get("kind"), write.get("action")
    if kind == "hash":
        return f"{write.get('algorithm')} {write.get('value')} stored with the file"
    if kind == "metadata":
        return f"descriptors {', '.join(_texts(write, 'iecodes')) or '(none)'} written"
    if kind == "tag":
        return f"tag {write.get('tag')} {'removed' if action == 'remove' else 'added'}"
    return "restored" if action == "restore" else f"{kind}d" if kind == "delete" else str(kind)


def _moment(record: Mapping[str, Any], writes: Sequence[Mapping[str, Any]]) -> str:
    """When the last of the writes was; where none was seen, when the run ended, or began."""
    seen = [str(write["at"]) for write in writes if write.get("at")]
    return seen[-1] if seen else str(record.get("ended") or record.get("started"))


def _event(root: ElementTree.Element, event: _Event) -> None:
    node = _add(root, "event")
    _identifier(node, "eventIdentifier", *event.id)
    if event.code in EVENT_TYPES:
        _term(node, "eventType", EVENT_TYPES[event.code], "eventType", event.code)
    else:
        _add(node, "eventType", event.code)
    _add(node, "eventDateTime", event.at)
    for detail in event.details:
        _add(_add(node, "eventDetailInformation"), "eventDetail", detail)
    result = _add(node, "eventOutcomeInformation")
    _term(result, "eventOutcome", event.outcome, "eventOutcome", OUTCOMES[event.outcome])
    for note in event.notes:
        _add(_add(result, "eventOutcomeDetail"), "eventOutcomeDetailNote", note)
    _links(node, "Agent", event.agents, "eventRelatedAgentRole", ROLES)
    _links(node, "Object", event.objects, "eventRelatedObjectRole", PARTS)


def _links(
    node: ElementTree.Element, kind: str, links: Iterable[_Link], vocabulary: str, codes: Mapping[str, str]
) -> None:
    for link in links:
        made = _identifier(node, f"linking{kind}Identifier", link.type, link.value)
        if link.role:
            _term(made, f"linking{kind}Role", link.role, vocabulary, codes[link.role])


# Agents and rights ----------------------------------------------------------------------------------------------


def _by(record: Mapping[str, Any]) -> list[_Link]:
    """Who let the run happen, and what executed it."""
    user, function = _user(record), _function(record)
    return [
        *([_Link(*user, "authorizer")] if user else []),
        _Link(*_runner(record), "executing program"),
        *([_Link(*function[0], "executing program")] if function else []),
    ]


def _doers(record: Mapping[str, Any]) -> list[_Link]:
    """For what was done to one file: the user and the function; what ran the function stands at the run's event."""
    return [each for each in _by(record) if each.type != "package URL" or not _function(record)]


def _user(record: Mapping[str, Any]) -> tuple[str, str] | None:
    found = section(section(record, "agent"), "user").get("id")
    return None if found is None else ("LIBSAFE user id", str(found))


def _runner(record: Mapping[str, Any]) -> tuple[str, str]:
    version = section(section(record, "agent"), "runner").get("libsafe-nb")
    return "package URL", "pkg:pypi/libsafe-nb" + (f"@{version}" if version else "")


def _function(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A function's identifiers: its notebook's bytes first, since a key can come to mean other code."""
    found = section(record, "function")
    named = [
        ("SHA-256 of the notebook", found.get("notebook_sha256")),
        ("LIBSAFE function key", found.get("key")),
        ("LIBSAFE function id", None if str(found.get("id")) == "0" else found.get("id")),
        ("file name", found.get("name")),
    ]
    return [(type, str(value)) for type, value in named if value]


def _agents(root: ElementTree.Element, record: Mapping[str, Any]) -> None:
    user, function = _user(record), _function(record)
    if user:
        node = _add(root, "agent")
        _identifier(node, "agentIdentifier", *user)
        _add(node, "agentNote", "a user of the platform; the name is left to the platform")
    _program(root, record)
    if function:
        _software(root, record, function)


def _program(root: ElementTree.Element, record: Mapping[str, Any]) -> None:
    versions = section(section(record, "agent"), "runner")
    node = _add(root, "agent")
    _identifier(node, "agentIdentifier", *_runner(record))
    _add(node, "agentName", "libsafe-nb")
    _term(node, "agentType", "software", "agentType", "sof")
    if versions.get("libsafe-nb"):
        _add(node, "agentVersion", str(versions["libsafe-nb"]))
    with_ = [f"{name} {version}" for name, version in sorted(versions.items()) if name != "libsafe-nb"]
    python = section(record, "env").get("python")
    with_ += [f"Python {python} in the kernel"] if python else []
    if with_:
        _add(node, "agentNote", "with " + ", ".join(with_))


def _software(
    root: ElementTree.Element, record: Mapping[str, Any], identifiers: Sequence[tuple[str, str]]
) -> None:
    found = section(record, "function")
    node = _add(root, "agent")
    for each in identifiers:
        _identifier(node, "agentIdentifier", *each)
    _add(node, "agentName", str(found.get("title") or found.get("name") or identifiers[0][1]))
    _term(node, "agentType", "software", "agentType", "sof")
    if found.get("version"):
        _add(node, "agentVersion", str(found["version"]))
    for name in ("description", "author", "license", "code_sha256", "executed_code_sha256"):
        if found.get(name):
            _add(node, "agentNote", f"{name}: {found[name]}")


def _rights(root: ElementTree.Element, record: Mapping[str, Any]) -> None:
    """Rights (4.1): the platform's permission is neither copyright nor licence nor statute, so its basis is `other`."""
    if not record.get("right"):
        return
    node = _add(_add(root, "rights"), "rightsStatement")
    _identifier(node, "rightsStatementIdentifier", "URN", record_.urn(record.get("id"), "right"))
    _add(node, "rightsBasis", "other", attributes={"authorityURI": f"{VOCABULARY}/rightsBasis"})
    _add(_add(node, "otherRightsInformation"), "otherRightsBasis", str(record["right"]))
    container, user = _container_link(record), _user(record)
    _identifier(node, "linkingObjectIdentifier", container.type, container.value)
    if user:
        _identifier(node, "linkingAgentIdentifier", *user)


# Elements -------------------------------------------------------------------------------------------------------


def _add(
    parent: ElementTree.Element,
    name: str,
    text: Any = None,
    *,
    attributes: Mapping[str, str] | None = None,
) -> ElementTree.Element:
    node = ElementTree.SubElement(parent, name, dict(attributes or {}))
    if text is not None:
        node.text = _FORBIDDEN.sub("\ufffd", str(text))
    return node


def _term(parent: ElementTree.Element, name: str, label: str, vocabulary: str, code: str) -> None:
    """An element whose value is a term of a vocabulary, with its URI."""
    uri = f"{VOCABULARY}/{vocabulary}"
    _add(parent, name, label, attributes={"authorityURI": uri, "valueURI": f"{uri}/{code}"})


def _identifier(parent: ElementTree.Element, name: str, type: str, value: str) -> ElementTree.Element:
    node = _add(parent, name)
    _add(node, f"{name}Type", type)
    _add(node, f"{name}Value", value)
    return node


def _texts(record: Mapping[str, Any], name: str) -> list[str]:
    found = record.get(name)
    return [str(each) for each in found] if isinstance(found, (list, tuple)) else []
