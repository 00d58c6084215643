"""
`ro-crate-metadata.json`: the evidence as an RO-Crate.

RO-Crate 1.1 with the profiles Workflow Run Crate 0.5, Process Run Crate 0.5 and Workflow RO-Crate 1.0. The notebook as
it was executed is the workflow, the run its CreateAction:

    inputs, parameters ── object ──▶ CreateAction (the run) ── result ──▶ executed.ipynb, outputs
    what the platform was told of a file   UpdateAction, one a file
    a file that failed                     ActivateAction with its error, one a file
    functions that it called               steps of the workflow, and their runs (steps.py): Provenance Run Crate 0.5 as well

Where there is no executed notebook, as of a run whose machine was lost, it is a Process Run Crate: the function is a
SoftwareApplication, the run an ActivateAction, since it has no result.

Nothing is said that is not in the record or its files. Files outside the evidence's folder are named
`libsafe://CONTAINER/PATH?versionId=VERSION`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from libsafe_nb import record
from libsafe_nb.crate.entities import Entity, Graph, evidence, file, named, web
from libsafe_nb.crate.profile import (
    BIOSCHEMAS_PARAMETER,
    BIOSCHEMAS_WORKFLOW,
    CONTEXT,
    CRATE,
    FILE,
    FORMATS,
    NOTEBOOK,
    PARTS,
    PROCESS,
    PROVENANCE,
    README,
    STATUS,
    WORKFLOW,
)
from libsafe_nb.crate.steps import Steps
from libsafe_nb.crate.words import WORDS, as_json, as_moment, as_text, change_of, error_of, redacted, title_of
from libsafe_nb.record import entries, section


def build(record: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """
    `ro-crate-metadata.json`.

    Parameters
    ----------
    record
        The run's record. That of a run whose machine was lost, without inputs and notebook, is enough.
    files
        The other files of the evidence, all but `SHA256SUMS`.
    """
    return _Crate(record, files).dumps()


class _Crate:
    """One crate on its way: the record, the entities, and those that the root has to refer to."""

    def __init__(self, body: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        self.record, self.files = body, files
        self.graph = Graph()
        self.parts: list[Entity] = []
        self.actions: list[Entity] = []
        self.container = as_text(section(body, "container").get("id"))
        self.id = quote(as_text(body.get("id")), safe=":")
        self.function = section(body, "function")
        self.title = title_of(self.function)
        self.is_workflow = NOTEBOOK in files

    def dumps(self) -> bytes:
        self.organization = self._organization()
        self.agent = self._agent()
        self.steps = Steps(self.graph, self.record, self.agent)
        self.instrument = self._workflow() if self.is_workflow else self._application()
        self.inputs = {as_text(each.get("id")): self._input(each) for each in entries(self.record, "inputs")}
        self.run = self._run()
        self._updates()
        self._failures()
        self.actions += [*self.steps.actions, *self.steps.organized(self.run, self._engine())]
        self._caller()
        self._used()
        self._files()
        head = self._head()
        entities = [*head.entities.values(), *self.graph.entities.values()]
        body = {"@context": CONTEXT, "@graph": record.plain(entities)}
        return json.dumps(body, ensure_ascii=False, indent=1).encode() + b"\n"

    # Who, with what

    def _organization(self) -> Entity:
        """Known by the platform that it runs: by its address, or where the record has none by that of the container."""
        url = web(section(section(self.record, "payload"), "api").get("url"))
        container = f"libsafe://{quote(self.container, safe='')}/"
        return self.graph.add(
            "#organization",
            "Organization",
            name=f"The organization that runs the LIBSAFE platform of {url or container}",
            url=url or container,
        )

    def _agent(self) -> Entity:
        """
        The user, by number only: a record that is kept for good names nobody (GDPR).

        Where the record does not tell the user, the organization: Process Run Crate 0.5 asks for one of the two.
        """
        user = section(section(self.record, "agent"), "user").get("id")
        if user is None:
            return self.organization
        return self.graph.add(
            f"#user-{quote(as_text(user), safe='')}",
            "Person",
            name=f"LIBSAFE user {as_text(user)}",
            identifier=as_text(user),
            affiliation=self.organization,
        )

    def _tool(self) -> dict[str, Any]:
        """
        What is told of the function, be it workflow or application.

        Its `url` is that of the record, else the name of the author's notebook by its digest (RFC 6920). A function
        without a version has its digest for one.
        """
        digest = as_text(self.function.get("notebook_sha256"))
        return {
            "name": self.title,
            "description": self.function.get("description"),
            "url": web(self.function.get("url")) or named(digest),
            "version": self.function.get("version") or (f"sha256:{digest}" if digest else "unknown"),
            "identifier": self.function.get("key") or None,
            "author": self.function.get("author"),
            "license": self._function_license(),
        }

    def _function_license(self) -> Entity | None:
        told = self.function.get("license")
        if not told:
            return None
        return self.graph.add(
            "#function-license",
            "CreativeWork",
            name=told,
            description="The licence of the function.",
            url=web(told),
        )

    def _application(self) -> Entity:
        id = named(as_text(self.function.get("notebook_sha256"))) or "#function"
        return self.graph.add(id, "SoftwareApplication", **self._tool())

    def _workflow(self) -> Entity:
        """Main workflow: Workflow RO-Crate 1.0, and Bioschemas ComputationalWorkflow 1.0 that it refers to."""
        conforms = self.graph.add(
            BIOSCHEMAS_WORKFLOW,
            "CreativeWork",
            name="Bioschemas ComputationalWorkflow",
            version="1.0-RELEASE",
        )
        given = self._parameters()
        return self._part(
            NOTEBOOK,
            ["File", "SoftwareSourceCode", "ComputationalWorkflow", *(["HowTo"] if self.steps.steps else [])],
            **{
                **self._tool(),
                "description": self._of_function(PARTS[NOTEBOOK][1]),
                "conformsTo": conforms,
                "programmingLanguage": self._language(),
                "isBasedOn": self._original(),
                "softwareRequirements": self._requirements(),
                "input": [parameter for parameter, _ in given],
                "hasPart": self.steps.tools,
                "step": self.steps.steps,
            },
        )

    def _of_function(self, description: str) -> str:
        return " ".join(filter(None, [as_text(self.function.get("description")), description]))

    def _original(self) -> Entity | None:
        digest = as_text(self.function.get("notebook_sha256"))
        if not digest:
            return None
        return self.graph.add(
            named(digest) or "#function-notebook",
            "CreativeWork",
            name=self.function.get("name") or self.title,
            description="The notebook as its author wrote it, before it was executed.",
            sha256=digest,
        )

    def _language(self) -> Entity:
        kernel = section(section(self.record, "env"), "kernel")
        language = as_text(kernel.get("language") or "unknown")
        return self.graph.add(
            "#language",
            "ComputerLanguage",
            name=language,
            version=kernel.get("language_version"),
            url="https://www.python.org/" if language.lower() == "python" else None,
            description="The language of the notebook's kernel.",
        )

    def _requirements(self) -> list[Entity]:
        """What executed the notebook, by the packages' pages on PyPI (Workflow Run Crate: softwareRequirements)."""
        found = section(section(self.record, "agent"), "runner")
        return [
            self._package(str(name), as_text(version)) for name, version in sorted(found.items()) if version
        ]

    def _engine(self) -> Entity:
        """What carried the calls out (Provenance Run Crate 0.5: OrganizeAction.instrument)."""
        version = section(section(self.record, "agent"), "runner").get("libsafe-nb")
        return self._package("libsafe-nb", as_text(version) or "unknown")

    def _package(self, name: str, version: str) -> Entity:
        page = f"https://pypi.org/project/{quote(name, safe='')}/{quote(version, safe='')}/"
        return self.graph.add(page, "SoftwareApplication", name=name, url=page, softwareVersion=version)

    def _parameters(self) -> list[tuple[Entity, Entity]]:
        """The function's own parameters: each declared (FormalParameter) and given (PropertyValue)."""
        given = section(section(self.record, "payload"), "function_params")
        return [self._parameter(str(name), value) for name, value in given.items()]

    def _parameter(self, name: str, value: Any) -> tuple[Entity, Entity]:
        formal = {"@id": f"#parameter-{quote(name, safe='')}"}
        actual = {"@id": f"#value-{quote(name, safe='')}"}
        conforms = self.graph.add(
            BIOSCHEMAS_PARAMETER, "CreativeWork", name="Bioschemas FormalParameter", version="1.0-RELEASE"
        )
        self.graph.add(
            formal["@id"],
            "FormalParameter",
            name=name,
            additionalType=_kind(value),
            conformsTo=conforms,
            workExample=actual,
        )
        shown = value if isinstance(value, (str, int, float)) else as_json(value)
        self.graph.add(actual["@id"], "PropertyValue", name=name, value=shown, exampleOfWork=formal)
        return formal, actual

    # Files outside the evidence's folder

    def _input(self, entry: Mapping[str, Any]) -> Entity:
        read = {"full": "read in full", "partial": "read in part"}.get(as_text(entry.get("read")), "not read")
        return self._file(entry, f"A file that the run was given or read; it was {read}.")

    def _output(self, entry: Mapping[str, Any]) -> Entity:
        return self._file(entry, "A file that the function wrote.", encodingFormat=entry.get("format"))

    def _file(self, entry: Mapping[str, Any], description: str, **more: Any) -> Entity:
        return file(self.graph, entry, self.container, description, **more)

    def _known(self, id: str) -> Entity:
        """The file of that id: as it was at the run's start, else by what the record says of it."""
        if id not in self.inputs:
            paths = {as_text(each.get("id")): each.get("path") for each in entries(self.record, "files")}
            self.inputs[id] = self._file({"id": id, "path": paths.get(id)}, "A file that the run changed.")
        return self.inputs[id]

    # What happened

    def _run(self) -> Entity:
        results = [self._output(each) for each in entries(self.record, "outputs")]
        results = [self.instrument, *results] if self.is_workflow else results
        values = [value for _, value in self._parameters()]
        status = as_text(self.record.get("status"))
        return self._act(
            self.id,
            "CreateAction" if results else "ActivateAction",
            name=f"Run of {self.title}",
            description=self._story(status),
            startTime=as_moment(self.record.get("started")),
            endTime=as_moment(self.record.get("ended")),
            error=error_of(self.record),
            object=[*self.inputs.values(), *values],
            result=results,
            environment=self._environment(),
            containerImage=self._image(),
        )

    def _story(self, status: str) -> str:
        repeated = as_text(self.record.get("replay_of"))
        said = [
            f"Job {self._job()} on container {self.container} of a LIBSAFE platform: {status}.",
            WORDS.get(status, ""),
            f"It repeats the run {repeated}." if repeated else "",
            f"It was called by job {as_text(section(self.record, 'parent').get('job'))}."
            if section(self.record, "parent")
            else "",
            "Its end was told by a recovery." if self.record.get("recovered") else "",
        ]
        return " ".join(filter(None, said))

    def _job(self) -> str:
        return as_text(section(self.record, "job").get("id"))

    def _act(self, id: str, type: str, *, error: str | None = None, **properties: Any) -> Entity:
        """An action, mentioned by the root. Its status is always written: a missing one is read as success."""
        found = self.graph.add(
            id,
            type,
            **properties,
            actionStatus=STATUS[error is None],
            error=error,
            agent=self.agent,
            instrument=self.instrument,
        )
        self.actions.append(found)
        return found

    def _environment(self) -> list[Entity]:
        return [
            self.graph.add(
                f"#environment-{quote(str(name), safe='')}", "PropertyValue", name=name, value=as_text(value)
            )
            for name, value in section(self.record, "env_vars").items()
        ]

    def _image(self) -> Entity | None:
        """The container image `registry/name@sha256:digest` that the runner was in."""
        name, _, digest = as_text(section(self.record, "env").get("image_digest")).partition("@sha256:")
        if not name:
            return None
        registry, slash, rest = name.partition("/")
        return self.graph.add(
            "#image",
            "ContainerImage",
            additionalType={"@id": "https://w3id.org/ro/terms/workflow-run#DockerImage"},
            registry=registry if slash else "unknown",
            name=rest or name,
            sha256=digest or None,
        )

    def _updates(self) -> None:
        """One UpdateAction for all that the platform was told of one file or container (Process Run Crate 0.5)."""
        changes: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for each in entries(self.record, "platform_writes"):
            kind = as_text(each.get("target") or "file")
            changes.setdefault((kind, as_text(each.get("file_id") or each.get("id"))), []).append(each)
        for (kind, id), writes in changes.items():
            target = self._known(id) if kind == "file" else self._place(id)
            self._update(f"{kind} {id}", target, writes)

    def _place(self, id: str) -> Entity:
        """A container, as a contextual entity too: a Dataset would have to be part of this crate."""
        return self.graph.add(
            f"libsafe://{quote(id, safe='')}/",
            "CreativeWork",
            name=f"Container {id}",
            description=f"Container {id} of the LIBSAFE platform.",
        )

    def _update(self, what: str, target: Entity, writes: list[Mapping[str, Any]]) -> None:
        id = self._own_id(f"update {what}")
        values = [
            self.graph.add(f"#{id}-{number}", "PropertyValue", **change_of(each))
            for number, each in enumerate(writes, start=1)
        ]
        times = sorted(filter(None, (as_moment(each.get("at")) for each in writes)))
        self._act(
            id,
            "UpdateAction",
            name=f"Change of {what}",
            description="What the platform knows of it was changed, not its content.",
            startTime=times[0] if times else None,
            endTime=times[-1] if times else as_moment(self.record.get("ended")),
            object=target,
            result=[target, *values],
        )

    def _failures(self) -> None:
        """
        The files that failed, each an action of its own: a run that failed for one file can have done well for others.

        It has no result, so it is an ActivateAction (Process Run Crate 0.5).
        """
        for each in entries(self.record, "files"):
            if each.get("outcome") != "failure":
                continue
            id = as_text(each.get("id"))
            detail = each.get("detail")
            said = [as_text(line) for line in detail if line] if isinstance(detail, list) else []
            self._act(
                self._own_id(f"failure {id}"),
                "ActivateAction",
                name=f"Run of {self.title} on file {id}",
                description="The function told that it failed on this file.",
                endTime=as_moment(self.record.get("ended")),
                error="; ".join(said) or "no reason was given",
                object=self._known(id),
            )

    def _caller(self) -> None:
        """The run that called this one. It had not ended, so it is told as an Action, of which no end is expected."""
        parent = section(self.record, "parent")
        if parent.get("run"):
            by = as_text(parent.get("function")) or "a function"
            self.actions.append(
                self.graph.add(
                    record.urn(parent["run"]),
                    "Action",
                    name=f"Run of {by}",
                    description=f"Job {as_text(parent.get('job'))}, which called the function whose run this crate tells.",
                    actionStatus="http://schema.org/ActiveActionStatus",
                )
            )

    def _used(self) -> None:
        """The runs whose outputs this one read. What their functions were is told by their own evidence."""
        for each in entries(self.record, "used"):
            self.actions.append(
                self.graph.add(
                    record.urn(each.get("run")),
                    "Action",
                    name=f"Run of {as_text(each.get('function')) or 'a function'}",
                    description=f"Job {as_text(each.get('job'))}, whose outputs the run that this crate tells has read.",
                    result=evidence(self.graph, as_text(each.get("evidence"))),
                )
            )

    def _own_id(self, what: str) -> str:
        """A UUID (RFC 9562, version 5) that the same record always gives."""
        return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'{self.id} {what}')}"

    # The folder

    def _files(self) -> None:
        for name in self.files:
            if name != NOTEBOOK:
                self._part(name, "File", about=self._about(name))

    def _about(self, name: str) -> Entity:
        """An engine's log is about its action (Workflow Run Crate 0.5), a README about the crate (Workflow RO-Crate)."""
        return {"@id": "./"} if name == README else self.run

    def _part(self, path: str, type: str | list[str], **properties: Any) -> Entity:
        media, description = PARTS.get(path, ("application/octet-stream", "A file of the evidence."))
        data = self.files[path]
        told = {"name": path, "description": description, **properties}
        page, title = FORMATS.get(media, ("", ""))
        kind = [self.graph.add(page, ["WebPage", "WebSite"], name=title)] if page else []
        part = self.graph.add(
            quote(path),
            type,
            **told,
            contentSize=str(len(data)),
            sha256=record.digest(data),
            encodingFormat=[media, *kind],
        )
        self.parts.append(part)
        return part

    def _about_all(self) -> str:
        count = redacted(self.record)
        told = f"What happened when {self.title} was run as job {self._job()} on container {self.container}."
        return told + (f" Secrets were taken out in {count} places." if count else "")

    def _head(self) -> Graph:
        """Descriptor and root (RO-Crate 1.1, 2 and 3.1)."""
        head = Graph()
        profiles = (PROVENANCE if self.steps.steps else WORKFLOW) if self.is_workflow else PROCESS
        base = [CRATE, *(id for id in profiles if "workflow-ro-crate" in id)]
        head.add(FILE, "CreativeWork", conformsTo=[{"@id": each} for each in base], about={"@id": "./"})
        told = as_text(self.record.get("license")) or record.license_of(self.container)
        head.add(
            "./",
            "Dataset",
            name=f"{self.title}: evidence of a run",
            description=self._about_all(),
            identifier=self.id,
            datePublished=as_moment(self.record.get("ended")) or as_moment(self.record.get("started")),
            license={"@id": "#license"},
            author=self.agent,
            publisher=self.organization,
            conformsTo=[{"@id": each} for each in profiles],
            mainEntity=self.instrument if self.is_workflow else None,
            mentions=list({each["@id"]: each for each in self.actions}.values()),
            hasPart=self.parts,
        )
        head.add("#license", "CreativeWork", name="Licence of this evidence", description=told)
        for id, name in profiles.items():
            head.add(id, "CreativeWork", name=name, version=id.rpartition("/")[2])
        return head


def _kind(value: Any) -> str:
    """The schema.org data type that Workflow Run Crate wants as `additionalType`; PropertyValue for structured ones."""
    kinds = {bool: "Boolean", int: "Integer", float: "Float", str: "Text"}
    return kinds.get(type(value), "PropertyValue")
