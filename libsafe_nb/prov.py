"""
A run in the terms of W3C PROV, as PROV-JSON (W3C Member Submission of 24 April 2013). Pure: no disk, no network.

    activity   the run; informed by the one that it replays
    entities   the function's notebook (the plan), the payload, files read and written, the executed notebook
    agents     the user, and this program on the user's behalf

PROV has no word for failure, and whoever reads a PROV document only would take each run for a success: the status stands
there in schema.org's words, as in an RO-Crate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from libsafe_nb import record as record_
from libsafe_nb.record import entries, section

PREFIXES = {
    "uuid": "urn:uuid:",
    "schema": "http://schema.org/",
    "record": "urn:libsafe-nb:record:1:",
}
"""`record:` is a field of `record.json` by its own name."""


def build(record: Mapping[str, Any]) -> dict[str, Any]:
    """
    A PROV-JSON document of a run, for `json.dumps`.

    A file that the run was given and did not read is an entity that nothing `used`.
    """
    made = _Document(record)
    made.plan()
    made.agents()
    made.payload()
    made.inputs()
    made.outputs()
    made.notebook()
    made.replayed()
    made.called()
    return made.document


class _Document:
    """A document that grows; `run` is the activity's name in it."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self._record = record
        self.run = self._name()
        self.document: dict[str, Any] = {"prefix": dict(PREFIXES), "activity": {self.run: _activity(record)}}

    def plan(self) -> None:
        """The function's notebook as it was given (PROV-DM 5.3.3)."""
        found = section(self._record, "function")
        if found:
            self._put(
                "entity",
                self._name("function"),
                {
                    "prov:type": {"$": "prov:Plan", "type": "prov:QUALIFIED_NAME"},
                    "prov:label": found.get("title") or found.get("name"),
                    "prov:location": found.get("name"),
                    "schema:version": found.get("version"),
                    "schema:sha256": found.get("notebook_sha256"),
                    "record:code_sha256": found.get("code_sha256"),
                },
            )

    def agents(self) -> None:
        """Who was responsible: the program with the function's notebook as its plan, for the user (PROV-DM 5.3)."""
        agent = section(self._record, "agent")
        versions, user = agent.get("runner") or {}, (agent.get("user") or {}).get("id")
        software = {"$": "prov:SoftwareAgent", "type": "prov:QUALIFIED_NAME"}
        program = self._name("runner")
        self._put(
            "agent",
            program,
            {
                "prov:type": software,
                "prov:label": "libsafe-nb",
                "schema:version": versions.get("libsafe-nb"),
            },
        )
        plan = self._name("function") if section(self._record, "function") else None
        self._tell("wasAssociatedWith", {"prov:activity": self.run, "prov:agent": program, "prov:plan": plan})
        if user is None:
            return
        person = self._name("user")
        self._put("agent", person, {"record:agent.user.id": str(user)})
        self._tell(
            "wasAssociatedWith",
            {"prov:activity": self.run, "prov:agent": person, "prov:role": "authorizer"},
        )
        self._tell(
            "actedOnBehalfOf",
            {"prov:delegate": program, "prov:responsible": person, "prov:activity": self.run},
        )

    def payload(self) -> None:
        """What the function was called with; the document names its digest, and the record holds it without its keys."""
        if self._record.get("payload_sha256"):
            self._put(
                "entity",
                self._name("payload"),
                {"prov:label": "payload", "schema:sha256": self._record["payload_sha256"]},
            )
            self._used(self._name("payload"), "payload")

    def inputs(self) -> None:
        for each in entries(self._record, "inputs"):
            name = self._file(each)
            self._put(
                "entity", name, {**_facts(each), "record:id": each.get("id"), "record:read": each.get("read")}
            )
            if each.get("read") != "none":
                self._used(name, "input")

    def outputs(self) -> None:
        for each in entries(self._record, "outputs"):
            name = self._file(each)
            self._put("entity", name, {**_facts(each), "schema:encodingFormat": each.get("format")})
            self._generated(name, "output")

    def notebook(self) -> None:
        found = section(self._record, "notebook")
        if found:
            name = self._name("notebook")
            self._put("entity", name, {**_facts(found), "prov:label": "executed notebook"})
            self._generated(name, "executed notebook")
            self._tell(
                "wasDerivedFrom",
                {
                    "prov:generatedEntity": name,
                    "prov:usedEntity": self._name("function"),
                    "prov:activity": self.run,
                },
            )

    def replayed(self) -> None:
        """The run that this one repeats (PROV-DM 5.1.5)."""
        before = self._record.get("replay_of")
        if before:
            name = _local(record_.urn(before))
            self._put("activity", name, {"prov:label": "the run that was replayed"})
            self._tell("wasInformedBy", {"prov:informed": self.run, "prov:informant": name})

    def called(self) -> None:
        """Who called whom: what is called is told what to do (PROV-DM 5.1.5)."""
        parent = section(self._record, "parent").get("run")
        if parent:
            self._informed(self.run, _local(record_.urn(parent)), "the run that called this one")
        names = {}
        for each in entries(self._record, "calls"):
            if each.get("run") and not each.get("stubbed"):
                name = names[each.get("number")] = _local(record_.urn(each["run"]))
                self._informed(name, self.run, f"run of {each.get('function')}", of=name)
                for used in entries(each, "used"):
                    if used.get("number") in names:
                        self._tell(
                            "wasInformedBy", {"prov:informed": name, "prov:informant": names[used["number"]]}
                        )
        for each in entries(self._record, "used"):
            self._informed(self.run, _local(record_.urn(each.get("run"))), f"run of {each.get('function')}")

    def _informed(self, informed: str, informant: str, label: str, *, of: str | None = None) -> None:
        self._put("activity", of or informant, {"prov:label": label})
        self._tell("wasInformedBy", {"prov:informed": informed, "prov:informant": informant})

    def _file(self, entry: Mapping[str, Any]) -> str:
        """One name for one version of a file, whether it is told of as read or as written."""
        version = entry.get("version_id")
        if entry.get("path") and version:
            return self._name("version", str(entry["path"]), str(version))
        return self._name("file", str(entry.get("id") or entry.get("path")))

    def _name(self, *name: str) -> str:
        return _local(record_.urn(self._record.get("id"), *name))

    def _put(self, kind: str, name: str, facts: Mapping[str, Any]) -> None:
        known = {key: value for key, value in facts.items() if value is not None}
        self.document.setdefault(kind, {}).setdefault(name, {}).update(known)

    def _tell(self, relation: str, ends: Mapping[str, Any]) -> None:
        told = self.document.setdefault(relation, {})
        told[f"_:{relation}{len(told) + 1}"] = {
            key: value for key, value in ends.items() if value is not None
        }

    def _used(self, entity: str, role: str) -> None:
        self._tell("used", {"prov:activity": self.run, "prov:entity": entity, "prov:role": role})

    def _generated(self, entity: str, role: str) -> None:
        self._tell("wasGeneratedBy", {"prov:entity": entity, "prov:activity": self.run, "prov:role": role})


def _activity(record: Mapping[str, Any]) -> dict[str, Any]:
    error, function = record.get("error") or {}, record.get("function") or {}
    done = record.get("status") == "completed"
    found = {
        "prov:startTime": record.get("started"),
        "prov:endTime": record.get("ended"),
        "prov:label": f"run of {function.get('title') or function.get('name') or 'a function'}",
        "schema:actionStatus": f"http://schema.org/{'Completed' if done else 'Failed'}ActionStatus",
        "schema:error": f"{error.get('type')}: {error.get('message')}" if error else None,
        "record:status": record.get("status"),
        "record:cause": record.get("cause"),
        "record:job.id": (record.get("job") or {}).get("id"),
        "record:container.id": (record.get("container") or {}).get("id"),
        "record:right": record.get("right"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _facts(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a file. A size may be a text, where JSON's numbers do not reach (`record.plain`)."""
    size, path = entry.get("size"), entry.get("path")
    return {
        "prov:location": None if path is None else str(path),
        "schema:sha256": entry.get("sha256"),
        "schema:contentSize": None if size is None else str(size),
        "record:version_id": entry.get("version_id"),
    }


def _local(urn: str) -> str:
    return urn.removeprefix("urn:")
