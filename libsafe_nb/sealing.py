"""
From what happened to what is stored: one run's story, and the bytes of its evidence. Pure: no disk, no network.

    facts (before cell 1) + outcome + events + verdict + notebook ── seal ──▶ files of the evidence, and the Run's result

The runner seals when the last cell has ended, a recovery when the runner did not live to do it. Both store exactly the
bytes that come out here.

All that is about to be stored is scanned for the run's secrets, decoded views included (`redact/scan.py`). What is
found is replaced, counted and located in the record; what cannot be looked into is left out with a notice. If a second
scan still finds something, there is no evidence: `SecretsRemain`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from libsafe_nb import dossier, environment, evidence, fingerprint, linkage, record
from libsafe_nb.errors import SecretsRemain
from libsafe_nb.execution import CellState, Outcome
from libsafe_nb.facts import Facts
from libsafe_nb.redact import Dropped, Redacted, Redaction, redact_document, scan_document
from libsafe_nb.redact.matching import SecretSet

EXIT_CODES = {"completed": 0, "failed": 1, "errored": 3, "timeout": 4, "cancelled": 130}

_AWAY = ("Unreachable", "StorageUnreachable")


@dataclass(frozen=True)
class Story:
    """
    All that is known of a run that has ended.

    Attributes
    ----------
    events
        What the function read, wrote and said, in order (`desk.py`).
    verdict
        What `job_end` said; None if it was not called.
    executed
        The notebook's bytes as the engine left them.
    redactions
        What the live filter replaced.
    ended
        As the record writes times.
    recovered
        `{"at", "host", "reason"}` where the runner did not live to tell it itself.
    """

    facts: Facts
    job: str
    outcome: Outcome
    events: Sequence[Mapping[str, Any]]
    verdict: bool | None
    executed: bytes
    ended: str
    seconds: float
    redactions: Sequence[Redaction] = ()
    recovered: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Sealed:
    """
    The evidence's place in the container, its files in the order in which they are stored, and the run's result.

    `result` holds the fields of a `Run`.
    """

    prefix: str
    files: Mapping[str, bytes]
    result: dict[str, Any]


def seal(story: Story, secrets: SecretSet) -> Sealed:
    """
    Make the evidence. What is in it was searched for the `secrets` and holds none of them.

    Raises
    ------
    SecretsRemain
        The second scan found something that the first could not take out.
    """
    facts = story.facts
    status, cause = judge(story)
    prefix = evidence.folder(
        function=facts.function, started=datetime.fromisoformat(facts.started), job=story.job
    )
    node = json.loads(story.executed)
    # This machine's path is nobody's business.
    node["metadata"].setdefault("papermill", {})["input_path"] = facts.notebook
    environs, environs_file = _searched(secrets, json.dumps(record.plain(_environment(story))))
    documents = [
        redact_document(secrets, node),
        environs,
        redact_document(secrets, record.plain(record.messages(story.events))),
    ]
    node, surroundings, messages = (each.data for each in documents)
    files = {
        "executed.ipynb": json.dumps(node, ensure_ascii=False, indent=1).encode() + b"\n",
        environment.FILE: environs_file,
        "messages.jsonl": record.lines(messages),
    }
    documents.append(
        redact_document(secrets, _record(story, files, node, surroundings, status=status, cause=cause))
    )
    body = documents[-1].data
    hits = [hit for each in documents for hit in each.hits]
    body["redactions"] = [*_told(story.redactions, "live"), *_told(hits, "final")]
    body["scan"] = {
        "by": f"libsafe-nb {facts.record['agent']['runner']['libsafe-nb']}",
        "left_out": _left_out([left for each in documents for left in each.dropped]),
    }
    result = {
        "run": facts.run,
        "job": story.job,
        "container": facts.container,
        "status": status,
        "error": dict(story.outcome.error) if story.outcome.error else None,
        "evidence": f"libsafe://{facts.container}/{prefix}/",
        "seconds": story.seconds,
        "scraps": record.scraps(node),
        "cause": cause or "",
        "exit_code": 143 if cause == "terminated" else EXIT_CODES[status],
    }
    documents.append(redact_document(secrets, record.plain(result)))
    clean = documents[-1].data
    for name, document in zip((*files, "record.json", "the run's result"), documents, strict=True):
        # What nothing was taken out of was just searched as it is.
        if document.hits or document.dropped:
            _scan_again(secrets, name, document.data)
    made = dossier.complete(body, files, node=node, messages=messages, environment=surroundings)
    for name in made:
        if name not in (*files, "record.json", evidence.SUMS):
            # Made of what was searched, but in forms of their own. In those, what was whole may look damaged: that is
            # no hit.
            _refuse(name, scan_document(secrets, dossier.words(name, made[name]), name=name).hits)
    return Sealed(prefix, made, {**clean, "seconds": story.seconds})


def judge(story: Story) -> tuple[str, str | None]:
    """
    Status and cause of the run as a whole.

    A function that called `job_end(False)` failed. One whose cell raised because the platform or its storage was away
    did not fail: it could not be executed.
    """
    outcome = story.outcome
    if outcome.status == "completed" and story.verdict is False:
        return "failed", outcome.cause
    error = outcome.error or {}
    if outcome.status == "failed" and error.get("type") in _AWAY and _ours(story.facts, error):
        return "errored", "platform-unreachable"
    return outcome.status, outcome.cause


def outcome_of(found: Mapping[str, Any]) -> Outcome:
    """An `Outcome` from its own `dataclasses.asdict` in JSON."""
    return Outcome(
        **{
            **found,
            "cells": tuple(CellState(**each) for each in found["cells"]),
            "truncated": tuple(found["truncated"]),
        }
    )


def _ours(facts: Facts, error: Mapping[str, Any]) -> bool:
    """Whether an error tells of this run's platform: an author may have an `Unreachable` of his own."""
    message = str(error.get("message") or "")
    return any(place and place in message for place in (facts.url, str(facts.record.get("s3") or "AWS: ")))


def _told(redactions: Sequence[Redaction], by: str) -> list[dict[str, Any]]:
    """As the record tells them: cell, place, name of the secret, its form, how often, and which of the two saw it."""
    return [
        {
            "cell": each.cell,
            "where": each.where,
            "name": each.name,
            "form": each.kind,
            "count": each.count,
            "by": by,
        }
        for each in redactions
    ]


def _left_out(dropped: Sequence[Dropped]) -> list[dict[str, Any]]:
    return [{"cell": each.cell, "where": each.where, "reason": each.reason} for each in dropped]


def _scan_again(secrets: SecretSet, name: str, document: Any) -> None:
    found = scan_document(secrets, document, name=name)
    _refuse(name, found.hits)
    if found.undecidable:
        raise SecretsRemain(
            f"{name} still holds what cannot be looked into after it was redacted, so nothing of the run is stored"
        )


def _refuse(name: str, hits: Sequence[Redaction]) -> None:
    if hits:
        what = " and ".join(sorted({f"{hit.name} as {hit.kind}" for hit in hits}))
        raise SecretsRemain(
            f"{name} still holds {what} after it was redacted, so nothing of the run is stored"
        )


@lru_cache(maxsize=4)
def _searched(secrets: SecretSet, environs: str) -> tuple[Redacted, bytes]:
    """
    An environment without secrets, and its file: done once for all runs of a process whose kernels tell the same.

    Not to be changed: a third of the time of a small run's sealing goes into its hundreds of packages.
    """
    found = redact_document(secrets, json.loads(environs))
    return found, record.canonical(found.data)


def _environment(story: Story) -> dict[str, Any]:
    """What the kernel told of its environment, else what is known without it."""
    told = next((event for event in story.events if event.get("kind") == "environment"), {})
    return environment.complete(environment.told(told), story.facts.record.get("image"))


def _record(
    story: Story,
    files: Mapping[str, bytes],
    node: Mapping[str, Any],
    surroundings: Mapping[str, Any],
    *,
    status: str,
    cause: str | None,
) -> dict[str, Any]:
    facts, outcome, events = story.facts, story.outcome, story.events
    known = {name: value for name, value in facts.record.items() if name not in ("s3", "image")}
    sources = {cell["id"]: record.digest(record.source(cell).encode()) for cell in node["cells"]}
    executed = files["executed.ipynb"]
    python = surroundings.get("python") or {}
    payload = json.loads(json.dumps(known["payload"]))
    payload["function_data"]["job"]["id"] = story.job
    body = {
        **known,
        "schema": record.SCHEMA,
        "id": f"urn:uuid:{facts.run}",
        "job": {"id": story.job},
        "container": {"id": facts.container},
        "payload": payload,
        "payload_sha256": record.digest(record.canonical(payload)),
        "started": facts.started,
        "ended": story.ended,
        "clock": "host, not attested",
        "status": status,
        "cause": cause,
        "error": outcome.error,
        "job_result": story.verdict,
        "inputs": record.inputs(events, facts.files, facts.container),
        "outputs": record.outputs(events),
        "files": record.files(events, facts.files, known["function"]["effects"]),
        "platform_writes": record.platform_writes(events),
        "cells": [
            {**dataclasses.asdict(each), "source_sha256": sources.get(each.cell_id)} for each in outcome.cells
        ],
        "messages_sha256": record.digest(files["messages.jsonl"]),
        "library": _library(events),
        "env": {
            "taken": surroundings["taken"],
            "python": python.get("version"),
            "platform": surroundings["platform"],
            "kernel": outcome.kernel,
            "image_digest": surroundings["image"],
            "packages_file": environment.FILE,
            "packages_sha256": record.digest(files[environment.FILE]),
            "digest": surroundings["digest"],
        },
        "env_vars": surroundings["env_vars"],
        "notebook": {
            "path": "executed.ipynb",
            "sha256": record.digest(executed),
            "size": len(executed),
            "nbformat": f"{node['nbformat']}.{node['nbformat_minor']}",
        },
        "truncated": outcome.truncated,
        "right": record.RIGHT,
        "license": record.license_of(facts.container),
        "replay_of": facts.record.get("replay_of"),
        "calls": linkage.calls(events),
        "parent": facts.record.get("parent"),
        "used": linkage.used(events),
        "resumes": linkage.resumes(events),
        "fingerprint": fingerprint.of_run(
            known.get("fingerprint"), surroundings, events, facts.files, replay=bool(known.get("replay_of"))
        ),
        "not_captured": record.NOT_CAPTURED,
    }
    body["function"] = {**known["function"], "executed_code_sha256": record.code_hash(node["cells"])}
    if story.recovered is not None:
        body["recovered"] = dict(story.recovered)
    found: dict[str, Any] = record.plain(body)
    return found


def _library(events: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Which `libnova` the kernel used; None where it did not tell. Where it lies on this machine is nobody's business."""
    for event in events:
        if event.get("kind") == "library":
            return {name: event.get(name) for name in ("library", "version")}
    return None
