"""
The record's other descriptions against it: `ro-crate-metadata.json` and `premis.xml`. Pure.

They are made from the record, so what differs was changed. Only the facts that all writers of these formats state are
compared: what the run is, when, how it ended, and the digests and sizes of files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

from libsafe_nb import record as record_
from libsafe_nb.checks import Check

CRATE, PREMIS = "ro-crate-metadata.json", "premis.xml"

Body = Mapping[str, Any]


def check(folder: str, files: Mapping[str, bytes], body: Body) -> Iterator[Check]:
    for name, file, ask in (("crate", CRATE, _crate), ("premis", PREMIS, _premis)):
        if file not in files:
            continue
        try:
            problem = ask(body, files)
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
            ElementTree.ParseError,
        ) as exc:
            problem = f"cannot be read ({type(exc).__name__}: {str(exc)[:120]})"
        yield Check(name, "changed" if problem else "ok", folder + file, problem or "")


# RO-Crate ---------------------------------------------------------------------------------------------------------


def _crate(body: Body, files: Mapping[str, bytes]) -> str | None:
    """RO-Crate 1.1, Workflow Run Crate 0.5: one action is the run, with the record's `@id`."""
    graph = {each["@id"]: each for each in json.loads(files[CRATE])["@graph"]}
    action = graph.get(quote(str(body["id"]), safe=":"))
    if action is None or action["@type"] not in ("CreateAction", "ActivateAction"):
        return f"has no action {body['id']}, which the run is"
    completed = body["status"] == "completed"
    expected = {
        "startTime": body["started"],
        "endTime": body["ended"],
        "actionStatus": f"http://schema.org/{'Completed' if completed else 'Failed'}ActionStatus",
    }
    for name, value in expected.items():
        if action.get(name) != value and not (value is None and name not in action):
            return f"{name}: the record says {value}, the crate {action.get(name)}"
    if completed == ("error" in action):
        return f"error: the record says {body['status']}, the crate {action.get('error')}"
    message = (body.get("error") or {}).get("message")
    if message and str(message).strip() not in str(action["error"]):
        return "error: the crate tells another one than the record"
    return _crate_files(body, files, graph) or _crate_outside(body, graph) or _crate_calls(body, graph)


def _called(body: Body) -> list[Body]:
    """The calls that have a run, and are no replay's."""
    return [each for each in record_.entries(body, "calls") if each.get("run") and not each.get("stubbed")]


def _crate_calls(body: Body, graph: Mapping[str, Body]) -> str | None:
    """Provenance Run Crate 0.5: each called run is an action, which ended as the record says."""
    for call in _called(body):
        action = graph.get(record_.urn(call["run"]))
        if action is None:
            return f"has no action {call['run']}, which was called"
        status = f"http://schema.org/{'Completed' if call['status'] == 'completed' else 'Failed'}ActionStatus"
        if action.get("actionStatus") != status:
            return f"{call['run']}: actionStatus: the record says {call['status']}, the crate {action.get('actionStatus')}"
    return None


def _crate_files(body: Body, files: Mapping[str, bytes], graph: Mapping[str, Body]) -> str | None:
    """Each File of the folder has that file's digest and size."""
    for id, entity in graph.items():
        name = unquote(id).removeprefix("./")
        if name == CRATE or "File" not in _types(entity) or urlsplit(id).scheme:
            continue
        if name not in files:
            return f"{id}: the crate describes it, and it is not in the folder"
        data = files[name]
        told, found = entity.get("sha256"), record_.digest(data)
        if told is not None and told != found:
            return f"{id}: sha256: the crate says {told}, found {found}"
        size = entity.get("contentSize")
        if size is not None and str(size) != str(len(data)):
            return f"{id}: contentSize: the crate says {size}, found {len(data)}"
    return None


def _crate_outside(body: Body, graph: Mapping[str, Body]) -> str | None:
    """Inputs and outputs are described as in the record, and no other file of the container has a digest."""
    described = {
        (_inside_path(id), entity.get("sha256"), str(entity.get("contentSize")))
        for id, entity in graph.items()
        if id.startswith("libsafe://") and ("sha256" in entity or "contentSize" in entity)
    }
    known = {(_plain(each["path"]), each["sha256"], str(each["size"])) for each in _known(body)}
    for path, _, _ in sorted(known - described):
        return f"{path}: the crate does not describe it with the record's digest and size"
    called = {
        (_plain(each.get("path")), each.get("sha256"), str(each.get("size")))
        for call in _called(body)
        for name in ("inputs", "outputs")
        for each in record_.entries(call, name)
    }
    for path, digest, _ in described - known - called:
        if digest is not None:
            return f"{path}: the crate gives it a digest or size that the record does not know"
    return None


def _inside_path(id: str) -> str:
    return unquote(urlsplit(id).path).lstrip("/")


def _types(entity: Body) -> list[str]:
    found = entity["@type"]
    return [found] if isinstance(found, str) else list(found)


def _known(body: Body) -> list[Body]:
    """Inputs and outputs whose bytes the record knows, but for what was read in part after it was written: one file."""
    vague = {
        (each.get("path"), each.get("version_id"))
        for each in body.get("inputs") or []
        if not each.get("sha256")
    }
    return [
        each
        for name in ("inputs", "outputs")
        for each in body.get(name) or []
        if each.get("sha256") and each.get("path") and (each["path"], each.get("version_id")) not in vague
    ]


def _plain(path: Any) -> str:
    return str(path).lstrip("/")


# PREMIS ---------------------------------------------------------------------------------------------------------


def _premis(body: Body, files: Mapping[str, bytes]) -> str | None:
    """PREMIS 3.0: the `exe` event is the run (2.1-2.5), the objects' fixity (1.5.2) the record's digests."""
    data = files[PREMIS]
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        return "declares a document type, which may hide what it says"
    root = ElementTree.fromstring(data)  # noqa: S314 - nothing is declared in it
    events = [each for each in _all(root, "event") if _text(each, "eventIdentifierValue") == body["id"]]
    if len(events) != 1 or _text(events[0], "eventType") not in ("execution", "exe"):
        return f"expected one execution event of {body['id']}, found {len(events)} events of that name"
    event = events[0]
    if not _text(event, "eventDateTime").startswith(str(body["started"])):
        return f"eventDateTime: the record says {body['started']}, PREMIS {_text(event, 'eventDateTime')}"
    outcome = _text(event, "eventOutcome")
    if (outcome in ("success", "warning")) != (body["status"] == "completed"):
        return f"eventOutcome: the record says {body['status']}, PREMIS {outcome}"
    return _fixity(body, files, root)


def _fixity(body: Body, files: Mapping[str, bytes], root: ElementTree.Element) -> str | None:
    """Each digest is one that the record has of that file; each file that the record knows has one."""
    notebook = body.get("notebook") or {}
    told: dict[str, set[tuple[str, str]]] = {}
    for entry in [*_known(body), *([notebook] if notebook else [])]:
        told.setdefault(_plain(entry["path"]), set()).add((entry["sha256"], str(entry["size"])))
    left = {(path, *fact) for path, facts in told.items() for fact in facts}
    for node in _all(root, "object"):
        digest, size = _text(node, "messageDigest"), _text(node, "size")
        if not digest:
            continue
        names = [
            _text(node, "contentLocationValue"),
            *(_plain(each.text) for each in _all(node, "objectIdentifierValue")),
        ]
        path = next((each for each in told if any(_names(each, name) for name in names)), None)
        if path is None or (digest, size) not in told[path]:
            return f"{names[0] or names[-1]}: the fixity or size is not the record's"
        left.discard((path, digest, size))
    if left:
        return f"{min(left)[0]}: PREMIS does not tell the record's digest of it"
    return None


def _names(path: str, told: str) -> bool:
    return re.sub(r"\?versionId=.*$", "", told).lstrip("/") == path


def _all(node: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return node.iterfind(f".//{{*}}{name}")


def _text(node: ElementTree.Element, name: str) -> str:
    found = next(_all(node, name), None)
    return (found.text or "").strip() if found is not None else ""
